# SPDX-License-Identifier: BSD-3-Clause
"""The state of a job, from its own record and what Slurm says of it."""

from __future__ import annotations

import pytest

from bollard.runtime.flow import folder, state
from bollard.runtime.flow.slurm import Row


def row(word, reason="None"):
    return Row(5, -1, word, reason, "n1", "")


RUNS = state.Record("running", 5, 10)
DONE = state.Record("ok", 5, 10, 20)


@pytest.mark.parametrize(
    ("wrote", "seen", "wanted"),
    [
        (state.Record(), row("PENDING", "Dependency"), "waiting"),
        (state.Record(), row("PENDING", "JobHeldUser"), "held"),
        (state.Record(), row("RUNNING"), "running"),
        (RUNS, row("RUNNING"), "running"),
        (DONE, row("COMPLETING"), "ok"),
        (DONE, None, "ok"),
        (DONE, row("PENDING", "BeginTime"), "waiting"),  # it was requeued
        (RUNS, row("NODE_FAIL"), "lost"),
        (RUNS, row("OUT_OF_MEMORY"), "failed"),
        (RUNS, None, "lost"),
        (state.Record(), None, "cancelled"),
        (state.Record(), row("CANCELLED"), "cancelled"),
        (DONE._replace(job=4), row("RUNNING"), "running"),  # a record of an earlier submission
    ],
)
def test_states(wrote, seen, wanted):
    assert state.resolved(wrote, seen, 5, released=True, answered=True)[0] == wanted


def test_states_without_an_answer_of_slurm():
    assert state.resolved(RUNS, None, 5, released=True, answered=False)[0] == "running"
    assert state.resolved(DONE, None, 5, released=True, answered=False)[0] == "ok"
    assert state.resolved(state.Record(), None, 5, released=False, answered=True)[0] == "held"


def test_a_record_that_is_not_whole():
    text = b"state=ok job=5 start=1 end=2 status=0 attempt=1 restart=0 node=n1".ljust(folder.RESERVED - 2) + b".\n"

    assert state.record(text) == state.Record("ok", 5, 1, 2, 0, 1, 0, "n1")
    assert state.record(text[:-1]) is None and state.record(text[:100]) is None
