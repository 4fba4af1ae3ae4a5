# SPDX-License-Identifier: BSD-3-Clause
"""Count the containers of this node, for a dashboard.

now       containers and tasks, from the keepers that listen in /run/bollard-jobs; file servers and their memory, from
          /proc; bytes of the shared cache
totals    starts, failures, times of starts, images, verdicts: from the record files

Totals must never fall, but record files are removed when they are old. So the totals of each job that has ended are
added once to those in STATE, and STATE remembers which file was added. It is written only with `bollard site stats
--output`; without it the totals are those of the files that are there, and of STATE.

A user's process wrote the records. So each of their words that becomes a label is one of a known set, or a SHA-256
digest. The number of labels is bounded, and impossible numbers are left out.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import time
from typing import NamedTuple

from bollard.runtime.container import record, wire
from bollard.runtime.local import job, running
from bollard.runtime.system import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    # Name of a total, then the value of its label: the number.
    Totals = dict[str, dict[str, float]]

STATE = f"{record.RECORDS}/stats.json"
# Upper bounds of the histogram's buckets in seconds, as Prometheus writes them.
BUCKETS = ("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
PHASES = (*record.PHASES, "all")
# A container whose record has no end, though its job has ended here: its keeper was killed, or the node went down.
KILLED = "killed"
CAUSES = (*record.CAUSES, KILLED)
VERDICTS = ("enforce:allowed", "enforce:refused", "observe:allowed", "observe:refused")
# How many digests are counted by name, in the order of their first start.
IMAGES_MAX = 200
_SECONDS_MAX = 3600.0
# A record file that was written to this recently may get another line, whatever the job's folder says.
_QUIET_SECONDS = 60
_STATE_MAX = 64 << 20
_SERVERS = ("squashfuse", "squashfuse2", "squashfuse-owner", "fuse2fs", "fuse2fs2", "fuse-overlayfs")


class Servers(NamedTuple):
    """The file servers of one program that run now."""

    running: int
    memory: int  # resident, in bytes


class Stats(NamedTuple):
    """What `bollard site stats` prints."""

    containers: int
    tasks: int
    mute: int  # keepers that gave no answer in time
    servers: dict[str, Servers]  # by program
    cache: int | None  # bytes of the site's shared cache; None if the site has none
    records: int  # record files
    totals: Totals


def look(prefix: str, cache: int | None, state: dict[str, Any], folder: str = record.RECORDS) -> Stats:
    """Return the numbers of this node, and bring `state` up to date.

    prefix: the installation, whose file servers are counted.
    cache: the bytes of the shared cache, None for none.
    state: from `load`; `save` stores it.
    folder: the directory of the record files.
    """
    found, mute = running.containers()
    totals = count(state, folder)
    files = sum(_is_record(name) for name in _names(folder))
    tasks = sum(len(item.there) for item in found)
    return Stats(len(found), tasks, len(mute), servers(prefix), cache, files, totals)


def load(path: str = STATE) -> dict[str, Any]:
    """Return the state in the file `path`; an empty one if there is none, or if it cannot be read."""
    empty: dict[str, Any] = {"past": {}, "counted": {}}
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_STATE_MAX))
    except (OSError, ValueError):
        return empty  # totals begin anew, as those of a node that was installed anew; Prometheus knows such a fall
    return {**empty, **found} if isinstance(found, dict) else empty


def save(state: dict[str, Any], path: str = STATE) -> None:
    """Write the state, by a rename."""
    write(path, json.dumps(state, separators=(",", ":")))


def write(path: str, text: str) -> None:
    """Write a file that others read: they see the old text or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    new = f"{path}.{os.getpid()}"
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.rename(new, path)
    except OSError:
        try:
            os.unlink(new)
        except OSError:
            pass  # it was not made; the first error is the one to report
        raise


