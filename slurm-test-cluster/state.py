# SPDX-License-Identifier: BSD-3-Clause
"""The state of one suite's cluster: its directories and its processes.

A process is recorded by the line of /proc/PID/stat that it wrote itself at its start. The pid and the start time
together identify one process until the next reboot. So a later process with the same pid is not taken for a node, and
is not killed.
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
# Clusters with different names can run on one machine at the same time. Each has its own nodes, network and /home. All
# use the same trees of the suites and of the test images.
NAME = os.environ.get("BOLLARD_CLUSTER", "")


class ClusterError(Exception):
    """An error for the user: one line with what happened, the value at fault, and what to do."""


class Process(NamedTuple):
    """The identity of a process: its pid and its start time (clock ticks since boot)."""

    pid: int
    start: int

    @classmethod
    def parse(cls, stat: str) -> Process:
        """Parse a line of /proc/PID/stat; the process name in it can hold spaces and parentheses."""
        return cls(int(stat.split(" ", 1)[0]), int(stat[stat.rindex(")") + 2 :].split()[19]))

    def alive(self) -> bool:
        """Return whether this process runs and is not a zombie."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[stat.rindex(")") + 2] not in "ZX" and self == Process.parse(stat)

    def kill(self, deadline: float = 10.0) -> None:
        """Send SIGKILL and wait up to `deadline` seconds for the end. A pidfd prevents a mistake with a later process.

        Raises:
            ClusterError: the process does not end in time.
        """
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
    """The settings with which a cluster was started."""

    nodes: int
    plugin: bool
    accounting: bool
    site: list[str]


class Cluster:
    """The cluster of one suite. Every call reads the state from the disk again."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.label = f"{NAME}.{suite}" if NAME else suite
        self.cache = CACHE / suite  # shared by clusters of all names
        self.own = CACHE / "named" / self.label if NAME else self.cache  # the plugin and its sources
        self.run = RUN / self.label
        self.shared = SHARED / self.label
        self.tree = self.cache / "base"

    def settings(self) -> Settings | None:
        """Return the settings of `up`; None if the cluster is not up."""
        try:
            found: Settings = json.loads((self.run / "cluster.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return {**Settings(nodes=0, plugin=False, accounting=False, site=[]), **found}

    def save_settings(self, settings: Settings) -> None:
        """Write the settings into the run directory, by rename(2)."""
        temporary = self.run / "cluster.json.new"
        temporary.write_text(json.dumps(settings))
        temporary.rename(self.run / "cluster.json")

    def has_plugin(self) -> bool:
        """Return whether the nodes have the plugin."""
        settings = self.settings()
        return settings is not None and settings["plugin"]

    def has_accounting(self) -> bool:
        """Return whether the controller runs slurmdbd."""
        settings = self.settings()
        return settings is not None and settings["accounting"]

    def limits_memory(self) -> bool:
        """Return whether the site limits the memory of jobs."""
        settings = self.settings()
        return settings is not None and "constrain" in settings["site"]

    def is_unified(self) -> bool:
        """Return whether the nodes have cgroup v2 in the place of v1."""
        settings = self.settings()
        return settings is not None and "cgroup-v2" in settings["site"]

    def is_configless(self) -> bool:
        """Return whether slurmd fetches its files from the controller."""
        settings = self.settings()
        return settings is not None and "configless" in settings["site"]

    def has_private_tmp(self) -> bool:
        """Return whether the site gives each job its own /tmp, with a plugin such as job_container/tmpfs."""
        settings = self.settings()
        return settings is not None and any("/" in word for word in settings["site"])

    def nodes(self) -> list[str]:
        """Return the names of the nodes: the controller first, then the compute nodes."""
        settings = self.settings()
        return [] if settings is None else node_names(settings["nodes"])

    def process(self, name: str) -> Process | None:
        """Return the running init of a node (or of the switch); None if it does not run."""
        try:
            found = Process.parse((self.run / f"{name}.init").read_text())
        except (FileNotFoundError, ValueError, IndexError):
            return None
        return found if found.alive() else None

    def start_init(self, name: str, command: list[str], log: Path) -> None:
        """Start the init of a node (or of the switch). It writes its own record, and it runs on after this process.

        name: the name of the node, or SWITCH.
        command: the command line.
        log: the file for its output.
        """
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
        """Return the process id of a node's init.

        Raises:
            ClusterError: the cluster is not up, there is no such node, or the node is down.
        """
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
        """Return the processes with this suite's marker, recorded or not: a run directory can be lost."""
        marker = f"{MARKER}={self.label}/".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if any(item.startswith(marker) for item in (entry / "environ").read_bytes().split(b"\0")):
                        found.append(Process.parse((entry / "stat").read_text()))
        return [process for process in found if process.pid != os.getpid()]

    def forget(self) -> None:
        """Remove the run directory."""
        import shutil  # this import is slow, and `exec` must start fast

        shutil.rmtree(self.run, ignore_errors=True)
        with contextlib.suppress(OSError):
            RUN.rmdir()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock the cluster for a change."""
        return locked(self.shared)

    def cache_lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock the suite's tree and layers, which clusters of all names use. It may be taken inside `lock`."""
        return locked(self.cache)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, which is made if it is missing. So there are no lock files."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def node_names(count: int) -> list[str]:
    """Return the names of the controller and of `count` compute nodes."""
    return [CONTROLLER] + [f"n{number}" for number in range(1, count + 1)]


def known_suites() -> list[str]:
    """Return the suites that have a run directory for a cluster of this name."""
    labels = [entry.name for entry in RUN.iterdir()] if RUN.is_dir() else []
    prefix = f"{NAME}." if NAME else ""
    found = [label[len(prefix) :] for label in labels if label.startswith(prefix)]
    return sorted(suite for suite in found if "." not in suite)


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Call `ready` again and again until it returns True.

    ready: the condition.
    seconds: the time limit.
    what: the beginning of the error message.

    Raises:
        ClusterError: the condition is not met in time.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise ClusterError(f"{what} within {seconds:.0f} s")
        time.sleep(0.01)
