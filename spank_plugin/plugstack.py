# SPDX-License-Identifier: BSD-3-Clause
"""plugstack.conf(5) as text: which plugins it names, which files it includes, how to add and take away a line.

A line is `required|optional PLUGIN [ARGUMENT...]`, or `include PATTERN`; what follows a # does not count. Pure
functions, but for `effective`, which reads files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

# A file that includes itself would have no end.
_DEPTH_MAX = 8


class Line(NamedTuple):
    """A plugin's line, and where it stands."""

    file: str
    number: int
    required: bool
    plugin: str
    arguments: tuple[str, ...]


def words(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of each line that says something."""
    for number, line in enumerate(text.splitlines(), 1):
        found = line.split("#")[0].split()
        if found:
            yield number, found


def includes(text: str, file: str) -> list[str]:
    """The patterns that `text`, the content of `file`, includes, from / on."""
    folder = os.path.dirname(file)
    return [os.path.join(folder, found[1]) for _, found in words(text) if found[0] == "include" and len(found) > 1]


def includes_file(text: str, file: str, wanted: str) -> bool:
    """Whether `text`, the content of `file`, includes the file `wanted` itself."""
    return any(_matches(wanted, pattern) for pattern in includes(text, file))


def _matches(path: str, pattern: str) -> bool:
    """As glob(7): a wildcard stands for no slash, and for no dot at the beginning of a name."""
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
    """The plugins that `text`, the content of `file`, names itself."""
    return [
        Line(file, number, found[0] == "required", found[1], tuple(found[2:]))
        for number, found in words(text)
        if found[0] in ("required", "optional") and len(found) > 1
    ]


def effective(file: str, depth: int = 0) -> list[Line]:
    """The plugins that `file` and all it includes name; OSError when it cannot be read."""
    with open(file) as stream:
        text = stream.read()
    found = plugins(text, file)
    for pattern in includes(text, file) if depth < _DEPTH_MAX else []:
        for name in sorted(glob.glob(pattern)):
            found += effective(name, depth + 1)
    return found
