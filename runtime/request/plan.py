# SPDX-License-Identifier: BSD-3-Clause
"""The plan: everything that a node will do for a spec. It is made here, without any change of the node.

`make` is a pure function of the spec and of `Facts`. The keeper and `bollard plan` gather the facts with the same
function (`container/keeper.py`, `facts`). The keeper carries the plan out as it is and adds nothing to it.

A plan is a list of immutable records: plan_records.py.

Order and rules of the mounts are Apptainer's (its container_linux.go, `create`): kernel filesystems, /dev, site files
and mounts, home, /tmp and /var/tmp, working directory, user binds, identity, name resolution.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError
from bollard.runtime.request import binds
from bollard.runtime.request.plan_records import (
    BIND,
    DEVPTS,
    FILE,
    HAS_SLURM,
    HAS_TARGET,
    LIBRARIES,
    LINK,
    MEMORY,
    MQUEUE,
    OMIT,
    PROC,
    REFUSE,
    SQUASHFS,
    TMPFS,
    WARN,
    Gpus,
    Mount,
    Namespace,
    Overlay,
    Plan,
    below,
    tidy,
)  # fmt: skip
from bollard.runtime.request.site import Site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind, Spec

# The host's devices in a container's own /dev (Apptainer's `mount dev = minimal`).
DEV_NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
DEV_LINKS = (
    ("/proc/self/fd", "/dev/fd"), ("fd/0", "/dev/stdin"), ("fd/1", "/dev/stdout"), ("fd/2", "/dev/stderr"),
    ("/dev/pts/ptmx", "/dev/ptmx"),
)  # fmt: skip

# Like Apptainer, bollard does not bind a working directory that is one of NO_CWD, or is in one of NO_CWD_BELOW. The
# image has its own, or the directory is bound already.
NO_CWD = ("/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64")
NO_CWD_BELOW = ("/sys", "/proc", "/dev")
# What --no-mount can name beside paths. hostfs is Apptainer's, and never mounted.
_MOUNTS = (
    "proc", "sys", "dev", "devpts", "tmp", "home", "cwd", "hosts", "localtime", "resolv.conf", "bind-paths", "hostfs",
)  # fmt: skip

# An image with Slurm's commands has this directory. Such a container gets the host's SLURM_FILES.
SLURM_MARK = "/etc/slurm"
SLURM_FILES = ("/etc/slurm", "/run/munge")

# Where a container shows the host's Slurm: each directory of the host at VIEW + its path, and the commands at TOOLS.
VIEW = "/run/bollard"
TOOLS = VIEW + "/bin"
# For apt in a container with root: it tells apt to stay root. apt checks whether its change of user has worked.
APT_CONF = VIEW + "/apt.conf"
# Files that packages replace. With a layer in memory the host's files are copied there, so that they can be replaced.
REPLACED = ("/etc/localtime", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")


class Facts:
    """What a plan depends on besides the spec: the node, its site, and the kinds of the files that the spec names."""

    __slots__ = (
        "directory", "gpus", "image_layers", "kept", "mpi", "overlays", "places", "prefix", "real_cwd", "site",
        "spool", "tools", "warnings",
    )  # fmt: skip

    def __init__(
        self, site: Site | None = None, spool: str = "", prefix: str = "", tools: str = "",
        places: tuple[str, ...] = (), directory: bool = False, image_layers: tuple[tuple[str, int], ...] = (),
        overlays: tuple[str, ...] = (), gpus: Gpus | None = None, real_cwd: str = "", kept: bool = False,
        mpi: tuple[Mount, ...] = (), warnings: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.site = site or Site()
        self.spool = spool  # path of SlurmdSpoolDir, where batch scripts and PMIx files are
        self.prefix = prefix  # path of the installation; Slurm's commands in an image load the plugin from there
        self.tools, self.places = tools, places  # TOOLS and PLACES of host_slurm.py
        self.directory = directory  # the image is a directory
        self.image_layers = image_layers  # (filesystem, offset in bytes) of the overlays in the SIF file
        self.overlays = overlays  # filesystem of each of the spec's overlays
        self.gpus = gpus or Gpus()
        self.real_cwd = real_cwd  # the spec's cwd on this node with symlinks resolved; "" for the same path
        self.kept = kept  # the container follows one with the same name, and has its layer in memory
        self.mpi = mpi  # binds of the host's MPI, if the spec asks for it
        self.warnings = warnings


def make(spec: Spec, facts: Facts | None = None) -> Plan:
    """Return the plan for `spec` on the node that `facts` describe.

    Raises:
        BollardError: --writable for an image that is a file without its own layer, or more than one writable layer.
    """
    facts = facts or Facts()
    layers = _layers(spec, facts)
    writable = spec.writable or any(not layer.read_only for layer in layers)
    mounts = _mounts(spec, facts)
    return Plan(
        namespaces=_namespaces(spec), layers=layers, mounts=tuple(_replaceable(spec, mounts) if writable else mounts),
        directories=tuple(_directories(spec)), writable=writable, owned=spec.fakeroot or bool(spec.save) or writable,
        drivers=facts.gpus.drivers, missing=facts.gpus.missing, variables=facts.gpus.variables,
        warnings=facts.gpus.warnings + facts.warnings + _unknown(spec),
        libraries=any(below(mount.target, LIBRARIES) for mount in mounts),
    )  # fmt: skip


def _unknown(spec: Spec) -> tuple[str, ...]:
    """Return a line for the words of --no-mount that name nothing: a mistyped one would leave its mount in place."""
    words = [word for word in spec.no_mount if word[:1] != "/" and word not in _MOUNTS]
    if not words:
        return ()
    known = ", ".join(_MOUNTS)
    return (f"--no-mount {','.join(words)}: no such mount; known are {known}, and paths",)


def _namespaces(spec: Spec) -> tuple[Namespace, ...]:
    """Return the namespaces in the order in which a task joins them."""
    own = [Namespace(name, spec.hostname if name == "uts" else "") for name in spec.unshare]
    return (Namespace("user", "root" if spec.fakeroot else "own ids"), Namespace("mnt"), *own)


def _layers(spec: Spec, facts: Facts) -> tuple[Overlay, ...]:
    """Return the image's layers, the user's layers, and the layer in memory; lowest first."""
    if spec.writable and not facts.directory and not facts.image_layers:
        raise BollardError(f"{spec.asked}: is a file; --writable needs a directory", "use --writable-tmpfs")
    layers = [
        Overlay(spec.image, filesystem, not spec.writable or filesystem == SQUASHFS, offset)
        for filesystem, offset in facts.image_layers
    ]
    layers += [
        Overlay(path, filesystem, read_only or filesystem == SQUASHFS)  # as in Apptainer, squashfs needs no :ro
        for (path, read_only), filesystem in zip(spec.overlays, facts.overlays)
    ]
    if spec.writable_tmpfs or facts.kept:
        layers.append(Overlay("", MEMORY, not spec.writable_tmpfs))
    if sum(not layer.read_only for layer in layers) > 1:
        raise BollardError("more than one layer to write to", "keep one of the overlays, or --writable-tmpfs")
    return tuple(layers)


def _mounts(spec: Spec, facts: Facts) -> list[Mount]:
    out = {tidy(word) if word[:1] == "/" else word for word in spec.no_mount}
    out |= {name for name in ("proc", "sys", "dev", "tmp") if f"/{name}" in out}
    mounts = _kernel(spec, out) + _site_files(spec, out) + _site_mounts(spec, facts.site, out) + _home(spec, out)
    mounts += _tmp(spec, out)
    if facts.spool:
        mounts.append(Mount(BIND, facts.spool, facts.spool, if_missing=OMIT))
    mounts = [mount for mount in mounts if mount.target not in out]
    asked = _scratch(spec)
    if not spec.contain and "cwd" not in out:
        # A task starts in the directory's real path; its script may use the path with symlinks. Bind both.
        for name in (facts.real_cwd or spec.cwd, spec.cwd):
            cwd = tidy(name)  # --chdir passes the path as it was typed, for example "/usr/"
            if ".." not in name.split("/") and cwd not in out and needs_bind(cwd, tuple(mounts + asked), spec.binds):
                mounts.append(Mount(BIND, cwd, cwd, if_missing=OMIT))
    gone = []
    for bind in spec.binds:
        target = tidy(bind[1])
        if bind[2] & binds.UMOUNT:
            mounts = [mount for mount in mounts if not below(mount.target, target)]
            asked = [mount for mount in asked if not below(mount.target, target)]
            gone.append(target)
        else:
            asked.append(_as_asked(bind, asked=True))
    mounts += sorted(asked, key=_depth)
    bound = {tidy(bind[1]) for bind in spec.binds}  # a bind of the user wins over the files of `_identity`
    late: list[Mount] = [mount for mount in _identity(spec, out) if mount.target not in bound]
    late += _slurm(spec, facts)
    late += [*facts.gpus.mounts, *facts.mpi]
    mounts += [
        mount for mount in late if mount.target not in out and not any(below(mount.target, path) for path in gone)
    ]
    return mounts


def _depth(mount: Mount) -> int:
    """Return the depth of the target, as a sort key: an outer mount comes first, so it hides no inner one."""
    return mount.target.count("/")


def _as_asked(bind: Bind, optional: bool = False, asked: bool = False) -> Mount:
    """Return the Mount for a bind or tmpfs that the user or the site asked for."""
    source, target, flags = bind
    noexec, shallow = bool(flags & binds.NOEXEC), bool(flags & binds.SHALLOW)
    if flags & binds.TMPFS:
        return Mount(TMPFS, source, tidy(target), noexec=noexec, asked=asked)
    missing = OMIT if optional or flags & binds.OPTIONAL else REFUSE
    read_only = bool(flags & binds.READ_ONLY)
    devices = binds.is_device(source)
    return Mount(BIND, source, tidy(target), read_only, noexec, devices, shallow, missing, asked=asked)


def _kernel(spec: Spec, out: set[str]) -> list[Mount]:
    """Return the mounts of /proc, /sys and /dev."""
    mounts: list[Mount] = []
    if "proc" not in out:
        mounts.append(Mount(PROC, "", "/proc") if "pid" in spec.unshare else Mount(BIND, "/proc", "/proc"))
    if "sys" not in out:
        mounts.append(Mount(BIND, "/sys", "/sys", if_missing=WARN))
    shm = [Mount(TMPFS, f"mode=1777,size={spec.shm_size}" if spec.shm_size else "mode=1777", "/dev/shm")]
    if "dev" in out:
        return mounts + shm if spec.shm_size else mounts
    if not spec.contain:
        mounts.append(Mount(BIND, "/dev", "/dev", devices=True))
        if "ipc" in spec.unshare or spec.shm_size:
            mounts += shm
        if "ipc" in spec.unshare:
            mounts.append(Mount(MQUEUE, "", "/dev/mqueue", noexec=True))
        return mounts
    mounts.append(Mount(TMPFS, "mode=0755,size=1m", "/dev"))
    mounts += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in DEV_NODES]
    mounts += shm
    links: tuple[tuple[str, str], ...] = DEV_LINKS
    if spec.pty:  # slurmstepd makes the terminal after the container, in the host's /dev/pts
        mounts += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in ("/dev/pts", "/dev/ptmx")]
        links = tuple([link for link in links if link[1] != "/dev/ptmx"])
    elif "devpts" not in out:
        mounts.append(Mount(DEVPTS, "", "/dev/pts", noexec=True))
    if spec.console:
        mounts.append(Mount(BIND, spec.console, "/dev/console", devices=True, if_missing=OMIT))
    mounts += [Mount(LINK, text, path) for text, path in links]
    return mounts


def _site_files(spec: Spec, out: set[str]) -> list[Mount]:
    """Return the mounts of /etc/localtime and /etc/hosts."""
    mounts: list[Mount] = []
    if "bind-paths" in out:
        return mounts
    if "localtime" not in out:
        # In an image it often is a symlink to a zone file. Mount over the link: the zone file must keep its content.
        path = "/etc/localtime"
        # In a root that keeps what is written no mount point is left behind.
        only = HAS_TARGET if spec.writable or spec.writable_tmpfs or spec.overlays else ""
        mounts.append(Mount(BIND, path, path, read_only=True, if_missing=OMIT, only=only, over_link=True))
    if "hosts" not in out:  # also for images without the file: Slurm's commands need it to find slurmctld
        mounts.append(Mount(BIND, "/etc/hosts", "/etc/hosts", read_only=True, if_missing=OMIT))
    return mounts


def _site_mounts(spec: Spec, here: Site, out: set[str]) -> list[Mount]:
    """Return the site's mounts; none with --contain, like Apptainer's `bind path`."""
    if spec.contain or "bind-paths" in out:
        return []
    return sorted([_as_asked(bind, optional=True) for bind in here.mounts], key=_depth)


def _home(spec: Spec, out: set[str]) -> list[Mount]:
    if not spec.home or "home" in out:
        return []
    home = tidy(spec.home)
    if spec.home_source:
        return [Mount(BIND, spec.home_source, home, if_missing=WARN)]
    return [Mount(BIND, f"{spec.workdir}/home", home) if spec.workdir else Mount(TMPFS, "mode=0700", home)]


def _tmp(spec: Spec, out: set[str]) -> list[Mount]:
    if "tmp" in out:
        return []
    if not spec.contain:
        return [Mount(BIND, path, path, if_missing=WARN, if_free=True) for path in ("/tmp", "/var/tmp")]
    if spec.workdir:
        places = (("tmp", "/tmp"), ("var_tmp", "/var/tmp"))
        return [Mount(BIND, f"{spec.workdir}/{name}", path, if_free=True) for name, path in places]
    return [Mount(TMPFS, "mode=1777", path, if_free=True) for path in ("/tmp", "/var/tmp")]


def _scratch(spec: Spec) -> list[Mount]:
    if spec.workdir:
        return [Mount(BIND, f"{spec.workdir}/scratch{path}", tidy(path), asked=True) for path in spec.scratch]
    return [Mount(TMPFS, "mode=0755", tidy(path), asked=True) for path in spec.scratch]


def _directories(spec: Spec) -> list[str]:
    if not spec.workdir:
        return []
    found = [f"{spec.workdir}/scratch{path}" for path in spec.scratch]
    if spec.contain:
        found += [f"{spec.workdir}/{name}" for name in ("tmp", "var_tmp")]
        found += [f"{spec.workdir}/home"] if spec.home and not spec.home_source else []
    return found


def _identity(spec: Spec, out: set[str]) -> list[Mount]:
    """Return the mounts of the files of /etc for the user's identity and for name resolution."""
    mounts = [Mount(FILE, name, f"/etc/{name}", read_only=True, if_missing=OMIT) for name in ("passwd", "group")]
    if spec.dns:
        mounts.append(Mount(FILE, "resolv.conf", "/etc/resolv.conf", read_only=True))
    elif "resolv.conf" not in out:
        mounts.append(Mount(BIND, "/etc/resolv.conf", "/etc/resolv.conf", read_only=True, if_missing=OMIT))
    if spec.hostname:
        mounts.append(Mount(FILE, "hostname", "/etc/hostname", read_only=True, if_missing=OMIT))
    if spec.fakeroot:
        mounts.append(Mount(FILE, "apt.conf", APT_CONF, read_only=True, if_missing=OMIT))
    return mounts


