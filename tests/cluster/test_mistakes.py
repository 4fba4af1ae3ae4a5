# SPDX-License-Identifier: BSD-3-Clause
"""A user's mistake gives one line: what is wrong and what to do. Nothing runs, and no node is drained.

Each command writes a marker file to a shared directory, so that it is seen on whatever node the command ran.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from cluster import WHERE, Cluster, Images, Result, Work, good

# How to spoil an image, from the good one or from nothing: the path to ask for, and words of the complaint.
Spoil = Callable[[Work, bytes], "tuple[str, str]"]


def missing(work: Work, image: bytes) -> tuple[str, str]:
    return f"{work.path}/nowhere.sif", "no such file"


def missing_directory(work: Work, image: bytes) -> tuple[str, str]:
    return f"{work.path}/no/where.sif", f"{work.path}/no does not exist"


def missing_relative(work: Work, image: bytes) -> tuple[str, str]:
    return "nowhere.sif", "no such file"


def missing_at_home(work: Work, image: bytes) -> tuple[str, str]:
    return "~/nowhere.sif", "no such file"


def unreadable(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.sif", image, mode=0o200), "permission denied"


def in_a_closed_directory(work: Work, image: bytes) -> tuple[str, str]:
    return "/home/bob/image.sif", "permission denied: directory /home/bob belongs to bob"


def empty(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.sif", b""), "is empty"


def truncated_header(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.sif", image[:100]), "truncated"


def truncated_data(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.sif", image[: len(image) // 2]), "truncated"


def text(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.sif", "#!/bin/sh\necho hello\n"), "not a SIF or squashfs image"


def program(work: Work, image: bytes) -> tuple[str, str]:
    return "/bin/true", "is it a program?"


def archive(work: Work, image: bytes) -> tuple[str, str]:
    return work.write("image.tgz", b"\x1f\x8b" + bytes(1000)), "is it a gzip archive?"


def wrong_architecture(work: Work, image: bytes) -> tuple[str, str]:
    other = b"04" if image[45:47] == b"02" else b"02"
    spoilt = bytearray(image)
    spoilt[45:47] = other
    # The partition has the architecture too: SIF descriptors of 585 bytes begin at the offset in the header.
    start = int.from_bytes(image[96:104], "little")
    for number in range(48):
        at = start + 585 * number
        if spoilt[at + 4] == 1 and int.from_bytes(spoilt[at : at + 4], "little") == 0x4004:
            spoilt[at + 201 + 8 : at + 201 + 10] = other
    return work.write("image.sif", bytes(spoilt)), "built for "


def empty_directory(work: Work, image: bytes) -> tuple[str, str]:
    (work.here / "tree").mkdir()
    return f"{work.path}/tree", "is an empty directory"


def no_root_tree(work: Work, image: bytes) -> tuple[str, str]:
    (work.here / "data").mkdir()
    (work.here / "data/results.csv").write_text("1,2,3\n")
    return f"{work.path}/data", "data"


def fifo(work: Work, image: bytes) -> tuple[str, str]:
    subprocess.run(["mkfifo", "-m", "666", str(work.here / "image.sif")], check=True)
    return f"{work.path}/image.sif", "is a pipe"


def device(work: Work, image: bytes) -> tuple[str, str]:
    return "/dev/zero", "is a character device"


def registry(work: Work, image: bytes) -> tuple[str, str]:
    return "docker://debian:12", "docker"


MISTAKES: tuple[Spoil, ...] = (
    missing, missing_directory, missing_relative, missing_at_home, unreadable, in_a_closed_directory, empty,
    truncated_header, truncated_data, text, program, archive, wrong_architecture, empty_directory, no_root_tree, fifo,
    device, registry,
)  # fmt: skip


@pytest.fixture(scope="module")
def image(cluster: Cluster, images: Images) -> bytes:
    """A valid image, which the tests then damage."""
    return cluster.path("ctl", images.small).read_bytes()


def one_line(done: Result, words: str) -> None:
    """Check that stderr has one line of bollard besides srun's own: what is wrong, and what to do."""
    others = [line for line in done.err.splitlines() if not line.startswith("srun: error: ")]
    assert done.rc != 0 and len(others) == 1, done
    assert others[0].startswith("bollard: ") and words in others[0] and "; " in others[0], done
    assert "defect" not in others[0] and "Traceback" not in done.err, done


