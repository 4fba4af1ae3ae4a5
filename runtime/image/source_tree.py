# SPDX-License-Identifier: BSD-3-Clause
"""What the directory tree of an image to be packed holds: files that are read first, its architecture, its labels."""

from __future__ import annotations

import json
import os
import time
from fnmatch import fnmatchcase

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_MAX_TEXT: Final = 1 << 20
# Files to store uncompressed, the most valuable first: directory pattern, file patterns. `*` also matches `/`.
_HOT: Final = (
    ("*lib*", ("ld-*.so*", "ld.so*", "libc.so*", "libc-*.so", "libc.musl-*")),
    ("etc", ("ld.so.cache", "passwd", "group", "nsswitch.conf")),
    ("*bin", ("sh", "dash", "bash", "busybox", "coreutils", "env")),
    ("*lib*/locale/C.*", ("*",)),
    ("*lib*", ("libtinfo.so*", "libm.so*", "libm-*.so", "libdl[.-]*", "libpthread[.-]*", "librt[.-]*")),
    ("*lib*", ("libselinux.so*", "libpcre2-8.so*", "libacl.so*", "libattr.so*", "libcap.so*", "libnss_*")),
    ("*lib*", ("libresolv[.-]*", "libgcc_s.so*", "libz.so*", "gconv-modules.cache")),
    ("*bin", ("cat", "date", "echo", "hostname", "id", "ls", "printf", "pwd", "sleep", "true", "uname")),
    ("*bin", ("python3.[0-9]", "python3.[0-9][0-9]")),
    ("*lib*", ("libpython3*.so*", "libexpat.so*", "libstdc++.so*")),
    ("*lib/python3.*/encodings/__pycache__", ("__init__.*", "aliases.*", "utf_8.*", "ascii.*", "latin_1.*")),
    ("*lib/python3.[0-9]*/__pycache__", ("_collections_abc.*", "_sitebuiltins.*", "abc.*", "codecs.*")),
    ("*lib/python3.[0-9]*/__pycache__", ("genericpath.*", "io.*", "os.*", "posixpath.*", "site.*", "stat.*")),
    (
        "*lib*",
        ("libmpi.so*", "libmpich.so*", "libopen-*.so*", "libpmix.so*", "libhwloc.so*", "libevent*.so*"),
    ),
    ("*lib*", ("libucp.so*", "libuct.so*", "libucs.so*", "libucm.so*", "libfabric.so*", "libibverbs.so*")),
)
_HOT_FLOOR: Final = 8 << 20
_HOT_SHARE: Final = 0.10  # of the tree's bytes; keeps the image's growth under 15 %
_HOT_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-/")
_MAX_EXPRESSION: Final = 100_000  # bytes; execve(2) allows 128 KiB for one argument
# e_machine of an ELF header: Go's name if little-endian, Go's name if big-endian.
_ELF_MACHINES: Final = {
    3: ("386", "386"),
    8: ("mipsle", "mips"),
    21: ("ppc64le", "ppc64"),
    22: ("s390x", "s390x"),
    40: ("arm", "arm"),
    62: ("amd64", "amd64"),
    183: ("arm64", "arm64"),
    243: ("riscv64", "riscv64"),
    258: ("loong64", "loong64"),
}


def hot_files(source: str) -> list[str]:
    """Return the paths of the files to store uncompressed, the most valuable first.

    Together they have at most 8 MiB or 10 % of the tree's size, whichever is more.
    """
    ranked: list[tuple[int, str, int]] = []
    total = 0
    for place, name, size in regular_files(source):
        total += size
        path = f"{place}/{name}" if place else name
        for rank, (places, names) in enumerate(_HOT):
            if fnmatchcase(place, places) and any(fnmatchcase(name, pattern) for pattern in names):
                if _HOT_CHARACTERS.issuperset(path):
                    ranked.append((rank, path, size))
                break
    budget = max(_HOT_FLOOR, int(total * _HOT_SHARE))
    length = _MAX_EXPRESSION
    chosen = []
    for _, path, size in sorted(ranked):
        cost = len(f"pathname({path}) || ")
        if size <= budget and cost <= length:
            chosen.append(path)
            budget -= size
            length -= cost
    return chosen


