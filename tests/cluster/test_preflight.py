# SPDX-License-Identifier: BSD-3-Clause
"""The pre-flight: what srun says of an image's MPI before the job queues, on this Slurm, of real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster import Cluster, Images, Result, Work, good

from bollard.runtime.preflight import wireup

CONTENTS = json.loads((Path(__file__).parents[1] / "unit/preflight_contents.json").read_text())
SUITES = ("bullseye", "bookworm", "trixie", "sid")
PROGRAMS = {"pmi2": "/opt/mpi/mpich_ring", "pmix": "/opt/mpi/ompi_ring"}
WITHOUT_PMIX = ("sid",)
SETTINGS = "/etc/bollard/bollard.yaml"


def said(done: Result) -> list[str]:
    return [line.removeprefix("bollard: warning: ") for line in done.complaints() if ": warning: " in line]


def tried(cluster: Cluster, *words: str, env: dict[str, str] | None = None, cwd: str | None = None) -> list[str]:
    """What the pre-flight says of a step that is checked, and not run."""
    return said(cluster.exec(["srun", "--test-only", "-t1", *words], env=env, cwd=cwd))


@pytest.mark.parametrize("suite", SUITES)
def test_every_cell(cluster: Cluster, images: Images, suite: str) -> None:
    """The line that the rules give for the recorded contents of the image; silence where the ranks find each other."""
    image = images.sif(suite, "mpi")
    for mpi in CONTENTS[f"{suite}-mpi.sif"]["mpi"]:
        family = wireup.family(mpi)
        if family == "abi":
            continue
        for how in ("pmix", "pmi2"):
            lines = tried(cluster, "-N1", "-n2", f"--mpi={how}", f"--container={image}", PROGRAMS[family])
            outcome = wireup.outcome(mpi, how)
            if outcome == wireup.OK or (how == "pmix" and cluster.suite in WITHOUT_PMIX):
                assert lines == [], (mpi, how)  # Slurm refuses what it does not have
                continue
            what = "run 2 jobs of 1 rank" if outcome == wireup.APART else "end with an error"
            offered = family == "pmi2" or cluster.suite not in WITHOUT_PMIX
            cure = f"use --mpi={family}" if offered else f"it needs --mpi={family}, which this Slurm does not have"
            has = wireup.described(mpi, how)
            assert lines == [f"{image} has {has}: --mpi={how} would {what}; {cure}"], (mpi, how)


@pytest.mark.parametrize("suite", SUITES)
def test_what_the_doctor_reads(cluster: Cluster, images: Images, suite: str) -> None:
    """The recorded contents, which the tables are made of, are those of the image."""
    done = cluster.exec(["bollard", "doctor", "--json", "--mpi=pmi2", images.sif(suite, "mpi")])
    assert (done.rc, done.err) == (0, ""), done
    told = json.loads(done.out)
    recorded = CONTENTS[f"{suite}-mpi.sif"]
    assert {**told["image"], "programs": {}} == recorded
    states = [(row["state"], row["text"]) for row in told["checks"] if row["id"] == "wire-up"]
    assert len(states) == len(recorded["mpi"]) and ("ok" in dict(states)), told


@pytest.mark.parametrize(("looks", "how"), [("first", "none"), ("first", "pmix"), ("cached", "none")])
def test_a_step_that_runs_is_warned_once(cluster: Cluster, images: Images, work: Work, looks: str, how: str) -> None:
    """By srun, or by rank 0 if the step is on its way before the first look at the image has ended."""
    words = [f"--container={images.mpi}", PROGRAMS["pmi2"]]
    env = {"XDG_CACHE_HOME": work.path}
    if how == "pmix" and cluster.suite in WITHOUT_PMIX:
        return  # Slurm refuses the step
    if looks == "cached":
        tried(cluster, "-n2", f"--mpi={how}", *words, env=env)
    done = cluster.srun("-N1", "-n2", f"--mpi={how}", *words, env=env)
    (line,) = [line for line in done.complaints() if "of 1 rank" in line]
    assert line.endswith("; use --mpi=pmi2") and done.rc == 0, done
    assert "would run 2 jobs of 1 rank" in line or looks == "first"
    assert good(cluster.exec(["ls", f"{work.path}/bollard-preflight"])), "srun has ended before the look"


def test_a_job_that_waits_is_warned_at_once(cluster: Cluster, images: Images, work: Work) -> None:
    """The first look runs beside srun, which waits for the allocation; and no child of it stays."""
    step = f"srun --begin=now+1hour -n2 --mpi=none --container={images.mpi} {PROGRAMS['pmi2']}"
    done = cluster.exec(
        f"{step} 2>lines & "
        "for i in $(seq 600); do grep -q 'of 1 rank' lines && break; sleep 0.1; done; "
        "ps -o stat= --ppid $! | grep Z; kill $!; wait $!; cat lines",
        env={"XDG_CACHE_HOME": work.path}, cwd=work.path,
    )  # fmt: skip
    (line,) = [line for line in done.lines() if "of 1 rank" in line]
    assert "--mpi=none would run 2 jobs of 1 rank; use --mpi=pmi2" in line
    assert not [line for line in done.lines() if line.strip().startswith("Z")], done


def test_no_false_alarm(cluster: Cluster, images: Images, work: Work) -> None:
    """One task; programs without MPI; a type that the pre-flight does not know; an image without MPI."""
    image = f"--container={images.mpi}"
    assert tried(cluster, "-n1", "--mpi=none", image, PROGRAMS["pmi2"]) == []
    for words in (["true"], ["python3", "-c", "1"], ["sh", "-c", "true"], ["no-such-program"], ["./no-such-program"]):
        assert tried(cluster, "-n2", image, *words, cwd=work.path) == []
        assert tried(cluster, "-n2", "--mpi=none", image, *words, cwd=work.path) == []
    for how in ("none", "pmi2", "cray_shasta"):
        assert tried(cluster, "-n2", f"--mpi={how}", f"--container={images.small}", "true") == []


def test_a_program_that_a_mount_shows(cluster: Cluster, images: Images, work: Work) -> None:
    """Outside of the home directory, at the same path as on the host: that file is judged. Others are not known."""
    place = f"/tmp/bollard-test-{work.path.rpartition('/')[2]}"
    good(cluster.exec(["mkdir", place]))
    try:
        good(cluster.exec(["bollard", "exec", "-B", place, images.mpi, "cp", PROGRAMS["pmi2"], f"{place}/ring"]))
        words = ["-n2", f"--container={images.mpi}", f"--container-mounts={place},{place}:/other"]
        (line,) = tried(cluster, *words, "--mpi=none", f"{place}/ring")
        assert "has MPICH" in line
        assert tried(cluster, *words, "--mpi=pmi2", f"{place}/ring") == []
        # An image none of whose libraries works: no reason to warn of a program that it does not have.
        env = {"XDG_CACHE_HOME": f"{work.path}/cache"}
        others = (f"{place}/no-such-program", "/other/ring", "no-such-program")
        for word in ("sh", *others):
            assert tried(cluster, *words, "--mpi=none", word, env=env) == []
        good(cluster.exec(f"sed -i '1a bad any none apart Some MPI' {work.path}/cache/bollard-preflight/*"))
        assert tried(cluster, *words, "--mpi=none", "sh", env=env) != []
        assert [tried(cluster, *words, "--mpi=none", word, env=env) for word in others] == [[], [], []]
    finally:
        good(cluster.exec(["rm", "-r", place]))


def test_how_many_tasks(cluster: Cluster, images: Images) -> None:
    words = ["--mpi=none", f"--container={images.mpi}", PROGRAMS["pmi2"]]
    for options, ranks in ((["-N2"], 2), (["-N2", "--ntasks-per-node=2"], 4), (["-n3"], 3)):
        (line,) = tried(cluster, *options, *words)
        assert f"would run {ranks} jobs of 1 rank" in line
    (line,) = tried(cluster, *words, env={"SLURM_NTASKS": "5"})
    assert "would run 5 jobs" in line


def test_the_default_and_the_variable(cluster: Cluster, images: Images) -> None:
    words = ["-n2", f"--container={images.mpi}", PROGRAMS["pmi2"]]
    (line,) = tried(cluster, *words)
    assert ": MpiDefault=none would run 2 jobs of 1 rank; use --mpi=pmi2" in line
    assert tried(cluster, *words, env={"SLURM_MPI_TYPE": "pmi2"}) == []


def test_a_program_below_the_working_directory(cluster: Cluster, images: Images, work: Work) -> None:
    good(cluster.exec(["bollard", "exec", images.mpi, "cp", PROGRAMS["pmi2"], f"{work.path}/ring"]))
    for word in ("./ring", f"{work.path}/ring"):
        (line,) = tried(cluster, "-n2", "--mpi=none", f"--container={images.mpi}", word, cwd=work.path)
        assert "has MPICH" in line
    assert tried(cluster, "-n2", "--mpi=pmi2", f"--container={images.mpi}", "./ring", cwd=work.path) == []


def test_the_cache(cluster: Cluster, images: Images, work: Work) -> None:
    """The verdict is kept; the file alone is read then. A rebuilt image has another verdict."""
    place = f"{work.path}/cache"
    words = ["-n2", "--mpi=none", f"--container={images.mpi}", PROGRAMS["pmi2"]]
    env = {"XDG_CACHE_HOME": place}
    first = tried(cluster, *words, env=env)
    (name,) = cluster.exec(["ls", f"{place}/bollard-preflight"]).out.split()
    text = good(cluster.exec(["cat", f"{place}/bollard-preflight/{name}"]))
    assert f"program pmi2 {PROGRAMS['pmi2']}\n" in text
    good(cluster.exec(f"sed -i 's/MPICH/Some MPI/' {place}/bollard-preflight/{name}"))
    assert tried(cluster, *words, env=env) == [first[0].replace("MPICH", "Some MPI")]
    assert tried(cluster, *words, env={"XDG_CACHE_HOME": "/proc/no-place"}) == first  # each time anew


def test_the_site_lets_bollard_choose(cluster: Cluster, images: Images, work: Work) -> None:
    image = f"--container={images.mpi}"
    configure = "bollard site configure"
    try:
        root = cluster.exec(f"mkdir -p /etc/bollard; echo 'mpi: auto' > {SETTINGS}; {configure}", user="root")
        assert root.rc == 0, root
        done = cluster.srun("-N1", "-n2", image, PROGRAMS["pmi2"])
        assert done.rc == 0 and done.complaints() == [] and done.out.count(" of 2 on ") == 2, done
        if cluster.suite not in WITHOUT_PMIX:
            done = cluster.srun("-N1", "-n2", image, PROGRAMS["pmix"], env={"OMPI_MCA_btl_tcp_if_include": "lo,eth0"})
            assert done.rc == 0 and done.complaints() == [] and done.out.count(" of 2 on ") == 2, done
        (line,) = tried(cluster, "-n2", "--mpi=none", image, PROGRAMS["pmi2"])  # what the user says holds
        assert "--mpi=none would run" in line
        assert good(cluster.srun("-N1", "-n2", image, "sh", "-c", "echo ${PMI_FD:+pmi} done")).split() == ["done"] * 2
    finally:
        cluster.exec(f"rm -r /etc/bollard; {configure}", user="root")


def test_the_doctor_on_nodes(cluster: Cluster, images: Images) -> None:
    done = cluster.exec(["bollard", "doctor", "--nodes=n[1-2]", "--mpi=pmi2", images.mpi])
    heads = {line.split(": ")[0] for line in done.lines()}
    assert done.rc == 0 and heads == {"n1", "n2"} and done.out.count(": ok: C library: glibc ") == 2, done


def test_the_doctor_refuses(cluster: Cluster) -> None:
    for words, told in (
        (["--mpi=pmix"], "doctor --mpi without an image"),
        (["/no/such.sif"], "/no/such.sif: no such file"),
        (["a", "b"], "doctor b: one image at a time"),
    ):
        done = cluster.exec(["bollard", "doctor", *words])
        assert done.rc == 255 and told in done.err, done
