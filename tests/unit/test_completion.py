# SPDX-License-Identifier: BSD-3-Clause
"""`bollard completion`: every command and option is offered; bash, which is on every machine, is asked."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from test_main import command, refused

from bollard.runtime.cli import completion
from bollard.runtime.cli.commands import COMMANDS
from bollard.runtime.request import command_line


def offered(*words):
    """What bash completes the last of `words` to."""
    quoted = " ".join(completion._single(word) for word in words)
    lines = [completion.script("bash"), f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}", "_bollard"]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join([*lines, 'printf "%s\\n" "${COMPREPLY[@]}"'])],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands():
    assert set(offered("bollard", "")) == {name.split()[0] for name in COMMANDS}
    assert offered("bollard", "she") == ["shell"]
    assert set(offered("bollard", "sif", "")) == {"list", "header", "info", "dump", "new", "add", "del", "setprim"}
    assert offered("bollard", "overlay", "c") == ["create"]
    assert offered("bollard", "completion", "") == ["bash", "zsh", "fish", "powershell"]


@pytest.mark.parametrize("name", COMMANDS)
def test_options(name):
    _, _, own, container = COMMANDS[name]
    found = offered("bollard", *name.split(), "-")
    letters = command_line.letters(name)
    known = command_line.arguments(own, container)
    assert {word for word in found if word.startswith("--")} == {f"--{option}" for option in known}
    with_letter = {letters[word[1]] for word in found if word[1] != "-"}
    assert with_letter == {option for option in letters.values() if option in known}


def test_files_are_left_to_bash():
    assert offered("bollard", "exec", "img") == []
    assert offered("bollard", "exec", "--bind", "/us") == []
    assert "complete -o default -F _bollard bollard" in completion.script("bash")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_told_everything(shell):
    text = completion.script(shell)
    for name in COMMANDS:
        _, _, own, container = COMMANDS[name]
        for option in command_line.arguments(own, container):
            assert (f"--{option}[" if shell == "zsh" else f"-l {option} ") in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_schemes_keep_their_colons(shell):
    """A colon parts the words of zsh's specifications: it is escaped there, and what a user reads has it."""
    text = completion.script(shell)
    assert ("docker\\://" if shell == "zsh" else "docker://") in text
    assert "docker,//" not in text


def test_powershell_is_told_everything():
    """PowerShell is in no Debian release, so only the form is checked: quotes, brackets, one row for each option."""
    text = completion.script("powershell")
    rows = dict(line.strip().split("' = @(", 1) for line in text.splitlines() if "' = @(" in line)
    for name in COMMANDS:
        _, _, own, container = COMMANDS[name]
        for option in command_line.arguments(own, container):
            assert f"'--{option}\t" in rows["'" + name], (name, option)
    for line in text.splitlines():
        bare = re.sub(r"'(?:[^']|'')*'", "", line)
        assert "'" not in bare, line
    bare = re.sub(r"'(?:[^']|'')*'", "", text)
    assert all(bare.count(pair[0]) == bare.count(pair[1]) for pair in ("{}", "()"))
    if shutil.which("pwsh"):
        argv = ["pwsh", "-NoProfile", "-Command", "-"]
        done = subprocess.run(argv, input=text, capture_output=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_command():
    assert command("completion", "fish").stdout == completion.script("fish")
    line = "tcsh: no completion for this shell; there is one for bash, zsh, fish, powershell"
    assert refused("completion", "tcsh") == line
    assert refused("completion") == "completion takes the name of a shell; write `bollard completion bash`"
