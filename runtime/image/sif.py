# SPDX-License-Identifier: BSD-3-Clause
"""Read SIF, the single-file image format of Apptainer and SingularityCE.

A SIF file has a header of 128 bytes, a table of descriptors of 585 bytes each, and the data objects. Each descriptor
gives the place of one object. All integers are little-endian, without padding. The numbers below are those of the
reference implementation (apptainer/sif, pkg/sif). `sif_write` writes the same format.

This module runs on every node of every job, and each import costs milliseconds. It imports only `os` and what
image.py needs anyway.
Image files come from users, so every number is checked against the file's size before it is used. The message of
every error begins with the image's name.
"""

from __future__ import annotations

import os

from bollard.runtime import causes
from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAGIC: Final = b"SIF_MAGIC\0"
VERSION: Final = b"01\0"
HEADER_SIZE: Final = 128
DESCRIPTOR_SIZE: Final = 585
TABLE_OFFSET: Final = 4096
DEFAULT_DESCRIPTORS: Final = 48
# Usual images have 48 slots; OCI-SIF images have one per layer and eight more.
MAX_DESCRIPTORS: Final = 4096
MAX_METADATA: Final = 16 << 20
MAX_WRAPPED: Final = 1 << 16  # bytes of an encrypted key; one for RSA with 4096 bits has 740

DEFFILE: Final = 0x4001
PARTITION: Final = 0x4004
SIGNATURE: Final = 0x4005
GENERIC_JSON: Final = 0x4006
GENERIC: Final = 0x4007
CRYPTO_MESSAGE: Final = 0x4008
SBOM: Final = 0x4009
OCI_ROOT_INDEX: Final = 0x400A
OCI_BLOB: Final = 0x400B

FS_SQUASHFS: Final = 1
FS_EXT3: Final = 2
FS_LUKS: Final = 5  # by root, through the kernel's device mapper
FS_GOCRYPTFS: Final = 6  # by any user, since Apptainer 1.2
_FS_NAMES: Final = {FS_EXT3: "ext3", 3: "archive", 4: "raw", FS_LUKS: "LUKS", FS_GOCRYPTFS: "gocryptfs"}

PART_SYSTEM: Final = 1
PART_PRIMARY: Final = 2
PART_OVERLAY: Final = 4

CRYPTO_PEM: Final = 2
CRYPTO_RSA_OAEP: Final = 0x200

GROUP_BIT: Final = 0xF0000000  # set in every group number; without a number it means "in no group"
METADATA_NAME: Final = "inspect-metadata.json"
NO_TIME: Final = -62135596800  # seconds since 1970: Go's zero time, used in reproducible images
# `bollard build` writes it: the SHA-256 of the primary partition's bytes, as 64 hexadecimal digits.
DIGEST_NAME: Final = "partition.sha256"
DIGEST_SIZE: Final = 64

# Code in the file, Go's name (which Apptainer prints), and names of `uname -m`.
_ARCHES: Final = (
    ("01", "386", ("i386", "i486", "i586", "i686")),
    ("02", "amd64", ("x86_64",)),
    ("03", "arm", ("armv5l", "armv6l", "armv7l", "armv8l")),
    ("04", "arm64", ("aarch64",)),
    ("05", "ppc64", ()),
    ("06", "ppc64le", ()),
    ("07", "mips", ()),
    ("08", "mipsle", ()),
    ("09", "mips64", ()),
    ("10", "mips64le", ()),
    ("11", "s390x", ()),
    ("12", "riscv64", ()),
    ("13", "loong64", ("loongarch64",)),
)


def arch_name(machine: str) -> str:
    """Return Go's name of an architecture.

    `machine` is Go's name or that of `uname -m`. A name that is not in the table is returned unchanged.
    """
    for _, name, machines in _ARCHES:
        if machine in machines:
            return name
    return machine


def arch_code(machine: str) -> bytes:
    """Return the code of an architecture as it is written into the file, 3 bytes; `00` if SIF has no code for it."""
    name = arch_name(machine)
    for code, known, _ in _ARCHES:
        if known == name:
            return code.encode() + b"\0"
    return b"00\0"


def _arch_of(code: bytes) -> str | None:
    """Return Go's name for the code in a file; None for `00` and for unknown codes."""
    text = _text(code)
    for known, name, _ in _ARCHES:
        if known == text:
            return name
    return None


