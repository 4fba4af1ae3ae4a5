# SPDX-License-Identifier: BSD-3-Clause
"""Read ahead, while Slurm is still on its way to the first task, what that task will read first.

Every program begins with the loader, the C library and its own file. Read through the fresh mount by the task
itself, block after block, they are most of a cold start of an image with gzip blocks; read here meanwhile, they
lie in the page cache when the task comes.
"""

from __future__ import annotations

import os

from bollard.runtime.container import imports
from bollard.runtime.system import linux

# The loader and the C library of glibc (Debian's and other layouts) and musl; those an image lacks cost a look-up.
_MACHINE = os.uname().machine
FILES = (
    {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}.get(_MACHINE, ""),
    "/etc/ld.so.cache",
    f"/lib/{_MACHINE}-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    f"/lib/ld-musl-{_MACHINE}.so.1",
)
FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
# More of one file is not needed for a start.
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
        imports.end()  # the keeper's pivot_root takes this process along
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
    """Read the regular file `path`; whether there was one."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return False
    size = 0
    try:
        while size < SIZE_MAX and (part := os.read(fd, _PART)):
            size += len(part)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
