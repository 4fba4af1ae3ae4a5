# SPDX-License-Identifier: BSD-3-Clause
"""Reading definition files."""

from __future__ import annotations

import pytest

from bollard.runtime.build import definition
from bollard.runtime.build.definition import Script, Transfer
from bollard.runtime.errors import BollardError


def parse(text, **arguments):
    return definition.parse(text.encode(), "img.def", arguments)


def stage(text, **arguments):
    (only,) = parse(text, **arguments).stages
    return only


def refused(text, **arguments):
    with pytest.raises(BollardError) as caught:
        parse(text, **arguments)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value.message


HEAD = "Bootstrap: scratch\n"


def test_header_keys_comments_and_continuations():
    found = stage(
        "# made by hand\nBOOTSTRAP: debootstrap   # an agent\nOSVersion:bookworm\n\nInclude: a \\\n  b \\\nc\n"
        "MirrorURL: one\\n\\\ntwo\nOtherURL12: x:y\n%post\n"
    )
    assert found.header == {
        "bootstrap": "debootstrap",
        "osversion": "bookworm",
        "include": "a b c",
        "mirrorurl": "one\ntwo",
        "otherurl12": "x:y",
    }
    assert found.line == 2


def test_crlf_and_no_newline_at_the_end():
    found = stage("Bootstrap: scratch\r\n%post\r\n  a\r\n  b")
    assert found.header["bootstrap"] == "scratch"
    assert found.script("post") == Script("  a\n  b\n", "", (3, 4))


def test_sections_of_one_name_add_up_and_the_last_arguments_count():
    found = stage(HEAD + "%post -c /bin/a\none\n%POST\ntwo\n%post -c /bin/b\nthree\n")
    assert found.script("post") == Script("one\ntwo\nthree\n", "-c /bin/b", (3, 5, 7))


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ("", ["/bin/sh", "-ex", "/s"]),
        ("-u # comment", ["/bin/sh", "-ex", "-u", "/s"]),
        ("-c /usr/bin/python3 -B # comment", ["/bin/sh", "-ex", "-c", "/usr/bin/python3 -B /s"]),
    ],
)
def test_arguments_of_a_script(args, argv):
    assert definition.script_command(Script("x", args), "/s") == argv


def test_an_interpreter_that_is_not_named():
    with pytest.raises(BollardError, match="names no interpreter"):
        definition.script_command(Script("x", "-c"), "/s")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (Script("echo a\n"), "#!/bin/sh\n\necho a\n\n"),
        (Script("#!/bin/bash -e\necho a\n"), "#!/bin/bash -e\n\necho a\n\n"),
        (Script("#!/usr/bin/env\n", "python3 # which"), "#!/usr/bin/env python3\n\n\n"),
        (Script("echo\n", "-x"), "#!/bin/sh -x\n\necho\n\n"),
    ],
)
def test_the_first_line_of_a_script(script, text):
    assert definition.shebang_script(script) == text


def test_files_with_quotes_globs_and_one_word():
    (files,) = stage(HEAD + "%files\n a /b\n# no\n\n \"c d\" '/e f'\n /g*\n h\ti ignored\n").files
    assert files.stage == ""
    assert files.transfers == (
        Transfer("a", "/b", 3),
        Transfer("c d", "/e f", 6),
        Transfer("/g*", "", 7),
        Transfer("h", "i", 8),
    )


def test_files_from_stages():
    found = parse(
        "Bootstrap: scratch\nStage: one\n%files\nx\nbootstrap: scratch\n%files from one # y\n/a\n%files\n/b\n"
    )
    assert [stage.header.get("stage") for stage in found.stages] == ["one", None]
    assert [files.stage for files in found.stages[1].files] == ["one", ""]


def test_labels():
    assert stage(HEAD + "%labels\n  A  b c \n# no\nD\n").labels == {"A": "b c", "D": ""}


def test_apps_in_the_order_of_their_first_section():
    found = stage(HEAD + "%apprun two words\nr\n%appinstall one\ni\n%apprun two\ns\n%appenv one\ne\n").apps
    assert [app.name for app in found] == ["two", "one"]
    assert found[0].sections == {"run": "r\ns\n"}
    assert found[1].sections == {"install": "i\n", "env": "e\n"}


def test_a_percent_sign_inside_a_line_is_text():
    assert stage(HEAD + "%post\n  echo %s\n").script("post").text == "  echo %s\n"


