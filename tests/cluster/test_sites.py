# SPDX-License-Identifier: BSD-3-Clause
"""Other set-ups of a site: a private /tmp for each job, SPANK hooks in a separate process, no extern step, limits.

The cluster is started anew for each set-up, and at the end as it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SERVERS, WHERE, Cluster, Images, Process, Work, good, until

LAST = (99, 99)
PRIVATE_TMP = {
    "job_container/tmpfs": ((21, 8), (25, 5)),
    "namespace/tmpfs": ((25, 11), LAST),
    "namespace/linux": ((25, 11), LAST),
}
KNOWN = {
    **PRIVATE_TMP, "contain_spank": ((24, 5), LAST), "no-contain": ((20, 11), LAST), "constrain": ((20, 11), LAST),
    "cgroup-v2": ((22, 5), LAST), "configless": ((20, 11), LAST),
}  # fmt: skip
# Set-ups that are tried with some releases: these, and what the machine must have mounted. Since 23.11 a configless
# controller sends the files that plugstack.conf includes.
GROUPS = {
    "constrain": ([(20, 11), (24, 11)], "memory/cgroup.procs"),
    "cgroup-v2": ([(24, 11)], "unified/cgroup.controllers"),
    "configless": ([(22, 5), (24, 11)], "."),
}


def is_possible(word: str) -> bool:
    """Whether this machine has the hierarchies of control groups for a set-up. A machine may have v2 alone."""
    root, file = Path("/sys/fs/cgroup"), GROUPS.get(word, ([], "."))[1]
    return (root / file).exists() or (word == "cgroup-v2" and (root / "cgroup.controllers").exists())


def has(cluster: Cluster, word: str) -> bool:
    first, last = KNOWN[word]
    return first <= cluster.release <= last


@pytest.fixture(scope="module")
def as_before(cluster: Cluster) -> Iterator[None]:
    """Start the cluster as it was, after the last set-up."""
    yield
    cluster.front("up", "--plugin")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, cluster: Cluster, as_before: None) -> Iterator[str]:
    """Start the cluster with the set-up; yields its name."""
    word: str = request.param
    if not has(cluster, word):
        pytest.skip(f"Slurm {cluster.release} has no {word}: see test_a_release_that_lacks_it")
    if word in GROUPS and cluster.release not in GROUPS[word][0]:
        pytest.skip(f"{word} is tried with Slurm {GROUPS[word][0]}")
    if not is_possible(word):
        pytest.skip(f"{word}: this machine's kernel has not mounted {GROUPS[word][1]}")
    cluster.front("down")
    try:
        cluster.front("up", "--plugin", "--site", word)
        yield word
    finally:
        cluster.front("down")


@pytest.mark.parametrize("word", KNOWN)
def test_a_release_that_lacks_it(cluster: Cluster, word: str) -> None:
    """Two lists name the releases that have a set-up, this one and the cluster's: both must agree."""
    if not is_possible(word):
        with pytest.raises(AssertionError, match=f"--site {word}"):
            cluster.front("up", "--plugin", "--site", word)
    elif has(cluster, word):
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


@pytest.mark.parametrize("site", ["constrain", "cgroup-v2"], indirect=True)
def test_the_containers_processes_are_in_the_jobs_cgroups(
    cluster: Cluster, images: Images, work: Work, site: str
) -> None:
    """In each hierarchy in which Slurm has the job. The fixture `leftovers` checks that no directory stays."""

    def groups(process: Process) -> dict[str, str]:
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}

    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c", work.pause("in")]
    with cluster.start(words) as step:
        work.wait_for("in")
        task = min(cluster.named("n1", "sh"), key=lambda found: found.start)  # its child is a shell until it is sleep
        jobs = {name: path.partition("/step_")[0] for name, path in groups(task).items() if "/job_" in path}
        found = cluster.named("n1", "bollard-keeper", "bollard-reaper", *SERVERS)
        assert len(found) == 3 and set(jobs) == ({""} if site == "cgroup-v2" else {"freezer", "memory", "devices"})
        for process in found:
            assert {name: groups(process)[name] for name in jobs} == {
                name: f"{path}/step_bollard" for name, path in jobs.items()
            }
        work.go_on("in")
        assert step.result().rc == 0


