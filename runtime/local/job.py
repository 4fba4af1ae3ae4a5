# SPDX-License-Identifier: BSD-3-Clause
"""Read the records of a job: this node's record files, and Slurm's accounting.

here      the file RECORDS/JOB.UID of this node. Root opens it; the keepers write to it.
slurm     from pyslurm or sacct, or from squeue if there is no accounting: the requested container, the nodes, the
          times, the end; and AdminComment, which root has set (account=yes in plugstack.conf)

Users choose a job's name, comment, container and paths, and can put anything there. So no output is read in which such
a text stands before, or in the same line as, what Slurm or root says.
"""

from __future__ import annotations

import os
import subprocess

from bollard.runtime.container import record
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.request import spec_text
from bollard.runtime.system import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# The last field can hold "|", so the line is split at the first ones only. None of them is a user's text.
_FIELDS = ("JobID", "UID", "State", "ExitCode", "NTasks", "NodeList", "Start", "End", "AdminComment")
# Fields of squeue, our names for them, and their widths in characters.
_COLUMNS = (
    ("UserID", "uid", 20), ("State", "state", 30), ("exit_code", "exitcode", 20),
    ("NumTasks", "ntasks", 20), ("StartTime", "start", 30), ("EndTime", "end", 30), ("NodeList", "nodelist", 8192),
)  # fmt: skip
_ID_WIDTH = 20  # of the job's number, which begins each line
# Slurm's limit of a comment is 1024 bytes, and the kernel's of a path 4096.
_TEXT_WIDTH = 8192
RECORD_MAX = 2 * record.SIZE_MAX
# The longest AdminComment that the plugin writes, in bytes (account.c, COMMENT_MAX without the final zero).
_COMMENT_MAX = 1023


def look(job: int, folder: str = record.RECORDS, collect: bool = False) -> dict[str, Any]:
    """Return all records of a job as plain data: the keys `job`, `node`, `here`, `slurm`.

    job: the number of the job.
    folder: the directory of the record files.
    collect: fetch the records of all the job's nodes, with a step of the job or a small new job.

    Raises:
        BollardError: neither this node nor Slurm knows the job, or a node does not answer.
    """
    steps = _pyslurm(job) or _sacct(job) or _squeue(job)
    found: dict[str, Any] = {
        "job": job,
        "node": os.uname().nodename.split(".")[0],
        "here": list(records(job, folder)),
        "slurm": steps,
    }
    if collect and steps:
        found["here"] = _collected(job, steps[0])
    if not found["here"] and not steps:
        raise BollardError(
            f"{job}: neither this node nor Slurm knows of such a job", "check the number with squeue or sacct"
        )
    return found


def records(job: int, folder: str = record.RECORDS) -> list[dict[str, Any]]:
    """Return the records of a job on this node that this user may read, the oldest first.

    Raises:
        OSError: the directory or a record cannot be read for another reason than permissions.
    """
    try:
        names = [name for name in os.listdir(folder) if name.split(".")[0] == str(job)]
    except (FileNotFoundError, PermissionError):
        return []  # no record for this user: the caller asks Slurm
    found = []
    for name in sorted(names):
        try:
            with open(f"{folder}/{name}", "rb") as file:
                text = file.read(RECORD_MAX)
        except (FileNotFoundError, PermissionError):
            continue  # it was removed, or is another user's
        user = name.split(".")[1] if name.count(".") else ""
        found += [{**entry, "user": int(user) if user.isdigit() else -1} for entry in last_lines(text)]
    return sorted(found, key=lambda entry: entry.get("made", 0.0))