class TestArguments:
    text = "Bootstrap: {{ AGENT }}\nFrom: a-{{V}}\n%arguments\n# no\n AGENT=scratch\n V=1-{{ W }}\n W = 2 \n%post\n"

    def test_defaults_values_that_name_values_and_what_is_given(self):
        assert stage(self.text).header == {"bootstrap": "scratch", "from": "a-1-2"}
        assert stage(self.text, W="3").header["from"] == "a-1-3"
        assert stage(self.text, V="4").header["from"] == "a-4"

    def test_comments_are_left_alone(self):
        found = stage(
            HEAD + "%post\n# {{ no }}\necho # {{ no }}\n#{{ no }} {{ A }}\n#!{{ A }} {{ A }}\n", A="x", no="y"
        )
        assert found.script("post").text == "# {{ no }}\necho # {{ no }}\n#y x\n#!x x\n"

    def test_without_a_value(self):
        assert refused(HEAD + "%post\n\n a {{ B }}\n") == "img.def:4: {{ B }} has no value"

    def test_unused(self):
        assert parse(self.text, V="1", X="2").unused == ("X",)

    def test_defaults_are_of_their_stage(self):
        assert "img.def:5: {{ A }}" in refused(
            "Bootstrap: scratch\n%arguments\nA=1\nBootstrap: scratch\nFrom: {{ A }}\n"
        )

    def test_what_is_no_pair_is_warned_of(self):
        assert parse(HEAD + "%arguments\nA\n").warnings == ("img.def:3: `A` in %arguments is not KEY=VALUE; left out",)

    def test_values_from_a_file_and_from_options(self):
        found = definition.build_arguments(["B=3", "C = 4=5"], "A=1\n\nB=2\r\nno\n", "file")
        assert found == ({"A": "1", "B": "3", "C": "4=5"}, ["file:4: not KEY=VALUE; left out"])
        with pytest.raises(BollardError, match="--build-arg D: not KEY=VALUE"):
            definition.build_arguments(["D"])

    def test_a_value_cannot_blow_the_file_up(self):
        text = HEAD + "%post\n" + "{{ A }}\n" * 50_000
        assert "characters with its arguments" in refused(text, A="x" * 100_000)
        nested = HEAD + "%post\n{{ A }}\n"
        assert "characters with its arguments" in refused(nested, A="{{ B }}" * 1000, B="y" * 100_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "img.def: holds no definition"),
        ("# only\n\n", "img.def: holds no definition"),
        ("%post\nx\n", "img.def:1: sections without a header"),
        ("From: x\n%post\n", "img.def:1: a header without Bootstrap"),
        ("Bootstrap:\n%post\n", "img.def:1: a header without Bootstrap"),
        ("Bootstrap: x\nFrm: y\n", "img.def:2: `frm` is no header key"),
        ("Bootstrap: x\nhello\n", "img.def:2: `hello` is no `Key: value`"),
        ("Bootstrap: x\n%pots\n", "img.def:2: %pots: no such section"),
        ("Bootstrap: x\n%post\tx\n", "img.def:2: %post\\tx: no such section"),
        ("Bootstrap: x\n%post\n  %y\n", "img.def:3: `%y` is indented"),
        ("Bootstrap: x\n%apprun\n", "img.def:2: %apprun: `` is no name of an app"),
        ("Bootstrap: x\n%apprun ../y\n", "img.def:2: %apprun: `../y` is no name of an app"),
        ("Bootstrap: x\n%AppRun y\n", "img.def:2: %AppRun: no such section"),
        ("Bootstrap: x\n%files from\na\n", "img.def:2: %files from"),
        ("Bootstrap: x\n%files of y\na\n", "img.def:2: %files of y"),
        ("Bootstrap: x\n\n%files from y\na\n", "img.def:3: %files from y: no earlier stage of that name"),
        ("Bootstrap: x\nStage: a\n%files from a\nb\n", "img.def:3: %files from a: no earlier stage of that name"),
        ("Bootstrap: x\n%post\n\0\n", "img.def:3: a NUL byte"),
    ],
)
def test_mistakes_name_their_line(text, message):
    assert refused(text) == message


def test_bounds():
    assert "over 1048576" in refused("#" * (1 << 20) + "\n")
    assert "over 64 stages" in refused(HEAD * 65)
    assert "over 2048 sections" in refused(HEAD + "%post\n" * 2049)


def test_bytes_that_are_no_text_come_through():
    found = definition.parse(b"Bootstrap: scratch\n%post\necho \xff\n", "img.def")
    assert found.stages[0].script("post").text.encode("utf-8", "surrogateescape") == b"echo \xff\n"


def test_the_definition_that_an_address_stands_for():
    found = definition.from_uri("docker://a/b:c")
    assert found.stages[0].header == {"bootstrap": "docker", "from": "a/b:c"}
    assert found.text == "bootstrap: docker\nfrom: a/b:c\n"
