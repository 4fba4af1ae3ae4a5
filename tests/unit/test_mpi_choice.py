# SPDX-License-Identifier: BSD-3-Clause
"""Which libraries of the host's MPI an image gets, by what their ELF headers say. The libraries here are made up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bollard.runtime.container import elf, host_mpi, mpi_choice
from bollard.runtime.container.mpi_choice import Part
from bollard.runtime.errors import BollardError
from bollard.runtime.request.site import Site

GLIBC = frozenset(("libc.so.6", "GLIBC_2.2.5", "GLIBC_2.31"))
CALLS = {"MPI_Init", "MPI_Send"}


def library(*needed: str, requires=None, provides=(), defined=(), undefined=()) -> Part:
    return Part(list(needed), requires or {}, frozenset(provides), lambda: set(defined), lambda: set(undefined))


def mpi(*needed: str, glibc: str = "GLIBC_2.2.5", defined=CALLS, **more) -> Part:
    requires = {"libc.so.6": [glibc], **more.pop("requires", {})}
    return library(*needed, "libc.so.6", requires=requires, defined=defined, **more)


def image(**more: Part) -> dict[str, Part]:
    """An image with Debian's MPICH."""
    return {"libc.so.6": library(provides=GLIBC), "libmpich.so.12": mpi(), **more}


def chosen(host: dict[str, Part], image: dict[str, Part]) -> tuple[set[str], str]:
    choice = mpi_choice.choose(host, image.get)
    return choice.taken, mpi_choice.refused(host, image.get, choice)


def test_one_abi_under_several_names():
    names = ("libmpi.so.12", "libmpich.so.12")
    assert chosen(dict.fromkeys(names, mpi()), image()) == (set(names), "")


def test_another_abi_is_none():
    why = "this node has MPI libraries of another ABI (libmpi_abi.so.1) than the image (libmpich.so.12)"
    assert chosen({"libmpi_abi.so.1": mpi()}, image()) == (set(), why)
    assert chosen({"libmpi_abi.so.1": mpi()}, {"libc.so.6": library(provides=GLIBC)}) == ({"libmpi_abi.so.1"}, "")
    both = {"libmpi_abi.so.1": mpi(), "libmpi.so.12": mpi()}
    assert chosen(both, image(**{"libmpi_abi.so.1": mpi()})) == (set(both), "")


@pytest.mark.parametrize(("version", "has"), [("GLIBC_2.34", "it up to GLIBC_2.31"), ("GLIBC_ABI_DT_RELR", "none")])
def test_a_newer_glibc_is_told_with_its_library(version, has):
    end = f"needs {version} of libc.so.6, and the image has {has}"
    why = f"libmpi.so.12 of this node {end}"
    assert chosen({"libmpi.so.12": mpi(glibc=version)}, image()) == (set(), why)
    host = {"libmpi.so.12": mpi("libfabric.so.1"), "libfabric.so.1": mpi(glibc=version)}
    assert chosen(host, image()) == (set(), f"libmpi.so.12 of this node needs libfabric.so.1, which {end}")


def test_an_image_without_glibc():
    why = "libmpi.so.12 of this node needs libc.so.6, which the image does not have"
    assert chosen({"libmpi.so.12": mpi()}, {}) == (set(), why)


def test_a_function_that_the_hosts_lacks():
    newer = image(**{"libmpich.so.12": mpi(defined={*CALLS, "MPI_Session_init", "MPIR_own"})})
    why = "libmpi.so.12 of this node has no MPI_Session_init, which libmpich.so.12 of the image has"
    assert chosen({"libmpi.so.12": mpi()}, newer) == (set(), why)


def test_the_images_library_is_kept_where_it_has_all_that_is_needed():
    needs = mpi("libstdc++.so.6", requires={"libstdc++.so.6": ["GLIBCXX_3.4.29"]})
    host = {"libmpi.so.12": needs, "libstdc++.so.6": mpi(provides=("GLIBCXX_3.4.28", "GLIBCXX_3.4.29"))}
    enough = image(**{"libstdc++.so.6": mpi(provides=("GLIBCXX_3.4.28", "GLIBCXX_3.4.29", "GLIBCXX_3.4.30"))})
    older = image(**{"libstdc++.so.6": mpi(provides=("GLIBCXX_3.4.28",))})
    other = image(**{"libstdc++.so.6": mpi(provides=("GLIBCXX_3.4.28", "MINE_1"))})
    assert chosen(host, enough) == ({"libmpi.so.12"}, "")
    assert chosen(host, older) == (set(host), "")
    assert chosen(host, other) == (
        set(),
        "libmpi.so.12 of this node needs GLIBCXX_3.4.29 of libstdc++.so.6, and the image has it up to GLIBCXX_3.4.28; "
        "this node's has no MINE_1, which the image's has",
    )


def test_the_hosts_fabric_comes_first():
    needs = mpi("libfabric.so.1", requires={"libfabric.so.1": ["FABRIC_1.0"]})
    host = {"libmpi.so.12": needs, "libfabric.so.1": mpi(provides=("FABRIC_1.0", "FABRIC_1.3"))}
    older, newer = ("FABRIC_1.0",), ("FABRIC_1.0", "FABRIC_1.3", "FABRIC_1.8")
    assert chosen(host, image(**{"libfabric.so.1": mpi(provides=older)})) == (set(host), "")
    assert chosen(host, image(**{"libfabric.so.1": mpi(provides=newer)})) == ({"libmpi.so.12"}, "")


