# SPDX-License-Identifier: BSD-3-Clause
"""munged, slurmctld and slurmd: starting them in a node and asking after them."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from namespaces import inside
from slurm_conf import CPUS
from state import CONTROLLER, Cluster, ClusterError

# What lets slurmd bind tasks to declared CPUs; the C file tells how.
FOLDED_CPUS = "/usr/local/lib/test-cluster/folded_cpus.so"

# The daemons join the node's own cgroups, as they would at boot; then each puts itself into the background.
BOOT = r"""
set -eu
for procs in /sys/fs/cgroup/*/cgroup.procs; do ! [ -e "$procs" ] || echo 0 > "$procs"; done
cd /
install -d -o munge -g munge -m 755 /run/munge
install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
install -d -o slurm -g slurm -m 755 /run/slurm /var/log/slurm /var/lib/slurm /var/lib/slurm/slurmctld
install -d -m 755 /var/spool/slurmd
setpriv --reuid=munge --regid=munge --clear-groups munged
sh -euc "$1"
shift
exec env "$@"
"""


def start(cluster: Cluster, node: str, pid: int) -> None:
    """Everything that a node of its kind runs."""
    first = ""
    if node == CONTROLLER and cluster.has_accounting():
        import accounting

        first = accounting.start_script(node, cluster.suite)
    daemon = "slurmctld" if node == CONTROLLER else "slurmd"
    settings = (
        [] if node == CONTROLLER else [f"HWLOC_SYNTHETIC=Package:1 Core:{CPUS} PU:1", f"LD_PRELOAD={FOLDED_CPUS}"]
    )
    done = subprocess.run(
        inside(
            pid,
            [
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                "sh",
                "-c",
                BOOT,
                "boot",
                first,
                *settings,
                daemon,
            ],
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"{daemon} did not start on '{node}': {done.stdout.strip()}")


class Slurmd(NamedTuple):
    """What slurmctld knows of a node."""

    state: str  # in lower case: idle, mixed+planned, down*, ...
    started: float  # when the slurmd that registered last was started; 0 before the first


def slurm_states(cluster: Cluster) -> dict[str, Slurmd]:
    """What slurmctld says of each node; empty while it does not answer."""
    controller = cluster.process(CONTROLLER)
    if controller is None:
        return {}
    try:
        done = subprocess.run(
            inside(controller.pid, ["env", "TZ=UTC0", "scontrol", "show", "nodes", "--oneliner"]),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}
    states = {}
    for line in done.stdout.splitlines():
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        try:
            started = datetime.strptime(fields.get("SlurmdStartTime", "") + "+0000", "%Y-%m-%dT%H:%M:%S%z")
        except ValueError:  # None, Unknown
            states[fields["NodeName"]] = Slurmd(fields["State"].lower(), 0)
        else:
            states[fields["NodeName"]] = Slurmd(fields["State"].lower(), started.timestamp())
    return states


def wait_idle(cluster: Cluster, nodes: list[str], since: float, seconds: float = 60) -> None:
    """Until Slurm can run jobs on these nodes; on failure, the end of the logs that tell why.

    Only a slurmd started `since` counts: after a power cut slurmctld believes in the old one for a while.
    """
    end = time.monotonic() + seconds
    while True:
        states = slurm_states(cluster)
        waiting = [node for node in nodes if not usable(states.get(node), since)]
        if not waiting:
            return
        if time.monotonic() > end:
            tails = [line for node in (CONTROLLER, waiting[0]) for line in tail(cluster, node)]
            told = ", ".join(f"{node} ({states[node].state if states else 'no answer'})" for node in waiting)
            said = f"not idle within {seconds:.0f} s: {told}; see `cluster logs --suite {cluster.suite}`"
            raise ClusterError("\n".join([*tails, said]))
        time.sleep(0.05)


def usable(node: Slurmd | None, since: float) -> bool:
    if node is None:
        return False
    state, *flags = node.state.split("+")
    return (
        state in ("idle", "allocated", "mixed")
        and not {"drain", "not_responding"} & set(flags)
        and node.started >= int(since)
    )


def log_files(cluster: Cluster, node: str) -> list[Path]:
    return sorted((cluster.run / node / "log").glob("*.log"))


def tail(cluster: Cluster, node: str, lines: int = 15) -> list[str]:
    return [
        f"{node} {path.stem}: {line}"
        for path in log_files(cluster, node)
        for line in path.read_text(errors="replace").splitlines()[-lines:]
    ]
