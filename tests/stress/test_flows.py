# SPDX-License-Identifier: BSD-3-Clause
"""Flows of many shapes, and flows that meet what happens to clusters: about half an hour for each release."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import CONTROLLER, Cluster, Images, Process, good, until
from flow_shapes import SHAPES
from test_flow import MPI, Flows, flows

LONG = 1800.0  # seconds for a flow on a loaded machine
__all__ = ["flows"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(flows: Flows, images: Images, name: str) -> None:
    shape, kind = SHAPES[name], MPI[flows.cluster.suite]
    text = shape.text.replace("WORK", flows.work.path)
    if "MPI_IMAGE" in text:
        text = text.replace("RING", "ompi_ring" if kind == "pmix" else "mpich_ring")
        text = text.replace("KIND", "openmpi" if kind == "pmix" else "mpich").replace("MPI_IMAGE", images.mpi)
    flows.work.write("in.txt", "from the network\n")
    with contextlib.ExitStack() as stack:
        if "ctl:8766" in text:
            server = f"cd {flows.work.path}; exec timeout 600 python3 -m http.server 8766 --bind ctl"
            stack.enter_context(flows.cluster.start(server))
            until(lambda: flows.cluster.exec("exec 3<>/dev/tcp/ctl/8766").rc == 0, "the server")
        flow = flows.submit(text)
        done = flows.run("status", "--wait", flow, seconds=LONG)
    assert done.rc == 0 and done.out.endswith(f"flow {flow}: ok\n"), done
    states = flows.states(flow)
    assert len(states) == shape.parts and set(states.values()) == {"ok"}
    assert flows.logs(flow, shape.job) == shape.prints


def started(process: Process) -> list[str]:
    """The command line that starts this process again, with its environment."""
    command, environ = (
        [word.decode() for word in Path(f"/proc/{process.pid}/{name}").read_bytes().split(b"\0") if word]
        for name in ("cmdline", "environ")
    )
    return ["env", "-i", *(word for word in environ if not word.startswith("SLURM")), "setsid", *command]


def restart(cluster: Cluster) -> None:
    """End slurmctld as an administrator does, and start it again."""
    (controller,) = cluster.named(CONTROLLER, "slurmctld")
    again = started(controller)
    controller.kill(15)
    until(lambda: not controller.alive(), "the end of slurmctld")
    done = cluster.exec(again, user="root")
    assert done.rc == 0, done  # newer releases have something to say about the cluster's settings
    until(lambda: cluster.exec(["scontrol", "ping"]).out.count("UP"), "slurmctld")

    def known() -> bool:
        """Whether all nodes have registered: before, Slurm takes no job."""
        states = cluster.exec(["sinfo", "-h", "-N", "-o", "%T"]).out.split()
        return bool(states) and not [state for state in states if "unk" in state or state.endswith("*")]

    until(known, "the nodes' registration", 300)


@contextlib.contextmanager
def settings(cluster: Cluster, text: str) -> Iterator[None]:
    """Add lines to slurm.conf of all nodes, for the time of the block."""
    files = [cluster.path(node, "/etc/slurm/slurm.conf") for node in cluster.nodes()]
    before = [path.read_text() for path in files]
    try:
        for path, old in zip(files, before):
            path.write_text(old + text)
        restart(cluster)
        yield
    finally:
        for path, old in zip(files, before):
            path.write_text(old)
        restart(cluster)


@contextlib.contextmanager
def small_disk(flows: Flows, path: str) -> Iterator[Callable[[], None]]:
    """Mount one filesystem of 4 MiB at `path` on all nodes, alice's own; yield what fills it to the last byte."""
    cluster, file = flows.cluster, flows.work.here / "disk.img"
    file.write_bytes(b"")
    os.truncate(file, 4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m0", "-N500", file], check=True)
    device = subprocess.run(
        ["losetup", "-f", "--show", file], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    number = os.minor(os.stat(device).st_rdev)
    nodes = cluster.nodes()
    try:
        for node in nodes:
            # The kernel has one filesystem for a device, however often it is mounted.
            line = f"mknod /dev/small b 7 {number} && mkdir -p {path} && mount -t ext4 /dev/small {path}"
            good(cluster.exec(line, node=node, user="root"))
        owner = flows.work.here.stat()
        os.chown(cluster.path(CONTROLLER, path), owner.st_uid, owner.st_gid)
        yield lambda: _fill(cluster, path)
    finally:
        for node in nodes:
            cluster.exec(f"umount -l {path}; rm -f /dev/small; rmdir {path} 2> /dev/null", node=node, user="root")
        subprocess.run(["losetup", "-d", device], check=True)


def _fill(cluster: Cluster, path: str) -> None:
    done = cluster.exec(f"cat /dev/zero > {path}/filler; for i in $(seq 600); do echo > {path}/filler.$i || exit; done")
    assert "No space left" in done.err, done


def test_attempts_by_requeue(flows: Flows) -> None:
    """A job, and an element of an array, fail twice and then work: the jobs that need them stay."""
    text = """
jobs:
  again:
    image: IMG
    command: 'echo $SLURM_RESTART_COUNT >> tries; test $(wc -l < tries) = 3'
    policy: {retry: {attempts: 3, requeue: true}}
  kept: {image: IMG, command: 'touch kept', needs: again}
  many:
    image: IMG
    command: 'echo >> tries.$FB_TASK_ID; test $FB_TASK_ID = 1 || test $(wc -l < tries.$FB_TASK_ID) = 3'
    task-array: {start: 1, end: 2}
    policy: {retry: {attempts: 3, requeue: true}}
  each:
    image: IMG
    command: 'touch each.$FB_TASK_ID'
    task-array: {start: 1, end: 2}
    needs: [{name: many, each: true}]
  hopeless:
    image: IMG
    command: 'echo >> hopeless; exit 5'
    policy: {retry: {attempts: 2, requeue: true}}
  never: {image: IMG, command: 'touch never', needs: hopeless}
"""
    with settings(flows.cluster, "AuthInfo=cred_expire=15\n"):
        flow = flows.submit(text)
        until(lambda: "again" in flows.status(flow)["parts"][0]["reason"], "the job waits for its second attempt", LONG)
        assert flows.states(flow)["kept"] == "waiting"
        done = flows.run("status", "--wait", flow, seconds=LONG)
        parts = {part["name"]: part for part in flows.status(flow)["parts"]}
        states = {name: part["state"] for name, part in parts.items()}
        assert states == {
            "again": "ok", "kept": "ok", "many.1": "ok", "many.2": "ok", "each.1": "ok", "each.2": "ok",
            "hopeless": "failed", "never": "cancelled",
        }, done  # fmt: skip
        assert [parts[name]["attempt"] for name in ("again", "many.1", "many.2", "hopeless")] == [3, 1, 3, 2]
        assert flows.work.read("tries").split() == ["1", "2"] and parts["hopeless"]["status"] == 5
        assert len(flows.work.read("hopeless").splitlines()) == 2


def agrees(flows: Flows, flow: str) -> None:
    """Raise unless `flow status` and Slurm say the same of every job that Slurm knows, within two seconds."""
    words = {
        "ok": ("COMPLETED", "COMPLETING"), "failed": ("FAILED", "COMPLETING"),
        "timeout": ("TIMEOUT", "FAILED", "COMPLETING"), "cancelled": ("CANCELLED", "COMPLETING"),
        "lost": ("NODE_FAIL",), "waiting": ("PENDING",), "held": ("PENDING",),
        "running": ("RUNNING", "COMPLETING", "CONFIGURING"),
    }  # fmt: skip

    def differences() -> list[str]:
        rows = good(flows.cluster.exec("squeue -h -t all -u alice -o '%F %T'"))
        known = dict(row.split() for row in rows.splitlines())
        return [
            f"{part['name']}: {part['state']}, and Slurm says {known[str(part['job'])]}"
            for part in flows.status(flow)["parts"]
            if str(part["job"]) in known and known[str(part["job"])] not in words[part["state"]]
        ]

    if differences():  # a job may end between the two looks
        time.sleep(2)
        found = differences()
        assert not found


def test_status_agrees_with_slurm(flows: Flows, pytestconfig: pytest.Config) -> None:
    """A failure, a timeout, scancel, a requeue, a full disk, and slurmctld that ends in the middle.

    MinJobAge is two seconds, so Slurm forgets the jobs. Ten minutes later the status is still the same.
    """
    text = """
jobs:
  fails: {image: IMG, command: 'exit 3'}
  after: {image: IMG, command: 'true', needs: fails}
  late: {image: IMG, command: 'sleep 100', policy: {timeout: {execute: 3s}}}
  killed: {image: IMG, command: 'sleep 1000'}
  gone: {image: IMG, command: 'true', needs: killed}
  moved: {image: IMG, command: 'touch moved.$SLURM_RESTART_COUNT; until test -e go; do sleep 0.2; done'}
  full: {image: IMG, command: 'touch full; until test -e go; do sleep 0.2; done; echo much text; exit 4'}
  end: {image: IMG, command: 'touch end', needs: moved}
"""
    cluster = flows.cluster
    disk = "/home/alice/small-disk"
    with settings(cluster, "MinJobAge=2\nAuthInfo=cred_expire=15\n"), small_disk(flows, disk) as fill:
        flows.env = {"BOLLARD_FLOWS": f"{disk}/flows"}
        flow = flows.submit(text)
        jobs = {part["name"]: part["job"] for part in flows.status(flow)["parts"]}
        until(lambda: flows.states(flow)["killed"] == "running", "the job runs", 300)
        agrees(flows, flow)
        good(cluster.exec(["scancel", str(jobs["killed"])]))
        until(lambda: flows.work.exists("moved.") and flows.work.exists("full"), "both run", 300)
        good(cluster.exec(["scontrol", "requeue", str(jobs["moved"])]))
        until(lambda: flows.states(flow)["killed"] == "cancelled", "the job ends", 300)
        agrees(flows, flow)
        fill()
        done = flows.run("submit", "f.yaml")
        assert done.rc == 255 and f"no space left on {disk}" in done.err, done
        restart(cluster)
        agrees(flows, flow)
        flows.work.write("go", "")
        done = flows.run("status", "--wait", flow, seconds=LONG)
        wanted = {
            "fails": "failed", "after": "cancelled", "late": "timeout", "killed": "cancelled", "gone": "cancelled",
            "moved": "ok", "full": "failed", "end": "ok",
        }  # fmt: skip
        assert flows.states(flow) == wanted, done
        until(lambda: not good(cluster.exec("squeue -h -t all -u alice")), "Slurm has forgotten the jobs", 300)
        time.sleep(pytestconfig.getoption("--forgotten"))
        found = flows.status(flow)
        assert {part["name"]: part["state"] for part in found["parts"]} == wanted and found["state"] == "failed"
        assert next(part for part in found["parts"] if part["name"] == "full")["status"] == 4
