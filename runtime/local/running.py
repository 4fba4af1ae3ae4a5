# SPDX-License-Identifier: BSD-3-Clause
"""Find the containers that run on this node, ask their keepers, and start programs in them.

A keeper listens at the path JOBS/JOB/HASH: a socket that its user owns, in a directory that root owns
(`AdmissionLoop.state`).
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from _socket import AF_UNIX, SOCK_NONBLOCK, SOCK_STREAM, socket

from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.installed import LAUNCHER
from bollard.runtime.request import spec_text
from bollard.runtime.system import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_ANSWER_MAX = 1 << 20
_SECONDS = 5.0
_TIME_MAX = 1 << 36  # seconds since 1970, the year 4147; localtime() fails for much larger numbers
# The default program of `bollard attach JOB`: bash if the image has it, else /bin/sh.
SHELL = ["/bin/sh", "-c", 'exec "$(command -v bash || echo /bin/sh)"']


class Container:
    """A container of this node.

    address: the path of its keeper's socket.
    uid: its user.
    told: the keeper's answer, a record.

    Attributes: `there` are its tasks as (pid, step); `entered` is the number of tasks that entered; `made` is the time
    of creation in seconds since 1970.

    Raises:
        ValueError: a keeper cannot have given this answer.
    """

    __slots__ = ("address", "entered", "job", "keeper", "made", "there", "told", "uid")

    def __init__(self, address: str, uid: int, told: dict[str, str]) -> None:
        self.address = address
        self.uid = uid
        self.job = int(address.split("/")[-2])
        self.there = [
            (int(pid), step) for pid, _, step in (x.partition(":") for x in told.pop("there", "").split(",")) if pid
        ]
        self.keeper, self.entered = int(told.get("keeper", "0")), int(told.get("tasks", "0"))
        self.made = float(told.get("made", "0"))
        if not 0 <= self.made < _TIME_MAX:
            raise ValueError(f"made at {self.made}")
        self.told = told

    def steps(self) -> list[str]:
        """Return the steps of the running tasks, each once, in the order of the tasks."""
        return list(dict.fromkeys(step for _, step in self.there))

    def plain(self) -> dict[str, object]:
        """Return the data for `bollard ps --json`."""
        return {
            "job": self.job,
            "user": self.uid,
            "steps": self.steps(),
            "image": self.told.get("image", ""),
            "digest": self.told.get("digest", ""),
            "keeper": self.keeper,
            "tasks": [{"pid": pid, "step": step} for pid, step in self.there],
            "entered": self.entered,
            "since": self.made,
            "bollard": self.told.get("bollard", ""),
        }


def addresses(job: int = 0, jobs: str = wire.JOBS) -> Iterator[tuple[str, int]]:
    """Yield (path, uid) of the sockets of all keepers on this node, of all users; or only those of one job."""
    for folder in [str(job)] if job else sorted((name for name in _names(jobs) if name.isdigit()), key=int):
        for name in sorted(_names(f"{jobs}/{folder}")):
            try:
                info = os.lstat(f"{jobs}/{folder}/{name}")
            except OSError:
                continue  # the keeper has ended
            if stat.S_ISSOCK(info.st_mode) and not name.startswith("job"):
                yield f"{jobs}/{folder}/{name}", info.st_uid


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []  # there is no job on this node, or the job has just ended


def containers(job: int = 0) -> tuple[list[Container], list[str]]:
    """Return this user's containers (for root, those of all users), and the sockets that did not answer in time.

    job: the number of one job, 0 for all jobs.
    """
    mine = os.geteuid()
    asked = [(address, uid) for address, uid in addresses(job) if mine in (0, uid)]
    answers, mute = ask(asked)
    found = []
    for address, uid in asked:
        if address in answers:
            try:
                found.append(Container(address, uid, answers[address]))
            except ValueError:
                continue  # the user's process is not a keeper
    return found, mute


def ask(asked: list[tuple[str, int]], seconds: float = _SECONDS) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Ask keepers; return the answers by path, and the paths that did not answer.

    asked: the keepers as (path of the socket, uid).
    seconds: the time limit for all of them together.

    All keepers are asked at once, because a user's process could listen there and never answer.
    """
    end = time.monotonic() + seconds
    waiting: dict[int, tuple[str, socket, bytearray]] = {}
    answers: dict[str, dict[str, str]] = {}
    mute, poll = [], select.poll()
    for address, uid in asked:
        try:
            peer = _connected(address, uid)
        except BlockingIOError:  # the queue is full: the listener does not accept
            mute.append(address)
            continue
        except OSError:
            continue  # it has ended, or is not a keeper of that user
        waiting[peer.fileno()] = (address, peer, bytearray())
        poll.register(peer.fileno(), select.POLLIN)
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000):
            address, peer, data = waiting[fd]
            try:
                part = peer.recv(1 << 16)
            except OSError:
                part = b""  # it has ended; what came so far counts
            data += part
            if part and not _is_whole(data):
                continue
            answers.update(_answer(address, bytes(data)))
            poll.unregister(fd)
            peer.close()
            del waiting[fd]
    for address, peer, _ in waiting.values():
        mute.append(address)
        peer.close()
    return answers, sorted(mute)


