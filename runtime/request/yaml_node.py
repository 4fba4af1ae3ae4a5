# SPDX-License-Identifier: BSD-3-Clause
"""What the readers of bollard.yaml share: a mistake with its line, and checks of single nodes of PyYAML's tree."""

from __future__ import annotations

from typing import Any, NamedTuple


class Mistake(NamedTuple):
    """A mistake in one line of bollard.yaml: line number, what is wrong, what to do."""

    line: int
    text: str
    hint: str


def line(node: Any) -> int:
    """Return the number of the line in which the node begins, from 1."""
    return int(node.start_mark.line) + 1


def kind(node: Any) -> str:
    """Return what the node is, for a message: its text, "a list" or "a set of keys"."""
    return {"scalar": f'"{node.value}"', "sequence": "a list", "mapping": "a set of keys"}[node.id]


def is_null(node: Any) -> bool:
    """Return whether the node has no value."""
    return bool(node.id == "scalar" and node.tag == "tag:yaml.org,2002:null")


def checked_path(what: str, path: str, number: int) -> str | Mistake:
    """Return an absolute path, or the mistake in it.

    what: the name of the key, for the mistake.
    path: the path in the file.
    number: its line.
    """
    if not path.startswith("/"):
        return Mistake(number, f'{what}: "{path}" does not begin with /', "name the directory in full")
    if ".." in path.split("/"):
        return Mistake(number, f'{what}: "{path}" has a .. in it', "name the directory in full")
    if "\0" in path or not path.isprintable():
        return Mistake(number, f"{what}: {path!r} has an invisible character", "type the path again")
    return path


def checked_folder(what: str, path: str, number: int) -> str | Mistake:
    """Return an absolute path that is compared as it is, or the mistake in it. Parameters as for `checked_path`."""
    for sign in ("*", "?", "[", "%u"):
        if sign in path:
            text = f'{what}: "{path}" has a {sign} in it, which would stand for itself'
            return Mistake(number, text, "name the directory; what is below it is meant too")
    return checked_path(what, path, number)
