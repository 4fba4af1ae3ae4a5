# SPDX-License-Identifier: BSD-3-Clause
"""Read and change the text of plugstack.conf (spank(8)): the plugins it names, the files it includes.

A line is `required|optional PLUGIN [ARGUMENT...]`, or `include PATTERN`; a # begins a comment. All functions are pure,
except `effective` and `unknown`, which read files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

# Limits a file that includes itself.
_DEPTH_MAX = 8


class Line(NamedTuple):
    """A plugin's line, with its file and line number."""

    file: str
    number: int
    required: bool
    plugin: str
    arguments: tuple[str, ...]


def words(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, words) of each line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        found = line.split("#")[0].split()
        if found:
            yield number, found


def includes(text: str, file: str) -> list[str]:
    """The patterns of the include lines in `text`, the content of `file`, as absolute paths."""
    folder = os.path.dirname(file)
    return [os.path.join(folder, found[1]) for _, found in words(text) if found[0] == "include" and len(found) > 1]


def includes_file(text: str, file: str, wanted: str) -> bool:
    """Whether an include line in `text`, the content of `file`, matches the path `wanted`."""
    return any(_matches(wanted, pattern) for pattern in includes(text, file))


def _matches(path: str, pattern: str) -> bool:
    """Whether `pattern` matches, as in glob(7): a wildcard matches no slash, and no dot at the beginning of a name."""
    names, parts = path.split("/"), pattern.split("/")
    return len(names) == len(parts) and all(
        fnmatchcase(name, part) and (part[:1] == "." or name[:1] != ".") for name, part in zip(names, parts)
    )


def with_include(text: str, pattern: str) -> str:
    """`text` with an include line for `pattern` at its end."""
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}include {pattern}\n"


def without_include(text: str, pattern: str) -> str:
    """`text` without the include lines for exactly `pattern`."""
    kept = [line for line in text.splitlines(keepends=True) if line.split("#")[0].split() != ["include", pattern]]
    return "".join(kept)


def plugins(text: str, file: str) -> list[Line]:
    """The plugins that `text`, the content of `file`, names; without included files."""
    return [
        Line(file, number, found[0] == "required", found[1], tuple(found[2:]))
        for number, found in words(text)
        if found[0] in ("required", "optional") and len(found) > 1
    ]


def effective(file: str) -> list[Line]:
    """The plugins that `file` and the files it includes name.

    Raises:
        OSError: a file cannot be read.
    """
    return [line for place, text in _files(file) for line in plugins(text, place)]


def unknown(file: str) -> list[tuple[str, int, str]]:
    """(file, line number, first word) of each line of `file`, and of what it includes, that Slurm ignores.

    Raises:
        OSError: a file cannot be read.
    """
    return [
        (place, number, found[0])
        for place, text in _files(file)
        for number, found in words(text)
        if found[0] not in ("required", "optional", "include") or len(found) < 2
    ]


def _files(file: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of `file` and of each file that it includes."""
    with open(file, errors="replace") as stream:
        text = stream.read()
    yield file, text
    for pattern in includes(text, file) if depth < _DEPTH_MAX else []:
        for name in sorted(glob.glob(pattern)):
            yield from _files(name, depth + 1)
