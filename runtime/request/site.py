# SPDX-License-Identifier: BSD-3-Clause
"""The site's settings, as a node reads them from the text that `site_config.py` has compiled from bollard.yaml.

PREFIX/site.conf has one `name=value` per line, with values quoted as in a spec. A list has one line for each item. A
name that is missing has its default. This module runs on the node path: it imports only modules of that path.
"""

from __future__ import annotations

import os

from bollard.runtime import installed
from bollard.runtime.errors import BollardError
from bollard.runtime.request import binds, spec_text, trust_rule
from bollard.runtime.system import mount_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind
    from bollard.runtime.request.trust_rule import Policy

NAME = "site.conf"
END = b"# end\n"  # its last line
# In bytes, far more than a site writes.
SIZE_MAX = 1 << 20
IDLE_CONTAINERS = 8


class Site:
    """The site's settings. `site_config.TABLE` explains them."""

    __slots__ = (
        "allowed",
        "cache_max",
        "cache_shared",
        "cache_shared_max",
        "cwd",
        "environment",
        "flow_scratch",
        "flow_volumes",
        "forbidden",
        "gpu",
        "fabrics",
        "home",
        "host_mpi",
        "journal",
        "layer_max",
        "idle",
        "mounts",
        "mpirun",
        "conda_base",
        "prefix",
        "python_base",
        "registry",
        "spool",
        "trust",
        "writable",
    )

    def __init__(
        self,
        mounts: tuple[Bind, ...] = (),
        home: bool = True,
        cwd: bool = True,
        writable: bool = False,
        mpirun: bool = True,
        spool: str = "",
        allowed: tuple[str, ...] = (),
        forbidden: tuple[str, ...] = (),
        environment: tuple[tuple[bytes, bytes], ...] = (),
        prefix: str = "",
        idle: int = IDLE_CONTAINERS,
        registry: bool = False,
        layer_max: int = 0,
        python_base: str = "",
        conda_base: str = "",
        trust: Policy | None = None,
        cache_shared: str = "",
        cache_max: int = 0,
        cache_shared_max: int = 0,
        gpu: str = "auto",
        flow_scratch: str = "",
        flow_volumes: str = "",
        journal: bool = False,
        host_mpi: tuple[str, ...] = (),
        fabrics: tuple[str, ...] = (),
    ) -> None:
        self.mounts = mounts
        self.home = home
        self.cwd = cwd
        self.writable = writable
        self.mpirun = mpirun
        self.spool = spool  # %h and %n stand for the node's name
        self.allowed = allowed  # directories in which images must be; () for any directory
        self.forbidden = forbidden
        self.environment = environment
        self.layer_max = layer_max  # bytes that one archive may unpack to; 0 for no limit
        self.cache_shared = cache_shared  # the cache of all users, "" for none
        self.cache_max = cache_max  # bytes that one user's cache may have; 0 for no limit
        self.cache_shared_max = cache_shared_max  # bytes that the cache of all users may have
        self.flow_scratch = flow_scratch  # where flows have ephemeral volumes; %u is the user; "" for none
        self.flow_volumes = flow_volumes  # where they have persistent ones
        self.gpu = gpu  # auto, never or always: container/gpu.py
        self.fabrics = fabrics  # FABRIC:KIND:VALUE each: container/fabrics.py
        self.host_mpi = host_mpi  # directories of the host's MPI libraries; () to look where MPI usually is
        self.journal = journal  # lines in the system log: container/journal.py
        self.idle = idle  # how many idle containers of a job stay for its next step
        self.registry = registry
        self.python_base = python_base  # the image to which `bollard build` adds Python packages
        self.conda_base = conda_base
        self.trust = trust  # which images may run; None for all
        self.prefix = prefix  # path of the installation in Slurm's configuration; "" if nothing was compiled


