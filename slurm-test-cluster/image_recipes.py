# SPDX-License-Identifier: BSD-3-Clause
"""What is in each test image: plain data, one row per kind, with the differences between suites.

A kind is a list of Debian packages on top of the smallest system debootstrap makes, and a list of C programs
from ``tests/programs`` to compile with both MPI libraries.
"""

from __future__ import annotations

# The Debian suites bollard is tested with; each brings its own MPI libraries, glibc and Python.
SUITES = ("bullseye", "bookworm", "trixie", "sid")
# Signed for a week only: a mirror that lags behind, or a wrong clock, is no reason to fail. Signatures count.
MOVING = ("sid",)

# What `hello` needs when a wire-up library of the image is to be used: cffi in ABI mode, no compiler.
_PYTHON = ("python3", "python3-cffi")

# A nested srun: the command, and the munge plugin's library. munged itself stays on the host.
_SLURM = ("slurm-client", "libmunge2", "libpmi2-0")

_MPI = ("openmpi-bin", "libopenmpi-dev", "mpich", "libmpich-dev", "gcc", "libc6-dev")

KINDS: dict[str, tuple[str, ...]] = {
    "small": (),
    "python": _PYTHON,
    "mpi": _MPI + _SLURM + _PYTHON,
}

# (suite, package) -> the name it has there, or "" to leave it out.
RENAMED: dict[tuple[str, str], str] = {}

# Compiled programs end up as /opt/mpi/{ompi,mpich}_{ring,cma,pingpong}.
PROGRAM_DIRECTORY = "opt/mpi"
PROGRAMS = ("mpi_ring.c", "mpi_cma.c", "mpi_pingpong.c")
COMPILERS = {"ompi": "mpicc.openmpi", "mpich": "mpicc.mpich"}
COMPILER_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")

# Not installed by dpkg, and removed where debootstrap had put them already. Copyright files stay.
UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
DPKG_EXCLUDE = "".join(f"path-exclude=/{path}/*\n" for path in UNWANTED) + ("path-include=/usr/share/doc/*/copyright\n")

# Emptied, as the places where a container shows the host's own.
EMPTIED = ("etc/hosts", "etc/hostname", "etc/resolv.conf")

# Left over from building, as glob patterns below the tree. Static MPI libraries and the compilers of other
# languages, which come with the MPI packages, would be a third of the image.
LEFTOVERS = (
    "var/lib/apt/lists/*",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/log/*.log",
    "var/log/apt",
    "dev/*",
    "usr/sbin/policy-rc.d",
    "usr/lib/*/libmpich*.a",
    "usr/lib/*/mpich/lib/*.a",
    "usr/lib/*/openmpi/lib/*.a",
    "usr/lib*/gcc/*/*/cc1plus",
    "usr/lib*/gcc/*/*/f951",
    "usr/lib*/gcc/*/*/lto1",
    "usr/bin/*lto-dump*",
)


def packages(suite: str, kind: str) -> list[str]:
    """The packages of a kind under the names they have in a suite."""
    names = (RENAMED.get((suite, name), name) for name in KINDS[kind])
    return [name for name in names if name]
