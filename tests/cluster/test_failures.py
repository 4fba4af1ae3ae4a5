# SPDX-License-Identifier: BSD-3-Clause
"""Failures during a run: tasks end with a clear error, or go on, and nothing is left.

The fixture `leftovers` checks after each test that nothing is left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from cluster import SERVERS, WHERE, Cluster, Images, Process, Running, Work, good, until

# Alive for as long as the image answers: a shell loop whose program is read from the image again and again.
TASK = "echo > {work}/ready.$SLURM_PROCID; while test -d {work}; do ls /usr/bin > /dev/null; sleep 0.1; done"


@contextlib.contextmanager
def running(cluster: Cluster, images: Images, work: Work, *options: str, tasks: int = 2) -> Iterator[Running]:
    """Yield a step whose tasks on n1 run in their container."""
    words = ["srun", "-Q", "-w", "n1", f"-n{tasks}", f"--container={images.small}", *options]
    with cluster.start([*words, "bash", "-c", TASK.format(work=work.path)]) as step:
        for task in range(tasks):
            work.wait_for(f"ready.{task}")
        yield step


def only(found: list[Process]) -> Process:
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("tasks", [1, 4])
def test_the_keeper_is_killed(cluster: Cluster, images: Images, work: Work, tasks: int) -> None:
    with running(cluster, images, work, tasks=tasks) as step:
        only(cluster.named("n1", "bollard-keeper")).kill()
        done = step.result()
    assert done.rc != 0, done
    assert done.complaints() == ["bollard: the container's keeper on n1 was killed; the task is ended too"], done


@pytest.mark.parametrize("tasks", [1, 4])
def test_the_file_server_is_killed(cluster: Cluster, images: Images, work: Work, tasks: int) -> None:
    with running(cluster, images, work, tasks=tasks) as step:
        only(cluster.named("n1", *SERVERS)).kill()
        done = step.result()
    # The kernel may end the tasks first, at a page of the image that cannot be read any more: slurmstepd says why then.
    (line,) = [line for line in done.err.splitlines() if "bollard: " in line]
    said = "bollard: the container's file server on n1 ended; the task in its container is ended too"
    first = "error: bollard: the container's file server has ended, and the tasks with it; submit again"
    assert done.rc != 0 and (line == said or first in line), done


def test_the_guard_is_killed(cluster: Cluster, images: Images, work: Work) -> None:
    """The task reaper acts only when the keeper ends, so the tasks go on and end as usual."""
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "bash", "-c"]
    script = f"{work.pause('ready')}; {WHERE}; exit 4"
    with cluster.start([*words, script]) as step:
        work.wait_for("ready")
        only(cluster.named("n1", "bollard-reaper")).kill()
        work.go_on("ready")
        done = step.result()
    assert (done.rc, done.out, done.complaints()) == (4, "inside\n", []), done


def test_keeper_and_guard_are_killed(cluster: Cluster, images: Images, work: Work) -> None:
    """Then only Slurm can end the tasks: when the job is cancelled."""
    with running(cluster, images, work) as step:
        only(cluster.named("n1", "bollard-reaper")).kill()
        only(cluster.named("n1", "bollard-keeper")).kill()
        step.terminate()
        assert step.result().rc != 0


def test_the_keeper_is_killed_between_steps(cluster: Cluster, images: Images, work: Work) -> None:
    step = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    script = f"{step}; {work.pause('ready')}; {step}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("ready")
        keeper = only(cluster.named("n1", "bollard-keeper"))
        keeper.kill()
        until(lambda: not keeper.alive(), "its end")
        work.go_on("ready")
        assert job.result() == (0, "inside\ninside\n", "")


def test_the_keeper_stops(cluster: Cluster, images: Images, work: Work) -> None:
    """A keeper that hangs (SIGSTOP) makes no later step wait for ever, and does not keep the node after the job."""
    first = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    script = f"{first}; {work.pause('ready')}; {first}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("ready")
        keeper = only(cluster.named("n1", "bollard-keeper"))
        keeper.kill(19)
        work.go_on("ready")
        try:
            done = job.result(30)
            assert done.out.startswith("inside\n") and (done.rc == 0 or done.complaints()), done
        finally:
            if keeper.alive():
                keeper.kill(18)


def test_the_server_of_a_layer_stops(cluster: Cluster, images: Images, work: Work) -> None:
    """The server is the user's own process; it ends with its container even when it is stopped."""
    good(cluster.exec(["bollard", "overlay", "create", "--size=64", "layer.img"], cwd=work.path))
    layer = f"--container-opts=--overlay {work.path}/layer.img"
    task = f"sleep 12 & sleep 2; echo > {work.path}/ready; wait"  # what reads its files would wait for the server
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", layer, "sh", "-c", task]
    with cluster.start(words) as job:
        work.wait_for("ready")
        server = next(found for name in ("fuse2fs", "fuse2fs2") for found in cluster.named("n1", name))
        server.kill(19)
        job.result()
    until(lambda: not server.alive(), "the end of a stopped server", 20)


def test_the_image_is_removed(cluster: Cluster, images: Images, work: Work) -> None:
    """The open image stays readable: running tasks go on, and later steps of the job are refused."""
    image = work.write("image.sif", cluster.path("ctl", images.small).read_bytes())
    inside = f"{work.pause('ready')}; dpkg --version > /dev/null; {WHERE}"
    script = f"srun -Q --container={image} sh -c '{inside}'; srun -Q --container={image} touch {work.path}/marker"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("ready")
        (work.here / "image.sif").unlink()
        work.go_on("ready")
        done = job.result()
    assert done.out == "inside\n" and done.rc == 255, done
    assert len(done.complaints()) == 1 and "no such file" in done.err and not work.exists("marker"), done


