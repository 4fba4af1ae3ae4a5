# SPDX-License-Identifier: BSD-3-Clause
"""Writable layers of a container: --overlay with a directory, a file, and an object of the image."""

from __future__ import annotations

import pytest
from cluster import CONTROLLER, Cluster, Images, Work, good, until


def test_a_layer_that_stays(cluster: Cluster, images: Images) -> None:
    """The layer is a directory on the node's own disk: the kernel's overlay does not write to a network filesystem."""
    place = ["-w", "n1", f"--container={images.small}"]
    good(cluster.srun("-w", "n1", "bash", "-c", "mkdir -p /tmp/layer"))
    try:
        words = [*place, "--container-opts=--overlay /tmp/layer"]
        assert good(cluster.srun(*words, "-n2", "sh", "-c", "echo $SLURM_PROCID > /opt/$SLURM_PROCID")) == ""
        assert good(cluster.srun(*words, "ls", "/opt")) == "0\n1\n"
        read_only = cluster.srun(
            *place, "--container-opts=--overlay /tmp/layer:ro", "sh", "-c", "ls /opt; touch /opt/2"
        )
        assert read_only.out == "0\n1\n" and "Read-only" in read_only.err, read_only
    finally:
        good(cluster.srun("-w", "n1", "rm", "-rf", "/tmp/layer"))


def test_a_layer_in_a_file(cluster: Cluster, images: Images, work: Work) -> None:
    """The layer is an ext3 file, served by fuse2fs: tasks share it, the next step sees it, and it stays clean."""
    good(cluster.exec(["bollard", "overlay", "create", "--size=64", "layer.img"], cwd=work.path))
    words = ["-N1", "-n2", f"--container={images.small}"]
    writes = f"--container-opts=--overlay {work.path}/layer.img"
    assert good(cluster.srun(*words, writes, "sh", "-c", "echo $SLURM_PROCID > /opt/$SLURM_PROCID")) == ""
    _until_no_keeper(cluster)
    assert cluster.exec(["/sbin/e2fsck", "-fn", f"{work.path}/layer.img"]).rc == 0
    done = cluster.srun(*words, f"{writes}:ro", "sh", "-c", "ls /opt; touch /opt/2 2>&1")
    assert done.rc == 1 and done.out.count("0\n1\n") == 2 and done.out.count("Read-only") == 2, done


def test_a_layer_in_the_image(cluster: Cluster, images: Images, work: Work) -> None:
    """The layer is in the SIF file: --writable writes to it, and without --writable it is visible."""
    good(cluster.exec(["cp", images.small, "own.sif"], cwd=work.path))
    good(cluster.exec(["bollard", "overlay", "create", "--size=64", "own.sif"], cwd=work.path))
    words = ["-N1", "-n1", f"--container={work.path}/own.sif"]
    assert good(cluster.srun(*words, "--container-opts=--writable", "sh", "-c", "echo kept > /opt/x")) == ""
    _until_no_keeper(cluster)
    assert good(cluster.srun(*words, "cat", "/opt/x")) == "kept\n"


@pytest.mark.parametrize(("make", "use"), [([], ["--fakeroot"]), (["--fakeroot"], [])])
def test_a_layer_of_the_user_and_one_of_root(
    cluster: Cluster, images: Images, work: Work, make: list[str], use: list[str]
) -> None:
    """The file has the numbers of its maker, and a namespace maps one number."""
    good(cluster.exec(["bollard", "overlay", "create", *make, "--size", "64", "layer.img"], cwd=work.path))
    other, own = (
        cluster.exec(
            ["bollard", "exec", *words, "--overlay", "layer.img", images.small, "touch", "/opt/x"], cwd=work.path
        )
        for words in (use, make)
    )
    assert "its files do not belong to" in other.refusal() and "overlay create" in other.refusal(), other
    assert good(own) == ""


def test_a_layer_of_root_to_read(cluster: Cluster, images: Images, work: Work) -> None:
    """Files that a site gives its users: the top of the file is the layer, and belongs to root."""
    good(cluster.exec("mkdir -p data/opt/data; echo more > data/opt/data/file", cwd=work.path))
    good(cluster.exec("/sbin/mkfs.ext3 -q -E root_owner=0:0 -d data layer.img 16m", cwd=work.path))
    words = ["-N1", "-n1", f"--container={images.small}", f"--container-opts=--overlay {work.path}/layer.img:ro"]
    assert good(cluster.srun(*words, "cat", "/opt/data/file", "/etc/debian_version")).startswith("more\n")


@pytest.mark.parametrize("kind", ["directory", "file", "file:ro", "image"])
def test_a_layer_does_not_lead_to_the_host(cluster: Cluster, images: Images, work: Work, kind: str) -> None:
    """The user who made the layer may have replaced its directories by links; they must not lead to the host."""
    cluster.exec(["mkdir", "-p", "secret/work", "layer"], cwd=work.path)
    good(cluster.exec(["sh", "-c", "echo hidden > secret/key; ln -s $PWD/secret layer/upper"], cwd=work.path))
    good(cluster.exec(["ln", "-s", f"{work.path}/secret/work", "layer/work"], cwd=work.path))
    good(cluster.exec(["/sbin/mkfs.ext3", "-q", "-d", "layer", "layer.img", "16m"], cwd=work.path))
    place, option = images.small, f"--overlay {work.path}/layer.img"
    if kind == "directory":
        option = f"--overlay {work.path}/layer"
    elif kind == "file:ro":
        option += ":ro"
    elif kind == "image":
        place, option = f"{work.path}/own.sif", "--containall"
        good(cluster.exec(["cp", images.small, "own.sif"], cwd=work.path))
        add = "bollard sif add --datatype=4 --partfs=2 --parttype=4 --partarch=2 --groupid=1 own.sif layer.img"
        good(cluster.exec(add.split(), cwd=work.path))
    done = cluster.srun(
        "-N1", "-n1", f"--container={place}", f"--container-opts=--containall {option}", "sh", "-c", "cat /key; > /new"
    )
    assert (done.rc, done.out) == (255, "") and "its upper is no directory" in done.err, done
    assert good(cluster.exec(["ls", "secret"], cwd=work.path)) == "key\nwork\n"


def _until_no_keeper(cluster: Cluster) -> None:
    nodes = [node for node in cluster.nodes() if node != CONTROLLER]
    until(lambda: not any(cluster.named(node, "bollard-keeper", "fuse2fs", "fuse2fs2") for node in nodes), "the end")