class Header:
    """The header of a SIF file.

    arch: Go's name of the primary partition's architecture, or None.
    total: the number of slots in the descriptor table.
    table_offset, table_size, data_offset: in bytes.
    raw: the 128 bytes of the header.
    """

    __slots__ = ("arch", "data_offset", "raw", "table_offset", "table_size", "total")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.arch = _arch_of(raw[45:48])
        self.total = _i64(raw, 88)
        self.table_offset = _i64(raw, 96)
        self.table_size = _i64(raw, 104)
        self.data_offset = _i64(raw, 112)


class Descriptor:
    """One used slot of the table.

    id: the number of the object, from 1.
    datatype: one of the numbers above, such as PARTITION.
    name: the name of the object, perhaps "".
    offset, size: the place of the object in the file, in bytes.
    extra: 384 bytes; their meaning depends on `datatype`.
    raw: the 585 bytes of the slot.
    slot: the index of the slot in the table, from 0.
    """

    __slots__ = ("datatype", "extra", "id", "name", "offset", "raw", "size", "slot")

    def __init__(self, raw: bytes, slot: int = 0) -> None:
        self.raw = raw
        self.slot = slot
        self.datatype = _u32(raw, 0)
        self.id = _u32(raw, 5)
        self.offset = _i64(raw, 17)
        self.size = _i64(raw, 25)
        self.name = _text(raw[73:201])
        self.extra = raw[201:DESCRIPTOR_SIZE]

    @property
    def group(self) -> int:
        """The number of the object's group, 0 for none."""
        return _u32(self.raw, 9) & ~GROUP_BIT

    @property
    def link(self) -> tuple[int, bool]:
        """The object or group that this object refers to: its number, and whether it is a group; 0 for none."""
        number = _u32(self.raw, 13)
        return number & ~GROUP_BIT, number & GROUP_BIT == GROUP_BIT

    @property
    def times(self) -> tuple[int, int]:
        """Times of creation and of the last change, in seconds since 1970; NO_TIME in reproducible images."""
        return _i64(self.raw, 41), _i64(self.raw, 49)

    @property
    def fstype(self) -> int:
        """The filesystem of a partition: FS_SQUASHFS, FS_EXT3 or another number."""
        return _u32(self.extra, 0)

    @property
    def parttype(self) -> int:
        """The role of a partition: 1 system, 2 primary system, 3 data, 4 overlay."""
        return _u32(self.extra, 4)

    @property
    def arch(self) -> str | None:
        """Go's name of a partition's architecture, None if the image does not name one."""
        return _arch_of(self.extra[8:11])


class Sif:
    """A SIF file: its header, its used descriptors in table order, and its name for messages."""

    __slots__ = ("descriptors", "header", "name")

    def __init__(self, name: str, header: Header, descriptors: list[Descriptor]) -> None:
        self.name = name
        self.header = header
        self.descriptors = descriptors


def is_sif(first_bytes: bytes) -> bool:
    """Return whether a file that begins with these bytes (42 or more) is a SIF file."""
    return first_bytes[32:42] == MAGIC


