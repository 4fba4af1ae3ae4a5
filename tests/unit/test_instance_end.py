# SPDX-License-Identifier: BSD-3-Clause
"""How instances end: by a signal, with their script, with the step that started them; nothing is left of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import instances
import pytest
from instances import PATIENCE, UID, gone, ours, until


@pytest.fixture(scope="module")
def place():
    with instances.installed() as made:
        yield made


@pytest.fixture
def user(place):
    with instances.at_work(place) as made:
        yield made


def test_stop_asks_the_script(user):
    user.start("web", "gentle")
    until(lambda: "gentle" in user.log("web").read_text(), "the script")

    user.instance("stop", "-s", "TERM", "web")

    assert user.log("web").read_text().endswith("got TERM\n")
    assert user.records() == {}


def test_a_script_that_does_not_listen_is_killed(user):
    record = user.start("deaf", "deaf")
    until(lambda: "deaf" in user.log("deaf").read_text(), "the script")

    done = user.instance("stop", "-t", "1", "deaf")

    assert done.stderr.splitlines() == [
        f"INFO:    {word} deaf instance of {user.image} (PID={record.pid}){end}"
        for word, end in (("Stopping", ""), ("Killing", " (Timeout)"))
    ]
    assert gone(record.pid, record.keeper)


@pytest.mark.parametrize("words", [["web"], ["--all"], ["w*"], ["-F", "web"]])
@pytest.mark.parametrize("script", ["daemon", "many"])
def test_all_processes_of_the_script_end(user, script, words):
    user.start("web", script)
    count = 3 if script == "many" else 1
    until(lambda: [name for _, name in ours()].count("sleep") == count, "the script's processes")

    user.instance("stop", "-t", "1", *words)  # what `&` starts does not hear SIGINT

    assert [name for _, name in ours()] == []


def test_who_joined_ends_with_the_instance(user):
    user.start("web", "stay")
    command = user.command("exec", "instance://web", "sh", "-c", "setsid sleep 999 & echo in; exec sleep 1000")
    said = user.place / "home/said"
    with said.open("w") as errors:  # a file of the user's: the keeper writes to it
        os.chown(said, UID, -1)
        with subprocess.Popen(
            command, env=user.env, cwd="/", stdout=subprocess.PIPE, stderr=errors, text=True
        ) as popen:
            assert popen.stdout is not None and popen.stdout.readline() == "in\n"

            user.instance("stop", "web")

            assert popen.wait(PATIENCE) == -signal.SIGKILL
    assert re.fullmatch(
        r"bollard: the instance web on \S+ ended; the task in its container is ended too\n", said.read_text()
    )
    assert [name for _, name in ours()] == []


@pytest.mark.parametrize("victim", ["pid", "keeper"])
def test_a_killed_one_takes_all_with_it(user, victim):
    record = user.start("web", "many")
    until(lambda: [name for _, name in ours()].count("sleep") == 3, "the script's processes")

    os.kill(getattr(record, victim), signal.SIGKILL)

    until(lambda: ours() == [], "the end of all")
    assert user.records() == {}
    user.start("web", "stay")  # the name is free


def test_a_signal_to_the_pid_is_the_scripts(user):
    record = user.start("web", "gentle")
    until(lambda: "gentle" in user.log("web").read_text(), "the script")

    os.kill(record.pid, signal.SIGTERM)

    until(lambda: gone(record.pid, record.keeper), "the end of the instance")
    assert user.log("web").read_text().endswith("got TERM\n")


def test_it_ends_with_the_step_that_started_it(user):
    """slurmstepd is known by its name alone, so a process of that name will do."""
    program = (
        "import subprocess, sys\n"
        "open('/proc/self/comm', 'w').write('slurmstepd')\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "sys.stdin.read()\n"
    )
    command = user.command("instance", "start", user.image, "web", "daemon")
    env = {**user.env, "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}
    with subprocess.Popen([sys.executable, "-c", program, *command], env=env, stdin=subprocess.PIPE) as step:
        until(lambda: "web" in user.records(), "the instance")
        until(lambda: "sleep" in [name for _, name in ours()], "its service")
        assert user.record("web").job == "12.3"
        assert json.loads(user.instance("list", "--json").stdout)["instances"][0]["job"] == "12.3"
        assert step.stdin is not None
        step.stdin.close()

    until(lambda: ours() == [], "the end of all")
    assert user.records() == {}
