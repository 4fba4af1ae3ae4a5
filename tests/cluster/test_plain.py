# SPDX-License-Identifier: BSD-3-Clause
"""Without --container, the loaded plugin changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Images, Work, good, until

# Different from one run to the next by themselves: numbers of jobs, ports and processes.
VARYING = re.compile(
    r"^(SLURM_(JOB_ID|JOBID|JOB_SLUID|STEP_LAUNCHER_PORT|SRUN_COMM_PORT|TASK_PID|WORKING_CLUSTER|JOB_START_TIME|JOB_END_TIME)"
    r"|SLURMD_TRES_BIND|PMIX?_\w+|SLURM_PMIX?\w*|TMPDIR|OMPI_MCA_\w+|_)=.*$"
    r"|^\[[-0-9T:.]+\] ",  # the time stamp before slurmstepd's errors, since Slurm 25.05
    re.MULTILINE,
)


def look(cluster: Cluster, work: Work) -> dict[str, str]:
    """The output of plain jobs, without the parts that differ from run to run."""
    script = (
        # With -Q: the first step's CPUs may still be in use when the second starts, and srun would print that.
        "#!/bin/bash\nenv | sort; srun -Q env | sort\n"
        "srun -Q bash -c 'ulimit -a; umask; id; pwd; ls /proc/self/fd | wc -l'\n"
    )
    seen = {
        "srun": cluster.srun("-w", "n1", "env"),
        "tasks": cluster.srun("-w", "n1", "-n2", "--label", "bash", "-c", "ulimit -a; id; umask; ls /proc/self/fd"),
        "batch": cluster.batch(script, work, "-w", "n1"),
        "salloc": cluster.exec(["salloc", "-Q", "-w", "n1", "env"]),
        "none": cluster.srun("-w", "n1", "--export=NONE", "/usr/bin/env"),
        "pmix": cluster.srun("-w", "n1", "--mpi=pmix", "-n2", "sh", "-c", "env | grep -c ^PMIX"),
        "fails": cluster.srun("-w", "n1", "sh", "-c", "exit 3"),
        "missing": cluster.srun("-w", "n1", "/no/such/program"),
    }
    return {
        name: repr((done.rc, sorted(VARYING.sub("", done.out + done.err).split("\n")))) for name, done in seen.items()
    }


@pytest.fixture
def toggled(cluster: Cluster) -> Iterator[None]:
    """Load the plugin again after the test."""
    yield
    cluster.front("up", "--plugin")


@pytest.mark.usefixtures("toggled")
def test_the_environment_is_the_same_without_the_plugin(cluster: Cluster, work: Work) -> None:
    loaded = look(cluster, work)
    cluster.front("up", "--no-plugin")
    assert "bollard" not in good(cluster.exec("cat /etc/slurm/plugstack.conf.d/* 2> /dev/null || true"))
    plain = look(cluster, work)
    for name, seen in plain.items():
        assert loaded[name] == seen, name


def test_no_variable_of_ours(cluster: Cluster, images: Images, work: Work) -> None:
    """No task has a variable of bollard's own: plain tasks, tasks in containers, and steps nested in both."""
    look = "! env | grep SLURM_BOLLARD"
    container = f"--container={images.mpi}"
    good(cluster.srun("bash", "-c", look))
    good(cluster.srun(container, "bash", "-c", look))
    good(cluster.srun("-n1", container, "bash", "-c", f"srun --overlap bash -c '{look}'"))
    good(cluster.srun("-n1", container, "bash", "-c", f"srun --overlap {container} bash -c '{look}'"))
    script = f"#!/bin/bash\nset -e\n{look}\nsrun -Q bash -c '{look}'\nsrun -Q {container} bash -c '{look}'\n"
    assert cluster.batch(script, work)[:2] == (0, "")
    assert cluster.batch(script, work, container)[:2] == (0, "")


def test_a_plain_step_loads_no_python(cluster: Cluster, work: Work) -> None:
    """slurmstepd loads one small library of bollard and no Python, and no process of bollard runs."""
    with cluster.start(["srun", "-Q", "-w", "n1", "bash", "-c", f"echo > {work.path}/ready; sleep 60"]):
        work.wait_for("ready")
        for process in cluster.named("n1", "slurmstepd"):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert "spank_bollard.so" in maps
            assert "libpython" not in maps and "/_bollard.so" not in maps
        assert not cluster.named("n1", "bollard-keeper", "bollard-reaper")


def test_a_container_loads_no_python_into_slurmstepd(cluster: Cluster, images: Images, work: Work) -> None:
    words = [
        "srun",
        "-Q",
        "-w",
        "n1",
        f"--container={images.small}",
        "bash",
        "-c",
        f"echo > {work.path}/ready; sleep 60",
    ]
    with cluster.start(words):
        work.wait_for("ready")
        steps = until(lambda: cluster.named("n1", "slurmstepd"), "slurmstepd")
        for process in steps:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert "libpython" not in maps and "/_bollard.so" not in maps


def test_help_has_the_options(cluster: Cluster) -> None:
    for command in ("srun", "sbatch", "salloc"):
        done = cluster.exec([command, "--help"])
        assert "--container" in good(done) and "--container-verbose" in done.out
