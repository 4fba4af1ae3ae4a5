# SPDX-License-Identifier: BSD-3-Clause
"""Make, enter and end nodes.

A node is the set of namespaces of its init. Its mounts, interfaces and processes end with this init. Only the cgroup
directories are left and must be removed.
"""

from __future__ import annotations

import errno
import os
import subprocess
from functools import partial
from pathlib import Path

from state import Cluster, wait_until

HERE = Path(__file__).resolve().parent
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = (
    "freezer",
    "cpuset",
    "devices",
)  # what proctrack/cgroup and task/cgroup use
MEMORY = "memory"  # only for a site that limits memory; else the nodes get no group in this hierarchy

# Join the groups before the cgroup namespace is made, so that they become its root. $0 is the list of groups.
JOIN = 'for group in $0; do echo 0 > "$group/cgroup.procs"; done; exec "$@"'


def cgroup_controllers(memory: bool = False) -> list[str]:
    """Return the cgroup v1 hierarchies for nodes; none if the machine has only cgroup v2."""
    names = [*CONTROLLERS, MEMORY] if memory else CONTROLLERS
    found = [name for name in names if (CGROUPS / name / "cgroup.procs").exists()]
    return found if "freezer" in found else []


def unified() -> Path | None:
    """Return where the machine has mounted cgroup v2; None if it has not."""
    places = (CGROUPS, CGROUPS / "unified")
    return next((place for place in places if (place / "cgroup.controllers").exists()), None)


def cgroup_name(cluster: Cluster, node: str) -> str:
    """Return the name of the node's cgroup in each hierarchy."""
    return f"bollard-{cluster.label}-{node}"


def make_cgroups(cluster: Cluster, node: str) -> list[Path]:
    """Make the node's cgroups; return their directories."""
    made: list[Path] = []
    whole = unified()
    if cluster.is_unified() and whole:
        group = whole / cgroup_name(cluster, node)
        group.mkdir(exist_ok=True)
        return [group]
    for controller in cgroup_controllers(cluster.limits_memory()):
        group = CGROUPS / controller / cgroup_name(cluster, node)
        group.mkdir(exist_ok=True)
        if controller == "cpuset":  # a new cpuset is empty and accepts no process
            for item in ("cpuset.cpus", "cpuset.mems"):
                (group / item).write_text((CGROUPS / controller / item).read_text())
        made.append(group)
    return made


def remove_cgroups(cluster: Cluster, node: str) -> None:
    """Remove the node's cgroups, the deepest first. They are empty after the end of its init."""
    hierarchies = [CGROUPS / controller for controller in (*CONTROLLERS, MEMORY)]
    whole = unified()
    for hierarchy in (*hierarchies, *([whole] if whole else [])):
        for path, _, _ in os.walk(hierarchy / cgroup_name(cluster, node), topdown=False):
            # The kernel reports a group as busy for a short time after its last process has ended.
            wait_until(partial(removed, path), 10, f"cgroup {path} was not empty")


def removed(path: str) -> bool:
    """Remove a cgroup directory; return False if the kernel reports it as busy."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


# Slurm keeps a job's mount namespace by mounting it on a file. The kernel allows this mount only in a mount namespace
# with a lower number. Since Linux 6.18 each CPU gives numbers from its own range.
NUMBER = """
import fcntl, os
number = bytearray(8)
fcntl.ioctl(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0x8008B705, number)  # NS_GET_MNTNS_ID
print(int.from_bytes(number, "little"))
"""


def lowest_cpu() -> int:
    """Return the CPU that gives the lowest numbers to mount namespaces."""

    def number(cpu: int) -> int:
        words = ["taskset", "-c", str(cpu), "unshare", "--mount", "/usr/bin/python3", "-IS", "-c", NUMBER]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return int(done.stdout or 0)  # Linux before 6.10 does not have this ioctl

    return min(os.sched_getaffinity(0), key=number)


def spawn(cluster: Cluster, node: str, tree: str = "") -> None:
    """Start a node's namespaces and its init; `settle` waits for them.

    cluster: the cluster of a suite.
    node: the name of the node.
    tree: the lower directories of the node's overlay; "" for the suite's tree.
    """
    run = cluster.run / node
    for name in ("disk", "log"):
        (run / name).mkdir(parents=True, exist_ok=True)
    etc = run / "etc"
    if not etc.is_symlink():
        etc.symlink_to(cluster.run / "etc")
    groups = make_cgroups(cluster, node)
    all_cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    controllers = "unified" if cluster.is_unified() else " ".join(cgroup_controllers(cluster.limits_memory()))
    first_cpu = str(lowest_cpu()) if cluster.has_private_tmp() else all_cpus

    words = [
        "sh", "-euc", JOIN, " ".join(map(str, groups)), "taskset", "-c", first_cpu,
        "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--propagation", "private",
        "sh", str(HERE / "node-init.sh"), cluster.label, node, str(run), tree or str(cluster.tree),
        str(cluster.shared), str(cluster.own / "source"), controllers, all_cpus,
    ]  # fmt: skip
    cluster.start_init(node, words, run / "log" / "init.log")


def settle(cluster: Cluster, node: str) -> int:
    """Wait until the node's init runs; return its process id."""

    def ready() -> bool:
        found = cluster.process(node)
        return found is not None and Path(f"/proc/{found.pid}/comm").read_text() == "tini\n"

    wait_until(ready, 20, f"node '{node}' did not start (see {cluster.run / node / 'log' / 'init.log'})")
    pid, whole = cluster.init(node), unified()
    if cluster.is_unified() and whole:
        # slurmd refuses a cgroup that holds a process of another process namespace: unshare(1), which waits for init.
        status = Path(f"/proc/{pid}/status").read_text()
        (whole / "cgroup.procs").write_text(status.partition("\nPPid:")[2].split()[0])
    return pid


def end(cluster: Cluster, node: str) -> bool:
    """Kill the node's init: the kernel then ends all its processes. Return False if it was not running."""
    found = cluster.process(node)
    if found is not None:
        found.kill()
    (cluster.run / f"{node}.init").unlink(missing_ok=True)
    remove_cgroups(cluster, node)
    return found is not None


def inside(pid: int, command: list[str]) -> list[str]:
    """Return the command line that runs `command` as root in all namespaces of the process `pid`."""
    return ["nsenter", "--target", str(pid), "--all", "--", *command]
