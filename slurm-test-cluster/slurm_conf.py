# SPDX-License-Identifier: BSD-3-Clause
"""Write the files in /etc that are the same on every node: Slurm's configuration and the table of hosts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from namespaces import cgroup_controllers, unified
from network import address
from state import CONTROLLER, Cluster, ClusterError, node_names
from suites import SUITES

CPUS = 8  # declared for each node, independent of the machine
MEMORY = 4096  # MiB, declared for each node

SLURM = """\
ClusterName={suite}
SlurmctldHost={controller}
AuthType=auth/munge
CredType=cred/munge
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=verbose
SlurmdDebug=debug
{plugstack}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters={select}
{tracking}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=30
MpiDefault=none
LaunchParameters=use_interactive_step
TaskProlog=/etc/slurm/task_prolog.sh
MaxArraySize=10001
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=5
UnkillableStepTimeout=30
MessageTimeout=15
BatchStartTimeout=15

# More CPUs are declared than the machine has: slurmd must believe this file and not the hardware. It also
# starts with HWLOC_SYNTHETIC, which describes the same CPUs to task/affinity.
SlurmdParameters={parameters}
NodeName=DEFAULT CPUs={cpus} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory}{cards}
NodeName=n[1-{nodes}] State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 State=UP OverSubscribe=YES
"""

WITH_CGROUP = """\
# Every node mounts the cgroup v1 hierarchies from its own group downwards, in its own cgroup namespace.
ProctrackType=proctrack/cgroup
TaskPlugin=task/affinity,task/cgroup"""

CONTAIN = "PrologFlags=Contain\n"

WITHOUT_CGROUP = """\
# This machine has no cgroup v1 freezer hierarchy. PrologFlags=Contain needs proctrack/cgroup.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity"""

CGROUP = """\
{plugin}CgroupMountpoint=/sys/fs/cgroup
# The CPUs that slurm.conf declares do not all exist, so a cpuset of them cannot be made.
ConstrainCores=no
ConstrainRAMSpace={constrain}
ConstrainSwapSpace=no
ConstrainDevices={devices}
"""

# Each job gets only a part of the memory, so that its limit can be tested.
CONSTRAIN = "DefMemPerCPU=256\n"

TASK_PROLOG = """\
#!/bin/sh
# Like $(hostname), without a fork: this runs before every task.
read -r name < /proc/sys/kernel/hostname
echo "export SITE_TASK_PROLOG=ran-on-$name"
"""


class Choice(NamedTuple):
    """A difference between sites, chosen by its name with `up --site`."""

    first: tuple[int, int]  # the first release of Slurm that has it
    last: tuple[int, int] = (99, 99)  # the last one
    lines: str = ""  # lines for slurm.conf
    file: str = ""  # the name of another file in /etc/slurm
    text: str = ""  # the content of this file


# Two cards in each node: node-init.sh makes device files of these names, without a driver in the kernel behind them.
CARDS = " Gres=gpu:2"
GRES = "Name=gpu File=/dev/nvidia[0-1]\n"

PRIVATE = "AutoBasePath=true\nBasePath=/var/spool/job-tmp\n"
CHOICES = {
    # Nodes have no slurm.conf: slurmd fetches the files from the controller, into its spool directory.
    "configless": Choice((20, 11), lines="SlurmctldParameters=enable_configless\n"),
    "constrain": Choice((20, 11)),
    "gpus": Choice((20, 11), lines="GresTypes=gpu\n", file="gres.conf", text=GRES),
    "no-contain": Choice((20, 11)),
    "cgroup-v2": Choice((22, 5)),
    "contain_spank": Choice((24, 5)),
    "job_container/tmpfs": Choice(
        (21, 8), (25, 5), "JobContainerType=job_container/tmpfs\n", "job_container.conf", PRIVATE
    ),
    "namespace/tmpfs": Choice(
        (25, 11), lines="NamespaceType=namespace/tmpfs\n", file="job_container.conf", text=PRIVATE
    ),
    "namespace/linux": Choice(
        (25, 11),
        lines="NamespaceType=namespace/linux\n",
        file="namespace.yaml",
        text="defaults:\n  auto_base_path: true\n  base_path: /var/spool/job-tmp\n",
    ),
}


