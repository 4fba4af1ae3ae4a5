# SPDX-License-Identifier: BSD-3-Clause
"""Read the files that the first task needs into the page cache, while Slurm still starts that task.

Every program first reads the loader, the C library and its own file. When the task reads them block by block through
the new mount, that is most of a cold start of an image with gzip blocks. So a child of the keeper reads them before.
"""

from __future__ import annotations

import os

from bollard.runtime.container import imports
from bollard.runtime.system import linux

# The loader and the C library of glibc (Debian's and other layouts) and of musl. A missing file costs one look-up.
_MACHINE = os.uname().machine
FILES = (
    {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}.get(_MACHINE, ""),
    "/etc/ld.so.cache",
    f"/lib/{_MACHINE}-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    f"/lib/ld-musl-{_MACHINE}.so.1",
)
FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
# How many bytes of one file are read: a start does not need more.
SIZE_MAX = 4 << 20
_PART = 128 << 10
_SIGKILL = 9


def start(root: int, program: str) -> None:
    """Fork a process that reads FILES and `program` (as the user named it) beneath the directory `root`."""
    parent = os.getpid()
    if os.fork():
        return
    try:
        linux.die_with_parent(_SIGKILL, parent)
        imports.end()  # the keeper's pivot_root(2) moves this process into the container too
        for path in (*FILES, *_candidates(program)):
            if path and _read(root, path) and path not in FILES:
                break
    finally:
        os._exit(0)


def _candidates(program: str) -> tuple[str, ...]:
    if "/" in program:
        return (program,) if program.startswith("/") else ()
    return tuple(f"{folder}/{program}" for folder in FOLDERS) if program else ()


def _read(root: int, path: str) -> bool:
    """Read the file `path` beneath `root`. Returns whether it could be read; who needs it reports why not."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return False  # who needs the file says why it cannot be read
    size = 0
    try:
        while size < SIZE_MAX and (part := os.read(fd, _PART)):
            size += len(part)
    except OSError:
        return False  # the same
    finally:
        os.close(fd)
    return True
