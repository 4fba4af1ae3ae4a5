# SPDX-License-Identifier: BSD-3-Clause
"""Tell on stderr what a build is doing: at once on a terminal, in a log only what takes over two seconds."""

from __future__ import annotations

import os
import signal
import sys
import time

_PATIENCE = 2.0  # seconds

_started = time.monotonic()
_pending = ""


def on_terminal() -> bool:
    return os.isatty(2)


def say(step: str) -> None:
    """`step` begins; it ends when the next does."""
    global _pending
    _pending = step
    if on_terminal():
        _tell()
        return
    signal.signal(signal.SIGALRM, _alarm)  # no thread: the build forks
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)


def settle() -> None:
    """The step has ended, and nothing more is to be said of it."""
    global _pending
    signal.setitimer(signal.ITIMER_REAL, 0)  # it would outlive exec
    _pending = ""


def done(result: str) -> None:
    """The last step has ended."""
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