def check(cluster: Cluster, site: list[str]) -> None:
    """Check that this suite's Slurm and this machine support the choices of `site`.

    Raises:
        ClusterError: a choice is unknown or not supported.
    """
    major, minor = map(int, SUITES[cluster.suite].slurm.split("."))
    for name in site:
        if name not in CHOICES:
            raise ClusterError(f"--site {name}: choose from {', '.join(CHOICES)}")
        if not CHOICES[name].first <= (major, minor) <= CHOICES[name].last:
            raise ClusterError(f"--site {name}: Slurm {major}.{minor:02} of suite '{cluster.suite}' does not have it")
        if "no-contain" in site and CHOICES[name].lines:
            raise ClusterError(f"--site {name} needs PrologFlags=Contain: leave no-contain out")
    if "constrain" in site and "memory" not in cgroup_controllers(memory=True):
        raise ClusterError("--site constrain needs the cgroup v1 memory hierarchy, which this machine does not have")
    if "cgroup-v2" in site and ("constrain" in site or not unified()):
        raise ClusterError("--site cgroup-v2 needs a mounted cgroup v2 hierarchy, and goes without constrain")
    if not cgroup_controllers() and any(CHOICES[name].lines for name in site):
        raise ClusterError("PrologFlags=Contain needs the cgroup v1 freezer, which this machine does not have")


def write(cluster: Cluster, nodes: int, site: list[str], more: str = "") -> None:
    """Write the files into the run directory; every node copies them when it starts.

    cluster: the cluster of a suite.
    nodes: the number of compute nodes.
    site: names of CHOICES.
    more: further lines for slurm.conf.
    """
    etc = cluster.run / "etc"
    slurm = etc / "slurm"
    slurm.mkdir(parents=True, exist_ok=True)
    tracked = bool(cgroup_controllers()) or "cgroup-v2" in site
    parameters = ["config_overrides", *(["contain_spank"] if "contain_spank" in site else [])]
    more += CONSTRAIN if "constrain" in site else ""
    more += CONTAIN if tracked and "no-contain" not in site else ""
    for choice in map(CHOICES.__getitem__, site):
        more += choice.lines
        if choice.file:
            slurm.joinpath(choice.file).write_text(choice.text)
    slurm.joinpath("slurm.conf").write_text(
        SLURM.format(
            suite=cluster.suite,
            controller=CONTROLLER,
            nodes=nodes,
            cpus=CPUS,
            memory=MEMORY,
            parameters=",".join(parameters),
            tracking=WITH_CGROUP if tracked else WITHOUT_CGROUP,
            cards=CARDS if "gpus" in site else "",
            plugstack="" if "configless" in site else "PlugStackConfig=/etc/slurm/plugstack.conf\n",
            select="CR_Core_Memory" if "constrain" in site else "CR_Core",
        )
        + more
    )
    plugin = "CgroupPlugin=cgroup/v1\n" if SUITES[cluster.suite].cgroup_plugin else ""
    if "cgroup-v2" in site:  # no node has systemd, which would make slurmstepd's scope
        plugin = "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"
    constrain = "yes" if "constrain" in site else "no"
    devices = "yes" if "gpus" in site else constrain
    slurm.joinpath("cgroup.conf").write_text(CGROUP.format(plugin=plugin, constrain=constrain, devices=devices))
    slurm.joinpath("plugstack.conf").write_text("include /etc/slurm/plugstack.conf.d/*.conf\n")
    script(slurm / "task_prolog.sh", TASK_PROLOG)
    hosts = ["127.0.0.1 localhost", *(f"{address(cluster.suite, node)} {node}" for node in node_names(nodes))]
    etc.joinpath("hosts").write_text("\n".join(hosts) + "\n")


def script(path: Path, text: str) -> None:
    """Write an executable file."""
    path.write_text(text)
    path.chmod(0o755)
