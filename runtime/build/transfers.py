# SPDX-License-Identifier: BSD-3-Clause
"""Copy the files of %files into the tree of a build, from the host or from another stage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from bollard.runtime import causes
from bollard.runtime.build.definition import Transfer
from bollard.runtime.image import image
from bollard.runtime.system import tree as trees
from bollard.runtime.system.tree import Tree


class Place(NamedTuple):
    """The tree of a build, the directory in which the build was started, and the definition's name for messages."""

    tree: Tree
    cwd: str
    name: str


def from_host(place: Place, transfer: Transfer) -> None:
    """Copy the files of one line of %files; links are followed, as by cp -L.

    Raises:
        BollardError: a file cannot be read, or the tree cannot be written.
    """
    pattern = os.path.expanduser(transfer.source)
    pattern = pattern if pattern.startswith("/") else os.path.join(place.cwd, pattern)
    host = Tree("/")
    try:
        for path in host.glob(pattern):
            target = transfer.target or (transfer.source if path == pattern else path)
            _copy(place, path, target, transfer, os.path.dirname(path.rstrip("/")) or "/", path)
    finally:
        host.close()


def from_stage(place: Place, source: Tree, transfer: Transfer) -> None:
    """Copy the files of one line of `%files from`; a link that is named is followed, links inside are kept.

    place: where the files go.
    source: the tree of the other stage.
    transfer: the line.

    Raises:
        BollardError: as `from_host`.
    """
    for path in source.glob(transfer.source):
        try:
            with source.opened(path) as fd:
                full = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            # a link to nothing, which is copied as a link; any other fault is told by the copy
            full = f"{source.path}/{path.strip('/')}"
        _copy(place, full, transfer.target or path, transfer, os.path.dirname(full), path, follow=False)


def _copy(
    place: Place, full: str, target: str, transfer: Transfer, above: str, shown: str, *, follow: bool = True
) -> None:
    if not target.startswith("/"):
        target = f"/{target}"
    if place.tree.kind(target.rstrip("/") or "/") == trees.DIRECTORY:
        target = f"{target.rstrip('/')}/"
    if target.endswith("/"):
        target += os.path.basename(shown.rstrip("/"))
    try:
        with _directory(above) as fd:
            place.tree.copy_in(fd, os.path.basename(full.rstrip("/")), target, follow=follow)
    except (OSError, trees.CopyError) as error:
        path, reason = (error.path, error.reason) if isinstance(error, trees.CopyError) else ("", error.strerror)
        where = f"{place.name}:{transfer.line}"
        doing = f"{where}: %files {image.shown(shown.rstrip('/') + path)}"
        cure = "check the path, and that you may read it"
        raise causes.of_words(reason or str(error), doing, place.tree.path, cure) from None


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
