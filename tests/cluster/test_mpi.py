# SPDX-License-Identifier: BSD-3-Clause
"""MPI programs of an image under the host's Slurm: one world of the right size, on the right nodes, with right sums."""

from __future__ import annotations

import re

import pytest
from cluster import Cluster, Images, Result, Work, until

RANK = re.compile(r"rank (\d+) of (\d+) on (\S+) library (.+)")
SUITES = ("bullseye", "bookworm", "trixie", "sid")
FLAVOURS = {"ompi": "pmix", "mpich": "pmi2"}
# For Open MPI. More ranks than the machine has CPUs: those that wait must not keep the others from working, or
# 16 ranks take minutes, on the host as well.
SETTINGS = {"OMPI_MCA_mpi_yield_when_idle": "1"}
# By default Open MPI 6 tries "lo" alone on the nodes' network. (Open MPI 4 would then use it between nodes.)
SETTINGS_6 = {**SETTINGS, "OMPI_MCA_btl_tcp_if_include": "lo,eth0"}


# Debian's Slurm 26.05 comes without the plugin for PMIx: srun itself refuses, before any container.
WITHOUT_PMIX = ("sid",)
NO_PMIX = "srun: error: Invalid MPI type 'pmix', --mpi=list for acceptable types\n"


def lacks(cluster: Cluster, mpi: str, done: Result) -> bool:
    """Whether this Slurm release lacks the wire-up; then fails unless Slurm itself refused the step."""
    if mpi != "pmix" or cluster.suite not in WITHOUT_PMIX:
        return False
    assert done.rc != 0 and NO_PMIX in done.out + done.err and not done.complaints() and "rank " not in done.out, done
    return True


def world(done: Result) -> dict[int, str]:
    """The node of each rank; fails unless everything else about the run is right."""
    lines = done.out.splitlines()
    ranks = [match for match in map(RANK.fullmatch, lines) if match]
    assert done.rc == 0 and "sum ok" in lines, done
    assert len(ranks) == len(lines) - 1 and {int(match[2]) for match in ranks} == {len(ranks)}, done
    return {int(match[1]): match[3] for match in ranks}


def block(nodes: int, tasks: int) -> dict[int, str]:
    """The node of each rank in Slurm's default distribution (block)."""
    return {rank: f"n{rank * nodes // tasks + 1}" for rank in range(tasks)}


@pytest.mark.parametrize("library", FLAVOURS)
@pytest.mark.parametrize("tasks", [1, 4])
def test_one_node(cluster: Cluster, images: Images, library: str, tasks: int) -> None:
    options = ["-N1", f"-n{tasks}", f"--mpi={FLAVOURS[library]}", f"--container={images.mpi}"]
    done = cluster.srun(*options, f"/opt/mpi/{library}_ring", env=SETTINGS)
    assert lacks(cluster, FLAVOURS[library], done) or world(done) == block(1, tasks)


