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

    def start(self, command, name="a", element="", restart=0, **more):
        text = script.text(name, str(self.top), 1, ["--x=y z"], command=command, **more)
        part = f"{name}.{element}" if element else name
        if not restart:
            folder.reserve(self.top, [part])
        path = self.top / "a.sh"
        path.write_text(text)
        environ = {"PATH": f"{self.top}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}
        environ |= {name: value for name, value in os.environ.items() if name == "SLURM_JOB_END_TIME"}
        if restart:
            environ["SLURM_RESTART_COUNT"] = str(restart)
        if element:
            environ |= {"SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": element}
        return subprocess.Popen(
            ["bash", str(path)], env=environ, cwd=self.top, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,  # slurmd sends signals to all processes of a job
        )  # fmt: skip

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


def scontrol(job, text):
    """Make a program that notes its arguments and then does what slurmctld would let happen."""
    tool = job.top / "bin/scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" > "$(dirname "$0")/called"\n{text}\n')
    tool.chmod(0o755)


def test_attempts_by_requeue(job):
    """Slurm ends the script after `scontrol requeue`; the next start has the next number, and the last one fails."""
    scontrol(job, "kill -TERM 0; sleep 60")  # slurmd may be faster than scontrol's answer
    code, said = job.run(["sh", "-c", "exit 4"], attempts=3, requeue=True)
    assert code == 4 and "attempt 1 of 3 ended with status 4; Slurm starts it again" in said
    assert (job.top / "bin/called").read_text() == "requeue 12\n"
    wrote = job.record()
    assert (wrote.state, wrote.attempt, wrote.status) == ("again", 1, 4)

    scontrol(job, "(sleep 0.5; kill -TERM 0) > /dev/null 2>&1 &")
    assert job.run(["sh", "-c", "exit 5"], attempts=3, requeue=True, restart=1)[0] == 5
    assert (job.record().state, job.record().attempt) == ("again", 2)
    (job.top / "bin/called").unlink()
    assert job.run(["sh", "-c", "exit 6"], attempts=3, requeue=True, restart=2)[0] == 6
    assert (job.record().state, job.record().attempt) == ("failed", 3) and not (job.top / "bin/called").exists()


def test_an_element_of_an_array_is_requeued_alone(job):
    scontrol(job, "kill -TERM 0")
    job.run(["false"], attempts=2, requeue=True, element="7")
    assert (job.top / "bin/called").read_text() == "requeue 11_7\n" and job.record("a.7").state == "again"


def test_a_job_that_cannot_be_requeued_runs_again_where_it_is(job):
    scontrol(job, "echo 'Requested operation is disabled' >&2; exit 1")
    code, said = job.run(["sh", "-c", "echo x >> tries; test $(wc -l < tries) = 2"], attempts=3, requeue=True)
    assert code == 0 and "scontrol requeue: Requested operation is disabled; starting it again in the same" in said
    assert (job.record().state, job.record().attempt) == ("ok", 2)


@pytest.mark.parametrize(
    ("state_before", "number", "wanted"), [("running", 12, 2), ("cancelled", 12, 2), ("failed", 12, 1), ("again", 9, 1)]
)
def test_attempts_after_a_requeue_of_others(job, state_before, number, wanted):
    """An attempt that a dead node cut short is made again; a job that somebody requeues after its end begins anew."""
    (job.top / "state/a").write_text(
        f"state={state_before} job={number} start=1 end=0 status=0 attempt=2 ".ljust(510) + ".\n"
    )
    job.run(["true"], attempts=3, restart=1)
    assert (job.record().state, job.record().attempt) == ("ok", wanted)


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


def test_a_job_of_a_flow_that_was_removed_does_not_start(job):
    started = job.start(["touch", str(job.top / "ran")])
    started.wait(60)
    assert (job.top / "ran").exists() and not started.returncode

    (job.top / "ran").unlink()
    (job.top / "state/a").unlink()
    environ = {**os.environ, "SLURM_JOB_ID": "12"}
    done = subprocess.run(
        ["bash", str(job.top / "a.sh")], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 255 and done.stdout.endswith("state/a: is gone, so the job does not start\n")
    assert not (job.top / "ran").exists() and not (job.top / "state/a").exists()
