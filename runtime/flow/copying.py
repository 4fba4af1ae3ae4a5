# SPDX-License-Identifier: BSD-3-Clause
"""Copies of files and directories to places that other users may write to. No link that somebody planted is followed.

A file is written under a random name that did not exist, and gets its own name when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from bollard.runtime.errors import BollardError
from bollard.runtime.system import tree

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def folder(path: str) -> Iterator[int]:
    """Make the directory `path` if it is missing; yield a descriptor of it."""
    os.makedirs(path, exist_ok=True)
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def new_file(above: int, name: str, mode: int) -> Iterator[BinaryIO]:
    """Yield a new file, open for reading and writing. It gets its name and mode when the block ends without an error.

    above: descriptor of its directory.
    name: its name. What has the name is replaced; a symlink is replaced itself.
    mode: its permission bits.
    """
    made = _unused()
    fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=above)
    try:
        with open(fd, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(fd, mode)
        os.replace(made, name, src_dir_fd=above, dst_dir_fd=above)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(made, dir_fd=above)
        raise


def _unused() -> str:
    return f".bollard-{secrets.token_hex(16)}.part"


def usual_mode() -> int:
    """Return the permission bits of a new file, by the umask."""
    return 0o666 & ~tree.umask()


def directory(source: str, target: str) -> None:
    """Copy a directory with its symlinks, modes and times, also into one that is there.

    Raises:
        BollardError: the target, or a directory in it, is a symlink; or the source has a device, socket or fifo.
        OSError: a file cannot be read or written.
    """
    target = target.rstrip("/")
    with folder(source) as there, folder(os.path.dirname(target)) as above:
        try:
            _directory(there, above, os.path.basename(target), target)
        except RecursionError:
            raise BollardError(f"{source}: its directories are nested too deep to be copied", "pack it first") from None


def _directory(source: int, above: int, name: str, path: str) -> None:
    fresh = True
    try:
        os.mkdir(name, 0o700, dir_fd=above)  # others can enter it when it is complete
    except FileExistsError:
        fresh = False
    try:
        here = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise BollardError(
            f"{path}: is a link or a file, where a directory is to be written", "name the directory itself"
        ) from None
    try:
        for entry in sorted(os.listdir(source)):
            info = os.stat(entry, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                below = os.open(entry, _FOLDER | os.O_NOFOLLOW, dir_fd=source)
                try:
                    _directory(below, here, entry, f"{path}/{entry}")
                finally:
                    os.close(below)
            elif stat.S_ISLNK(info.st_mode):
                made = _unused()
                os.symlink(os.readlink(entry, dir_fd=source), made, dir_fd=here)
                os.replace(made, entry, src_dir_fd=here, dst_dir_fd=here)
            else:
                _file(source, here, entry, f"{path}/{entry}")
        if fresh:
            info = os.fstat(source)
            os.fchmod(here, stat.S_IMODE(info.st_mode) & 0o777 | os.fstat(here).st_mode & stat.S_ISGID)
            os.utime(here, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(here)


def _file(source: int, above: int, name: str, path: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    with open(fd, "rb") as old:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BollardError(f"{path}: is neither a file, a directory nor a link", "take it out of the directory")
        with new_file(above, name, stat.S_IMODE(info.st_mode) & 0o777) as made:
            shutil.copyfileobj(old, made, 1 << 20)
            made.flush()
            os.utime(made.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
