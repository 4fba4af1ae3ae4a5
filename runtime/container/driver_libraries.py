# SPDX-License-Identifier: BSD-3-Clause
"""Which libraries of a GPU driver an image gets, once the image can be read.

Three rules, for the mounts of a plan with the condition CAN_LOAD or LACKS:

* A library that needs a newer glibc than the image's is left out. Loaded, it would end the program.
* A library with the condition LACKS is left out if the image has its own.
* CUDA forward compatibility: an image can bring the CUDA driver library of a newer driver. It is used in the place of
  the host's if it is newer and its ELF note names the host's driver (NVIDIA's "CUDA Compatibility"; the note is that of
  its container toolkit). An older library without the note counts if its driver's first number is higher.

Files of the image are opened beneath its root, and their sizes are bounded.
"""

from __future__ import annotations

import os

from bollard.runtime.container import elf, gpu, mounts
from bollard.runtime.request.plan_records import BIND, CAN_LOAD, LACKS, LIBRARIES, OMIT, Mount
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.elf import Version
    from bollard.runtime.container.mounts import Place, Report

COMPAT = "/usr/local/cuda/compat"
_COMPAT_FILES_MAX = 100
_NOTE, _OWNER, _NOTE_MAX = ".note.cuda.fwd_compatibility", "NVIDIA Corporation", 4096
_LIBC = "libc.so.6"
_CACHE, _CACHE_MAX = "/etc/ld.so.cache", 16 << 20
_TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "ppc64le": "powerpc64le-linux-gnu"}


def fitting(root: int, places: list[Place], report: Report) -> list[Place]:
    """Return `places` without the libraries that do not suit the image, plus those of the driver that it brings.

    root    descriptor of the image's root directory
    places  what mounts.clone_sources returned
    report  gets what is left out, and what is taken from the image
    """
    conditional = [place for place in places if place.mount.only in (CAN_LOAD, LACKS)]
    folders = _folders()
    image_libc, host_libc = _libc(root, folders), elf.version((os.confstr("CS_GNU_LIBC_VERSION") or "").split(" ")[-1])
    cache = _read(root, _CACHE, _CACHE_MAX)
    brought = _compatible(root, conditional, report) if image_libc else []
    replaced = {place.mount.target for place in brought}
    too_new: list[str] = []
    out: set[str] = set()
    for place in conditional:
        name, target = os.path.basename(place.mount.target), place.mount.target
        if target in replaced:
            out.add(target)
        elif place.mount.only == LACKS and _has(root, name, cache, folders):
            out.add(target)
            report.left_out.append(f"{target}: the image has its own")
        elif not image_libc:
            if _needs(place):
                out.add(target)
                report.left_out.append(f"{target}: the image has no glibc")
        elif image_libc < host_libc:
            needed = _needs(place)
            if needed > image_libc:
                out.add(target)
                report.left_out.append(f"{target}: needs glibc {_dotted(needed)}, the image has {_dotted(image_libc)}")
                if place.mount.only == CAN_LOAD:  # of the others most images that use them have their own
                    too_new.append(f"{name} ({_dotted(needed)})")
    if too_new:
        report.warnings.append(
            f"the image's glibc (symbols up to {_dotted(image_libc)}) is too old for {', '.join(too_new)} of the GPU "
            "driver; the container starts without; use an image with a newer glibc"
        )
    for place in conditional:
        if place.mount.target in out:
            os.close(place.tree)
    return [place for place in places if place not in conditional or place.mount.target not in out] + brought


def _folders() -> list[str]:
    """Return the directories in which a glibc looks for libraries of this machine."""
    triplet = _TRIPLETS.get(os.uname().machine, "")
    debian = [f"/usr/lib/{triplet}", f"/lib/{triplet}"] if triplet else []
    return [*debian, "/usr/lib64", "/lib64", "/usr/lib", "/lib"]


def _open(root: int, path: str, flags: int = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) -> int:
    """Return a descriptor of a path of the image; -1 if it is missing or of another kind."""
    try:
        return linux.open_in_root(root, path, flags)
    except OSError as error:
        if not linux.is_missing(error):
            raise
        return -1