@pytest.mark.parametrize("spoil", MISTAKES)
def test_srun_refuses_before_anything_is_queued(cluster: Cluster, image: bytes, work: Work, spoil: Spoil) -> None:
    path, words = spoil(work, image)
    # A job that is submitted nevertheless would wait in the queue, and the test would wait too.
    done = cluster.srun(
        "--begin=now+3600", f"--container={path}", "touch", f"{work.path}/marker", cwd=work.path, seconds=10,
        env={"BOLLARD_CACHEDIR": work.path},
    )  # fmt: skip
    one_line(done, words)
    assert done.rc == 255 and "srun: " not in done.err
    assert not work.exists("marker")


@pytest.mark.parametrize("spoil", [missing, truncated_data, text, no_root_tree])
def test_sbatch_refuses_before_anything_is_queued(cluster: Cluster, image: bytes, work: Work, spoil: Spoil) -> None:
    path, words = spoil(work, image)
    script = work.write("job.sh", f"#!/bin/sh\n#SBATCH --container={path}\ntouch {work.path}/marker\n")
    done = cluster.exec(["sbatch", "--hold", script], cwd=work.path)
    assert done.out == "", "nothing was submitted"
    one_line(done, words)
    assert done.rc == 255


@pytest.mark.parametrize("spoil", [missing, empty])
def test_salloc_refuses_before_anything_is_queued(cluster: Cluster, image: bytes, work: Work, spoil: Spoil) -> None:
    path, words = spoil(work, image)
    done = cluster.exec(["salloc", "-Q", "--begin=now+3600", f"--container={path}", "true"], cwd=work.path, seconds=10)
    one_line(done, words)


@pytest.mark.parametrize(
    "name", ["image.sif", "with space.sif", "quo'te\"s.sif", "päth.sif", "100%.sif", "a:b,c.sif", "-x.sif"]
)
def test_odd_names_work(cluster: Cluster, image: bytes, work: Work, name: str) -> None:
    work.write(name, image)
    done = cluster.srun(f"--container={work.path}/{name}", "sh", "-c", WHERE)
    assert good(done) == "inside\n"


def test_relative_paths_and_home_work(cluster: Cluster, image: bytes, work: Work) -> None:
    work.write("image.sif", image)
    folder = work.path.rpartition("/")[2]
    paths = ["image.sif", "./image.sif", f"../{folder}/image.sif", f"~/{folder}/image.sif"]
    for path in paths:
        done = cluster.srun(f"--container={path}", "sh", "-c", WHERE, cwd=work.path)
        assert good(done) == "inside\n", path
        assert cluster.batch(f"#!/bin/sh\n{WHERE}\n", work, f"--container={path}").out == "inside\n", path


def test_a_relative_path_begins_where_srun_was_typed(cluster: Cluster, image: bytes, work: Work) -> None:
    work.write("image.sif", image)
    done = cluster.srun("--chdir=/tmp", "--container=image.sif", "sh", "-c", f"{WHERE}; pwd", cwd=work.path)
    assert good(done) == "inside\n/tmp\n"


# Images of which only the node can know.


def on_node(cluster: Cluster, node: str, make: str) -> None:
    good(cluster.exec(f"mkdir /tmp/test-images && cd /tmp/test-images && {make}", node=node))


