# SPDX-License-Identifier: BSD-3-Clause
"""The line that shows a running step: what it says, and that it fits the terminal."""

from __future__ import annotations

import re

import pytest

from bollard.runtime import live_line
from bollard.runtime.live_line import State


@pytest.fixture(params=[True, False], ids=["rich", "plain"], autouse=True)
def kind(request, monkeypatch):
    if request.param:
        pytest.importorskip("rich", reason="rich is among the Makefile's TOOLS")
    monkeypatch.setattr(live_line, "_rich", None if request.param else False)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_what_is_known():
    assert live_line.facts(State("x", 7.9)) == "7 s"
    assert live_line.facts(State("x", 3, 12_300_000)) == "12.3 MB"
    assert live_line.facts(State("x", 3, 12_300_000, 380_000_000, 45e6)) == "12.3/380 MB  45.0 MB/s  8 s left"
    assert live_line.facts(State("x", 3, 5_000_000, 5_000_000, 1e6)) == "5.0/5.0 MB  1.0 MB/s"
    assert [live_line.clock(seconds) for seconds in (0, 59, 60, 125, 3720)] == [
        "0 s", "59 s", "1:00 min", "2:05 min", "1:02 h",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("step", ["packing", "fetching docker://" + "n" * 90])
@pytest.mark.parametrize("total", [0, 1 << 22])
def test_it_fits(width, step, total):
    state = State(step, 3, 1 << 20 if total else 0, total, 1e6 if total else 0)
    line = plain(live_line.text(state, width))
    assert len(line) < width and "\n" not in line and line.startswith("bollard: "[: width - 1])
    if width >= 80:
        assert live_line.facts(state) in line
    if width == 40:
        assert not total or "3 s left" in line
        assert line.startswith("bollard: packing" if step == "packing" else "bollard: fetch")


def test_control_characters_do_nothing():
    assert "\x1b" not in plain(live_line.text(State("fetching a\x1b]0;x\x07", 3), 80))
    assert "fetching a\\x1b]0;x\\x07" in plain(live_line.text(State("fetching a\x1b]0;x\x07", 3), 80))


def test_markup_is_text():
    assert "[red]x[/red]" in plain(live_line.text(State("[red]x[/red]", 3), 80))
