# SPDX-License-Identifier: BSD-3-Clause
"""An image is a program: `./img.sif`, `srun ./img.sif`, and scripts that do it run its runscript in the container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import WHERE, Cluster, Images, Work, good

DEFINITION = """\
Bootstrap: localimage
From: {}

%runscript
    test "$1" != look || exec sh -c 'readlink /proc/self/ns/mnt; ls /data | head -1'
    {}
    echo "runs $APPTAINER_COMMAND in $(pwd) with $#: $*"
    exit ${{STATUS:-0}}
"""


@pytest.fixture(scope="module")
def place(cluster: Cluster, images: Images) -> Iterator[Work]:
    """A directory with the program img.sif."""
    with cluster.work() as work:
        definition = work.write("img.def", DEFINITION.format(images.small, WHERE))
        good(cluster.exec(f"cd {work.path} && bollard build img.sif {definition} > build.log 2>&1", seconds=300))
        yield work


def expected(work: Work, *arguments: str) -> str:
    return f"inside\nruns run in {work.path} with {len(arguments)}: {' '.join(arguments)}\n"


def test_on_this_host(cluster: Cluster, place: Work) -> None:
    assert good(cluster.exec("./img.sif a 'b c'", cwd=place.path)) == expected(place, "a", "b c")
    assert cluster.exec("STATUS=3 ./img.sif", cwd=place.path).rc == 3


@pytest.mark.parametrize("name", ["./img.sif", "{}/img.sif", "../{}/img.sif"])
def test_a_step(cluster: Cluster, place: Work, name: str) -> None:
    name = name.format(place.path if name[0] == "{" else Path(place.path).name)
    words = ["-N2", "-n2", name, "--verbose", "x"]  # options behind the image are the runscript's
    done = cluster.srun(*words, cwd=place.path)
    assert (done.lines(), done.err) == (sorted(2 * expected(place, "--verbose", "x").splitlines()), "")
    assert cluster.srun("--export=ALL,STATUS=7", name, cwd=place.path).rc == 7


def test_a_step_from_the_path_and_of_another_directory(cluster: Cluster, place: Work) -> None:
    path = {"PATH": f"{place.path}:/usr/bin:/bin"}
    assert good(cluster.srun("img.sif", "1", env=path, cwd=place.path)) == expected(place, "1")
    assert good(cluster.srun("-D", place.path, "./img.sif", cwd="/")) == expected(place)


def test_it_is_the_container_of_the_step(cluster: Cluster, place: Work) -> None:
    """The tasks of a node share one container, and options of containers count."""
    words = ["--container-mounts=/usr:/data", "-n2", "-w", "n1", "./img.sif", "look"]
    out = good(cluster.srun(*words, cwd=place.path)).splitlines()
    assert len([line for line in set(out) if line.startswith("mnt:")]) == 1 and out.count("bin") == 2


def test_a_batch_script(cluster: Cluster, place: Work) -> None:
    script = "#!/bin/bash\n./img.sif a\nsrun -Q -n1 ./img.sif b\nsrun -Q -n2 ./img.sif c\n"
    done = cluster.batch(script, place, "-n2")
    assert done.rc == 0, done
    wanted = expected(place, "a") + expected(place, "b") + 2 * expected(place, "c")
    assert done.lines() == sorted(wanted.splitlines())


def test_no_variable_tells_a_step_inside(cluster: Cluster, place: Work) -> None:
    """A step that a script starts around the image, or within it, runs what its own command line says."""
    step = "srun -Q --container=img.sif sh -c 'echo $APPTAINER_COMMAND'"
    script = f"#!/bin/sh\nexport SLURM_BOLLARD_COMMAND=run\n{step}\n"
    assert cluster.batch(script, place).out == "exec\n"


def test_an_explicit_container_wins(cluster: Cluster, images: Images, place: Work) -> None:
    look = ["head", "-c", "31", "./img.sif"]
    assert good(cluster.srun(f"--container={images.small}", *look, cwd=place.path)).startswith("#!/usr/bin/env run")
    done = cluster.srun(f"--container={images.small}", "./img.sif", cwd=place.path)
    assert done.rc != 0 and "runs run" not in done.out  # a program in that container, which has no run-singularity


def test_by_the_kernel(cluster: Cluster, place: Work) -> None:
    """--bcast, --multi-prog and components start the image on the node by its first line."""
    place.write("programs", "0 ./img.sif first\n1 ./img.sif second\n")
    assert cluster.srun("-n2", "--multi-prog", "programs", cwd=place.path).lines() == sorted(
        (expected(place, "first") + expected(place, "second")).splitlines()
    )
    copied = good(cluster.srun(f"--bcast={place.path}/copy.sif", "./img.sif", "c", cwd=place.path))
    assert copied == expected(place, "c")
    parts = cluster.srun("-n1", "./img.sif", "one", ":", "-n1", "./img.sif", "two", cwd=place.path)
    assert parts.lines() == sorted((expected(place, "one") + expected(place, "two")).splitlines()), parts


def test_mistakes(cluster: Cluster, place: Work) -> None:
    whole = (place.here / "img.sif").read_bytes()
    place.write("cut.sif", whole[:4096])
    good(cluster.exec("mkfifo -m 700 fifo", cwd=place.path))
    assert "bollard" not in cluster.srun("./fifo", cwd=place.path).err  # srun does not wait for a writer
    done = cluster.srun("./cut.sif", cwd=place.path)
    assert done.rc == 255 and "cut.sif" in done.err and len(done.complaints()) == 1, done
    assert good(cluster.srun("/bin/echo", "plain", cwd=place.path)) == "plain\n"
    done = cluster.srun("--container-mounts=/usr:/data", "/bin/echo", cwd=place.path)
    assert done.complaints() == ["bollard: --container-mounts without a container; add --container=IMAGE"]


def test_sbatch_of_an_image(cluster: Cluster, place: Work) -> None:
    done = cluster.exec(["sbatch", "-N1", "img.sif", "a"], cwd=place.path)
    assert done.rc == 1 and done.complaints() == [
        "bollard: img.sif is an image, and sbatch takes scripts alone; write sbatch --wrap 'srun ./img.sif ARGUMENTS'"
    ], done
    job = cluster.exec("sbatch --parsable -o wrap.out --wrap 'srun -Q ./img.sif w'", cwd=place.path)
    cluster.ended(int(good(job)))
    assert place.read("wrap.out") == expected(place, "w")


def test_a_site_that_leaves_them_to_the_kernel(cluster: Cluster, place: Work) -> None:
    def configure(text: str) -> None:
        good(cluster.exec("mkdir -p /etc/bollard; cat > /etc/bollard/bollard.yaml", user="root", stdin=text.encode()))
        good(cluster.exec("bollard site configure > /dev/null", user="root"))

    try:
        configure("image-programs: no\n")
        assert good(cluster.srun("./img.sif", "k", cwd=place.path)) == expected(place, "k")
        done = cluster.srun("--container-mounts=/usr:/data", "./img.sif", cwd=place.path)
        assert done.complaints() == ["bollard: --container-mounts without a container; add --container=IMAGE"]
    finally:
        good(cluster.exec("rm -r /etc/bollard; bollard site configure > /dev/null", user="root"))
