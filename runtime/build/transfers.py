# SPDX-License-Identifier: BSD-3-Clause
"""Copy the files of %files into the tree of a build, from the host or from another stage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from bollard.runtime import causes
from bollard.runtime.build.definition import Transfer
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.shell import paths, words
from bollard.runtime.system import tree as trees
from bollard.runtime.system import wildcards
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
    named = pattern(place, transfer)
    named = os.path.expanduser(named) if transfer.source.startswith("~") else named
    front = "" if named.startswith("/") else f"{place.cwd.rstrip('/')}/"
    with contextlib.closing(Tree("/")) as host:
        for path in host.glob(wildcards.escaped(front) + named):
            target = transfer.target or os.path.normpath(f"/{path[len(front) :]}")
            _copy(place, path, target, transfer, os.path.dirname(path.rstrip("/")) or "/", path)


def from_stage(place: Place, source: Tree, transfer: Transfer) -> None:
    """Copy the files of one line of `%files from`; a link that is named is followed, links inside are kept.

    place: where the files go.
    source: the tree of the other stage.
    transfer: the line.

    Raises:
        BollardError: as `from_host`.
    """
    for path in source.glob(pattern(place, transfer)):
        try:
            with source.opened(path) as fd:
                full = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            # a link to nothing, which is copied as a link; any other fault is told by the copy
            full = f"{source.path}/{path.strip('/')}"
        _copy(place, full, transfer.target or path, transfer, os.path.dirname(full), path, follow=False)


def pattern(place: Place, transfer: Transfer) -> str:
    """Return the source of a transfer as a pattern: its variables are replaced, quoted characters have a backslash.

    Raises:
        BollardError: a variable is not set, or the source has a command.
    """
    where = f"{place.name}:{transfer.line}: %files {image.shown(transfer.source)}"
    try:
        pieces, unset = paths.pieces(os.fsencode(transfer.source), dict(os.environb))
    except words.Unsupported as error:
        hint = "write the path itself, or use a build argument"
        raise BollardError(f"{where}: {error}: not expanded", hint) from None
    if unset:
        name = os.fsdecode(unset)
        raise BollardError(f"{where}: {name} is not set", f"export {name}; for a dollar sign in a name, write \\$")
    return "".join(wildcards.escaped(os.fsdecode(text)) if quoted else os.fsdecode(text) for quoted, text in pieces)


def _copy(
    place: Place, full: str, target: str, transfer: Transfer, above: str, shown: str, *, follow: bool = True
) -> None:
    if not shown.strip("/"):
        hint = "name the directories of it"
        raise BollardError(f"{place.name}:{transfer.line}: %files {shown}: a whole root filesystem", hint)
    if not target.startswith("/"):
        target = f"/{target}"
    if place.tree.kind(target.rstrip("/") or "/") == trees.DIRECTORY:
        target = f"{target.rstrip('/')}/"
    if target.endswith("/"):
        target += os.path.basename(shown.rstrip("/"))
    where = f"{place.name}:{transfer.line}: %files {image.shown(shown.rstrip('/'))}"
    try:
        with _directory(above) as fd:
            place.tree.copy_in(fd, os.path.basename(full.rstrip("/")), target, follow=follow)
    except BollardError as error:
        raise BollardError(f"{where}: {error.message}", error.hint) from None
    except (OSError, trees.CopyError) as error:
        found = error if isinstance(error, trees.CopyError) else trees.CopyError("", error.strerror or str(error))
        raise causes.of_words(found.reason, f"{where}{found.path}", place.tree.path, found.hint) from None


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
