# SPDX-License-Identifier: BSD-3-Clause
"""At a terminal: the same keys, and the same answers, under both."""

from __future__ import annotations

import re
import signal

import pexpect
import pytest
from tree import ENVIRONMENT, IMAGES, Machine

INTERRUPT, STOP, END = "\x03", "\x1a", "\x04"
PROGRAMS = ("apptainer", "bollard")


def usual_signals() -> None:
    """Let the keys of a terminal act: a shell that starts the tests in the background has them ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """An interactive bash on the machine; `BOX` in what is typed is the program."""

    def __init__(self, machine: Machine, program: str) -> None:
        words = ["env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items()), "bash", "--norc", "--noprofile", "-i"]
        command = machine.command(words)
        self.child = pexpect.spawn(
            command[0], command[1:], encoding="utf-8", timeout=20, dimensions=(31, 101), preexec_fn=usual_signals
        )
        self.program = program
        self.type("PS1=outer@; cd; bind 'set enable-bracketed-paste off'")
        self.child.expect("outer@")
        self.child.expect("outer@")

    def type(self, text: str) -> None:
        self.child.sendline(text.replace("BOX", self.program).replace("$I", IMAGES))

    def key(self, key: str) -> None:
        self.child.send(key)

    def sees(self, text: str) -> None:
        self.child.expect(re.escape(text))

    def status(self) -> int:
        self.type("echo status=$?.")
        self.child.expect(r"status=(\d+)\.")
        assert isinstance(self.child.match, re.Match)
        return int(self.child.match[1])


@pytest.fixture(params=PROGRAMS)
def terminal(request, machine):
    made = Terminal(machine, request.param)
    yield made
    made.child.close(force=True)


@pytest.mark.parametrize("pid", ["", "--pid"])
def test_an_interrupt_ends_the_program(terminal, pid):
    # exec, for dash loses a SIGINT that comes while it starts a command of its own.
    terminal.type(f"BOX exec {pid} $I/plain.sif sh -c 'echo rea''dy; exec sleep 300'")
    terminal.sees("ready")
    terminal.key(INTERRUPT)
    terminal.sees("outer@")
    assert terminal.status() == 130


def test_a_program_is_stopped_and_goes_on(terminal):
    terminal.type("BOX exec $I/plain.sif sh -c 'echo rea''dy; sleep 2; echo do''ne'")
    terminal.sees("ready")
    terminal.key(STOP)
    terminal.sees("Stopped")
    terminal.sees("outer@")
    terminal.type("fg")
    terminal.sees("done")
    assert terminal.status() == 0


@pytest.mark.parametrize("pid", ["", "--pid"])
def test_a_shell_has_job_control(terminal, pid):
    terminal.type(f"BOX shell {pid} $I/plain.sif")
    terminal.sees("> ")
    terminal.type("PS1=inner@")
    terminal.sees("inner@")
    terminal.type("sleep 300")
    terminal.key(STOP)
    terminal.sees("Stopped")
    terminal.type("kill %1; wait; echo ki''lled")
    terminal.sees("killed")
    terminal.type("sleep 300")
    terminal.key(INTERRUPT)
    terminal.type("echo inter''rupted")
    terminal.sees("interrupted")
    terminal.type("exit 5")
    terminal.sees("outer@")
    assert terminal.status() == 5


def test_the_size_of_the_window(terminal):
    terminal.type("BOX exec $I/plain.sif stty size")
    terminal.sees("31 101")


def test_the_end_of_input_ends_a_shell(terminal):
    terminal.type("BOX shell $I/plain.sif")
    terminal.sees("> ")
    terminal.key(END)
    terminal.sees("outer@")
    assert terminal.status() == 0


def test_a_program_in_the_background(terminal):
    terminal.type("BOX exec $I/plain.sif sh -c 'echo rea''dy; sleep 300' &")
    terminal.sees("ready")
    terminal.type("kill $!; wait $!; echo status=$?.")
    terminal.sees("status=143.")
