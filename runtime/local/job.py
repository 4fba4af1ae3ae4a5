# SPDX-License-Identifier: BSD-3-Clause
"""Read the records of a job: this node's record files, and Slurm's accounting.

here      the file RECORDS/JOB.UID of this node. Root opens it; the keepers write to it.
slurm     from sacct, or from scontrol if there is no accounting: the requested container, the nodes, the times, the
          end; and AdminComment, which root has set (account=yes in plugstack.conf)
"""

from __future__ import annotations

import itertools
import os
import subprocess

from bollard.runtime.container import record
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.request import spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The last field can hold any characters, also "|", so the line is split at the first ones only.
_FIELDS = ("JobID", "UID", "State", "ExitCode", "NTasks", "NodeList", "Start", "End", "AdminComment", "Container")
_RECORD_MAX = 2 * record.SIZE_MAX


def look(job: int, folder: str = record.RECORDS, collect: bool = False) -> dict[str, Any]:
    """Return all records of a job as plain data: the keys `job`, `node`, `here`, `slurm`.

    job: the number of the job.
    folder: the directory of the record files.
    collect: fetch the records of all the job's nodes, with a step of the job or a small new job.

    Raises:
        BollardError: neither this node nor Slurm knows the job, or a node does not answer.
    """
    steps = _sacct(job) or _scontrol(job)
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
        return []
    found = []
    for name in sorted(names):
        try:
            with open(f"{folder}/{name}", "rb") as file:
                text = file.read(_RECORD_MAX)
        except (FileNotFoundError, PermissionError):
            continue  # it was removed, or is another user's
        user = name.split(".")[1] if name.count(".") else ""
        found += [{**entry, "user": int(user) if user.isdigit() else -1} for entry in _last_lines(text)]
    return sorted(found, key=lambda entry: entry.get("made", 0.0))


def _last_lines(text: bytes) -> list[dict[str, Any]]:
    """Return the last complete line of each container."""
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
        elif name in ("made", "first", "last", "ended"):
            found[name] = float(value)
        elif name in ("tasks", "keeper"):
            found[name] = int(value)
        else:
            found[name] = value
    return found


def _collected(job: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Run `bollard job --here` on each node of the job; return all answers.

    It runs as a step of the job while the job runs, else as a new job.
    """
    import json

    nodes = _run(["scontrol", "show", "hostnames", row.get("nodelist", "")]).split()
    if not nodes:
        raise BollardError(f"{job}: Slurm does not tell its nodes", "run `bollard job` on each of them")
    count = str(len(nodes))
    running = row.get("state") == "RUNNING"
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
        return ""
    return done.stdout if done.returncode == 0 else ""


def _sacct(job: int) -> list[dict[str, Any]]:
    """Return a dictionary for the job, then one for each step; empty without accounting."""
    fields = list(_FIELDS)
    text = _run(["sacct", "-P", "-n", "-j", str(job), "-o", ",".join(fields)])
    if not text:  # Slurm before 21.08 has no field Container
        fields.remove("Container")
        text = _run(["sacct", "-P", "-n", "-j", str(job), "-o", ",".join(fields)])
    return [
        _row(fields, line.split("|", len(fields) - 1))
        for line in text.splitlines()
        if line.count("|") >= len(fields) - 1
    ]


def _row(fields: list[str], values: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name.lower(): value for name, value in zip(fields, values)}
    comment = row.pop("admincomment", "")
    if comment.startswith("bollard="):
        try:
            row["entered"] = decode(comment.encode("utf-8", "replace"))
        except (ValueError, BollardError):
            row["entered"] = {}
    return row


_COMMENT = "AdminComment="
_SHOWN = {
    "JobId": "jobid", "JobState": "state", "ExitCode": "exitcode", "NumTasks": "ntasks", "NodeList": "nodelist",
    "UserId": "uid", "StartTime": "start", "EndTime": "end", "Container": "container",
}  # fmt: skip


def _scontrol(job: int) -> list[dict[str, Any]]:
    """Return a dictionary for the job, without its steps; empty if slurmctld no longer knows the job."""
    words = _run(["scontrol", "show", "job", "--oneliner", str(job)]).split()
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    row: dict[str, Any] = {ours: pairs[slurms] for slurms, ours in _SHOWN.items() if slurms in pairs}
    if "uid" in row:  # alice(1000)
        row["uid"] = row["uid"].rpartition("(")[2].rstrip(")")
    mark = next((number for number, word in enumerate(words) if word.startswith(_COMMENT + "bollard=")), -1)
    if row and mark >= 0:
        # The comment ends at the next name of Slurm: these begin with a capital letter, the names of a record do not.
        more = itertools.takewhile(lambda word: word[0].islower(), words[mark + 1 :])
        row.update(_row(["AdminComment"], [" ".join([words[mark][len(_COMMENT) :], *more])]))
    return [row] if row else []


def lines(found: dict[str, Any]) -> list[str]:
    """Return the records as lines of text."""
    text = []
    for row in found["slurm"]:
        if row["jobid"].endswith(".extern"):
            continue
        asked = row.get("container") or "no container"
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

    steps = ", ".join(f"{count} of step {step}" for step, count in entry.get("steps", {}).items())
    lines = [
        f"{entry.get('node', '?')}: {entry.get('tasks', 0)} tasks entered{f' ({steps})' if steps else ''}",
        f"  {entry.get('image', '?')}",  # the user chose this text; `shown` escapes it
        *([f"  from {entry['source']}"] if entry.get("source") else []),
        f"  sha256 {entry.get('digest') or 'not in the image'}, file {entry.get('id', '?')}",
        *_trusted(entry),
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
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(uid, uid, uid)


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
        now = sif_write.sha256(opened.fd, opened.offset, opened.offset + opened.size)
    finally:
        opened.close()
    if not digest:
        return True, f"sha256 {now} today; the record has none"
    return now == digest, "is what is on record" if now == digest else f"sha256 {now} today, {digest} on record"
