# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands, as a flow uses them: sbatch, squeue, scancel, scontrol.

sbatch gets a small environment, so that a flow does not depend on the shell that it was submitted from, and no secret
of that shell gets into Slurm's records.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.preflight import wireup

_PASSED = (
    "HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "XDG_CONFIG_HOME", "XDG_STATE_HOME",
    "SLURM_CONF", "SLURM_CLUSTERS",
    "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy",
    "BOLLARD_FETCH_TIMEOUT",
)  # fmt: skip
_CHUNK = 500  # ids on one command line
_TRIES = 8  # while slurmctld restarts
_PAUSE = 2.0  # seconds
ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
          "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD")  # fmt: skip


class Row(NamedTuple):
    """A job, or an element of an array, in Slurm's queue. `element` is -1 for a job that is no array."""

    job: int
    element: int
    state: str
    reason: str
    node: str
    comment: str
    name: str = ""


def environment() -> dict[str, str]:
    """Return the environment of sbatch, which is that of the batch scripts too."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def run(words: Sequence[str], what: str) -> str:
    """Run one of Slurm's commands; return its standard output.

    words: the command line.
    what: the beginning of the message for a failure.

    Raises:
        BollardError: the command is missing or fails; the message has its own first line.
    """
    done = _run(words)
    if done.returncode:
        raise BollardError(f"{what}: {_complaint(done.stderr)}", "")
    return done.stdout


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    program = shutil.which(words[0])
    if not program:
        raise BollardError(f"{words[0]} is not on this host", "submit flows where Slurm's commands are")
    # In a session of its own: Ctrl-C reaches this process, which decides, and not a command halfway through its work.
    return subprocess.run(
        [program, *words[1:]], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
        env=environment(), start_new_session=True, check=False,
    )  # fmt: skip


def _complaint(text: str) -> str:
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in text.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines[:2])) or "it failed without a word"


def submit(options: Sequence[str], script: str, what: str) -> int:
    """Submit a batch script; return the number of the job. Waits while slurmctld cannot be reached.

    options: sbatch's options.
    script: the path of the script.
    what: the name of the job for messages.

    Raises:
        BollardError: sbatch refuses the job.
    """
    for left in range(_TRIES - 1, -1, -1):
        done = _run(["sbatch", "--parsable", *options, script])
        if not done.returncode:
            number = done.stdout.strip().splitlines()[-1].partition(";")[0]
            if not number.isdigit():
                raise BollardError(f"{what}: sbatch printed {number!r} and not a number", "")
            return int(number)
        # Nothing was sent then, so a second try cannot make a second job.
        if not left or "connect failure" not in done.stderr:
            raise BollardError(f"{what}: sbatch: {_complaint(done.stderr)}", "change the job's resources or `slurm:`")
        time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def test(options: Sequence[str], script: str, what: str) -> None:
    """Ask Slurm whether such a job can ever run; `submit` has the parameters.

    Raises:
        BollardError: it cannot.
    """
    done = _run(["sbatch", "--test-only", *options, script])
    if done.returncode:
        raise BollardError(f"{what}: sbatch: {_complaint(done.stderr)}", "change the job's resources or `slurm:`")


def queue(comment: str = "", known: Collection[tuple[int, str]] = ()) -> list[Row]:
    """Return jobs of this user that Slurm knows, also those that ended within MinJobAge.

    comment: jobs whose comment begins with this are returned.
    known: so are jobs with one of these numbers and names. A site's job_submit plugin may replace comments. The number
        alone is not enough: Slurm begins again with the first one some day.

    Raises:
        BollardError: slurmctld does not answer.
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    text = run(["squeue", "-h", "-a", "-r", "-t", "all", "-u", user, "-o", "%F|%K|%T|%r|%N|%j|%k"], "squeue")
    found = []
    for line in text.splitlines():
        words = line.split("|", 6)
        if len(words) != 7 or not words[0].isdigit():
            continue
        if words[6].startswith(comment) or (int(words[0]), words[5]) in known:
            index = int(words[1]) if words[1].isdigit() else -1
            found.append(Row(int(words[0]), index, words[2], words[3].strip("()"), words[4], words[6], words[5]))
    return found


def cancel(ids: Iterable[int]) -> None:
    """Cancel jobs. Jobs that are over are no failure.

    Raises:
        BollardError: scancel cannot reach slurmctld.
    """
    for some in _chunks(ids):
        for left in range(_TRIES - 1, -1, -1):
            done = _run(["scancel", "--quiet", *map(str, some)])
            gone = not done.returncode or "nvalid job id" in done.stderr or "already" in done.stderr
            if gone or not done.stderr.strip():
                break
            if not left:
                raise BollardError(f"scancel: {_complaint(done.stderr)}", "try `bollard flow cancel` again")
            time.sleep(_PAUSE)


def release(ids: Iterable[int]) -> None:
    """Release held jobs.

    Raises:
        BollardError: scontrol refuses.
    """
    for some in _chunks(ids):
        for left in range(_TRIES - 1, -1, -1):
            done = _run(["scontrol", "release", ",".join(map(str, some))])
            if not done.returncode:
                break
            if not left or "connect failure" not in done.stderr:
                raise BollardError(f"scontrol release: {_complaint(done.stderr)}", "")
            time.sleep(_PAUSE)


def _chunks(ids: Iterable[int]) -> Iterable[list[int]]:
    every = list(ids)
    return (every[at : at + _CHUNK] for at in range(0, len(every), _CHUNK))


def array_limits() -> tuple[int, int]:
    """Return MaxArraySize, which an index of an array is below, and how many elements an array can have.

    Raises:
        BollardError: scontrol is missing or fails.
    """
    text = run(["scontrol", "show", "config"], "scontrol")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.M)
    size = int(found[1]) if found else 1001
    most = re.search(r"\bmax_array_tasks=(\d+)", text)
    return size, min(size, int(most[1])) if most else size


def mpi_types() -> tuple[str, ...]:
    """Return the words that srun --mpi knows here, such as pmi2 and pmix_v4.

    Raises:
        BollardError: srun is missing.
    """
    done = _run(["srun", "--mpi=list"])
    return wireup.types_of(done.stdout + done.stderr)
