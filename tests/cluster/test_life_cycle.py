# SPDX-License-Identifier: BSD-3-Clause
"""Events from outside while a job runs in a container: it ends, waits or goes on as without one."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import WHERE, Cluster, Images, Process, Result, Work, good, until

# Says so when it begins, counts on, and saves with the image's own programs when it is asked to end.
TASK = """#!/bin/bash
trap 'ls /usr/bin > {work}/saved; exit 9' TERM
echo $SLURM_RESTART_COUNT >> {work}/begun
while test -d {work}; do echo >> {work}/count; sleep 0.1; done
"""


def state(cluster: Cluster, job: int) -> dict[str, str]:
    text = cluster.exec(["scontrol", "show", "job", "--oneliner", str(job)]).out
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


@contextlib.contextmanager
def running(cluster: Cluster, images: Images, work: Work, *options: str) -> Iterator[int]:
    """Yield a batch job whose task runs in a container on n1."""
    job = cluster.sbatch(TASK.format(work=work.path), work, "-w", "n1", f"--container={images.small}", *options)
    work.wait_for("count")
    yield job


def counts(work: Work) -> int:
    return len(work.read("count"))


def goes_on(work: Work) -> None:
    before = counts(work)
    until(lambda: counts(work) > before, "the task's next count")


def test_it_is_cancelled(cluster: Cluster, images: Images, work: Work) -> None:
    with running(cluster, images, work) as job:
        good(cluster.exec(["scancel", "--full", str(job)]))
        assert cluster.ended(job)["JobState"] == "CANCELLED"
    assert "perl\n" in work.read("saved")


def test_its_time_is_over(cluster: Cluster, images: Images, work: Work) -> None:
    """Slow: Slurm checks every 30 seconds, and the shortest limit is a minute."""
    with running(cluster, images, work, "--time=0:01") as job:
        assert cluster.ended(job, 180)["JobState"] == "TIMEOUT"


def begins(cluster: Cluster, job: int) -> bool:
    """Whether a requeued job begins to run. Slurm makes it wait two minutes, anew when the first run has ended."""
    found = state(cluster, job)
    if found["JobState"] == "PENDING":
        # Refused if it has begun by now.
        cluster.exec(["scontrol", "update", f"JobId={job}", "StartTime=now"], user="root")
    return found["JobState"] == "RUNNING" and found["Restarts"] == "1"


def test_it_is_requeued(cluster: Cluster, images: Images, work: Work) -> None:
    with running(cluster, images, work, "--requeue") as job:
        good(cluster.exec(["scontrol", "requeue", str(job)], user="root"))
        until(lambda: begins(cluster, job), "the second run's begin", 150)
        until(lambda: work.read("begun") == "\n1\n", "the second run")
        good(cluster.exec(["scancel", "--full", str(job)]))
        cluster.ended(job)


def test_it_is_suspended_and_resumed(cluster: Cluster, images: Images, work: Work) -> None:
    with running(cluster, images, work) as job:
        good(cluster.exec(["scontrol", "suspend", str(job)], user="root"))
        until(lambda: state(cluster, job)["JobState"] == "SUSPENDED", "the suspension")

        def stands() -> bool:
            before = counts(work)
            time.sleep(0.5)
            return counts(work) == before

        until(stands, "the end of the counting")
        good(cluster.exec(["scontrol", "resume", str(job)], user="root"))
        goes_on(work)
        good(cluster.exec(["scancel", "--full", str(job)]))
        cluster.ended(job)


def test_the_configuration_is_read_again(cluster: Cluster, images: Images, work: Work) -> None:
    with running(cluster, images, work) as job:
        good(cluster.exec(["scontrol", "reconfigure"], user="root"))
        goes_on(work)
        until(lambda: inside(cluster, images) == (0, "inside\n", ""), "a step after it")
        good(cluster.exec(["scancel", "--full", str(job)]))
        cluster.ended(job)


def inside(cluster: Cluster, images: Images) -> Result:
    return cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", WHERE)


def test_slurmd_is_started_again(cluster: Cluster, images: Images, work: Work) -> None:
    with running(cluster, images, work) as job:
        slurmd = next(process for process in cluster.named("n1", "slurmd", "slurmd-wlm"))
        command, environ = words_of(slurmd, "cmdline"), words_of(slurmd, "environ")
        environ = [word for word in environ if not word.startswith("SLURMD_RECONF")]  # set by an earlier reconfigure
        slurmd.kill(15)
        until(lambda: not slurmd.alive(), "the end of slurmd")
        started = cluster.exec(["env", "-i", *environ, "setsid", *command], node="n1", user="root")
        assert started.rc == 0, started
        goes_on(work)
        until(lambda: inside(cluster, images) == (0, "inside\n", ""), "a step of the second slurmd")
        good(cluster.exec(["scancel", "--full", str(job)]))
        assert cluster.ended(job)["JobState"] == "CANCELLED"
    assert "perl\n" in work.read("saved")


def words_of(process: Process, name: str) -> list[str]:
    with open(f"/proc/{process.pid}/{name}", "rb") as file:
        return [word.decode() for word in file.read().split(b"\0") if word]


def test_the_plugin_is_installed_again(cluster: Cluster, images: Images, work: Work) -> None:
    """Running containers keep the installation that they were started with; new ones use the new installation."""
    with running(cluster, images, work) as job:
        cluster.front("plugin")
        goes_on(work)
        attached = cluster.srun(
            "--overlap", f"--jobid={job}", f"--container={images.small}", "sh", "-c", WHERE,
        )  # fmt: skip
        assert attached == (0, "inside\n", ""), attached
        assert inside(cluster, images) == (0, "inside\n", "")
        good(cluster.exec(["scancel", "--full", str(job)]))
        cluster.ended(job)
    assert "perl\n" in work.read("saved")


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A memory control group with a limit of 80 MB."""
    group = Path("/sys/fs/cgroup/memory") / f"bollard-{secrets.token_hex(4)}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("80000000")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), "the end of the group's processes")
    group.rmdir()


def test_it_takes_too_much_memory(cluster: Cluster, images: Images, work: Work, small_memory: Path) -> None:
    """The kernel ends the task, but not the processes that other tasks need."""
    eat = (
        f"test $SLURM_PROCID = 1 || exec sleep 3; {work.pause('ready')}; x=$(head -c 200000000 /dev/zero | tr '\\0' x)"
    )
    words = ["srun", "-Q", "-w", "n1", "-n2", f"--container={images.small}", "bash", "-c", f"{eat}; echo $? ${{#x}}"]
    with cluster.start(words) as step:
        work.wait_for("ready")
        task = next(p for p in cluster.named("n1", "bash") if "ready" in words_of(p, "cmdline")[-1])
        (small_memory / "cgroup.procs").write_text(str(task.pid))
        work.go_on("ready")
        done = step.result()
    assert done.rc != 0 and "200000000" not in done.out, done
    assert "bollard" not in done.err, done
