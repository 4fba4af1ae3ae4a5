# SPDX-License-Identifier: BSD-3-Clause
"""Ways into a container that are not on record."""

from __future__ import annotations

from cluster import Cluster, Images, Work, good, until

# Takes the descriptors of a container's namespaces, and never reads the rest of the answer, which is longer than a
# socket holds. Prints whether it is in the container then.
TAKER = """
import array, ctypes, glob, os, socket, struct, sys
(name,) = glob.glob(f"/run/bollard-jobs/{sys.argv[1]}/" + 16 * "[0-9a-f]")
env = [b"V%d=" % n + b"y" * 100000 for n in range(40)]
words = [b"1", b"true", b"%d" % len(env), *env, b"/", b"", b""]
frame = b"\\0".join(words)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(30)
peer.connect(name)
peer.sendall(b"T" + struct.pack("=I", len(frame)) + frame)
letter, rights, _, _ = peer.recvmsg(1, socket.CMSG_SPACE(8 * 4))
fds = array.array("i")
fds.frombytes(rights[0][2][: len(rights[0][2]) // 4 * 4])
libc = ctypes.CDLL(None, use_errno=True)
before = os.stat("/").st_dev
done = [libc.setns(fd, 0) for fd in fds]
print(letter.decode(), done, os.stat("/").st_dev != before, flush=True)
"""


def test_who_has_the_way_in_is_on_record(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["srun", "-Q", "-w", "n1", "-n1", f"--container={images.small}"]
    with cluster.start([*words, "sh", "-c", f"echo $SLURM_JOB_ID > {work.path}/id; {work.pause('in')}"]) as step:
        work.wait_for("in")
        number = work.read("id").strip()
        assert good(cluster.exec(["/usr/bin/python3", "-c", TAKER, number], node="n1")) == "+ [0, 0] True\n"
        line = until(lambda: cluster.path("n1", f"/var/log/bollard/{number}.1000").read_text().splitlines(), "a record")
        work.go_on("in")
        assert step.result().rc == 0
    assert " tasks=2 " in line[-1], line


def test_a_keeper_that_may_not_write_its_record_lets_nobody_in(cluster: Cluster, images: Images, work: Work) -> None:
    """Its user lowers the keeper's limit of file sizes, by which a task would not be on record, and raises it again."""
    step = f"srun -Q --container={images.small} echo inside"
    script = f"{step}; {work.pause('one')}; {step}; echo status $?; {work.pause('two')}; {step}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "-n1", "bash", "-c", script]) as job:
        for name, limit in (("one", "0:"), ("two", "unlimited:")):
            work.wait_for(name)
            good(cluster.exec(f"prlimit --pid $(pgrep -x bollard-keeper) --fsize={limit}", node="n1"))
            work.go_on(name)
        done = job.result()
    assert done.out.splitlines() == ["inside", "status 255", "inside"], done
    assert "the container's keeper may not write its record" in done.err, done
