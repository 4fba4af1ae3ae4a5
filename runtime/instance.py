# SPDX-License-Identifier: BSD-3-Clause
"""Instances: containers with a name that stay in the background until they are stopped.

    bollard instance start ── fork twice ──► bollard-init ── launch ──► keeper, as for `bollard exec`
                                                │  └─ fork ──► bollard-enter ──► the image's startscript
    bollard instance list, stop, stats ────────►│ @bollard-instance/UID/NAME
    bollard exec instance://NAME ─────────────────────────────────────► keeper's address

The init is the instance: it holds the keeper's lifeline, adopts what the script leaves running, passes signals on,
and answers what an instance is asked. Its record is what it answers, so that no record outlives it. Under Slurm it
ends with the slurmstepd that it descends from.
"""

from __future__ import annotations

import _signal as signal
import errno
import json
import os
import pwd
import select
import time
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
from socket import socket
from sys import byteorder
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime import byhand, linux, spec
from bollard.runtime.errors import BollardError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.spec import Spec

URI = "instance://"
_ADDRESS = "bollard-instance"
_NAME_MAX = 64
# Options that are a task's, not the container's: they can be given to whoever joins.
OF_TASKS = ("env", "env-file", "no-env", "keep-env", "cleanenv", "pwd", "verbose", "app")
# An init answers at once, but for one that is making its container.
ANSWER_SECONDS = 20.0
_REQUEST_MAX = 64
_PEER_SECONDS = 2.0
_QUEUE_SECONDS = 0.5
_PASSED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Record(NamedTuple):
    """What an instance says of itself."""

    name: str
    pid: int  # the init
    keeper: int
    address: str  # the keeper's
    place: str  # the init's own
    uid: int
    image: str
    out: str  # log files
    err: str
    job: str  # JOB.STEP under Slurm, else ""
    started: int  # seconds since 1970
    script: str  # "running", "" for none, else how it ended

    def shown(self) -> dict[str, object]:
        """As `instance list --json` has it: Apptainer's keys first."""
        return {
            "instance": self.name, "pid": self.pid, "img": self.image, "ip": "", "logErrPath": self.err,
            "logOutPath": self.out, "job": self.job, "started": self.started, "script": self.script,
        }  # fmt: skip


def check_name(name: str) -> str:
    """`name`, if an instance can have it."""
    good = name and len(name) <= _NAME_MAX and name.strip(".") and all(c.isalnum() or c in "._-" for c in name)
    if not good or not name.isascii():
        raise BollardError(f"{name!r} cannot be an instance's name", f"use up to {_NAME_MAX} letters, digits and ._-")
    return name


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def log_paths(name: str, config: str) -> tuple[str, str]:
    """(out, err) of an instance on this host; `config` is the user's directory for what we keep."""
    base = f"{config}/instances/logs/{os.uname().nodename}/{user_name(os.getuid())}/{name}"
    return f"{base}.out", f"{base}.err"


def _open_log(path: str) -> int:
    """A log is added to, never followed to somewhere else by a link."""
    umask = os.umask(0o077)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BollardError(
            f"{path}: cannot be written: {error.strerror}", "set BOLLARD_CONFIGDIR to a directory of yours"
        ) from None
    finally:
        os.umask(umask)


# Asking instances.


def _connect(address: str, uid: int) -> tuple[socket, int] | None:
    """A connection to a listener of `uid`, and its process id; None where there is none, or somebody else's."""
    peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    deadline = time.monotonic() + _QUEUE_SECONDS
    while True:
        peer.setblocking(False)  # its queue may be full, and it may be anybody's
        try:
            peer.connect("\0" + address)
            pid, owner = _credentials(peer)
            if owner == uid:
                peer.settimeout(ANSWER_SECONDS)
                return peer, pid
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
        except OSError:
            pass
        peer.close()
        return None


def _credentials(peer: socket) -> tuple[int, int]:
    """(pid, uid) of the other end: struct ucred of unix(7)."""
    raw = peer.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], byteorder), int.from_bytes(raw[4:8], byteorder)


def _ask(address: str, uid: int, request: str) -> Record | None:
    found = _connect(address, uid)
    if found is None:
        return None
    peer, pid = found
    answer = b""
    try:
        peer.sendall(request.encode() + b"\n")
        while part := peer.recv(65536):
            answer += part
        record = Record(**json.loads(answer))
    except (OSError, ValueError, TypeError):
        return None  # it ended, or is none of ours
    finally:
        peer.close()
    return record if (record.pid, record.uid) == (pid, uid) else None


def _addresses(uid: int) -> list[str]:
    """What is listened at under the names of a user's instances; anyone may have bound them."""
    begin = f"@{_ADDRESS}/{uid}/"
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        words = {line.rstrip("\n").rpartition(" ")[2] for line in file}
    return sorted(word[1:] for word in words if word.startswith(begin))


