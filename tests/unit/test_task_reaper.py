# SPDX-License-Identifier: BSD-3-Clause
"""The task reaper: tasks end when their keeper was killed, and only then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

from bollard.runtime.container import task_reaper

PATIENCE = 60  # seconds after which a test that hangs fails


@pytest.fixture
def task(tmp_path):
    """Start a task, its stderr a file; gives (process, file)."""
    started: list[subprocess.Popen[bytes]] = []

    def start():
        log = tmp_path / f"stderr{len(started)}"
        with open(log, "w") as stderr:
            started.append(subprocess.Popen(["sleep", "1000"], stderr=stderr))
        return started[-1], log

    yield start
    for process in started:
        process.kill()
        process.wait()


def ended(watcher):
    """Wait for the task reaper's process; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(watcher.pid, 0)[1])


def is_closed(fd):
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_farewell(task):
    process, log = task()
    watcher = task_reaper.start(-1, ())
    watcher.watch(process.pid)
    watcher.dismiss()

    assert ended(watcher) == 0
    assert process.poll() is None
    assert log.read_text() == ""
    assert is_closed(watcher.pipe)


def test_a_keeper_that_goes_without_a_farewell(task):
    (first, log), (second, other_log) = task(), task()
    watcher = task_reaper.start(-1, ())
    watcher.watch(first.pid)
    watcher.watch(second.pid)
    os.close(watcher.pipe)

    assert ended(watcher) == 0
    assert first.wait(PATIENCE) == second.wait(PATIENCE) == -signal.SIGKILL
    reason = f"bollard: the container's keeper on {os.uname().nodename} was killed; the task is ended too\n"
    assert (log.read_text(), other_log.read_text()) == (reason, "")


def test_tasks_that_ended_by_themselves(task):
    (gone, _), (late, _), (here, log) = task(), task(), task()
    gone.kill()
    gone.wait()
    watcher = task_reaper.start(-1, ())
    for process in (gone, late, here):
        watcher.watch(process.pid)
    late.kill()
    late.wait()
    os.close(watcher.pipe)

    assert ended(watcher) == 0
    assert here.wait(PATIENCE) == -signal.SIGKILL
    assert "was killed" in log.read_text()


def test_a_guard_that_was_killed(task):
    process, _ = task()
    watcher = task_reaper.start(-1, ())
    watcher.watch(process.pid)
    os.kill(watcher.pid, signal.SIGKILL)
    assert ended(watcher) == -signal.SIGKILL

    with pytest.raises(BrokenPipeError):
        watcher.watch(process.pid)
    watcher.dismiss()
    assert is_closed(watcher.pipe)
    assert process.poll() is None


def test_what_the_guard_keeps_of_the_keepers(task):
    leash, root = socket.socketpair()
    ours, theirs = socket.socketpair()
    with leash, root, theirs:
        theirs.settimeout(PATIENCE)
        watcher = task_reaper.start(leash.fileno(), (ours.fileno(), -1))
        assert root.recv(1) == b"K"
        ours.close()
        assert theirs.recv(1) == b""  # nobody else holds its other end
        leash.close()
        root.setblocking(False)
        with pytest.raises(BlockingIOError):
            root.recv(1)  # the task reaper does: it is how root finds it
        watcher.dismiss()
        assert ended(watcher) == 0
        assert root.recv(1) == b""


def test_the_first_who_can_be_told_is(task):
    (gone, _), (first, log), (second, other_log) = task(), task(), task()
    tasks = [(process.pid, os.pidfd_open(process.pid)) for process in (gone, first, second)]
    gone.kill()
    gone.wait()

    task_reaper.end_tasks(tasks, "why")
    assert first.wait(PATIENCE) == second.wait(PATIENCE) == -signal.SIGKILL
    assert (log.read_text(), other_log.read_text()) == ("bollard: why\n", "")
    for _, handle in tasks:
        os.close(handle)


def test_a_task_that_ended_has_no_handle(task):
    process, _ = task()
    handle = task_reaper.task_handle(process.pid)
    assert handle >= 0
    os.close(handle)
    process.kill()
    process.wait()
    assert task_reaper.task_handle(process.pid) == -1
