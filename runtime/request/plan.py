# SPDX-License-Identifier: BSD-3-Clause
"""The plan: all that a node will do for a spec, decided here without touching anything.

`make` is a pure function of the spec and of `Facts`, which the keeper and `bollard plan` gather in the same way
(`container/keeper.py`, `facts`). The keeper carries the plan out as it is; nothing is added to it afterwards.

A plan is a list of small records that never change, each with a `describe()` for people and a `data()` for scripts:

    Namespace   a namespace of the container's own
    Overlay     a layer above the image, lowest first
    Mount       what is put into the root, in this order: a bind, file, tmpfs, proc, devpts or link

One class for all kinds of mounts: each class more would cost the node path 15 microseconds.

Order and rules of these are Apptainer's (its container_linux.go, `create`): kernel filesystems, /dev, site files and
mounts, home, /tmp and /var/tmp, working directory, user binds, identity, name resolution.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec as flag
from bollard.runtime.request.site import Site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind, Spec

# What a /dev of the container's own has of the host's (Apptainer's `mount dev = minimal`).
DEV_NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
DEV_LINKS = (
    ("/proc/self/fd", "/dev/fd"), ("fd/0", "/dev/stdin"), ("fd/1", "/dev/stdout"), ("fd/2", "/dev/stderr"),
    ("/dev/pts/ptmx", "/dev/ptmx"),
)  # fmt: skip

# Apptainer binds no working directory at or below these, for they are the image's own or bound already.
NO_CWD = ("/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64")
NO_CWD_BELOW = ("/sys", "/proc", "/dev")

# An image with Slurm's commands has this; Slurm's own files on the host follow then.
SLURM_MARK = "/etc/slurm"
SLURM_FILES = ("/etc/slurm", "/run/munge")

# Where a container has the host's Slurm: each place of the host at VIEW + its path, and the commands.
VIEW = "/run/bollard"
TOOLS = VIEW + "/bin"
# Tells apt of a root's container not to become another user: it would notice that it has not.
APT_CONF = VIEW + "/apt.conf"
# What packages replace when they are installed. A file of the host there is copied where that ends with the container.
REPLACED = ("/etc/localtime", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")

# Filesystems of layers.
DIRECTORY, EXT3, SQUASHFS, MEMORY = "directory", "ext3", "squashfs", "memory"

# Kinds of mounts, and what `Mount.source` is of each.
BIND = "bind"  # a file or directory of the host
FILE = "file"  # the name of a file that the keeper writes: passwd, group, resolv.conf, hostname or apt.conf
TMPFS = "tmpfs"  # an empty directory in memory; options of tmpfs(5)
PROC = "proc"  # a /proc of the container's own process namespace; ""
DEVPTS = "devpts"  # terminals of the container's own; ""
MQUEUE = "mqueue"  # message queues of the container's own IPC namespace; ""
LINK = "link"  # a symbolic link in a tmpfs of the container's own; what it holds

# What happens to a mount whose source, or whose place in the container, is missing (`Mount.if_missing`):
REFUSE = "refuse"  # the container does not start
WARN = "warn"  # it starts without, and its first task says so
OMIT = "omit"  # it starts without; --container-verbose says so

# In which images a mount is made (`Mount.only`): "" in all, else
HAS_TARGET = "target"  # where the image has something at the mount's target
HAS_SLURM = "slurm"  # where the image has SLURM_MARK


class Record:
    """One line of a plan. Immutable; equal to another of its kind with the same values."""

    __slots__: tuple[str, ...] = ()
    kind = ""  # its name in `data()`

    def __init__(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self.kind}.{name}: a plan does not change")

    def _values(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.kind == other.kind and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self.kind, self._values()))

    def __repr__(self) -> str:
        return " ".join([self.kind, *(f"{name}={getattr(self, name)!r}" for name in self.__slots__)])

    def data(self) -> dict[str, object]:
        """Its values by name, and `kind`; for JSON."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in self.__slots__}}

    def describe(self) -> str:
        """One line for people."""
        raise NotImplementedError


class Namespace(Record):
    """A namespace: user, mnt, net, ipc, uts or pid."""

    __slots__ = ("name", "setting")
    kind = "namespace"
    name: str
    setting: str  # of user "root" or "own ids"; of uts the host's name, "" for the node's; else ""

    def __init__(self, name: str, setting: str = "") -> None:
        super().__init__(name=name, setting=setting)

    def describe(self) -> str:
        return f"namespace  {self.name}" + (f"  ({self.setting})" if self.setting else "")


