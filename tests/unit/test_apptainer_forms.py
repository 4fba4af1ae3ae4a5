# SPDX-License-Identifier: BSD-3-Clause
"""docs/apptainer-forms.md: every form of Apptainer has a verdict, and the command does what the verdict says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from bollard.runtime.cli import main
from bollard.runtime.cli.commands import COMMANDS, REFUSED
from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_line

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "apptainer_forms.py"))
FORMS = SCRIPT["judged"]()


def test_the_page_is_as_the_script_writes_it():
    assert (DOCS / "apptainer-forms.md").read_text() == SCRIPT["page"](), "run docs/apptainer_forms.py"


def test_no_form_is_unknown():
    assert [form for form in FORMS if form.verdict == "unknown"] == []
    assert len({form.command for form in FORMS}) == 105 and len(FORMS) > 800
    assert all(form.why for form in FORMS if form.verdict in ("refused", "nothing to do"))


def test_the_command_line_does_what_the_page_says(monkeypatch):
    """Parse each option of each command that bollard has."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # root cannot have --no-privs
    monkeypatch.setenv("BOLLARD_TMPDIR", "")  # --tmpdir sets it
    values = {(command, name): value for command, rows in SCRIPT["forms"].known().items() for _, name, value in rows}
    seen = 0
    for form in FORMS:
        name = form.option.partition("--")[2]
        if form.command not in COMMANDS or name in ("", "help"):
            continue
        words = [f"--{name}=x"] if values[form.command, name] else [f"--{name}"]
        try:
            given = command_line.parse(words, form.command, *COMMANDS[form.command][2:])[0]
        except BollardError as error:
            assert form.verdict == "refused" and "is not supported" in error.message, (form, error)
        else:
            assert form.verdict in ("the same", "nothing to do"), (form, words)
            assert bool(given) == (form.verdict == "the same") or name == "tmpdir", (form, given)
        seen += 1
    assert seen > 300


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_command(name, capsys):
    status = main.main([*name.split(), "x"])
    said = capsys.readouterr()
    why, instead = REFUSED[name]
    assert (status, said.out, said.err) == (255, "", f"bollard: {name}: {why}; {instead}\n")
    assert main.main([*name.split(), "--help"]) == 0
    assert capsys.readouterr().out == f"bollard has no command {name}: {why}\n\n{instead}\n"
    assert main.main(["help", *name.split()]) == 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["images"], "`bollard cache list`"),
        (["rmi", "x"], "rm"),
        (["logs", "web"], "`bollard instance list --logs`"),
        (["load"], "docker-archive:FILE"),
        (["run", "-it", "ubuntu"], "leave it out"),
        (["run", "-ti", "ubuntu"], "leave it out"),
        (["run", "--rm", "ubuntu"], "a container ends with its program"),
        (["exec", "-v", "/a:/b", "i.sif", "x"], "write --bind /a:/b"),
        (["exec", "-e", "A=b", "i.sif", "x"], "write --env A=b"),
        (["run", "-p", "8080:80", "i.sif"], "the container has the network of the host"),
        (["run", "--gpus", "all", "i.sif"], "--nv"),
        (["exce", "i.sif"], "did you mean `bollard exec`?"),
        (["instances", "list"], "did you mean `bollard instance`?"),
    ],
)
def test_habits_and_slips(words, hint, capsys):
    assert main.main(words) == 255
    said = capsys.readouterr().err
    assert hint in said and said.count("\n") == 1
