# SPDX-License-Identifier: BSD-3-Clause
"""What exec, run, shell and test start, for what an image has."""

from __future__ import annotations

import pytest

from bollard.runtime.container.action import inside, variables
from bollard.runtime.errors import BollardError

RUNSCRIPT, TEST = "/.singularity.d/runscript", "/.singularity.d/test"
BASH, SH = "/bin/bash", "/bin/sh"


def image(*programs):
    return lambda path: path in programs


@pytest.mark.parametrize(
    ("action", "argv", "programs", "command"),
    [
        ("run", ["a", "b c"], (RUNSCRIPT, "/apptainer", SH), [RUNSCRIPT, "a", "b c"]),
        ("run", ["a"], ("/apptainer", SH), ["/apptainer", "a"]),
        ("run", [], ("/singularity", SH), ["/singularity"]),
        ("run", ["-c", "id"], (SH,), [SH, "-c", "id"]),
        ("shell", [], (BASH, SH), [BASH, "--norc"]),
        ("shell", ["-c", "id"], (SH,), [SH, "-c", "id"]),
        ("test", ["x"], (TEST, SH), [TEST, "x"]),
        ("test", ["x"], (SH,), []),
    ],
)
def test_the_command(action, argv, programs, command):
    assert inside(action, argv, image(*programs)) == command


def test_exec_looks_at_nothing():
    def has(path):
        raise AssertionError(path)

    assert inside("exec", ["prog", "--", "x"], has) == ["prog", "--", "x"]


def test_a_shell_that_was_asked_for_is_taken_where_it_is():
    assert inside("shell", ["x"], image("/bin/zsh", BASH), "/bin/zsh") == ["/bin/zsh", "x"]
    assert inside("shell", [], image(BASH), "/bin/zsh") == [BASH, "--norc"]


@pytest.mark.parametrize(("action", "code"), [("run", 1), ("shell", 1), ("exec", 255)])
def test_an_image_that_cannot(action, code):
    with pytest.raises(BollardError) as caught:
        inside(action, [], image())

    assert caught.value.code == code
    assert caught.value.hint


def test_only_the_images_shell_is_named_in_the_environment():
    assert variables("shell", [BASH, "--norc"]) == {"SHELL": BASH}
    assert variables("shell", [SH]) == {"SHELL": SH}
    assert variables("shell", ["/bin/zsh"]) == {}
    assert variables("run", [SH]) == {}


@pytest.mark.parametrize(
    ("action", "script"), [("run", "/scif/apps/foo/scif/runscript"), ("test", "/scif/apps/foo/scif/test")]
)
def test_an_app(action, script):
    assert inside(action, ["a"], image(script, RUNSCRIPT, TEST, SH), app="foo") == [script, "a"]
    with pytest.raises(BollardError, match="the app foo has no") as caught:
        inside(action, ["a"], image(RUNSCRIPT, TEST, SH), app="foo")
    assert caught.value.code == 1


def test_an_app_changes_nothing_for_exec_and_shell():
    assert inside("exec", ["x"], image(), app="foo") == ["x"]
    assert inside("shell", [], image(SH), app="foo") == [SH]
