# SPDX-License-Identifier: BSD-3-Clause
"""The init of an instance: one process that runs from the start to the end of the instance.

    bollard instance start ── fork twice ──► bollard-init ── launch ──► keeper, as for `bollard exec`
                                                │  └─ fork ──► bollard-enter ──► the image's startscript
    bollard instance list, stop, stats ────────►│ @bollard-instance/UID/NAME

The init holds the keeper's lifeline, adopts processes that the script leaves running, passes signals on, and answers
requests. The record of an instance is only in the init's memory, so no record outlives the instance. Under Slurm the
init ends together with the slurmstepd among its ancestors.
"""

from __future__ import annotations

import _signal as signal
import errno
import json
import os
import select
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from socket import socket
from typing import TYPE_CHECKING

from bollard.runtime import causes
from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.local import execution, instance
from bollard.runtime.system import linux, processes

if TYPE_CHECKING:
    from bollard.runtime.image.encryption import Key
    from bollard.runtime.request.spec import Spec

_REQUEST_MAX = 64
_PEER_SECONDS = 2.0
_PASSED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_ENDING = (signal.SIGINT, signal.SIGTERM)


def start(asked: Spec, name: str, action: str, argv: list[str], config: str, keys: list[Key] | None = None) -> int:
    """Make an instance and start its script in the background; return the process id of its init.

    asked: the spec of the container.
    name: the name of the instance.
    action: "start" or "run", which chooses the script.
    argv: the arguments for the script.
    config: the directory for the log files.
    keys: of an encrypted image, at most one; it is taken out.

    Raises:
        BollardError: the name is not valid, or the keeper or the init has failed, for a name in use too.
    """
    instance.check_name(name)
    step = _slurmstepd()  # found here: after the second fork the init has lost its ancestors
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                os.close(reader)
                _begin(asked, name, action, argv, config, step, writer, [] if keys is None else keys)
            code = 0
        finally:
            os._exit(code)
    if keys:
        keys.clear()
    os.close(writer)
    os.waitpid(child, 0)
    return int(execution.answer(reader)[0])


def _begin(
    asked: Spec, name: str, action: str, argv: list[str], config: str, slurm: tuple[str, int], writer: int,
    keys: list[Key],
) -> None:  # fmt: skip
    """Run the init until its end. It writes to `writer` when it is ready or has failed."""
    try:
        linux.name_process("bollard-init")
        cores = processes.leave_no_core(soft=True) if keys else None
        step, handle = slurm
        linux.close_others((writer, handle))
        listener, place = _claim(name)
        paths = instance.log_paths(name, config)
        logs = tuple(_open_log(path) for path in paths)
        ours, pipe = os.pipe()
        address, keeper, command = execution.launch(asked, action, argv, "", ours, name, keys)
        os.close(ours)
        lifeline = _lifeline(address)
        linux.adopt_orphans()
        record = instance.Record(
            name, os.getpid(), keeper, address, place, os.getuid(), asked.image, *paths, step, int(time.time()), ""
        )
        init = _Init(record, listener, lifeline, pipe, handle, cores)
        if command:
            init.run_script(address, command, execution.variables(asked.verbose, instance.variables(name)), logs)
        else:
            os.write(logs[1], b"INFO:    No instance start script found in container\n")
        for fd in logs:
            os.close(fd)
        os.chdir("/")
    except BaseException as error:  # noqa: BLE001 - it becomes the user's error message
        execution.tell_failure(writer, error)
        return
    execution.tell(writer, "+", f"{os.getpid()}\0")
    os.close(writer)
    init.serve()


def _claim(name: str) -> tuple[socket, str]:
    """Return the listener of the instance and its address; raise BollardError if the name is in use."""
    address = f"{instance.ADDRESS}/{os.getuid()}/{name}"
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    listener.setblocking(False)
    for place in (address, f"{address}/{os.urandom(4).hex()}"):  # another user can have bound the first
        try:
            listener.bind("\0" + place)
            listener.listen(64)
            return listener, place
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found = instance.connect([place], os.getuid())
            for peer, _ in found.values():
                peer.close()
            if found or instance.running(os.getuid(), name):
                raise BollardError(
                    f"the instance {name} exists already", "stop it first, or choose another name"
                ) from None
    raise BollardError("no address for the instance is free", "try again")


def _lifeline(address: str) -> socket:
    """Return the lifeline, a connection to the keeper: the keeper ends when it is closed (entry.py)."""
    lifeline = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    lifeline.settimeout(instance.ANSWER_SECONDS)
    lifeline.connect("\0" + address)
    lifeline.sendall(wire.LIFELINE + bytes(4))  # no working directory
    if lifeline.recv(1) != wire.OK:
        raise BollardError("the container's keeper ended before the instance was ready", "was it killed?")
    return lifeline


