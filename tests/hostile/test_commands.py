# SPDX-License-Identifier: BSD-3-Clause
"""Commands of an administrator that show or end what a user has made: a user cannot lead them to anything else."""

from __future__ import annotations

import json

from cluster import Cluster, Work, good, until

# Answers as the init of an instance does, and names the process argv[1] as its keeper.
FAKE_INIT = """
import json, os, socket, sys
name, uid = "web", os.getuid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(f"\\0bollard-instance/{uid}/{name}")
listener.listen(8)
print("listening", flush=True)
record = dict(name=name, pid=os.getpid(), keeper=int(sys.argv[1]), address="x", place=f"bollard-instance/{uid}/{name}",
              uid=uid, image="i", out="", err="", job="", started=1, script="running")
while True:
    peer, _ = listener.accept()
    peer.recv(64)
    peer.sendall(json.dumps(record).encode())
    peer.close()
"""


def test_root_stops_only_processes_of_that_user(cluster: Cluster) -> None:
    """alice's process says that bob's is the keeper of her instance. Root stops her instance, and not his process."""
    bob = int(good(cluster.exec(["id", "-u"], user="bob")))
    with cluster.start(["sleep", "600"], node="n1", user="bob") as other:
        (victim,) = until(lambda: [p for p in cluster.named("n1", "sleep") if p.uid == bob], "bob's process")
        number = victim.status("NSpid").split()[-1]
        with cluster.start(["/usr/bin/python3", "-c", FAKE_INIT, number], node="n1") as init:
            assert init.popen.stdout is not None and init.popen.stdout.readline() == "listening\n"
            words = ["bollard", "instance", "stop", "--user", "alice", "--timeout", "0", "web"]
            done = cluster.exec(words, "n1", "root", seconds=120)
            assert "Stopping web instance" in done.err, done
            assert victim.alive(), done
            init.terminate()
        other.terminate()


def test_what_users_write_into_a_job_decides_nothing(cluster: Cluster, work: Work) -> None:
    """The job's name looks like a record that root has made, its comment like the number of another user."""
    forged = "x AdminComment=bollard=1 container=c image=/etc/shadow tasks=5 digest=0 UserId=root(0)"
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, "-w", "n1", f"--job-name={forged}", "--comment=UserId=root(0)")
    cluster.ended(job)
    row = json.loads(good(cluster.exec(["bollard", "job", "--json", str(job)], "ctl", "root")))["slurm"][0]
    assert row.get("entered") is None, row
    uid = good(cluster.exec(["id", "-u"])).strip()
    assert (row["uid"], row["state"], row["nodelist"], row["container"]) == (uid, "COMPLETED", "n1", ""), row
    done = cluster.exec(["bollard", "job", "--verify", str(job)], "ctl", "root")
    assert done.rc == 1 and "shadow" not in done.out + done.err, done
