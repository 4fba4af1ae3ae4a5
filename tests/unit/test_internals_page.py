# SPDX-License-Identifier: BSD-3-Clause
"""docs/internals.md shows the tree and the wire as they are."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
PAGE = (TOP / "docs/internals.md").read_text()
MAP = PAGE[PAGE.index("## Map of the repository") :]


def test_the_map_has_every_module():
    there = {
        path.name for folder in ("runtime", "spank_plugin", "mpi") for path in (TOP / folder).glob("*.[cp]*")
        if path.suffix in (".c", ".py") and path.name != "__init__.py"
    }  # fmt: skip
    shown = set(re.findall(r"`(\w+\.(?:c|py))`", MAP))

    assert there - shown == set(), "docs/internals.md, map: missing"
    assert shown - there == {"options_table.py", "mpi_matrix.py"}, "docs/internals.md, map: gone"


def test_every_variable_of_the_wire():
    header = (TOP / "spank_plugin/wire.h").read_text()

    for name in re.findall(r'^#define ENV_\w+ "(\w+)"', header, re.MULTILINE):
        assert f"| `{name}` |" in PAGE


def test_every_letter_of_the_wire():
    header = (TOP / "spank_plugin/wire.h").read_text()
    letters = re.findall(r"\bWIRE_\w+ = '(.)'", header)

    assert len(letters) == 7
    for letter in letters:
        assert f"| `{letter}`" in PAGE, letter
