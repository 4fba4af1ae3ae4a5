# SPDX-License-Identifier: BSD-3-Clause
"""Instances, containers with a name that stay in the background until they are stopped: as everybody else sees them.

bollard instance start ──► instance_init.py
bollard instance list, stop, stats ──► @bollard-instance/UID/NAME, the init
bollard exec instance://NAME ────────► the keeper's address
"""

from __future__ import annotations

import _signal as signal
import json
import os
import pwd
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from socket import socket
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime import constants
from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.local import execution
from bollard.runtime.request import spec, spec_text
from bollard.runtime.system import linux, processes

if TYPE_CHECKING:
    from collections.abc import Callable

URI = "instance://"
ADDRESS = "bollard-instance"
# Options that are a task's, not the container's: they can be given to whoever joins.
OF_TASKS = ("env", "env-file", "no-env", "keep-env", "cleanenv", "pwd", "verbose", "app")
# An init answers at once, but for one that is making its container.
ANSWER_SECONDS = 20.0
_QUEUE_SECONDS = 0.5
_NAME_MAX = 64


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


def connect(address: str, uid: int) -> tuple[socket, int] | None:
    """A connection to a listener of `uid`, and its process id; None where there is none, or somebody else's."""
    peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    deadline = time.monotonic() + _QUEUE_SECONDS
    while True:
        peer.setblocking(False)  # its queue may be full, and it may be anybody's
        try:
            peer.connect("\0" + address)
            pid, owner = wire.credentials(peer)
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


def _ask(address: str, uid: int, request: str) -> Record | None:
    found = connect(address, uid)
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
    begin = f"@{ADDRESS}/{uid}/"
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


def join(record: Record, action: str, argv: list[str], shell: str, values: list[tuple[str, str]]) -> None:
    """Become the program that `action` means in a running instance; returns only where there is nothing to start.
    `values` are the spec of this task (task_values)."""
    from bollard.runtime.local import action as actions

    asked = spec.make(values)
    text = spec_text.canonical(values, spec_text.header_of(asked))
    command = actions.inside(action, argv, _looker(record), shell, asked.app)
    if not command:
        return
    environ = execution.variables(asked.verbose, {**actions.variables(action, command), **variables(record.name)})
    environ.update(_private(action, text.decode("ascii")))
    execution.become(record.address, command, environ)


def task_values(image: str, values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The spec of one task, of the `values` of a whole one: the container is there already."""
    kept = ("cwd", "userhome", *OF_TASKS)
    return [("image", image), ("asked", image), *(pair for pair in values if pair[0] in kept)]


def variables(name: str) -> dict[str, str]:
    return {"APPTAINER_INSTANCE": name, "SINGULARITY_INSTANCE": name}


def _private(action: str, text: str) -> dict[str, str]:
    """What the keeper is told beside the task's environment: entry.py takes it out."""
    if len(text) > constants.SPEC_MAX - 64:
        raise BollardError("the options are too long", "pass large values in files")
    return {wire.SPEC: text, "SLURM_BOLLARD_COMMAND": action}


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
        except OSError as error:
            if not linux.is_missing(error):
                raise BollardError(f"{path} in the instance {record.name}: {error.strerror}") from None
            return False
        try:
            return os.path.isfile(f"/proc/self/fd/{fd}") and os.access(f"/proc/self/fd/{fd}", os.X_OK)
        finally:
            os.close(fd)

    return has


def stop(records: list[Record], number: int, seconds: float) -> list[Record]:
    """Send a signal to each instance's script, wait for their end, and kill what is left after `seconds`: those
    are returned. None of them is there any more afterwards."""
    ends = {record: [fd for fd in map(processes.handle, (record.pid, record.keeper)) if fd >= 0] for record in records}
    for record in records:
        _ask(record.place, record.uid, "kill" if number == signal.SIGKILL else f"stop {number}")
    left = processes.wait([fd for handles in ends.values() for fd in handles], seconds)
    late = [record for record, handles in ends.items() if set(handles) & set(left)]
    for record in late:
        _ask(record.place, record.uid, "kill")
    for fd in processes.wait(left, ANSWER_SECONDS):  # it cannot even do that
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    processes.wait(left, ANSWER_SECONDS)
    for handles in ends.values():
        for fd in handles:
            os.close(fd)
    return late


def members(record: Record) -> list[int]:
    """The processes in an instance: the script's, and those of whoever joined; not the keeper and its own."""
    try:
        here = os.stat(f"/proc/{record.keeper}/ns/mnt").st_ino
    except OSError:
        return []
    return processes.in_namespace(here, record.keeper)
