# SPDX-License-Identifier: BSD-3-Clause
"""Write SIF images as Apptainer does: 48 descriptors, small objects, then the partition, aligned to 4096 bytes.

The byte layout is described in `sif`. mksquashfs writes the filesystem at its final offset, after a gap for the
header. So an image of many gigabytes is written once and never copied:

    with sif_write.Writer("img.sif", arch="x86_64", objects=[...]) as writer:
        ...                         # a program gets writer.fd, and writes to writer.path from writer.offset on
        writer.finish()             # header and descriptors, then rename

If SOURCE_DATE_EPOCH is set, the image is reproducible: times are Go's zero time and the UUID is nil, as in
Apptainer 1.5.
"""

from __future__ import annotations

import os
import tempfile
import uuid

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Final

LAUNCH: Final = b"#!/usr/bin/env run-singularity\n"
PARTITION_ALIGN: Final = 4096
DEFAULT_GROUP: Final = 1
MODE: Final = 0o755
_READ_SIZE: Final = 4 << 20
_DATA_OFFSET: Final = sif.TABLE_OFFSET + sif.DEFAULT_DESCRIPTORS * sif.DESCRIPTOR_SIZE


def check_place(target: str) -> None:
    """Check that a file or directory `target` can be made or replaced, before the work for it begins.

    Raises:
        BollardError: the parent directory is missing, not a directory, read-only, or the user may not write into it.
    """
    above = os.path.dirname(os.path.abspath(target))
    if not os.path.basename(target.rstrip("/")):
        raise BollardError(f"{target!r}: is not the name of a file", "name the file to be made")
    try:
        os.stat(above)
        os.lstat(target.rstrip("/"))
    except FileNotFoundError:
        if not os.path.lexists(above):
            raise BollardError(f"{target}: the directory {above} does not exist", "make it first") from None
    except OSError as error:
        raise causes.of(error, f"{target}: cannot be written", above, "choose another name") from None
    if not os.path.isdir(above):
        raise BollardError(f"{target}: {above} is not a directory", "choose another name")
    causes.refuse_read_only(above, f"{target}: cannot be written")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BollardError(f"{target}: you may not write into {above}", "choose a directory that you can write to")
    causes.refuse_file_of_another(target.rstrip("/"), f"{target}: cannot be written")


class Object:
    """A small data object.

    datatype: a number of `sif`, such as sif.GENERIC_JSON.
    name: at most 128 bytes of UTF-8.
    data: its bytes.
    extra: what its descriptor says besides; the meaning depends on `datatype`.
    finish: makes the final bytes, as many as `data` has, from the SHA-256 of the partition in hexadecimal digits.
    """

    __slots__ = ("data", "datatype", "extra", "finish", "name")

    def __init__(
        self, datatype: int, name: str, data: bytes, extra: bytes = b"", finish: Callable[[str], bytes] | None = None
    ) -> None:
        self.datatype = datatype
        self.name = name
        self.data = data
        self.extra = extra
        self.finish = finish


class Writer:
    """A SIF image that is being written. The end of the `with` block without `finish` removes the file.

    target: path of the image.
    arch: Go's name of the architecture, or that of `uname -m`.
    objects: written before the partition, in this order.
    force: replace an existing target.
    fstype: the filesystem of the partition, a number of `sif`.

    Attributes: `fd` is a temporary file beside `target`, and `path` names it by that descriptor; `offset` is where in
    it the squashfs must begin, in bytes, a multiple of 4096.

    Raises:
        BollardError: `target` exists and `force` is not set, or no file can be made beside it.
        ValueError: there are more than 47 objects.
    """

    def __init__(
        self,
        target: str,
        arch: str,
        objects: Sequence[Object] = (),
        *,
        force: bool = False,
        fstype: int = sif.FS_SQUASHFS,
    ) -> None:
        if len(objects) >= sif.DEFAULT_DESCRIPTORS:
            raise ValueError(f"at most {sif.DEFAULT_DESCRIPTORS - 1} objects fit beside the partition")
        if not force and os.path.lexists(target):
            raise exists(target)
        self.target = target
        self.offset = _align(_DATA_OFFSET + sum(len(item.data) for item in objects), PARTITION_ALIGN)
        self._arch = sif.arch_code(arch)
        self._objects = tuple(objects)
        self._force = force
        self._fstype = fstype
        try:
            self.fd, self._made = tempfile.mkstemp(
                prefix=".bollard-", suffix=".tmp", dir=os.path.dirname(target) or "."
            )
        except OSError as error:
            raise causes.of(
                error, f"{target}: cannot be written", target, "choose a directory you can write to"
            ) from error
        # Not by name: who may write to the directory could put a link to another file of the user's there meanwhile.
        self.path = f"/proc/self/fd/{self.fd}"

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if self._made and os.path.lexists(self._made):
            os.unlink(self._made)
        self._made = ""

    def finish(self) -> None:
        """Write the header and the objects, flush the file to the disk and rename it to `target`.

        Raises:
            BollardError: the squashfs was not written, the file cannot be written, or `target` exists by now.
        """
        try:
            self._fill()
            self._rename()
        except OSError as error:
            raise causes.of(
                error, f"{self.target}: cannot be written", self.target, "choose a directory you can write to"
            ) from error

    def _fill(self) -> None:
        mask = os.umask(0o022)
        os.umask(mask)
        with open(self.fd, "r+b", closefd=False) as file:
            end = file.seek(0, os.SEEK_END)
            if end <= self.offset:
                raise BollardError(f"{self.target}: its filesystem was not written", "build it again")
            digest = sha256(file.fileno(), self.offset, end)
            table, data = self._tables(end, digest)
            file.seek(0)
            file.write(header(table, self._arch, end - _DATA_OFFSET))
            file.write(bytes(sif.TABLE_OFFSET - sif.HEADER_SIZE))
            file.write(b"".join(table).ljust(_DATA_OFFSET - sif.TABLE_OFFSET, b"\0"))
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), MODE & ~mask)
            os.fsync(file.fileno())

    def _rename(self) -> None:
        if not self._force:
            # link(2) refuses an existing name; rename(2) would replace a file that another process has just made.
            try:
                os.link(self._made, self.target)
            except FileExistsError:
                raise exists(self.target) from None
            except OSError:  # a filesystem without hard links
                if os.path.lexists(self.target):
                    raise exists(self.target) from None
            else:
                return  # __exit__ removes the other name
        os.replace(self._made, self.target)
        self._made = ""

    def _tables(self, end: int, digest: str) -> tuple[list[bytes], bytes]:
        """Return the descriptors, and the bytes from the data offset to the partition; `digest` is the partition's."""
        now = timestamp()
        table: list[bytes] = []
        at = _DATA_OFFSET
        for item in self._objects:
            size = len(item.data)
            linked = item.name == sif.DIGEST_NAME or item.datatype == sif.CRYPTO_MESSAGE
            link = len(self._objects) + 1 if linked else 0  # to the partition
            table.append(
                descriptor(item.datatype, len(table) + 1, at, size, size, now, item.name, item.extra, link=link)
            )
            at += size
        size = end - self.offset
        extra = _le(self._fstype, 4) + _le(sif.PART_PRIMARY, 4) + self._arch
        number = len(table) + 1
        padded = end - at
        table.append(descriptor(sif.PARTITION, number, self.offset, size, padded, now, "", extra))
        parts = [item.finish(digest) if item.finish else item.data for item in self._objects]
        if [len(part) for part in parts] != [len(item.data) for item in self._objects]:
            raise ValueError("an object's final bytes have another length")
        data = b"".join(parts)
        return table, data.ljust(self.offset - _DATA_OFFSET, b"\0")


