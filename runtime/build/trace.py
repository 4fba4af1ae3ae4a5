# SPDX-License-Identifier: BSD-3-Clause
"""Trace the commands of %post and %test: which one failed, and in which line of the definition file."""

from __future__ import annotations

import os
from typing import NamedTuple

_MARK = "\x1e"  # ASCII's record separator; marks the beginning of a traced command
_TRACE = f"PS4='{_MARK}$LINENO:+ '; set -x; . \"$0\""
_MAX_LINE = 65536


class Trace(NamedTuple):
    """The last command that `sh -x` has printed: its text, and its line in the script (0 if unknown, as in dash)."""

    command: str = ""
    line: int = 0


def traced(argv: list[str], script: str) -> list[str]:
    """Return `argv`, which runs `script`, changed so that `sh -x` prints line numbers. Only for a plain `sh -ex`."""
    return ["/bin/sh", "-ec", _TRACE, script] if argv == ["/bin/sh", "-ex", script] else argv


def relay(reader: int) -> Trace:
    """Copy the program's stderr to ours, without the marks of `_TRACE`; return the last traced command."""
    trace = Trace()
    held = b""
    mark = _MARK.encode()
    while True:
        part = os.read(reader, 65536)
        data = held + part
        lines = data.split(b"\n")
        # An incomplete line without a mark is written at once: it can be a question or a progress bar.
        held = lines.pop() if part and mark in lines[-1] and len(lines[-1]) < _MAX_LINE else b""
        tail = [] if held else [lines.pop()]
        out = []
        for line in lines:
            clean, found = _unmarked(line)
            if found and found.command.startswith(". /") and not trace.command:
                continue  # the command of `_TRACE` that reads the script
            trace = found or trace
            out.append(clean + b"\n")
        out += [_unmarked(line)[0] for line in tail]
        _write_all(2, b"".join(out))
        if not part:
            os.close(reader)
            return trace


def _unmarked(line: bytes) -> tuple[bytes, Trace | None]:
    """Return the line without its mark, and the traced command if it has a mark. Subshells repeat the mark."""
    at = line.find(_MARK.encode())
    if at < 0:
        return line, None
    depth = 1
    rest = line[at + 1 :]
    while rest.startswith(_MARK.encode()):
        rest, depth = rest[1:], depth + 1
    number, colon, text = rest.partition(b":+ ")
    if not colon:
        return line, None
    shown = text.decode("utf-8", "replace")
    return line[:at] + b"+" * depth + b" " + text, Trace(shown, int(number) if number.isdigit() else 0)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def line_of(command: str, text: str) -> int:
    """Return the number of the line that matches a traced command; 0 if no line or several lines match."""
    words = command.replace("'", "").replace('"', "").split()
    lines = [line.replace("'", "").replace('"', "").split() for line in text.split("\n")]
    for length in (len(words), 2, 1):
        found = [number for number, line in enumerate(lines, 1) if words and line[:length] == words[:length]]
        if len(found) == 1:
            return found[0]
    return 0