def load(prefix: str) -> Site:
    """Return the settings in the installation at `prefix`; the defaults where nothing is installed.

    Raises:
        BollardError: site.conf cannot be parsed, or is too large, or an installation lacks it or its end.
    """
    try:
        fd = os.open(f"{prefix}/{NAME}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.exists(f"{prefix}/{installed.MANIFEST}"):  # its rules would no longer hold
            raise BollardError(
                f"the installation in {prefix} has no {NAME}",
                "the site's administrator should run `bollard site configure` again",
            ) from None
        return Site()
    try:
        text = os.read(fd, SIZE_MAX)
    finally:
        os.close(fd)
    if len(text) == SIZE_MAX:  # what is behind it could be a rule that refuses
        raise BollardError(
            f"{NAME} of the installation has {SIZE_MAX} bytes or more", "the site's administrator should shorten it"
        )
    if not text.endswith(END) and os.path.exists(f"{prefix}/{installed.MANIFEST}"):  # what it lacks could be a rule
        raise BollardError(
            f"{NAME} of the installation in {prefix} is not whole",
            "the site's administrator should run `bollard site configure` again",
        )
    return parse(text)


def parse(text: bytes) -> Site:
    """Return the settings in a compiled text.

    Raises:
        BollardError: the text was not made by `site_config.compiled`.
    """
    given: dict[str, list[str]] = {}
    try:
        for line in text.decode("ascii").split("\n"):
            if line and line[0] != "#":
                name, _, value = line.partition("=")
                given.setdefault(name, []).append(spec_text.unquote(value))
    except ValueError as error:
        raise BollardError(
            f"{NAME} of the installation cannot be read ({error})",
            "the site's administrator should run `bollard site configure` again",
        ) from None

    def last(name: str, default: str) -> str:
        return given.get(name, [default])[-1]

    environment = []
    for pair in given.get("environment", []):
        name, _, value = pair.partition("=")
        environment.append((name.encode(), value.encode("utf-8", "surrogateescape")))
    return Site(
        mounts=tuple(binds.parse_bind(value, "/", "") for value in given.get("mounts", [])),
        home=last("home", "1") == "1",
        cwd=last("cwd", "1") == "1",
        writable=last("writable", "0") == "1",
        mpirun=last("mpirun", "1") == "1",
        spool=last("spool", ""),
        allowed=tuple(given.get("images-allowed", [])),
        forbidden=tuple(given.get("images-forbidden", [])),
        environment=tuple(environment),
        prefix=last("prefix", ""),
        layer_max=int(last("layer-max", "0")),
        cache_shared=last("cache.shared", ""),
        flow_scratch=last("flow.scratch", ""),
        flow_volumes=last("flow.volumes", ""),
        cache_max=int(last("cache.max", "0")),
        cache_shared_max=int(last("cache.shared-max", "0")),
        idle=int(last("idle-containers", str(IDLE_CONTAINERS))),
        registry=last("registry", "0") == "1",
        python_base=last("python-base", ""),
        conda_base=last("conda-base", ""),
        trust=trust_rule.policy(given),
        gpu=last("gpu", "auto"),
        journal=last("journal", "0") == "1",
        fabrics=tuple(given.get("fabrics", [])),
        host_mpi=tuple(given.get("host-mpi", [])),
    )


def completed(values: list[tuple[str, str]], here: Site) -> list[tuple[str, str]]:
    """Return a spec's (name, value) pairs, with the site's settings added for options that the user did not give."""
    asked = {name for name, _ in values}
    answers = []
    if not here.home and not asked & {"home", "no-home"}:
        answers.append(("no-home", "1"))
    if not here.cwd:
        answers.append(("no-mount", "cwd"))
    if here.writable and not asked & {"writable", "writable-tmpfs", "overlay", "compat"}:
        answers.append(("writable-tmpfs", "1"))
    if not here.mpirun and "no-mpirun" not in asked:
        answers.append(("no-mpirun", "1"))
    return [*values, *answers]


def refuse_image(here: Site, fd: int, name: str, what: str = "runs no image") -> None:
    """Raise if the site does not allow the image at its place.

    here  the site's settings
    fd    descriptor of the image
    name  the image as the user typed it
    what  verb of the message

    Raises:
        BollardError: the image is in a forbidden directory, in none of the allowed ones, or its directory is not known.
    """
    if not here.allowed and not here.forbidden:
        return
    path = mount_table.path_of(fd)
    if not path:
        raise BollardError(f"{name}: lies in another mount namespace, so its directory is not known", _elsewhere(here))
    for folder in here.forbidden:
        if lies_in(path, folder):
            raise BollardError(f"{name}: this site {what} from {folder}", _elsewhere(here))
    if here.allowed and not any(lies_in(path, folder) for folder in here.allowed):
        raise BollardError(f"{name}: this site {what} from {os.path.dirname(path)}", _elsewhere(here))


def refuse_overlay(here: Site, fd: int, name: str) -> None:
    """Raise if the site does not allow an overlay at its place.

    Its files replace those of the image, so the rules and the parameters are those of `refuse_image`.

    Raises:
        BollardError: as `refuse_image`.
    """
    refuse_image(here, fd, f"overlay {name}", "takes no overlay")


def refuse_overlays(here: Site, overlays: tuple[tuple[str, bool], ...]) -> None:
    """Check the (path, read-only) overlays of a spec before a job is queued.

    Skips files that this host cannot open: the node checks them.

    Raises:
        BollardError: as `refuse_image`.
    """
    for path, _ in overlays if here.allowed or here.forbidden else ():
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # the node opens it again, with the same check
        try:
            refuse_overlay(here, fd, path)
        finally:
            os.close(fd)


def _elsewhere(here: Site) -> str:
    return f"use one in {' or '.join(here.allowed)}" if here.allowed else "copy it to another directory"


def lies_in(path: str, folder: str) -> bool:
    """Return whether `path`, which has no links in it, is `folder` or below it, compared by component."""
    real = os.path.realpath(folder)
    return path == real or path.startswith(real.rstrip("/") + "/")


def spool_directory(arguments: str, host: str, here: Site) -> str:
    """Return the path of SlurmdSpoolDir, with %h and %n replaced by the node's name.

    arguments  the plugin's arguments in plugstack.conf; `spool=` counts if the site has no setting
    host       the node's name
    here       the site's settings
    """
    found = here.spool
    for word in arguments.split(" "):
        if word.startswith("spool=") and not found:
            found = word[6:]
    return found.replace("%h", host).replace("%n", host)
