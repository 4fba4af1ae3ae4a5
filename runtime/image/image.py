# SPDX-License-Identifier: BSD-3-Clause
"""Open the image that a user named: a SIF file, a bare squashfs file or a directory.

The file is opened once. The keeper mounts it through the same file descriptor, so the mounted file is the checked one.
This module runs on every node of every job. It imports only modules that `os` has loaded already; a module that only an
error message needs is imported when the error occurs.
The message of every error begins with the path as the user wrote it.
"""

from __future__ import annotations

import os
import stat  # `os` has loaded it already

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

    from bollard.runtime.image import oci_sif

SQUASHFS: Final = "squashfs"
DIRECTORY: Final = "directory"

SQUASHFS_MAGIC: Final = b"hsqs"
_LAUNCH_SIZE: Final = 31  # bytes: the line "#!..." that Singularity 2.4 to 2.6 writes before the squashfs
_LAUNCH_MAX: Final = 128  # bytes of such a line that somebody else has written
_SUPERBLOCK_SIZE: Final = 96
_COMPRESSIONS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_SNIFF_SIZE: Final = 2048  # reaches ext3's magic number at 1080

_FILE_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

# A directory that has none of these names is not a root filesystem.
_ROOT_NAMES: Final = {"bin", "dev", "etc", "lib", "opt", "proc", "sbin", "usr", ".singularity.d"}

# Other architectures whose programs the kernel runs on that machine.
_COMPATIBLE: Final = {"amd64": ("386",), "arm64": ("arm",), "mips64": ("mips",), "mips64le": ("mipsle",)}

_ELF: Final = b"\x7fELF"
_TRANSPORTS: Final = ("docker-archive", "docker-daemon", "oci", "oci-archive", "containers-storage")

# Hints for a file that is not an image: offset, the bytes at this offset, hint. The first match is used.
_LOOKS_LIKE: Final = (
    (31 + 1080, b"\x53\xef", "is it an ext3 image of Singularity 2? convert it with `apptainer build NEW.sif IMAGE`"),
    (0, b"#!/usr/bin/env run-singularity", "it was a SIF file; copy or build it again"),
    (0, b"#!", "is it a script?"),
    (0, _ELF, "is it a program? name the image first, then the program"),
    (0, b"sqsh", "is it a big-endian squashfs of the 2000s? build it again"),
    (0, b"\x1f\x8b", "is it a gzip archive? convert it to a SIF file first"),
    (0, b"\x28\xb5\x2f\xfd", "is it a zstd archive? convert it to a SIF file first"),
    (0, b"\xfd7zXZ\0", "is it an xz archive? convert it to a SIF file first"),
    (0, b"BZh", "is it a bzip2 archive? convert it to a SIF file first"),
    (257, b"ustar", "is it a docker or OCI archive? convert it to a SIF file first"),
    (0, b"LUKS\xba\xbe", "is it an encrypted disk? only root could open it"),
    (1080, b"\x53\xef", "is it an ext3 image? convert it with `apptainer build NEW.sif IMAGE`"),
    (1024, b"\xe2\xe1\xf5\xe0", "is it an EROFS image? build it again as a SIF file"),
    (0, b"version https://git-lfs", "is it a Git LFS pointer? fetch the file with `git lfs pull`"),
    (0, b"<!DOCTYPE", "is it a web page? download the image again"),
    (0, b"<html", "is it a web page? download the image again"),
    (0, b"Bootstrap:", "is it a definition file? build an image from it first"),
    (0, b"bootstrap:", "is it a definition file? build an image from it first"),
)


