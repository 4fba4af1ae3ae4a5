# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what a node will mount for a spec, decided here without touching anything.

An operation is a tuple (source, target, flags), carried out in order by `mounts.py`:

    source  host path; or "passwd", "group": a file the keeper writes for this user
    target  absolute path in the container
    flags   the sum of the constants below

Order and rules are Apptainer's (its container_linux.go, `create`): kernel filesystems, /dev, site files, home,
/tmp and /var/tmp, working directory, user binds, identity, name resolution.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.spec import Spec

    Op = tuple[str, str, int]

READ_ONLY = 1
DEVICES = 2  # keep device nodes usable
OPTIONAL = 4  # no error where the source, or a place for it, is missing
IF_IN_IMAGE = 8  # only over something the image has
IF_SLURM = 16  # only when the image brings Slurm's commands
SHALLOW = 32  # without what is mounted below the source, if the kernel allows that

# Apptainer binds no working directory at or below these, for they are the image's own or bound already.
NO_CWD = ("/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64")
NO_CWD_BELOW = ("/sys", "/proc", "/dev")

# An image with Slurm's commands has this; Slurm's own files on the host follow then.
SLURM_MARK = "/etc/slurm"
SLURM_FILES = ("/etc/slurm", "/run/munge")

# Where a container has the host's Slurm: each place of the host at VIEW + its path, and the commands.
VIEW = "/run/bollard"
TOOLS = VIEW + "/bin"


def below(path: str, parent: str) -> bool:
    """Whether `path` is `parent` or lies in it, by components."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def make(
    spec: Spec, spool: str = "", prefix: str = "", tools: str = "", places: tuple[str, ...] = ()
) -> list[Op]:
    """The operations for `spec`. `spool`: SlurmdSpoolDir, where batch scripts and PMIx files lie; `prefix`:
    the installation, which Slurm's commands in the image load the plugin from; `tools`, `places`: host_slurm.py."""
    ops: list[Op] = [
        ("/proc", "/proc", 0),
        ("/sys", "/sys", OPTIONAL),
        ("/dev", "/dev", DEVICES),
        ("/etc/localtime", "/etc/localtime", READ_ONLY | OPTIONAL | IF_IN_IMAGE),
        ("/etc/hosts", "/etc/hosts", READ_ONLY | OPTIONAL),
    ]
    if spec.home:
        ops.append((spec.home_source, spec.home, OPTIONAL))
    ops += [("/tmp", "/tmp", OPTIONAL), ("/var/tmp", "/var/tmp", OPTIONAL)]
    if spool:
        ops.append((spool, spool, OPTIONAL))
    if _binds_cwd(spec.cwd, ops, spec.binds):
        ops.append((spec.cwd, spec.cwd, OPTIONAL))
    ops += [(source, target, READ_ONLY if ro else 0) for source, target, ro in spec.binds]
    ops += [
        ("passwd", "/etc/passwd", READ_ONLY | OPTIONAL),
        ("group", "/etc/group", READ_ONLY | OPTIONAL),
        ("/etc/resolv.conf", "/etc/resolv.conf", READ_ONLY | OPTIONAL),
    ]
    ops += [(path, path, READ_ONLY | OPTIONAL | IF_SLURM) for path in SLURM_FILES]
    if prefix:
        ops.append((prefix, prefix, READ_ONLY | OPTIONAL | IF_SLURM | SHALLOW))
    if tools and not spec.no_slurm:
        ops += [(place, VIEW + place, READ_ONLY | OPTIONAL | SHALLOW) for place in places]
        ops.append((tools, TOOLS, READ_ONLY | OPTIONAL | SHALLOW))
    return ops


def _binds_cwd(cwd: str, ops: list[Op], binds: tuple[tuple[str, str, bool], ...]) -> bool:
    parts = [part for part in cwd.split("/") if part not in ("", ".")]
    cwd = "/" + "/".join(parts)  # --chdir passes on what was typed: "/usr/" is /usr
    if ".." in parts or cwd in NO_CWD or any(below(cwd, parent) for parent in NO_CWD_BELOW):
        return False
    return not any(below(cwd, target) for _, target, *_ in (*ops, *binds))


def spool_directory(site: str, host: str) -> str:
    """`spool=` of the plugstack.conf arguments, its %h and %n replaced by this node's name."""
    for word in site.split(" "):
        if word.startswith("spool="):
            return word[6:].replace("%h", host).replace("%n", host)
    return ""


def describe(ops: list[Op]) -> list[str]:
    """One line each, for people."""
    names = (
        (READ_ONLY, "read-only"), (DEVICES, "devices"), (OPTIONAL, "if there"),
        (IF_IN_IMAGE, "if the image has it"), (IF_SLURM, "if the image has Slurm"),
    )  # fmt: skip
    lines = []
    for source, target, flags in ops:
        what = source if source.startswith("/") else f"{source} entry of the user"
        words = [word for flag, word in names if flags & flag]
        lines.append(f"{target}  from  {what}" + (f"  ({', '.join(words)})" if words else ""))
    return lines
