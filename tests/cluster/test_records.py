# SPDX-License-Identifier: BSD-3-Clause
"""What is on record of a container: Slurm's own field, and the file of the node's root."""

from __future__ import annotations

import json

from cluster import Cluster, Images, Work, good, until

RECORDS = "/var/log/bollard"


def shown(cluster: Cluster, job: int) -> str:
    """Slurm's own Container field of a job."""
    text = good(cluster.exec(["scontrol", "show", "job", "--oneliner", str(job)]))
    return next((word[10:] for word in text.split() if word.startswith("Container=")), "")


def record(cluster: Cluster, job: int, node: str = "n1") -> dict[str, str]:
    """The one record of a job on a node, once its keeper has ended."""

    def look() -> str:
        text = cluster.exec(f"cat {RECORDS}/{job}.*", node, "root").out
        return text if " ended=" in text else ""

    return dict(word.split("=", 1) for word in until(look, f"the record of job {job}").split())


def test_slurm_names_the_image_of_a_batch_job(cluster: Cluster, images: Images, work: Work) -> None:
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, f"--container={images.small}")
    cluster.ended(job)
    assert shown(cluster, job) == ("" if cluster.suite == "bullseye" else images.small)


def test_slurm_names_the_image_of_a_step(cluster: Cluster, images: Images, work: Work) -> None:
    """By its full path; and slurmstepd is not told, for its OCI code would take it for a bundle."""
    work.write("a.sif", cluster.path("ctl", images.small).read_bytes(), 0o644)
    script = "scontrol show step $SLURM_JOB_ID.$SLURM_STEP_ID -o"
    done = cluster.srun("-w", "n1", "--container=a.sif", "sh", "-c", work.pause("ready"), cwd=work.path) if 0 else None
    assert done is None and script
    with cluster.start(
        ["srun", "-Q", "-w", "n1", "--container=a.sif", "sh", "-c", work.pause("ready")], cwd=work.path
    ) as step:
        work.wait_for("ready")
        steps = good(cluster.exec("scontrol show step -o; squeue -h -o %i"))
        work.go_on("ready")
        assert step.result() == (0, "", "")
    expected = [] if cluster.suite == "bullseye" else [f"Container={work.path}/a.sif"]
    assert [word for word in steps.split() if word.startswith("Container=") and word[10:] != "(null)"] == expected
