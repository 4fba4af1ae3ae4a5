# SPDX-License-Identifier: BSD-3-Clause
"""Remove entries of a cache over its limit, the longest unused first; never what is in use.

An entry is in use if a container has locked it (flock, see the keeper), or if a job of Slurm names it as its container.
An entry that was used a moment ago counts too: between the submission and Slurm's record nothing else shows its use.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Sequence

FRESH = 600  # seconds after the last use in which an image stays, whatever the limit
# Where Slurm does not tell which images waiting jobs name: how long one stays after its last use.
UNKNOWN = 14 * 86400  # seconds


def trim(entries: Sequence[tuple[str, str]], limit: int, shared: bool) -> list[str]:
    """Remove entries until the others have `limit` bytes; return the paths of those removed.

    The caller holds the exclusive lock of the cache, so that nobody fetches.

    entries: type and path of each entry.
    limit: bytes.
    shared: it is the site's cache, so that the jobs of all users count.
    """
    sizes = {path: _size(path) for _, path in entries}
    total = sum(sizes.values())
    gone: list[str] = []
    if total <= limit:
        return gone
    wanted, now = wanted_by_jobs(shared), time.time()
    for kind, path in sorted(entries, key=lambda entry: last_use(entry[1])):
        if total <= limit:
            break
        unused = now - last_use(path)
        # A blob is in use only while somebody fetches. An image can be that of a job.
        if kind != "blob" and (unused < FRESH or (unused < UNKNOWN if wanted is None else path in wanted)):
            continue
        if _free(path):
            total -= sizes[path]
            gone.append(path)
    return gone


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0  # another process has removed it


def last_use(path: str) -> float:
    """Return when a file was last read or changed, in seconds since 1970."""
    try:
        info = os.lstat(path)
    except OSError:
        return 0.0  # another process has removed it: there is nothing left to remove
    return max(info.st_atime, info.st_mtime)


def _free(path: str) -> bool:
    """Remove an entry that no container has locked; return whether it is removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # it is gone, or not ours: then it stays
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:
        return False  # a container uses it, or the filesystem has no locks and nobody knows
    finally:
        os.close(fd)
    return True


def wanted_by_jobs(shared: bool) -> frozenset[str] | None:
    """Return the images that jobs of this user, or of all, name; None if Slurm is there and does not tell.

    Slurm keeps the image's path as the container of a job since 21.08.
    """
    argv = ["squeue", "--noheader", "--Format=Container:8192", *([] if shared else ["--me"])]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
    except FileNotFoundError:
        return frozenset()  # no Slurm here, so no job waits
    except (OSError, subprocess.TimeoutExpired):
        return None  # the caller then keeps all that was used within UNKNOWN
    if done.returncode:
        return None
    return frozenset(os.fsdecode(line.strip()) for line in done.stdout.splitlines() if line.strip())
