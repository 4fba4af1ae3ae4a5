# SPDX-License-Identifier: BSD-3-Clause
"""How a flow stands: what its jobs wrote, joined with what Slurm knows.

A job writes FLOW/state/NAME itself, NAME.I for an element of an array: one line of 512 bytes, "state=ok job=12 ...",
that ends with a dot. So nothing here needs an accounting database, and a job is not lost when Slurm forgets it.

| the job wrote | Slurm says | state |
|---|---|---|
| how it ended | anything but pending | that; if it was stopped, Slurm's reason |
| nothing, or that it runs | it waits, runs | waiting, held, running |
| nothing, or that it runs | how it ended | that; a node failure is "lost" |
| that it runs | nothing | lost: the node died |
| that it starts again | nothing | cancelled: it did not start again |
| nothing | nothing | cancelled: it never started |
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import batch, folder, slurm
from bollard.runtime.flow.bundle import Ref
from bollard.runtime.flow.slurm import Row

FINAL = ("ok", "failed", "timeout", "cancelled", "lost")
_OWN_END = ("ok", "failed", "timeout")  # what a job tells itself, and nobody knows better
_OF_SLURM = {
    "COMPLETED": "ok", "FAILED": "failed", "TIMEOUT": "timeout", "CANCELLED": "cancelled", "NODE_FAIL": "lost",
    "BOOT_FAIL": "lost", "OUT_OF_MEMORY": "failed", "DEADLINE": "timeout", "PREEMPTED": "cancelled",
    "REVOKED": "cancelled",
}  # fmt: skip
_STOPPED = 143  # the status of a batch script that got SIGTERM
_STOPS = ("TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "PREEMPTED")
_RESERVED = b"state=waiting "  # what folder.reserve wrote
_NUMBERS = ("job", "start", "end", "status", "attempt", "restart")
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


class Record(NamedTuple):
    """What a job wrote. Times in seconds since 1970; 0 for none."""

    state: str = "waiting"
    job: int = 0
    start: int = 0
    end: int = 0
    status: int = 0
    attempt: int = 0
    restart: int = 0
    node: str = ""


class Part(NamedTuple):
    """A job, a transfer, or an element of an array. `reason` is why it waits, or what Slurm adds to its end."""

    name: str
    kind: str
    state: str
    job: int
    node: str
    start: int
    end: int
    status: int
    attempt: int
    reason: str
    slurm: str = ""  # as scancel takes it: 12, or 12_3

    @property
    def code(self) -> int:
        """The exit status that this part gives to the whole flow."""
        if self.state == "ok":
            return 0
        return {"failed": self.status or 1, "timeout": 124, "cancelled": 130, "lost": 255}.get(self.state, 0)


class Status(NamedTuple):
    """A flow: its ID, one word for all, the parts, and whether Slurm answered."""

    id: str
    word: str
    parts: list[Part]
    complaint: str

    @property
    def code(self) -> int:
        """The worst exit status of all parts. A job that failed counts before those cancelled after it."""
        own = [part.code for part in self.parts if part.state in ("failed", "timeout", "lost")]
        return max(own or [part.code for part in self.parts], default=0)


def record(text: bytes) -> Record | None:
    """Return what is in a state file; None if it is not whole."""
    if not text.endswith(b".\n") or len(text) != folder.RESERVED:
        return None
    # "replace" makes no digit of a byte that is not ASCII.
    if text.startswith(_RESERVED):
        return Record()
    words = dict(word.split("=", 1) for word in text[:-2].decode("ascii", "replace").split() if "=" in word)
    job, start, end, status, attempt, restart = (
        int(words[name]) if words.get(name, "").isdigit() else 0 for name in _NUMBERS
    )
    return Record(words.get("state", "waiting"), job, start, end, status, attempt, restart, words.get("node", ""))


def read(path: Path | str) -> Record:
    """Return what a job wrote; a record of a job that waits if it wrote nothing.

    Raises:
        BollardError: the file cannot be read. Such a job is not one that waits: its volumes may be in use.
    """
    for _ in range(3):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = record(os.read(fd, 2 * folder.RESERVED))
            finally:
                os.close(fd)
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise causes.of(error, f"{path}: cannot be read", str(path), "see `ls -l` of it") from None
        if found is not None:
            return found
        time.sleep(0.01)  # it is just being written
    return Record()


def resolved(wrote: Record, row: Row | None, job: int, *, released: bool, answered: bool) -> tuple[str, str]:
    """Return the state of a job, and Slurm's reason.

    wrote: its state file.
    row: what Slurm knows of it; None for nothing.
    job: its number.
    released: whether the flow was released.
    answered: whether slurmctld answered.
    """
    own = wrote.state if wrote.job == job else "waiting"
    if row is not None and row.state in _WAITING:
        again = "starts again: " if wrote.job == job and wrote.start else ""
        return ("held" if row.reason == "JobHeldUser" else "waiting"), f"{again}{row.reason}"
    # A script that got SIGTERM compares clocks; Slurm knows why it sent the signal.
    if own in FINAL and wrote.status == _STOPPED and row is not None and row.state in _STOPS:
        word = _OF_SLURM[row.state]
        return word, row.state if word != own else ""
    if own in FINAL:
        return own, row.state if row is not None and row.state in ("OUT_OF_MEMORY", "NODE_FAIL") else ""
    if row is not None and row.state in slurm.ACTIVE:
        return "running", "" if row.state in ("RUNNING", "COMPLETING") else row.state
    if row is not None:
        return _OF_SLURM.get(row.state, "failed"), row.state
    if not answered:
        return ("waiting" if own == "again" else own), "Slurm does not answer"
    if own == "again":
        return "cancelled", "it did not start again"
    if own == "running":
        return "lost", "Slurm does not know it any more; its node died"
    return ("cancelled", "it did not start") if released else ("held", "the submission was cut off")


def of(path: Path) -> Status:
    """Return how the flow in this directory stands. Slurm is asked only if a job has not written how it ended.

    Raises:
        BollardError: the plan cannot be read.
    """
    plan = folder.plan(path)
    if not plan:
        return Status(path.name, "unfinished", [], "")
    generation = plan["generation"]
    verdict = _verdict(path, generation)
    if verdict is not None:
        return Status(path.name, _word(verdict, path, generation), verdict, "")
    # Jobs that told their own end need no answer of Slurm. One that was stopped may have been requeued.
    settled: dict[str, Record] = {}
    parts = []
    for part in _parts(path, plan, {}, False, settled):
        if part.state not in _OWN_END or part.status == _STOPPED:
            break
        parts.append(part)
    else:
        return Status(path.name, _word(parts, path, generation), parts, "")
    rows: dict[tuple[int, int], Row] = {}
    complaint, answered = "", True
    # First Slurm, then the files: a job that ends in between has written its end by then.
    try:
        rows = {(row.job, row.element): row for row in queue(path)}
    except BollardError as error:
        complaint, answered = error.message, False
    parts = list(_parts(path, plan, rows, answered, settled))
    return Status(path.name, _word(parts, path, generation), parts, complaint)


def queue(path: Path) -> list[Row]:
    """Return the jobs of the flow in this directory, of all its generations, that Slurm knows.

    Raises:
        BollardError: slurmctld does not answer.
    """
    known = {(number, batch.slurm_name(path.name, name)) for name, number in folder.submitted(path)}
    return slurm.queue(f"bollard:{path.name}.", known)


def _parts(
    path: Path, plan: Mapping[str, Any], rows: Mapping[tuple[int, int], Row], answered: bool, settled: dict[str, Record]
) -> Iterator[Part]:
    """Yield the parts of a flow.

    path: its directory.
    plan: its plan.
    rows: what Slurm knows, by job and element.
    answered: whether slurmctld answered.
    settled: records of jobs that told their own end, by part; grows. Ten thousand files are not read twice.
    """
    generation = plan["generation"]
    ids = folder.ids(path, generation)
    released = folder.marked(path, "released", generation) or folder.marked(path, "cancelled", generation)
    states = path / "state"
    for job in plan["jobs"]:
        name, kind = job["name"], job["kind"]
        if name.startswith("."):
            continue
        fresh, ref = set(job["indexes"]), ids.get(name, Ref(0))
        number = ref.job
        for index in job["all"] or [-1]:
            part = f"{name}.{index}" if index >= 0 else name
            wrote = settled.get(part) or read(f"{states}/{part}")
            if wrote.job == number and wrote.state in _OWN_END and wrote.status != _STOPPED:
                settled[part] = wrote
            skipped = job["skipped"] or (index >= 0 and index not in fresh)
            if skipped:
                state, reason = "ok", "done before"
            else:
                row = rows.get((number, index if index >= 0 else ref.element))
                state, reason = resolved(wrote, row, number, released=released, answered=answered)
            own = wrote.job == number or skipped
            yield Part(
                part, kind, state, wrote.job if skipped else number, wrote.node if own else "",
                wrote.start if own else 0, wrote.end if own and state in FINAL else 0,
                wrote.status if own else 0, wrote.attempt if own else 0, reason,
                "" if skipped or not number else str(Ref(number, index) if index >= 0 else ref),
            )  # fmt: skip


def _word(parts: list[Part], path: Path, generation: int) -> str:
    """Return one word for the whole flow."""
    states = {part.state for part in parts}
    if folder.marked(path, "cancelled", generation) and states <= set(FINAL):
        return "cancelled"
    if "held" in states or not folder.marked(path, "released", generation):
        return "held"
    if states <= {"ok"}:
        return "ok"
    if states <= set(FINAL):
        return next((word for word in ("failed", "timeout", "lost") if word in states), "cancelled")
    return "running" if states & {"running", *FINAL} else "waiting"


def _verdict(path: Path, generation: int) -> list[Part] | None:
    try:
        data = json.loads((path / f"verdict.{generation}.json").read_text("utf-8"))
        return [Part(**item) for item in data["parts"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it cannot be read, so the jobs' own files tell


def plain(found: Status) -> dict[str, Any]:
    """Return a status as plain data for JSON."""
    return {
        "id": found.id,
        "state": found.word,
        "status": found.code,
        "parts": [part._asdict() for part in found.parts],
    }
