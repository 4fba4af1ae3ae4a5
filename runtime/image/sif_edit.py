# SPDX-License-Identifier: BSD-3-Clause
"""Change SIF files in place: add or delete an object, choose the primary partition.

Objects never move, so a container can run from the file during a change. After an interrupted change the file is in
the old or in the new state: data is on the disk before a slot refers to it, and one byte marks a slot as used.
The header is written last, because readers do not need its counters.
To choose another primary partition takes two such steps. After an interruption between them the file has no primary
partition; the same command, run again, completes the change.
"""

from __future__ import annotations

import os
import sys

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_write
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from bollard.runtime.image.sif import Descriptor, Sif

_USED: Final = 4  # offset in a slot of the byte that marks it as used
_CHANGED: Final = 49
_EXTRA: Final = 201
_BLOCK: Final = 1 << 20


class New:
    """An object to add.

    datatype: a number of `sif`, such as sif.PARTITION.
    extra: up to 384 bytes; their meaning depends on `datatype`.
    group: the number of its group, 0 for none.
    link: the object or group that it refers to, encoded as in the file; 0 for none.
    name: at most 128 bytes.
    alignment: in bytes; a negative number gives the default, 4096 for a partition and 1 for other objects.
    sparse: blocks of zeros become holes in the file.
    """

    __slots__ = ("alignment", "datatype", "extra", "group", "link", "name", "sparse")

    def __init__(
        self,
        datatype: int,
        extra: bytes = b"",
        *,
        group: int = sif_write.DEFAULT_GROUP,
        link: int = 0,
        name: str = "",
        alignment: int = -1,
        sparse: bool = False,
    ) -> None:
        self.datatype = datatype
        self.extra = extra
        self.group = group
        self.link = link
        self.name = name
        self.alignment = alignment if alignment >= 0 else _default_alignment(datatype)
        self.sparse = sparse


def _default_alignment(datatype: int) -> int:
    return sif_write.PARTITION_ALIGN if datatype == sif.PARTITION else 1