def gone(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        cluster.exec("chmod -R u+rwX /tmp/test-images; rm -rf /tmp/test-images", node=node, user="root")


LOCAL = (
    ("true", "no such file"),
    ("touch image.sif", "is empty"),
    ("echo hello > image.sif", "not a SIF or squashfs image"),
    ("touch image.sif; chmod 0 image.sif", "permission denied"),
    ("mkdir image.sif", "is an empty directory"),
    ("mkdir image.sif; touch image.sif/results.csv", "image.sif"),
    ("head -c 1000000 {small} > image.sif", "truncated"),
)


@pytest.mark.parametrize(("make", "words"), LOCAL)
def test_the_node_refuses(cluster: Cluster, images: Images, work: Work, make: str, words: str) -> None:
    on_node(cluster, "n1", make.replace("{small}", images.small))
    try:
        done = cluster.srun(
            "-w", "n1", "--container=/tmp/test-images/image.sif", "touch", f"{work.path}/marker", cwd=work.path
        )
        one_line(done, words)
        assert done.rc == 255, done
        assert "srun: error: n1: task 0: Exited with exit code 255" in done.err
        assert not work.exists("marker")
        job = cluster.batch(
            f"#!/bin/sh\ntouch {work.path}/marker\n", work, "-w", "n1", "--container=/tmp/test-images/image.sif"
        )
        assert job.rc == 255 and job.out.startswith("bollard: ") and words in job.out, job
        assert job.out.count("\n") == 1 and not work.exists("marker")
    finally:
        gone(cluster, "n1")


def test_a_directory_with_filesystems_below(cluster: Cluster, work: Work) -> None:
    one_line(cluster.srun("--container=/", "touch", f"{work.path}/marker"), "is mounted below it")
    assert not work.exists("marker")


def test_an_image_on_the_node_alone_works(cluster: Cluster, images: Images) -> None:
    on_node(cluster, "n1", f"cp {images.small} image.sif")
    try:
        done = cluster.srun("-w", "n1", "--container=/tmp/test-images/image.sif", "sh", "-c", WHERE)
        assert good(done) == "inside\n"
    finally:
        gone(cluster, "n1")


def test_an_image_that_one_of_two_nodes_lacks(cluster: Cluster, images: Images, work: Work) -> None:
    on_node(cluster, "n1", f"cp {images.small} image.sif")
    try:
        done = cluster.srun(
            "-w", "n1,n2", "--ntasks-per-node=1", "--container=/tmp/test-images/image.sif",
            "sh", "-c", f"{WHERE} > {work.path}/ran.$(hostname)",
        )  # fmt: skip
        assert done.rc == 255 and len(done.complaints()) == 1 and "no such file" in done.err, done
        assert not work.exists("ran.n2")
    finally:
        gone(cluster, "n1")


def test_a_program_that_is_not_there(cluster: Cluster, images: Images, work: Work) -> None:
    done = cluster.srun(f"--container={images.small}", "/no/such/program")
    one_line(done, "/no/such/program: not found in the container")
    done = cluster.srun(f"--container={images.small}", work.write("data", "x", mode=0o644))
    one_line(done, "ermission denied")


@pytest.mark.parametrize("name", ["BOLLARD_BIND", "APPTAINER_BIND", "SINGULARITY_BINDPATH"])
def test_a_bind_that_cannot_be(cluster: Cluster, images: Images, work: Work, name: str) -> None:
    for value, words in (("/home:relative", "must begin with /"), ("/no/such/place:/mnt", "/no/such/place")):
        done = cluster.srun(
            f"--container={images.small}", "touch", f"{work.path}/marker", env={name: value}, cwd=work.path
        )
        one_line(done, words)
        assert not work.exists("marker")


def test_a_spec_made_by_hand(cluster: Cluster, work: Work) -> None:
    """A user can put any text into the variable. A step with such a text has a container or does not run."""
    for spec in ("image=/no/such", "nonsense", "image=%", "image=/etc/passwd", "x" * 100_000):
        done = cluster.srun(f"--export=ALL,SLURM_BOLLARD_SPEC={spec}", "touch", f"{work.path}/marker", seconds=30)
        if done.rc == 0:
            good(cluster.exec(["rm", f"{work.path}/marker"]))  # the client dropped it, and this ran as a plain step
        else:
            assert len(done.complaints()) == 1 and not work.exists("marker"), done


ONE_LINE = [
    ("--container-workdir=/nope", "true", "no such directory"),
    ("--container-mounts=/etc/hostname:/etc", "true", "/etc in the image is a directory"),
    ("--container-writable", "no-such-program", "not found in the container"),
    ("--container-name=a:exec", "true", "has no container a"),
]


@pytest.mark.parametrize(("option", "program", "words"), ONE_LINE, ids=[words for _, _, words in ONE_LINE])
def test_a_mistake_of_all_tasks_is_told_once_a_node(
    cluster: Cluster, images: Images, option: str, program: str, words: str
) -> None:
    """Each task ends with 255, and one task on each node prints why."""
    done = cluster.srun("-N2", "--ntasks-per-node=4", f"--container={images.small}", option, program)
    lines = done.complaints()
    assert done.rc == 255 and len(lines) == 2 and all(words in line for line in lines), done


def test_different_mistakes_are_all_told(cluster: Cluster, images: Images, work: Work) -> None:
    programs = work.write("programs", "0-1 /no/a\n2-3 /no/b\n")
    done = cluster.srun("-N1", "-n4", "--multi-prog", f"--container={images.small}", programs)
    lines = sorted(done.complaints())
    assert len(lines) == 2 and "/no/a: not found" in lines[0] and "/no/b: not found" in lines[1], done
