# SPDX-License-Identifier: BSD-3-Clause
"""Find processes of this machine in /proc, wait for their end by pidfd, and keep secrets out of core files."""

from __future__ import annotations

import os
import select
import time


def leave_no_core(soft: bool = False) -> tuple[int, int]:
    """Let this process and its children leave no core, as its memory holds a secret. Returns the limits before.

    soft: change the soft limit alone, so that `limit_cores` can give a child the limits before.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    least = 1 if before[1] else 0  # 1 keeps the core from a program too, core(5)
    resource.setrlimit(resource.RLIMIT_CORE, (least, before[1] if soft else least))
    return before


def limit_cores(limits: tuple[int, int]) -> None:
    """Set the soft and the hard limit of core files of this process, in bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, limits)


def handle(pid: int) -> int:
    """Return a pidfd of the process `pid`; -1 if it has ended already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1  # it has ended


def wait(handles: list[int], seconds: float) -> list[int]:
    """Wait for processes to end. Returns the pidfds of `handles` whose processes have not ended within `seconds`."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    waiting = list(handles)
    for handle in waiting:
        poll.register(handle, select.POLLIN)
    while waiting:
        left = deadline - time.monotonic()
        ended = {fd for fd, _ in poll.poll(max(0.0, left) * 1000)}
        for fd in ended:
            poll.unregister(fd)
        waiting = [fd for fd in waiting if fd not in ended]
        if not ended and left <= 0:
            break
    return waiting


def parent(pid: int) -> int:
    """Return the process id of the parent of `pid`, from /proc/PID/stat (proc(5)).

    Raises:
        OSError: the process has ended.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def children(of: int) -> list[int]:
    """Return the process ids of the children of `of`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if parent(int(name)) == of:
                    found.append(int(name))
            except OSError:
                pass  # it has ended
    return found


def in_namespace(mounts: int, keeper: int = 0) -> list[int]:
    """Return the process ids in the mount namespace with the inode `mounts`.

    Leaves out the process `keeper` and its children; 0 leaves out none.
    """
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/mnt").st_ino == mounts:
                pid = int(name)
                if not keeper or (pid != keeper and parent(pid) != keeper):
                    found.append(pid)
        except OSError:
            pass  # it has ended, or belongs to another user
    return found


def kill(pid: int, number: int) -> None:
    """Send the signal `number` to the process `pid`, which may have ended already."""
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it has ended


def resident(pid: int, proc: str = "/proc") -> int:
    """Return the resident memory of a process in bytes, from /proc/PID/statm (proc(5)).

    Raises:
        OSError: the process has ended.
    """
    with open(f"{proc}/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
