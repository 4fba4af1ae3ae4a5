# SPDX-License-Identifier: BSD-3-Clause
"""bollard.mpi.pmi2_wire against a fake server that repeats what a real slurmstepd (22.05.8) said."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from bollard.mpi import pmi2_wire
from bollard.mpi.errors import Pmi2Error

GREETING = (
    b"cmd=init pmi_version=2 pmi_subversion=0\n",
    b"cmd=response_to_init rc=0 pmi_version=2 pmi_subversion=0\n",
)
# srun -N2 -n2 --mpi=pmi2, rank 0, recorded on the descriptor; the second column is slurmstepd's answer.
RECORDED = (
    GREETING,
    (
        b"52    cmd=fullinit;pmijobid=43.0;pmirank=0;threaded=FALSE;",
        b"114   cmd=fullinit-response;rc=0;pmi-version=2;pmi-subversion=0;rank=0;size=2;appnum=-1;"
        b"debugged=FALSE;pmiverbose=FALSE;",
    ),
    (b"14    cmd=job-getid;", b"39    cmd=job-getid-response;rc=0;jobid=43.0;"),
    (b"32    cmd=kvs-put;key=k.0;value=v a=0;", b"26    cmd=kvs-put-response;rc=0;"),
    (b"14    cmd=kvs-fence;", b"28    cmd=kvs-fence-response;rc=0;"),
    (
        b"40    cmd=kvs-get;jobid=43.0;srcid=-1;key=k.1;",
        b"49    cmd=kvs-get-response;rc=0;found=TRUE;value=v a=1;",
    ),
    (b"43    cmd=kvs-get;jobid=43.0;srcid=-1;key=absent;", b"38    cmd=kvs-get-response;rc=0;found=FALSE;"),
    (b"13    cmd=finalize;", b"27    cmd=finalize-response;rc=0;"),
)
JOINED = RECORDED[:2]


@contextmanager
def server(*exchanges: tuple[bytes, bytes], piecemeal: bool = False) -> Iterator[pmi2_wire.Wire]:
    """A connection to a server that expects and answers just this, in order, and then closes.

    ``piecemeal`` sends each answer byte by byte. What the client sends otherwise fails the test.
    """
    ours, theirs = socket.socketpair()
    wrong: list[tuple[bytes, bytes]] = []

    def serve() -> None:
        with theirs:
            for expected, answer in exchanges:
                heard = b""
                while len(heard) < len(expected) and (part := theirs.recv(len(expected) - len(heard))):
                    heard += part
                if heard != expected:
                    wrong.append((expected, heard))
                    return
                for part in [bytes([byte]) for byte in answer] if piecemeal else [answer]:
                    theirs.sendall(part)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    # Finalize closes the descriptor it was given; the socket object must not close it again.
    descriptor = ours.detach()
    try:
        yield pmi2_wire.Wire(descriptor, "43.0", 0)
    finally:
        with suppress(OSError):
            os.close(descriptor)
        thread.join(10)
    assert wrong == []


@pytest.mark.parametrize("piecemeal", [False, True])
def test_recorded_session(piecemeal: bool) -> None:
    with server(*RECORDED, piecemeal=piecemeal) as wire:
        wire.init()
        assert (wire.rank, wire.size) == (0, 2)
        assert wire.job_id() == "43.0"
        wire.put("k.0", "v a=0")
        wire.fence()
        assert wire.get("k.1") == "v a=1"
        assert wire.get("absent") is None
        wire.finalize()


def test_the_servers_rank_counts() -> None:
    answer = JOINED[1][1].replace(b"rank=0;size=2", b"rank=1;size=2")
    with server(GREETING, (JOINED[1][0], answer)) as wire:
        wire.init()
        assert (wire.rank, wire.size) == (1, 2)


def refused(problem: str, *exchanges: tuple[bytes, bytes]) -> None:
    """Init, then a fence, must fail with these words in message or hint."""
    with server(*exchanges) as wire, pytest.raises(Pmi2Error) as caught:
        wire.init()
        wire.fence()
    assert problem in str(caught.value)
    assert caught.value.hint


def test_another_version() -> None:
    # What slurmstepd says once a task of the node has spoken PMI-1.
    refused("offers 1.1", (GREETING[0], b"cmd=response_to_init rc=-1 pmi_version=1 pmi_subversion=1\n"))


def test_second_greeting_on_one_connection() -> None:
    # Recorded: the answer has a length and no newline, and the server closes.
    refused("already run an MPI program", (GREETING[0], b"27    cmd=finalize-response;rc=0;"))


def test_server_gone_before_the_greeting() -> None:
    refused("slurmstepd closed", (GREETING[0], b""))


def test_server_gone_in_the_middle_of_an_answer() -> None:
    refused("slurmstepd closed", *JOINED, (b"14    cmd=kvs-fence;", b"28    cmd=kvs-fen"))


def test_failed_fence() -> None:
    body = b"cmd=kvs-fence-response;rc=-1;errmsg=mpi/pmi2: failed to send temp kvs;"
    refused("failed to send temp kvs", *JOINED, (b"14    cmd=kvs-fence;", b"%-6d%s" % (len(body), body)))


def test_unreadable_request() -> None:
    refused(
        "answered kvs-fence with finalize-response",
        *JOINED,
        (b"14    cmd=kvs-fence;", b"27    cmd=finalize-response;rc=0;"),
    )


@pytest.mark.parametrize("length", [b"abcdef", b"-1    ", b"      ", b"1 2   "])
def test_length_that_is_none(length: bytes) -> None:
    refused("where PMI-2 has a length", *JOINED, (b"14    cmd=kvs-fence;", length + b"x" * 64))


def test_endless_greeting() -> None:
    refused("answered the PMI-2 greeting", (GREETING[0], b"x" * 1000))


@pytest.mark.parametrize(
    "answer",
    [
        b"cmd=fullinit-response;rc=0;rank=0;",
        b"cmd=fullinit-response;rc=0;rank=0;size=two;",
        b"cmd=fullinit-response;rc=0;rank=-1;size=2;",
    ],
)
def test_init_without_rank_or_size(answer: bytes) -> None:
    refused("gave no", GREETING, (JOINED[1][0], b"%-6d%s" % (len(answer), answer)))


def test_encode() -> None:
    assert pmi2_wire.encode("kvs-fence") == b"14    cmd=kvs-fence;"
    assert pmi2_wire.encode("kvs-put", [("key", "ü"), ("value", "")]) == b"26    cmd=kvs-put;key=\xc3\xbc;value=;"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k" * 64, "v"),
        ("k", "v" * 1024),
        ("k", "a;b"),
        ("k", "a\0b"),
        ("a;b", "v"),
        ("a=b", "v"),
        ("", "v"),
    ],
)
def test_what_the_protocol_cannot_carry(key: str, value: str) -> None:
    with pytest.raises(Pmi2Error):
        pmi2_wire.encode("kvs-put", [(key, value)])


def test_decode() -> None:
    assert pmi2_wire.decode(b"cmd=x;") == ("x", {})
    assert pmi2_wire.decode(b"cmd=x;a=1;b=;a=2;") == ("x", {"a": "1", "b": ""})
    assert pmi2_wire.decode(b"cmd=x;a=b=c;") == ("x", {"a": "b=c"})
    assert pmi2_wire.decode(b"cmd=x;a=1;;2;b=3;") == ("x", {"a": "1;2", "b": "3"})
    assert pmi2_wire.decode(b"cmd=x;a=\xff;") == ("x", {"a": "\\xff"})


@pytest.mark.parametrize("body", [b"", b"x", b";", b"cmd=x", b"cmd;", b"a=1;cmd=x;", b"cmd=x;a;", b"cmd=x;a=1"])
def test_decode_refuses(body: bytes) -> None:
    with pytest.raises(Pmi2Error):
        pmi2_wire.decode(body)


def test_from_environment() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        env = {b"PMI_FD": str(ours.fileno()).encode(), b"PMI_RANK": b"7", b"PMI_JOBID": b"43.0"}
        assert pmi2_wire.from_environment(env).rank == 7
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"


@pytest.mark.parametrize(
    "env",
    [
        {},
        {b"PMI_FD": b"x", b"PMI_RANK": b"0"},
        {b"PMI_FD": b"3"},
        {b"PMI_FD": b"-3", b"PMI_RANK": b"0"},
        {b"PMI_FD": b"9" * 30, b"PMI_RANK": b"0"},
        {b"PMI_FD": b"999999", b"PMI_RANK": b"0"},
    ],
)
def test_from_wrong_environment(env: dict[bytes, bytes]) -> None:
    with pytest.raises(Pmi2Error):
        pmi2_wire.from_environment(env)


def test_descriptor_of_something_else() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(Pmi2Error, match="no open socket"):
            pmi2_wire.from_environment({b"PMI_FD": str(reader).encode(), b"PMI_RANK": b"0"})
    finally:
        os.close(reader)
        os.close(writer)