def read(fd: int, size: int, name: str = "image") -> Sif:
    """Read and check the header and the used descriptors of a SIF file.

    fd: the file, open for reading.
    size: the size of the file in bytes.
    name: the name of the image for messages.

    The header gives the place of the table and of the data. Images written before 2019 have their data at byte 32768.

    Raises:
        BollardError: the file is not a SIF file of version 01, is truncated, or is damaged.
    """
    raw = pread(fd, min(size, HEADER_SIZE), 0, name)
    if len(raw) >= 42 and not is_sif(raw):
        raise BollardError(f"{name}: not a SIF image", "check the file name")
    if len(raw) < HEADER_SIZE:
        raise truncated(name, size, HEADER_SIZE)
    if raw[42:45] != VERSION:
        version = _text(raw[42:45])
        raise BollardError(
            f"{name}: SIF version {version!a} is not supported", "only version 01 is; build the image again"
        )

    header = Header(raw)
    table_end = header.table_offset + header.table_size
    if not 0 < header.total <= MAX_DESCRIPTORS:
        raise _damaged(name, f"it claims {header.total} descriptors, 1 to {MAX_DESCRIPTORS} are allowed")
    if header.table_size != header.total * DESCRIPTOR_SIZE:
        raise _damaged(name, f"{header.total} descriptors cannot fill {header.table_size} bytes")
    if header.table_offset < HEADER_SIZE:
        raise _damaged(name, "its descriptor table overlaps the header")
    if header.data_offset < table_end:
        raise _damaged(name, "its data overlaps the descriptor table")
    if table_end > size:
        raise truncated(name, size, table_end)

    table = pread(fd, header.table_size, header.table_offset, name)
    used: list[Descriptor] = []
    ids: set[int] = set()
    for start in range(0, header.table_size, DESCRIPTOR_SIZE):
        if not table[start + 4]:
            continue
        item = Descriptor(table[start : start + DESCRIPTOR_SIZE], start // DESCRIPTOR_SIZE)
        if item.offset < header.data_offset or item.size < 0:
            raise _damaged(name, f"object {item.id} overlaps the header or has a negative size")
        if item.id == 0 or item.id in ids:
            raise _damaged(name, f"object number {item.id} is used twice or zero")
        ids.add(item.id)
        used.append(item)

    end = max([item.offset + item.size for item in used], default=0)
    if end > size:
        raise truncated(name, size, end)
    before = None
    for item in sorted([item for item in used if item.size], key=lambda item: item.offset):
        if before and before.offset + before.size > item.offset:
            raise _damaged(name, f"objects {before.id} and {item.id} overlap")
        before = item
    return Sif(name, header, used)


def is_oci(sif: Sif) -> bool:
    """Return whether the file is an OCI-SIF: it has a root index, and no primary partition."""
    kinds = [(d.datatype, d.datatype == PARTITION and d.parttype == PART_PRIMARY) for d in sif.descriptors]
    return (OCI_ROOT_INDEX, False) in kinds and (PARTITION, True) not in kinds


def oci_root(sif: Sif) -> Descriptor:
    """Return the descriptor of the root index of an OCI-SIF file.

    Raises:
        BollardError: there is none, or more than one.
    """
    found = [d for d in sif.descriptors if d.datatype == OCI_ROOT_INDEX]
    if len(found) != 1:
        raise _damaged(sif.name, f"it has {len(found)} root indexes")
    return found[0]


def main_group(sif: Sif) -> int:
    """Return the group that a signature of the container must cover: that of the primary partition or the root index.

    Raises:
        BollardError: the file holds no container.
    """
    return oci_root(sif).group if is_oci(sif) else primary(sif, encrypted=True).group


def primary(sif: Sif, encrypted: bool = False) -> Descriptor:
    """Return the descriptor of the partition that holds the container's root filesystem.

    encrypted: accept a partition that is encrypted by gocryptfs, and not only a plain squashfs.

    Raises:
        BollardError: there is no such partition, or more than one, or its filesystem is not accepted.
    """
    found = [d for d in sif.descriptors if d.datatype == PARTITION and d.parttype == PART_PRIMARY]
    if not found:
        if is_oci(sif):
            raise BollardError(
                f"{sif.name}: is an OCI-SIF image, whose files are in layers, not in a partition",
                "run it; or make a SIF file of the same image with `bollard pull docker://NAME`",
            )
        raise BollardError(
            f"{sif.name}: no primary system partition", "this SIF holds no container; check the file name"
        )
    if len(found) > 1:
        raise _damaged(sif.name, f"it has {len(found)} primary system partitions")
    part = found[0]
    if part.fstype == FS_GOCRYPTFS and encrypted:
        return part
    if part.fstype == FS_GOCRYPTFS:
        raise BollardError(
            f"{sif.name}: is encrypted; its files can be read in a container alone",
            "use `bollard exec`, `run`, `shell`, `instance start` or srun --container, with its key",
        )
    if part.fstype == FS_LUKS:
        raise BollardError(
            f"{sif.name}: is encrypted with LUKS, which only root can open",
            "let its author build it as a user, with `bollard build --encrypt` or Apptainer 1.2 and later",
        )
    if part.fstype != FS_SQUASHFS:
        what = _FS_NAMES.get(part.fstype, f"number {part.fstype}")
        raise BollardError(
            f"{sif.name}: its filesystem is {what}", "only squashfs is supported; build it again as a SIF"
        )
    return part


def overlays(sif: Sif) -> list[Descriptor]:
    """Return the overlay partitions in the order of their numbers, which signatures cover; table slots can be swapped.

    As in Apptainer, only those in the primary partition's group.

    Raises:
        BollardError: an overlay is neither squashfs nor ext3, or the image has no usable primary partition.
    """
    group = primary(sif, encrypted=True).group
    found = [d for d in sif.descriptors if d.datatype == PARTITION and d.parttype == PART_OVERLAY]
    if group:
        found = [d for d in found if d.group == group]
    for item in found:
        if item.fstype not in (FS_SQUASHFS, FS_EXT3):
            what = _FS_NAMES.get(item.fstype, f"number {item.fstype}")
            raise BollardError(
                f"{sif.name}: its overlay, object {item.id}, has the filesystem {what}, neither squashfs nor ext3",
                f"take it out with `bollard sif del {item.id} {sif.name}`",
            )
    return sorted(found, key=lambda item: item.id)


def wrapped_key(fd: int, sif: Sif) -> bytes:
    """Return the message that holds the key of the encrypted primary partition, for the owner of an RSA key.

    b"" if there is none: the partition is encrypted with a passphrase.

    Raises:
        BollardError: the message is too large or of an unknown form, or the file cannot be read.
    """
    part = primary(sif, encrypted=True)
    for item in sif.descriptors:
        if item.datatype != CRYPTO_MESSAGE or item.link != (part.id, False) or item.group != part.group:
            continue
        if (_u32(item.extra, 0), _u32(item.extra, 4)) != (CRYPTO_PEM, CRYPTO_RSA_OAEP) or item.size > MAX_WRAPPED:
            raise _damaged(sif.name, f"object {item.id} is no key in PEM form")
        return pread(fd, item.size, item.offset, sif.name)
    return b""


def metadata(fd: int, sif: Sif) -> bytes | None:
    """Return the JSON text that `inspect` prints (labels, environment, runscript); None if the file has none.

    Raises:
        BollardError: the text has more than 16 MiB, or the file cannot be read.
    """
    for item in sif.descriptors:
        if item.datatype == GENERIC_JSON and item.name == METADATA_NAME:
            if item.size > MAX_METADATA:
                raise _damaged(sif.name, f"its metadata has {item.size} bytes, {MAX_METADATA} are allowed")
            return pread(fd, item.size, item.offset, sif.name)
    return None


def digest(fd: int, sif: Sif) -> str:
    """Return the SHA-256 that the file records for its primary partition; "" if it records none.

    The partition is not read, and the value is not checked.

    Raises:
        BollardError: the file cannot be read.
    """
    primaries = {
        (d.id, False): d.group for d in sif.descriptors if d.datatype == PARTITION and d.parttype == PART_PRIMARY
    }
    for item in sif.descriptors:
        if primaries.get(item.link) != item.group:
            continue  # of a partition that is no longer the primary one, or not in its group: its signature lacks it
        if item.datatype == GENERIC and item.name == DIGEST_NAME and item.size == DIGEST_SIZE:
            text = pread(fd, DIGEST_SIZE, item.offset, sif.name)
            return text.decode() if all(byte in b"0123456789abcdef" for byte in text) else ""
    return ""


def pread(fd: int, count: int, offset: int, name: str) -> bytes:
    """Read exactly `count` bytes of the file at `offset`. The caller has limited `count`.

    fd: the file, open for reading.
    count, offset: in bytes.
    name: the name of the image for messages.

    Raises:
        BollardError: the file cannot be read, or it ends early (for example, it shrinks while it is read).
    """
    parts = []
    while count:
        try:
            part = os.pread(fd, count, offset)
        except OSError as error:
            doing = f"{name}: cannot be read at byte {offset}"
            raise causes.of(error, doing, f"/proc/self/fd/{fd}", "check the filesystem it is on") from error
        if not part:
            raise truncated(name, offset, offset + count)
        parts.append(part)
        count -= len(part)
        offset += len(part)
    return b"".join(parts)


def truncated(name: str, size: int, expected: int) -> BollardError:
    """Return the error for the image `name`, a file of `size` bytes that should have `expected` bytes."""
    return BollardError(f"{name}: truncated: {size} bytes, {expected} expected", "copy or build it again")


def _damaged(name: str, what: str) -> BollardError:
    return BollardError(f"{name}: damaged: {what}", "copy or build it again")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")


def _i64(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little", signed=True)


def _text(raw: bytes) -> str:
    """Return the text of a field that is padded with NUL bytes; bytes that are not UTF-8 are escaped."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
