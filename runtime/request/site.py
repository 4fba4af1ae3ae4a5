# SPDX-License-Identifier: BSD-3-Clause
"""The site's settings, as a node reads them: text that `site_config.py` has compiled from bollard.yaml.

PREFIX/site.conf holds one `name=value` a line, values quoted as in a spec; a list has a line for each of its
items; what is not there has its default. Runs on the node path: no import but its siblings.
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind

NAME = "site.conf"
# Far above what a site writes; a longer file is not ours.
SIZE_MAX = 1 << 20
IDLE_CONTAINERS = 8


class Site:
    """What the site has decided. `site_config.TABLE` explains the fields."""

    __slots__ = (
        "allowed",
        "cwd",
        "environment",
        "forbidden",
        "home",
        "layer_max",
        "idle",
        "mounts",
        "mpirun",
        "prefix",
        "registry",
        "spool",
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
    ) -> None:
        self.mounts = mounts
        self.home = home
        self.cwd = cwd
        self.writable = writable
        self.mpirun = mpirun
        self.spool = spool  # %h and %n stand for the node's name
        self.allowed = allowed  # directories of images; () for any
        self.forbidden = forbidden
        self.environment = environment
        self.layer_max = layer_max  # bytes that one archive may unpack to; 0 for no limit
        self.idle = idle  # how many containers of a job may wait for its next step
        self.registry = registry
        self.prefix = prefix  # what Slurm's configuration calls the installation; "" where nothing was compiled


def load(prefix: str) -> Site:
    """The settings compiled into the installation at `prefix`; the defaults where there are none."""
    try:
        fd = os.open(f"{prefix}/{NAME}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Site()
    try:
        text = os.read(fd, SIZE_MAX)
    finally:
        os.close(fd)
    return parse(text)


def parse(text: bytes) -> Site:
    """The settings of a compiled text; BollardError for one that is none."""
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
        mounts=tuple(spec.parse_bind(value, "/", "") for value in given.get("mounts", [])),
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
        idle=int(last("idle-containers", str(IDLE_CONTAINERS))),
        registry=last("registry", "0") == "1",
    )


def completed(values: list[tuple[str, str]], here: Site) -> list[tuple[str, str]]:
    """A spec's (name, value) pairs with the site's answers to what was not asked."""
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
    """BollardError when the image open at `fd`, which the user called `name`, lies where the site wants none."""
    if not here.allowed and not here.forbidden:
        return
    path = os.readlink(f"/proc/self/fd/{fd}")  # symlinks on the way to it have been followed
    for folder in here.forbidden:
        if _lies_in(path, folder):
            raise BollardError(f"{name}: this site {what} from {folder}", _elsewhere(here))
    if here.allowed and not any(_lies_in(path, folder) for folder in here.allowed):
        raise BollardError(f"{name}: this site {what} from {os.path.dirname(path)}", _elsewhere(here))


def refuse_overlay(here: Site, fd: int, name: str) -> None:
    """The same for an overlay: its files replace those of the image, so it is a part of the image."""
    refuse_image(here, fd, f"overlay {name}", "takes no overlay")


def refuse_overlays(here: Site, overlays: tuple[tuple[str, bool], ...]) -> None:
    """The same for the (path, read-only) of a spec, before a job is queued; those that are not here are the node's to
    refuse."""
    for path, _ in overlays if here.allowed or here.forbidden else ():
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            refuse_overlay(here, fd, path)
        finally:
            os.close(fd)


def _elsewhere(here: Site) -> str:
    return f"use one in {' or '.join(here.allowed)}" if here.allowed else "copy it to another directory"


def _lies_in(path: str, folder: str) -> bool:
    real = os.path.realpath(folder)
    return path == real or path.startswith(real.rstrip("/") + "/")


def spool_directory(arguments: str, host: str, here: Site) -> str:
    """SlurmdSpoolDir: the site's word, else `spool=` of the plugstack.conf arguments; its %h and %n replaced by this
    node's name."""
    found = here.spool
    for word in arguments.split(" "):
        if word.startswith("spool=") and not found:
            found = word[6:]
    return found.replace("%h", host).replace("%n", host)
