# SPDX-License-Identifier: BSD-3-Clause
"""End the tasks of a container that has ended, with the reason on their stderr.

The keeper watches the FUSE server. The task reaper, a child of the keeper, watches the keeper. It reads the process ids
of admitted tasks from a pipe. The end of the pipe without _FAREWELL means that the keeper was killed.
"""

from __future__ import annotations

import os
import select
from _signal import pidfd_send_signal
from sys import byteorder

from bollard.runtime.container import fuse, memory_limit
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGKILL = 9
# Messages in the place of a process id: the keeper ends normally; it waits for the file server; it has got an answer.
_FAREWELL = b"\0\0\0\0"
_WAITING = b"\xff\xff\xff\xff"
_ANSWERED = b"\xfe\xff\xff\xff" if byteorder == "little" else b"\xff\xff\xff\xfe"
# How long the keeper waits for the file server until the task gets a message, and until the file server is killed. A
# file server may wait for a shared filesystem, so the second time is long. One that is stopped is killed earlier.
_TOLD_SECONDS, _SILENT_SECONDS = 20, 300


def task_handle(pid: int) -> int:
    """Return a pidfd of the task `pid`; -1 if it has ended already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1  # it has ended: there is nothing to end


# A descriptor of /proc. By path it cannot be found in the container once the image's file server has ended: "/" is its.
_proc = -1


def hold_proc() -> None:
    """Open /proc for `end_tasks`. Call it before the process enters the container."""
    global _proc
    if _proc < 0:
        _proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def end_tasks(tasks: Iterable[tuple[int, int]], reason: str) -> bool:
    """Kill every (pid, pidfd) of `tasks`. Writes `reason` to the stderr of the first task that takes it.

    Returns whether one took it.
    """
    told = False
    for pid, handle in tasks:
        told = told or _tell(pid, f"bollard: {reason}\n".encode())
        try:
            pidfd_send_signal(handle, _SIGKILL)
        except OSError:
            pass  # it has ended by itself
    return told


def end_members() -> None:
    """Kill what the tasks of an instance have left: all in this mount namespace but the keeper and its children.

    In a job, Slurm does this.
    """
    own = os.getpid()
    try:
        here, names = os.stat("/proc/self/ns/mnt").st_ino, os.listdir("/proc")
    except OSError:
        return  # the container has no /proc, or the /proc of its own process namespace
    for name in names:
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/mnt").st_ino == here and _parent(name) != own != int(name):
                os.kill(int(name), _SIGKILL)
        except OSError:
            pass  # it has ended, or belongs to another user


def _parent(pid: str) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _tell(pid: int, line: bytes) -> bool:
    """Write `line` to the stderr of a task: a pipe to slurmstepd, a terminal or a file. Returns whether it worked."""
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(f"{pid}/fd/2", flags, dir_fd=_proc) if _proc >= 0 else os.open(f"/proc/{pid}/fd/2", flags)
    except OSError:
        return False  # it has ended, or is another user's by now: the next task is told
    try:
        return os.write(fd, line) > 0
    except OSError:
        return False
    finally:
        os.close(fd)


class TaskReaper:
    """The keeper's side of the task reaper: the pipe to it."""

    __slots__ = ("pid", "pipe")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe

    def watch(self, task: int) -> None:
        """Add an admitted task. Raises OSError if the task reaper was killed."""
        os.write(self.pipe, task.to_bytes(4, byteorder))

    def waiting(self) -> None:
        """The keeper waits for the file server: the task reaper kills that if it does not answer."""
        self._say(_WAITING)

    def answered(self) -> None:
        """The file server has answered."""
        self._say(_ANSWERED)

    def _say(self, word: bytes) -> None:
        try:
            os.write(self.pipe, word)
        except OSError:
            pass  # the task reaper was killed; the next `watch` fails and the keeper starts another

    def dismiss(self) -> None:
        """End the task reaper: the keeper ends normally, or has a new task reaper."""
        try:
            os.write(self.pipe, _FAREWELL)
        except OSError:
            pass  # the task reaper was killed
        os.close(self.pipe)


def start(job_socket: int, close: Iterable[int], server: int = 0, state: int = -1) -> TaskReaper:
    """Fork the task reaper.

    job_socket  the job socket, or -1. A byte through it makes this process known to root, which can then end it when
                the job has ended, as it can end the keeper.
    close       descriptors of the keeper that the task reaper closes
    server      process id of the file server, 0 for none
    state       what `fuse.open_state` returned for the file server, or -1
    """
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
            os.write(job_socket, b"K")
        except OSError:
            pass  # `job_socket` is -1, or a pidfd of a program
        _watch(reader, handle, state)
    finally:
        os._exit(0)


def _judge(waited: int, stopped: int, tasks: dict[int, int], server: int) -> None:
    """Kill the file server, or tell a task of the delay.

    The keeper has waited `waited` seconds for the file server, which was stopped for the last `stopped` of them.
    `server` is the file server's pidfd.
    """
    if stopped == fuse.STOPPED_SECONDS or waited == _SILENT_SECONDS:
        try:
            pidfd_send_signal(server, _SIGKILL)
        except OSError:
            pass  # it has ended by itself
    elif waited == _TOLD_SECONDS and tasks:
        line = f"bollard: the container's file server on {os.uname().nodename} does not answer; still waiting\n"
        _tell(list(tasks.values())[-1], line.encode())


def _watch(reader: int, server: int, state: int) -> None:
    """Read messages until _FAREWELL. Ends the tasks if the pipe ends without it."""
    tasks: dict[int, int] = {}  # pidfd: pid
    waited = -1  # seconds that the keeper has waited for the file server; -1 while it does not wait
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
                cause, hint = memory_limit.told()
                how = f"ended {cause}" if cause else "killed"
                reason = f"the container's keeper on {os.uname().nodename} was {how}"
                reason += "; the task is ended too" + (f"; {hint}" if hint else "")
                end_tasks([(pid, handle) for handle, pid in tasks.items()], reason)
                return
            pid = int.from_bytes(message, byteorder)
            handle = task_handle(pid)
            if handle >= 0:
                tasks[handle] = pid
                poll.register(handle, select.POLLIN)