def sha256(fd: int, begin: int, end: int) -> str:
    """Return the SHA-256 of a part of a file, in hexadecimal digits.

    fd: the file, open for reading.
    begin, end: offsets in bytes; `end` is not included.
    """
    import hashlib

    summed = hashlib.sha256()
    while begin < end and (part := os.pread(fd, min(end - begin, _READ_SIZE), begin)):
        summed.update(part)
        begin += len(part)
    return summed.hexdigest()


def header(table: Sequence[bytes], arch: bytes, data_size: int) -> bytes:
    """Return the header of an image, 128 bytes.

    table: the used descriptors.
    arch: the architecture code, 3 bytes.
    data_size: bytes from the end of the table to the end of the file.
    """
    now = timestamp()
    numbers = (
        now,
        now,
        sif.DEFAULT_DESCRIPTORS - len(table),
        sif.DEFAULT_DESCRIPTORS,
        sif.TABLE_OFFSET,
        sif.DEFAULT_DESCRIPTORS * sif.DESCRIPTOR_SIZE,
        _DATA_OFFSET,
        data_size,
    )
    identity = bytes(16) if reproducible() else uuid.uuid4().bytes
    parts = (LAUNCH.ljust(32, b"\0"), sif.MAGIC, sif.VERSION, arch, identity)
    return b"".join(parts) + b"".join(_le(number, 8) for number in numbers)


def descriptor(
    datatype: int,
    number: int,
    offset: int,
    size: int,
    padded_size: int,
    time: int,
    name: str,
    extra: bytes = b"",
    group: int = DEFAULT_GROUP,
    link: int = 0,
) -> bytes:
    """Return one used slot of the table, 585 bytes.

    datatype: a number of `sif`.
    number: the number of the object, from 1.
    offset, size: the place of the object in the file, in bytes.
    padded_size: the size with the padding before the object, in bytes.
    time: creation and change, in seconds since 1970.
    name: at most 128 bytes; a longer name is cut.
    extra: at most 384 bytes; their meaning depends on `datatype`.
    group: the number of the group, 0 for none.
    link: the object or group that it refers to, encoded as in the file; 0 for none.
    """
    text = name.encode("utf-8", "surrogateescape")[:128]
    front = (_le(datatype, 4), b"\1", _le(number, 4), _le(sif.GROUP_BIT | group, 4), _le(link, 4))
    numbers = (offset, size, padded_size, time, time, 0, 0)
    return b"".join((*front, *(_le(n, 8) for n in numbers), text.ljust(128, b"\0"), extra.ljust(384, b"\0")))


def reproducible() -> bool:
    """Return whether SOURCE_DATE_EPOCH is set: the image must be reproducible."""
    return "SOURCE_DATE_EPOCH" in os.environ


def timestamp() -> int:
    """Return the time to write into the image, in seconds since 1970: now, or NO_TIME in a reproducible image."""
    import time

    return sif.NO_TIME if reproducible() else int(time.time())


def exists(target: str) -> BollardError:
    """Return the error for a target that exists already."""
    return BollardError(f"{target}: exists already", "remove it, choose another name, or use --force")


def _le(number: int, length: int) -> bytes:
    return number.to_bytes(length, "little", signed=number < 0)


def _align(number: int, to: int) -> int:
    return (number + to - 1) // to * to
