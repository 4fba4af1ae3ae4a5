# SPDX-License-Identifier: BSD-3-Clause
"""The locales of an image: a host's LANG that the image has no locale for makes perl, bash and others complain.

Read once per container, from the names alone: glibc's directory /usr/lib/locale, and the archive in it (struct
locarhead of glibc's locarchive.h). Runs on the node path: no import but its siblings.
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
    """The locales below the directory descriptor `root`, normalized; None where no C library of GNU's says so: musl
    takes any name."""
    loaders = [name for place in ("/lib", "/lib64") for name in _names(root, place)]
    if any(name.startswith(b"ld-musl") for name in loaders):
        return None
    places = _names(root, _PLACE)
    if not places and not any(name.startswith(_LOADERS) for name in loaders):
        return None
    found = {normalized(name) for name in places}
    return frozenset(found | _archived(root) | {b"C", b"POSIX", b""})


def _names(root: int, place: str) -> list[bytes]:
    """What is in a directory of the image; nothing where it is missing."""
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
    """The names in the archive of locales; none where there is no archive that can be read."""
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
    except (OSError, TypeError):  # TypeError: no whole number of words
        return set()
    finally:
        os.close(fd)
