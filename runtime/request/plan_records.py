# SPDX-License-Identifier: BSD-3-Clause
"""The records of a plan: immutable, each with `describe()`, for the user, and `data()`, for scripts.

    Namespace   a namespace of the container's own
    Overlay     a layer above the image, lowest first
    Driver      a driver of the host's GPUs that the container gets, and why
    Mount       a mount in the root, in the order of mounting: a bind, file, tmpfs, proc, devpts, mqueue or link
    Plan        all of them, for one container

All kinds of mounts have one class, because each further class would cost the node path 15 microseconds.
"""

from __future__ import annotations

# Libraries of the host's GPU drivers; the image's environment has the directory in LD_LIBRARY_PATH (Apptainer's rule).
LIBRARIES = "/.singularity.d/libs"

# Libraries of the host's MPI; LD_LIBRARY_PATH has the directory first.
MPI_LIBRARIES = "/run/bollard/mpi"

# Filesystems of layers.
DIRECTORY, EXT3, SQUASHFS, MEMORY = "directory", "ext3", "squashfs", "memory"

# Kinds of mounts, and what `Mount.source` is for each.
BIND = "bind"  # source: a file or directory of the host
FILE = "file"  # source: name of a file that the keeper writes: passwd, group, resolv.conf, hostname or apt.conf
TMPFS = "tmpfs"  # an empty directory in memory; source: options of tmpfs(5)
PROC = "proc"  # the /proc of the container's own process namespace; source: ""
DEVPTS = "devpts"  # terminals of the container's own; source: ""
MQUEUE = "mqueue"  # message queues of the container's own IPC namespace; source: ""
LINK = "link"  # a symbolic link in a tmpfs of the container's own; source: where it leads

# What happens if the source or the target of a mount is missing (`Mount.if_missing`):
REFUSE = "refuse"  # the container does not start
WARN = "warn"  # it starts without the mount; its first task prints a warning
OMIT = "omit"  # it starts without the mount; only --container-verbose shows it

# In which images a mount is made (`Mount.only`); "" for all:
HAS_TARGET = "target"  # images that have something at the mount's target
HAS_SLURM = "slurm"  # images that have SLURM_MARK
CAN_LOAD = "glibc"  # images whose C library is new enough for this program or library of the host
LACKS = "lacks"  # the same, and the image has no library of this name
HOST_MPI = "mpi"  # images that the host's MPI suits (container/mpi_choice.py)


class Record:
    """One line of a plan. Immutable. Two records of one kind with the same values are equal."""

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
        """Return the record's values by name, and `kind`; for JSON."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in self.__slots__}}

    def describe(self) -> str:
        """Return the record as one line of text for the user."""
        raise NotImplementedError


class Namespace(Record):
    """A namespace: user, mnt, net, ipc, uts or pid."""

    __slots__ = ("name", "setting")
    kind = "namespace"
    name: str
    setting: str  # user: "root" or "own ids"; uts: the hostname, "" for the node's; all others: ""

    def __init__(self, name: str, setting: str = "") -> None:
        super().__init__(name=name, setting=setting)

    def describe(self) -> str:
        """Return the namespace as one line of text for the user."""
        return f"namespace  {self.name}" + (f"  ({self.setting})" if self.setting else "")


class Overlay(Record):
    """A layer above the image."""

    __slots__ = ("filesystem", "offset", "read_only", "source")
    kind = "overlay"
    source: str  # directory or file; "" in memory
    filesystem: str  # DIRECTORY, EXT3, SQUASHFS or MEMORY
    read_only: bool
    offset: int  # where the filesystem begins in the file, in bytes

    def __init__(self, source: str, filesystem: str, read_only: bool, offset: int = 0) -> None:
        super().__init__(source=source, filesystem=filesystem, read_only=read_only, offset=offset)

    def describe(self) -> str:
        """Return the layer as one line of text for the user."""
        where = self.source or "memory"
        mode = "read-only" if self.read_only else "written to"
        return f"/  layer  {where}  ({self.filesystem}, {mode})" if self.source else f"/  layer  {where}  ({mode})"


class Driver(Record):
    """A driver of the host's GPUs."""

    __slots__ = ("because", "name", "required")
    kind = "driver"
    name: str  # nv or rocm
    because: str  # the option or the setting by which the container gets it
    required: bool  # a node without it: the first task prints a warning

    def __init__(self, name: str, because: str, required: bool = False) -> None:
        super().__init__(name=name, because=because, required=required)

    def describe(self) -> str:
        """Return the driver as one line of text for the user."""
        return f"GPU driver  {self.name}  ({self.because})"