def tree_arch(source: str) -> str:
    """Return the architecture of a tree as Go names it ("amd64").

    It is that of /bin/sh, else of the first program in the tree, else of this machine.
    """
    shell = resolve(source, "bin/sh")
    arch = _elf_arch(shell) if shell else ""
    if arch:
        return arch
    for place, name, _ in regular_files(source):
        path = os.path.join(source, place, name)
        if os.access(path, os.X_OK):
            arch = _elf_arch(path)
            if arch:
                return arch
    return sif.arch_name(os.uname().machine)


def tree_labels(source: str, arch: str) -> dict[str, str]:
    """Return the labels of the tree together with those of the label schema, which replace equal names.

    Raises:
        BollardError: the tree's `labels.json` is not a JSON object.
    """
    labels: dict[str, str] = {}
    text = read(source, ".singularity.d/labels.json")
    if text:
        try:
            own = json.loads(text)
        except ValueError:
            own = None
        if not isinstance(own, dict):
            raise BollardError(f"{source}/.singularity.d/labels.json: not a JSON object", "repair or remove it")
        labels.update((str(name), str(value)) for name, value in own.items())
    labels.update(schema_labels(arch))
    return labels


def schema_labels(arch: str) -> dict[str, str]:
    """Return the labels that every build sets; `arch` is Go's name of the architecture.

    Raises:
        BollardError: SOURCE_DATE_EPOCH is set and is not a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        date = time.gmtime(int(epoch) if epoch is not None else None)
    except (ValueError, OverflowError, OSError):
        raise BollardError(f"SOURCE_DATE_EPOCH={epoch}: not a time", "set it to seconds since 1970") from None
    day = time.strftime("%A_{}_%B_%Y", date).format(date.tm_mday)
    return {
        "org.label-schema.build-arch": arch,
        "org.label-schema.build-date": f"{day}_{date.tm_hour}:{date.tm_min}:{date.tm_sec}_UTC",
        "org.label-schema.schema-version": "1.0",
    }


def regular_files(source: str) -> Iterator[tuple[str, str, int]]:
    """Yield every regular file in a fixed order: directory relative to `source`, name, size in bytes."""
    for directory, below, names in os.walk(source):
        below.sort()
        place = os.path.relpath(directory, source)
        for name in sorted(names):
            info = os.lstat(os.path.join(directory, name))
            if info.st_mode & 0o170000 == 0o100000:
                yield ("" if place == "." else place), name, info.st_size


def present(source: str, path: str) -> bool:
    """Return whether the tree has `path`, or cannot take it because a parent of `path` is not a directory."""
    place = source
    for part in path.split("/"):
        if place != source and (os.path.islink(place) or not os.path.isdir(place)):
            return True
        place = os.path.join(place, part)
        if not os.path.lexists(place):
            return False
    return True


def read(source: str, path: str) -> str:
    """Return the text of a file of the tree, "" if the file does not exist.

    Raises:
        BollardError: the file has more than _MAX_TEXT bytes.
    """
    full = resolve(source, path)
    if full is None:
        return ""
    with open(full, "rb") as file:
        data = file.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise BollardError(f"{full}: more than {_MAX_TEXT} bytes", "such a text does not belong in an image")
    return data.decode("utf-8", "backslashreplace")


def resolve(source: str, path: str) -> str | None:
    """Return the path on the host of the regular file `path` of the tree; links are resolved inside the tree."""
    parts = path.split("/")
    place: list[str] = []
    for _ in range(100):
        if not parts:
            full = os.path.join(source, *place)
            return full if os.path.isfile(full) else None
        part = parts.pop(0)
        if part == "..":
            place = place[:-1]
        elif part not in ("", "."):
            full = os.path.join(source, *place, part)
            if os.path.islink(full):
                link = os.readlink(full)
                if link.startswith("/"):
                    place = []
                parts = link.split("/") + parts
            else:
                place.append(part)
    return None


def _elf_arch(path: str) -> str:
    """Return Go's name of an ELF file's architecture, "" for any other file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(20)
    except OSError:
        return ""  # mksquashfs reads the same file, and fails with its name
    if len(raw) < 20 or raw[:4] != b"\x7fELF":
        return ""
    little = raw[5] == 1
    names = _ELF_MACHINES.get(int.from_bytes(raw[18:20], "little" if little else "big"))
    if names is None:
        return ""
    name = names[0 if little else 1]
    # EI_CLASS 2 is ELFCLASS64: MIPS has the same machine number for 32 and 64 bits.
    return name.replace("mips", "mips64") if name.startswith("mips") and raw[4] == 2 else name
