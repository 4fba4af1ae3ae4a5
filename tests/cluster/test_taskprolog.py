# SPDX-License-Identifier: BSD-3-Clause
"""TaskProlog and TaskEpilog run on the host. The variables that they set reach the task in the container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import WHERE, Cluster, Images, Result, Work, good

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


def scratch(cluster: Cluster, images: Images, work: Work, place: str, *words: str, image: str = "") -> Result:
    """Run a step of two tasks whose TaskProlog makes `place`, and sets TMPDIR to it."""
    prolog = work.write("prolog", f"#!/bin/sh\nmkdir -p {place}; chmod 777 {place}\necho export TMPDIR={place}\n")
    options = [f"--task-prolog={prolog}", "-N1", "-n2", f"--container={image or images.small}"]
    return cluster.srun("-w", "n1", *options, *words)


@pytest.fixture
def local(cluster: Cluster) -> Iterator[str]:
    """A directory of the node's own in which all may write, with a name that no image has."""
    good(cluster.exec(["sh", "-c", "mkdir -p /local && chmod 1777 /local"], node="n1", user="root"))
    yield "/local"
    good(cluster.exec(["rm", "-rf", "/local"], node="n1", user="root"))


def test_a_scratch_directory_of_the_prologs(cluster: Cluster, images: Images, work: Work, local: str) -> None:
    """The prolog makes it after the container. It may be in a directory that the container shows, or in none."""
    bare = good(cluster.srun("-w", "n1", f"--container={images.small}", "ls", "/")).split()
    for place in (f"{work.path}/job1", f"{local}/a/job1", "/run/lock/job1"):
        done = scratch(cluster, images, work, place, "sh", "-c", "rm $(mktemp) && echo $TMPDIR && ls / | wc -l")
        more = 1 if place.startswith(local) else 0
        assert sorted(good(done).split()) == sorted(f"{place} {len(bare) + more}".split() * 2), done
        assert good(scratch(cluster, images, work, place, "sh", "-c", "echo x > $TMPDIR/$SLURM_PROCID")) == ""
        kept = good(cluster.srun("-w", "n1", "sh", "-c", f"ls {place}; rm -rf {place}"))
        assert kept.split() == ["0", "1"], (place, kept)


@pytest.mark.parametrize("option", ["--container-writable", "--container-remap-root", "--container-opts=--pid"])
def test_a_scratch_directory_in_other_containers(
    cluster: Cluster, images: Images, work: Work, local: str, option: str
) -> None:
    done = scratch(
        cluster, images, work, f"{local}/job1", option, "sh", "-c",
        "rm $(mktemp) && grep -c /local/job1 /proc/self/mounts",
    )  # fmt: skip
    assert good(done) == "1\n1\n"


def test_a_scratch_directory_that_is_left_out(cluster: Cluster, images: Images, work: Work, local: str) -> None:
    for words in ("--no-mount tmp", "--contain"):
        done = scratch(
            cluster, images, work, f"{local}/job1", f"--container-opts={words}", "sh", "-c", "ls -d $TMPDIR || true"
        )
        (line,) = done.complaints()
        assert done.out == "" and "$TMPDIR is /local/job1, which is not in the container" in line, done


def test_a_scratch_directory_over_one_of_the_image(cluster: Cluster, images: Images, work: Work) -> None:
    """/srv is in the image too."""
    good(cluster.exec(["sh", "-c", "chmod 1777 /srv"], node="n1", user="root"))
    done = scratch(cluster, images, work, "/srv", "sh", "-c", "rm $(mktemp) && echo x > $TMPDIR/$SLURM_PROCID")
    assert good(done) == ""
    assert good(cluster.srun("-w", "n1", "sh", "-c", "ls -d /srv/[01]; rm /srv/[01]")) == "/srv/0\n/srv/1\n"


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
