# SPDX-License-Identifier: BSD-3-Clause
"""What is known of one suite's cluster: where it keeps things, and which processes are its own.

A process is recorded by the line of /proc/PID/stat that it wrote itself when it started: pid and start time
together name one process for as long as the machine is up, so that a number which came back into use after a
crash or a reboot is never taken for a node, and never killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

CACHE = Path("/var/cache/bollard-test-cluster")
RUN = Path("/run/bollard-test-cluster")
SHARED = Path("/var/lib/bollard-test-cluster")
CONTROLLER = "ctl"
SWITCH = "switch"  # the process that holds the bridge's network namespace; not a node
MARKER = "BOLLARD_TEST_CLUSTER"  # in the environment of every init: LABEL/NODE
# Clusters of another name stand beside each other on one machine: each has its own nodes, network and homes. All
# share the suites' trees and the images.
NAME = os.environ.get("BOLLARD_CLUSTER", "")


class ClusterError(Exception):
    """One line for the user: what happened, the value at fault, what to do next."""


class Process(NamedTuple):
    """One process for good: a pid and the moment it started (clock ticks since boot)."""

    pid: int
    start: int

    @classmethod
    def parse(cls, stat: str) -> Process:
        """From a line of /proc/PID/stat; the name in it may hold spaces and parentheses."""
        return cls(int(stat.split(" ", 1)[0]), int(stat[stat.rindex(")") + 2 :].split()[19]))

    def alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[stat.rindex(")") + 2] not in "ZX" and self == Process.parse(stat)

    def kill(self, deadline: float = 10.0) -> None:
        """SIGKILL and wait until it is gone; a pidfd makes sure that it is this process and no later one."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():
                return
            os.kill(self.pid, signal.SIGKILL)
            if not select.select([handle], [], [], deadline)[0]:
                raise ClusterError(
                    f"process {self.pid} did not end within {deadline:.0f} s after SIGKILL: "
                    f"see what it waits for in /proc/{self.pid}/stack"
                )
        finally:
            os.close(handle)


class Settings(TypedDict):
    """What a cluster was brought up with."""

    nodes: int
    plugin: bool
    accounting: bool
    site: list[str]


class Cluster:
    """The cluster of one suite, as found on disk; nothing is cached between calls."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.label = f"{NAME}.{suite}" if NAME else suite
        self.cache = CACHE / suite  # what clusters of any name share
        self.own = CACHE / "named" / self.label if NAME else self.cache  # the plugin and its sources
        self.run = RUN / self.label
        self.shared = SHARED / self.label
        self.tree = self.cache / "base"

    def settings(self) -> Settings | None:
        """What `up` was asked for, or None when the cluster was never brought up."""
        try:
            found: Settings = json.loads((self.run / "cluster.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return {**Settings(nodes=0, plugin=False, accounting=False, site=[]), **found}

    def save_settings(self, settings: Settings) -> None:
        temporary = self.run / "cluster.json.new"
        temporary.write_text(json.dumps(settings))
        temporary.rename(self.run / "cluster.json")

    def has_plugin(self) -> bool:
        settings = self.settings()
        return settings is not None and settings["plugin"]

    def has_accounting(self) -> bool:
        settings = self.settings()
        return settings is not None and settings["accounting"]

    def limits_memory(self) -> bool:
        settings = self.settings()
        return settings is not None and "constrain" in settings["site"]

    def has_private_tmp(self) -> bool:
        settings = self.settings()
        return settings is not None and any("/" in word for word in settings["site"])

    def nodes(self) -> list[str]:
        """The controller first, then the compute nodes."""
        settings = self.settings()
        return [] if settings is None else node_names(settings["nodes"])

    def process(self, name: str) -> Process | None:
        """The running init of a node (or the switch), or None."""
        try:
            found = Process.parse((self.run / f"{name}.init").read_text())
        except (FileNotFoundError, ValueError, IndexError):
            return None
        return found if found.alive() else None

    def start_init(self, name: str, command: list[str], log: Path) -> None:
        """The init of a node (or the switch), which stays when we have ended; it writes its own record."""
        with open(log, "ab") as output:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", MARKER: f"{self.label}/{name}"},
            )

    def init(self, name: str) -> int:
        """The pid of a node's init; an error that says what to do when there is none."""
        found = self.process(name)
        if found is not None:
            return found.pid
        names = self.nodes()
        if not names:
            raise ClusterError(f"no cluster is up for suite '{self.suite}': run `cluster up --suite {self.suite}`")
        if name not in names:
            raise ClusterError(f"no node '{name}' in suite '{self.suite}': choose one of {', '.join(names)}")
        raise ClusterError(f"node '{name}' is down: run `cluster start --suite {self.suite} --node {name}`")

    def stragglers(self) -> list[Process]:
        """Inits that carry this suite's marker, recorded or not (a run directory may have been lost)."""
        marker = f"{MARKER}={self.label}/".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if any(item.startswith(marker) for item in (entry / "environ").read_bytes().split(b"\0")):
                        found.append(Process.parse((entry / "stat").read_text()))
        return [process for process in found if process.pid != os.getpid()]

    def forget(self) -> None:
        import shutil  # takes its time; `exec` must start at once

        shutil.rmtree(self.run, ignore_errors=True)
        with contextlib.suppress(OSError):
            RUN.rmdir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One change at a time for a suite. The lock is the cache directory: no file to leave behind."""
        self.cache.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.cache, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def node_names(count: int) -> list[str]:
    return [CONTROLLER] + [f"n{number}" for number in range(1, count + 1)]


def known_suites() -> list[str]:
    """Suites that have a run directory for a cluster of this name."""
    labels = [entry.name for entry in RUN.iterdir()] if RUN.is_dir() else []
    prefix = f"{NAME}." if NAME else ""
    found = [label[len(prefix) :] for label in labels if label.startswith(prefix)]
    return sorted(suite for suite in found if "." not in suite)


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a callable until it says true; an error naming `what` after the deadline."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise ClusterError(f"{what} within {seconds:.0f} s")
        time.sleep(0.01)