def test_the_image_is_truncated(cluster: Cluster, images: Images, work: Work) -> None:
    """The image is overwritten in place. Reading then fails: the task ends with an error and does not hang."""
    image = work.write("image.sif", cluster.path("ctl", images.small).read_bytes())
    inside = f"{work.pause('ready')}; cat /usr/bin/* /usr/lib/*/* > /dev/null"
    with cluster.start(["srun", "-Q", "-w", "n1", f"--container={image}", "bash", "-c", inside]) as step:
        work.wait_for("ready")
        (work.here / "image.sif").write_bytes(b"")
        work.go_on("ready")
        assert step.result().rc != 0


def test_the_task_is_killed(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c"]
    with cluster.start([*words, f"echo > {work.path}/ready; exec tail -f /dev/null"]) as step:
        work.wait_for("ready")
        until(lambda: cluster.named("n1", "tail"), "the task")
        only(cluster.named("n1", "tail")).kill()
        done = step.result()
    assert done.rc == 137 and done.err == "srun: error: n1: task 0: Killed\n", done


def test_a_task_leaves_a_process_behind(cluster: Cluster, images: Images) -> None:
    """Slurm ends the processes that a task leaves running, also in a container."""
    done = cluster.srun(
        "-w", "n1", f"--container={images.small}", "bash", "-c", "(trap '' HUP TERM; tail -f /dev/null) & echo on"
    )
    assert done.rc == 0 and done.out == "on\n", done


def test_slurmstepd_is_killed(cluster: Cluster, images: Images, work: Work) -> None:
    """As without a container, srun ends or is cancelled. The container and its tasks end with the job at the latest."""
    job = cluster.sbatch(
        f"#!/bin/bash\nexec srun --container={images.small} bash -c '{TASK.format(work=work.path)}'\n", work, "-w", "n1"
    )
    work.wait_for("ready.0")
    for process in cluster.named("n1", "slurmstepd"):
        if f"[{job}.0]" in cmdline(process):
            process.kill()
    cluster.exec(["scancel", str(job)])
    cluster.ended(job)
    remove_slurms_cgroups(cluster, job)


def test_the_slurmstepd_of_a_batch_script_is_killed(cluster: Cluster, images: Images, work: Work) -> None:
    job = cluster.sbatch(
        f"#!/bin/bash\n{TASK.format(work=work.path)}\n", work, "-w", "n1", f"--container={images.small}"
    )
    work.wait_for("ready.0")
    for process in cluster.named("n1", "slurmstepd"):
        if f"[{job}.batch]" in cmdline(process):
            process.kill()
    cluster.exec(["scancel", str(job)])
    cluster.ended(job, 120)
    remove_slurms_cgroups(cluster, job)


def remove_slurms_cgroups(cluster: Cluster, job: int) -> None:
    """Check that bollard's cgroup is gone, and remove Slurm's: a killed slurmstepd leaves them for plain jobs too."""
    root = cluster.path("n1", "/sys/fs/cgroup")
    until(lambda: not list(root.glob(f"*/slurm_n1/uid_*/job_{job}/step_bollard")), "the end of bollard's cgroup")
    for folder in root.glob(f"*/slurm_n1/uid_*/job_{job}"):
        for path, _, _ in os.walk(folder, topdown=False):
            os.rmdir(path)
        with contextlib.suppress(OSError):  # the user has another job
            folder.parent.rmdir()


def cmdline(process: Process) -> str:
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        return file.read().decode(errors="replace")


def test_a_nodes_power_is_cut(cluster: Cluster, images: Images, work: Work) -> None:
    """srun ends with Slurm's error, and the other node is clean. The node works when it is started again."""
    words = ["srun", "-Q", "-w", "n3,n4", "--ntasks-per-node=1", f"--container={images.small}", "bash", "-c"]
    try:
        with cluster.start([*words, TASK.format(work=work.path)]) as step:
            work.wait_for("ready.0")
            work.wait_for("ready.1")
            cluster.front("kill", "--node", "n4")
            done = step.result(120)
        assert done.rc != 0 and "srun: error: " in done.err, done
    finally:
        cluster.front("start", "--node", "n4")
    again = cluster.srun("-w", "n4", f"--container={images.small}", "sh", "-c", WHERE)
    assert again == (0, "inside\n", ""), again


SAVING = """#!/bin/bash
srun --container={image} bash -c 'trap "sleep 1; ls /usr/bin > {work}/saved
md5sum /usr/bin/perl >> {work}/saved; exit 0" TERM
touch {work}/ready; while :; do sleep 0.1; done'
"""


def test_a_cancelled_job_saves_with_the_images_programs(cluster: Cluster, images: Images, work: Work) -> None:
    """The extern step ends at scancel's SIGTERM. The container stays for the steps that still run."""
    script = SAVING.format(image=images.small, work=work.path)
    job = cluster.exec(["bash", "-c", f"cd {work.path} && sbatch --parsable <<'END'\n{script}END"]).out.strip()
    work.wait_for("ready")
    cluster.exec(["scancel", job])
    work.wait_for("saved")
    done = cluster.exec(["bash", "-c", f"until grep -q perl$ {work.path}/saved; do :; done; tail -1 {work.path}/saved"])
    assert done.out.endswith("/usr/bin/perl\n"), done