def test_open_mpi_four_ranks_on_two_nodes(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-N2", "-n4", "--mpi=pmix", f"--container={images.mpi}", "/opt/mpi/ompi_ring", env=SETTINGS)
    if not lacks(cluster, "pmix", done):
        assert set(world(done).values()) == {"n1", "n2"} and len(world(done)) == 4


# On several nodes, Debian 12's MPICH 4.0.2 often hangs in MPI_Finalize, on the host as well: see the test below.
# Its Open MPI 4.1.4 does so with 16 ranks on two real cores, with and without a container.
MANY = [("ompi", "trixie"), ("mpich", "bullseye"), ("mpich", "trixie")]
HANGS = ("mpich", "bookworm")


@pytest.mark.parametrize(("library", "suite"), MANY)
def test_sixteen_ranks_on_four_nodes(cluster: Cluster, images: Images, library: str, suite: str) -> None:
    image = images.sif(suite, "mpi")
    options = ["-N4", "--ntasks-per-node=4", f"--mpi={FLAVOURS[library]}", f"--container={image}"]
    done = cluster.srun(*options, f"/opt/mpi/{library}_ring", env=SETTINGS, seconds=120)
    assert lacks(cluster, FLAVOURS[library], done) or world(done) == block(4, 16)


MATRIX = [
    (library, suite, nodes)
    for library in FLAVOURS
    for suite in SUITES
    for nodes in (1, 2)
    if (library, suite) != HANGS or nodes == 1
]


@pytest.mark.parametrize(("library", "suite", "nodes"), MATRIX)
def test_images_of_other_releases(cluster: Cluster, images: Images, library: str, suite: str, nodes: int) -> None:
    """The image's MPI libraries work with the PMI servers of the host's Slurm."""
    image = images.sif(suite, "mpi")
    options = [f"-N{nodes}", f"--ntasks-per-node={2 // nodes}", f"--mpi={FLAVOURS[library]}", f"--container={image}"]
    settings = SETTINGS_6 if suite == "sid" else SETTINGS
    done = cluster.srun(*options, f"/opt/mpi/{library}_ring", env=settings)
    assert lacks(cluster, FLAVOURS[library], done) or world(done) == block(nodes, 2)


def test_mpich_that_may_hang_at_its_end(cluster: Cluster, images: Images, work: Work) -> None:
    """MPICH of Debian 12 on two nodes: the ranks compute all, and a step that then hangs can be ended."""
    library, suite = HANGS
    options = ["-N2", "--ntasks-per-node=1", f"--mpi={FLAVOURS[library]}", f"--container={images.sif(suite, 'mpi')}"]
    program = ["stdbuf", "-oL", f"/opt/mpi/{library}_ring"]
    with cluster.start(["srun", "-Q", f"--output={work.path}/out", *options, *program]):
        work.wait_for("out")
        until(lambda: "sum ok\n" in work.read("out"), "the sum")
        printed = work.read("out")  # only the ranks' output: slurmstepd adds a line when the step is ended
    assert world(Result(0, printed, "")) == block(2, 2)


@pytest.mark.parametrize("library", FLAVOURS)
def test_ranks_with_a_container_each_read_memory(cluster: Cluster, images: Images, library: str) -> None:
    """`srun bollard exec`: each rank has its own mounts, and all have one user namespace, as CMA needs."""
    prefix = ["bollard", "exec", "--sharens", images.mpi]
    done = cluster.srun("-N1", "-n4", f"--mpi={FLAVOURS[library]}", *prefix, f"/opt/mpi/{library}_cma", env=SETTINGS)
    assert lacks(cluster, FLAVOURS[library], done) or (done.rc == 0 and done.out.count("cma ok\n") == 4), done
    shown = ["bollard", "exec", images.small, "sh", "-c", "readlink /proc/self/ns/user /proc/self/ns/mnt; sleep 1"]
    seen = cluster.srun("-N1", "-n2", *shown).out.split()
    assert [sum(word.startswith(kind) for word in set(seen)) for kind in ("user:", "mnt:")] == [1, 2], seen
    seen = cluster.srun("-N1", "-n2", *shown[:2], "--fakeroot", *shown[2:]).out.split()
    assert sum(word.startswith("user:") for word in set(seen)) == 2, seen


@pytest.mark.parametrize("library", FLAVOURS)
def test_cross_memory_attach(cluster: Cluster, images: Images, library: str) -> None:
    """Ranks of a node share their namespaces, so they may read each other's memory, as on the host."""
    done = cluster.srun(
        "-N1", "-n4", f"--mpi={FLAVOURS[library]}", f"--container={images.mpi}", f"/opt/mpi/{library}_cma", env=SETTINGS
    )
    assert lacks(cluster, FLAVOURS[library], done) or (done.rc == 0 and done.out.count("cma ok\n") == 4), done


@pytest.mark.parametrize("flavour", ["pmix", "pmi2"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_hello_joins_without_mpi(cluster: Cluster, images: Images, flavour: str, nodes: int) -> None:
    """Checks only the wire-up, in an image that has Python and no MPI library."""
    image = images.sif("bookworm", "python") if flavour == "pmi2" else images.mpi
    done = cluster.srun(
        f"-N{nodes}", "-n4", f"--mpi={flavour}", f"--container={image}", "python3", "-m", "bollard.mpi.hello",
        env={"BOLLARD_BIND": "/usr/lib/bollard/python:/opt/bollard", "PYTHONPATH": "/opt/bollard"},
    )  # fmt: skip
    if lacks(cluster, flavour, done):
        return
    assert done.rc == 0 and len(done.lines()) == 4, done
    assert all(line.endswith(" says ok") for line in done.lines()), done


def test_an_mpi_step_after_another(cluster: Cluster, images: Images) -> None:
    """The second step uses the keeper of the first, but has its own wire-up."""
    step = f"srun -Q -n4 --mpi=pmix --container={images.mpi} /opt/mpi/ompi_ring"
    done = cluster.exec(["salloc", "-Q", "-N2", "-n4", "bash", "-c", f"{step} && {step}"], env=SETTINGS)
    if not lacks(cluster, "pmix", done):
        assert done.rc == 0 and done.out.count("sum ok\n") == 2 and done.out.count("of 4 on") == 8, done


def test_mpi_from_a_script_in_a_container(cluster: Cluster, images: Images, work: Work) -> None:
    """srun is called in the container of a script; its step is in another container."""
    script = f"#!/bin/sh\nexec srun --mpi=pmix --container={images.mpi} /opt/mpi/ompi_ring\n"
    done = cluster.batch(script, work, "-N2", "-n4", f"--container={images.mpi}", env=SETTINGS)
    assert lacks(cluster, "pmix", done) or len(world(done)) == 4


def single_ranks(done: Result) -> list[str]:
    return [line for line in done.complaints() if "jobs of 1 rank" in line]


@pytest.mark.parametrize("mpi", ["none", "pmix"])
def test_mpich_without_its_wire_up_is_told(cluster: Cluster, images: Images, mpi: str) -> None:
    """Each rank is then a job of 1 rank and ends with 0. srun warns of it once, before the step starts.

    The first look at an image can end after that: tests/cluster/test_preflight.py.
    """
    words = ["-N2", "-n4", f"--mpi={mpi}", f"--container={images.mpi}", "/opt/mpi/mpich_ring"]
    cluster.exec(["srun", "--test-only", *words])
    done = cluster.srun(*words)
    if not lacks(cluster, mpi, done):
        (line,) = single_ranks(done)
        assert f": --mpi={mpi} would run 4 jobs of 1 rank; use --mpi=pmi2" in line, done


@pytest.mark.parametrize(("library", "mpi"), FLAVOURS.items())
def test_what_srun_in_a_container_cannot_see_is_told_by_the_launcher(
    cluster: Cluster, images: Images, work: Work, library: str, mpi: str
) -> None:
    """An srun in a container does not look into the image of its step. The first rank tells."""
    script = f"#!/bin/sh\nexec srun -n2 --mpi=none --container={images.mpi} /opt/mpi/{library}_ring 2>&1\n"
    done = cluster.batch(script, work, "-N1", "-n2", f"--container={images.mpi}", env=SETTINGS)
    (line,) = [line for line in done.lines() if "jobs of 1 rank" in line]
    assert line.startswith(f"bollard: /opt/mpi/{library}_ring: 2 jobs") and line.endswith(f"use --mpi={mpi}"), done


def test_no_word_about_ranks_where_there_is_nothing_to_say(cluster: Cluster, images: Images) -> None:
    image = f"--container={images.mpi}"
    for options in (
        ["-n2", "--mpi=none", image, "true"],
        ["-n1", "--mpi=none", image, "/opt/mpi/mpich_ring"],
        ["-n2", "--mpi=pmi2", image, "/opt/mpi/mpich_ring"],
    ):
        assert single_ranks(cluster.srun("-N1", *options)) == []
    intel = cluster.srun("-N1", "-n2", "--mpi=none", image, "/opt/mpi/mpich_ring", env={"I_MPI_PMI_LIBRARY": "/x"})
    assert single_ranks(intel) == []
