# SPDX-License-Identifier: BSD-3-Clause
"""The lines of --container-verbose."""

from __future__ import annotations

from bollard.runtime.container.clock import Clock


def test_phases_are_told_by_length_and_by_time_since_the_start() -> None:
    clock = Clock(1_000_000)
    clock.mark("fork", 3_000_000)
    clock.mark("python", 8_500_000)

    assert [line.split() for line in clock.lines()] == [
        ["fork", "2.00", "ms", "at", "2.00", "ms"],
        ["python", "5.50", "ms", "at", "7.50", "ms"],
    ]


def test_the_client_counts_only_when_its_clock_makes_sense() -> None:
    clock = Clock()

    assert clock.lines(clock.wall - 4_000_000) == ["client to node      4.00 ms"]
    assert clock.lines(clock.wall + 10**12) == []