@pytest.mark.parametrize("site", ["constrain"], indirect=True)
def test_a_task_beyond_the_memory_limit(cluster: Cluster, images: Images, work: Work, site: str) -> None:
    """Slurm itself says so; the container has nothing to add."""
    done = cluster.srun("-w", "n1", "--mem=100", f"--container={images.small}", "tail", "/dev/zero")
    assert done.rc != 0 and "Out Of Memory" in done.err and "bollard: " not in done.err, done


@pytest.mark.parametrize("site", ["constrain"], indirect=True)
@pytest.mark.parametrize("names", [SERVERS, ("bollard-keeper",)], ids=["server", "keeper"])
def test_a_container_beyond_the_memory_limit(
    cluster: Cluster, images: Images, work: Work, site: str, names: tuple[str, ...]
) -> None:
    """The limit of the job holds for the keeper and the file server too. One line says that it was the limit.

    The batch script takes the memory. The kernel ends a process with one of `names` first, and then the script's.
    """
    step = f"srun -Q --mem=0 --overlap --container={images.small} sh -c 'echo > {work.path}/in; exec sleep 1000'"
    wait = f"while test -d {work.path} -a ! -e {work.path}/go; do sleep 0.05; done"
    script = f"#!/bin/bash\n{step} 2> {work.path}/err &\n{wait}\ntail /dev/zero\nwait\n"
    job = cluster.sbatch(script, work, "-w", "n1", "-n1", "--mem=100")
    work.wait_for("in")
    for process in cluster.named("n1", *names):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
    work.write("go", "")
    until(lambda: not cluster.exec(["squeue", "-h", "-o", "%T", "-j", str(job)]).out, "the end of the job")
    (line,) = [line for line in work.read("err").splitlines() if "bollard: " in line]
    what = "file server" if names == SERVERS else "keeper"
    assert line.startswith(f"bollard: the container's {what} on n1 was ended by the job's memory limit; the task"), line
    assert line.endswith("ask for more memory (--mem, --mem-per-cpu)"), line


@pytest.mark.parametrize("site", ["configless"], indirect=True)
def test_the_line_of_a_configless_slurm(cluster: Cluster, images: Images, site: str) -> None:
    """A node finds the plugin's line in its own file, which the controller's plugstack.conf includes by its path; and
    in the controller's file itself. Where neither has it, `site check` says what to write, and no job runs outside."""

    def failures(node: str) -> list[str]:
        lines = cluster.exec("bollard site check", node, "root").out.splitlines()
        return [line.partition("failure: ")[2] for line in lines if ": failure: " in line]

    step = ["-w", "n1", f"--container={images.small}", "sh", "-c", WHERE]
    assert cluster.exec("test -e /etc/slurm/slurm.conf", "n1").rc != 0 and failures("n1") == []
    assert good(cluster.srun(*step)) == "inside\n"
    for node in ("ctl", "n1"):
        good(cluster.exec("mv /etc/slurm/plugstack.conf.d /root", node, "root"))
    try:
        good(cluster.exec("cp /etc/slurm/plugstack.conf /root; scontrol reconfigure", "ctl", "root"))
        found = until(lambda: failures("n1"), "the missing line")
        assert found[0].startswith("plugstack.conf: /run/slurm/conf/plugstack.conf"), found
        fix = found[0].partition("plugstack.conf itself: ")[2].partition(";")[0]
        assert fix == "required /usr/lib/bollard/spank_bollard.so spool=/var/spool/slurmd", found
        assert "inside" not in cluster.srun(*step).out
        good(cluster.exec(f"echo '{fix}' > /etc/slurm/plugstack.conf; scontrol reconfigure", "ctl", "root"))
        until(lambda: failures("n1") == [] == failures("n2"), "the line on the nodes")
        assert good(cluster.srun(*step)) == "inside\n"
    finally:
        for node in ("ctl", "n1"):
            good(cluster.exec("mv /root/plugstack.conf.d /etc/slurm", node, "root"))
        good(cluster.exec("mv /root/plugstack.conf /etc/slurm; scontrol reconfigure", "ctl", "root"))
