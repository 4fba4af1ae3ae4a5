# SPDX-License-Identifier: BSD-3-Clause
"""What a keeper that was started by hand says to the command that waits for it."""

from __future__ import annotations

import ast
import os
import resource
import threading

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.image import encryption
from bollard.runtime.local import execution
from bollard.runtime.request import spec
from bollard.runtime.system import processes


def answered(*told):
    """What `answer` makes of the (status, text) that `tell` wrote before its end of the pipe went."""
    reader, writer = os.pipe()

    def tell():
        for status, text in told:
            execution.tell(writer, status, text)
        os.close(writer)

    keeper = threading.Thread(target=tell)
    keeper.start()
    try:
        return execution.answer(reader)
    finally:
        keeper.join()


@pytest.mark.parametrize(
    "command",
    [[], ["prog"], ["prog", "a b", "", "\n"], ["prog", "ä", os.fsdecode(b"\xff")], ["prog", *["x" * 999] * 999]],
)
def test_the_command_to_start(command):
    assert answered(("+", "".join(f"{word}\0" for word in command))) == command


def test_a_failure_and_its_status():
    with pytest.raises(BollardError) as caught:
        answered(("126", "img.sif: no such file; check the name"))
    assert (str(caught.value), caught.value.code) == ("img.sif: no such file; check the name", 126)


def test_a_long_failure_is_whole():
    with pytest.raises(BollardError) as caught:
        answered(("255", "x" * 200_000))
    assert len(str(caught.value)) == 200_000


def test_no_answer():
    with pytest.raises(BollardError, match="ended before it was ready; was it killed"):
        answered()


def test_an_answer_in_pieces():
    reader, writer = os.pipe()

    def tell():
        for byte in b"+\0prog\0a\0":
            os.write(writer, bytes([byte]))
        os.close(writer)

    keeper = threading.Thread(target=tell)
    keeper.start()
    assert execution.answer(reader) == ["prog", "a"]
    keeper.join()
    with pytest.raises(OSError):
        os.fstat(reader)


def limits():
    return resource.getrlimit(resource.RLIMIT_CORE)


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_key_of_an_encrypted_image_does_not_stay(monkeypatch, encrypted):
    """The keeper gets it in the one list that is emptied, and leaves no core; the user's program keeps its limit."""

    def keep(asked, action, argv, shell, listener, writer, handle, instance, keys, ranks):
        said = (str(os.getpid()), *map(str, limits()), *(f"{key.passphrase!r}" for key in keys))
        execution.tell(writer, "+", "".join(f"{word}\0" for word in said))

    monkeypatch.setattr(execution, "LAUNCHER", "/bin/true")
    monkeypatch.setattr(execution, "BY_PIP", False)
    monkeypatch.setattr(execution, "_keep", keep)
    before = limits()
    keys = [encryption.Key(b"secret")] if encrypted else []
    handle = os.pidfd_open(os.getpid())
    _, _, told = execution.launch(spec.Spec(), "exec", ["true"], "", handle, keys=keys)
    os.close(handle)
    least = str(min(1, before[1] if before[1] >= 0 else 1))
    assert told == ([least, least, "b'secret'"] if encrypted else [str(limit) for limit in before])
    assert keys == [] and limits() == before


def test_a_child_gets_the_limit_of_cores_back():
    before = limits()
    reader, writer = os.pipe()
    if os.fork() == 0:
        kept = processes.leave_no_core(soft=True)
        here = limits()
        processes.limit_cores(kept)
        os.write(writer, repr((kept, here, limits())).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    with open(reader) as file:
        kept, here, after = ast.literal_eval(file.read())
    assert kept == after == before and here == (1 if before[1] else 0, before[1])
