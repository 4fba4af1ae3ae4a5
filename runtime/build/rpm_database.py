# SPDX-License-Identifier: BSD-3-Clause
"""Read the packages of an rpm database, in each of rpm's three forms, without rpm.

    sqlite   rpmdb.sqlite   Fedora 33, EL 9 and later
    ndb      Packages.db    SUSE
    bdb      Packages       EL 7, EL 8: a hash table of Berkeley DB (dbinc/db_page.h)

Each form holds the headers of packages as blobs: two counts, an index of 16 bytes an entry, the data (rpm's
lib/header.c). Numbers in a header are big-endian; those around it have the order of the machine that wrote them.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

_FOLDERS = ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")
PLACES = tuple(f"{folder}/{name}" for folder in _FOLDERS for name in ("rpmdb.sqlite", "Packages.db", "Packages"))
HEADER_MAX = 32 << 20  # bytes of one header; rpm's own limit is 256 MiB
STEPS_MAX = 1_000_000_000
# rpm/rpmtag.h
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1022, 1044
_INT32, _STRING, _I18N = 4, 6, 9


class Damaged(Exception):
    """The database or a header in it is damaged, or has an unknown form."""


class Installed(NamedTuple):
    """An installed package. `epoch` is "" if it has none; `source` is the name of its source package's file."""

    name: str
    version: str
    release: str
    epoch: str
    arch: str
    source: str


def packages(data: bytes) -> Iterator[Installed]:
    """Yield the packages of a database file with the content `data`.

    Raises:
        Damaged: it has none of the three forms, or contradicts itself.
    """
    try:
        for blob in _blobs(data):
            item = header(blob)
            if item.name != "gpg-pubkey":  # a key that rpm has imported, and no package
                yield item
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Damaged(f"damaged ({error})") from None


def _blobs(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"SQLite format 3\0"):
        return _sqlite(data)
    if data.startswith(b"RpmP"):
        return _ndb(data)
    if len(data) > 72 and data[12:16] in (b"\x61\x15\x06\x00", b"\x00\x06\x15\x61"):
        return _bdb(data)
    raise Damaged("not an rpm database")


def header(blob: bytes) -> Installed:
    """Return the package that a header describes.

    Raises:
        Damaged: the index or an entry lies outside of the header.
    """
    entries, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * entries
    if start + size > len(blob):
        raise Damaged("a package's header is cut off")
    found: dict[int, str] = {}
    for at in range(8, start, 16):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, at)
        if tag not in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE) or offset >= size:
            continue
        place = start + offset
        if kind in (_STRING, _I18N):
            found[tag] = blob[place:].split(b"\0", 1)[0].decode("utf-8", "replace")
        elif kind == _INT32:
            found[tag] = str(struct.unpack_from(">I", blob, place)[0])
    return Installed(*(found.get(tag, "") for tag in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE)))


def _sqlite(data: bytes) -> Iterator[bytes]:
    """Yield the headers of an SQLite database. SQLite needs a file; a -wal file beside the database is not read.

    The database can hold a view instead of a table, which is code. SQLite runs at most STEPS_MAX of its instructions.
    """
    import sqlite3

    steps = iter(range(STEPS_MAX // 1_000_000))
    with tempfile.NamedTemporaryFile(prefix="bollard-rpm-") as file:
        file.write(data)
        file.flush()
        try:
            opened = sqlite3.connect(f"file:{file.name}?immutable=1", uri=True)
            try:
                opened.execute("PRAGMA trusted_schema = OFF")
                opened.set_progress_handler(lambda: next(steps, None) is None, 1_000_000)
                for (blob,) in opened.execute("SELECT blob FROM Packages"):
                    if isinstance(blob, bytes) and len(blob) <= HEADER_MAX:
                        yield blob
                    else:
                        raise Damaged("a package's header is too large")
            finally:
                opened.close()
        except sqlite3.Error as error:
            raise Damaged(f"SQLite: {error}") from None


def _ndb(data: bytes) -> Iterator[bytes]:
    """Yield the headers of rpm's own format: a header and slots of 16 bytes in 4096-byte pages, then blobs."""
    pages = struct.unpack_from("<I", data, 12)[0]
    if not 0 < pages <= 2048:
        raise Damaged(f"claims {pages} pages of slots")
    for at in range(32, min(pages * 4096, len(data)), 16):
        magic, number, block, _ = struct.unpack_from("<4sIII", data, at)
        if magic != b"Slot" or not number:
            continue
        kind, same, _, size = struct.unpack_from("<4sIII", data, block * 16)
        start = block * 16 + 16
        if kind != b"BlbS" or same != number or size > HEADER_MAX or start + size > len(data):
            raise Damaged("a slot names no package")
        yield data[start : start + size]


def _bdb(data: bytes) -> Iterator[bytes]:
    """Yield the headers of a Berkeley DB hash table. Each value is a chain of overflow pages."""
    order = "<" if data[12:16] == b"\x61\x15\x06\x00" else ">"
    page = struct.unpack_from(f"{order}I", data, 20)[0]
    if page not in (512 << n for n in range(8)):
        raise Damaged(f"claims pages of {page} bytes")
    for start in range(page, len(data) - page + 1, page):
        entries, _, _, kind = struct.unpack_from(f"{order}HHBB", data, start + 20)
        if kind not in (2, 13):  # P_HASH_UNSORTED, P_HASH
            continue
        if 26 + 2 * entries > page:
            raise Damaged(f"a page claims {entries} entries")
        for index in range(1, entries, 2):  # key, value, key, value
            at = start + struct.unpack_from(f"{order}H", data, start + 26 + 2 * index)[0]
            if data[at] != 3:  # H_OFFPAGE; smaller values are the counter of package numbers
                continue
            number, size = struct.unpack_from(f"{order}II", data, at + 4)
            if size > HEADER_MAX:
                raise Damaged("a package's header is too large")
            yield _chain(data, order, page, number, size)


def _chain(data: bytes, order: str, page: int, number: int, size: int) -> bytes:
    """Return the `size` bytes of the overflow pages from page `number` on."""
    parts: list[bytes] = []
    left = size
    while number and left > 0:
        start = number * page
        following = struct.unpack_from(f"{order}I", data, start + 16)[0]
        length, kind = struct.unpack_from(f"{order}H", data, start + 22)[0], data[start + 25]
        if kind != 7 or not 0 < length <= page - 26:  # P_OVERFLOW
            raise Damaged("a chain of pages is broken")
        parts.append(data[start + 26 : start + 26 + length])
        left -= length
        number = following
    blob = b"".join(parts)
    if len(blob) < size:
        raise Damaged("a chain of pages ends early")
    return blob[:size]