class Image:
    """An opened image.

    fd: file descriptor, open for reading and close-on-exec. The owner of the Image closes it.
    kind: SQUASHFS or DIRECTORY.
    offset, size: the place of the squashfs in the file, in bytes; 0 for a directory.
    compression: name of the squashfs compression ("zstd"); "" for a directory.
    arch: Go's name of the architecture ("amd64"); None if the image does not name one.
    overlays: the overlay partitions of a SIF file, or the ext3 layer of an OCI-SIF file.
    encrypted: the squashfs holds a directory of gocryptfs, and its one file is the root filesystem, encrypted.
    oci: the content of an OCI-SIF file, else None. Its lowest layer is at `offset`.
    identity: (st_ino, st_size, st_mtime_ns). It is equal on all nodes that see the same shared file.
    """

    __slots__ = (
        "_sif", "arch", "compression", "encrypted", "fd", "identity", "kind", "oci", "offset", "overlays", "path",
        "size",
    )  # fmt: skip

    def __init__(self, path: str, fd: int, kind: str, identity: tuple[int, int, int]) -> None:
        self.path = path
        self.fd = fd
        self.kind = kind
        self.identity = identity
        self.offset = 0
        self.size = 0
        self.compression = ""
        self.arch: str | None = None
        self.overlays: list[sif.Descriptor | oci_sif.Layer] = []
        self.encrypted = False
        self.oci: oci_sif.Contents | None = None
        self._sif: sif.Sif | None = None

    @property
    def is_sif(self) -> bool:
        """Whether the image is a SIF file."""
        return self._sif is not None

    @property
    def descriptors(self) -> sif.Sif | None:
        """The header and the descriptors of a SIF file as they were when it was opened; None for other images."""
        return self._sif

    def metadata(self) -> bytes | None:
        """Return the JSON text for `inspect` (labels, environment, runscript); None if the file has no such object.

        Raises:
            BollardError: the text has more than 16 MiB, or the file cannot be read.
        """
        return sif.metadata(self.fd, self._sif) if self._sif else None

    def wrapped_key(self) -> bytes:
        """Return the message that holds the key of an encrypted image; b"" for an image with a passphrase.

        Raises:
            BollardError: the message is too large or of an unknown form, or the file cannot be read.
        """
        return sif.wrapped_key(self.fd, self._sif) if self._sif else b""

    def digest(self) -> str:
        """Return the SHA-256 that the image file records for its filesystem; "" if it records none.

        For an OCI-SIF file it is that of the manifest, which names the layers.

        Raises:
            BollardError: the file cannot be read.
        """
        if self.oci:
            return self.oci.digest.partition(":")[2]
        return sif.digest(self.fd, self._sif) if self._sif else ""

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.fd)


def open_image(path: str, machine: str = "", encrypted: bool = False) -> Image:
    """Open and check the image at `path`.

    machine: the node's `uname -m`; "" accepts every architecture.
    encrypted: accept an encrypted image too. The caller does not read its filesystem, or has the key.

    Raises:
        BollardError: `path` cannot be opened, is not an image, is damaged, or has another architecture.
    """
    name = shown(path)
    fd = _open(path, name, os.O_RDONLY)
    try:
        return _identify(path, name, fd, machine, encrypted)
    except BaseException:
        os.close(fd)
        raise


def open_sif(path: str, writable: bool = False) -> tuple[int, sif.Sif]:
    """Open the SIF file at `path`; return its file descriptor and its header with the descriptors.

    The content and the architecture are not checked.

    Raises:
        BollardError: `path` cannot be opened, is not a SIF file, or is damaged.
    """
    name = shown(path)
    if writable and os.access(path, os.R_OK) and not os.access(path, os.W_OK):
        raise BollardError(f"{name}: you may read it, but not change it", "copy it to a place of your own")
    fd = _open(path, name, os.O_RDWR if writable else os.O_RDONLY)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            what = _FILE_KINDS.get(stat.S_IFMT(info.st_mode), "not a regular file")
            raise BollardError(f"{name}: is {what}", "name a SIF file")
        first = sif.pread(fd, min(info.st_size, _SNIFF_SIZE), 0, name)
        if not sif.is_sif(first):
            squashfs = squashfs_offset(first) >= 0
            hint = f"it is squashfs without SIF; `bollard build NEW.sif {name}` makes one" if squashfs else guess(first)
            if first.startswith(_ELF):  # the hint is for a program in the place of the image
                hint = "name another file"
            raise BollardError(f"{name}: not a SIF image", hint)
        return fd, sif.read(fd, info.st_size, name)
    except BaseException:
        os.close(fd)
        raise


def _open(path: str, name: str, flags: int) -> int:
    refuse_uri(path, name)
    try:
        # O_NONBLOCK: open(2) of a pipe would wait for a writer, and the job would hang.
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise _open_error(path, name, error) from error


def shown(path: str) -> str:
    """Return the path for a message of one line: unprintable characters are escaped."""
    return path if path.isprintable() else ascii(path)[1:-1]


def _identify(path: str, name: str, fd: int, machine: str, encrypted: bool) -> Image:
    info = os.fstat(fd)
    kind = stat.S_IFMT(info.st_mode)
    identity = (info.st_ino, info.st_size, info.st_mtime_ns)
    if kind == stat.S_IFDIR:
        _refuse_other_directories(name, fd)
        return Image(path, fd, DIRECTORY, identity)
    if kind != stat.S_IFREG:
        what = _FILE_KINDS.get(kind, "not a regular file")
        raise BollardError(f"{name}: is {what}", "name a SIF file, a squashfs file or a directory")
    if info.st_size == 0:
        raise BollardError(f"{name}: is empty (0 bytes)", "copy or build it again")

    image = Image(path, fd, SQUASHFS, identity)
    first = sif.pread(fd, min(info.st_size, _SNIFF_SIZE), 0, name)
    if sif.is_sif(first):
        image._sif = sif.read(fd, info.st_size, name)
        if sif.is_oci(image._sif):
            return _identify_oci(image, name, machine)
        part = sif.primary(image._sif, encrypted)
        image.encrypted = part.fstype == sif.FS_GOCRYPTFS
        image.offset, image.size = part.offset, part.size
        image.overlays += sif.overlays(image._sif)
        image.arch = part.arch or image._sif.header.arch
        _check_arch(name, image.arch, machine)
    elif squashfs_offset(first) >= 0:
        image.offset = squashfs_offset(first)
        image.size = info.st_size - image.offset
    else:
        raise BollardError(f"{name}: not a SIF or squashfs image (first bytes: {_quoted(first[:4])})", guess(first))
    image.compression = check_superblock(name, fd, image.offset, image.size)
    return image


