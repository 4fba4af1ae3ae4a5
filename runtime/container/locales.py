# SPDX-License-Identifier: BSD-3-Clause
"""The locales of an image.

If the image lacks the locale that the host's LANG names, perl, bash and others print warnings, so LANG is not passed
then.

The names are read once per container: from glibc's directory /usr/lib/locale, and from the archive in it (struct
locarhead of glibc's locarchive.h). This module runs on the node path: it imports only modules of that path.
"""

from __future__ import annotations

import os

from bollard.runtime.container.environment import normalized
from bollard.runtime.system import linux

_PLACE = "/usr/lib/locale"
_ARCHIVE = "locale-archive"
_MAGIC = 0xDE020109
_HEADER_BYTES = 56
# RHEL's archive of all locales has 900 names in a table of 2000 places.
_NAMES_MAX = 1 << 14
_STRINGS_MAX = 1 << 20
_LOADERS = (b"ld-linux", b"ld64.so")


def available(root: int) -> frozenset[bytes] | None:
    """Return the normalized locale names of the image whose root directory is open at `root`.

    None if the image has no glibc, so that any name may be passed: musl accepts every name.
    """
    loaders = [name for place in ("/lib", "/lib64") for name in _names(root, place)]
    if any(name.startswith(b"ld-musl") for name in loaders):
        return None
    places = _names(root, _PLACE)
    if not places and not any(name.startswith(_LOADERS) for name in loaders):
        return None
    found = {normalized(name) for name in places}
    return frozenset(found | _archived(root) | {b"C", b"POSIX", b""})


def _names(root: int, place: str) -> list[bytes]:
    """Return the names in a directory of the image; [] if it is missing.

    A directory that cannot be read counts as missing: programs of the image cannot read it either.
    """
    try:
        fd = linux.open_in_root(root, place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    except OSError:
        return []
    finally:
        os.close(fd)


def _archived(root: int) -> set[bytes]:
    """Return the normalized names in the locale archive; an empty set without one.

    An archive that cannot be read counts as missing: programs of the image cannot read it either.
    """
    try:
        fd = linux.open_in_root(root, f"{_PLACE}/{_ARCHIVE}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return set()
    try:
        header = memoryview(os.pread(fd, _HEADER_BYTES, 0)).cast("I")
        if len(header) < 8 or header[0] != _MAGIC or header[4] > _NAMES_MAX or header[6] > _STRINGS_MAX:
            return set()
        table = memoryview(os.pread(fd, header[4] * 12, header[2])).cast("I")
        strings, begin = os.pread(fd, header[6], header[5]), header[5]
        used = [table[i + 1] for i in range(0, len(table) - 2, 3) if table[i + 1] >= begin and table[i + 2]]
        return {normalized(strings[at - begin : at - begin + 256].partition(b"\0")[0]) for at in used}
    except (OSError, TypeError):  # TypeError: the length is not a multiple of 4 bytes
        return set()
    finally:
        os.close(fd)