def create(path: str, *, force: bool = False) -> None:
    """Make an empty SIF file with 48 slots; `force` replaces an existing file.

    Raises:
        BollardError: `path` exists and `force` is not set, or the file cannot be written.
    """
    if not force and os.path.lexists(path):
        raise sif_write.exists(image.shown(path))
    table = bytes(sif.DEFAULT_DESCRIPTORS * sif.DESCRIPTOR_SIZE)
    front = bytes(32) + sif_write.header([], sif.arch_code(""), 0)[32:]  # nothing to launch
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        fd = os.open(path, flags, sif_write.MODE)
        try:
            _pwrite(fd, front.ljust(sif.TABLE_OFFSET, b"\0") + table, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _unwritable(path, error) from error


def add(path: str, new: New, source: int) -> int:
    """Append a new object to a SIF file; return its number.

    path: the SIF file.
    new: the properties of the object.
    source: a file descriptor, from which the data is read up to its end.

    Raises:
        BollardError: the file cannot take the object, is locked by another command, or cannot be written.
    """
    fd, found = _open(path)
    try:
        if os.path.sameopenfile(fd, source):
            raise BollardError(f"{found.name}: cannot be added to itself", "add a copy of it")
        slot = _free_slot(found)
        _check(found, new)
        end = max([item.offset + item.size for item in found.descriptors], default=found.header.data_offset)
        offset = end + -end % max(new.alignment, 1)
        # Bytes after the last object are left from a deleted object or from an interrupted change.
        os.ftruncate(fd, end)
        try:
            size, digest = _copy(fd, offset, source, new.sparse)
            os.fsync(fd)
        except BaseException:
            os.ftruncate(fd, end)
            raise
        time = _time(found)
        extra = new.extra
        if new.datatype in (sif.OCI_ROOT_INDEX, sif.OCI_BLOB):
            extra = digest
        raw = sif_write.descriptor(
            new.datatype, slot + 1, offset, size, offset - end + size, time, new.name, extra, new.group, new.link
        )
        _write_slot(fd, found, slot, raw)
        arch = extra[8:11] if _is_primary(new) else found.header.raw[45:48]
        _write_header(fd, found, arch, len(found.descriptors) + 1, offset + size - found.header.data_offset, time)
        return slot + 1
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        os.close(fd)


def delete(path: str, number: int) -> None:
    """Delete object `number` from the table of the SIF file `path`.

    The bytes of the object stay in the file until the next `add` cuts or overwrites them.

    Raises:
        BollardError: there is no such object, or the file is locked by another command or cannot be written.
    """
    fd, found = _open(path)
    try:
        item = find(found, number)
        _write_slot(fd, found, item.slot, bytes(sif.DESCRIPTOR_SIZE))
        gone = 1
        for other in found.descriptors:  # a later partition may get this number; its digest differs
            if other.name == sif.DIGEST_NAME and other.link == (number, False):
                _write_slot(fd, found, other.slot, bytes(sif.DESCRIPTOR_SIZE))
                gone += 1
        primary = item.datatype == sif.PARTITION and item.parttype == sif.PART_PRIMARY
        arch = sif.arch_code("") if primary else found.header.raw[45:48]
        data_size = int.from_bytes(found.header.raw[120:128], "little", signed=True)
        _write_header(fd, found, arch, len(found.descriptors) - gone, data_size, _time(found))
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        os.close(fd)


def set_primary(path: str, number: int) -> None:
    """Make the system partition `number` the primary partition of the SIF file `path`.

    Raises:
        BollardError: object `number` is not a system partition, or the file is locked or cannot be written.
    """
    fd, found = _open(path)
    try:
        item = find(found, number)
        if item.datatype != sif.PARTITION or item.parttype not in (sif.PART_SYSTEM, sif.PART_PRIMARY):
            raise BollardError(
                f"{found.name}: object {number} is not a system partition", f"see `bollard sif list {found.name}`"
            )
        if item.parttype == sif.PART_PRIMARY:
            return
        time = _time(found)
        for other in found.descriptors:
            if other.datatype == sif.PARTITION and other.parttype == sif.PART_PRIMARY:
                _write_part_type(fd, found, other, sif.PART_SYSTEM, time)
        _write_part_type(fd, found, item, sif.PART_PRIMARY, time)
        data_size = int.from_bytes(found.header.raw[120:128], "little", signed=True)
        _write_header(fd, found, item.extra[8:11], len(found.descriptors), data_size, time)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        os.close(fd)


def find(found: Sif, number: int) -> Descriptor:
    """Return the descriptor of object `number`.

    Raises:
        BollardError: there is no such object; the hint lists the numbers that exist.
    """
    for item in found.descriptors:
        if item.id == number:
            return item
    there = ", ".join(str(item.id) for item in found.descriptors) or "none"
    raise BollardError(f"{found.name}: no object {number}", f"its objects: {there}")


def _open(path: str) -> tuple[int, Sif]:
    fd, _ = image.open_sif(path, writable=True)
    try:
        linux.lock_file(fd, exclusive=True)
        return fd, sif.read(fd, os.fstat(fd).st_size, image.shown(path))
    except BlockingIOError:
        os.close(fd)
        raise BollardError(f"{image.shown(path)}: is being changed by another command", "wait for its end") from None
    except OSError:
        print(f"bollard: {image.shown(path)}: its filesystem has no locks; change it once at a time", file=sys.stderr)
        return fd, sif.read(fd, os.fstat(fd).st_size, image.shown(path))
    except BaseException:
        os.close(fd)
        raise


def _check(found: Sif, new: New) -> None:
    if len(os.fsencode(new.name)) > 128:
        raise BollardError(f"{new.name}: a name of more than 128 bytes", "choose a shorter one with --filename")
    if _is_primary(new):
        for item in found.descriptors:
            if item.datatype == sif.PARTITION and item.parttype == sif.PART_PRIMARY:
                raise BollardError(
                    f"{found.name}: has a primary partition already, object {item.id}",
                    "add a system partition, --parttype 1, and choose with `bollard sif setprim`",
                )


def _is_primary(new: New) -> bool:
    return new.datatype == sif.PARTITION and int.from_bytes(new.extra[4:8], "little") == sif.PART_PRIMARY


def _free_slot(found: Sif) -> int:
    """Return the index of the first unused slot whose number no object has."""
    taken = {item.slot for item in found.descriptors} | {item.id - 1 for item in found.descriptors}
    for slot in range(found.header.total):
        if slot not in taken:
            return slot
    raise BollardError(
        f"{found.name}: its table of {found.header.total} objects is full", "delete one with `bollard sif del`"
    )


def _write_slot(fd: int, found: Sif, slot: int, raw: bytes) -> None:
    at = found.header.table_offset + slot * sif.DESCRIPTOR_SIZE
    _pwrite(fd, b"\0", at + _USED)
    os.fsync(fd)
    _pwrite(fd, raw[:_USED] + b"\0" + raw[_USED + 1 :], at)
    os.fsync(fd)
    _pwrite(fd, raw[_USED : _USED + 1], at + _USED)
    os.fsync(fd)


def _write_part_type(fd: int, found: Sif, item: Descriptor, parttype: int, time: int) -> None:
    at = found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
    _pwrite(fd, parttype.to_bytes(4, "little"), at + _EXTRA + 4)
    _pwrite(fd, _i64(time), at + _CHANGED)
    os.fsync(fd)


def _write_header(fd: int, found: Sif, arch: bytes, used: int, data_size: int, time: int) -> None:
    raw = bytearray(found.header.raw)
    raw[45:48] = arch
    raw[72:80] = _i64(time)
    raw[80:88] = _i64(found.header.total - used)
    raw[120:128] = _i64(data_size)
    _pwrite(fd, bytes(raw), 0)
    os.fsync(fd)


def _time(found: Sif) -> int:
    """Return the time to write: NO_TIME if the file is a reproducible image, else the result of `timestamp`."""
    raw = found.header.raw
    none = _i64(sif.NO_TIME)
    return sif.NO_TIME if raw[48:64] == bytes(16) and raw[64:72] == raw[72:80] == none else sif_write.timestamp()


def _copy(fd: int, offset: int, source: int, sparse: bool) -> tuple[int, bytes]:
    """Copy `source` up to its end; return the number of bytes and the digest in OCI's form (sha256:HEX)."""
    import hashlib

    digest = hashlib.sha256()
    at = offset
    while True:
        block = os.read(source, _BLOCK)
        if not block:
            break
        digest.update(block)
        if not sparse or block.count(0) != len(block):
            _pwrite(fd, block, at)
        at += len(block)
    os.ftruncate(fd, max(at, offset))
    return at - offset, b"sha256:" + digest.hexdigest().encode()


def _pwrite(fd: int, data: bytes, at: int) -> None:
    while data:
        count = os.pwrite(fd, data, at)
        data, at = data[count:], at + count


def _i64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def _unwritable(path: str, error: OSError) -> BollardError:
    doing = f"{image.shown(path)}: cannot be written"
    return causes.of(error, doing, os.path.dirname(path) or ".", "check the directory")
