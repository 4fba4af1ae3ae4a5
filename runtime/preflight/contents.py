# SPDX-License-Identifier: BSD-3-Clause
"""Read what an image has for MPI: its C library, CPU level, MPI libraries, PMI libraries and fabrics.

Nothing of the image is executed. Files are opened beneath its root, and every size is bounded. srun waits for this at
the first step of an image, so `re` and `json` are not imported: they would be a third of the time. The answer is plain
data:

    {"libc": "glibc", "libc_version": "2.36", "cpu": 1,
     "mpi": [{"name": "MPICH", "version": "4.0.2", "soname": "libmpich.so.12", "path": "...", "marks": ["pmix"]}],
     "libraries": {"libpmix.so.2": "/usr/lib/..."}, "programs": {"ring": {"path": "...", "family": "pmi2", "cpu": 1}}}
"""

from __future__ import annotations

import os

from bollard.runtime.container import elf
from bollard.runtime.container.image_libraries import MUSL, PLACES_MAX, Root, elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Contents = dict[str, Any]

# MPI libraries by soname: of MPICH and its ABI, of Cray, of Open MPI since 1.7, of the MPI 5 standard.
MPI = (
    *("libmpich.so.12", "libmpi.so.12", "libmpi_cray.so.12", "libmpi_gnu_91.so.12"),
    *("libmpi.so.40", "libmpi.so.20", "libmpi_abi.so.1"),
)
# Wire-up and fabric libraries that the report names.
OTHERS = ("libpmix.so.2", "libpmi2.so.0", "libpmi.so.0", "libfabric.so.1", "libucp.so.0")
_VERSION_MAX = 16  # bytes
# Open MPI's series by the number in the name of the library's file, where its text has no version.
_OPEN_MPI_SERIES = {"10": "3.0", "20": "4.0", "30": "4.1", "40": "5.0", "50": "6.0"}


def read(fd: int, program: str = "") -> Contents:
    """Return what the image has for MPI.

    fd       its root directory
    program  a program of the image, as a task names it, to look at too; "" for none
    """
    root = Root(fd)
    libc, version, level = _libc(root)
    found: Contents = {"libc": libc, "libc_version": version, "cpu": level, "mpi": [], "libraries": {}, "programs": {}}
    more: list[str] = []
    if program:
        found["programs"][program], more = _program(root, program)
    seen = set()
    for soname in MPI:
        path, library = root.library(soname, more)
        if library < 0:
            path, library = elsewhere(root, soname)
        if library < 0:
            continue
        info = os.fstat(library)
        # libmpi.so.12 and libmpich.so.12 may be one file. The name of the standard's ABI counts for itself.
        key = (info.st_dev, info.st_ino, soname == "libmpi_abi.so.1")
        if key not in seen:
            seen.add(key)
            found["mpi"].append(_mpi(root, soname, path, library))
        os.close(library)
    for name in OTHERS:
        path, library = root.library(name, more)
        if library >= 0:
            found["libraries"][name] = path
            if name == "libfabric.so.1":
                found["fabric"] = ".".join(map(str, elf.Library(library).defines("FABRIC_")))
            os.close(library)
    found["cpu"] = max([level, *(mpi["cpu"] for mpi in found["mpi"])])
    return found


def family(needed: list[str]) -> str:
    """Return the wire-up family of a program by the libraries that it names.

    "pmi2" for the MPICH ABI, "pmix" for Open MPI, "abi" for the ABI of the MPI standard, "" without an MPI library.
    spank_plugin/program.c has the same rule.
    """
    for name in needed:
        if name.startswith("libmpi_abi.so."):
            return "abi"
        own = name.startswith(("libmpi.", "libmpi_"))
        if name.startswith("libmpich") or (own and name.endswith(".so.12")):
            return "pmi2"
        if name.startswith("libopen-") or (own and ".so." in name):
            return "pmix"
    return ""


def _libc(root: Root) -> tuple[str, str, int]:
    """Return kind, version and CPU level of the image's C library; ("none", "", 0) without one."""
    path, fd = root.library("libc.so.6", [])
    if path:
        library = elf.Library(fd)
        _, _, told = library.constants().partition(b"release version ")
        version = told[:_VERSION_MAX].split(b"\n")[0].rstrip(b".").decode("ascii", "replace")
        if not elf.version(version):
            version = ".".join(map(str, library.defines("GLIBC_")))
        level = library.cpu_level()
        os.close(fd)
        return "glibc", version, level
    machine = MUSL.get(os.uname().machine, os.uname().machine)
    for folder in ("/lib", "/usr/lib", f"/usr/lib/{machine}-linux-musl"):
        fd = root.open(f"{folder}/ld-musl-{machine}.so.1")
        if fd >= 0:
            library = elf.Library(fd)
            version = _version(library.constants(), (b"1.",), 3)
            level = library.cpu_level()
            os.close(fd)
            return "musl", version, level
    return "none", "", 0


