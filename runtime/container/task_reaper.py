# SPDX-License-Identifier: BSD-3-Clause
"""Tasks do not outlive their container: whoever sees it go ends them, with a reason on their stderr.

The keeper watches the FUSE server. The task reaper, its child, watches the keeper: it reads the process ids of
admitted tasks from a pipe, and the pipe's end without a farewell means that the keeper was killed.
"""

from __future__ import annotations

import os
import select
from _signal import pidfd_send_signal
from sys import byteorder

from bollard.runtime.container import fuse
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGKILL = 9
# In the place of a process id: the keeper ends as it should; it waits for the file server; it has got its answer.
_FAREWELL = b"\0\0\0\0"
_WAITING = b"\xff\xff\xff\xff"
_ANSWERED = b"\xfe\xff\xff\xff" if byteorder == "little" else b"\xff\xff\xff\xfe"
# How long the keeper waits: until the task is told, and until the file server is ended. A file server whose image is on
# a shared filesystem may wait for that; one that somebody has stopped never answers.
_TOLD_SECONDS, _SILENT_SECONDS = 20, 300


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


class TaskReaper:
    """The keeper's end of the pipe."""

    __slots__ = ("pid", "pipe")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe

    def watch(self, task: int) -> None:
        """Add an admitted task."""
        os.write(self.pipe, task.to_bytes(4, byteorder))

    def waiting(self) -> None:
        """The keeper asks the file server something: it is ended if it does not answer."""
        self._say(_WAITING)

    def answered(self) -> None:
        """The file server has answered."""
        self._say(_ANSWERED)

    def _say(self, word: bytes) -> None:
        try:
            os.write(self.pipe, word)
        except OSError:
            pass  # somebody has killed the task reaper; `watch` starts another

    def dismiss(self) -> None:
        """The keeper ends as it should, or has a new task reaper."""
        try:
            os.write(self.pipe, _FAREWELL)
        except OSError:
            pass  # somebody has killed the task reaper: nothing to tell it
        os.close(self.pipe)


def start(leash: int, close: Iterable[int], server: int = 0, state: int = -1) -> TaskReaper:
    """Fork the task reaper, which closes the descriptors `close` of the keeper's. `leash` is the job's socket (or -1):
    with a byte sent through it root can end this process when the job has ended, as it can the keeper. `server` is the
    process id of the file server, `state` a descriptor of its state (`fuse.open_state`)."""
    reader, writer = os.pipe()
    handle = task_handle(server) if server else -1
    pid = os.fork()
    if pid:
        os.close(reader)
        if handle >= 0:
            os.close(handle)
        return TaskReaper(pid, writer)
    try:
        linux.name_process("bollard-reaper")
        for fd in (writer, *close):
            if fd >= 0:
                os.close(fd)
        try:
            os.write(leash, b"K")
        except OSError:
            pass  # no socket there, but a program's pidfd, or nothing
        _watch(reader, handle, state)
    finally:
        os._exit(0)


def _judge(waited: int, stopped: int, tasks: dict[int, int], server: int) -> None:
    """The keeper has waited so many seconds for the file server, of which that was stopped for so many."""
    if stopped == fuse.STOPPED_SECONDS or waited == _SILENT_SECONDS:
        try:
            pidfd_send_signal(server, _SIGKILL)
        except OSError:
            pass  # it has ended by itself
    elif waited == _TOLD_SECONDS and tasks:
        line = f"bollard: the container's file server on {os.uname().nodename} does not answer; still waiting\n"
        _tell(list(tasks.values())[-1], line.encode())


def _watch(reader: int, server: int, state: int) -> None:
    """Until the farewell; ends the tasks if there is none."""
    tasks: dict[int, int] = {}  # pidfd: pid
    waited = -1  # seconds that the keeper has waited for the file server; -1: it does not
    stopped = 0
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        found = poll.poll(-1 if waited < 0 else 1000)
        if not found:
            waited, stopped = waited + 1, stopped + 1 if fuse.is_stopped(state) else 0
            _judge(waited, stopped, tasks, server)
        for fd, _ in found:
            if fd != reader:
                poll.unregister(fd)
                os.close(fd)
                del tasks[fd]
                continue
            message = os.read(reader, 4)  # writes of 4 bytes to a pipe are atomic
            if message == _FAREWELL:
                return
            if message in (_WAITING, _ANSWERED):
                waited, stopped = 0 if message == _WAITING and server >= 0 else -1, 0
                continue
            if not message:
                reason = f"the container's keeper on {os.uname().nodename} was killed; the task is ended too"
                end_tasks([(pid, handle) for handle, pid in tasks.items()], reason)
                return
            pid = int.from_bytes(message, byteorder)
            handle = task_handle(pid)
            if handle >= 0:
                tasks[handle] = pid
                poll.register(handle, select.POLLIN)
