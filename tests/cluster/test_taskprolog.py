# SPDX-License-Identifier: BSD-3-Clause
"""TaskProlog and TaskEpilog run on the host. The variables that they set reach the task in the container."""

from __future__ import annotations

import pytest
from cluster import WHERE, Cluster, Images, Work, good

PROLOG = f"#!/bin/sh\necho export PROLOG_RAN=$({WHERE})\necho unset DROPPED\necho print from the prolog\n"


def test_the_sites_prolog(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-w", "n2", f"--container={images.small}", "printenv", "SITE_TASK_PROLOG")
    assert good(done) == "ran-on-n2\n"


@pytest.mark.parametrize("container", [True, False])
def test_a_users_prolog(cluster: Cluster, images: Images, work: Work, container: bool) -> None:
    prolog = work.write("prolog", PROLOG)
    option = [f"--container={images.small}"] if container else []
    done = cluster.srun(
        f"--task-prolog={prolog}",
        *option,
        "bash",
        "-c",
        f"{WHERE}; echo $PROLOG_RAN ${{DROPPED-gone}}",
        env={"DROPPED": "1"},
    )
    assert good(done) == f"from the prolog\n{'inside' if container else 'outside'}\noutside gone\n"


def test_a_scratch_directory_of_the_prologs(cluster: Cluster, images: Images, work: Work) -> None:
    """The prolog makes it after the container. When its parent is not in the container, one line warns."""
    prolog = work.write("prolog", "#!/bin/sh\nmkdir -p $WHERE/job1\necho export TMPDIR=$WHERE/job1\n")
    words = [f"--task-prolog={prolog}", "-N1", "-n2", f"--container={images.small}"]
    seen = cluster.srun(*words, "sh", "-c", "rm $(mktemp) && echo $TMPDIR", env={"WHERE": work.path})
    assert good(seen) == f"{work.path}/job1\n" * 2
    lost = cluster.srun(*words, "sh", "-c", "echo $TMPDIR", env={"WHERE": "/run/lock"})
    (line,) = lost.complaints()
    assert lost.rc == 0 and "$TMPDIR is /run/lock/job1, which is not in the container" in line, lost
    good(cluster.srun("-N4", "sh", "-c", "rm -rf /run/lock/job1"))


def test_a_prolog_in_a_batch_job(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.batch(
        f"#!/bin/sh\n{WHERE}; echo $SITE_TASK_PROLOG\n", work, f"--container={images.small}", "-w", "n3"
    )
    assert done[:2] == (0, "inside\nran-on-n3\n")


def test_a_prolog_of_multi_prog(cluster: Cluster, images: Images, work: Work) -> None:
    config = work.write("config", "0-1 /usr/bin/printenv SITE_TASK_PROLOG\n")
    done = cluster.srun("-n2", "-w", "n2", "--multi-prog", f"--container={images.small}", config)
    assert good(done) == "ran-on-n2\nran-on-n2\n"


def test_an_epilog_runs_on_the_host(cluster: Cluster, images: Images, work: Work) -> None:
    epilog = work.write("epilog", f"#!/bin/sh\n{WHERE} > {work.path}/epilog.out\n")
    good(cluster.srun(f"--task-epilog={epilog}", f"--container={images.small}", "true"))
    work.wait_for("epilog.out")
    assert work.read("epilog.out") == "outside\n"
