# SPDX-License-Identifier: BSD-3-Clause
"""Instances, really started on this machine by a user who is nobody special, from a directory as the image."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import instances
import pytest
from instances import PATIENCE, UID, gone, ours, until

from bollard.runtime.cli import instance as cli_instance
from bollard.runtime.errors import BollardError
from bollard.runtime.local import instance


@pytest.fixture(scope="module")
def place():
    with instances.installed() as made:
        yield made


@pytest.fixture
def user(place):
    with instances.at_work(place) as made:
        yield made


def test_the_script_runs_in_the_background(user):
    record = user.start("web", "stay", "a b")

    out = until(lambda: user.log("web").read_text(), "output of the script")
    assert out == "started in web by start with stay a b\n"
    until(lambda: user.log("web", "err").read_text() == "to stderr\n", "its stderr")
    assert (record.name, record.uid, record.image, record.job) == ("web", UID, user.image, "")
    assert record.script == "running"
    until(lambda: {name for _, name in ours()} >= {"bollard-init", "bollard-keeper", "bollard-reaper"}, "their names")
    place = user.log("web").parent
    modes = [oct(os.stat(folder).st_mode & 0o777) for folder in (place, *place.parents[:4])]
    assert set(modes) == {"0o700"}, modes


def test_list(user):
    assert user.instance("list").stdout == "INSTANCE NAME    PID    IP    IMAGE\n"

    first, second = user.start("web-1"), user.start("a.b_2")

    lines = user.instance("list").stdout.splitlines()
    width = len(str(first.pid)) + 4
    assert lines == [
        f"INSTANCE NAME    {'PID':<{width}}IP    IMAGE",
        f"a.b_2            {second.pid}          {user.image}",
        f"web-1            {first.pid}          {user.image}",
    ]
    found = json.loads(user.instance("list", "--json", "web*").stdout)["instances"]
    assert [list(row)[:6] for row in found] == [["instance", "pid", "img", "ip", "logErrPath", "logOutPath"]]
    assert (found[0]["instance"], found[0]["pid"], found[0]["img"]) == ("web-1", first.pid, user.image)
    logs = user.instance("list", "-l", "a*").stdout.splitlines()
    assert logs[1].split() == ["a.b_2", str(second.pid), second.err]
    assert logs[2].split() == [second.out]


def test_an_instance_outlives_its_script(user):
    record = user.start("short")

    until(lambda: user.record("short").script == "exit 0", "the end of the script")
    assert user.good("exec", "instance://short", "sh", "-c", "echo $APPTAINER_INSTANCE").stdout == "short\n"
    assert user.instance("stop", "short").stderr == (
        f"INFO:    Stopping short instance of {user.image} (PID={record.pid})\n"
    )
    assert gone(record.pid, record.keeper)


def test_exec_joins(user):
    user.start("web", "stay")
    marker = "echo $APPTAINER_COMMAND $APPTAINER_INSTANCE $SINGULARITY_NAME"

    assert user.good("exec", "instance://web", "sh", "-c", marker).stdout == "exec web image\n"
    assert user.good("shell", "instance://web", "-c", marker).stdout == "shell web image\n"
    joined = user.good("exec", "--env", "A=b c", "--pwd", "/etc", "instance://web", "sh", "-c", "echo $A $PWD")
    assert joined.stdout == "b c /etc\n"
    inside = user.good("exec", "instance://web", "sh", "-c", "echo /proc/self/ns/*; exec env").stdout
    assert "SLURM_BOLLARD" not in inside
    assert user.bollard("exec", "instance://web", "sh", "-c", "exit 7").returncode == 7


def test_all_who_join_see_one_container(user):
    assert user.instance("start", "--contain", user.image, "own", "stay").returncode == 0

    user.good("exec", "instance://own", "touch", "/tmp/of-this-instance")

    assert user.good("exec", "instance://own", "sh", "-c", "echo /tmp/of*").stdout == "/tmp/of-this-instance\n"
    assert not os.path.exists("/tmp/of-this-instance")


def test_the_environment_of_who_joins_is_his_own(user):
    assert user.instance("start", "--env", "OF_START=1", user.image, "web", "stay").returncode == 0

    done = user.bollard("exec", "instance://web", "sh", "-c", "echo $OF_START$OF_JOIN", env={"OF_JOIN": "2"})

    assert (done.stdout, done.stderr) == ("2\n", "")


def test_options_that_come_too_late_are_told(user):
    user.start("web", "stay")

    done = user.bollard("exec", "--bind", "/usr:/mnt", "instance://web", "sh", "-c", "echo in")

    assert done.stdout == "in\n"
    assert done.stderr.startswith("bollard: --bind: without effect, for the instance web runs already; give")
    assert user.bollard("exec", "instance://web", "sh", "-c", ":", env={"APPTAINER_BIND": "/usr"}).stderr == ""


@pytest.mark.skipif(os.getuid() != 0, reason="root may enter what the user may not")
def test_a_directory_that_the_user_may_not_enter(user, tmp_path):
    """The working directory is inherited from whoever became this user."""
    tmp_path.chmod(0o700)
    user.start("web", "stay")
    command = user.command("exec", "instance://web", "sh", "-c", "pwd")
    done = subprocess.run(command, cwd=tmp_path, env=user.env, capture_output=True, text=True)
    home = user.env["HOME"]
    assert done.stdout == home + "\n"
    assert done.stderr.endswith(f": {tmp_path} cannot be entered in the container; the program starts in {home}\n")
    assert done.stderr.count("\n") == 1


def test_instance_run(user):
    user.instance("run", user.image, "web", "x", "y")

    assert until(lambda: user.log("web").read_text().endswith("run with x y\n"), "the runscript")
    assert user.good("exec", "instance://web", "sh", "-c", "echo $APPTAINER_COMMAND").stdout == "exec\n"


def test_pid_file(user):
    path = user.place / "home/pid"
    user.instance("start", "--pid-file", str(path), user.image, "web", "stay")
    assert path.read_text() == f"{user.record('web').pid}\n"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ä", "x" * 65, "-x y", "a*"])
def test_names(user, name):
    done = user.bollard("instance", "start", user.image, name)
    assert (done.returncode, done.stdout) == (255, "")
    assert "cannot be an instance's name; use up to 64 letters, digits and ._-" in done.stderr
    assert user.records() == {}


def test_a_name_is_taken_once(user):
    user.start("web", "stay")

    done = user.bollard("instance", "start", user.image, "web")

    assert (done.returncode, done.stderr) == (
        255,
        "bollard: the instance web exists already; stop it first, or choose another name\n",
    )
    assert list(user.records()) == ["web"]


def test_one_of_two_at_the_same_moment(user):
    both = [
        subprocess.Popen(
            user.command("instance", "start", user.image, "web"), env=user.env, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = sorted(popen.communicate(timeout=PATIENCE)[1] for popen in both)

    assert said == ["INFO:    instance started successfully\n", said[1]]
    assert said[1].startswith("bollard: the instance web exists already")


def test_failures_leave_nothing(user):
    missing = user.bollard("instance", "start", "missing.sif", "web")
    assert missing.stderr.startswith("bollard: missing.sif: no such file")
    assert missing.returncode == 255
    bind = user.bollard("instance", "start", "--bind", "/no/such/place", user.image, "web")
    assert bind.returncode == 255
    assert bind.stderr.startswith("bollard: ") and bind.stderr.count("\n") == 1
    logs = user.bollard("instance", "start", user.image, "web", env={"BOLLARD_CONFIGDIR": "/proc/none"})
    assert "set BOLLARD_CONFIGDIR to a directory of yours" in logs.stderr
    assert user.bollard("instance", "start", user.image).stderr.startswith("bollard: no name for the instance")
    assert user.bollard("exec", "instance://web", "true").stderr.startswith("bollard: no instance web runs on")
    assert user.bollard("instance", "stop", "web").returncode == 1
    assert user.records() == {}


def test_a_job_of_the_environment_alone_is_none(user):
    done = user.bollard("instance", "start", user.image, "web", env={"SLURM_JOB_ID": "12"})
    assert done.returncode == 0
    assert user.record("web").job == ""


def test_several_side_by_side(user):
    records = [user.start(f"n{number}", "stay") for number in range(4)]

    assert len({record.keeper for record in records}) == 4
    user.instance("stop", "n[02]")
    assert sorted(user.records()) == ["n1", "n3"]
    assert user.good("exec", "instance://n3", "sh", "-c", "echo $APPTAINER_INSTANCE").stdout == "n3\n"


def test_stats(user):
    user.start("web", "many")
    until(lambda: [name for _, name in ours()].count("sleep") == 3, "the script's processes")

    header, row = user.instance("stats", "--no-stream", "web").stdout.splitlines()
    names = ["INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"]
    assert re.split(r" {4,}", header) == names
    cells = re.split(r" {4,}", row)
    assert (cells[0], cells[-1]) == ("web", "4")
    assert re.fullmatch(r"[\d.]+%", cells[1])
    assert re.fullmatch(r"[\d.]+[KM]iB / [\d.]+GiB", cells[2])
    shown = json.loads(user.instance("stats", "--json", "web").stdout)
    assert shown["pids_stats"] == {"current": 4}
    assert 0 < shown["memory_stats"]["usage"]["usage"] < shown["memory_stats"]["usage"]["limit"]


def test_an_image_without_a_startscript(user):
    script = Path(user.image, ".singularity.d/startscript")
    script.rename(script.with_suffix(".away"))
    try:
        record = user.start("none")
        assert record.script == ""
        assert user.good("exec", "instance://none", "sh", "-c", "echo in").stdout == "in\n"
        user.instance("stop", "none")
        assert gone(record.pid, record.keeper)
    finally:
        script.with_suffix(".away").rename(script)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_somebody_elses_listener_is_no_instance(user):
    decoy = socket.socket(socket.AF_UNIX)
    decoy.bind(f"\0bollard-instance/{UID}/web")
    decoy.listen(1)
    try:
        assert user.records() == {}
        user.start("web", "stay")
        again = user.bollard("instance", "start", user.image, "web")
        assert "exists already" in again.stderr
        assert user.good("exec", "instance://web", "sh", "-c", "echo in").stdout == "in\n"
        user.instance("stop", "web")
    finally:
        decoy.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_an_instance_answers_its_user_and_root_alone(user):
    user.start("web", "stay")
    address = instance._addresses(UID)[0]
    program = (
        "import socket; s = socket.socket(socket.AF_UNIX); "
        f"s.connect('\\0{address}'); s.sendall(b'kill\\n'); print(s.recv(99))"
    )
    done = subprocess.run(
        ["setpriv", f"--reuid={UID + 1}", f"--regid={UID + 1}", "--clear-groups", sys.executable, "-c", program],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout in ("b''\n", ""), done
    assert list(user.records()) == ["web"]
    denied = user.bollard("instance", "list", "--user", "root")
    assert denied.stderr.startswith("bollard: --user is for root; you can list your own instances")


def test_the_terminal_and_files_of_who_starts_are_let_go(user):
    """Nothing keeps the pipe of `x=$(bollard instance start ...)` open."""
    reader, writer = os.pipe()
    done = subprocess.run(
        user.command("instance", "start", user.image, "web", "stay"),
        env=user.env, stdout=writer, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, pass_fds=(writer,),
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 0
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_sizes_as_text():
    assert [cli_instance.bytes_text(n) for n in (0, 1023, 1024, 1536, 3 << 20, 1234567890123)] == [
        "0B", "1023B", "1KiB", "1.5KiB", "3MiB", "1.123TiB",
    ]  # fmt: skip


def test_signals_by_name_and_number():
    assert [cli_instance._signal(word) for word in ("SIGTERM", "term", "15", "USR1")] == [15, 15, 15, signal.SIGUSR1]
    for word in ("0", "99", "SIGNOPE", ""):
        with pytest.raises(BollardError, match="no such signal"):
            cli_instance._signal(word)


def test_what_a_task_that_joins_is_told():
    values = [("image", "instance://x"), ("cwd", "/w"), ("bind", "/a"), ("env", "A=1"), ("cleanenv", "1")]
    assert instance.task_values("/img.sif", values) == [
        ("image", "/img.sif"), ("asked", "/img.sif"), ("cwd", "/w"), ("env", "A=1"), ("cleanenv", "1"),
    ]  # fmt: skip