def _read(root: int, path: str, most: int) -> bytes:
    fd = _open(root, path)
    if fd < 0:
        return b""
    try:
        return os.pread(fd, most, 0)
    except OSError:
        return b""  # a directory or a pipe
    finally:
        os.close(fd)


def _libc(root: int, folders: list[str]) -> Version:
    """Return the highest version of a symbol in the image's glibc; () without a glibc."""
    for folder in folders:
        fd = _open(root, f"{folder}/{_LIBC}")
        if fd >= 0:
            try:
                return elf.Library(fd).defines("GLIBC_")
            finally:
                os.close(fd)
    return ()


def _has(root: int, name: str, cache: bytes, folders: list[str]) -> bool:
    """Return whether the image has a library of this name, where its loader finds it."""
    if cache:
        return b"\0" + os.fsencode(name) + b"\0" in cache
    for folder in folders:
        fd = _open(root, f"{folder}/{name}", os.O_PATH)
        if fd >= 0:
            os.close(fd)
            return True
    return False


def _needs(place: Place) -> Version:
    """Return the glibc that a program or library of the host needs; () for a script, or a static program."""
    fd = os.open(f"/proc/self/fd/{place.tree}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return elf.Library(fd).needs("GLIBC_")
    finally:
        os.close(fd)


def _compatible(root: int, conditional: list[Place], report: Report) -> list[Place]:
    """Return the mounts of the image's own CUDA driver library and its companions, if it is to be used."""
    host = [place.mount.source for place in conditional if place.mount.target == f"{LIBRARIES}/libcuda.so.1"]
    folder = _open(root, COMPAT, os.O_RDONLY | os.O_DIRECTORY) if host else -1
    if folder < 0:
        return []
    try:
        names = os.listdir(folder)[:_COMPAT_FILES_MAX]
    finally:
        os.close(folder)
    libraries = [name for name in names if name.startswith("libcuda.so.") and len(elf.version(name[11:])) > 1]
    driver = os.path.realpath(host[0]).rpartition("libcuda.so.")[2]
    if len(libraries) != 1:
        return []
    fd = _open(root, f"{COMPAT}/{libraries[0]}")
    if fd < 0:
        return []
    try:
        note = elf.Library(fd).note(_NOTE, _OWNER)
    finally:
        os.close(fd)
    if not is_newer(libraries[0][11:], driver, note):
        return []
    report.chosen.append(f"{COMPAT} of the image, CUDA of driver {libraries[0][11:]}: this node's is {driver}")
    return [place for name in gpu.sonames(sorted(names)) for place in _of_image(root, name)]


def is_newer(image: str, host: str, note: bytes) -> bool:
    """Return whether an image's CUDA driver library is to be used in the place of the host's.

    image  the driver version of the image's library: 575.57.08
    host   the driver version of the host
    note   the content of the library's note, JSON; b"" without one
    """
    ours, theirs = elf.version(image), elf.version(host)
    if not ours or not theirs:
        return False
    if not note:
        return ours[0] > theirs[0]
    import json

    try:
        found = {name.lower(): value for name, value in json.loads(note[:_NOTE_MAX]).items()}  # "driver", or "Driver"
        return ours > theirs and theirs[0] in found["driver"]
    except (ValueError, AttributeError, KeyError, TypeError):
        return False  # a note of another form: the host's library is what the node's driver certainly runs


def _of_image(root: int, name: str) -> list[Place]:
    """Return the mount of a library of the image's COMPAT, [] if it is no file."""
    fd = _open(root, f"{COMPAT}/{name}", os.O_PATH)
    if fd < 0:
        return []
    try:
        if mounts.is_directory(fd):
            return []
        tree = linux.clone_tree_at(fd)
    finally:
        os.close(fd)
    mount = Mount(BIND, f"{COMPAT}/{name} of the image", f"{LIBRARIES}/{name}", read_only=True, if_missing=OMIT)
    linux.set_mount_flags(tree, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    return [mounts.Place(mount, tree, False)]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