def _identify_oci(image: Image, name: str, machine: str) -> Image:
    """Fill in the properties of an OCI-SIF file."""
    from bollard.runtime.image import oci_sif

    assert image._sif
    image.oci = oci_sif.read(image.fd, image._sif)
    image.arch = image.oci.arch
    _check_arch(name, image.arch, machine)
    for layer in reversed(image.oci.layers):  # the lowest last: its place and compression are the image's
        image.offset, image.size = layer.offset, layer.size
        image.compression = check_superblock(name, image.fd, layer.offset, layer.size)
    if image.oci.writable:
        image.overlays.append(image.oci.writable)
    return image


def squashfs_offset(first: bytes) -> int:
    """Return the offset of the squashfs in a file that is not a SIF file, in bytes; -1 if it has none.

    `first` are the first bytes of the file, at least 132. Before the squashfs, a line may name the program that starts
    the image.
    """
    if first.startswith(SQUASHFS_MAGIC):
        return 0
    if first.startswith(b"#!"):
        for offset in (_LAUNCH_SIZE, first.find(b"\n", 0, _LAUNCH_MAX) + 1):
            if first.startswith(SQUASHFS_MAGIC, offset):
                return offset
    return -1


def is_root(names: Iterable[str]) -> bool:
    """Return whether a directory with these names can be the root of a container."""
    return bool(_ROOT_NAMES.intersection(names))


def check_superblock(name: str, fd: int, offset: int, available: int) -> str:
    """Check the superblock of a squashfs (96 bytes, version 4.0); return the name of its compression.

    name: the image's path for messages.
    fd: the image file, open for reading.
    offset, available: where the squashfs begins, and how many bytes the file has from there.

    Raises:
        BollardError: the superblock is damaged or not supported, or the file is truncated.
    """
    if available < _SUPERBLOCK_SIZE:
        raise sif.truncated(name, available, _SUPERBLOCK_SIZE)
    raw = sif.pread(fd, _SUPERBLOCK_SIZE, offset, name)

    def number(at: int, length: int) -> int:
        return int.from_bytes(raw[at : at + length], "little")

    if not raw.startswith(SQUASHFS_MAGIC):
        found = _quoted(raw[:4])
        raise BollardError(
            f"{name}: damaged: no squashfs in its system partition (found {found})", "copy or build it again"
        )
    version = (number(28, 2), number(30, 2))
    if version != (4, 0):
        raise BollardError(f"{name}: squashfs version {version[0]}.{version[1]} is not supported", "build it again")
    compression = _COMPRESSIONS.get(number(20, 2))
    if compression is None:
        what = f"squashfs compression number {number(20, 2)}"
        raise BollardError(f"{name}: {what} is not supported", "build it again with zstd or gzip")
    used = number(40, 8)
    if used > available:
        raise sif.truncated(name, available, used)
    block_size = number(12, 4)
    starts = (number(48, 8), number(64, 8), number(72, 8))  # the id, inode and directory tables
    if not 4096 <= block_size <= 1 << 20 or block_size != 1 << min(number(22, 2), 20) or max(starts) >= used:
        raise BollardError(f"{name}: damaged: its squashfs superblock contradicts itself", "copy or build it again")
    return compression


def _check_arch(name: str, arch: str | None, machine: str) -> None:
    here = sif.arch_name(machine)
    if arch is None or not here or arch == here or arch in _COMPATIBLE.get(here, ()):
        return
    raise BollardError(f"{name}: built for {arch}, this node is {here}", f"build or pull it for {here}")


def refuse_uri(path: str, name: str) -> None:
    """Refuse a `path` that is not the path of a file; `name` is the path for messages.

    Raises:
        BollardError: `path` is empty, holds a NUL byte, or names an image in a registry or another remote place.
    """
    if not path:
        raise BollardError("no image named", "name a SIF file, a squashfs file or a directory")
    if "\0" in path:
        raise BollardError(f"{name}: a path cannot hold a NUL byte", "check the file name")
    if is_uri(path):
        raise BollardError(
            f"{name}: is not a file, and is not fetched here",
            f"run `bollard pull {name}`, and name the file that it writes",
        )