def test_components_that_the_image_cannot_load_are_left_out():
    host = {
        "libmpi.so.12": mpi("libucs.so.0"),
        "libucs.so.0": mpi(),
        "ucx/libuct_cma.so.0": mpi("libucs.so.0"),
        "ucx/libuct_ib.so.0": mpi("libibverbs.so.1"),
    }
    choice = mpi_choice.choose(host, image().get)
    assert choice.taken == set(host) - {"ucx/libuct_ib.so.0"}
    assert choice.left_out == {
        "ucx/libuct_ib.so.0": "needs libibverbs.so.1, which the image does not have"
    }


def test_libraries_without_versions_are_compared_by_their_symbols():
    needs = mpi("libhwloc.so.15", undefined=("topology", "newer", "memcpy"))
    host = {"libmpi.so.12": needs, "libhwloc.so.15": mpi(defined=("topology", "newer"))}
    more = image(**{"libhwloc.so.15": mpi(defined=("topology", "newer", "mine"))})
    assert chosen(host, more) == ({"libmpi.so.12"}, "")
    assert chosen(host, image(**{"libhwloc.so.15": mpi(defined=("topology",))})) == (set(host), "")


def test_a_provider_for_the_images_own_libfabric():
    name = "libfabric/libx-fi.so"
    provider = mpi("libfabric.so.1", "libx.so.1", requires={"libfabric.so.1": ["FABRIC_1.5"]})
    host = {name: provider, "libx.so.1": mpi()}

    def choice(libfabric):
        own = {} if libfabric is None else {"libfabric.so.1": mpi(provides=libfabric)}
        return mpi_choice.choose(host, image(**own).get, frozenset((name,)))

    assert choice(("FABRIC_1.5",)).taken == set(host)
    too_old = choice(("FABRIC_1.3",))
    why = "needs FABRIC_1.5 of libfabric.so.1, and the image has it up to FABRIC_1.3"
    assert (too_old.taken, too_old.left_out) == (set(), {name: why})
    assert (choice(None).taken, choice(None).left_out) == (set(), {})
    of_mpi = mpi_choice.choose(host, image(**{"libfabric.so.1": mpi()}).get)  # components of an MPI that is not taken
    assert of_mpi.taken == set()


def test_a_fortran_library_that_stays_the_images():
    fortran = library("libmpich.so.12", undefined=("MPI_Send", "MPII_own", "memcpy"))
    choice = mpi_choice.choose({"libmpi.so.12": mpi()}, image(**{"libmpichfort.so.12": fortran}).get)
    assert choice.taken == {"libmpi.so.12"}
    (line,) = choice.warnings
    assert line.startswith("libmpichfort.so.12 stays the image's, and needs MPII_own, which libmpi.so.12 of this node")


def shared(text: str, path: Path, *words: str) -> None:
    """Compile a shared library."""
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(path), "-xc", "-", "-xnone", *words], input=text.encode(), check=True
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An MPI library that needs one in a directory of its own."""
    (tmp_path / "own").mkdir()
    shared("int other(void) { return 1; }", tmp_path / "own/libother.so.3", "-Wl,-soname,libother.so.3")
    shared(
        "int other(void); int MPI_Init(void) { return other(); }", tmp_path / "libmpi.so.12",
        "-Wl,-soname,libmpi.so.12", str(tmp_path / "own/libother.so.3"), "-Wl,-rpath,$ORIGIN/own",
    )  # fmt: skip
    return tmp_path


def test_what_a_node_has(installed: Path):
    mounts, warnings = host_mpi.find(Site(host_mpi=(str(installed),)), "host")
    found = {mount.target.rpartition("/")[2]: mount.source for mount in mounts}
    assert found["libother.so.3"] == f"{installed}/own/libother.so.3"
    assert found["libmpi.so.12"] == found["libmpich.so.12"] == f"{installed}/libmpi.so.12"
    assert not any(mpi_choice.of_glibc(name) for name in found) and warnings == ()


def test_a_name_alone_is_no_mpi(installed: Path):
    """The file has the name, and another soname."""
    (installed / "libmpi.so.12").unlink()
    shared("int f(void) { return 1; }", installed / "libmpi.so.12", "-Wl,-soname,libmpi.so.40")
    here = Site(host_mpi=(str(installed),))
    with pytest.raises(BollardError, match="this node has no MPI library that bollard knows; the site names"):
        host_mpi.find(here, "host")
    mounts, (line,) = host_mpi.find(here, "auto")
    assert mounts == () and line.endswith("the image's own is used")


def test_a_library_that_the_node_itself_cannot_load(installed: Path):
    (installed / "own/libother.so.3").unlink()
    with pytest.raises(BollardError, match=r"libmpi.so.12 needs libother.so.3, which this node does not have"):
        host_mpi.find(Site(host_mpi=(str(installed),)), "host")


def test_symbols_and_versions_of_a_library(installed: Path):
    with open(installed / "libmpi.so.12", "rb") as file:
        defined, needed = elf.Library(file.fileno()).symbols()
    assert "MPI_Init" in defined and "other" in needed and "other" not in defined
    with open("/proc/self/exe", "rb") as file:
        required = elf.Library(file.fileno()).requirements()
    assert any(version.startswith("GLIBC_2.") for version in required["libc.so.6"])