class Mount(Record):
    """A mount in the container's root, at the absolute path `target`."""

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
    shallow: bool  # without the mounts below the source on the host
    if_missing: str
    only: str
    over_link: bool  # if the target is a symlink of the image, mount over the link itself
    if_free: bool  # left out if an earlier mount is at the same target, symlinks resolved
    asked: bool  # the user asked for it; these are mounted from the outermost to the innermost target
    copied: bool  # the file is copied into the container's root, so that a package can replace it

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
        """Return the same mount with `copied` set."""
        return Mount(**{**{name: getattr(self, name) for name in self.__slots__}, "copied": True})

    def what(self) -> str:
        """Return what is mounted, in words for the user."""
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
        """Return the mount as one line of text for the user."""
        words = (
            (self.read_only, "read-only"), (self.noexec, "noexec"), (self.devices, "devices"),
            (self.copied, "copied"), (self.if_missing != REFUSE, "if there"),
            (self.only == HAS_TARGET, "if the image has it"),
            (self.only == HAS_SLURM, "if the image has Slurm"),
            (self.only in (CAN_LOAD, LACKS), "if the image's glibc suits it"),
            (self.only == LACKS, "and it has none"),
            (self.only == HOST_MPI, "if it suits the image"),
        )  # fmt: skip
        told = ", ".join([word for here, word in words if here])
        return f"{self.target}  from  {self.what()}" + (f"  ({told})" if told else "")


class Gpus:
    """What a container gets for GPUs on this node: from the drivers, and from the CDI devices that were asked for."""

    __slots__ = ("drivers", "missing", "mounts", "variables", "warnings")

    def __init__(
        self, mounts: tuple[Mount, ...] = (), drivers: tuple[Driver, ...] = (), missing: tuple[Driver, ...] = (),
        variables: tuple[tuple[bytes, bytes], ...] = (), warnings: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.mounts = mounts
        self.drivers = drivers
        self.missing = missing  # required drivers that this node has not
        self.variables = variables  # of CDI devices
        self.warnings = warnings

    def __add__(self, other: Gpus) -> Gpus:
        return Gpus(
            self.mounts + other.mounts, self.drivers + other.drivers, self.missing + other.missing,
            self.variables + other.variables, self.warnings + other.warnings,
        )  # fmt: skip


class Plan(Record):
    """The whole plan for one container."""

    __slots__ = (
        "directories", "drivers", "layers", "libraries", "missing", "mounts", "namespaces", "owned", "variables",
        "warnings", "writable",
    )  # fmt: skip
    kind = "plan"
    namespaces: tuple[Namespace, ...]
    layers: tuple[Overlay, ...]
    mounts: tuple[Mount, ...]
    directories: tuple[str, ...]  # made on the host below --workdir, parents first
    drivers: tuple[Driver, ...]
    libraries: bool  # there are mounts in LIBRARIES
    missing: tuple[Driver, ...]  # required drivers that this node has not: one warning each
    variables: tuple[tuple[bytes, bytes], ...]  # of CDI devices; they win over the image's
    warnings: tuple[str, ...]  # what was asked for and does not come: of a CDI device, of --no-mount
    writable: bool  # the container's root can be written to
    owned: bool  # show the files of a squashfs as the user's: overlayfs keeps the owner of a file that it copies up

    def lines(self) -> list[str]:
        """Return one line for each record, for the user."""
        return [record.describe() for record in (*self.namespaces, *self.drivers, *self.layers, *self.mounts)]

    def data(self) -> dict[str, object]:
        """Return the plan for scripts; docs/users.md lists the keys."""
        return {
            "namespaces": [record.data() for record in self.namespaces],
            "layers": [record.data() for record in self.layers],
            "mounts": [record.data() for record in self.mounts],
            "directories": list(self.directories),
            "drivers": [record.data() for record in self.drivers],
            "missing_gpus": [record.name for record in self.missing],
            "warnings": list(self.warnings),
            "writable": self.writable,
        }


def below(path: str, parent: str) -> bool:
    """Return whether `path` is `parent` or is in it, compared by components."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def tidy(path: str) -> str:
    """Return an absolute path without empty components and "."."""
    return "/" + "/".join([part for part in path.split("/") if part not in ("", ".")])
