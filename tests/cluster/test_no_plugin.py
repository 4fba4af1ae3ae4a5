# SPDX-License-Identifier: BSD-3-Clause
"""A node without the plugin, or without the installation: no program that has --container runs on the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import PREFIX, WHERE, Cluster, Images, Work, until

NODE = "n2"
LINE = "/etc/slurm/plugstack.conf.d/bollard.conf"
NOT_LOADED = (
    "bollard: Slurm on this node has not loaded the bollard plugin, so there is no container; "
    "the site's administrator should see its plugstack.conf"
)


def root(cluster: Cluster, command: str, node: str = NODE) -> None:
    done = cluster.exec(command, node, "root")
    assert done.rc == 0, done


@pytest.fixture(params=["no line", "nothing at all"])
def lacking(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Remove from NODE the line in plugstack.conf, or that line and the installation; put them back afterwards."""
    root(cluster, f"mv {LINE} /root/line")
    if request.param == "nothing at all":
        root(cluster, f"mv {PREFIX} {PREFIX}.away")
    try:
        yield request.param
    finally:
        if request.param == "nothing at all":
            root(cluster, f"mv {PREFIX}.away {PREFIX}")
        root(cluster, f"mv /root/line {LINE}")


def refused(text: str, lacking: str) -> bool:
    """Whether the task's stderr has the reason."""
    if lacking == "no line":
        return NOT_LOADED in text.splitlines()
    return f"{PREFIX}/bollard-enter: No such file or directory" in text


def ended(cluster: Cluster, job: int) -> dict[str, str]:
    """The same as `cluster.ended`."""
    return cluster.ended(job)


@pytest.mark.parametrize("options", [[], ["--export=NONE"], ["--mpi=pmi2"]], ids=" ".join)
def test_srun(cluster: Cluster, images: Images, work: Work, lacking: str, options: list[str]) -> None:
    done = cluster.srun("-w", NODE, *options, f"--container={images.small}", "touch", f"{work.path}/marker")
    assert done.rc != 0 and refused(done.err, lacking) and not work.exists("marker"), done


def test_the_other_node_is_no_help(cluster: Cluster, images: Images, work: Work, lacking: str) -> None:
    script = f"{WHERE} > {work.path}/$SLURM_NODEID"
    done = cluster.srun("-w", f"n1,{NODE}", "-N2", "-n4", f"--container={images.small}", "sh", "-c", script)
    assert done.rc != 0 and refused(done.err, lacking), done
    assert not work.exists("1"), work.read("1")
    assert not work.exists("0") or work.read("0") == "inside\n"


def test_a_step_in_a_job(cluster: Cluster, images: Images, work: Work, lacking: str) -> None:
    done = cluster.exec(
        ["salloc", "-Q", "-w", NODE, "srun", f"--container={images.small}", "touch", f"{work.path}/marker"]
    )
    assert done.rc != 0 and refused(done.err, lacking) and not work.exists("marker"), done


def test_multi_prog(cluster: Cluster, images: Images, work: Work, lacking: str) -> None:
    work.write("programs", f"0-1 touch {work.path}/marker.%t\n")
    done = cluster.srun("-w", NODE, "-n2", f"--container={images.small}", "--multi-prog", f"{work.path}/programs")
    assert done.rc != 0 and refused(done.err, lacking), done
    assert not work.exists("marker.0") and not work.exists("marker.1")


def test_heterogeneous_steps(cluster: Cluster, images: Images, work: Work, lacking: str) -> None:
    """Both the first and the last component are refused."""
    for nodes in (("n1", NODE), (NODE, "n1")):
        words = [["-w", node, "-n1", f"--container={images.small}", "touch", f"{work.path}/{node}"] for node in nodes]
        done = cluster.srun(*words[0], ":", *words[1])
        assert done.rc != 0 and not work.exists(NODE), done
        assert (
            refused(done.err, lacking)
            or f"{PREFIX}/bollard-enter/touch: Not a directory" in done.err
            or (f"{PREFIX}/bollard-enter/touch: No such file or directory" in done.err)
        ), done


@pytest.mark.parametrize("place", ["/tmp/copied", "/tmp/"])
def test_bcast(cluster: Cluster, images: Images, work: Work, lacking: str, place: str) -> None:
    work.write("program", f"#!/bin/sh\ntouch {work.path}/marker\n")
    options = ["-w", NODE, f"--chdir={work.path}", f"--bcast={place}", f"--container={images.small}"]
    done = cluster.srun(*options, "./program", cwd=work.path)
    assert done.rc != 0 and refused(done.err, lacking) and not work.exists("marker"), done
    root(cluster, "rm -f /tmp/copied /tmp/slurm_bcast_*")


def test_salloc(cluster: Cluster, images: Images, work: Work, lacking: str) -> None:
    child = cluster.terminal(f"salloc -Q -w {NODE} --container={images.small}", cwd=work.path)
    child.expect(["has not loaded the bollard plugin", "bollard-enter: No such file or directory"])
    child.expect(["srun: error", "\r\n"])
    child.close(force=True)
    until(lambda: not cluster.exec("squeue -h").out, "the end of the job")


@pytest.mark.parametrize("options", [[], ["--input=input"], ["--export=NONE"]], ids=" ".join)
def test_sbatch(cluster: Cluster, images: Images, work: Work, lacking: str, options: list[str]) -> None:
    """slurmstepd cannot open the path that the client set as the script's input, and the job fails."""
    work.write("input", "text\n")
    script = f"#!/bin/sh\ntouch {work.path}/marker\n"
    job = cluster.sbatch(script, work, "-w", NODE, f"--chdir={work.path}", f"--container={images.small}", *options)
    done = ended(cluster, job)
    assert done["JobState"] == "FAILED" and not work.exists("marker"), done


def test_a_step_that_another_process_sends(cluster: Cluster, images: Images, work: Work) -> None:
    """With srun --async (Slurm 26.05) no launcher can be put before the program, so the step is refused."""
    options = ["--async", f"--container={images.small}", "touch", f"{work.path}/marker"]
    done = cluster.exec(["salloc", "-Q", "-w", NODE, "srun", *options])
    if cluster.suite == "sid":
        assert done.complaints() == ["bollard: --container does not go with --async yet; write `srun ... &`"], done
    assert done.rc != 0 and not work.exists("marker"), done


def test_without_a_container_nothing_is_different(cluster: Cluster, work: Work, lacking: str) -> None:
    assert cluster.srun("-w", NODE, "sh", "-c", WHERE).out == "outside\n"


@pytest.mark.parametrize("options", [[], ["--input=input"], ["--input=in-%j"]], ids=" ".join)
def test_a_guarded_script_reads_its_input(cluster: Cluster, images: Images, work: Work, options: list[str]) -> None:
    """On a node with the plugin, the changed path of the script's input leads to the same file."""
    work.write("input", "text\n")
    script = f"#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.1; done\nreadlink /proc/self/fd/0; cat\n{WHERE}\n"
    if options == ["--input=in-%j"]:
        number = int(cluster.exec(["sbatch", "--parsable", "--wrap", "true", "-o", "/dev/null"]).out)
        work.write(f"in-{number + 1}", "text\n")
    job = cluster.sbatch(script, work, "-w", NODE, f"--chdir={work.path}", f"--container={images.small}", *options)
    work.write("go", "")
    cluster.ended(job)
    name = {"": "/dev/null\n", "--input=input": f"{work.path}/input\ntext\n"}.get(
        "".join(options), f"{work.path}/in-{job}\ntext\n"
    )
    assert work.read("job.out") == f"{name}inside\n"
