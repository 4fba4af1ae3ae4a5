# SPDX-License-Identifier: BSD-3-Clause
"""Directories that only their user may change: made with mode 0700, entered without symlinks, checked for others."""

from __future__ import annotations

import contextlib
import os
import stat

from bollard.runtime.errors import BollardError
from bollard.runtime.system import owners

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def fault(info: os.stat_result) -> str:
    """Return why a directory is not this user's alone; "" if it is. `info` comes from lstat or fstat."""
    if not stat.S_ISDIR(info.st_mode):
        return "is not a directory"
    if info.st_uid != os.geteuid():
        return "belongs to another user"
    return "others may write into it" if info.st_mode & _OTHERS else ""


def place_fault(path: str, *, strict: bool) -> str:
    """Return why another user could exchange the entries of a directory, or the directory itself; "" if nobody can.

    The directory must belong to this user or to root, and others may write into it only if it is sticky.

    path: the directory; symlinks that this user or root has made are followed.
    strict: whether all directories and symlinks on the way must be so too. Otherwise only those are refused that any
        user could have made.
    """
    real = os.path.realpath(path)
    trusted = (os.geteuid(), 0, os.stat("/").st_uid)  # in a user namespace, the owner of / is root
    for part in owners.way(os.path.abspath(path)):
        info = os.lstat(part)
        theirs = info.st_uid not in trusted
        if stat.S_ISLNK(info.st_mode):
            if theirs and (strict or os.stat(os.path.dirname(part)).st_mode & stat.S_IWOTH):
                return f"{part} is a link of another user"
            continue
        if not stat.S_ISDIR(info.st_mode):
            return f"{part} is not a directory"
        close = strict or part == real
        if close and theirs:
            return f"{part} belongs to another user"
        if info.st_mode & (_OTHERS if close else stat.S_IWOTH) and not info.st_mode & stat.S_ISVTX:
            return f"others may write into {part}, which is not sticky"
    return ""


def pattern_fault(pattern: str) -> str:
    """Return why users could exchange each other's directories of a pattern such as /scratch/%u; "" if none could.

    A directory that is not on this host is not checked: who uses it checks it there.
    """
    above = os.path.dirname(pattern.partition("%u")[0])
    return place_fault(above, strict=True) if above and os.path.exists(above) else ""


def make(path: str) -> None:
    """Make a directory and its missing parents, each with mode 0700. os.makedirs gives the mode to the last one alone.

    Raises:
        OSError: one of them cannot be made.
    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster; who uses it checks the owner
            os.mkdir(one, 0o700)


def enter(above: int, name: str, path: str, *, create: bool = False) -> int:
    """Return a descriptor of a directory of this user alone. A symlink is not followed.

    above: descriptor of the directory that has it.
    name: its name there.
    path: its path, for messages.
    create: make it with mode 0700 if it is missing.

    Raises:
        BollardError: it is a symlink or a file, it belongs to another user, or others may write into it.
        OSError: it cannot be made or opened.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except NotADirectoryError:
        raise BollardError(f"{path}: is a link or a file, not a directory", "remove it, or choose another") from None
    wrong = fault(os.fstat(fd))
    if wrong:
        os.close(fd)
        raise BollardError(f"{path}: {wrong}", f"chmod go-w {path}" if "write" in wrong else "choose another")
    return fd
