# SPDX-License-Identifier: BSD-3-Clause
"""The names that bollard reads of pyslurm, looked up in pyslurm's sources; and what happens where it is missing.

No Slurm of Debian's fits a pyslurm of the package registry, so pyslurm itself is not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bollard.runtime.local import pyslurm_jobs

VERSION = "25.11.2"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sources. pip cannot prepare their build here, but it has fetched them by then and leaves them."""
    top = tmp_path_factory.mktemp("pyslurm")
    words = ["--no-clean", "--no-deps", "--no-build-isolation", "--no-binary=pyslurm", f"pyslurm=={VERSION}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={top}", *words],
        env={"TMPDIR": str(top), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = list(top.glob("pip-download-*/pyslurm_*/pyslurm/db"))
    assert found, done.stderr
    return found[0]


def members(text: str, of: str) -> set[str]:
    """The methods and properties of a class in the text of a .pyx file."""
    body = re.split(r"^(?:cdef )?class ", text.partition(f"\ncdef class {of}:")[2], flags=re.MULTILINE)[0]
    return set(re.findall(r"^    def (\w+)\(", body, re.MULTILINE))


def test_each_name_is_there(sources: Path) -> None:
    job, step = (sources / "job.pyx").read_text(), (sources / "step.pyx").read_text()
    assert set(pyslurm_jobs.JOB.values()) - members(job, "Job") == set()
    assert set(pyslurm_jobs.STEP.values()) - members(step, "JobStep") == set()
    assert re.search(r"@staticmethod\n    def load\(job_id, ", job)
    assert re.search(
        r"cdef class Job:\n.*?cdef public:\n        JobSteps steps\n", (sources / "job.pxd").read_text(), re.DOTALL
    )
    assert "self.steps[step.id] = step" in job


def test_a_pyslurm_is_for_one_slurm() -> None:
    assert pyslurm_jobs.fits(VERSION, "slurm 25.11.0-0rc1") and not pyslurm_jobs.fits(VERSION, "slurm 26.05.5")
    assert not pyslurm_jobs.fits("", "slurm 25.11.1") and not pyslurm_jobs.fits(VERSION, "")


def test_what_does_not_fit_or_fails_is_not_asked(tmp_path: Path) -> None:
    """Slurm's commands are asked then. An import that ends its process, as without a slurm.conf, ends no other."""
    assert pyslurm_jobs.version([str(tmp_path)]) == ""
    info = tmp_path / f"pyslurm-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pyslurm\nVersion: {VERSION}\n")
    assert pyslurm_jobs.version([str(tmp_path)]) == VERSION
    assert pyslurm_jobs.rows(7, "slurm 22.05.8", [str(tmp_path)]) == []
    assert pyslurm_jobs.rows(7, "slurm 25.11.2", [str(tmp_path)]) == []


def test_the_words_are_those_of_sacct() -> None:
    found = {
        "id": "batch", "state": "FAILED", "exit": 3, "signal": None, "ntasks": 2, "nodelist": "n1", "start": 86400,
        "end": None, "container": None,
    }  # fmt: skip
    row = pyslurm_jobs.as_row(7, found)
    assert row["start"].startswith("1970-01-0") and row.pop("start")
    assert row == {
        "jobid": "7.batch", "state": "FAILED", "exitcode": "3:0", "ntasks": "2", "uid": "", "nodelist": "n1",
        "end": "Unknown", "container": "",
    }  # fmt: skip
