# SPDX-License-Identifier: BSD-3-Clause
"""Show the steps of a long command on stderr.

Terminal: the running step is a live line, with bytes, speed and time left where they are known. A file, in a job, and a
terminal that cannot go back in a line (TERM=dumb): a short line for each step that takes over two seconds, and once a
minute for one that goes on. Another pipe: nothing.
"""

from __future__ import annotations

import os
import signal
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 2.0  # seconds
_AGAIN = 60.0  # seconds between two lines about one step in a log
_REDRAW = 0.2  # seconds
_WINDOW = 5.0  # seconds over which the speed is measured
_LEAST_WINDOW = 1.5  # seconds; the first bytes tell no speed
_LEAST_NAME = 12  # columns of the name of a step that has ended
_DUMB = ("dumb", "unknown")

TERMINAL, LOG, NOWHERE = "terminal", "log", "nowhere"

_started = time.monotonic()


class _Step:
    """The running step: its name, when it began, whether it was shown, and how many bytes it has moved."""

    def __init__(self, name: str, live: bool) -> None:
        self.name = name
        self.live = live
        self.began = time.monotonic()
        self.told = False
        self.moved = 0
        self.total = 0
        self.samples: list[tuple[float, int]] = [(self.began, 0)]


_step: _Step | None = None
_drawn = False  # a live line is on the terminal, without its end
_where = ""


def where() -> str:
    """Return what stderr is: TERMINAL, LOG or NOWHERE."""
    global _where
    if not _where:
        try:
            mode = os.fstat(2).st_mode
        except OSError:
            mode = 0  # stderr is closed
        if os.isatty(2):
            _where = LOG if os.environ.get("TERM") in _DUMB else TERMINAL
        else:
            in_job = "SLURM_JOB_ID" in os.environ and not stat.S_ISCHR(mode)
            _where = LOG if stat.S_ISREG(mode) or in_job else NOWHERE
    return _where


def say(step: str, *, live: bool = True) -> None:
    """Note that `step` begins. It ends when the next step begins.

    step: what is done, for the user.
    live: False for a step whose programs write to the terminal themselves: its line is written once.
    """
    global _step
    if _step and live and (_step.name, _step.live) == (step, live):
        return
    settle()
    _step = _Step(step, live)
    place = where()
    if place == TERMINAL and not live:
        _write(f"bollard: {_shown(step)}\n")
    elif place == TERMINAL:
        from bollard.runtime import live_line

        live_line.loaded()  # here: the alarm must not import
        _draw()
        _alarm_in(_REDRAW, _REDRAW)
    elif place == LOG:
        _alarm_in(_PATIENCE, _AGAIN)


def moved(count: int, total: int = 0) -> None:
    """Note how many bytes the running step has moved, and how many it will move; 0 if that is unknown."""
    if _step:
        _step.moved, _step.total = count, max(total, 0)


def settle() -> None:
    """Note that the step has ended. On a terminal its line stays, with the time that it took."""
    global _step
    signal.setitimer(signal.ITIMER_REAL, 0)  # execve(2) keeps a timer
    step, _step = _step, None
    if step and step.live and where() == TERMINAL:
        from bollard.runtime import live_line

        clear()
        step.moved = step.total or step.moved  # the last bytes came after the last look
        facts = _facts(step)
        name = live_line.shortened(_shown(step.name), max(_width() - len(f"bollard: , {facts}"), _LEAST_NAME))
        _write(f"bollard: {name}, {facts}\n")


def done(result: str) -> None:
    """Note that the last step has ended, and print `result` with the time in seconds."""
    settle()
    seconds = time.monotonic() - _started
    if where() == TERMINAL or where() == LOG and seconds > _PATIENCE:
        _write(f"bollard: {_shown(result)}, {seconds:.0f} s\n")


def note(text: str) -> None:
    """Print a line of its own to stderr, above the live line."""
    clear()
    _write(f"{_shown(text)}\n")


def clear() -> None:
    """Remove the live line, so that an error or a program's output begins at the left."""
    global _drawn
    if _drawn:
        _write("\r\033[K")
    _drawn = False


def abandon() -> None:
    """Note that the step has failed: its live line is removed, and nothing is said about it any more."""
    global _step
    signal.setitimer(signal.ITIMER_REAL, 0)
    _step = None
    clear()


def ended(work: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `work`, for a forked child; when it fails, its live line is removed."""

    def shown() -> None:
        try:
            work()
        except BaseException:
            abandon()
            raise

    return shown


def _alarm_in(seconds: float, again: float) -> None:
    signal.signal(signal.SIGALRM, _alarm)  # not a thread, as the build forks
    signal.setitimer(signal.ITIMER_REAL, seconds, again)


def _alarm(number: int, frame: object) -> None:
    if not _step:
        return
    now = time.monotonic()
    if where() == TERMINAL:
        _step.samples = [(at, count) for at, count in _step.samples if now - at <= _WINDOW] + [(now, _step.moved)]
        _draw()
        return
    more = f", {_facts(_step)}" if _step.told else ""
    _step.told = True
    _write(f"bollard: {_shown(_step.name)}{more}\n")


def _draw() -> None:
    global _drawn
    from bollard.runtime import live_line

    assert _step
    first = _step.samples[0]
    passed = time.monotonic() - first[0]
    rate = (_step.moved - first[1]) / passed if passed > _LEAST_WINDOW else 0
    state = live_line.State(_step.name, time.monotonic() - _step.began, _step.moved, _step.total, rate)
    _write(f"\r{live_line.text(state, _width())}\033[K")
    _drawn = True


def _width() -> int:
    """Return the columns of the terminal."""
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80  # the terminal has gone; the write fails too


def _facts(step: _Step) -> str:
    """Return what a step has moved, and its time."""
    from bollard.runtime import live_line

    seconds = live_line.clock(time.monotonic() - step.began)
    if not step.moved:
        return seconds
    of = f" of {live_line.size(step.total)}" if step.total > step.moved else ""
    return f"{live_line.size(step.moved)}{of}, {seconds}"


def _shown(text: str) -> str:
    from bollard.runtime.errors import shown

    return shown(text)


def _write(text: str) -> None:
    """Write to stderr at once, also from the alarm: sys.stderr may be in the middle of a write."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass  # nobody reads what is shown; the command goes on
