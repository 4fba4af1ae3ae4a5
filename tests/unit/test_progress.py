# SPDX-License-Identifier: BSD-3-Clause
"""What a terminal shows of the steps of a long command."""

from __future__ import annotations

import re
import sys

import pexpect
import pytest

CODE = """
from bollard.runtime import progress
progress.say("fetching docker://127.0.0.1:5000/group/name:v1")
progress.moved(67_700_000, 68_200_000)
progress.say("fetching docker://127.0.0.1:5000/group/name:v1")
progress.say("packing")
progress.done("a.sif: 68.2 MB")
"""


def lines(columns: int, term: str) -> list[str]:
    """The lines that stay on a terminal of that width."""
    child = pexpect.spawn(
        "env", [f"TERM={term}", sys.executable, "-c", CODE], dimensions=(24, columns), encoding="utf-8", timeout=60
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    said = re.sub(r"[^\n]*\x1b\[K", "", str(child.before).replace("\r\n", "\n"))
    assert "\x1b" not in said
    return said.splitlines()


def test_a_step_that_has_ended_has_moved_all_and_is_shown_once():
    found = lines(80, "xterm")
    assert re.fullmatch(r"bollard: fetching docker://127\.0\.0\.1:5000/group/name:v1, 68\.2 MB, \d+ s", found[0])
    assert re.fullmatch(r"bollard: packing, \d+ s", found[1])
    assert re.fullmatch(r"bollard: a\.sif: 68\.2 MB, \d+ s", found[2]) and len(found) == 3, found


def test_a_line_about_a_step_fits_the_terminal():
    found = lines(40, "xterm")
    assert re.fullmatch(r"bollard: fetching?.*….*v1, 68\.2 MB, \d+ s", found[0])
    assert all(len(line) <= 40 for line in found), found


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_no_live_line_on_a_terminal_that_cannot_show_it(term):
    assert lines(80, term) == []  # as in a log: only what takes over two seconds
