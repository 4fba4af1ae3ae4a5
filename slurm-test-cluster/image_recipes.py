# SPDX-License-Identifier: BSD-3-Clause
"""The content of each test image: plain data, one row for each kind, with the differences between suites.

A kind is a list of Debian packages, which are added to debootstrap's minimal system. An image with compilers also gets
C programs from ``tests/programs``, compiled with both MPI libraries.
"""

from __future__ import annotations

# The Debian suites that bollard is tested with. Each has other versions of MPI, glibc and Python.
SUITES = ("bullseye", "bookworm", "trixie", "sid")
# Suites whose index expires after a week. The expiry is ignored, because a mirror can be older or a clock wrong. The
# signature is checked.
MOVING = ("sid",)

# Needed by `bollard.mpi.hello` to call libpmix or libpmi2: cffi in ABI mode, without a compiler.
_PYTHON = ("python3", "python3-cffi")

# Needed for a nested srun: the command, and the library of the munge plugin. munged runs on the host.
_SLURM = ("slurm-client", "libmunge2", "libpmi2-0")

_MPI = ("openmpi-bin", "libopenmpi-dev", "mpich", "libmpich-dev", "gcc", "libc6-dev")

KINDS: dict[str, tuple[str, ...]] = {
    "small": (),
    "python": _PYTHON,
    "ssh": ("openssh-server", "openssh-client"),
    "mpi": _MPI + _SLURM + _PYTHON,
}

# (suite, package) -> the name of the package in this suite, or "" to leave it out.
RENAMED: dict[tuple[str, str], str] = {}

# The compiled programs are /opt/mpi/{ompi,mpich}_{ring,cma,pingpong}.
PROGRAM_DIRECTORY = "opt/mpi"
PROGRAMS = ("mpi_ring.c", "mpi_cma.c", "mpi_pingpong.c")
COMPILERS = {"ompi": "mpicc.openmpi", "mpich": "mpicc.mpich"}
COMPILER_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")

# dpkg does not install these, and they are removed if debootstrap has installed them. Copyright files are kept.
UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
DPKG_EXCLUDE = "".join(f"path-exclude=/{path}/*\n" for path in UNWANTED) + ("path-include=/usr/share/doc/*/copyright\n")

# These files are emptied: a container mounts the host's files over them.
EMPTIED = ("etc/hosts", "etc/hostname", "etc/resolv.conf")

# Removed after the build, as glob patterns below the tree. Static MPI libraries and compilers of other languages come
# with the MPI packages and would be a third of the image.
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
    """Return the packages of a kind, with their names in the suite."""
    names = (RENAMED.get((suite, name), name) for name in KINDS[kind])
    return [name for name in names if name]
