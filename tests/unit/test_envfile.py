# SPDX-License-Identifier: BSD-3-Clause
"""--env-file: what a file of variables sets. Each case was run through Apptainer 1.4.5, too."""

from __future__ import annotations

import json
import os

import pytest
from test_main import command, refused

from bollard.runtime.errors import BollardError
from bollard.runtime.request import envfile, forms
from bollard.runtime.shell import interpreter


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# nothing\n\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nexport B=2\r\n", {"A": "1", "B": "2"}),
        ("export B='two words'", {"B": "two words"}),
        ("A=one; A=two", {"A": "two"}),
        ('E="line one\nline two"', {"E": "line one\nline two"}),
        ("C='$WHO'", {"C": "$WHO"}),
        ('D="$WHO/x"\nE=${D}y', {"D": "me/x", "E": "me/xy"}),
        ("A=\n", {"A": ""}),
        ("A=1\nunset A", {}),
        ("export WHO", {"WHO": "me"}),
        ("WHO=$WHO", {"WHO": "me"}),
        ('PATH="/my:$PATH"', {"PATH": "/my:/bin"}),
        ('if [ -n "$WHO" ]; then A=1; else A=2; fi', {"A": "1"}),
        ("HOME=/x; A=~", {"A": "/x"}),
        ('A=${NONE:-"a b"}', {"A": "a b"}),
        ("echo printed nowhere", {}),
    ],
)
def test_what_a_script_sets(text, found):
    environ = {b"WHO": b"me", b"PATH": b"/bin", b"HOME": b"/home/me"}
    before = dict(environ)
    assert envfile.assigned("f", text.encode(), environ) == {k.encode(): v.encode() for k, v in found.items()}
    assert environ == before


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"A=\$UID", "$UID"),
        (r"A=x\$UID:\$PATH # \$", "x$UID:$PATH"),
        (r"A=\`id\`", "`id`"),
        (r'A="\$UID"', str(os.getuid())),
        (r"A='$UID'", str(os.getuid())),
        (r"A=$UID", str(os.getuid())),
        (r"A=\\$UID", rf"\{os.getuid()}"),
        ("A=a#\\$UID", "a#$UID"),
    ],
)
def test_a_dollar_sign_that_is_quoted(tmp_path, text, inside):
    """As Apptainer: the container expands a value again, but not what an unquoted backslash has quoted."""
    (tmp_path / "f").write_text(text)
    ((_, pair),) = envfile.pairs([str(tmp_path / "f")])
    value = os.fsencode(pair.partition("=")[2])
    assert interpreter.expand(value, {b"UID": b"%d" % os.getuid()}) == os.fsencode(inside)


@pytest.mark.parametrize(
    "text", ["A=$(id)", "A=`id`", "id", "A=1 id", "A='1", "for ((;;)); do :; done", "A=\0", "UID=1"]
)
def test_what_needs_a_shell_is_refused(text):
    with pytest.raises(BollardError) as caught:
        envfile.assigned("vars.env", text.encode(), {})
    assert str(caught.value).startswith("vars.env: cannot be evaluated because of ")
    assert "\n" not in str(caught.value)


def test_files_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("A=a\nB=a\n")
    (tmp_path / "b").write_bytes(b"B=b\nC='x\xff\ny'\n")
    assert envfile.pairs(["a,b"]) == envfile.pairs(["a", "b"])
    assert envfile.pairs(["a", "b"]) == [("env", "A=a"), ("env", "B=b"), ("env", "C=x\udcff\ny")]
    resolved = forms.resolve([("env", "B=cli"), ("image", "i"), ("env-file", "a"), ("env-file", "b")])
    assert resolved[:3] == envfile.pairs(["a", "b"])
    assert resolved[3:] == [("env", "B=cli"), ("image", "i")]


def test_the_option_and_its_variables(tmp_path):
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "one").write_text("A='two\nlines'\nB=file\n")
    (tmp_path / "two").write_text("B=variable\n")

    def environment(*argv, **environ):
        done = command("plan", "--json", *argv, "root", cwd=tmp_path, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)["environment"]

    found = environment("--env-file", "one", "--env", "B=cli", APPTAINER_ENV_FILE="two")
    assert (found["A"], found["B"]) == ("two\nlines", "cli")
    assert environment(SINGULARITY_ENV_FILE="two")["B"] == "variable"


@pytest.mark.parametrize(
    ("name", "words"),
    [("no", "no: cannot be read: No such file"), (".", ".: cannot be read: Is a directory"), ("big", "big: more than")],
)
def test_a_file_that_cannot_be(tmp_path, name, words):
    with open(tmp_path / "big", "wb") as file:
        os.truncate(file.fileno(), (1 << 20) + 1)
    assert refused("exec", "--env-file", name, "/i", "id", cwd=tmp_path).startswith(words)
