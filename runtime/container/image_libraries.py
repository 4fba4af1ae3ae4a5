# SPDX-License-Identifier: BSD-3-Clause
"""The libraries of an image, as the image's own loader finds them. Nothing of the image is executed.

Files are opened beneath the image's root, and every size is bounded.
"""

from __future__ import annotations

import os

from bollard.runtime.constants import DEFAULT_PATH
from bollard.runtime.container import loader_cache
from bollard.runtime.system import linux

# Where MPI libraries are that a loader does not know. `*` stands for any name.
MPI_PLACES = (
    *("/usr/local/lib", "/usr/local/lib64", "/usr/lib64/openmpi/lib"),
    *("/usr/lib64/mpich/lib", "/usr/lib64/mpi/gcc/*/lib64"),
    *("/opt/*/lib", "/opt/*/lib64", "/opt/intel/oneapi/mpi/*/lib", "/opt/intel/oneapi/mpi/*/lib/release"),
)
PLACES_MAX = 100  # directories of one variable, and of a program's DT_RUNPATH
# Machines by the names that Debian's directories and musl's loader have.
MUSL = {"x86_64": "x86_64", "aarch64": "aarch64", "ppc64le": "powerpc64le"}
_FILE_MAX = 1 << 20  # bytes of a script in .singularity.d/env
_NAMES_MAX = 1000  # names of a directory
_SCRIPTS_MAX = 64  # of .singularity.d/env, as image_scripts.SCRIPTS_MAX


class Root:
    """The root of an image, open as a directory. Paths are resolved beneath it."""

    __slots__ = ("_fd", "_folders", "_known", "_others", "search", "variables")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._folders: list[str] | None = None
        self._others: list[str] | None = None
        self._known = self._loader_cache()
        self.variables = self._variables()
        self.search = self.variables["PATH"] or DEFAULT_PATH.split(":")

    def open(self, path: str) -> int:
        """Return a descriptor of a file; -1 if it is missing, unreadable, or no regular file."""
        try:
            fd = linux.open_in_root(self._fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return -1  # missing, or it may not be read: the report has less then
        if os.fstat(fd).st_mode & 0o170000 == 0o100000:
            return fd
        os.close(fd)
        return -1

    def names(self, path: str) -> list[str]:
        """Return the first _NAMES_MAX names in a directory, sorted; [] if it is missing or cannot be read."""
        try:
            fd = linux.open_in_root(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []  # most images lack most of these directories
        try:
            return sorted(os.listdir(fd))[:_NAMES_MAX]
        finally:
            os.close(fd)

    def real(self, fd: int) -> str:
        """Return the last part of the path that a descriptor has, without links."""
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))

    def library(self, soname: str, more: list[str]) -> tuple[str, int]:
        """Return path and descriptor of a library, as the image's loader finds it; ("", -1) for none.

        soname  its name
        more    directories that come first
        """
        places = [*more, *self.variables["LD_LIBRARY_PATH"]]
        paths = [f"{place}/{soname}" for place in places]
        paths += [self._known[soname]] if soname in self._known else []
        if self._folders is None:
            self._folders = self._existing(folders())
        paths += [f"{place}/{soname}" for place in self._folders]
        for path in paths:
            fd = self.open(path)
            if fd >= 0:
                return path, fd
        return "", -1

    def others(self) -> list[str]:
        """Return the directories of MPI_PLACES that the image has."""
        if self._others is None:
            places = []
            for place in MPI_PLACES:
                before, star, after = place.partition("*")
                places += [before + name + after for name in self.names(before)] if star else [place]
            self._others = self._existing(places)
        return self._others

    def _existing(self, places: list[str]) -> list[str]:
        """Return those of the directories that the image has: each library of MPI is looked for in them."""
        found = []
        for place in places:
            try:
                os.close(linux.open_in_root(self._fd, place, os.O_PATH | os.O_DIRECTORY))
            except OSError:
                continue  # most images lack most of them
            found.append(place)
        return found

    def _loader_cache(self) -> dict[str, str]:
        fd = self.open(loader_cache.PATH)
        if fd < 0:
            return {}
        try:
            data = os.pread(fd, loader_cache.SIZE_MAX, 0)
            return loader_cache.libraries(data, os.uname().machine)
        except (ValueError, OSError):
            return {}  # damaged: the image's loader then looks in the usual directories, and so do we
        finally:
            os.close(fd)

    def _variables(self) -> dict[str, list[str]]:
        """Return the directories that the image's scripts of .singularity.d/env put into variables, each once."""
        found: dict[str, dict[str, None]] = {"PATH": {}, "LD_LIBRARY_PATH": {}, "I_MPI_PMI_LIBRARY": {}}
        names = [name for name in self.names("/.singularity.d/env") if name.endswith(".sh")]
        for name in names[:_SCRIPTS_MAX]:  # an image with more scripts does not start
            fd = self.open(f"/.singularity.d/env/{name}")
            if fd < 0:
                continue
            for line in os.pread(fd, _FILE_MAX, 0).decode("utf-8", "surrogateescape").splitlines():
                variable, _, value = line.strip().removeprefix("export ").partition("=")
                words = value.split(";")[0].strip(" \"'").split(":") if variable in found else []
                places = found.get(variable, {})
                for word in words:
                    if word.startswith("/") and "$" not in word and len(places) < PLACES_MAX:
                        places[word] = None
            os.close(fd)
        return {variable: list(places) for variable, places in found.items()}


def folders() -> list[str]:
    """Return the directories in which a loader of this machine looks for libraries without being told."""
    triplet = f"{MUSL.get(os.uname().machine, os.uname().machine)}-linux-gnu"
    return [f"/usr/lib/{triplet}", f"/lib/{triplet}", "/usr/lib64", "/lib64", "/usr/lib", "/lib"]


def elsewhere(root: Root, soname: str) -> tuple[str, int]:
    """Return path and descriptor of an MPI library that the image's loader does not know; ("", -1) for none."""
    for folder in root.others():
        fd = root.open(f"{folder}/{soname}")
        if fd >= 0:
            return f"{folder}/{soname}", fd
    return "", -1
