# SPDX-License-Identifier: BSD-3-Clause
"""munged, slurmctld and slurmd: start them in a node, and ask for their state."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from namespaces import inside
from slurm_conf import CPUS
from state import CONTROLLER, Cluster, ClusterError

# The library with which slurmd can bind tasks to the declared CPUs; folded_cpus.c explains it.
FOLDED_CPUS = "/usr/local/lib/test-cluster/folded_cpus.so"
# The library with which slurmd sees cgroup v2 alone; one_hierarchy.c explains it. Each node compiles it.
ONE_HIERARCHY = "/run/one_hierarchy.so"
COMPILE = f"gcc -shared -fPIC -o {ONE_HIERARCHY} /usr/src/bollard/slurm-test-cluster/one_hierarchy.c\n"

# With BOLLARD_SANITIZE=slurmstepd (spank_plugin/toolchain.py) every program of the node loads AddressSanitizer first,
# as the plugin needs it in srun and slurmstepd. A finding ends the program. It is in a file in /tmp, where the tests
# look for leftovers. slurmctld, which loads no plugin, is started before.
ASAN = r"""
cat > /run/asan.c << 'end'
const char *__asan_default_options(void)
{
    return "detect_leaks=0:verify_asan_link_order=0:log_path=/tmp/asan:disable_coredump=1:abort_on_error=1";
}
end
gcc -shared -fPIC -o /run/asan.so /run/asan.c
echo "/run/asan.so $(realpath "$(gcc -print-file-name=libasan.so)")" > /etc/ld.so.preload
"""

# The daemons join the node's cgroups, as at boot. Each then puts itself into the background.
BOOT = r"""
set -eu
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    echo 0 > /sys/fs/cgroup/cgroup.procs
else
    for procs in /sys/fs/cgroup/*/cgroup.procs; do ! [ -e "$procs" ] || echo 0 > "$procs"; done
fi
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
    """Start all daemons of a node.

    cluster: the cluster of a suite.
    node: the name of the node.
    pid: the process id of its init.

    Raises:
        ClusterError: a daemon does not start.
    """
    first = ""
    if node == CONTROLLER and cluster.has_accounting():
        import accounting

        first = accounting.start_script(node, cluster.suite)
    daemon = "slurmctld" if node == CONTROLLER else "slurmd"
    preload = [FOLDED_CPUS]
    if node != CONTROLLER and cluster.is_unified():
        first, preload = COMPILE, [FOLDED_CPUS, ONE_HIERARCHY]
    sanitized = os.environ.get("BOLLARD_SANITIZE") == "slurmstepd"
    if sanitized and node != CONTROLLER:
        first += ASAN
    settings = (
        [] if node == CONTROLLER else [f"HWLOC_SYNTHETIC=Package:1 Core:{CPUS} PU:1", f"LD_PRELOAD={':'.join(preload)}"]
    )
    server = ["--conf-server", CONTROLLER] if node != CONTROLLER and cluster.is_configless() else []
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
                *server,
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
    if sanitized and node == CONTROLLER:
        subprocess.run(inside(pid, ["sh", "-euc", ASAN]), stdin=subprocess.DEVNULL, check=True)


class Slurmd(NamedTuple):
    """The state of a node as slurmctld reports it."""

    state: str  # in lower case: idle, mixed+planned, down*, ...
    started: float  # start time of the slurmd that registered last, seconds since 1970; 0 before the first


def slurm_states(cluster: Cluster) -> dict[str, Slurmd]:
    """Return the state of each node from slurmctld; empty if it does not answer."""
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
    """Wait until Slurm can run jobs on these nodes.

    cluster: the cluster of a suite.
    nodes: the names of the nodes.
    since: seconds since 1970. Only a slurmd that was started later counts: after a kill, slurmctld reports the state of
        the old one for some time.
    seconds: the time limit.

    Raises:
        ClusterError: the nodes are not idle in time; the message has the end of the logs.
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
    """Return whether Slurm can run jobs on the node, with a slurmd that was started after `since`."""
    if node is None:
        return False
    state, *flags = node.state.split("+")
    return (
        state in ("idle", "allocated", "mixed")
        and not {"drain", "not_responding"} & set(flags)
        and node.started >= int(since)
    )


def log_files(cluster: Cluster, node: str) -> list[Path]:
    """Return the paths of a node's logs, sorted."""
    return sorted((cluster.run / node / "log").glob("*.log"))


def tail(cluster: Cluster, node: str, lines: int = 15) -> list[str]:
    """Return the last `lines` lines of each log of a node, with the names of node and log."""
    return [
        f"{node} {path.stem}: {line}"
        for path in log_files(cluster, node)
        for line in path.read_text(errors="replace").splitlines()[-lines:]
    ]
