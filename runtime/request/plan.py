# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what a node will mount for a spec, decided here without touching anything.

An operation is a tuple (source, target, flags), carried out in order by `mounts.py`:

    source  host path; or "passwd", "group", "resolv.conf", "hostname": a file the keeper writes; with TMPFS the
            options of the new tmpfs; with LINK what a symbolic link holds; nothing with DEVPTS and PROC
    target  absolute path in the container
    flags   the sum of the constants below and of those in spec.py

Order and rules are Apptainer's (its container_linux.go, `create`): kernel filesystems, /dev, site files and mounts,
home, /tmp and /var/tmp, working directory, user binds, identity, name resolution.
"""

from __future__ import annotations

from bollard.runtime.request.site import Site
from bollard.runtime.request.spec import NOEXEC, OPTIONAL, READ_ONLY, SHALLOW, TMPFS, UMOUNT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Spec

    Op = tuple[str, str, int]

DEVICES = 2  # keep device nodes usable
IF_IN_IMAGE = 8  # only over something the image has
IF_SLURM = 16  # only when the image brings Slurm's commands
DEVPTS = 512  # terminals of the container's own
PROC = 1024  # a /proc of a private process namespace
LINK = 2048  # a symbolic link
OVER_LINK = 8192  # a file that takes the place of a link itself, not of what the link leads to
ASKED = 32768  # of these an outer one is mounted before an inner one, in whatever order they were asked for
IF_FREE = 16384  # not where an earlier mount is, by this name or through a link of the image
EXPECTED = 4096  # optional, but each node has it: a warning where it is missing
SETS = TMPFS | DEVPTS | PROC | LINK  # those that have no source on the host

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

DEFAULTS = Site()


def below(path: str, parent: str) -> bool:
    """Whether `path` is `parent` or lies in it, by components."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def _depth(op: Op) -> int:
    """How many directories deep the target is: sorted by it, no mount hides one that was to be inside it."""
    return len([part for part in op[1].split("/") if part not in ("", ".")])


def make(
    spec: Spec,
    spool: str = "",
    prefix: str = "",
    here: Site = DEFAULTS,
    tools: str = "",
    places: tuple[str, ...] = (),
    real_cwd: str = "",
) -> list[Op]:
    """The operations for `spec`. `spool`: SlurmdSpoolDir, where batch scripts and PMIx files lie; `prefix`:
    the installation, which Slurm's commands in the image load the plugin from; `here`: what the site wants;
    `tools`, `places`: what host_slurm.py says; `real_cwd`: spec.cwd on this node with its links resolved, "" for
    the same."""
    out = spec.no_mount
    ops = _kernel(spec) + _site_files(spec) + _site_mounts(spec, here) + _home(spec) + _tmp(spec)
    asked = [("mode=0755", path, TMPFS | ASKED) for path in spec.scratch if not spec.workdir]
    asked += [(f"{spec.workdir}/scratch{path}", path, ASKED) for path in spec.scratch if spec.workdir]
    if spool:
        ops.append((spool, spool, OPTIONAL))
    # A task stands in the real directory, whatever it was called; a script may use the other name.
    for cwd in dict.fromkeys((real_cwd or spec.cwd, spec.cwd)):
        if not spec.contain and "cwd" not in out and _binds_cwd(cwd, ops + asked, spec.binds):
            ops.append((cwd, cwd, OPTIONAL))
    for source, target, flags in spec.binds:
        if flags & UMOUNT:
            ops = [op for op in ops if not below(op[1], target)]
            asked = [op for op in asked if not below(op[1], target)]
        else:
            asked.append((source, target, flags | ASKED))
    ops += sorted(asked, key=_depth)
    own = [
        ("passwd", "/etc/passwd", READ_ONLY | OPTIONAL),
        ("group", "/etc/group", READ_ONLY | OPTIONAL),
    ]
    if spec.dns:
        own.append(("resolv.conf", "/etc/resolv.conf", READ_ONLY))
    elif "resolv.conf" not in out:
        own.append(("/etc/resolv.conf", "/etc/resolv.conf", READ_ONLY | OPTIONAL))
    if spec.hostname:
        own.append(("hostname", "/etc/hostname", READ_ONLY | OPTIONAL))
    bound = [target for _, target, _ in spec.binds]
    ops += [op for op in own if op[1] not in bound]  # what the user binds there is what he wants
    ops += [(path, path, READ_ONLY | OPTIONAL | IF_SLURM | IF_FREE) for path in SLURM_FILES]
    if prefix:
        ops.append((prefix, here.prefix or prefix, READ_ONLY | OPTIONAL | SHALLOW | IF_SLURM))
    if tools and not spec.no_slurm:
        ops += [(place, VIEW + place, READ_ONLY | OPTIONAL | SHALLOW) for place in places]
        ops.append((tools, TOOLS, READ_ONLY | OPTIONAL | SHALLOW))
    return [op for op in ops if op[1] not in out]


