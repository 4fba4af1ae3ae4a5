# SPDX-License-Identifier: BSD-3-Clause
"""Find, join and stop instances: containers with a name that stay in the background until they are stopped.

bollard instance start ──► instance_init.py
bollard instance list, stop, stats ──► @bollard-instance/UID/NAME, the init
bollard exec instance://NAME ────────► the keeper's address
"""

from __future__ import annotations

import _signal as signal
import json
import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from socket import socket
from typing import TYPE_CHECKING, NamedTuple

from bollard.runtime import constants
from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.local import execution
from bollard.runtime.request import spec, spec_text
from bollard.runtime.system import identity, linux, processes

if TYPE_CHECKING:
    from collections.abc import Callable

URI = "instance://"
ADDRESS = "bollard-instance"
# Options of a task, not of the container: they can be given to a command that joins an instance.
OF_TASKS = ("env", "env-file", "no-env", "keep-env", "cleanenv", "pwd", "verbose", "app")
# An init answers at once, except while it makes its container.
ANSWER_SECONDS = 20.0
_QUEUE_SECONDS = 0.5
_ANSWER_MAX = 1 << 16  # bytes; an init's answer has paths, and no more
_NAME_MAX = 64


class Record(NamedTuple):
    """The answer of an instance's init: its name, processes, addresses and files."""

    name: str
    pid: int  # the init
    keeper: int
    address: str  # the keeper's
    place: str  # the init's address
    uid: int
    image: str
    out: str  # log files
    err: str
    job: str  # JOB.STEP under Slurm, else ""
    started: int  # seconds since 1970
    script: str  # "running", "" for none, else "exit N" or "signal N"

    def shown(self) -> dict[str, object]:
        """Return the data for `instance list --json`: Apptainer's keys first, then ours."""
        return {
            "instance": self.name, "pid": self.pid, "img": self.image, "ip": "", "logErrPath": self.err,
            "logOutPath": self.out, "job": self.job, "started": self.started, "script": self.script,
        }  # fmt: skip


def check_name(name: str) -> str:
    """Return `name` if it is valid for an instance.

    Raises:
        BollardError: the name is empty, too long, or has other characters than letters, digits and ._-
    """
    good = name and len(name) <= _NAME_MAX and name.strip(".") and all(c.isalnum() or c in "._-" for c in name)
    if not good or not name.isascii():
        raise BollardError(f"{name!r} cannot be an instance's name", f"use up to {_NAME_MAX} letters, digits and ._-")
    return name


def log_paths(name: str, config: str) -> tuple[str, str]:
    """Return the paths of an instance's log files on this host, (out, err); `config` is the user's directory."""
    base = f"{config}/instances/logs/{os.uname().nodename}/{identity.login(os.getuid())}/{name}"
    return f"{base}.out", f"{base}.err"


def connect(addresses: list[str], uid: int) -> dict[str, tuple[socket, int]]:
    """Connect to abstract sockets; return connections and process ids of the listeners by address.

    Left out: addresses where nobody listens, or where the listener does not belong to `uid`.
    """
    found: dict[str, tuple[socket, int]] = {}
    deadline = time.monotonic() + _QUEUE_SECONDS  # for all: another user can have bound any number of addresses
    while True:
        full = []
        for address in addresses:
            peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
            peer.setblocking(False)  # another user's listener could keep its queue full, and connect would hang
            try:
                peer.connect("\0" + address)
                pid, owner = wire.credentials(peer)
                if owner == uid:
                    peer.settimeout(ANSWER_SECONDS)
                    found[address] = peer, pid
                    continue
            except BlockingIOError:
                full.append(address)
            except OSError:
                pass  # the instance has ended: it is not listed
            peer.close()
        if not full or time.monotonic() > deadline:
            return found
        addresses = full
        time.sleep(0.01)


def _ask(addresses: list[str], uid: int, request: str) -> list[Record]:
    """Send a request to the inits at `addresses`; return their records."""
    asked = [_answer(*found, uid, request) for found in connect(addresses, uid).values()]
    return [record for record in asked if record is not None]


