# SPDX-License-Identifier: BSD-3-Clause
"""Instances in jobs: every step of the job on the node can join, and nothing is left when the job has ended.

The fixture `leftovers` checks after each test that nothing is left on any node. Everything else about instances is
tested without Slurm in tests/unit/test_instance.py.
"""

from __future__ import annotations

import json

from cluster import Cluster, Images, Work, good, until

SERVICE = "bollard instance run {image} web sh -c 'sleep 1000 & exec sleep 1000' 2>/dev/null\n"


def script(work: Work, image: str, *lines: str) -> str:
    start = ["#!/bin/bash", f"export BOLLARD_CONFIGDIR={work.path}", SERVICE.format(image=image).rstrip()]
    return "\n".join([*start, *lines, ""])


def test_the_steps_of_a_job_join(cluster: Cluster, images: Images, work: Work) -> None:
    text = script(work, images.small, "srun -n2 bollard exec instance://web sh -c 'echo $APPTAINER_INSTANCE'")

    assert cluster.batch(text, work, "-n2", "-N1").lines() == ["web", "web"]


def test_the_record_names_the_job(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.batch(script(work, images.small, "bollard instance list --json; echo $SLURM_JOB_ID"), work, "-n1")

    text, _, job = done.out.strip().rpartition("\n")
    assert json.loads(text)["instances"][0]["job"].split(".")[0] == job


def test_it_is_cancelled_with_the_job(cluster: Cluster, images: Images, work: Work) -> None:
    job = cluster.sbatch(script(work, images.small, work.pause("ready")), work, "-n1", "-w", "n1")
    work.wait_for("ready")
    assert len(cluster.named("n1", "bollard-init")) == 1

    good(cluster.exec(["scancel", str(job)]))

    until(lambda: not cluster.named("n1", "bollard-init", "bollard-keeper", "bollard-reaper"), "the instance's end")


def test_it_ends_with_its_step(cluster: Cluster, images: Images, work: Work) -> None:
    start = f"export BOLLARD_CONFIGDIR={work.path}; {SERVICE.format(image=images.small)} bollard instance list | wc -l"

    assert good(cluster.srun("-n1", "-w", "n1", "bash", "-c", start)) == "2\n"
    until(lambda: not cluster.named("n1", "bollard-init"), "the instance's end")


def test_stats_on_a_node(cluster: Cluster, images: Images, work: Work) -> None:
    text = script(work, images.small, "bollard instance stats --json web", "bollard instance stop web 2>/dev/null")
    shown = json.loads(cluster.batch(text, work, "-n1").out)

    assert shown["pids_stats"]["current"] >= 1


def test_the_image_is_a_file(cluster: Cluster, images: Images, work: Work) -> None:
    """Then the instance has a file server; when the server ends, the instance ends."""
    env = {"BOLLARD_CONFIGDIR": work.path}
    started = cluster.exec(["bollard", "instance", "start", images.small, "web"], "n1", env=env)
    assert started.rc == 0, started
    servers = cluster.named("n1", "squashfuse", "squashfuse2")
    assert len(servers) == 1
    inside = good(cluster.exec(["bollard", "exec", "instance://web", "cat", "/etc/debian_version"], "n1"))
    assert inside != good(cluster.exec(["cat", "/etc/debian_version"], "n1"))

    servers[0].kill()

    until(lambda: not cluster.named("n1", "bollard-init", "bollard-keeper"), "the instance's end")