def _connected(address: str, uid: int) -> socket:
    """Connect to a keeper and send the question. A link is not followed; the listener must be of `uid` or root."""
    fd = os.open(address, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != uid:
            raise PermissionError(address)
        peer = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        try:
            peer.connect(f"/proc/self/fd/{fd}")
            if wire.credentials(peer)[1] not in (0, uid):
                raise PermissionError(address)
            peer.send(wire.QUESTION)
        except OSError:
            peer.close()
            raise
    finally:
        os.close(fd)
    return peer


def _is_whole(data: bytearray) -> bool:
    """Return whether `data` is a complete answer, or cannot become a keeper's answer."""
    if data[:1] != wire.OK:
        return True
    size = int.from_bytes(data[1:5], sys.byteorder)
    return len(data) >= 5 and (len(data) >= 5 + size or size > _ANSWER_MAX)


def _answer(address: str, data: bytes) -> dict[str, dict[str, str]]:
    """Return {address: the keeper's answer}; empty if `data` is not an answer."""
    size = int.from_bytes(data[1:5], sys.byteorder)
    if data[:1] != wire.OK or len(data) < 5 or size > _ANSWER_MAX or len(data) < 5 + size:
        return {}
    try:
        return {address: dict(spec_text.pairs(data[5 : 5 + size].rstrip(b"\0")))}
    except (ValueError, BollardError):
        return {}  # no keeper of this version: `ps` names the job as one that does not answer


def lines(found: list[Container]) -> list[str]:
    """Return the containers as the lines of a table."""
    rows = [("JOB", "STEPS", "USER", "KEEPER", "TASKS", "SINCE", "IMAGE")]
    for item in found:
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(item.made))
        steps, tasks = ",".join(item.steps()) or "-", str(len(item.there))
        image = shown(item.told.get("image", ""))  # escaped: for root, other users chose this text
        user = identity.login(item.uid)
        rows.append((str(item.job), shown(steps), user, str(item.keeper), tasks, since, image))
    widths = [max(len(row[at]) for row in rows) for at in range(6)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0])).rstrip() for row in rows]


def parse(name: str) -> tuple[int, str]:
    """Parse JOB or JOB.STEP; return the number of the job and the step, "" for none.

    Raises:
        BollardError: `name` has another form.
    """
    job, dot, step = name.partition(".")
    if not (job.isascii() and job.isdigit()) or (dot and not step):
        raise BollardError(f"{name}: not a job", "write JOB or JOB.STEP, as squeue does")
    return int(job), step


def attach(name: str, command: list[str]) -> NoReturn:
    """Become a program in a running container of a job, as a task of this job.

    name: JOB or JOB.STEP.
    command: the program and its arguments; empty for a shell.

    Raises:
        BollardError: `name` has another form, or no container of yours can be entered.
    """
    job, step = parse(name)
    here = os.uname().nodename.split(".")[0]
    chosen = _choose(name, here, [item for item in containers(job)[0] if item.uid == os.geteuid()], step)
    if not _within(job):
        _through_srun(job, name, here, command)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(wire.OWN)}
    environ[wire.ENTRY] = chosen.address
    os.execve(LAUNCHER, ["bollard-enter", *(command or SHELL)], environ)


def _choose(name: str, here: str, found: list[Container], step: str) -> Container:
    if step:
        found = [item for item in found if step in item.steps()]
    if not found:
        raise BollardError(
            f"{name}: no container of yours on {here}", "see `bollard ps`, here and on the job's other nodes"
        )
    images = sorted({item.told.get("image", "") for item in found})
    if len(found) > 1:
        raise BollardError(
            f"{name}: {len(found)} containers on {here} ({', '.join(images)})",
            "name the step: JOB.STEP, see `bollard ps`",
        )
    return found[0]


def _within(job: int) -> bool:
    """Return whether this process is in the job's control group or, without control groups, is a task of the job."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        groups = [part for line in file for part in line.strip().split("/")]
    if f"job_{job}" in groups:
        return True
    tracked = any(part.startswith("job_") for part in groups)
    return not tracked and os.environ.get("SLURM_JOB_ID") == str(job) and "SLURM_PROCID" in os.environ


def _through_srun(job: int, name: str, here: str, command: list[str]) -> NoReturn:
    """Run `bollard attach` again in a step of the job, so that it is in the job's control group and limits."""
    if os.environ.get("BOLLARD_ATTACHING"):
        raise BollardError(f"{name}: this process is not part of the job", "use srun --overlap --jobid")
    os.environ["BOLLARD_ATTACHING"] = "1"
    terminal = ["--pty"] if os.isatty(0) and os.isatty(1) else []
    step = ["srun", "-Q", f"--jobid={job}", "--overlap", "-N1", "-n1", "-w", here, "--export=ALL", *terminal]
    try:
        os.execvp("srun", [*step, "bollard", "attach", name, *command])
    except FileNotFoundError:
        raise BollardError("srun: no such program", "install Slurm's client: only srun can join the job") from None
