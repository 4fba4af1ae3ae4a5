# SPDX-License-Identifier: BSD-3-Clause
"""Checks of files and directories: what users must be able to read, where root keeps records and sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from bollard.runtime import constants
from bollard.runtime.errors import BollardError
from bollard.runtime.system import owners
from bollard.spank_plugin import install, installation, plugstack, plugstack_fault, probes
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, Finding, Found
from bollard.spank_plugin.installation import Where

_SHOWN = 3  # faults in one finding


def access(where: Where) -> Found:
    """Yield whether users can read what srun loads as the user: Slurm's plugin configuration, and the installation."""
    tree = os.path.realpath(where.prefix)
    files = [path for path in owners.tree(tree) if os.path.basename(path) not in install.MODES]
    paths = [*_configuration(where), *files]  # the check of the installation reports modes of programs

    def look() -> str:
        closed = list(dict.fromkeys(_closed(paths)))
        if closed:
            raise BollardError("\0".join(closed[: _SHOWN + 1]))
        return f"users can read what srun loads ({len(paths)} paths)"

    worked, text = probes.attempt(look)
    if worked:
        yield Finding("access", OK, text)
        return
    closed = text.split("\0")
    more = " and more" if len(closed) > _SHOWN else ""
    names = closed[:_SHOWN]
    outside = [path for path in names if not f"{path}/".startswith((f"{where.prefix}/", f"{tree}/"))]
    fix = f"chmod a+rX {' '.join(outside)}" if outside else plugstack_fault.AGAIN
    yield Finding("access", FAILURE, f"closed to users: {', '.join(names)}{more}", fix)


def _configuration(where: Where) -> Iterator[str]:
    """The directories in which srun finds the plugin's line. The check of plugstack.conf tells of the files in them."""
    yield os.path.dirname(installation.plugstack_file(where.slurm_conf))
    if not installation.is_slurmds_copy(where.slurm_conf):
        yield os.path.dirname(where.line_file)


def _closed(paths: Iterable[str]) -> Iterator[str]:
    """Yield what keeps this user from `paths`: a directory on the way, or a file that he can neither read nor execute.

    paths: absolute; those that do not exist are left out.
    """
    open_ways: set[str] = set()
    for path in paths:
        above = os.path.dirname(path)
        if above not in open_ways:
            shut = next((part for part in owners.way(above) if not os.access(part, os.X_OK)), "")
            if shut and os.path.lexists(shut):
                yield shut
            if shut:
                continue
            open_ways.add(above)
        if not os.path.lexists(path) or os.access(path, os.R_OK) or _is_program(path):
            continue
        yield path


def _is_program(path: str) -> bool:
    """Whether users can execute a file: a program that they cannot read cannot be traced by them."""
    return os.access(path, os.X_OK) and not os.path.isdir(path)


def records(where: Where) -> Found:
    """Yield whether root can keep records of containers."""
    if "record=no" in _arguments(where):
        yield Finding("records", OK, "none are kept: record=no")
    else:
        yield _folder("records", constants.RECORDS, WARNING, "no record of a container is kept on this node", False)


def job_folders(where: Where) -> Found:
    """Yield whether root can make the directories of jobs."""
    yield _folder("job folders", constants.JOB_FOLDERS, FAILURE, "no container can be made here", True)


def _folder(check: str, path: str, state: str, effect: str, with_parents: bool) -> Finding:
    """The finding on a directory that must be root's and closed to other writers; the first container makes it.

    check, state  name of the check; state of the finding where the directory is not as it must be
    effect        what does not work then
    with_parents  whether its parents must be root's alone too
    """
    held = next(place for place in (path, os.path.dirname(path), "/") if os.path.isdir(place))
    told = unwritable(held, os.statvfs(held))
    if told:
        return Finding(check, state, f"{told[0]}: {effect}", told[1])
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return Finding(check, OK, f"the first container makes {path}")
    if not stat.S_ISDIR(kind) and not os.path.isdir(path):
        return Finding(check, state, f"{path} is no directory: {effect}", f"remove {path}")
    strict = with_parents or stat.S_ISLNK(kind)
    found = [fault for fault in owners.faults([path]) if strict or fault.path == path]
    if found:
        return Finding(check, state, f"{found[0].text}: {effect}", found[0].fix)
    return Finding(check, OK, f"{path} is root's alone")


def unwritable(path: str, found: os.statvfs_result) -> tuple[str, str] | None:
    """(why root can write nothing to the filesystem of the directory `path`, the fix); None if it can.

    found: what statvfs(3) says of it. A filesystem without a limit of files says 0 for their number.
    """
    if found.f_flag & os.ST_RDONLY:
        return f"the filesystem of {path} is read-only", f"mount it for writing: findmnt --target {path} shows it"
    if found.f_blocks and not found.f_bfree:
        return f"the filesystem of {path} is full", f"remove files: df {path} shows it"
    if found.f_files and not found.f_ffree:
        return f"the filesystem of {path} has no room for another file", f"remove files: df -i {path} shows it"
    return None


def _arguments(where: Where) -> tuple[str, ...]:
    """The words of the plugin's line in plugstack.conf; () without one."""
    try:
        lines = plugstack.effective(installation.plugstack_file(where.slurm_conf))
    except OSError:
        return ()
    return next((line.arguments for line in lines if line.plugin == f"{where.prefix}/spank_bollard.so"), ())


def missing_library(said: str, python: str) -> str:
    """The fix where a program or library did not load for want of another one; "" for another reason.

    said    the loader's message
    python  the Python that the runtime was built with, without lib: "python3.11"
    """
    absent = ": cannot open shared object file: No such file"
    name = said.partition(absent)[0].split()[-1:] if absent in said else []
    if not name:
        return ""
    library = name[0].rstrip(":")
    known = next((packages for begin, packages in _PACKAGES if library.startswith(begin.format(python=python))), "")
    return f"install the library {library}" + (f": {known.format(python=python)}" if known else "")


# Packages of the libraries that the installation loads.
_PACKAGES = (
    ("lib{python}", "lib{python} (Debian), python3-libs (EL)"),
    ("libfuse.so.2", "libfuse2 (Debian), fuse-libs (EL)"),
    ("libfuse3.so.", "libfuse3-3 or libfuse3-4 (Debian), fuse3-libs (EL)"),
    ("libsquashfuse", "squashfuse"),
)
