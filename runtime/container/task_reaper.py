# SPDX-License-Identifier: BSD-3-Clause
"""Tasks do not outlive their container: whoever sees it go ends them, with a reason on their stderr.

The keeper watches the FUSE server. The guard, its child, watches the keeper: it reads the process ids of
admitted tasks from a pipe, and the pipe's end without a farewell means that the keeper was killed.
"""

from __future__ import annotations

import os
import select
from _signal import pidfd_send_signal
from sys import byteorder

from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGKILL = 9
_FAREWELL = b"\0\0\0\0"


def task_handle(pid: int) -> int:
    """A pidfd of a task, -1 when it has ended already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def end_tasks(tasks: Iterable[tuple[int, int]], reason: str) -> None:
    """Kill every (pid, pidfd) of `tasks`; the first that can be told gets `reason` on its stderr."""
    told = False
    for pid, handle in tasks:
        told = told or _tell(pid, f"bollard: {reason}\n".encode())
        try:
            pidfd_send_signal(handle, _SIGKILL)
        except OSError:
            pass  # it has ended by itself


def end_members() -> None:
    """Kill every other process in our mount namespace that is not the keeper's own: what tasks of an instance
    have left running, where nobody else is there to do it."""
    own = os.getpid()
    try:
        here, names = os.stat("/proc/self/ns/mnt").st_ino, os.listdir("/proc")
    except OSError:
        return  # the container has no /proc, or one of its own
    for name in names:
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/mnt").st_ino == here and _parent(name) != own != int(name):
                os.kill(int(name), _SIGKILL)
        except OSError:
            pass  # it has ended, or is somebody else's


def _parent(pid: str) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _tell(pid: int, line: bytes) -> bool:
    """Write to the stderr of a task, which is a pipe to slurmstepd, a terminal or a file."""
    try:
        fd = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(fd, line) > 0
    except OSError:
        return False
    finally:
        os.close(fd)


class Guard:
    """The keeper's end of the pipe."""

    __slots__ = ("pid", "pipe")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe

    def watch(self, task: int) -> None:
        """Add an admitted task."""
        os.write(self.pipe, task.to_bytes(4, byteorder))

    def dismiss(self) -> None:
        """The keeper ends as it should, or has a new guard."""
        try:
            os.write(self.pipe, _FAREWELL)
        except OSError:
            pass  # somebody has killed the guard: nothing to tell it
        os.close(self.pipe)


def start(leash: int, close: Iterable[int]) -> Guard:
    """Fork the guard, which closes the descriptors `close` of the keeper's. `leash` is the job's socket (or -1):
    with a byte sent through it root can end this process when the job has ended, as it can the keeper."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        return Guard(pid, writer)
    try:
        linux.name_process("bollard-guard")
        for fd in (writer, *close):
            if fd >= 0:
                os.close(fd)
        try:
            os.write(leash, b"K")
        except OSError:
            pass  # no socket there, but a program's pidfd, or nothing
        _watch(reader)
    finally:
        os._exit(0)


def _watch(reader: int) -> None:
    """Until the farewell; ends the tasks if there is none."""
    tasks: dict[int, int] = {}  # pidfd: pid
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != reader:
                poll.unregister(fd)
                os.close(fd)
                del tasks[fd]
                continue
            message = os.read(reader, 4)  # writes of 4 bytes to a pipe are atomic
            if message == _FAREWELL:
                return
            if not message:
                reason = f"the container's keeper on {os.uname().nodename} was killed; the task is ended too"
                end_tasks([(pid, handle) for handle, pid in tasks.items()], reason)
                return
            pid = int.from_bytes(message, byteorder)
            handle = task_handle(pid)
            if handle >= 0:
                tasks[handle] = pid
                poll.register(handle, select.POLLIN)
