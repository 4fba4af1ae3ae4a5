# SPDX-License-Identifier: BSD-3-Clause
"""The text of the line that shows a running step on a terminal. rich draws it where it is installed.

Without rich the line says the same in plain characters. Only a command that shows something on a terminal loads rich,
and only for a step that lasts: the node path never does.
"""

from __future__ import annotations

import os
import sys

from bollard.runtime.errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BAR = 20  # columns
_LEAST_STEP = 20  # columns of the step's name
_NARROW_STEP = 12  # the same on a narrow terminal, where facts are left out for it
_RICH_LEAST = 60  # columns; a table of rich wraps in less
_MEGA = 1e6


class State:
    """A running step.

    step: its name.
    seconds: for how long it has run.
    moved, total: bytes; 0 for a step that moves none, or if the total is unknown.
    rate: bytes a second, 0 if unknown.
    """

    __slots__ = ("moved", "rate", "seconds", "step", "total")

    def __init__(self, step: str, seconds: float, moved: int = 0, total: int = 0, rate: float = 0) -> None:
        self.step = step
        self.seconds = seconds
        self.moved = moved
        self.total = total
        self.rate = rate


def facts(state: State, room: int = 1000) -> str:
    """Return what is known of a step: bytes, speed and time left, or the seconds that it has run.

    state: the step.
    room: columns; where it is too little, speed and then bytes are left out.
    """
    if not state.moved and not state.total:
        return clock(state.seconds)
    words = [f"{size(state.moved)[:-3]}/{size(state.total)}" if state.total else size(state.moved)]
    if state.rate > 0:
        words.append(f"{size(state.rate)}/s")
        if state.total > state.moved:
            words.append(f"{clock((state.total - state.moved) / state.rate)} left")
    while len(words) > 1 and len("  ".join(words)) > room:
        del words[1 if len(words) > 2 else 0]
    return "  ".join(words)


def size(count: float) -> str:
    """Return a number of bytes in MB, with one digit after the point below 100 MB."""
    return f"{count / _MEGA:.1f} MB" if count < 100 * _MEGA else f"{count / _MEGA:.0f} MB"


def clock(seconds: float) -> str:
    """Return a time as "7 s", "2:05 min" or "1:02 h"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"


def text(state: State, width: int) -> str:
    """Return the line without its end, at most `width` - 1 columns wide."""
    said = facts(state, width - 1 - len("bollard:   ") - _NARROW_STEP)
    bar = bool(state.total) and width > len(said) + _BAR + _LEAST_STEP + 14
    room = max(width - 1 - len("bollard:   ") - len(said) - (_BAR + 4 if bar else 0), 1)
    step = shortened(shown(state.step), room)
    rich = loaded()
    if rich and width >= _RICH_LEAST:
        return _by_rich(rich, step, said, state if bar else None, width)
    parts = [f"bollard: {step}", *([_plain_bar(state)] if bar else []), said]
    return "  ".join(parts)[: width - 1]


def shortened(word: str, room: int) -> str:
    """Return the text, with its middle left out if it has more than `room` columns."""
    if len(word) <= room:
        return word
    end = max(room // 2 - 1, 0)
    return f"{word[: max(room - end - 1, 0)]}…{word[len(word) - end :]}"


def _plain_bar(state: State) -> str:
    done = min(int(_BAR * state.moved / state.total), _BAR)
    return f"[{'#' * done}{'-' * (_BAR - done)}]"


_rich: Any = None


def loaded() -> Any:
    """Return the module rich.progress_bar with the parts that are needed, or False if rich is not installed.

    NO_COLOR and TERM=dumb are obeyed by rich.
    """
    global _rich
    if _rich is None:
        try:
            if sys.flags.no_site:
                import site

                site.main()  # the installed command runs without the system's packages; rich is one of them
            import rich.console
            import rich.progress_bar
            import rich.table
            import rich.text

            _rich = rich
        except ImportError:
            _rich = False  # the plain line says the same
    return _rich


def _by_rich(rich: Any, step: str, said: str, state: State | None, width: int) -> str:
    with open(os.devnull, "w") as nowhere:
        console = rich.console.Console(file=nowhere, force_terminal=True, width=width - 1, highlight=False)
        row = rich.table.Table.grid(padding=(0, 2))
        cells = [rich.text.Text.assemble("bollard: ", (step, "bold"))]
        if state:
            cells.append(rich.progress_bar.ProgressBar(state.total, min(state.moved, state.total), width=_BAR))
        cells.append(rich.text.Text(said, "cyan"))
        for _ in cells:
            row.add_column(no_wrap=True)
        row.add_row(*cells)
        with console.capture() as got:
            console.print(row, end="")
    found: str = got.get()
    return found.rstrip("\n")