def count(state: dict[str, Any], folder: str = record.RECORDS, jobs: str = wire.JOBS, now: float = 0.0) -> Totals:
    """Return the totals of all records, and move those of jobs that have ended to `state`.

    state: from `load`.
    folder: the directory of the record files.
    jobs: the directory of the jobs' folders.
    now: the time in seconds since 1970; 0 for the current one.
    """
    now = now or time.time()
    past: Totals = state["past"]
    counted: dict[str, list[int]] = state["counted"]  # {file: its inode, how much of it is counted for good}
    totals: Totals = {}
    there: dict[str, list[int]] = {}
    for name in sorted(filter(_is_record, _names(folder))):
        number = name.partition(".")[0]
        ended = not os.path.isdir(f"{jobs}/{number}")  # before the file is read: no line follows then
        try:
            with open(f"{folder}/{name}", "rb") as file:
                info = os.fstat(file.fileno())
                inode, done = counted.get(name, [0, 0])
                done = done if inode == info.st_ino else 0
                file.seek(done)  # a job that was requeued to this node writes more containers behind
                text = file.read(job.RECORD_MAX)
        except OSError:
            continue  # root has removed it: it was old, or empty
        final = ended and now - info.st_mtime > _QUIET_SECONDS
        tally(job.last_lines(text), ended, past if final else totals, past)
        if final or done:
            there[name] = [info.st_ino, done + len(text) if final else done]
    state["counted"] = there
    add(totals, past)
    return totals


def _is_record(name: str) -> bool:
    return re.fullmatch("[0-9]+\\.[0-9]+", name) is not None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []  # no container has run here


def tally(entries: Iterable[dict[str, Any]], ended: bool, totals: Totals, known: Totals) -> None:
    """Add the containers of one record file to `totals`.

    entries: the last line of each container, decoded.
    ended: whether the job has ended on this node.
    totals: what is added to.
    known: totals whose digests are counted by name already; for IMAGES_MAX.
    """
    for entry in entries:
        verdict = str(entry.get("trust", ""))
        if verdict in VERDICTS:
            _count(totals, "verdicts", verdict)
        if entry.get("failed"):
            _count(totals, "failures", entry["failed"] if entry["failed"] in record.CAUSES else record.OTHER)
            continue
        if verdict.endswith(":refused") and not entry.get("keeper"):
            continue  # a line of a release that did not write `failed`
        _count(totals, "starts", "")
        _count(totals, "tasks", "", max(0, min(entry.get("tasks", 0), 1 << 32)))
        if ended and "ended" not in entry:
            _count(totals, "failures", KILLED)
        digest = entry.get("digest", "")
        images = {*totals.get("images", {}), *known.get("images", {})}
        if re.fullmatch("[0-9a-f]{64}", digest) and (digest in images or len(images) < IMAGES_MAX):
            _count(totals, "images", digest)
        _tally_phases(entry.get("phases", {}), totals)


def _tally_phases(phases: dict[str, float], totals: Totals) -> None:
    found = {name: length / 1e3 for name, length in phases.items() if name in record.PHASES}
    if not found or not all(math.isfinite(length) and 0 <= length < _SECONDS_MAX for length in found.values()):
        return
    for name, length in [*found.items(), ("all", sum(found.values()))]:
        _count(totals, "seconds", name, length)
        bound = next(bound for bound in BUCKETS if length <= float(bound))
        _count(totals, "buckets", f"{name} {bound}")


def _count(totals: Totals, name: str, label: str, by: float = 1) -> None:
    row = totals.setdefault(name, {})
    row[label] = row.get(label, 0) + by


def add(totals: Totals, more: Totals) -> None:
    """Add the totals `more` to `totals`."""
    for name, row in more.items():
        for label, number in row.items():
            _count(totals, name, label, number)


def servers(prefix: str, proc: str = "/proc") -> dict[str, Servers]:
    """Return the running file servers of the installation `prefix` and of those before it, by program.

    proc: a mounted /proc.
    """
    programs = {}  # by file, because the paths of processes in other mount namespaces are not those here
    for path in glob.glob(f"{glob.escape(prefix)}-*/*") + glob.glob(f"{glob.escape(prefix)}/*"):
        if os.path.basename(path) in _SERVERS:
            info = os.stat(path)
            programs[info.st_dev, info.st_ino] = os.path.basename(path)
    names = {f"{name}{end}" for name in programs.values() for end in ("", " (deleted)")}
    found: dict[str, Servers] = {}
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            # The link's text first: to follow it can ask the file server of a user, which need not answer.
            if os.path.basename(os.readlink(f"{proc}/{pid}/exe")) not in names:
                continue
            info = os.stat(f"{proc}/{pid}/exe")
            name = programs.get((info.st_dev, info.st_ino), "")
            memory = processes.resident(int(pid), proc) if name else 0
        except OSError:
            continue  # it has ended, or is the kernel's own
        if name:
            before = found.get(name, Servers(0, 0))
            found[name] = Servers(before.running + 1, before.memory + memory)
    return found