def _kernel(spec: Spec) -> list[Op]:
    """/proc, /sys and /dev."""
    out, ops = spec.no_mount, []
    if "proc" not in out:
        ops.append(("", "/proc", PROC) if "pid" in spec.unshare else ("/proc", "/proc", 0))
    if "sys" not in out:
        ops.append(("/sys", "/sys", OPTIONAL | EXPECTED))
    if "dev" in out:
        return ops
    if not spec.contain:
        return [*ops, ("/dev", "/dev", DEVICES)]
    ops.append(("mode=0755,size=1m", "/dev", TMPFS | DEVICES))
    ops += [(path, path, DEVICES | OPTIONAL) for path in DEV_NODES]
    ops += [("mode=1777", "/dev/shm", TMPFS)]
    ops += [] if "devpts" in out else [("", "/dev/pts", DEVPTS)]
    ops += [(held, path, LINK) for held, path in DEV_LINKS]
    return ops


def _site_files(spec: Spec) -> list[Op]:
    # Without a file of hosts Slurm's controller is not found: an image that has none gets one.
    # /etc/localtime is a link to a file of a time zone, which keeps its content: TZ=UTC is UTC.
    wanted = [("localtime", "/etc/localtime", IF_IN_IMAGE | OVER_LINK), ("hosts", "/etc/hosts", 0)]
    return [
        (path, path, READ_ONLY | OPTIONAL | flag)
        for name, path, flag in wanted
        if name not in spec.no_mount and "bind-paths" not in spec.no_mount
    ]


def _site_mounts(spec: Spec, here: Site) -> list[Op]:
    """Not with --contain, as with Apptainer's `bind path`."""
    if spec.contain or "bind-paths" in spec.no_mount:
        return []
    return sorted([(source, target, OPTIONAL | flags) for source, target, flags in here.mounts], key=_depth)


def _home(spec: Spec) -> list[Op]:
    if not spec.home or "home" in spec.no_mount:
        return []
    if spec.home_source:
        return [(spec.home_source, spec.home, OPTIONAL | EXPECTED)]
    return [(f"{spec.workdir}/home", spec.home, 0) if spec.workdir else ("mode=0700", spec.home, TMPFS)]


def _tmp(spec: Spec) -> list[Op]:
    if "tmp" in spec.no_mount:
        return []
    if not spec.contain:
        return [(path, path, OPTIONAL | EXPECTED | IF_FREE) for path in ("/tmp", "/var/tmp")]
    if spec.workdir:
        return [(f"{spec.workdir}/{name}", path, IF_FREE) for name, path in (("tmp", "/tmp"), ("var_tmp", "/var/tmp"))]
    return [("mode=1777", path, TMPFS | IF_FREE) for path in ("/tmp", "/var/tmp")]


def workdirs(spec: Spec) -> list[str]:
    """The directories to be made below --workdir, parents first."""
    if not spec.workdir:
        return []
    found = [f"{spec.workdir}/scratch{path}" for path in spec.scratch]
    if spec.contain:
        found += [f"{spec.workdir}/{name}" for name in ("tmp", "var_tmp")]
        found += [f"{spec.workdir}/home"] if spec.home and not spec.home_source else []
    return found


def _binds_cwd(cwd: str, ops: list[Op], binds: tuple[tuple[str, str, int], ...]) -> bool:
    parts = [part for part in cwd.split("/") if part not in ("", ".")]
    cwd = "/" + "/".join(parts)  # --chdir passes on what was typed: "/usr/" is /usr
    if ".." in parts or cwd in NO_CWD or any(below(cwd, parent) for parent in NO_CWD_BELOW):
        return False
    return not any(below(cwd, target) for _, target, *_ in (*ops, *binds))


def shows(ops: list[Op], cwd: str, spec: Spec) -> bool:
    """Whether a container of `spec`, made with `ops`, is what a step in `cwd` needs: it would bind nothing more."""
    if spec.contain or "cwd" in spec.no_mount:
        return True
    return not _binds_cwd(cwd, ops, spec.binds)


def spool_directory(arguments: str, host: str, here: Site = DEFAULTS) -> str:
    """SlurmdSpoolDir: the site's word, else `spool=` of the plugstack.conf arguments; its %h and %n replaced by this
    node's name."""
    found = here.spool
    for word in arguments.split(" "):
        if word.startswith("spool=") and not found:
            found = word[6:]
    return found.replace("%h", host).replace("%n", host)


def describe(ops: list[Op]) -> list[str]:
    """One line each, for people."""
    names = (
        (READ_ONLY, "read-only"), (NOEXEC, "noexec"), (DEVICES, "devices"), (OPTIONAL, "if there"),
        (IF_IN_IMAGE, "if the image has it"), (IF_SLURM, "if the image has Slurm"),
    )  # fmt: skip
    kinds = ((TMPFS, "an empty directory in memory"), (DEVPTS, "own terminals"), (PROC, "own processes"))
    lines = []
    for source, target, flags in ops:
        what = source if source.startswith("/") else f"{source} entry of the user"
        what = next((words for kind, words in kinds if flags & kind), f"a link to {source}" if flags & LINK else what)
        words = [word for flag, word in names if flags & flag]
        lines.append(f"{target}  from  {what}" + (f"  ({', '.join(words)})" if words else ""))
    return lines
