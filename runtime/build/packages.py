# SPDX-License-Identifier: BSD-3-Clause
"""List the packages that are installed in a file tree, from the databases of package managers. Runs no program.

    deb     /var/lib/dpkg/status, /var/lib/dpkg/status.d/*
    rpm     rpm_database.PLACES
    apk     /lib/apk/db/installed, /usr/lib/apk/db/installed
    pypi    */NAME.dist-info/METADATA, */NAME.egg-info/PKG-INFO, */NAME.egg-info
    conda   */conda-meta/*.json
    npm     */node_modules/NAME/package.json, */package-lock.json

The tree is an image's, so nothing in it is trusted: paths are resolved beneath its root, and sizes are limited. What
cannot be read is reported as a gap; the caller says so.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bollard.runtime.build import rpm_database
from bollard.runtime.system.tree import Tree

# In bytes: of one database, and of one file that describes a single package.
DATABASE_MAX = 256 << 20
FILE_MAX = 4 << 20
PACKAGES_MAX = 100_000
_DPKG = "/var/lib/dpkg/status"
_DPKG_FIELDS = ("package", "version", "architecture", "source")
_DPKG_PARTS = "/var/lib/dpkg/status.d"  # in images of "distroless"
_APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_LOCK = "package-lock.json"


class Package(NamedTuple):
    """An installed package.

    kind: "deb", "rpm", "apk", "pypi", "conda" or "npm".
    name, version: as the package manager prints them.
    arch: "" if the package manager records none.
    origin: the source package, "" if it has the same name; of conda, the channel.
    """

    kind: str
    name: str
    version: str
    arch: str = ""
    origin: str = ""


class Found(NamedTuple):
    """The packages of a tree, sorted, and the gaps: one text for each database or file that could not be read."""

    packages: tuple[Package, ...]
    gaps: tuple[str, ...]


class _Unreadable(Exception):
    """A database or a file that is too large or damaged."""


def of_tree(tree: Tree) -> Found:
    """Return the packages that are installed in the tree."""
    found: set[Package] = set()
    gaps: list[str] = []

    def add(path: str, limit: int, reader: Callable[[bytes], Iterator[Package]]) -> None:
        try:
            data = _read(tree, path, limit)
            for package in reader(data) if data is not None else ():
                if len(found) >= PACKAGES_MAX:
                    raise _Unreadable(f"the image has over {PACKAGES_MAX} packages")
                if package.name and package.version:
                    found.add(package)
        except (_Unreadable, rpm_database.Damaged) as error:
            gaps.append(f"{path}: {error}")
        except OSError as error:
            gaps.append(f"{path}: {error.strerror}")

    add(_DPKG, DATABASE_MAX, debian)
    for name in tree.names(_DPKG_PARTS):
        if not name.endswith(".md5sums"):
            add(f"{_DPKG_PARTS}/{name}", FILE_MAX, debian)
    for path in _APK:
        add(path, DATABASE_MAX, alpine)
    for path in rpm_database.PLACES:
        add(path, DATABASE_MAX, _rpm)
    for path, reader in _described(tree.path):
        add(path, DATABASE_MAX if path.endswith(_LOCK) else FILE_MAX, reader)
    return Found(tuple(sorted(found)), tuple(gaps))


def _read(tree: Tree, path: str, limit: int) -> bytes | None:
    """Return the content of a regular file of the tree; None if it is missing or another kind of file."""
    try:
        with tree.opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as fd:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return None
            if info.st_size > limit:
                raise _Unreadable(f"has {info.st_size} bytes, at most {limit} are read")
            with open(fd, "rb", closefd=False) as file:
                return file.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None  # this image has no such database


def debian(data: bytes) -> Iterator[Package]:
    """Yield the packages of a dpkg status file that are installed (dpkg(1), deb-control(5))."""
    for entry in re.split(rb"\n[ \t]*\n", data):
        fields = _fields(entry)
        if fields.get("status", "install ok installed").split(" ")[-1] == "installed":
            name, version, arch, origin = (fields.get(key, "") for key in _DPKG_FIELDS)
            yield Package("deb", name, version, arch, origin.split(" ")[0])


def _fields(entry: bytes) -> dict[str, str]:
    """Return the one-line fields of an entry, names in lower case; the first of a name counts."""
    found: dict[str, str] = {}
    for line in entry.decode("utf-8", "replace").split("\n"):
        name, colon, value = line.partition(":")
        if colon and name[:1] not in ("", " ", "\t"):
            found.setdefault(name.lower(), value.strip())
    return found


def alpine(data: bytes) -> Iterator[Package]:
    """Yield the packages of apk's database: entries with one-letter fields, case-sensitive."""
    for entry in data.split(b"\n\n"):
        fields = dict(line.split(":", 1) for line in entry.decode("utf-8", "replace").split("\n") if line[1:2] == ":")
        yield Package("apk", fields.get("P", ""), fields.get("V", ""), fields.get("A", ""), fields.get("o", ""))


