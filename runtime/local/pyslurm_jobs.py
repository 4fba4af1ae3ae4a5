# SPDX-License-Identifier: BSD-3-Clause
"""Read a job from the accounting through pyslurm, where a site has the one build that fits its Slurm.

pyslurm runs in a process of its own. Importing it starts Slurm's library, which ends the process where there is no
slurm.conf; and it changes how all later libraries are loaded. A build is for one release of Slurm: its first two
numbers are Slurm's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What is read of pyslurm.db.Job and of pyslurm.db.JobStep: our name, theirs. tests/builds/test_pyslurm.py looks each up
# in pyslurm's sources.
JOB = {
    "uid": "user_id", "state": "state", "exit": "exit_code", "signal": "exit_code_signal", "nodelist": "nodelist",
    "start": "start_time", "end": "end_time", "admincomment": "admin_comment", "container": "container",
}  # fmt: skip
STEP = {
    "id": "id", "state": "state", "exit": "exit_code", "signal": "exit_code_signal", "ntasks": "ntasks",
    "nodelist": "nodelist", "start": "start_time", "end": "end_time", "container": "container",
}  # fmt: skip
# Given: the number of the job, JOB and STEP.
PROGRAM = """\
import json, sys
import pyslurm
number, of_job, of_step = json.loads(sys.argv[1])
job = pyslurm.db.Job.load(number)
def read(what, names):
    return {ours: getattr(what, theirs) for ours, theirs in names.items()}
print(json.dumps([read(job, of_job), *(read(step, of_step) for step in job.steps.values())]))
"""
_SECONDS = 30


def fits(pyslurm: str, slurm: str) -> bool:
    """Return whether a version of pyslurm is for a version of Slurm: 25.11.2 for "slurm 25.11.4"."""
    found = [re.search(r"(\d+\.\d+)\.\d+", text) for text in (pyslurm, slurm)]
    return all(found) and found[0][1] == found[1][1]  # type: ignore[index]


def version(places: list[str] | None = None) -> str:
    """Return the version of the installed pyslurm; "" if there is none. Does not import it.

    places: directories to look in; None for those of the system's Python.
    """
    if places is None:
        import site

        places = [*site.getsitepackages(), *sys.path]
    found = metadata.distributions(name="pyslurm", path=places)
    return next((item.version for item in found), "")


def rows(job: int, slurm: str, places: list[str] | None = None) -> list[dict[str, Any]]:
    """Return a dictionary for the job, then one for each step, with the names of `job.look`.

    Empty if there is no pyslurm that fits, or if it fails: Slurm's commands are asked then.

    job: the number of the job.
    slurm: what `sacct --version` prints.
    places: as for `version`.
    """
    if not fits(version(places), slurm):
        return []
    program = [sys.executable, "-Ic", PROGRAM, json.dumps([job, JOB, STEP])]
    try:
        done = subprocess.run(
            program, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return []
    return [as_row(job, row) for row in found]


def as_row(job: int, found: dict[str, Any]) -> dict[str, Any]:
    """Return what PROGRAM printed of a job or step in the words of sacct."""
    import time

    row: dict[str, Any] = {
        name: found[name] or "" for name in ("nodelist", "container", "admincomment") if name in found
    }
    row["jobid"] = f"{job}.{found['id']}" if "id" in found else str(job)
    row["state"] = str(found["state"])
    row["exitcode"] = f"{found['exit'] or 0}:{found['signal'] or 0}"
    for name in ("uid", "ntasks"):
        row[name] = "" if found.get(name) is None else str(found[name])
    for name in ("start", "end"):
        seconds = found[name]
        row[name] = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) if seconds else "Unknown"
    return row
