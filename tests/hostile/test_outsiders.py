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

# Takes the addresses by which ranks of user 1000 might find each other, and each new one as soon as it sees it.
SQUATTER = """
import os, socket, time
held, inode = [], os.stat("/proc/self/ns/user").st_ino

def take(name):
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        taken.bind(chr(0) + name)
        held.append(taken)
    except OSError:
        taken.close()

for job in range(1, 1000):
    for step in range(3):
        take(f"bollard-ranks-1000.{inode}.{job}.{step}-lock")
print("holding", flush=True)
seen = set()
while True:
    for line in open("/proc/net/unix"):
        name = line.rstrip().rpartition(" @")[2]
        if name.startswith("bollard-ranks-") and name.endswith("-lock"):
            seen.add(name)
    for name in seen:
        take(name)
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


def test_bob_takes_the_addresses_of_ranks(cluster: Cluster, images: Images) -> None:
    """Ranks that each start `bollard exec` share a user namespace all the same."""
    with cluster.start(["python3", "-c", SQUATTER], node="n1", user="bob") as squatter:
        assert squatter.popen.stdout is not None and squatter.popen.stdout.readline() == "holding\n"
        shown = ["bollard", "exec", images.small, "sh", "-c", "readlink /proc/self/ns/user; sleep 1"]
        done = cluster.srun("-w", "n1", "-n4", *shown)
    assert len(done.lines()) == 4 and len(set(done.lines())) == 1 and not done.err, done


# Listens at the given number of addresses of instances of user 1000, and keeps their queues full.
CROWD = """
import socket, sys, time
held = []
for number in range(int(sys.argv[1])):
    place = f"{chr(0)}bollard-instance/1000/web/{number}"
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind(place)
    held[-1].listen(0)
    for _ in range(4):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].setblocking(False)
        held[-1].connect_ex(place)
print("listening", flush=True)
time.sleep(600)
"""


def test_bob_listens_at_addresses_of_instances(cluster: Cluster, images: Images, work: Work) -> None:
    """alice's instance starts, is found and ends. She waits for all of his addresses together, not for each."""
    with cluster.start(["python3", "-c", CROWD, "400"], node="n1", user="bob") as crowd:
        assert crowd.popen.stdout is not None and crowd.popen.stdout.readline() == "listening\n"
        for words in (["start", images.small, "web"], ["list", "web"], ["stop", "web"]):
            named = {"BOLLARD_CONFIGDIR": work.path}
            done = cluster.exec(["timeout", "60", "bollard", "instance", *words], "n1", env=named)
            assert done.rc == 0, done
