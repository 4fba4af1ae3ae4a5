# SPDX-License-Identifier: BSD-3-Clause
"""The containers that run on this node: finding their keepers, asking them, going in.

A keeper listens at the path JOBS/JOB/HASH, a socket of its user's in a folder of root's (`entry.Server.state`).
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_STREAM, socket

from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.installed import LAUNCHER
from bollard.runtime.request import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_ANSWER_MAX = 1 << 20
_SECONDS = 5.0
_TIME_MAX = 1 << 36  # the year 4147: what localtime() can take
# What `bollard attach JOB` starts: the best shell that the image has.
SHELL = ["/bin/sh", "-c", 'exec "$(command -v bash || echo /bin/sh)"']


class Container:
    """A container of this node. `told` is its record, `there` its tasks as (pid, step); ValueError for words that no
    keeper says."""

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
        """Of the tasks that are there, in their order."""
        return list(dict.fromkeys(step for _, step in self.there))

    def plain(self) -> dict[str, object]:
        """For JSON."""
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
    """(path, uid) of the sockets of all keepers on this node, or of those of one job, whose ever they are."""
    for folder in [str(job)] if job else sorted((name for name in _names(jobs) if name.isdigit()), key=int):
        for name in sorted(_names(f"{jobs}/{folder}")):
            try:
                info = os.lstat(f"{jobs}/{folder}/{name}")
            except OSError:
                continue  # it has ended meanwhile
            if stat.S_ISSOCK(info.st_mode) and not name.startswith("job"):
                yield f"{jobs}/{folder}/{name}", info.st_uid


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # there is no job


def containers(job: int = 0) -> list[Container]:
    """This user's, or for root everybody's; those of one job."""
    mine = os.geteuid()
    found = []
    for address, uid in addresses(job):
        if mine in (0, uid):
            told = ask(address, uid)
            try:
                found += [Container(address, uid, told)] if told else []
            except ValueError:
                continue  # a process of that user's that only plays a keeper
    return found


def ask(address: str, uid: int) -> dict[str, str]:
    """What the keeper at `address` says of itself; empty when there is none of that user's."""
    peer = socket(AF_UNIX, SOCK_STREAM)
    peer.settimeout(_SECONDS)
    try:
        peer.connect(address)
        peer.sendall(wire.QUESTION)
        if wire.receive(peer, 1) != wire.OK:
            return {}
        return dict(spec.pairs(wire.receive_frame(peer, _ANSWER_MAX).rstrip(b"\0")))
    except (OSError, ValueError, BollardError):
        return {}
    finally:
        peer.close()


def lines(found: list[Container]) -> list[str]:
    """A table for people."""
    import pwd
    import time

    rows = [("JOB", "STEPS", "USER", "KEEPER", "TASKS", "SINCE", "IMAGE")]
    for item in found:
        try:
            user = pwd.getpwuid(item.uid).pw_name
        except KeyError:
            user = str(item.uid)
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(item.made))
        steps, tasks = ",".join(item.steps()) or "-", str(len(item.there))
        image = shown(item.told.get("image", ""))  # of another user, where root asks
        rows.append((str(item.job), shown(steps), user, str(item.keeper), tasks, since, image))
    widths = [max(len(row[at]) for row in rows) for at in range(6)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0])).rstrip() for row in rows]


def parse(name: str) -> tuple[int, str]:
    """JOB or JOB.STEP."""
    job, dot, step = name.partition(".")
    if not (job.isascii() and job.isdigit()) or (dot and not step):
        raise BollardError(f"{name}: not a job", "write JOB or JOB.STEP, as squeue does")
    return int(job), step


def attach(name: str, command: list[str]) -> NoReturn:
    """Become `command`, or a shell, in a running container of the job `name`, as one more task of the job."""
    job, step = parse(name)
    here = os.uname().nodename.split(".")[0]
    chosen = _choose(name, here, [item for item in containers(job) if item.uid == os.geteuid()], step)
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
    """Whether this process is in the job's control group, or, without those, is a task of it."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        groups = [part for line in file for part in line.strip().split("/")]
    if f"job_{job}" in groups:
        return True
    tracked = any(part.startswith("job_") for part in groups)
    return not tracked and os.environ.get("SLURM_JOB_ID") == str(job) and "SLURM_PROCID" in os.environ


def _through_srun(job: int, name: str, here: str, command: list[str]) -> NoReturn:
    """The way into the job's control group and limits is a step of the job."""
    if os.environ.get("BOLLARD_ATTACHING"):
        raise BollardError(f"{name}: this process is not part of the job", "use srun --overlap --jobid")
    os.environ["BOLLARD_ATTACHING"] = "1"
    terminal = ["--pty"] if os.isatty(0) and os.isatty(1) else []
    step = ["srun", "-Q", f"--jobid={job}", "--overlap", "-N1", "-n1", "-w", here, "--export=ALL", *terminal]
    try:
        os.execvp("srun", [*step, "bollard", "attach", name, *command])
    except FileNotFoundError:
        raise BollardError("srun: no such program", "install Slurm's client: only srun can join the job") from None