class Overlay(Record):
    """A layer above the image."""

    __slots__ = ("filesystem", "offset", "read_only", "source")
    kind = "overlay"
    source: str  # directory or file; "" in memory
    filesystem: str  # DIRECTORY, EXT3, SQUASHFS or MEMORY
    read_only: bool
    offset: int  # of the filesystem in the file, bytes

    def __init__(self, source: str, filesystem: str, read_only: bool, offset: int = 0) -> None:
        super().__init__(source=source, filesystem=filesystem, read_only=read_only, offset=offset)

    def describe(self) -> str:
        where = self.source or "memory"
        mode = "read-only" if self.read_only else "written to"
        return f"/  layer  {where}  ({self.filesystem}, {mode})" if self.source else f"/  layer  {where}  ({mode})"


class Mount(Record):
    """What is put into the root at `target`, an absolute path in the container."""

    __slots__ = (
        "asked", "copied", "devices", "if_free", "if_missing", "kind", "noexec", "only", "over_link", "read_only",
        "shallow", "source", "target",
    )  # fmt: skip
    kind: str
    source: str
    target: str
    read_only: bool
    noexec: bool
    devices: bool  # device files can be used
    shallow: bool  # without what is mounted below the source on the host
    if_missing: str
    only: str
    over_link: bool  # takes the place of a link of the image, not of what the link leads to
    if_free: bool  # not where an earlier mount is, by this name or through a link of the image
    asked: bool  # of these an outer one is mounted before an inner one, in whatever order they were asked for
    copied: bool  # a file that is written into the container's own root, so that a package can replace it

    def __init__(
        self, kind: str, source: str, target: str, read_only: bool = False, noexec: bool = False,
        devices: bool = False, shallow: bool = False, if_missing: str = REFUSE, only: str = "",
        over_link: bool = False, if_free: bool = False, asked: bool = False, copied: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            kind=kind, source=source, target=target, read_only=read_only, noexec=noexec, devices=devices,
            shallow=shallow, if_missing=if_missing, only=only, over_link=over_link, if_free=if_free, asked=asked,
            copied=copied,
        )  # fmt: skip

    def as_copy(self) -> Mount:
        """The same mount, of a file that is copied."""
        return Mount(**{**{name: getattr(self, name) for name in self.__slots__}, "copied": True})

    def what(self) -> str:
        """What is mounted, in words."""
        if self.kind == FILE:
            return f"{self.source} entry of the user" if self.source in ("passwd", "group") else f"{self.source} file"
        if self.kind == LINK:
            return f"a link to {self.source}"
        own = {
            TMPFS: "an empty directory in memory", PROC: "own processes", DEVPTS: "own terminals",
            MQUEUE: "own message queues",
        }  # fmt: skip
        return own.get(self.kind, self.source)

    def describe(self) -> str:
        words = (
            (self.read_only, "read-only"), (self.noexec, "noexec"), (self.devices, "devices"),
            (self.copied, "copied"), (self.if_missing != REFUSE, "if there"),
            (self.only == HAS_TARGET, "if the image has it"),
            (self.only == HAS_SLURM, "if the image has Slurm"),
        )  # fmt: skip
        told = ", ".join([word for here, word in words if here])
        return f"{self.target}  from  {self.what()}" + (f"  ({told})" if told else "")


class Facts:
    """What a plan depends on besides the spec: this node, its site, and what lies in files that the spec names."""

    __slots__ = (
        "directory", "gpus", "image_layers", "missing_gpus", "overlays", "places", "prefix", "real_cwd", "site",
        "spool", "tools",
    )  # fmt: skip

    def __init__(
        self, site: Site | None = None, spool: str = "", prefix: str = "", tools: str = "",
        places: tuple[str, ...] = (), directory: bool = False, image_layers: tuple[tuple[str, int], ...] = (),
        overlays: tuple[str, ...] = (), gpus: tuple[Mount, ...] = (), missing_gpus: tuple[str, ...] = (),
        real_cwd: str = "",
    ) -> None:  # fmt: skip
        self.site = site or Site()
        self.spool = spool  # SlurmdSpoolDir, where batch scripts and PMIx files lie
        self.prefix = prefix  # the installation, which Slurm's commands in the image load the plugin from
        self.tools, self.places = tools, places  # what host_slurm.py says
        self.directory = directory  # the image is a directory
        self.image_layers = image_layers  # (filesystem, offset) of the overlays that a SIF file brings
        self.overlays = overlays  # filesystem of each of the spec's overlays
        self.gpus = gpus  # files of the host's graphics drivers
        self.real_cwd = real_cwd  # the spec's cwd on this node with its links resolved; "" for the same
        self.missing_gpus = missing_gpus  # kinds that were asked for, and for which there is no driver


