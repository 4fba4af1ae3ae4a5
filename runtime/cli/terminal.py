# SPDX-License-Identifier: BSD-3-Clause
"""Standard streams that are terminals: what images, servers and other users say acts on none of them.

A control character in a label, a help text or the name of a job could move the cursor, rename the window or type into
the shell. On a terminal each is shown as its escape; into a file or a pipe all bytes go as they are, for scripts read
there what Apptainer writes.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO


class Guarded:
    """A text stream whose `write` escapes; `plain` is the stream itself, for escape sequences of our own."""

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain

    def write(self, text: str) -> int:
        self.plain.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def harmless(text: str) -> str:
    """`text` with an escape in the place of each character that is not printed, but line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(ord(c)) for c in text.replace("\r\n", "\n"))


def _escape(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x7F else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def guard() -> None:
    """Have standard output and standard error escape, where they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Guarded) and stream.isatty():
            setattr(sys, name, Guarded(stream))


def own(sequence: str) -> None:
    """Write an escape sequence of our own to standard output."""
    stream = sys.stdout
    (stream.plain if isinstance(stream, Guarded) else stream).write(sequence)
