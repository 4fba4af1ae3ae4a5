# SPDX-License-Identifier: BSD-3-Clause
"""Expand the variables of a path that is written as one word of a shell."""

from __future__ import annotations

import re

from bollard.runtime.shell import interpreter
from bollard.runtime.shell.words import Reader, is_name

_PLAIN = re.compile(rb"(\\.)|([ \t\n;&|<>)'\"]|(?<!\$)\()", re.DOTALL)
_BACKSLASH = re.compile(rb"(\\)")


def pieces(text: bytes, values: dict[bytes, bytes]) -> tuple[list[tuple[bool, bytes]], bytes]:
    """Return a path as pieces (quoted, text) with its variables replaced, and the name of one that is not set or b"".

    Blanks, quotes and separators of commands are ordinary characters here. A wildcard counts where it is not quoted,
    also in the value of a variable.

    Raises:
        Unsupported: the path has a command substitution, or anything else that needs a real shell.
    """
    word = Reader(_PLAIN.sub(lambda match: match[1] or b"\\" + match[2], text)).word()
    unset = [part[1] for part in word if len(part) == 4 and not part[2] and is_name(part[1]) and part[1] not in values]
    found: list[tuple[bool, bytes]] = []
    for part in word:
        if len(part) == 2:
            found.append((part[0], part[1]))
            continue
        # A backslash in a value is an ordinary character.
        for piece in _BACKSLASH.split(interpreter.flat([part], values)):
            found.append((part[0] or piece == b"\\", piece))
    return found, unset[0] if unset else b""