def is_uri(path: str) -> bool:
    """Return whether `path` is a URI of an image, such as `docker://NAME`, and not a path."""
    scheme, colon, rest = path.partition(":")
    return bool(colon) and "/" not in scheme and (rest.startswith("//") or scheme in _TRANSPORTS)


def _refuse_other_directories(name: str, fd: int) -> None:
    """Refuse a directory that is not the root filesystem of a container, such as an OCI bundle."""
    names = set(os.listdir(fd))
    if not names:
        raise BollardError(f"{name}: is an empty directory", "name the root of a container")
    if {"config.json", "rootfs"} <= names:
        raise BollardError(f"{name}: is an OCI bundle", f"name the directory {name.rstrip('/')}/rootfs")
    if {"oci-layout", "index.json"} <= names:
        raise BollardError(f"{name}: is an OCI layout", "convert it to a SIF file first")
    if not is_root(names):
        raise BollardError(
            f"{name}: is a directory, but not the root of a container", "name an image file, or its root"
        )


def guess(first: bytes) -> str:
    """Return a hint for a file that is no image; `first` are its first bytes."""
    for at, magic, hint in _LOOKS_LIKE:
        if first[at : at + len(magic)] == magic:
            return hint
    if not first.strip(b"\0"):
        return "it begins with zeros; copy or build it again"
    return "check the file name"


def _quoted(raw: bytes) -> str:
    """Return the bytes between double quotes; unprintable bytes are escaped."""
    return '"' + repr(raw)[2:-1].replace('"', '\\"') + '"'


def _open_error(path: str, name: str, error: OSError) -> BollardError:
    """Return the error for a failed open(2). It names the missing directory, or the owner of the file."""
    import errno

    if error.errno == errno.ENOENT:
        return _missing(path, name)
    if error.errno == errno.EACCES or (error.errno == errno.EPERM and not os.access(path, os.R_OK)):
        return _forbidden(path, name)
    if error.errno == errno.EISDIR:
        return BollardError(f"{name}: is a directory", "name a SIF file")
    if error.errno == errno.ENOTDIR:
        return BollardError(f"{name}: a part of this path is not a directory", "check the path")
    if error.errno == errno.ELOOP:
        return BollardError(f"{name}: its symbolic links form a loop", "check where they point with `ls -l`")
    if error.errno == errno.ENXIO:
        return BollardError(
            f"{name}: is a socket or device without a driver",
            "name a SIF file, a squashfs file or a directory",
        )
    return causes.of(error, f"{name}: cannot be opened", path, "check the filesystem it is on")


def _missing(path: str, name: str) -> BollardError:
    if os.path.islink(path):
        target = shown(os.readlink(path))
        return BollardError(f"{name}: is a symbolic link to {target}, which does not exist", "check the link")
    parent = os.path.dirname(os.path.abspath(path))
    scheme, colon, rest = name.partition(":")
    if colon and rest.startswith("/") and "/" not in scheme and not os.path.exists(f"{scheme}:"):  # docker:/alpine
        return BollardError(
            f"{name}: no such file", f"check the name; that of an image in a registry begins with {scheme}://"
        )
    if ":" in os.path.basename(path):  # ubuntu:24.04
        return BollardError(
            f"{name}: no such file", "check the name; that of an image in a registry begins with docker://"
        )
    if os.path.isdir(parent):
        return BollardError(f"{name}: no such file", f"check the name with `ls {shown(parent)}`")
    while not os.path.isdir(parent):
        parent, missing = os.path.dirname(parent), parent
    return BollardError(
        f"{name}: no such file",
        f"the directory {shown(missing)} does not exist on this machine; is it on a shared filesystem?",
    )


def _forbidden(path: str, name: str) -> BollardError:
    """Return the error that names the first part of the path without permission, its owner and its mode."""
    from bollard.runtime.system import identity

    full = os.path.realpath(path)
    place = os.path.dirname(full)
    while place != "/" and not os.access(os.path.dirname(place), os.X_OK):
        place = os.path.dirname(place)
    if os.access(place, os.X_OK):
        place, wanted = full, "read"
    else:
        wanted = "search"
    try:
        info = os.stat(place)
    except OSError:
        return BollardError(f"{name}: permission denied", "ask its owner for permission to read it")
    what = "it" if place == full else f"directory {shown(place)}"
    letter = "r" if wanted == "read" else "x"
    owner = f"{identity.user_name(info.st_uid)}, mode {info.st_mode & 0o7777:04o}"
    return BollardError(
        f"{name}: permission denied: {what} belongs to {owner}",
        f"its owner can allow you to {wanted} it with `chmod a+{letter} {shown(place)}`",
    )
