# SPDX-License-Identifier: BSD-3-Clause
"""Manual pages: one for each command, with each option, and groff has nothing to say about them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bollard.runtime.cli import manual
from bollard.runtime.cli.commands import COMMANDS
from bollard.runtime.request import command_line, options


def rendered(page):
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=200n"],
        input=page,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page(name):
    usage, what, own, container = COMMANDS[name]
    text = rendered(manual.man_page(name))
    words = " ".join(text.split())
    assert f"{manual.name_of(name)} - {what}" in words
    assert f"bollard {name} {usage}" in words
    for option, argument, shown, forms in command_line.rows_of(own, container):
        assert f"--{option}{' ' + argument if argument else ''} {shown}".replace("`", "'") in words.replace("`", "'")
        assert all(form in words for form in forms)
    assert ("APPTAINER_" in text) == container


def test_the_overview():
    text = rendered(manual.man_page())
    for name in COMMANDS:
        assert f"{manual.name_of(name)}(1)" in text
    for row in options.TABLE:
        names = f"{row.slurm}|{row.opposite}" if row.opposite else row.slurm
        assert f"--{names}" in text or not row.slurm


def test_text_that_means_something_to_roff():
    text = ".begin 'quoted' `back` ~user a\\b -x ^"
    page = f'.TH T 1 "" "" ""\n.SH NAME\nt \\- t\n.SH D\n{manual._text(text)}\n'
    assert text in rendered(page)


def test_they_are_written(tmp_path):
    done = subprocess.run([sys.executable, "-m", "bollard.runtime.cli.manual", tmp_path / "man1"], check=False)
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "man1").iterdir()} == {
        "bollard.1", *(f"bollard-{name.replace(' ', '-')}.1" for name in COMMANDS)
    }  # fmt: skip
    assert (tmp_path / "man1/bollard-exec.1").read_text() == manual.man_page("exec")
    done = subprocess.run([sys.executable, "-m", "bollard.runtime.cli.manual"], stderr=subprocess.PIPE, check=False)
    assert done.stderr.startswith(b"bollard: ")
