# SPDX-License-Identifier: BSD-3-Clause
"""What another user of the node does to a job: none of it stops the job's steps, or keeps it from ending."""

from __future__ import annotations

import subprocess

import pytest
from cluster import WHERE, Cluster, Images, Work, good, until

# Takes a lock on everything of the job's folder that this user can open, and holds it until it is ended.
LOCKER = """
import fcntl, os, sys, time
kind = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}[sys.argv[2]]
folder = f"/run/bollard-jobs/{sys.argv[1]}"
held = []
for path in ["/run/bollard-jobs", folder, *(f"{folder}/{name}" for name in os.listdir(folder))]:
    try:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        held.append(fd)
        print("locked", path, flush=True)
    except OSError as error:
        print(error, flush=True)
print("holding", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_bob_locks_what_he_can_open(cluster: Cluster, images: Images, work: Work, kind: str) -> None:
    """alice's steps start, and her job ends, while he holds it."""
    step = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    script = f"echo $SLURM_JOB_ID > {work.path}/id; {step}; {work.pause('one')}; {step}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        number = work.read("id").strip()
        with cluster.start(["python3", "-c", LOCKER, number, kind], node="n1", user="bob") as locker:
            assert locker.popen.stdout is not None
            said = [locker.popen.stdout.readline()]
            while said[-1] not in ("holding\n", ""):
                said.append(locker.popen.stdout.readline())
            assert f"locked /run/bollard-jobs/{number}\n" in said, said
            work.go_on("one")
            assert good(job.result()).split() == ["inside", "inside"]
            queue = ["squeue", "-h", "-o", "%T", "-j", number]
            until(lambda: not cluster.exec(queue).out, "the end of the job", 30)


def test_bob_locks_an_overlay_that_he_can_read(cluster: Cluster, images: Images, work: Work) -> None:
    """A layer that several users read: none of them keeps the others out."""
    (work.here / "tree").mkdir()
    work.write("tree/opt-mark", "here\n")
    layer = cluster.path("n1", "/tmp/layer.sqfs")
    make = ["mksquashfs", str(work.here / "tree"), str(layer), "-quiet", "-no-progress", "-all-root"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    layer.chmod(0o644)
    lock = "file = open('/tmp/layer.sqfs', 'rb'); fcntl.flock(file, fcntl.LOCK_EX); print(1, flush=True)"
    words = ["python3", "-c", f"import fcntl, time; {lock}; time.sleep(600)"]
    try:
        with cluster.start(words, node="n1", user="bob") as locker:
            assert locker.popen.stdout is not None and locker.popen.stdout.readline() == "1\n"
            options = "--container-opts=--overlay /tmp/layer.sqfs:ro"
            done = cluster.srun("-w", "n1", "-n1", f"--container={images.small}", options, "cat", "/opt-mark")
            assert good(done) == "here\n"
    finally:
        layer.unlink()
