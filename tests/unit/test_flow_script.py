# SPDX-License-Identifier: BSD-3-Clause
"""The batch scripts of flows, run by bash without Slurm: what they write, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from bollard.runtime.flow import folder, script, state


class Script:
    """A script in a flow's directory. `run` starts it."""

    def __init__(self, top):
        self.top = top / "a flow's; directory"
        for part in ("state", "bin"):
            (self.top / part).mkdir(parents=True)

    def start(self, command, name="a", element="", **more):
        text = script.text(name, str(self.top), 1, ["--x=y z"], command=command, **more)
        part = f"{name}.{element}" if element else name
        folder.reserve(self.top, [part])
        path = self.top / "a.sh"
        path.write_text(text)
        environ = {"PATH": f"{self.top}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}
        environ |= {name: value for name, value in os.environ.items() if name == "SLURM_JOB_END_TIME"}
        if element:
            environ |= {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": element}
        return subprocess.Popen(
            ["bash", str(path)], env=environ, cwd=self.top, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command, **more):
        done = self.start(command, **more)
        said, _ = done.communicate(timeout=60)
        return done.returncode, said

    def record(self, part="a"):
        return state.read(self.top / "state" / part)


@pytest.fixture
def job(tmp_path):
    return Script(tmp_path)


def test_success_and_failure(job):
    assert job.run(["sh", "-c", 'echo "$FB_WORKFLOW_ID"']) == (0, "a flow's; directory\n")
    wrote = job.record()
    assert (wrote.state, wrote.job, wrote.status, wrote.node) == ("ok", 12, 0, "n1")
    assert wrote.end >= wrote.start > 1e9
    assert job.run(["sh", "-c", "exit 9"])[0] == 9
    assert (job.record().state, job.record().status) == ("failed", 9)
    assert job.run(["/no/such/program"])[0] == 127


def test_an_element_of_an_array(job):
    assert job.run(["sh", "-c", "echo $FB_TASK_ID"], element="7") == (0, "7\n")
    assert job.record("a.7").job == 11


def test_attempts(job):
    code, said = job.run(["sh", "-c", "echo x >> tries; test $(wc -l < tries) = 3"], attempts=3)

    assert code == 0 and said.count("starting it again") == 2 and "attempt 2 of 3 ended with status 1" in said
    assert (job.record().state, job.record().attempt) == ("ok", 3)
    (job.top / "tries").unlink()
    assert job.run(["sh", "-c", "echo x >> tries; exit 4"], attempts=2)[0] == 4
    assert len((job.top / "tries").read_text().splitlines()) == 2 and job.record().state == "failed"


def test_a_timeout(job):
    code, said = job.run(["sleep", "60"], timeout=1)

    assert code == 124 and "stopped after 1 s, its policy.timeout.execute" in said and job.record().state == "timeout"
    assert job.run(["sh", "-c", "exit 124"], timeout=50)[0] == 124
    assert job.record().state == "failed"  # the program's own status


def test_a_signal(job):
    process = job.start(["sh", "-c", "echo ready; exec sleep 60"], attempts=5)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert job.record().state == "running"
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert process.wait(30) == 143 and time.monotonic() - begun < 20
    assert job.record().state == "cancelled" and job.record().attempt == 1


def test_others_are_cancelled_after_a_failure(job):
    tool = job.top / "bin/scancel"
    tool.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/called"\n')
    tool.chmod(0o755)
    (job.top / "ids").write_text("1 a 12\n1 b 13\n1 .end 14\n2 c 15\n1 d 16\n")
    job.run(["false"], cancel_others=True)
    assert (job.top / "bin/called").read_text().split() == ["--quiet", "13", "16"]
    (job.top / "bin/called").unlink()
    job.run(["true"], cancel_others=True)
    assert not (job.top / "bin/called").exists()


def test_an_image_that_has_changed(job, tmp_path):
    image = tmp_path / "image's.sif"
    image.write_text("x")
    info = image.stat()
    check = script.unchanged(str(image), f"{info.st_size} {int(info.st_mtime)}")
    assert job.run(["true"], before=check) == (0, "")
    image.write_text("xy")
    code, said = job.run(["true"], before=check)
    assert code == 255 and "has changed since the flow was submitted" in said and job.record().state == "failed"


def test_an_image_that_its_node_does_not_have(job, tmp_path):
    for image, wanted in (("no such.sif", "No such file or directory"), ("ids/x.sif", "Not a directory")):
        (tmp_path / "ids").touch()
        code, said = job.run(["true"], before=script.unchanged(str(tmp_path / image), "1 1"))
        assert code == 255 and f"{image}: is not on n1: {wanted}; " in said and "changed" not in said


def test_a_limit_of_the_partition(job, monkeypatch):
    """Slurm ends the job at SLURM_JOB_END_TIME, for whatever reason that time is so."""
    for end, wanted in ((int(time.time()), "timeout"), (int(time.time()) + 1000, "cancelled"), (0, "cancelled")):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(end))
        process = job.start(["sh", "-c", "echo ready; exec sleep 60"])
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143 and job.record().state == wanted


def test_a_record_needs_no_room(job):
    """The state file has its size from the beginning, and is written where it is."""
    process = job.start(["sh", "-c", "exit 3"])
    inode = (job.top / "state/a").stat().st_ino
    process.communicate(timeout=60)
    info = (job.top / "state/a").stat()
    assert (info.st_ino, info.st_size) == (inode, folder.RESERVED) and os.listdir(job.top / "state") == ["a"]
    assert job.record().status == 3
