# SPDX-License-Identifier: BSD-3-Clause
"""Steps of one job with the same options share a container. Other jobs never share it."""

from __future__ import annotations

import json

from cluster import WHERE, Cluster, Images, Work, good, until

# What a stranger tries on every address of bollard's that he sees: both messages of the wire, and silence.
STRANGER = """
import json, re, socket, sys
heard = {}
for address in sorted(set(re.findall(r"(/run/bollard-jobs\\S+)", open("/proc/net/unix").read()))):
    for message in (b"L", b"T" + (19).to_bytes(4, "little") + b"1\\0id\\0" + b"0\\0" + b"/\\0".ljust(12, b"\\0"), b""):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(1)
        try:
            peer.connect(address)
            peer.sendall(message)
            data, fds, *_ = socket.recv_fds(peer, 65536, 8)
        except OSError:  # refused, or not a word in time
            data, fds = b"", []
        heard.setdefault(address, []).append([data.decode("latin-1"), len(fds)])
        peer.close()
print(json.dumps(heard))
"""


def keepers(cluster: Cluster, node: str = "n1") -> list[int]:
    return [process.pid for process in cluster.named(node, "bollard-keeper")]


def test_a_later_step_uses_the_same_keeper(cluster: Cluster, images: Images, work: Work) -> None:
    step = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    script = f"{step}; {work.pause('one')}; {step}; {work.pause('two')}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        first = keepers(cluster)
        work.go_on("one")
        work.wait_for("two")
        assert len(first) == 1 and keepers(cluster) == first
        work.go_on("two")
        assert job.result() == (0, "inside\ninside\n", "")


def test_what_differs_is_another_container(cluster: Cluster, images: Images, work: Work) -> None:
    script = (
        f"srun -Q --container={images.small} true; srun -Q --container={images.mpi} true; "
        f"BOLLARD_BIND=/etc:/mnt srun -Q --container={images.small} test -e /mnt/slurm/slurm.conf; {work.pause('one')}"
    )
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        assert len(keepers(cluster)) == 3
        work.go_on("one")
        assert job.result() == (0, "", "")


def test_a_rebuilt_image_is_another_container(cluster: Cluster, images: Images, work: Work) -> None:
    small = cluster.path("ctl", images.small).read_bytes()
    image = work.write("image.sif", small)
    look = "cat /etc/debian_version"
    script = f"srun -Q --container={image} {look}; {work.pause('one')}; srun -Q --container={image} {look}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        work.write("new.sif", cluster.path("ctl", images.mpi).read_bytes())
        (work.here / "new.sif").rename(work.here / "image.sif")
        work.go_on("one")
        done = job.result()
    before, after = good(done).split()
    assert before == (images.small_tree / "etc/debian_version").read_text().strip()
    assert after != before


def test_concurrent_steps(cluster: Cluster, images: Images, work: Work) -> None:
    """The steps start at the same time, when there is no keeper yet."""
    step = f"srun -Q -n1 --exact --container={images.small} sh -c '{WHERE}'"
    script = f"for i in 1 2 3 4 5 6; do {step} & done; wait; {work.pause('one')}; {step}"
    with cluster.start(["salloc", "-Q", "-n6", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        assert keepers(cluster), "one that later steps can use"
        work.go_on("one")
        assert job.result() == (0, "inside\n" * 7, "")


def test_jobs_have_keepers_of_their_own(cluster: Cluster, images: Images, work: Work) -> None:
    """Two jobs of the same user on the same node each have a keeper."""
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c"]
    with cluster.start([*words, work.pause("a")]) as one, cluster.start([*words, work.pause("b")]) as two:
        work.wait_for("a")
        work.wait_for("b")
        until(lambda: len(keepers(cluster)) == 2, "two keepers, and no reader of theirs any more")
        work.go_on("a")
        assert one.result() == (0, "", "")
        until(lambda: len(keepers(cluster)) == 1, "the end of the first")
        work.go_on("b")
        assert two.result() == (0, "", "")


def test_two_users_on_a_node(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c"]
    with cluster.work("bob") as bobs:
        alice = cluster.start([*words, f"id -un; {work.pause('a')}"])
        bob = cluster.start([*words, f"id -un; {bobs.pause('b')}"], user="bob")
        with alice, bob:
            work.wait_for("a")
            bobs.wait_for("b")
            assert {process.uid for process in cluster.named("n1", "bollard-keeper")} == {1000, 1001}
            work.go_on("a")
            bobs.go_on("b")
            assert (alice.result(), bob.result()) == ((0, "alice\n", ""), (0, "bob\n", ""))


def test_a_stranger_hears_nothing(cluster: Cluster, images: Images, work: Work) -> None:
    """bob, on alice's node, connects to every address there. No one answers him, and alice's container goes on."""
    with cluster.start(
        ["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c", f"{work.pause('a')}; {WHERE}"]
    ) as job:
        work.wait_for("a")
        for user in ("bob", "root"):
            heard = json.loads(good(cluster.exec(["python3", "-c", STRANGER], node="n1", user=user)))
            assert len(heard) >= 1
            if user == "bob":
                assert all(answer == ["", 0] for answers in heard.values() for answer in answers), heard
        work.go_on("a")
        assert job.result() == (0, "inside\n", "")
