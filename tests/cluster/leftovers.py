# SPDX-License-Identifier: BSD-3-Clause
"""What a job leaves on any node: processes, mounts, files, sockets, cgroup directories, empty records."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator

from cluster import CONTROLLER, PREFIX, Cluster, Process

# Nothing new may be in these, at any depth.
OWN = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/spool", PREFIX)
# Users put files here; none may have such a name.
HOMES = "/home"
OURS = re.compile("bollard|apptainer|singularity", re.IGNORECASE)
# What srun keeps of images there, for the next step (runtime/preflight/verdict.py).
VERDICTS = re.compile(r"/\.cache/bollard-preflight(/[\d.]+)?$")
# Slurm's of jobs, below each mounted hierarchy.
CGROUPS = re.compile(r"(uid|job|step)_")
# What root keeps of jobs: not empty, one for each job and user.
RECORDS = "/var/log/bollard"
RECORD = re.compile(r"\d+\.\d+$")
# The folder of the jobs' folders; it stays.
STAYS = "/run/bollard-jobs"
# slurmd writes these files at any time, and a killed slurmstepd leaves its socket.
SLURMS = re.compile(r"/var/spool/slurmd/(cred_state|hwloc_topo|n\d+_\d+\.\d+$)")
GOOD_STATES = {"idle", "mixed", "allocated", "completing"}


class Snapshot:
    """The state of all nodes at one time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.processes = {node: set(cluster.processes(node)) for node in cluster.nodes()}
        self.mounts = {node: Counter(cluster.mount_points(node)) for node in cluster.nodes()}
        self.files = {node: set(self._files(node)) for node in cluster.nodes()}
        self.cgroups = {node: set(self._cgroups(node)) for node in cluster.nodes()}

    def _cgroups(self, node: str) -> Iterator[str]:
        """The cgroup directories of jobs, as paths on the node."""
        root = str(self.cluster.path(node, "/")).rstrip("/")
        for name in _names(root, "/sys/fs/cgroup", directories=True):
            if CGROUPS.match(os.path.basename(name)):
                yield name

    def _records(self, node: str) -> Iterator[str]:
        """One line for each record of a job that is empty or has a wrong name."""
        for path in sorted(self.cluster.path(node, RECORDS).glob("*")):
            with contextlib.suppress(FileNotFoundError):
                if not RECORD.match(path.name) or path.stat().st_size == 0:
                    yield f"{path.name} of {path.stat().st_size} bytes"

    def _files(self, node: str) -> Iterator[str]:
        root = str(self.cluster.path(node, "/")).rstrip("/")
        for place in OWN:
            yield from (name for name in _names(root, place) if not SLURMS.match(name) and name != STAYS)
        if node == CONTROLLER:
            yield from (name for name in _names(root, HOMES) if OURS.search(name) and not VERDICTS.search(name))

    def news(self) -> list[str]:
        """One line for each thing that is new since the snapshot, or is not as it should be."""
        news = []
        for node in self.cluster.nodes():
            for process in self.cluster.processes(node):
                if process not in self.processes[node] and not _is_daemon(process):
                    news.append(f"{node}: process {process.name} ({process.pid}) of user {process.uid}")
            mounts = Counter(self.cluster.mount_points(node)) - self.mounts[node]
            news += [f"{node}: mount {point}" for point in mounts]
            news += [f"{node}: {name}" for name in set(self._files(node)) - self.files[node]]
            news += [f"{node}: socket {name}" for name in self.cluster.sockets(node)]
            news += [f"{node}: cgroup {name}" for name in set(self._cgroups(node)) - self.cgroups[node]]
            news += [f"{node}: record {text}" for text in self._records(node)]
        return news + self._slurm_news()

    def _slurm_news(self) -> list[str]:
        text = self.cluster.exec("sinfo -hN -o 'node %N %T %E'; squeue -ho 'job %i %T'", user="root").out
        news = []
        for line in text.splitlines():
            kind, name, state, *reason = line.split(" ", 3)
            if kind == "job" or state not in GOOD_STATES or reason != ["none"]:
                news.append(f"{kind} {name} is {state} {' '.join(reason)}")
        return news if text else ["slurmctld does not answer"]


def _names(root: str, place: str, directories: bool = False) -> Iterator[str]:
    for folder, folders, files in os.walk(root + place):
        for name in folders if directories else (*folders, *files):
            yield f"{folder}/{name}"[len(root) :]


def _is_daemon(process: Process) -> bool:
    """Whether a process is a daemon's, not a step's. Daemons start and end helpers of their own names at any time.

    A node that was started again has a new init: tini, and the sleep that tini waits for.
    """
    if process.name == "sleep":
        with contextlib.suppress(OSError):
            return open(f"/proc/{process.pid}/cmdline").read() == "sleep\0infinity\0"
    name = process.name.removesuffix("-wlm")  # the name of Debian's file; a reconfigured daemon executes it
    return name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged", "slurmscriptd", "tini")
