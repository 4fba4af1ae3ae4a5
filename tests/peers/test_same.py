# SPDX-License-Identifier: BSD-3-Clause
"""bollard and Apptainer do the same: each line of cases.py under both, and what came of it compared."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from case import Case
from cases import CASES
from tree import IMAGES, Machine

DOCS = Path(__file__).resolve().parent.parent.parent / "docs/from-apptainer.md"
_FRESH = f"rm -rf ~/w /tmp/* /var/tmp/*; mkdir -p ~/w/data; echo host > ~/w/data/file; cd ~/w; I={IMAGES}\n"


def outcome(machine: Machine, case: Case, program: str) -> dict[str, object]:
    """What one of the two makes of a line: status, stdout, whether it gave up, and the rest of stderr."""
    env = dict(pair.split("=", 1) for pair in case.env.split("|") if pair)
    done = machine.run(_FRESH + case.line.replace("BOX", program), env=env)
    stderr = re.sub(r"\x1b\[\d+m", "", done.stderr.decode("utf-8", "replace")).splitlines()
    if program == "apptainer":
        said = [line for line in stderr if re.match(r"(FATAL|ERROR|WARNING|INFO|DEBUG):|Error for command", line)]
        gave_up = any(line.startswith(("FATAL", "ERROR", "Error for")) for line in said)
    else:
        said = [line for line in stderr if line.startswith("bollard: ")]
        gave_up = bool(said) and done.returncode != 0
    rest = [line.replace("/bin/sh: ", "sh: ") for line in stderr if line not in said and f" {program} exec" not in line]
    return {
        "status": done.returncode,
        "stdout": done.stdout.decode("utf-8", "replace"),
        "gave up": gave_up,
        "stderr": "" if gave_up and program == "apptainer" else "\n".join(rest),
    }


def name(case: Case) -> str:
    return re.sub(r"[^A-Za-z0-9_./=:,+-]+", " ", f"{case.line} {case.env}").strip()[:100]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_same(machine: Machine, case: Case) -> None:
    ours, theirs = outcome(machine, case, "bollard"), outcome(machine, case, "apptainer")
    if case.because:
        assert f"**{case.because}**" in DOCS.read_text(), "the page lacks this reason"
        assert ours != theirs, "no difference is left: take the reason away"
    else:
        assert ours == theirs


def test_nothing_is_left(machine: Machine) -> None:
    """Of bollard, after all that was killed above."""
    deadline = time.monotonic() + 30
    while (left := [line for line in machine.left() if "bollard" in line]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
