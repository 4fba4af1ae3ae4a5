# SPDX-License-Identifier: BSD-3-Clause
"""The keeper's loop: it lets tasks in and decides when the container ends.

A peer that sends "T" is a task and is let in (entry.py). A peer that sends "L" holds a lifeline: the keeper stays until
all lifelines are closed. Only root may hold a lifeline of a job's container. The slurmstepd of each step holds one.
"""

from __future__ import annotations

import os
import select
import time
from _socket import socket
from errno import ECONNABORTED, ENOTCONN

from bollard.runtime import constants
from bollard.runtime.container import entry, fuse, memory_limit, renewal, task_reaper, wire
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.container import Container
    from bollard.runtime.container.save import Saver

# How long a peer may take to send its request. A launcher sends it at once.
PEER_SECONDS = 10.0
# Who may hold a lifeline. ANYONE: the container's user, outside Slurm. ROOT: only root, for a job's container.
# USER_IS_ROOT: the same, and the job's user is root.
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
        self.job = job  # hangs up when the job has ended on this node; -1 when there is no such descriptor
        self.watcher = watcher
        self.server = task_reaper.task_handle(container.server) if container.server else -1
        self.lifelines: dict[int, socket] = {}
        self.tasks: dict[int, int] = {}  # pidfd: pid
        self.steps: dict[int, str] = {}  # pid: step
        self.finished: set[int] = set()  # pids of tasks that have sent wire.DONE
        # Tasks that send wire.DONE at their end. Descriptor: (connection, pid, file to save the container to or "").
        self.savers: dict[int, tuple[socket, int, str]] = {}
        self.saves: list[tuple[socket, str]] = []  # (task that waits, file); the first file is being written
        self.begun = False
        self.by_slurm = False  # a lifeline came: slurmstepd decides when the container ends
        self.idle_since = time.monotonic()  # when the last lifeline was closed
        self.over = False  # another keeper of the job has asked this idle keeper to end, or follows it
        self.waiting = renewal.Waiting()
        self.successor: socket | None = None  # open until this process has ended: the next keeper waits for that
        self.poll = select.poll()
        for fd in (listener, job, self.server):
            if fd >= 0:
                self.poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Serve until the step has ended, and the job where `job` is known. Without a lifeline: until the last task."""
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
            for fd, _ in self.poll.poll(self.waiting.milliseconds()):
                if fd == self.server:
                    self._end_without_server()
                    return
                self._handle(fd)
            self._decide()
        if self.tasks:
            self._end(f"the instance {self.container.instance}" if self.container.instance else "slurmstepd")
        if self.container.instance:
            task_reaper.end_members()

    def _end_without_server(self) -> None:
        """End the tasks, because the file server has ended: they could read no file of the image any more."""
        reason, hint = memory_limit.told("submit again")
        if not self._end("the container's file server", reason, hint if reason else ""):
            self._tell_steps(constants.WIRE_MEMORY_LIMIT if reason else constants.WIRE_SERVER_ENDED)
        gone = f"the container's file server on {self.container.node} "
        gone += f"was ended {reason}" if reason else "has ended"
        wire.refuse_waiting(self.listener, BollardError(gone, hint))

    def _handle(self, fd: int) -> None:
        """Handle what the descriptor `fd` reports: a connection, the end of a task, of a step or of the job."""
        if fd == self.listener.fileno():
            self._accept()
        elif fd == self.job:
            self.poll.unregister(fd)
            self.job = -1
            self.begun = True  # the job has ended, so no task will come: let the loop end
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

    def _done(self, fd: int) -> None:
        """Handle the end of a task. The last task of its step on this node waits until the container is saved."""
        self.poll.unregister(fd)
        peer, pid, target = self.savers.pop(fd)
        try:
            told = peer.recv(1) == wire.DONE
        except OSError:
            told = False
        if not told:  # the launcher was killed, so nothing is saved
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
        """Start to write the first file of `saves`. The loop goes on meanwhile."""
        saver.start(self.saves[0][1])
        self.poll.register(saver.answer, select.POLLIN)

    def _saved(self, saver: Saver) -> None:
        self.poll.unregister(saver.answer)
        peer, _ = self.saves.pop(0)
        self._answer(peer, saver.result())
        if self.saves:
            self._save(saver)

    def _answer(self, peer: socket, text: str) -> None:
        """Answer a task that has sent wire.DONE, so that it ends. `text` is the error, "" for none."""
        # Later tasks and later steps of a job still need the servers. Without Slurm the last task is the end.
        if self.container.servers and not self.by_slurm and not self.saves and not self._unfinished():
            self.container.servers.end()
        try:
            wire.send(peer, wire.ERROR if text else wire.OK, text.encode("utf-8", "replace") + b"\0")
        except OSError:
            pass  # the task was killed meanwhile
        peer.close()

    def _tell_steps(self, reason: bytes) -> None:
        """Send a byte to the slurmstepd of each step: its tasks ended by SIGBUS before they could be told."""
        for lifeline in self.lifelines.values():
            try:
                lifeline.setblocking(False)
                lifeline.send(reason)
            except OSError:
                pass  # that step has ended

    def _end(self, who: str, cause: str = "", hint: str = "") -> bool:
        """End all tasks with a reason: `who` has ended, `cause` is "by ..." or "", and `hint` says what to do.

        Returns whether a task took the reason.
        """
        reason = f"{who} on {self.container.node} " + (f"was ended {cause}" if cause else "ended")
        reason += "; the task in its container is ended too" + (f"; {hint}" if hint else "")
        return task_reaper.end_tasks([(pid, handle) for handle, pid in self.tasks.items()], reason)

    def _accept(self) -> None:
        try:
            number, _ = self.listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            return  # the peer has closed its connection
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
            # The mode of a job's socket lets in only its user and root. Root's uid is not mapped in this user
            # namespace, so every other uid is root.
            mine = uid == os.getuid()
            root = self.holder == USER_IS_ROOT or (self.holder == ROOT and not mine)
            if not mine and not root:
                return
            kind = wire.receive(peer, 1)
            if kind == wire.QUESTION:
                wire.send(peer, wire.OK, self.state())
                return
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
            frame = wire.receive_frame(peer)  # first: close() with unread data would reset the connection
            self._ask_server()
            target = entry.admit(self.container, peer, frame, entering)
            if target or self.container.servers:
                self.savers[number] = (peer, pid, target)
                self.poll.register(number, select.POLLIN)
        except Exception as error:  # an error of one peer must not end the container of the others
            if not here:
                self._forget(pid)  # the task ends by itself when it gets the reason
            wire.refuse(peer, error)
        finally:
            waits = any(peer is other for other, _ in self.waiting.entries)
            if number not in self.lifelines and number not in self.savers and not waits:
                peer.close()

    def _ask_server(self) -> None:
        """Raise if the file server does not answer any more.

        The keeper asks before each task is let in: a task that waits for the file server cannot be killed. The task
        reaper ends a file server that does not answer, so this call returns.

        Raises:
            BollardError: the file server did not answer and was ended.
        """
        if self.container.server <= 0:
            return
        begin = time.monotonic()
        self.watcher.waiting()
        try:
            os.fstatvfs(self.container.image_root)  # the kernel has no cached answer and must ask the file server
        except OSError as error:
            # Other errors: the file server does not implement statfs, or has just ended, which the loop reports.
            if error.errno in (ENOTCONN, ECONNABORTED) and time.monotonic() - begin > fuse.STOPPED_SECONDS - 1:
                raise fuse.silent(self.container.spec.asked) from None
        finally:
            self.watcher.answered()

    def _hold(self, peer: socket) -> None:
        """Keep the container while `peer` is open. Refuses a step whose working directory is not in the container.

        A step that gives a named container other options waits: `_decide` answers it.
        """
        frame = wire.receive_frame(peer, constants.SPEC_MAX)
        if frame.startswith(constants.HEADER_VERSION.encode()):
            container = self.container
            if not renewal.suits(container.spec, frame, container.saver is not None, self._shows):
                self.waiting.add(peer)
                return
            self._let_stay(peer)
            return
        cwd = spec_text.pairs(frame)
        if cwd and not self._shows(cwd[0][1]):
            peer.sendall(wire.ERROR)
            return
        self._let_stay(peer)

    def _decide(self) -> None:
        """Answer the steps that ask for other options, if it is time. An idle container is made anew."""
        waiting = self.waiting
        if not waiting.entries:
            return
        late = waiting.taken() if self.tasks and renewal.runs(self.tasks) else waiting.over()
        for peer in late:
            self._stay_or_close(peer)
        if waiting.entries and self._is_idle():
            first, *others = waiting.taken()
            try:
                renewal.hand_over(first, self.container.values, self.container.layer)
            except OSError:
                first.close()  # that step has ended meanwhile
            else:
                self.successor, self.over = first, True
            for peer in others:
                peer.close()

    def _stay_or_close(self, peer: socket) -> None:
        try:
            self._let_stay(peer)
        except OSError:
            pass  # that step has ended; poll reports it

    def _let_stay(self, peer: socket) -> None:
        number = peer.fileno()
        # If the peer has closed already, poll reports it and the container ends.
        self.lifelines[number] = peer
        self.poll.register(number, select.POLLIN)
        self.begun = self.by_slurm = True
        peer.sendall(wire.OK)

    def _shows(self, cwd: str) -> bool:
        """Return whether the container shows the directory `cwd`, by that path and by its path with links resolved."""
        self.watcher.waiting()
        try:
            names = {cwd, os.path.realpath(cwd)}
        finally:
            self.watcher.answered()
        return all(plan.shows(self.container.plan.mounts, name, self.container.spec) for name in names)

    def _is_idle(self) -> bool:
        return self.by_slurm and not self.lifelines and not self.tasks

    def state(self) -> bytes:
        """Return the record, the tasks that run now, and the idle time in seconds: for `bollard ps`."""
        there = ",".join(f"{pid}:{self.steps[pid]}" for pid in self.tasks.values() if pid in self.steps)
        idle = f"{time.monotonic() - self.idle_since:.3f}" if self._is_idle() else ""
        return spec_text.text([*self.container.record.values(), ("there", there), ("idle", idle)]) + b"\0"

    def _forget(self, pid: int) -> None:
        """Remove a task that has ended or was not let in."""
        for handle in [handle for handle, task in self.tasks.items() if task == pid]:
            self.poll.unregister(handle)
            os.close(handle)
            del self.tasks[handle]
        self.steps.pop(pid, None)
        self.finished.discard(pid)

    def _watch(self, pid: int) -> bool:
        """Watch the task `pid` and tell the task reaper of it. Returns False if it has ended already."""
        handle = task_reaper.task_handle(pid)
        if handle >= 0:
            self.tasks[handle] = pid
            self.poll.register(handle, select.POLLIN)
            try:
                self.watcher.watch(pid)
            except OSError:  # the task reaper was killed: start another
                self.watcher.dismiss()
                self.watcher = task_reaper.start(
                    self.job, self.container.private(self.listener.fileno()),
                    self.container.server, self.container.server_state,
                )  # fmt: skip
                for task in self.tasks.values():
                    self.watcher.watch(task)
        return handle >= 0
