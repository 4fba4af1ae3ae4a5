# SPDX-License-Identifier: BSD-3-Clause
"""`srun --container=IMAGE` runs a program of the image, with those of the host's files that a container gets."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from cluster import WHERE, Cluster, Images, Work, good, quoted

SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/home/alice")


def test_os_release_is_the_images_and_outside_the_hosts(cluster: Cluster, images: Images) -> None:
    inside = good(cluster.srun(f"--container={images.small}", "cat", "/etc/os-release"))
    outside = good(cluster.srun("cat", "/etc/os-release"))
    assert f"VERSION_CODENAME={images.small_tree.name.partition('-')[0]}" in inside
    assert outside == cluster.path("n1", "/usr/lib/os-release").read_text()
    assert inside != outside


def test_every_task_of_every_node_is_inside(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-N4", "--ntasks-per-node=2", f"--container={images.small}", "sh", "-c", f"{WHERE}; hostname")
    assert sorted(good(done).split()) == sorted(["inside"] * 8 + ["n1", "n2", "n3", "n4"] * 2)


def test_the_value_may_be_the_next_word(cluster: Cluster, images: Images) -> None:
    assert good(cluster.srun("--container", images.small, "sh", "-c", WHERE)) == "inside\n"


def test_a_program_is_looked_up_in_the_image(cluster: Cluster, images: Images) -> None:
    # This is on the nodes, but in no small image.
    good(cluster.srun("test", "-x", "/usr/bin/squashfuse"))
    for name in ("squashfuse", "/usr/bin/squashfuse"):
        done = cluster.srun(f"--container={images.small}", name, "--help")
        assert done.rc == 255 and len(done.complaints()) == 1, done
        assert f"bollard: {name}: not found in the container" in done.err


@pytest.mark.parametrize("place", SHARED_PLACES)
def test_a_place_of_the_host_is_the_same_inside(cluster: Cluster, images: Images, place: str) -> None:
    name = f"{place}/test-{secrets.token_hex(4)}"
    script = f"cat {name}.outside && echo inside > {name}.inside"
    good(cluster.exec(f"echo outside > {name}.outside", node="n1"))
    try:
        done = cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", script)
        assert good(done) == "outside\n"
        assert cluster.path("n1", f"{name}.inside").read_text() == "inside\n"
    finally:
        cluster.exec(f"rm -f {name}.outside {name}.inside", node="n1")


def test_the_image_cannot_be_written(cluster: Cluster, images: Images) -> None:
    done = cluster.srun(f"--container={images.small}", "sh", "-c", "echo x > /usr/new || echo x >> /etc/os-release")
    assert done.rc != 0 and done.err.count("Read-only file system") == 2, done


def test_mounts_give_no_power(cluster: Cluster, images: Images) -> None:
    mounts = good(cluster.srun(f"--container={images.small}", "cat", "/proc/self/mounts")).splitlines()
    assert len(mounts) > 10
    for line in mounts:
        _, target, kind, options, *_ = line.split(" ")
        assert "nosuid" in options.split(","), line
        if target != "/dev" and not target.startswith("/dev/"):
            assert "nodev" in options.split(","), line
        assert kind != "squashfs", "the kernel must not read what a user can write"
    assert [line for line in mounts if " / fuse" in line]


def test_the_working_directory_is_the_same(cluster: Cluster, images: Images, work: Work) -> None:
    good(cluster.exec(f"mkdir -p '{work.path}/a b'"))
    assert good(cluster.srun(f"--container={images.small}", "pwd", cwd=f"{work.path}/a b")) == f"{work.path}/a b\n"
    assert good(cluster.srun(f"--container={images.small}", f"--chdir={work.path}", "pwd")) == f"{work.path}\n"


def test_a_working_directory_that_no_image_has(cluster: Cluster, images: Images) -> None:
    place = f"/scratch-{secrets.token_hex(4)}"
    for node in (cluster.nodes()[0], "n1"):
        good(cluster.exec(f"install -d -o alice {place}/run", node=node, user="root"))
    try:
        done = cluster.srun(
            "-w", "n1", f"--container={images.small}", "sh", "-c", "pwd; echo > made", cwd=f"{place}/run"
        )
        assert good(done) == f"{place}/run\n"
        assert cluster.path("n1", f"{place}/run/made").exists()
    finally:
        for node in (cluster.nodes()[0], "n1"):
            cluster.exec(f"rm -r {place}", node=node, user="root")


@pytest.fixture
def linked(cluster: Cluster) -> Iterator[str]:
    """A directory NAME/run of alice on the controller and n1; NAME-link is a link to NAME."""
    place = f"/scratch-{secrets.token_hex(4)}"
    for node in (cluster.nodes()[0], "n1"):
        good(cluster.exec(f"install -d -o alice {place}/run; ln -s {place} {place}-link", node=node, user="root"))
    yield place
    for node in (cluster.nodes()[0], "n1"):
        cluster.exec(f"rm -r {place} {place}-link", node=node, user="root")


def test_a_working_directory_that_is_named_through_a_link(
    cluster: Cluster, images: Images, work: Work, linked: str
) -> None:
    script = f"pwd; echo > made; ls {linked}-link/run"
    step = ["-w", "n1", f"--container={images.small}", f"--chdir={linked}-link/run", "sh", "-c", script]
    assert good(cluster.srun(*step)) == f"{linked}/run\nmade\n"

    # The user's shell has gone there, so $PWD in a command line is the path with the link.
    there = f"cd {linked}-link/run && srun -Q -w n1 --container={images.small} sh -c {quoted(script)}"
    assert good(cluster.exec(f"{there}")) == f"{linked}/run\nmade\n"
    there = f"cd {linked}-link/run && bollard exec {images.small} sh -c {quoted(script)}"
    assert good(cluster.exec(there, node="n1")) == f"{linked}/run\nmade\n"

    job = f"#!/bin/sh\n#SBATCH -w n1 --container={images.small} -D {linked}-link/run\n{script}\n"
    assert cluster.batch(job, work) == (0, f"{linked}/run\nmade\n", "")


def test_a_working_directory_that_is_not_there_is_told_of(
    cluster: Cluster, images: Images, work: Work, linked: str
) -> None:
    """A note says so. With --contain the task starts in the home without a note, as with Apptainer."""
    asked = ["-n2", "-N1", "-w", "n1", f"--container={images.small}"]
    done = cluster.srun(*asked, "--container-opts=--no-mount cwd", "pwd", cwd=f"{linked}/run")
    line = f"bollard: n1: {linked}/run cannot be entered in the container; the program starts in /home/alice"
    assert (done.rc, done.out, done.complaints()) == (0, "/home/alice\n" * 2, [line])

    done = cluster.srun(*asked, "--container-opts=--contain", "pwd", cwd=f"{linked}/run")
    assert good(done) == "/home/alice\n" * 2


@pytest.mark.parametrize("form", ["sif", "squashfs", "directory"])
def test_forms_of_images(cluster: Cluster, images: Images, work: Work, form: str) -> None:
    """A SIF file of Apptainer or bollard, its squashfs, or an unpacked tree."""
    tree = work.path + "/tree"
    if form == "sif":
        image = images.small
    else:
        program = "/usr/lib/bollard/bollard-enter"  # static
        good(cluster.exec(f"mkdir -p {tree}/bin {tree}/proc {tree}/dev; cp {program} {tree}/bin/print", user="root"))
        image = tree
    if form == "squashfs":
        image = work.path + "/image.squashfs"
        good(cluster.exec(["mksquashfs", tree, image, "-quiet", "-no-progress"], user="root"))
    if form == "sif":
        assert good(cluster.srun(f"--container={image}", "sh", "-c", WHERE)) == "inside\n"
        return
    done = cluster.srun(f"--container={image}", "print", "--print-environment")
    assert done.rc == 0 and "SLURM_JOB_ID=" in done.out, done


def test_verbose_tells_what_is_mounted_and_how_long_it_took(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-n2", "--container-verbose", f"--container={images.small}", "true")
    assert done.rc == 0 and done.out == ""
    told = [line for line in done.complaints() if f"image {images.small}" in line]
    assert len(told) == 1, "once a node"
    assert any("/home/alice" in line for line in done.complaints())
    assert any(" ms" in line for line in done.complaints())