def _answer(peer: socket, pid: int, uid: int, request: str) -> Record | None:
    answer = b""
    try:
        peer.sendall(request.encode() + b"\n")
        while len(answer) <= _ANSWER_MAX and (part := peer.recv(65536)):
            answer += part
        record = Record(**json.loads(answer))
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # it has ended, or is not an instance's init
    finally:
        peer.close()
    return record if (record.pid, record.uid) == (pid, uid) else None


def _addresses(uid: int) -> list[str]:
    """Return the bound addresses for a user's instances. Another user could have bound them."""
    begin = f"@{ADDRESS}/{uid}/"
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        words = {line.rstrip("\n").rpartition(" ")[2] for line in file}
    return sorted(word[1:] for word in words if word.startswith(begin))


def running(uid: int, pattern: str = "*") -> list[Record]:
    """Return a user's instances on this host whose names match the pattern, sorted by name."""
    import fnmatch

    named = [address for address in _addresses(uid) if fnmatch.fnmatchcase(address.split("/")[2], pattern)]
    return sorted(_ask(named, uid, "info"))


def get(name: str) -> Record:
    """Return the record of the user's instance `name`.

    Raises:
        BollardError: the name is invalid, or no such instance runs on this host.
    """
    found = running(os.getuid(), check_name(name))
    if not found:
        raise BollardError(
            f"no instance {name} runs on {os.uname().nodename}", "see `bollard instance list`, and start it first"
        )
    return found[0]


def join(record: Record, action: str, argv: list[str], shell: str, values: list[tuple[str, str]]) -> None:
    """Become a program in a running instance. Returns only if there is nothing to start.

    record: the instance.
    action: "exec", "run", "shell" or "test".
    argv: the program or the arguments that the user gave.
    shell: the shell that the user asked for, "" for none.
    values: the spec of this task, from `task_values`.

    Raises:
        BollardError: a value is not valid, the image has nothing for the action, or the instance refuses the task.
    """
    from bollard.runtime.container import action as actions

    asked = spec.make(values)
    text = spec_text.canonical(values, spec_text.header_of(asked))
    command = actions.inside(action, argv, _looker(record), shell, asked.app)
    if not command:
        return
    environ = execution.variables(asked.verbose, {**actions.variables(action, command), **variables(record.name)})
    environ.update(_private(action, text.decode("ascii")))
    execution.become(record.address, command, environ)


def task_values(image: str, values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the part of a spec that applies to one task, because the container exists already."""
    kept = ("cwd", "userhome", *OF_TASKS)
    return [("image", image), ("asked", image), *(pair for pair in values if pair[0] in kept)]


def variables(name: str) -> dict[str, str]:
    """Return the variables that name the instance, for the programs in it."""
    return {"APPTAINER_INSTANCE": name, "SINGULARITY_INSTANCE": name}


def _private(action: str, text: str) -> dict[str, str]:
    """Return variables for the keeper, sent with the task's environment; entry.py removes them."""
    if len(text) > constants.SPEC_MAX - 64:
        raise BollardError("the options are too long", "pass large values in files")
    return {wire.SPEC: text, wire.COMMAND: action}


def _looker(record: Record) -> Callable[[str], bool]:
    """Return a function that tells whether the container has an executable file at a path."""
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
    """Stop instances: send a signal to each script, wait, kill the remaining instances; return those that were killed.

    records: the instances.
    number: the signal.
    seconds: how long to wait before the kill.
    """
    ends = {record: [fd for fd in map(processes.handle, (record.pid, record.keeper)) if fd >= 0] for record in records}
    for record in records:
        _ask([record.place], record.uid, "kill" if number == signal.SIGKILL else f"stop {number}")
    left = processes.wait([fd for handles in ends.values() for fd in handles], seconds)
    late = [record for record, handles in ends.items() if set(handles) & set(left)]
    for record in late:
        _ask([record.place], record.uid, "kill")
    for fd in processes.wait(left, ANSWER_SECONDS):  # the init did not obey "kill"
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    processes.wait(left, ANSWER_SECONDS)
    for handles in ends.values():
        for fd in handles:
            os.close(fd)
    return late


def members(record: Record) -> list[int]:
    """Return the process ids in an instance: of the script and of joined programs, without the keeper's own."""
    try:
        here = os.stat(f"/proc/{record.keeper}/ns/mnt").st_ino
    except OSError:
        return []  # the instance has ended
    return processes.in_namespace(here, record.keeper)
