# SPDX-License-Identifier: BSD-3-Clause
"""`bollard ps` and `bollard attach`: the containers that run on a node, and one more task in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pexpect
from cluster import WHERE, Cluster, Images, Running, Work, good, until


@contextlib.contextmanager
def job(cluster: Cluster, images: Images, work: Work, tasks: int = 2) -> Iterator[tuple[int, Running]]:
    """Yield a step of `tasks` tasks on n1, in a container."""
    words = ["srun", "-Q", "-w", "n1", f"-n{tasks}", f"--container={images.small}"]
    script = f"echo $SLURM_JOB_ID > {work.path}/job; {work.pause('ready')}"
    with cluster.start([*words, "sh", "-c", script], cwd=work.path) as step:
        work.wait_for("ready")
        until(lambda: len(running(cluster)) and len(running(cluster)[0]["tasks"]) == tasks, "the tasks")
        yield int(work.read("job")), step
        work.go_on("ready")
        assert step.result().rc == 0


def running(cluster: Cluster, node: str = "n1", user: str = "alice") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(good(cluster.exec(["bollard", "ps", "--json"], node, user)))
    return found


def test_ps(cluster: Cluster, images: Images, work: Work) -> None:
    with job(cluster, images, work) as (number, _):
        (found,) = running(cluster)
        assert (found["job"], found["user"], found["steps"]) == (number, 1000, ["0"])
        assert (found["image"], found["entered"]) == (images.small, 2)
        inside = {process.status("NSpid").split()[-1] for process in cluster.named("n1", "sh")}
        assert {str(task["pid"]) for task in found["tasks"]} <= inside
        assert running(cluster, user="root") == [found]
        assert running(cluster, user="bob") == [] and running(cluster, "n2") == []
        table = good(cluster.exec(["bollard", "ps"], "n1")).splitlines()
        assert len(table) == 2 and table[1].split()[:3] == [str(number), "0", "alice"], table


def test_attach_is_a_task_of_the_job(cluster: Cluster, images: Images, work: Work) -> None:
    """The attached program is in the same namespaces, in the job's control group, and runs as the job's user."""
    with job(cluster, images, work) as (number, _):
        script = f"{WHERE}; id -un; readlink /proc/self/ns/mnt; grep -o job_[0-9]* /proc/self/cgroup | sort -u"
        for name in (f"{number}", f"{number}.0"):
            done = cluster.exec(["bollard", "attach", name, "sh", "-c", script], "n1")
            keeper = cluster.path("n1", f"/proc/{running(cluster)[0]['keeper']}/ns/mnt")
            assert good(done).splitlines() == ["inside", "alice", str(keeper.readlink()), f"job_{number}"], done
        refused = cluster.exec(["bollard", "attach", str(number), "id"], "n1", "bob")
        assert refused.rc == 255 and refused.complaints() == [
            f"bollard: {number}: no container of yours on n1; see `bollard ps`, here and on the job's other nodes"
        ]


def test_attach_passes_status_and_streams(cluster: Cluster, images: Images, work: Work) -> None:
    with job(cluster, images, work) as (number, _):
        done = cluster.exec(["bollard", "attach", str(number), "sh", "-c", "cat; exit 7"], "n1", stdin=b"text\n")
        assert (done.rc, done.out) == (7, "text\n"), done


def test_attach_on_a_terminal(cluster: Cluster, images: Images, work: Work) -> None:
    with job(cluster, images, work) as (number, _):
        child = cluster.terminal(f"bollard attach {number}", node="n1", size=(33, 99))
        child.sendline("stty size; test -t 0 && echo a-terminal; cat /etc/debian_version")
        child.expect("33 99\r\n")
        child.expect("a-terminal\r\n")
        child.expect(r"\d+\.\d+\r\n")
        child.sendline("exit 3")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 3


def test_attach_says_what_is_wrong(cluster: Cluster) -> None:
    done = cluster.exec(["bollard", "attach", "99999999"], "n1")
    assert done.rc == 255 and len(done.complaints()) == 1 and "no container of yours on n1" in done.err, done
    assert cluster.exec(["bollard", "attach"], "n1").complaints() == [
        "bollard: no job named; write `bollard attach JOB` or JOB.STEP, see `bollard ps`"
    ]


def test_a_stranger_cannot_pass_for_a_keeper(cluster: Cluster) -> None:
    """Any user can bind an abstract address: `bollard ps` of root shows no false container, and does not wait."""
    script = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind(b'\\0bollard/1000/1/0123456789abcdef'); "
        "s.listen(); print('ready', flush=True); time.sleep(60)"
    )
    with cluster.start(["python3", "-c", script], "n1", "bob"):
        until(lambda: cluster.sockets("n1"), "the address")
        assert running(cluster, user="root") == [] and running(cluster) == []


def test_ps_refuses_words(cluster: Cluster) -> None:
    done = cluster.exec(["bollard", "ps", "all"], "n1")
    assert done == (255, "", "bollard: all: ps takes no words; write `bollard ps`\n")
