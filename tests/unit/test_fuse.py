# SPDX-License-Identifier: BSD-3-Clause
"""The process that watches a file server while a container is made."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from bollard.runtime.container import fuse
from bollard.runtime.system import processes

PATIENCE = 60  # seconds


def until(found):
    end = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


def test_the_watch_ends_with_the_keeper_even_if_it_was_stopped():
    server = subprocess.Popen(["sleep", "1000"])
    keeper = os.fork()
    if keeper == 0:
        try:
            fuse.Deadline(server.pid, fuse.open_state(server.pid))
            time.sleep(1000)
        finally:
            os._exit(0)

    def watchers():
        return [pid for pid in processes.children(keeper) if open(f"/proc/{pid}/comm").read() == "bollard-watch\n"]

    (watch,) = until(watchers)
    handle = processes.handle(watch)
    try:
        os.kill(watch, signal.SIGSTOP)
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        assert processes.wait([handle], PATIENCE) == []
    finally:
        signal.pidfd_send_signal(handle, signal.SIGKILL) if processes.wait([handle], 0) else None
        os.close(handle)
        server.kill()
        server.wait()