def last_lines(text: bytes) -> list[dict[str, Any]]:
    """Return the last complete line of each container, from the text of a record file."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.split(b"\n")[:-1]:
        try:
            entry = decode(line)
        except (ValueError, BollardError):
            continue  # cut off by a full disk: the container's line before it counts
        found[entry.get("container", "")] = entry
    return list(found.values())


def decode(line: bytes) -> dict[str, Any]:
    """Return a line of a record file as plain data; ValueError or BollardError if it is damaged."""
    found: dict[str, Any] = {}
    for name, value in spec_text.pairs(line.strip()):
        if name == "steps":
            pairs = (part.rpartition(":") for part in value.split(","))
            found[name] = {step: int(count) for step, _, count in pairs if step}
        elif name == "phases":
            times = (part.partition(":") for part in value.split(","))
            found[name] = {phase: float(length) for phase, _, length in times if phase}
        elif name in ("made", "first", "last", "ended"):
            found[name] = float(value)
        elif name in ("tasks", "keeper"):
            found[name] = int(value)
        else:
            found[name] = value
    return found


def _collected(job: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Run `bollard job --here` on each node of the job; return all answers.

    While the user's own job runs, the command is a step of it; else it is a new job. For root it is always a new job:
    root can start no step in a user's job, and should not believe an answer from within it.
    """
    import json

    nodes = _run(["scontrol", "show", "hostnames", row.get("nodelist", "")]).split()
    if not nodes:
        raise BollardError(f"{job}: Slurm does not tell its nodes", "run `bollard job` on each of them")
    count = str(len(nodes))
    running = row.get("state") == "RUNNING" and row.get("uid") == str(os.geteuid())
    where = [f"--jobid={job}", "--overlap"] if running else ["-t1", "-w", ",".join(nodes)]
    command = ["bollard", "job", "--json", "--here", str(job)]
    text = _run(["srun", "-Q", "-N", count, "-n", count, "--mpi=none", "--chdir=/", *where, *command])
    answers = [json.loads(line) for line in text.splitlines() if line.startswith("[")]
    if len(answers) != len(nodes):
        raise BollardError(
            f"{job}: {len(answers)} of its {count} nodes answered", "are they up? see sinfo; leave --collect out"
        )
    return [entry for answer in answers for entry in answer]


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError:
        return ""  # no such command on this host: the caller says that Slurm does not know
    return done.stdout if done.returncode == 0 else ""


def _pyslurm(job: int) -> list[dict[str, Any]]:
    """Return what `_sacct` does, through pyslurm; empty where the site has none that fits."""
    from bollard.runtime.local import pyslurm_jobs

    if not pyslurm_jobs.version():
        return []
    found = pyslurm_jobs.rows(job, _run(["sacct", "--version"]))
    return [_row(list(row), list(row.values())) for row in found]


def _sacct(job: int) -> list[dict[str, Any]]:
    """Return a dictionary for the job, then one for each step; empty without accounting."""

    def ask(fields: tuple[str, ...]) -> list[list[str]]:
        text = _run(["sacct", "-P", "-n", "-j", str(job), "-o", ",".join(fields)])
        rows = [line.split("|", len(fields) - 1) for line in text.split("\n")]
        return [row for row in rows if len(row) == len(fields)]

    rows = [_row(_FIELDS, values) for values in ask(_FIELDS)]
    # Slurm before 21.08 has no field Container. A user's text: it is shown, and nothing is decided by it.
    containers = dict(reversed(ask(("JobID", "Container")))) if rows else {}
    return [{**row, "container": containers.get(row["jobid"], "")} for row in rows]


def _row(fields: Iterable[str], values: Iterable[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name.lower(): value for name, value in zip(fields, values)}
    comment = row.pop("admincomment", "")
    if comment.startswith("bollard="):
        data = comment.encode("utf-8", "replace")
        if len(data) >= _COMMENT_MAX:  # it is cut there, within its last word
            data = data.rpartition(b" ")[0]
        try:
            row["entered"] = decode(data)
        except (ValueError, BollardError):
            row["entered"] = {}  # not written by bollard: a comment that somebody has set
    return row


def _squeue(job: int) -> list[dict[str, Any]]:
    """Return a dictionary for the job, without its steps; empty if slurmctld no longer knows the job."""
    text = _asked(job, [f"{name}:{width}" for name, _, width in _COLUMNS])
    if not text:
        return []
    row: dict[str, Any] = {"jobid": str(job)}
    for _, ours, width in _COLUMNS:
        row[ours], text = text[:width].strip(), text[width:]
    row.update(_row(["AdminComment"], [_asked(job, [f"admin_comment:{_TEXT_WIDTH}"]).strip()]))
    container = _asked(job, [f"Container:{_TEXT_WIDTH}"]).strip()
    return [{**row, "container": container if container != "(null)" else ""}]


def _asked(job: int, fields: list[str]) -> str:
    """Return the columns that squeue prints of a job, "" for none. Only the last can be a user's text."""
    columns = ",".join([f"JobID:{_ID_WIDTH}", *fields])
    text = _run(["squeue", "-a", "-h", "-t", "all", "-j", str(job), "-O", columns])
    lines = [line for line in text.split("\n") if line[:_ID_WIDTH].strip() == str(job)]
    return lines[0][_ID_WIDTH:] if lines else ""


def lines(found: dict[str, Any]) -> list[str]:
    """Return the records as lines of text."""
    text = []
    for row in found["slurm"]:
        if row["jobid"].endswith(".extern"):
            continue
        asked = row.get("container") or "submitted without --container"
        text.append(shown(f"{row['jobid']:<14}{row['state']:<12}{row.get('nodelist', ''):<12}{asked}"))
        if row.get("entered"):
            text += [f"  {line}" for line in _entered(row["entered"])]
    if found["here"]:
        text.append("on record:")
        text += [f"  {line}" for entry in found["here"] for line in _entered(entry)]
    else:
        nodes = sorted({row["nodelist"] for row in found["slurm"] if row.get("nodelist")})
        where = f"; use --collect, or ask there: {', '.join(nodes)}" if nodes else ""
        text.append(f"{found['node']} has no record of it that you may read{where}")
    return text


def _entered(entry: dict[str, Any]) -> list[str]:
    import time

    def when(name: str) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(entry[name])) if entry.get(name) else "-"

    steps = ", ".join(f"{some} of step {step}" for step, some in entry.get("steps", {}).items())
    count = entry.get("tasks", 0)
    tasks = "1 task" if count == 1 else f"{count} tasks"
    lines = [
        f"{entry.get('node', '?')}: {tasks} entered{f' ({steps})' if steps else ''}",
        f"  {entry.get('image', '?')}",  # the user chose this text; `shown` escapes it
        *([f"  from {entry['source']}"] if entry.get("source") else []),
        f"  sha256 {entry.get('digest') or 'not in the image'}, file {entry.get('id', '?')}",
        *_trusted(entry),
        *([f"  no container was made: it failed at {entry['failed']}"] if entry.get("failed") else []),
        f"  first {when('first')}, last {when('last')}, ended {when('ended')}, bollard {entry.get('bollard', '?')}",
    ]
    return [shown(line) for line in lines]