def _mpi(root: Root, soname: str, path: str, fd: int) -> dict[str, Any]:
    """Return the description of an MPI library. Its marks say which PMI it has: wireup.py reads them."""
    library = elf.Library(fd)
    text, needed = library.constants(), library.needed()
    file = root.real(fd)
    name, version = _name(text, file)
    marks = ["pmix"] if any(word.startswith("libpmix.so") for word in needed) else []
    if b"unsupported PMI version" in text:
        marks.append("refuses")  # MPICH ends the program if it finds a PMI that it does not know
    if name == "Intel MPI" and root.variables["I_MPI_PMI_LIBRARY"]:
        marks.append("library")
    if name == "Intel MPI" and _has(root, "libpmix.so"):  # it loads the library by this name
        marks.append("pmix")
    if name == "Open MPI":
        folder = os.path.dirname(path)
        components = root.names(f"{folder}/openmpi") or root.names(f"{folder}/openmpi/lib/openmpi")
        if {"mca_pmix_s2.so", "mca_pmix_s1.so"}.intersection(components) or "libpmi2.so.0" in needed:
            marks.append("pmi2")
    return {
        "name": name, "version": version, "soname": soname, "path": path, "marks": marks, "cpu": library.cpu_level(),
    }  # fmt: skip


def _has(root: Root, soname: str) -> bool:
    _, fd = root.library(soname, [])
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def _name(text: bytes, file: str) -> tuple[str, str]:
    """Return name and version of an MPI library.

    text  its section .rodata
    file  the name of its file: libmpi.so.40.30.4
    """
    if b"Open MPI v" in text:
        series = file.partition(".so.40.")[2].partition(".")[0]
        version = _version(text, tuple(b"%d." % number for number in range(1, 10)), 3)
        return "Open MPI", version or _OPEN_MPI_SERIES.get(series, "")
    if b"Intel(R) MPI Library" in text:
        return "Intel MPI", _version(text, (b"20",), 2)
    name = "MVAPICH" if b"MVAPICH" in text else "Cray MPICH" if b"CRAY MPICH" in text else "MPICH"
    return name, _mpich_version(text)


def _version(text: bytes, begins: tuple[bytes, ...], parts: int) -> str:
    """Return the first text of a library that is a version, and nothing else; "" for none.

    text    its section .rodata
    begins  what the version may begin with
    parts   how many numbers it has at least
    """
    found = []
    for begin in begins:
        at = text.find(b"\0" + begin)
        while at >= 0:
            version = _as_version(text, at + 1)
            if version.count(".") + 1 >= parts:
                found.append((at, version))
                break
            at = text.find(b"\0" + begin, at + 1)
    return min(found)[1] if found else ""


def _mpich_version(text: bytes) -> str:
    """Return MPICH's version: the text that follows the date of its release ("... CDT 2022")."""
    at = text.find(b" 20")
    while at >= 0:
        year = text[at + 1 : at + 6]
        if year[:4].isdigit() and year[4:] == b"\0":
            begin = at + 5
            while text[begin : begin + 1] == b"\0":
                begin += 1
            version = _as_version(text, begin)
            if "." in version:
                return version
        at = text.find(b" 20", at + 1)
    return ""


def _as_version(text: bytes, at: int) -> str:
    """Return the text that begins at byte `at` and ends with NUL, if it can be a version: 4.0.2, 6.0.0rc2; else ""."""
    word = text[at : at + _VERSION_MAX].split(b"\0")[0].decode("ascii", "replace")
    plain = word.isascii() and word.replace(".", "").isalnum() and word[:1].isdigit()
    return word if plain and len(word) < _VERSION_MAX and ".." not in word and not word.endswith(".") else ""


def _program(root: Root, word: str) -> tuple[dict[str, Any], list[str]]:
    """Return what a program of the image needs, and its directories of libraries (DT_RUNPATH)."""
    paths = [word] if word.startswith("/") else [f"{place}/{word}" for place in root.search] if "/" not in word else []
    for path in paths:
        fd = root.open(path)
        if fd < 0:
            continue
        library = elf.Library(fd)
        found = {"path": path, "family": family(library.needed()), "cpu": library.cpu_level()}
        places = list(dict.fromkeys(place.replace("${ORIGIN}", "$ORIGIN") for place in library.run_path()))
        folder = os.path.dirname(path)
        os.close(fd)
        return found, [os.path.normpath(place.replace("$ORIGIN", folder)) for place in places[:PLACES_MAX]]
    return {"path": "", "family": "", "cpu": 0}, []