def _rpm(data: bytes) -> Iterator[Package]:
    for item in rpm_database.packages(data):
        epoch = f"{item.epoch}:" if item.epoch else ""
        yield Package("rpm", item.name, f"{epoch}{item.version}-{item.release}", item.arch, item.source)


def python(data: bytes) -> Iterator[Package]:
    """Yield the package of a METADATA or PKG-INFO file (PEP 566); only the header is read."""
    fields = _fields(data.split(b"\n\n", 1)[0])
    yield Package("pypi", fields.get("name", ""), fields.get("version", ""))


def conda(data: bytes) -> Iterator[Package]:
    """Yield the package of a file in conda-meta."""
    record = _object(data)
    yield Package("conda", *(_word(record, key) for key in ("name", "version", "subdir", "channel")))


def npm(data: bytes) -> Iterator[Package]:
    """Yield the package of a package.json."""
    record = _object(data)
    yield Package("npm", _word(record, "name"), _word(record, "version"))


def npm_lock(data: bytes) -> Iterator[Package]:
    """Yield the packages of a package-lock.json, in its versions 1 to 3."""
    record = _object(data)
    listed = record.get("packages")
    if isinstance(listed, dict):
        for path, item in listed.items():
            name = path.rpartition("node_modules/")[2] if "node_modules/" in path else ""
            if name and isinstance(item, dict):
                yield Package("npm", _word(item, "name") or name, _word(item, "version"))
        return
    todo = [record]
    while todo:
        inside = todo.pop().get("dependencies")
        for name, item in inside.items() if isinstance(inside, dict) else ():
            if isinstance(item, dict):
                yield Package("npm", name, _word(item, "version"))
                todo.append(item)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _Unreadable("not JSON") from None
    if not isinstance(found, dict):
        raise _Unreadable("not a JSON object")
    return found


def _word(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _described(root: str) -> Iterator[tuple[str, Callable[[bytes], Iterator[Package]]]]:
    """Yield (path in the tree, reader) for each file that describes a package of Python, conda or npm.

    os.walk follows no symlink. `node_modules` has a package, or a scope `@NAME` of packages, in each directory.
    """
    for directory, below, files in os.walk(root):
        below.sort()
        place = directory[len(root) :].rstrip("/")
        if not place:
            below[:] = [name for name in below if name not in ("dev", "proc", "sys")]
        last = os.path.basename(place)
        if last.endswith(".dist-info") and "METADATA" in files:
            yield f"{place}/METADATA", python
        elif last.endswith(".egg-info") and "PKG-INFO" in files:
            yield f"{place}/PKG-INFO", python
        elif last == "conda-meta":
            yield from ((f"{place}/{name}", conda) for name in sorted(files) if name.endswith(".json"))
        elif "package.json" in files and _is_in_node_modules(place):
            yield f"{place}/package.json", npm
        if last.endswith((".dist-info", ".egg-info")):
            continue
        yield from ((f"{place}/{name}", python) for name in sorted(files) if name.endswith(".egg-info"))
        if _LOCK in files:
            yield f"{place}/{_LOCK}", npm_lock


def _is_in_node_modules(place: str) -> bool:
    parts = place.split("/")
    return parts[-2:-1] == ["node_modules"] or (parts[-3:-2] == ["node_modules"] and parts[-2].startswith("@"))
