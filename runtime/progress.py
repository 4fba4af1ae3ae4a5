# SPDX-License-Identifier: BSD-3-Clause
"""Print the steps of a build to stderr: on a terminal each at once, in a log only those of over two seconds."""

from __future__ import annotations

import os
import signal
import sys
import time

_PATIENCE = 2.0  # seconds

_started = time.monotonic()
_pending = ""


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return os.isatty(2)


def say(step: str) -> None:
    """Note that `step` begins. It ends when the next step begins."""
    global _pending
    _pending = step
    if on_terminal():
        _tell()
        return
    signal.signal(signal.SIGALRM, _alarm)  # not a thread, as the build forks
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)


def settle() -> None:
    """Note that the step has ended; it is not printed any more."""
    global _pending
    signal.setitimer(signal.ITIMER_REAL, 0)  # execve(2) keeps a timer
    _pending = ""


def done(result: str) -> None:
    """Note that the last step has ended, and print `result` with the time in seconds."""
    global _pending
    settle()
    seconds = time.monotonic() - _started
    _pending = f"{result}, {seconds:.0f} s"
    if on_terminal() or seconds > _PATIENCE:
        _tell()


def _alarm(number: int, frame: object) -> None:
    _tell()


def _tell() -> None:
    global _pending
    if _pending:
        sys.stderr.write(f"bollard: {_pending}\n")
        sys.stderr.flush()
    _pending = ""
