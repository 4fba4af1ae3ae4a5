# SPDX-License-Identifier: BSD-3-Clause
"""Other set-ups of a site: a private /tmp for each job, SPANK hooks in a separate process, no extern step, limits.

The cluster is started anew for each set-up, and at the end as it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SERVERS, WHERE, Cluster, Images, Result, Work, good

LAST = (99, 99)
PRIVATE_TMP = {
    "job_container/tmpfs": ((21, 8), (25, 5)),
    "namespace/tmpfs": ((25, 11), LAST),
    "namespace/linux": ((25, 11), LAST),
}
KNOWN = {
    **PRIVATE_TMP, "contain_spank": ((24, 5), LAST), "no-contain": ((20, 11), LAST), "constrain": ((20, 11), LAST),
}  # fmt: skip


def has(cluster: Cluster, word: str) -> bool:
    first, last = KNOWN[word]
    return first <= cluster.release <= last


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """Start the cluster with the set-up; yields its name."""
    word: str = request.param
    if not has(cluster, word):
        pytest.skip(f"Slurm {cluster.release} has no {word}: see test_a_release_that_lacks_it")
    cluster.front("down")
    try:
        cluster.front("up", "--plugin", "--site", word)
        yield word
    finally:
        cluster.front("down")
        cluster.front("up", "--plugin")


@pytest.mark.parametrize("word", KNOWN)
def test_a_release_that_lacks_it(cluster: Cluster, word: str) -> None:
    """Two lists name the releases that have a set-up, this one and the cluster's: both must agree."""
    if has(cluster, word):
        with pytest.raises(AssertionError, match="up as another site"):
            cluster.front("up", "--plugin", "--site", word)
    else:
        with pytest.raises(AssertionError, match=f"--site {word}: Slurm .* does not have it"):
            cluster.front("up", "--plugin", "--site", word)


@pytest.mark.parametrize("site", PRIVATE_TMP, indirect=True)
def test_the_jobs_own_tmp_is_the_containers(cluster: Cluster, images: Images, work: Work, site: str) -> None:
    step = f"srun --container={images.small}"
    script = (
        "#!/bin/bash\ntest -e /tmp/of-the-node && echo not private\necho outside > /tmp/here\n"
        f"{step} sh -c 'cat /tmp/here; echo inside > /tmp/here; ls /tmp; {WHERE}'\n"
        f"cat /tmp/here\n{step} cat /tmp/here\n"
    )
    good(cluster.exec("touch /tmp/of-the-node", "n1", "root"))
    try:
        done = cluster.batch(script, work, "-w", "n1")
        assert done[:2] == (0, "outside\nhere\ninside\ninside\ninside\n"), done
        first = cluster.srun("-w", "n1", f"--container={images.small}", "ls", "/tmp")
        assert good(first) == "", "the first step of a job, which finds no other"
    finally:
        cluster.exec("rm /tmp/of-the-node", "n1", "root")


@pytest.mark.parametrize("site", PRIVATE_TMP, indirect=True)
def test_an_image_in_the_jobs_own_tmp(cluster: Cluster, images: Images, work: Work, site: str) -> None:
    script = (
        f"#!/bin/bash\ncp {images.small} /tmp/image.sif\nsrun --container=/tmp/image.sif sh -c '{WHERE}'\n"
        f"srun --container=/tmp/image.sif sh -c '{WHERE}'\n"
    )
    assert cluster.batch(script, work)[:2] == (0, "inside\ninside\n")


@pytest.mark.parametrize("site", KNOWN, indirect=True)
def test_containers_and_mistakes(cluster: Cluster, images: Images, work: Work, site: str) -> None:
    step = f"srun -Q -n1 --container={images.small} sh -c '{WHERE}; id -un'"
    done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", f"{step}; {step}"])
    assert good(done) == "inside\nalice\n" * 2
    done = cluster.srun("-n2", "-N2", f"--container={images.small}", "sh", "-c", f"{WHERE}; exit 3")
    assert done.rc == 3 and done.out == "inside\ninside\n", done
    bad = "/var/tmp/test-image.sif"  # only the node can see this file
    good(cluster.exec(f"echo hello > {bad}", "n1", "root"))
    try:
        done = cluster.srun("-w", "n1", f"--container={bad}", "touch", f"{work.path}/marker")
        assert done.rc == 255 and len(done.complaints()) == 1 and "not a SIF" in done.err, done
        job = cluster.batch(f"#!/bin/sh\ntouch {work.path}/marker\n", work, "-w", "n1", f"--container={bad}")
        assert job.rc == 255 and job.out.count("bollard: ") == 1 and not work.exists("marker"), job
    finally:
        cluster.exec(f"rm {bad}", "n1", "root")


def beyond_the_limit(cluster: Cluster, images: Images, work: Work, *first: str) -> Result:
    """Run a step whose task 0 takes more memory than its job may. The kernel ends a process with one of the names `first`
    first; without names, that task. Task 1 sleeps: it needs no page that a dead file server does not send."""
    words = ["srun", "-Q", "-K", "-w", "n1", "-n2", "--mem=100", f"--container={images.small}", "sh", "-c"]
    hog = f"test $SLURM_PROCID = 1 && exec sleep 1000; {work.pause('in')}; exec tail /dev/zero"
    with cluster.start([*words, hog]) as step:
        work.wait_for("in")
        for process in cluster.named("n1", *first):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        work.go_on("in")
        return step.result()


@pytest.mark.parametrize("site", ["constrain"], indirect=True)
def test_a_task_beyond_the_memory_limit(cluster: Cluster, images: Images, work: Work, site: str) -> None:
    """Slurm itself says so; the container has nothing to add."""
    done = beyond_the_limit(cluster, images, work)
    assert done.rc != 0 and "oom" in done.err.lower() or "out-of-memory" in done.err, done
    assert done.complaints() == [], done


@pytest.mark.parametrize("site", ["constrain"], indirect=True)
@pytest.mark.parametrize("names", [SERVERS, ("bollard-keeper",)], ids=["server", "keeper"])
def test_a_container_beyond_the_memory_limit(
    cluster: Cluster, images: Images, work: Work, site: str, names: tuple[str, ...]
) -> None:
    """The limit of the job holds for the keeper and the file server too. One line says that it was the limit."""
    done = beyond_the_limit(cluster, images, work, *names)
    (line,) = done.complaints()
    what = "file server" if names == SERVERS else "keeper"
    assert f"the container's {what} on n1 was ended by the job's memory limit; the task" in line, done
    assert line.endswith("ask for more memory (--mem, --mem-per-cpu)") and done.rc != 0, done
