# SPDX-License-Identifier: BSD-3-Clause
"""The keeper's loop: who is in the container, and how long it stays.

A peer that sends "T" is a task and goes in (entry.py). One that sends "L" holds a lifeline: the keeper stays until all
lifelines are gone. Only root may hold a lifeline of a job's container: the slurmstepd of each step does.
"""

from __future__ import annotations

import os
import select
import time
from _socket import socket
from errno import ECONNABORTED, ENOTCONN

from bollard.runtime import constants
from bollard.runtime.container import entry, fuse, task_reaper, wire
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.container import Container
    from bollard.runtime.container.save import Saver

# A launcher says what it has to say at once.
PEER_SECONDS = 10.0
# Who may hold a lifeline: of a job's container root alone, whose user may be root himself; else its user.
ANYONE, ROOT, USER_IS_ROOT = range(3)


class AdmissionLoop:
    """The keeper's loop: it lets tasks in, keeps lifelines, and decides when the container ends."""

    def __init__(
        self, container: Container, listener: int, job: int, watcher: task_reaper.TaskReaper, holder: int = ANYONE
    ) -> None:
        self.container = container
        self.holder = holder  # who may hold a lifeline
        self.listener = socket(fileno=listener)
        self.listener.setblocking(False)
        self.job = job  # hangs up when the job has ended on this node; -1 when nothing tells
        self.watcher = watcher
        self.server = task_reaper.task_handle(container.server) if container.server else -1
        self.lifelines: dict[int, socket] = {}
        self.tasks: dict[int, int] = {}  # pidfd: pid
        self.steps: dict[int, str] = {}  # pid: step
        self.finished: set[int] = set()  # pids of tasks that have told so
        # Tasks that will tell of their end: connection, its pid, the file to save the container to.
        self.savers: dict[int, tuple[socket, int, str]] = {}
        self.saves: list[tuple[socket, str]] = []  # those that wait for their file; the first is being written
        self.begun = False
        self.by_slurm = False  # a lifeline came: slurmstepd decides when it is over
        self.idle_since = time.monotonic()  # when the last lifeline went
        self.over = False  # another keeper of the job has asked this idle one to end
        self.poll = select.poll()
        for fd in (listener, job, self.server):
            if fd >= 0:
                self.poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Until the step has ended, and the job where that is known; or, with no lifeline, the last task."""
        try:
            self._loop()
        except Exception as error:
            self._end(f"the container's keeper failed ({type(error).__name__}: {error}) and")
        if self.container.servers:
            self.container.servers.end()
        self.container.record.end()
        self.watcher.dismiss()

    def _loop(self) -> None:
        while not self.over and (
            not self.begun or self.job >= 0 or self.lifelines or (self.tasks and not self.by_slurm)
        ):
            for fd, _ in self.poll.poll():
                if fd == self.listener.fileno():
                    self._accept()
                elif fd == self.server:
                    self._end("the container's file server")
                    gone = f"the container's file server on {self.container.node} has ended"
                    wire.refuse_waiting(self.listener, BollardError(gone, "submit again"))
                    return
                elif fd == self.job:
                    self.poll.unregister(fd)
                    self.job = -1
                    self.begun = True  # and over: nobody will come any more
                elif fd in self.tasks:
                    self._forget(self.tasks[fd])
                    if not self.tasks and self.container.record.pending:
                        self.container.record.write()
                elif fd in self.savers:
                    self._done(fd)
                elif self.container.saver and fd == self.container.saver.answer:
                    self._saved(self.container.saver)
                elif fd in self.lifelines:
                    self.poll.unregister(fd)
                    self.lifelines.pop(fd).close()
                    self.idle_since = time.monotonic()
        if self.tasks:
            self._end(f"the instance {self.container.instance}" if self.container.instance else "slurmstepd")
        if self.container.instance:
            task_reaper.end_members()

    def _done(self, fd: int) -> None:
        """A task has ended: the last one of its step on the node waits until the container is saved."""
        self.poll.unregister(fd)
        peer, pid, target = self.savers.pop(fd)
        try:
            told = peer.recv(1) == wire.DONE
        except OSError:
            told = False
        if not told:  # it was ended; so nothing is saved
            peer.close()
            return
        self.finished.add(pid)
        step = self.steps.get(pid)
        if target and self.container.saver and not any(self.steps.get(other) == step for other in self._unfinished()):
            self.saves.append((peer, target))
            if len(self.saves) == 1:
                self._save(self.container.saver)
        else:
            self._answer(peer, "")

    def _unfinished(self) -> list[int]:
        return [pid for pid in self.tasks.values() if pid not in self.finished]

    def _save(self, saver: Saver) -> None:
        """Begin with the first file that is waited for; tasks come and go meanwhile."""
        saver.start(self.saves[0][1])
        self.poll.register(saver.answer, select.POLLIN)

    def _saved(self, saver: Saver) -> None:
        self.poll.unregister(saver.answer)
        peer, _ = self.saves.pop(0)
        self._answer(peer, saver.result())
        if self.saves:
            self._save(saver)

    def _answer(self, peer: socket, text: str) -> None:
        """Let a task that has told of its end go; `text` is what went wrong."""
        # A step's later tasks, and later steps, still need the servers; by hand the last task is the end.
        if self.container.servers and not self.by_slurm and not self.saves and not self._unfinished():
            self.container.servers.end()
        try:
            wire.send(peer, wire.ERROR if text else wire.OK, text.encode("utf-8", "replace") + b"\0")
        except OSError:
            pass  # it was ended meanwhile
        peer.close()

    def _end(self, who: str) -> None:
        reason = f"{who} on {self.container.node} ended; the task in its container is ended too"
        task_reaper.end_tasks([(pid, handle) for handle, pid in self.tasks.items()], reason)

    def _accept(self) -> None:
        try:
            number, _ = self.listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            return  # gone again
        peer = socket(fileno=number)
        peer.settimeout(PEER_SECONDS)
        pid, here = 0, False  # here: it has the way in

        def entering(step: str) -> None:
            nonlocal here
            if not here:
                here = True
                if watched:
                    self.steps[pid] = step
                self.container.record.entered(step)
                self.begun = True

        try:
            pid, uid = wire.credentials(peer)
            # A job's socket is a file that lets in its user and root alone; root has no number of its own in a user
            # namespace.
            mine = uid == os.getuid()
            root = self.holder == USER_IS_ROOT or (self.holder == ROOT and not mine)
            if not mine and not root:
                return
            kind = wire.receive(peer, 1)
            if kind == wire.QUESTION:
                wire.send(peer, wire.OK, self.state())
                return  # no task: nobody waits for its end
            if kind == wire.END_IDLE:
                self.over = self._is_idle()
                return
            if kind == wire.LIFELINE:
                if root or self.holder == ANYONE:
                    self._hold(peer)
                return
            if not mine:
                return
            watched = self._watch(pid)
            frame = wire.receive_frame(peer)  # first: a refusal beside unread words would reset the connection
            self._ask_server()
            target = entry.admit(self.container, peer, frame, entering)
            if target or self.container.servers:
                self.savers[number] = (peer, pid, target)
                self.poll.register(number, select.POLLIN)
        except Exception as error:  # whatever one peer says or does, the others' container stays
            if not here:
                self._forget(pid)  # it ends by itself, with the reason
            wire.refuse(peer, error)
        finally:
            if number not in self.lifelines and number not in self.savers:
                peer.close()

    def _ask_server(self) -> None:
        """Raise where the file server does not answer any more. It is asked before each task goes in, for a task that
        waits for it cannot be ended. The reaper sees to it that this comes back."""
        if self.container.server <= 0:
            return
        begin = time.monotonic()
        self.watcher.waiting()
        try:
            os.fstatvfs(self.container.image_root)  # the kernel never answers this by itself
        except OSError as error:
            # Else it has no such answer; or has just ended, which the loop tells.
            if error.errno in (ENOTCONN, ECONNABORTED) and time.monotonic() - begin > fuse.STOPPED_SECONDS - 1:
                raise fuse.silent(self.container.spec.asked) from None
        finally:
            self.watcher.answered()

    def _hold(self, peer: socket) -> None:
        """Stay for as long as `peer` is open, unless its step needs a working directory that is not here."""
        cwd = spec_text.pairs(wire.receive_frame(peer, constants.CWD_MAX))
        if cwd and not self._shows(cwd[0][1]):
            peer.sendall(wire.ERROR)
            return
        number = peer.fileno()
        # Its end may have come already: poll tells, and that too ends this container.
        self.lifelines[number] = peer
        self.poll.register(number, select.POLLIN)
        self.begun = self.by_slurm = True
        peer.sendall(wire.OK)

    def _shows(self, cwd: str) -> bool:
        """Whether a step can work there: in the directory as it was called, and in what links lead to."""
        self.watcher.waiting()
        try:
            names = {cwd, os.path.realpath(cwd)}
        finally:
            self.watcher.answered()
        return all(plan.shows(self.container.plan.mounts, name, self.container.spec) for name in names)

    def _is_idle(self) -> bool:
        return self.by_slurm and not self.lifelines and not self.tasks

    def state(self) -> bytes:
        """The record, and the tasks that are there now: for `bollard ps`."""
        there = ",".join(f"{pid}:{self.steps[pid]}" for pid in self.tasks.values() if pid in self.steps)
        idle = f"{time.monotonic() - self.idle_since:.3f}" if self._is_idle() else ""
        return spec_text.text([*self.container.record.values(), ("there", there), ("idle", idle)]) + b"\0"

    def _forget(self, pid: int) -> None:
        """A task has ended, or was not let in."""
        for handle in [handle for handle, task in self.tasks.items() if task == pid]:
            self.poll.unregister(handle)
            os.close(handle)
            del self.tasks[handle]
        self.steps.pop(pid, None)
        self.finished.discard(pid)

    def _watch(self, pid: int) -> bool:
        """Whether that task is there."""
        handle = task_reaper.task_handle(pid)
        if handle >= 0:
            self.tasks[handle] = pid
            self.poll.register(handle, select.POLLIN)
            try:
                self.watcher.watch(pid)
            except OSError:  # somebody killed the task reaper: another one takes over
                self.watcher.dismiss()
                self.watcher = task_reaper.start(
                    self.job, self.container.private(self.listener.fileno()),
                    self.container.server, self.container.server_state,
                )  # fmt: skip
                for task in self.tasks.values():
                    self.watcher.watch(task)
        return handle >= 0
