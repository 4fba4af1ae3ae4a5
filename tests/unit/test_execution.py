# SPDX-License-Identifier: BSD-3-Clause
"""What a keeper that was started by hand says to the command that waits for it."""

from __future__ import annotations

import os
import threading

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.local import execution


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
