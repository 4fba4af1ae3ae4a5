# SPDX-License-Identifier: BSD-3-Clause
"""Lines of bash that run one after the other in one shell, under both programs.

In a line BOX stands for the one program, OTHER for the other one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tree import Machine

PROGRAMS = (("bollard", "apptainer"), ("apptainer", "bollard"))


def outcomes(machine: Machine, begin: str, rows: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Of each program: (exit status, standard output) of each row. `begin` runs first in the shell."""
    found = {}
    for box, other in PROGRAMS:
        lines = [begin]
        for line in rows:
            line = line.replace("BOX", box).replace("OTHER", other)
            lines.append(f"printf '\\1'; ({line}) </dev/null 2>/dev/null; printf '\\2%d' $?")
        done = machine.run("\n".join(lines), timeout=400)
        pairs = [part.split("\2") for part in done.stdout.decode().split("\1")[1:]]
        found[box] = [(status, text) for text, status in pairs]
        assert len(found[box]) == len(rows)
    return found


def label(line: str) -> str:
    """The name of a row in a test's id."""
    return line.replace(" ", "_")[:90]