def running(uid: int, pattern: str = "*") -> list[Record]:
    """A user's instances on this host whose names match, by name."""
    import fnmatch

    found = [
        _ask(address, uid, "info") for address in _addresses(uid) if fnmatch.fnmatchcase(address.split("/")[2], pattern)
    ]
    return sorted(record for record in found if record is not None)


def get(name: str) -> Record:
    """The user's own instance `name`."""
    found = running(os.getuid(), check_name(name))
    if not found:
        raise BollardError(
            f"no instance {name} runs on {os.uname().nodename}", "see `bollard instance list`, and start it first"
        )
    return found[0]


# Being in one.


def join(record: Record, action: str, argv: list[str], shell: str, values: list[tuple[str, str]]) -> None:
    """Become the program that `action` means in a running instance; returns only where there is nothing to start.
    `values` are the spec of this task (task_values)."""
    from bollard.runtime import action as actions

    asked = spec.make(values)
    command = actions.inside(action, argv, _looker(record), shell, asked.app)
    if not command:
        return
    environ = byhand.variables(asked.verbose, {**actions.variables(action, command), **_variables(record.name)})
    environ.update(_private(action, values))
    byhand.become(record.address, command, environ)


def task_values(image: str, values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The spec of one task, of the `values` of a whole one: the container is there already."""
    kept = ("cwd", "userhome", *OF_TASKS)
    return [("image", image), ("asked", image), *(pair for pair in values if pair[0] in kept)]


def _variables(name: str) -> dict[str, str]:
    return {"APPTAINER_INSTANCE": name, "SINGULARITY_INSTANCE": name}


def _private(action: str, values: list[tuple[str, str]]) -> dict[str, str]:
    """What the keeper is told beside the task's environment: entry.py takes it out."""
    text = spec.text(values).decode("ascii")
    if len(text) > 128 * 1024 - 64:
        raise BollardError("the options are too long", "pass large values in files")
    return {"SLURM_BOLLARD_SPEC": text, "SLURM_BOLLARD_COMMAND": action}


def _looker(record: Record) -> Callable[[str], bool]:
    """Whether the container has an executable file at a path, seen from outside."""
    try:
        root = os.open(f"/proc/{record.keeper}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BollardError(
            f"the instance {record.name} cannot be looked into: {error.strerror}", "has it just been stopped?"
        ) from None

    def has(path: str) -> bool:
        try:
            fd = linux.open_in_root(root, path)
        except OSError:
            return False
        try:
            return os.path.isfile(f"/proc/self/fd/{fd}") and os.access(f"/proc/self/fd/{fd}", os.X_OK)
        finally:
            os.close(fd)

    return has


# Stopping.


def stop(records: list[Record], number: int, seconds: float) -> list[Record]:
    """Send a signal to each instance's script, wait for their end, and kill what is left after `seconds`: those
    are returned. None of them is there any more afterwards."""
    ends = {record: [fd for fd in map(_handle, (record.pid, record.keeper)) if fd >= 0] for record in records}
    for record in records:
        _ask(record.place, record.uid, "kill" if number == signal.SIGKILL else f"stop {number}")
    left = _wait([fd for handles in ends.values() for fd in handles], seconds)
    late = [record for record, handles in ends.items() if set(handles) & set(left)]
    for record in late:
        _ask(record.place, record.uid, "kill")
    for fd in _wait(left, ANSWER_SECONDS):  # it cannot even do that
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    _wait(left, ANSWER_SECONDS)
    for handles in ends.values():
        for fd in handles:
            os.close(fd)
    return late


def _handle(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _wait(handles: list[int], seconds: float) -> list[int]:
    """Those of `handles` (pidfds) whose processes have not ended within `seconds`."""
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


# Starting.


def start(asked: Spec, name: str, action: str, argv: list[str], config: str) -> int:
    """Make the instance `name` and start its script in the background; the process id of its init. Its logs are
    kept below the directory `config`."""
    check_name(name)
    step = _slurmstepd()  # the init descends from nobody
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                os.close(reader)
                _begin(asked, name, action, argv, config, step, writer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    os.waitpid(child, 0)
    return int(byhand.answer(reader)[0])


def _begin(
    asked: Spec, name: str, action: str, argv: list[str], config: str, slurm: tuple[str, int], writer: int
) -> None:
    """Be the init, until its end; tells through `writer` when it is ready, or why not."""
    try:
        linux.name_process("bollard-init")
        step, handle = slurm
        linux.close_others((writer, handle))
        listener, place = _claim(name)
        paths = log_paths(name, config)
        logs = tuple(_open_log(path) for path in paths)
        ours, pipe = os.pipe()
        address, keeper, command = byhand.launch(asked, action, argv, "", ours, name)
        os.close(ours)
        lifeline = _lifeline(address)
        linux.adopt_orphans()
        record = Record(
            name, os.getpid(), keeper, address, place, os.getuid(), asked.image, *paths, step, int(time.time()), ""
        )
        init = _Init(record, listener, lifeline, pipe, handle)
        if command:
            init.run_script(address, command, byhand.variables(asked.verbose, _variables(name)), logs)
        else:
            os.write(logs[1], b"INFO:    No instance start script found in container\n")
        for fd in logs:
            os.close(fd)
        os.chdir("/")
    except BaseException as error:  # noqa: BLE001 - it becomes the one line the user sees
        byhand.tell_failure(writer, error)
        return
    byhand.tell(writer, "+", f"{os.getpid()}\0")
    os.close(writer)
    init.serve()


def _claim(name: str) -> tuple[socket, str]:
    """The listener by which the instance is known, and its address; `BollardError` where its name is taken."""
    address = f"{_ADDRESS}/{os.getuid()}/{name}"
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    listener.setblocking(False)
    for place in (address, f"{address}/{os.urandom(4).hex()}"):  # the first may be bound by somebody else
        try:
            listener.bind("\0" + place)
            listener.listen(64)
            return listener, place
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            found = _connect(place, os.getuid())
            if found is not None:
                found[0].close()
            if found is not None or running(os.getuid(), name):
                raise BollardError(
                    f"the instance {name} exists already", "stop it first, or choose another name"
                ) from None
    raise BollardError("no address for the instance is free", "try again")


def _lifeline(address: str) -> socket:
    """Held open, it keeps the keeper (entry.py)."""
    lifeline = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    lifeline.settimeout(ANSWER_SECONDS)
    lifeline.connect("\0" + address)
    lifeline.sendall(b"L")
    if lifeline.recv(1) != b"+":
        raise BollardError("the container's keeper ended before the instance was ready", "was it killed?")
    return lifeline


def _slurmstepd() -> tuple[str, int]:
    """(JOB.STEP, pidfd) of the slurmstepd that we descend from; ("", -1) where there is none."""
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
            if name == "slurmstepd":
                job, step = os.environ.get("SLURM_JOB_ID", "?"), os.environ.get("SLURM_STEP_ID", "")
                return f"{job}.{step}" if step else job, os.pidfd_open(pid)
            pid = _parent(pid)
        except OSError:
            break
    return "", -1


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def children(parent: int) -> list[int]:
    """The processes whose parent is `parent`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if _parent(int(name)) == parent:
                    found.append(int(name))
            except OSError:
                pass  # it has ended
    return found


def members(record: Record) -> list[int]:
    """The processes in an instance: the script's, and those of whoever joined; not the keeper and its own."""
    try:
        here = os.stat(f"/proc/{record.keeper}/ns/mnt").st_ino
    except OSError:
        return []
    return _in_namespace(here, record.keeper)


def _in_namespace(mounts: int, keeper: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}/ns/mnt").st_ino == mounts:
                pid = int(name)
                if pid != keeper and _parent(pid) != keeper:
                    found.append(pid)
        except OSError:
            pass  # it has ended, or is somebody else's
    return found


class _Init:
    """The init's loop."""

    def __init__(self, record: Record, listener: socket, lifeline: socket, pipe: int, slurmstepd: int) -> None:
        self.record = record
        self.listener = listener
        self.lifeline = lifeline
        self.pipe = pipe  # its end tells the keeper that we have ended
        self.slurmstepd = slurmstepd
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
        """Start `command` in the container, in a process group of its own."""
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                for number in _PASSED:  # whoever started us may have ignored some
                    signal.signal(number, signal.SIG_DFL)
                os.dup2(logs[0], 1)
                os.dup2(logs[1], 2)
                byhand.become(address, command, environ)
            finally:
                os._exit(127)
        self.script = pid
        self.record = self.record._replace(script="running")
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so, and become the launcher

    def serve(self) -> None:
        """Until it is stopped, or the keeper or the job's step has ended."""
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
        """A signal is the script's, or that of what it left running; one that ends, and finds nobody, ends the
        instance."""
        self.stopping = self.stopping or number in _ENDING
        if self.record.script == "running":
            os.killpg(self.script, number)
        elif self._reap():
            for pid in children(os.getpid()):
                _signal(pid, number)

    def _reap(self) -> bool:
        """Whether there are children left; one that was told to stop ends with the last of them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.kill = self.kill or self.stopping
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
            return  # gone again
        with peer:
            try:
                if _credentials(peer)[1] not in (self.record.uid, 0):
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
                return
        word, _, number = request.decode("ascii", "replace").strip().partition(" ")
        if word == "kill":
            self.kill = True
        elif word == "stop" and number.isdigit() and 0 < int(number) < signal.NSIG:
            self.stopping = True
            self._pass_on(int(number))

    def _end(self) -> None:
        """Nothing of the instance is left after this."""
        keeper = _handle(self.record.keeper)
        self.listener.close()
        while True:
            for pid in children(os.getpid()):
                _signal(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        self.lifeline.close()
        os.close(self.pipe)
        if keeper >= 0 and _wait([keeper], ANSWER_SECONDS):
            signal.pidfd_send_signal(keeper, signal.SIGKILL)
        inside = os.fstat(self.mounts).st_ino
        while left := _in_namespace(inside, -1):
            for pid in left:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.01)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it has ended
