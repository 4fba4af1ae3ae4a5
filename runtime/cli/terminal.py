# SPDX-License-Identifier: BSD-3-Clause
"""Escape control characters on standard streams that are terminals.

Text from images, servers and other users, such as a label, can hold control characters. On a terminal they could move
the cursor, rename the window or type into the shell. There, each is shown as an escape. Into a file or a pipe, all
bytes are written unchanged, because scripts expect the output of Apptainer.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO


class Guarded:
    """A text stream whose `write` escapes control characters. `plain` is the stream without escaping."""

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain

    def write(self, text: str) -> int:
        """Write the text, escaped; return its length in characters."""
        self.plain.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def harmless(text: str) -> str:
    """Return the text with each unprintable character escaped, except line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(ord(c)) for c in text.replace("\r\n", "\n"))


def _escape(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x7F else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def guard() -> None:
    """Make standard output and standard error escape control characters, if they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Guarded) and stream.isatty():
            setattr(sys, name, Guarded(stream))


def own(sequence: str) -> None:
    """Write bollard's own escape sequence, unescaped, to standard output."""
    stream = sys.stdout
    (stream.plain if isinstance(stream, Guarded) else stream).write(sequence)