def _replaceable(spec: Spec, mounts: list[Mount]) -> list[Mount]:
    """Return `mounts` with files of /etc copied instead of bound, if the user is root in a writable container.

    The installation of a package adds users to passwd and group, and replaces other files. The host's files are copied
    only into a layer in memory: in any other layer the copies would stay.
    """
    if not spec.fakeroot:
        return mounts
    places = ("/etc/passwd", "/etc/group", *(REPLACED if spec.writable_tmpfs else ()))
    return [mount.as_copy() if mount.target in places and not mount.asked else mount for mount in mounts]


def _slurm(spec: Spec, facts: Facts) -> list[Mount]:
    """Return the mounts of the host's Slurm: its files for an image with Slurm's commands, its commands for all."""
    mounts = [
        Mount(BIND, path, path, read_only=True, if_missing=OMIT, only=HAS_SLURM, if_free=True) for path in SLURM_FILES
    ]
    views = []
    if facts.prefix:
        target = facts.site.prefix or facts.prefix
        mounts.append(Mount(BIND, facts.prefix, target, read_only=True, shallow=True, if_missing=OMIT, only=HAS_SLURM))
    if facts.tools and not spec.no_slurm:
        views = [(place, VIEW + place) for place in facts.places] + [(facts.tools, TOOLS)]
    return mounts + [Mount(BIND, here, there, read_only=True, shallow=True, if_missing=OMIT) for here, there in views]


def needs_bind(path: str, mounts: tuple[Mount, ...], binds: tuple[Bind, ...]) -> bool:
    """Return whether a task's directory must be bound: it is not one of the system's, and no mount is there yet.

    path    the directory, an absolute path without ".."
    mounts  the mounts of the plan
    binds   the binds of the spec, which `mounts` need not have
    """
    cwd = tidy(path)
    if cwd in NO_CWD or any(below(cwd, parent) for parent in NO_CWD_BELOW):
        return False
    targets = [mount.target for mount in mounts] + [bind[1] for bind in binds]
    return not any(below(cwd, target) for target in targets)


def shows(mounts: tuple[Mount, ...], cwd: str, spec: Spec) -> bool:
    """Return whether a container suits a step that starts in `cwd`: the step would need no further bind.

    mounts  the mounts of the container's plan
    cwd     the step's working directory, an absolute path
    spec    the spec of the container
    """
    if spec.contain or "cwd" in spec.no_mount:
        return True
    return ".." not in cwd.split("/") and not needs_bind(cwd, mounts, spec.binds)