def _trusted(entry: dict[str, Any]) -> list[str]:
    """Return a line about the verdict of the site's policy, if the record has one."""
    if "trust" not in entry:
        return []
    mode, _, verdict = str(entry["trust"]).partition(":")
    line = f"  policy ({mode}): {verdict} by {entry.get('trust-rule', '?')}"
    line += f": {entry['trust-why']}" if entry.get("trust-why") else ""
    return [line + (f", signed by {entry['signers']}" if entry.get("signers") else "")]


def verify(found: dict[str, Any]) -> tuple[list[str], bool]:
    """Read each recorded image again and compare it; return a line for each, and whether all are unchanged.

    Raises:
        BollardError: with status 1, if there is no record that this user may read.
    """
    entries = [*found["here"], *(row["entered"] for row in found["slurm"] if row.get("entered"))]
    if not entries:
        raise BollardError(
            f"{found['job']}: {found['node']} has no record of this job that you may read",
            "use --collect, or ask on the job's nodes: `bollard job` names them",
            1,
        )
    images = sorted({(entry.get("image", ""), entry.get("digest", "")) for entry in entries})
    if os.geteuid() == 0:
        _become_user_of(found)
    verdicts = [(path, *_verdict(path, digest)) for path, digest in images]
    return [shown(f"{path}: {text}") for path, _, text in verdicts], all(same for _, same, _ in verdicts)


def _become_user_of(found: dict[str, Any]) -> None:
    """Change from root to the job's user, permanently.

    The user has chosen the image's path and can have placed links on it; root must not follow them.
    """
    import pwd

    uids = {entry["user"] for entry in found["here"] if entry.get("user", -1) >= 0}
    uids |= {int(row["uid"]) for row in found["slurm"] if row.get("uid", "").isdigit()}
    if len(uids) != 1:
        raise BollardError(
            f"{found['job']}: the records do not tell whose job it is, and root opens no file for a user",
            "let the job's user run `bollard job --verify`",
            1,
        )
    uid = uids.pop()
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise BollardError(
            f"user {uid} of job {found['job']} is not known here", "ask on a node of the job", 1
        ) from None
    identity.become(user)


def _verdict(path: str, digest: str) -> tuple[bool, str]:
    """Return whether the image at `path` has the digest, and a text for the user."""
    from bollard.runtime.image import image, sif_write

    try:
        opened = image.open_image(path, encrypted=True)
    except BollardError as error:
        return False, f"cannot be read: {error.message.replace(path + ': ', '', 1)}"
    try:
        if opened.kind == image.DIRECTORY:
            return True, "is a directory: nothing to compare"
        if opened.oci:
            from bollard.runtime.image import oci_sif

            now = oci_sif.measured(opened.fd, opened.oci, path)
        else:
            now = sif_write.sha256(opened.fd, opened.offset, opened.offset + opened.size)
    except BollardError as error:
        return False, error.message.replace(path + ": ", "", 1)
    finally:
        opened.close()
    if not digest:
        return True, f"sha256 {now} today; the record has none"
    return now == digest, "is what is on record" if now == digest else f"sha256 {now} today, {digest} on record"