class Plan(Record):
    """All of it."""

    __slots__ = ("directories", "layers", "missing_gpus", "mounts", "namespaces", "owned", "writable")
    kind = "plan"
    namespaces: tuple[Namespace, ...]
    layers: tuple[Overlay, ...]
    mounts: tuple[Mount, ...]
    directories: tuple[str, ...]  # made on the host below --workdir, parents first
    missing_gpus: tuple[str, ...]  # kinds of graphics cards without a driver here: one warning each
    writable: bool  # the root takes writes
    owned: bool  # files of a squashfs are shown as the user's: an overlay keeps the owner of what it copies up

    def lines(self) -> list[str]:
        """One line for each record, for people."""
        return [record.describe() for record in (*self.namespaces, *self.layers, *self.mounts)]

    def data(self) -> dict[str, object]:
        """The same for scripts; docs/users.md lists the keys."""
        return {
            "namespaces": [record.data() for record in self.namespaces],
            "layers": [record.data() for record in self.layers],
            "mounts": [record.data() for record in self.mounts],
            "directories": list(self.directories),
            "missing_gpus": list(self.missing_gpus),
            "writable": self.writable,
        }


def make(spec: Spec, facts: Facts | None = None) -> Plan:
    """The plan for `spec` on a node that `facts` describe.

    Raises: BollardError for a root that cannot be written to as asked.
    """
    facts = facts or Facts()
    layers = _layers(spec, facts)
    writable = spec.writable or any(not layer.read_only for layer in layers)
    mounts = _mounts(spec, facts)
    return Plan(
        namespaces=_namespaces(spec), layers=layers, mounts=tuple(_replaceable(spec, mounts) if writable else mounts),
        directories=tuple(_directories(spec)), missing_gpus=facts.missing_gpus, writable=writable,
        owned=spec.fakeroot or bool(spec.save) or writable,
    )  # fmt: skip


