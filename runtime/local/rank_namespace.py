# SPDX-License-Identifier: BSD-3-Clause
"""One user namespace for the ranks of a step, or of an mpirun, that each start `bollard exec`.

The kernel lets a process read the memory of another (CMA, XPMEM, ptrace) only if both are in one user namespace, or
the reader has rights in the other's. So each container has its own mounts, and ranks that start together share this.

A keeper in such a namespace holds the abstract socket address "bollard-ranks-KEY-PID-INODE": its process id, and the
inode of its user namespace. The next rank finds the address in /proc/net/unix and joins. The address "-lock" is held
while a rank makes the namespace. Anybody can take an address, so it is only a hint: setns(2) refuses a namespace of
another user. So that nobody takes "-lock" first, KEY is made from a number that only this user and root can know. Who
sees "-lock" in /proc/net/unix comes too late: by its end there is a namespace, and ranks that wait join that.
"""

from __future__ import annotations

import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket
from errno import EADDRINUSE

from bollard.runtime.system import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PATIENCE = 5.0  # seconds to wait for a rank that makes the namespace
_PAUSE, _PAUSE_MAX = 0.002, 0.02  # seconds
_ROUNDS = 2000  # of SHA-256, about 2 ms: whoever tries all 2**31 numbers of a keyring needs weeks for each of them
_PREFIX = "bollard-ranks-"
_NAME_MAX = 40  # characters of a launcher's name for its ranks; an address has at most 107 bytes
_ALONE = (
    "this rank has a user namespace of its own, so the others cannot read its memory (CMA); "
    "srun --container=IMAGE has one for all ranks"
)

# The number of ranks, as mpirun of Open MPI says it, and that of MPICH and Intel MPI.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_held: list[socket] = []  # the addresses last as long as this process


def key(environ: Mapping[str, str]) -> str:
    """Return KEY for the ranks of this process's step or mpirun; "" where there is one rank, and for root.

    environ: the environment of `bollard exec`.
    """
    ranks = common(environ)
    if not ranks:
        return ""
    from hashlib import sha256

    from bollard.runtime.system import linux

    try:
        secret = linux.user_keyring()
    except OSError:
        secret = 0  # a machine that forbids keyrings: another user can take the lock, and then each rank is told
    digest = f"{secret}.{ranks}".encode()
    for _ in range(_ROUNDS):
        digest = sha256(digest).digest()
    return digest.hex()[:32]


def common(environ: Mapping[str, str]) -> str:
    """Return what the ranks of this process's step or mpirun have in common; "" where there is one rank, and for root.

    environ: the environment of `bollard exec`.
    """
    if os.getuid() == 0:
        return ""  # setns(2) would let root join any user's namespace
    step = environ.get("SLURM_STEP_ID", "")
    if step and environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        ranks = f"{environ.get('SLURM_JOB_ID', '')}.{step}"
    elif any(environ.get(name, "1") != "1" for name in _SIZES):
        ranks = environ.get("PMIX_NAMESPACE") or f"{os.getppid()}.{_inode('/proc/self/ns/pid')}"
    else:
        return ""
    ranks = "".join(c if c.isascii() and c.isalnum() else "." for c in ranks[-_NAME_MAX:])
    return f"{os.getuid()}.{_inode('/proc/self/ns/user')}.{ranks}"


def enter(ranks: str) -> str:
    """Join the user namespace of the other ranks, or make it. Returns a warning, "" for none.

    ranks: from `key`, not empty.

    Raises:
        OSError: the kernel allows the user no user namespace.
    """
    end, pause = time.monotonic() + _PATIENCE, _PAUSE
    lock: socket | None = None
    try:
        while not _join(ranks):
            if lock is not None or time.monotonic() > end:
                identity.new_namespace(False)
                if lock is None:
                    return _ALONE
                break
            lock = _lock(ranks)
            if lock is None:
                time.sleep(pause)
                pause = min(2 * pause, _PAUSE_MAX)
        mark = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        mark.bind(f"\0{_PREFIX}{ranks}-{os.getpid()}-{_inode('/proc/self/ns/user')}")
        _held.append(mark)
        return ""
    finally:
        if lock is not None:
            lock.close()


def _lock(ranks: str) -> socket | None:
    """Return the lock of these ranks; None if another process holds it."""
    lock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        lock.bind(f"\0{_PREFIX}{ranks}-lock".encode())
    except OSError as error:
        lock.close()
        if error.errno != EADDRINUSE:
            raise
        return None
    return lock


def _join(ranks: str) -> bool:
    """Join the user namespace of another rank. Returns whether there is one."""
    for pid, inode in holders(_addresses(), ranks):
        try:
            fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # that rank has ended, or the process is another user's
        try:
            if os.fstat(fd).st_ino == inode:
                identity.join_namespace(fd)
                return True
        except OSError:
            continue  # the namespace is another user's
        finally:
            os.close(fd)
    return False


def holders(text: str, ranks: str) -> list[tuple[int, int]]:
    """Return the process ids of the keepers of `ranks`, and the inodes of their user namespaces.

    text: what /proc/net/unix holds.
    ranks: from `key`.
    """
    found = []
    for line in text.splitlines():
        _, begins, rest = line.partition(f" @{_PREFIX}{ranks}-")
        pid, _, inode = rest.partition("-")
        if begins and pid.isdecimal() and inode.isdecimal():
            found.append((int(pid), int(inode)))
    return found


def _addresses() -> str:
    with open("/proc/net/unix", "rb") as file:
        return file.read().decode("ascii", "replace")


def _inode(path: str) -> int:
    return os.stat(path).st_ino