def _slurmstepd() -> tuple[str, int]:
    """Return JOB.STEP and a pidfd of the slurmstepd among our ancestors; ("", -1) if there is none."""
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
            if name == "slurmstepd":
                job, step = os.environ.get("SLURM_JOB_ID", "?"), os.environ.get("SLURM_STEP_ID", "")
                return f"{job}.{step}" if step else job, os.pidfd_open(pid)
            pid = processes.parent(pid)
        except OSError:
            break  # a process above has ended, or is hidden: no step that could end this instance
    return "", -1


def _open_log(path: str) -> int:
    """Open a log file for appending; refuse a symbolic link."""
    umask = os.umask(0o077)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise causes.of(
            error, f"{path}: cannot be written", path, "set BOLLARD_CONFIGDIR to a directory of yours"
        ) from None
    finally:
        os.umask(umask)


class _Init:
    """The main loop of the init."""

    def __init__(self, record: instance.Record, listener: socket, lifeline: socket, pipe: int, slurmstepd: int,
                 cores: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.record = record
        self.listener = listener
        self.lifeline = lifeline
        self.pipe = pipe  # when it is closed, the keeper knows that the init has ended
        self.slurmstepd = slurmstepd
        self.cores = cores  # the user's limit of core files, if this process has another one
        self.mounts = os.open(f"/proc/{record.keeper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.script = 0
        self.stopping = False
        self.kill = False
        self.wake, self.woken = os.pipe()
        for fd in (self.wake, self.woken):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        for number in (*_PASSED, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)

    def run_script(self, address: str, command: list[str], environ: dict[str, str], logs: tuple[int, ...]) -> None:
        """Start the script in the container, in its own process group.

        address: the keeper's address.
        command: the script and its arguments.
        environ: the environment for the launcher.
        logs: file descriptors for stdout and stderr.
        """
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                for number in _PASSED:  # the parent of `bollard` can have ignored some of them
                    signal.signal(number, signal.SIG_DFL)
                if self.cores:
                    processes.limit_cores(self.cores)
                os.dup2(logs[0], 1)
                os.dup2(logs[1], 2)
                execution.become(address, command, environ)
            finally:
                os._exit(127)
        self.script = pid
        self.record = self.record._replace(script="running")
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # the child has called setpgid and execve already

    def serve(self) -> None:
        """Serve until the instance is stopped, or the keeper or the job's step ends; then end the instance."""
        poll = select.poll()
        for fd in (self.listener.fileno(), self.lifeline.fileno(), self.wake, self.slurmstepd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        try:
            while not self.kill:
                for fd, _ in poll.poll():
                    if fd == self.listener.fileno():
                        self._answer()
                    elif fd == self.wake:
                        self._signals(os.read(self.wake, 512))
                    else:
                        self.kill = True
        finally:
            self._end()

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            else:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """Send a signal to the script; after its end, to the processes that it left running.

        If there are none, SIGINT and SIGTERM end the instance.
        """
        self.stopping = self.stopping or number in _ENDING
        if self.record.script == "running":
            os.killpg(self.script, number)
        elif self._reap():
            for pid in processes.children(os.getpid()):
                processes.kill(pid, number)

    def _reap(self) -> bool:
        """Reap ended children; return whether children remain. If the instance is stopping, it ends with the last."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.kill = self.kill or self.stopping  # no child is left, which is what was asked
                return False
            if pid == 0:
                return True
            if pid == self.script:
                code = os.waitstatus_to_exitcode(status)
                self.record = self.record._replace(script=f"exit {code}" if code >= 0 else f"signal {-code}")

    def _answer(self) -> None:
        try:
            peer, _ = self.listener.accept()
        except OSError:
            return  # the peer has closed the connection
        with peer:
            try:
                if wire.credentials(peer)[1] not in (self.record.uid, 0):
                    return
                peer.settimeout(_PEER_SECONDS)
                request = b""
                while not request.endswith(b"\n") and len(request) < _REQUEST_MAX:
                    part = peer.recv(_REQUEST_MAX)
                    if not part:
                        return
                    request += part
                peer.sendall(json.dumps(self.record._asdict()).encode())
            except OSError:
                return  # the one who asks has gone
        word, _, number = request.decode("ascii", "replace").strip().partition(" ")
        if word == "kill":
            self.kill = True
        elif word == "stop" and number.isdigit() and 0 < int(number) < signal.NSIG:
            self.stopping = True
            self._pass_on(int(number))

    def _end(self) -> None:
        """End all processes of the instance."""
        keeper = processes.handle(self.record.keeper)
        self.listener.close()
        while True:
            for pid in processes.children(os.getpid()):
                processes.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break  # all have ended
        self.lifeline.close()
        os.close(self.pipe)
        if keeper >= 0 and processes.wait([keeper], instance.ANSWER_SECONDS):
            signal.pidfd_send_signal(keeper, signal.SIGKILL)
        inside = os.fstat(self.mounts).st_ino
        while left := processes.in_namespace(inside):
            for pid in left:
                processes.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
