# SPDX-License-Identifier: BSD-3-Clause
"""Other set-ups of a site: a private /tmp for each job, SPANK hooks in a separate process, no extern step.

The cluster is started anew for each set-up, and at the end as it was before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import WHERE, Cluster, Images, Work, good

LAST = (99, 99)
PRIVATE_TMP = {
    "job_container/tmpfs": ((21, 8), (25, 5)),
    "namespace/tmpfs": ((25, 11), LAST),
    "namespace/linux": ((25, 11), LAST),
}
KNOWN = {**PRIVATE_TMP, "contain_spank": ((24, 5), LAST), "no-contain": ((20, 11), LAST)}


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
