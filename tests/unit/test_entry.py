# SPDX-License-Identifier: BSD-3-Clause
"""The words between launcher and keeper: frames that are right, and every kind that is not."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bollard.runtime.container import entry, wire
from bollard.runtime.request.spec import Spec

Text = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b""))


def request(argv: list[bytes], env: list[bytes], cwd: bytes, verbose: bytes = b"") -> bytes:
    parts = [b"%d" % len(argv), *argv, b"%d" % len(env), *env, cwd, verbose, b""]
    return b"\0".join(parts)


@given(st.lists(Text, min_size=1, max_size=5), st.lists(Text, max_size=5), Text, Text)
def test_a_request_is_read_back(argv: list[bytes], env: list[bytes], cwd: bytes, verbose: bytes) -> None:
    assert entry.parse_request(request(argv, env, cwd, verbose)) == (argv, env, cwd, verbose)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        b"1\0",
        b"1\0a",
        b"1\0a\0",
        b"-1\0a\0000\0/\0\0",
        b"1\0a\0-1\0/\0",
        b"x\0a\0000\0/\0\0",
        b"0\0000\0/\0\0",
        b"99999999999999999999\0a\0",
        b"1\0a\0001\0A=b\0/\0",
        request([b"a"], [], b"/") + b"more\0",
        request([b"a"], [], b"/")[:-1],
    ],
)
def test_other_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):
        entry.parse_request(frame)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    try:
        argv, _, _, _ = entry.parse_request(frame)
    except ValueError:
        return
    assert argv


def test_a_reply_ends_every_string_with_nul() -> None:
    answer = entry.reply([b"a", b"b"], [b"A=1"], b"/tmp", b"note", b"m", b"r", b"s")
    assert answer == b"2\0a\0b\0001\0A=1\0/tmp\0note\0m\0r\0s\0"


def test_receiving_stops_at_the_peers_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(5)
        there.sendall(b"abc")
        assert wire.receive(here, 2) == b"ab"
        there.close()
        with pytest.raises(ConnectionError):
            wire.receive(here, 2)


@pytest.mark.parametrize(
    ("contain", "home", "found"), [(False, "/usr", b"/etc"), (True, "/usr", b"/usr"), (True, "/no/such", b"/")]
)
def test_where_a_task_starts(contain: bool, home: str, found: bytes) -> None:
    assert entry.working_directory(Spec("/i", contain=contain, home=home), b"/etc") == found
