# SPDX-License-Identifier: BSD-3-Clause
"""docs/internals.md shows the tree and the wire as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bollard.runtime import constants
from bollard.runtime.request import spec_text

TOP = Path(__file__).resolve().parent.parent.parent
PAGE = (TOP / "docs/internals.md").read_text()
MAP = PAGE[PAGE.index("## Map of the repository") :]


def test_the_map_has_every_module_of_c_and_of_the_other_packages():
    there = {
        path.name for folder in ("spank_plugin", "mpi") for path in (TOP / folder).glob("*.[cp]*")
        if path.suffix in (".c", ".py") and path.name != "__init__.py"
    }  # fmt: skip
    rooms = {path.name for path in (TOP / "runtime").rglob("*.py")}
    shown = set(re.findall(r"`(\w+\.(?:c|py))`", MAP))

    assert there - shown == set(), "docs/internals.md, map: missing"
    names = ("options_table", "mpi_matrix", "preflight_table", "apptainer_forms", "engines_page")
    tables = {f"{name}.py" for name in names}
    assert shown - there - rooms == tables, "docs/internals.md, map: gone"


@pytest.mark.parametrize("folder", ["spank_plugin", "mpi"])
def test_the_other_packages_say_what_each_file_does(folder: str):
    there = {path.name for path in (TOP / folder).glob("*.[cp]*") if path.suffix in (".c", ".py")}
    first_cells = re.findall(r"^\| ([^|]+) \|", (TOP / folder / "__init__.py").read_text(), re.MULTILINE)

    shown = {name for cell in first_cells for name in re.findall(r"\w+\.(?:c|py)", cell)}
    assert shown == there - {"__init__.py", "__main__.py"}


ROOMS = [path.parent for path in sorted((TOP / "runtime").glob("*/__init__.py")) if path.parent.name != "_root"]


def modules(room: Path) -> set[str]:
    return {path.name for path in room.glob("*.py") if path.name != "__init__.py"}


def test_the_map_has_the_modules_of_every_room():
    rows = re.findall(r"^\| `(\w+)/` \| .* \| (.*) \|$", MAP[MAP.index("| room of") :], re.MULTILINE)

    assert {name: set(re.findall(r"`(\w+\.py)`", words)) for name, words in rows} == {
        room.name: modules(room) for room in ROOMS
    }


@pytest.mark.parametrize("room", [*ROOMS, TOP / "runtime"], ids=lambda path: path.name)
def test_a_room_says_what_each_module_does(room: Path):
    doc = (room / "__init__.py").read_text()

    assert set(re.findall(r"^(\w+\.py): \S", doc, re.MULTILINE)) == modules(room)
    if room.name == "runtime":
        assert re.findall(r"^(\w+)/: \S", doc, re.MULTILINE) == re.findall(
            r"^\| `(\w+)/`", MAP[MAP.index("| room of") :], re.M
        )


def test_every_variable_of_the_wire():
    for name, value in vars(constants).items():
        if name.startswith("ENV_") and name != "ENV_OWN":
            assert f"| `{value}` |" in PAGE


def test_every_letter_of_the_wire():
    shared = vars(constants).items()
    letters = [value.decode() for name, value in shared if name.startswith("WIRE_") and isinstance(value, bytes)]

    assert len(letters) == 10
    for letter in letters:
        assert f"| `{letter}`" in PAGE, letter


def test_the_form_of_the_header():
    shown = re.search(r"^(bollard1 .* : )image=", PAGE, re.MULTILINE)

    assert shown and spec_text.split_header(shown[1].encode())
