# SPDX-License-Identifier: BSD-3-Clause
"""When each phase of a container's start ended, and the lines that tell it (`--container-verbose`)."""

from __future__ import annotations

import time

_HOUR = 3_600_000_000_000


class Clock:
    """Phases in order; times in ns of CLOCK_MONOTONIC. `begin` 0 means now."""

    __slots__ = ("begin", "phases", "wall")

    def __init__(self, begin: int = 0) -> None:
        now = time.monotonic_ns()
        self.begin = begin or now
        self.wall = time.time_ns() - (now - self.begin)  # `begin` on CLOCK_REALTIME, to compare with a client's
        self.phases: list[tuple[str, int]] = []

    def mark(self, name: str, at: int = 0) -> None:
        """The phase `name` ends now, or at `at`."""
        self.phases.append((name, at or time.monotonic_ns()))

    def lines(self, client_began: int = 0) -> list[str]:
        """One line a phase: its name and its length in ms, the time since the start behind it."""
        lines, before = [], self.begin
        if 0 < self.wall - client_began < _HOUR:  # else the clocks differ, or nobody noted it
            lines.append(f"{'client to node':<15} {(self.wall - client_began) / 1e6:8.2f} ms")
        for name, at in self.phases:
            lines.append(f"{name:<15} {(at - before) / 1e6:8.2f} ms  at {(at - self.begin) / 1e6:8.2f} ms")
            before = at
        return lines
