# SPDX-License-Identifier: BSD-3-Clause
"""The table of options keeps the shape that everything rendered from it relies on."""

from __future__ import annotations

import pytest

from bollard.runtime import client, options, spec

ROWS = [pytest.param(row, id=row[0]) for row in options.TABLE]
NAMES = [row[0] for row in options.TABLE]


@pytest.mark.parametrize("row", ROWS)
def test_a_row(row):
    name, argument, variables, slurm, text = row

    assert name == name.lower().strip("-")
    assert name.replace("-", "").isalnum()
    assert argument == argument.upper() or "|" in argument
    assert all(form.startswith("BOLLARD_") for form in variables)
    assert slurm == "" or slurm.startswith("container")  # no name that Slurm could want for itself
    assert text
    assert text == text.strip(" \n.")
    assert "\n" not in text


def test_names_are_unique():
    forms = [form for row in options.TABLE for form in options.variables(row)]

    assert len(set(NAMES)) == len(NAMES)
    assert len(set(forms)) == len(forms)
    assert not set(NAMES) & {"image", "asked", "cwd", "userhome", "id", "multi-prog"}


def test_forms_in_the_order_in_which_they_win():
    row = ("bind", "SRC", ("BOLLARD_BIND", "BOLLARD_BINDPATH"), "", "text")

    assert options.variables(row) == [
        "BOLLARD_BIND", "BOLLARD_BINDPATH", "APPTAINER_BIND", "APPTAINER_BINDPATH",
        "SINGULARITY_BIND", "SINGULARITY_BINDPATH",
    ]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_spec_understands_every_option(row, tmp_path):
    (tmp_path / "variables").write_text("A=b\n")
    values = {"bind": "/a:/b", "env": "A=b", "home": "/x:/y", "app": "a", "env-file": str(tmp_path / "variables")}
    value = values.get(row[0], "/dir" if row[1] else "1")

    def state(values):
        made = spec.make([("image", "/i"), ("userhome", "/home/u"), *client.resolve(values)])
        return [getattr(made, slot) for slot in made.__slots__]

    assert state([(row[0], value)]) != state([])
