# SPDX-License-Identifier: BSD-3-Clause
"""The times of the phases of a container's start, and their lines for `--container-verbose`."""

from __future__ import annotations

import time

_HOUR = 3_600_000_000_000


class Clock:
    """The phases in order, with times in ns of CLOCK_MONOTONIC. `begin` is the start; 0 means now."""

    __slots__ = ("begin", "phases", "wall")

    def __init__(self, begin: int = 0) -> None:
        now = time.monotonic_ns()
        self.begin = begin or now
        self.wall = time.time_ns() - (now - self.begin)  # `begin` on CLOCK_REALTIME, to compare with a client's
        self.phases: list[tuple[str, int]] = []

    def mark(self, name: str, at: int = 0) -> None:
        """Note that the phase `name` ends now, or at `at` (ns of CLOCK_MONOTONIC)."""
        self.phases.append((name, at or time.monotonic_ns()))

    def lines(self, client_began: int = 0) -> list[str]:
        """Return one line for each phase: its name, its length in ms, and the time since the start in ms.

        `client_began` is the start of the client in ns since 1970; 0 if it is not known.
        """
        lines, before = [], self.begin
        if 0 < self.wall - client_began < _HOUR:  # else the clocks of the machines differ, or it is not known
            lines.append(f"{'client to node':<15} {(self.wall - client_began) / 1e6:8.2f} ms")
        for name, at in self.phases:
            lines.append(f"{name:<15} {(at - before) / 1e6:8.2f} ms  at {(at - self.begin) / 1e6:8.2f} ms")
            before = at
        return lines
