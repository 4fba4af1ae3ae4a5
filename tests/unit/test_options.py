# SPDX-License-Identifier: BSD-3-Clause
"""The table of options keeps the shape that everything rendered from it relies on."""

from __future__ import annotations

import pytest

from bollard.runtime.frozen import values_of
from bollard.runtime.request import options, spec

ROWS = [pytest.param(row, id=row.name) for row in options.TABLE]
NAMES = list(options.ROWS)


# What pyxis 0.24 registers (args.c); all of it is ours too.
PYXIS = [
    "container-image",
    "container-mounts",
    "container-workdir",
    "container-name",
    "container-save",
    "container-mount-home",
    "no-container-mount-home",
    "container-remap-root",
    "no-container-remap-root",
    "container-entrypoint",
    "no-container-entrypoint",
    "container-entrypoint-log",
    "container-writable",
    "container-readonly",
    "container-env",
    "container-unshare",
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row(row):
    name, argument, variables, text = row.name, row.argument, row.forms, row.help
    positive, opposite = row.slurm, row.opposite

    assert name == name.lower().strip("-")
    assert name.replace("-", "").isalnum()
    assert argument == "" or argument[0].isalpha()
    assert all(form.lstrip("!").startswith(("BOLLARD_", "PYXIS_CONTAINER_", "ENROOT_")) for form in variables)
    assert not argument or not any(form.startswith("!") for form in variables)
    # No name that Slurm could want for itself.
    assert positive == "" or positive.startswith(("container-", "no-container-"))
    assert opposite == "" or (opposite.startswith(("container-", "no-container-")) and not argument)
    assert text
    assert text == text.strip(" \n.")
    assert "\n" not in text
    assert row.pyxis == (positive in PYXIS)
    assert not row.field or (row.field in values_of(options.Spec()) and row.kind in spec.KINDS)
    assert (row.kind == "switch") <= (not argument)
    assert isinstance(row.joined, str) or not row.added


def test_names_are_unique():
    forms = [form for row in options.TABLE for form in options.variables(row)]
    words = [word for row in options.TABLE for word in (row.slurm, row.opposite) if word]

    assert len(set(NAMES)) == len(NAMES)
    assert len(set(forms)) == len(forms)
    assert len(set(words)) == len(words)
    assert not set(NAMES) & {"asked", "cwd", "userhome", "id", "multi-prog"}


def test_the_last_row_is_the_one_that_makes_no_other_container():
    assert NAMES[-1] == "verbose"


@pytest.mark.parametrize("name", PYXIS)
def test_pyxis_names_are_here(name):
    row = next(row for row in options.TABLE if name in (row.slurm, row.opposite))
    form = "PYXIS_" + name.removeprefix("no-").upper().replace("-", "_")

    assert form in [variable.lstrip("!") for variable in options.variables(row)]


def test_forms_in_the_order_in_which_they_win():
    row = options.Row("bind", argument="SRC", forms=("BOLLARD_BIND", "BOLLARD_BINDPATH"), help="text")

    assert options.variables(row) == [
        "BOLLARD_BIND", "BOLLARD_BINDPATH", "APPTAINER_BIND", "APPTAINER_BINDPATH",
        "SINGULARITY_BIND", "SINGULARITY_BINDPATH",
    ]  # fmt: skip


VALUES = {
    "shm-size": "2g",
    "bind": "/a:/b", "mounts": "/a:/b", "mount": "type=bind,src=/a,dst=/b", "env": "A=b", "home": "/x:/y",
    "unshare": "net", "hostname": "h", "app": "a", "dns": "192.0.2.1",
    "device": "nvidia.com/gpu=0", "mpi": "host",
}  # fmt: skip


# The first two are resolved before a spec is made; network can only say what --net has anyway.
ELSEWHERE = ("opts", "env-file", "network")


@pytest.mark.parametrize("row", [row for row in options.TABLE if row.name not in ELSEWHERE], ids=lambda r: r.name)
def test_the_spec_understands_every_option(row):
    argument = row.argument
    default = "/dir" if argument.isupper() and "NAME" not in argument else "word" if argument else "1"
    value = VALUES.get(row.name, default)
    value = "/dir" if row.name in ("overlay", "scratch", "save", "image") else value

    def state(values):
        return values_of(spec.make([("image", "/i"), ("userhome", "/home/u"), *values]))

    assert state([(row.name, value)]) != state([])


def test_no_name_is_one_of_slurms_runtime_plugins():
    """Slurm has --container-id and --container-type, and from 26.11 on --runtime."""
    names = {row.slurm for row in options.TABLE} | {row.name for row in options.TABLE}
    assert not names & {"runtime", "container-id", "container-type"}