def below(path: str, parent: str) -> bool:
    """Whether `path` is `parent` or lies in it, by components."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def tidy(path: str) -> str:
    """An absolute path without parts that mean nothing."""
    return "/" + "/".join([part for part in path.split("/") if part not in ("", ".")])


def _namespaces(spec: Spec) -> tuple[Namespace, ...]:
    """In the order in which a task joins them."""
    own = [Namespace(name, spec.hostname if name == "uts" else "") for name in spec.unshare]
    return (Namespace("user", "root" if spec.fakeroot else "own ids"), Namespace("mnt"), *own)


def _layers(spec: Spec, facts: Facts) -> tuple[Overlay, ...]:
    """Those of the image, those of the user, and one in memory; lowest first."""
    if spec.writable and not facts.directory and not facts.image_layers:
        raise BollardError(f"{spec.asked}: is a file; --writable needs a directory", "use --writable-tmpfs")
    layers = [
        Overlay(spec.image, filesystem, not spec.writable or filesystem == SQUASHFS, offset)
        for filesystem, offset in facts.image_layers
    ]
    layers += [
        Overlay(path, filesystem, read_only or filesystem == SQUASHFS)  # squashfs needs no :ro, as under Apptainer
        for (path, read_only), filesystem in zip(spec.overlays, facts.overlays)
    ]
    if spec.writable_tmpfs:
        layers.append(Overlay("", MEMORY, False))
    if sum(not layer.read_only for layer in layers) > 1:
        raise BollardError("more than one layer to write to", "keep one of the overlays, or --writable-tmpfs")
    return tuple(layers)


def _mounts(spec: Spec, facts: Facts) -> list[Mount]:
    out = {tidy(word) if word[:1] == "/" else word for word in spec.no_mount}
    out |= {name for name in ("proc", "sys", "dev", "tmp") if f"/{name}" in out}
    mounts = _kernel(spec, out) + _site_files(out) + _site_mounts(spec, facts.site, out) + _home(spec, out)
    mounts += _tmp(spec, out)
    if facts.spool:
        mounts.append(Mount(BIND, facts.spool, facts.spool, if_missing=OMIT))
    mounts = [mount for mount in mounts if mount.target not in out]
    asked = _scratch(spec)
    if not spec.contain and "cwd" not in out:
        # A task stands in the real directory, whatever it was called; a script may use the other name.
        for name in (facts.real_cwd or spec.cwd, spec.cwd):
            cwd = tidy(name)  # --chdir passes on what was typed: "/usr/" is /usr
            if ".." not in name.split("/") and cwd not in out and _binds_cwd(cwd, mounts + asked, spec.binds):
                mounts.append(Mount(BIND, cwd, cwd, if_missing=OMIT))
    gone = []
    for bind in spec.binds:
        target = tidy(bind[1])
        if bind[2] & flag.UMOUNT:
            mounts = [mount for mount in mounts if not below(mount.target, target)]
            asked = [mount for mount in asked if not below(mount.target, target)]
            gone.append(target)
        else:
            asked.append(_as_asked(bind, asked=True))
    mounts += sorted(asked, key=_depth)
    bound = {tidy(bind[1]) for bind in spec.binds}  # what the user binds there is what he wants
    late: list[Mount] = [mount for mount in _identity(spec, out) if mount.target not in bound]
    late += _slurm(spec, facts)
    late += facts.gpus
    mounts += [
        mount for mount in late if mount.target not in out and not any(below(mount.target, path) for path in gone)
    ]
    return mounts


def _depth(mount: Mount) -> int:
    """How many directories deep the target is. Sorted by it, no mount hides one that was to be inside it."""
    return mount.target.count("/")


def _as_asked(bind: Bind, optional: bool = False, asked: bool = False) -> Mount:
    """A bind or tmpfs of the user's or the site's."""
    source, target, flags = bind
    noexec, shallow = bool(flags & flag.NOEXEC), bool(flags & flag.SHALLOW)
    if flags & flag.TMPFS:
        return Mount(TMPFS, source, tidy(target), noexec=noexec, asked=asked)
    missing = OMIT if optional or flags & flag.OPTIONAL else REFUSE
    read_only = bool(flags & flag.READ_ONLY)
    devices = flag.is_device(source)
    return Mount(BIND, source, tidy(target), read_only, noexec, devices, shallow, missing, asked=asked)


def _kernel(spec: Spec, out: set[str]) -> list[Mount]:
    """/proc, /sys and /dev."""
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
    if spec.pty:  # the terminal is made after the container: it is seen among the host's alone
        mounts += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in ("/dev/pts", "/dev/ptmx")]
        links = tuple([link for link in links if link[1] != "/dev/ptmx"])
    elif "devpts" not in out:
        mounts.append(Mount(DEVPTS, "", "/dev/pts", noexec=True))
    if spec.console:
        mounts.append(Mount(BIND, spec.console, "/dev/console", devices=True, if_missing=OMIT))
    mounts += [Mount(LINK, text, path) for text, path in links]
    return mounts


def _site_files(out: set[str]) -> list[Mount]:
    """/etc/localtime and /etc/hosts."""
    mounts: list[Mount] = []
    if "bind-paths" in out:
        return mounts
    if "localtime" not in out:
        # It is a link to a file of a time zone, which keeps its content: TZ=UTC is UTC.
        path = "/etc/localtime"
        mounts.append(Mount(BIND, path, path, read_only=True, if_missing=OMIT, only=HAS_TARGET, over_link=True))
    if "hosts" not in out:  # without it Slurm's controller is not found: an image that has none gets one
        mounts.append(Mount(BIND, "/etc/hosts", "/etc/hosts", read_only=True, if_missing=OMIT))
    return mounts


def _site_mounts(spec: Spec, here: Site, out: set[str]) -> list[Mount]:
    """Not with --contain, as with Apptainer's `bind path`."""
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
    """Who the user is, and how names are resolved."""
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
    """`mounts` with files of /etc copied, where root is in the container and can write to it: packages add users then,
    and replace files. Files of the host are copied into a root in memory alone: elsewhere they would stay."""
    if not spec.fakeroot:
        return mounts
    places = ("/etc/passwd", "/etc/group", *(REPLACED if spec.writable_tmpfs else ()))
    return [mount.as_copy() if mount.target in places and not mount.asked else mount for mount in mounts]


def _slurm(spec: Spec, facts: Facts) -> list[Mount]:
    """The host's Slurm: its files for an image that has Slurm's commands, and its own commands for any image."""
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


def _binds_cwd(cwd: str, mounts: list[Mount], binds: tuple[Bind, ...]) -> bool:
    """Whether the working directory is one to bind, and nothing shows it yet."""
    if cwd in NO_CWD or any(below(cwd, parent) for parent in NO_CWD_BELOW):
        return False
    targets = [mount.target for mount in mounts] + [bind[1] for bind in binds]
    return not any(below(cwd, target) for target in targets)


def shows(mounts: tuple[Mount, ...], cwd: str, spec: Spec) -> bool:
    """Whether a container of `spec`, made with `mounts`, is what a step in `cwd` needs: it would bind nothing more."""
    if spec.contain or "cwd" in spec.no_mount:
        return True
    return ".." not in cwd.split("/") and not _binds_cwd(tidy(cwd), list(mounts), spec.binds)
