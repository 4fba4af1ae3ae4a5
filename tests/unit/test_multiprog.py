# SPDX-License-Identifier: BSD-3-Clause
"""The launcher before each program of a --multi-prog configuration, and everything else as it was (multiprog.c)."""

from __future__ import annotations

import re

import compiled
import pytest
from hypothesis import given
from hypothesis import strategies as st

LAUNCHER = b"/opt/bollard-enter"


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    ffi, lib = compiled.load(
        "multiprog",
        tmp_path_factory.mktemp("multiprog"),
        "char *with_launcher(const char *text, const char *launcher); void free(void *);",
    )

    def call(text):
        result = lib.with_launcher(text, LAUNCHER)
        try:
            return ffi.string(result)
        finally:
            lib.free(result)

    return call


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"", b""),
        (b"\n", b"\n"),
        (b"\n\n \n\t\n", b"\n\n \n\t\n"),
        (b"0 prog", b"0 @ prog"),
        (b"0 prog\n", b"0 @ prog\n"),
        (b"0 prog a b\n1 other\n", b"0 @ prog a b\n1 @ other\n"),
        (b"0 a\n\n1 b", b"0 a\n\n1 b".replace(b" ", b" @ ")),
        (b"* prog %t %o\n", b"* @ prog %t %o\n"),
        (b"0-3,5,7-9 prog\n", b"0-3,5,7-9 @ prog\n"),
        (b"0\tprog\ta\n", b"0\t@ prog\ta\n"),
        (b"  \t 0 \t prog\n", b"  \t 0 \t @ prog\n"),
        (b"# 0 prog\n0 prog\n", b"# 0 prog\n0 @ prog\n"),
        (b"  # 0 prog\n", b"  # 0 prog\n"),
        (b"#", b"#"),
        (b"0 prog # no comment\n", b"0 @ prog # no comment\n"),
        (b"0 prog a \\\n  b c\n1 other\n", b"0 @ prog a \\\n  b c\n1 @ other\n"),
        (b"0 prog \\\n\\\n1 b\n2 c\n", b"0 @ prog \\\n\\\n1 b\n2 @ c\n"),
        (b"0 prog \\", b"0 @ prog \\"),
        (b"0\n1 \n2 prog\n", b"0\n1 \n2 @ prog\n"),
        (b"0 prog\r\n1 b\r\n", b"0 @ prog\r\n1 @ b\r\n"),
        (b"\r\n0\r\n1 b\r\n", b"\r\n0\r\n1 @ b\r\n"),
        ("0 prög 'ä b'\n".encode(), "0 @ prög 'ä b'\n".encode()),
        (b"0 \xff\xfe\n", b"0 @ \xff\xfe\n"),
        (b"0 /opt/bollard-enter x\n", b"0 @ /opt/bollard-enter x\n"),
    ],
)
def test_each_program_is_started_by_the_launcher(rewritten, text, result):
    assert rewritten(text) == result.replace(b"@", LAUNCHER)


WORD = st.sampled_from([b"0", b"*", b"1-2", b"prog", b"#", b"\\", b"a\\", b"\r", b"%t"])
BLANK = st.sampled_from([b"", b" ", b"\t", b"  "])
LINE = st.lists(st.tuples(BLANK, WORD), max_size=5).map(lambda parts: b"".join(blank + word for blank, word in parts))


@given(lines=st.lists(LINE, max_size=8), end=st.sampled_from([b"", b"\n"]))
def test_nothing_is_lost_and_nothing_else_is_added(rewritten, lines, end):
    text = b"\n".join(lines) + end
    result = rewritten(text).split(b"\n")

    assert b"\n".join(result).replace(LAUNCHER + b" ", b"") == text
    for line in result:
        before, launcher, program = line.partition(LAUNCHER + b" ")
        if launcher:
            assert LAUNCHER not in program
            assert re.fullmatch(rb"[ \t]*[^ \t]+[ \t]+", before)
            assert not before.lstrip(b" \t").startswith(b"#")
            assert program.strip(b" \t")


@given(text=st.binary(max_size=200).map(lambda data: data.replace(b"\0", b"\n")))
def test_any_bytes(rewritten, text):
    assert rewritten(text).replace(LAUNCHER + b" ", b"") == text
