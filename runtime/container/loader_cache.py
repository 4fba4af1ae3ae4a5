# SPDX-License-Identifier: BSD-3-Clause
"""The libraries that the host's loader knows, from /etc/ld.so.cache, which ldconfig(8) writes.

The keeper does not run ldconfig for it: the user could trace a program that the user can read, and so enter the
keeper's namespaces. The formats are those of glibc (sysdeps/generic/dl-cache.h): an old one, a newer one, or both in
one file.
"""

from __future__ import annotations

from sys import byteorder

PATH = "/etc/ld.so.cache"
SIZE_MAX = 16 << 20
LIBRARIES_MAX = 100_000

_OLD = b"ld.so-1.7.0"
_OLD_HEADER, _OLD_ENTRY = 16, 12
_NEW = b"glibc-ld.so.cache1.1"
_NEW_HEADER, _NEW_ENTRY = 48, 24
_TEXT_MAX = 4096  # PATH_MAX
# Flags of an entry: the kind of C library, and the ABI. One node may have libraries of several ABIs.
_KIND, _LIBC6 = 0x00FF, 3
_ABI = 0xFF00
_ABIS = {"x86_64": 0x0300, "aarch64": 0x0A00, "ppc64le": 0x0500, "s390x": 0x0400}


def libraries(data: bytes, machine: str) -> dict[str, str]:
    """Return {name: path} of the libraries for programs of `machine` (uname -m); for one name the first entry.

    Raises:
        ValueError: `data` is not a cache of glibc's loader.
    """
    if data.startswith(_NEW):
        return _newer(data, 0, machine)
    if not data.startswith(_OLD):
        raise ValueError("no cache of glibc's loader")
    count = _count(data, 12)
    end = _OLD_HEADER + count * _OLD_ENTRY
    newer = (end + 7) // 8 * 8
    if data[newer : newer + len(_NEW)] == _NEW:
        return _newer(data, newer, machine)
    return _entries(data, _OLD_HEADER, count, _OLD_ENTRY, end, machine)


def _newer(data: bytes, base: int, machine: str) -> dict[str, str]:
    return _entries(data, base + _NEW_HEADER, _count(data, base + 20), _NEW_ENTRY, base, machine)


def read(machine: str) -> dict[str, str]:
    """Return the `libraries` of this node; {} if it has no cache.

    Raises:
        ValueError: the cache is damaged, or has more than SIZE_MAX bytes.
    """
    try:
        with open(PATH, "rb", buffering=0) as file:
            data = file.read(SIZE_MAX + 1)
    except OSError:
        return {}  # nothing is found then, and the first task says that the node has no driver
    if data is None or len(data) > SIZE_MAX:
        raise ValueError(f"more than {SIZE_MAX} bytes")
    return libraries(data, machine)


def _count(data: bytes, at: int) -> int:
    if len(data) < at + 4:
        raise ValueError("cut off in its header")
    count = int.from_bytes(data[at : at + 4], byteorder)
    if count > LIBRARIES_MAX:
        raise ValueError(f"{count} libraries")
    return count


def _entries(data: bytes, first: int, count: int, size: int, base: int, machine: str) -> dict[str, str]:
    """Return the `count` entries of `size` bytes each that begin at byte `first`. Text offsets count from `base`."""
    if len(data) < first + count * size:
        raise ValueError("cut off in its list")
    found: dict[str, str] = {}
    for at in range(first, first + count * size, size):
        flags, name, path = (int.from_bytes(data[at + n : at + n + 4], byteorder) for n in (0, 4, 8))
        if flags & _KIND == _LIBC6 and flags & _ABI == _ABIS.get(machine, flags & _ABI):
            found.setdefault(_text(data, base + name), _text(data, base + path))
    return found


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + _TEXT_MAX)
    if end < 0:
        raise ValueError("a name that does not end")
    return data[at:end].decode("utf-8", "surrogateescape")
