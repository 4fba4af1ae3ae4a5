# SPDX-License-Identifier: BSD-3-Clause
"""Attacks by a user on the user's own containers, their addresses and records: all of them end with the job.

The fixture `leftovers` looks for processes, sockets, cgroup directories and empty records after each test.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from cluster import SERVERS, WHERE, Cluster, Images, Process, Work, good, until

OURS = ("bollard-keeper", "bollard-reaper", *SERVERS)
# To every keeper of the node that lets this user connect: a lifeline, a task that never says what it wants. Holds both.
HOLDER = """
import glob, socket, time
held = []
for path in glob.glob("/run/bollard-jobs/*/" + 16 * "[0-9a-f]"):
    for message in (b"L" + bytes(4), b"T"):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(30)
        peer.connect(path)
        peer.sendall(message)
        held.append(peer)
        if message[:1] == b"L":
            try:
                answer = peer.recv(1)
            except OSError:
                answer = b""
            print("answer", answer, flush=True)
print("holding", len(held), flush=True)
time.sleep(600)
"""


def groups(process: Process) -> dict[str, str]:
    """The cgroup of a process in each hierarchy, as {name: path}."""
    lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def ours(cluster: Cluster, node: str = "n1") -> list[Process]:
    return cluster.named(node, *OURS)


def test_all_processes_are_in_the_jobs_cgroups(cluster: Cluster, images: Images, work: Work) -> None:
    """In each hierarchy in which Slurm has a directory for the job. The fixture checks that no directory stays."""
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "--container-save", f"{work.path}/saved.sif"]
    with cluster.start([*words, "sh", "-c", work.pause("in")]) as step:
        work.wait_for("in")
        task = min(cluster.named("n1", "sh"), key=lambda found: found.start)  # its child is a shell until it is sleep
        limited = [name for name, path in groups(task).items() if "/job_" in path]
        found = ours(cluster) + cluster.named("n1", "bollard-saver")
        assert len(found) >= 4 and limited
        for process in found:
            for name in limited:
                job, _, below = groups(process)[name].partition("/step_")
                assert below and groups(task)[name].startswith(job + "/"), (process, name)
        work.go_on("in")
        assert step.result().rc == 0


def test_ten_jobs_leave_no_cgroup(cluster: Cluster, images: Images) -> None:
    for _ in range(10):
        good(cluster.srun("-w", "n1", "-n2", f"--container={images.small}", "true"))


def test_a_user_holds_no_container(cluster: Cluster, images: Images, work: Work) -> None:
    """A user asks for a lifeline, holds an idle connection and stops the keeper: the job and its processes end."""
    step = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", f"{step}; {work.pause('one')}"]) as job:
        work.wait_for("one")
        with cluster.start(["python3", "-c", HOLDER], node="n1") as holder:
            assert holder.popen.stdout is not None
            said = [holder.popen.stdout.readline() for _ in range(2)]
            assert said == ["answer b''\n", "holding 2\n"]
            for process in cluster.named("n1", "bollard-keeper"):
                process.kill(signal.SIGSTOP)
            work.go_on("one")
            good(job.result())
            until(lambda: not ours(cluster), "the end of all processes")


def test_another_user_whom_the_user_lets_in_holds_no_container(cluster: Cluster, images: Images, work: Work) -> None:
    """For the keeper every other uid looks like root's. Whoever holds its lifeline then, root ends it with the job."""
    step = f"srun -Q --container={images.small} sh -c '{WHERE}'"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", f"{step}; {work.pause('one')}"]) as job:
        work.wait_for("one")
        opened = f"chmod 666 /run/bollard-jobs/*/{16 * '[0-9a-f]'}"
        good(cluster.exec(opened, node="n1"))
        with cluster.start(["python3", "-c", HOLDER], node="n1", user="bob") as holder:
            assert holder.popen.stdout is not None
            assert [holder.popen.stdout.readline() for _ in range(2)] == ["answer b'+'\n", "holding 2\n"]
            work.go_on("one")
            good(job.result())
            until(lambda: not ours(cluster), "the end of all processes")


def test_a_named_container_that_does_not_answer(cluster: Cluster, images: Images, work: Work) -> None:
    """Its user has stopped the keeper: the next step is refused, and gets no new container without the earlier work."""
    words = f"srun -Q -n1 --container={images.small} --container-name=lab --container-writable"
    script = f"{words} sh -c 'echo work > /opt/mark'; {work.pause('one')}; {words} cat /opt/mark; {work.pause('two')}"
    script += f"; {words} cat /opt/mark"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        (keeper,) = cluster.named("n1", "bollard-keeper")
        keeper.kill(signal.SIGSTOP)
        work.go_on("one")
        work.wait_for("two")
        keeper.kill(signal.SIGCONT)
        work.go_on("two")
        done = job.result()
    (line,) = done.complaints()
    assert line.startswith("bollard: the container lab of this job does not answer on this node for 10 s"), done
    assert (done.rc, done.out) == (0, "work\n"), done


def test_a_stopped_file_server(cluster: Cluster, images: Images, work: Work) -> None:
    """The next step fails with a reason within seconds; after the job nothing is left."""
    step = f"srun -Q --container={images.small} ls /usr/share"
    script = f"{step} > /dev/null; {work.pause('one')}; {step}; echo status $?"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        for process in cluster.named("n1", *SERVERS):
            process.kill(signal.SIGSTOP)
        work.go_on("one")
        done = job.result()
    assert "status 0" not in done.out and "status" in done.out, done
    (line,) = done.complaints()
    assert "file server squashfuse on n1 does not answer" in line, done


def test_a_file_server_that_never_answers(cluster: Cluster, images: Images, work: Work) -> None:
    """A file server that is stopped while it starts: the step fails with one line or runs, and nothing is left."""
    watcher = (
        "import os, signal, time\nend = time.monotonic() + 30\nseen = 0\n"
        "while time.monotonic() < end and not seen:\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try:\n"
        f"            if open(f'/proc/{{pid}}/comm').read().strip() in {SERVERS!r}:\n"
        "                os.kill(int(pid), signal.SIGSTOP)\n                seen = 1\n"
        "        except OSError: pass\n"
    )
    with cluster.start(["python3", "-c", watcher], node="n1") as stopper:
        words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "ls", "/usr/share"]
        with cluster.start(words) as step:
            done = step.result(150)  # the keeper waits for a minute (fuse.ANSWER_SECONDS)
        stopper.result()
    # The server may have answered all requests before it was stopped.
    assert (done.rc == 0) or ("file server" in done.err and len(done.complaints()) == 1), done


def test_a_task_that_waits_for_a_stopped_file_server(cluster: Cluster, images: Images, work: Work) -> None:
    """scancel ends the job. The fixture checks that no node is drained."""
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}"]
    reader = f"echo $SLURM_JOB_ID > {work.path}/id; {work.pause('in')}; find /usr -type f -exec cat {{}} + > /dev/null"
    with cluster.start([*words, "sh", "-c", reader]) as step:
        work.wait_for("in")
        for process in cluster.named("n1", *SERVERS):
            process.kill(signal.SIGSTOP)
        work.go_on("in")
        cluster.exec(["scancel", work.read("id").strip()])
        assert step.result().rc != 0
    until(lambda: not ours(cluster), "the end of all processes")


def test_nobody_takes_a_containers_address(cluster: Cluster, images: Images, work: Work) -> None:
    """bob cannot bind an address in the directory of alice's job or of another job; her named container starts."""
    squatter = (
        "import os, socket, sys\n"
        "for path in ('/run/bollard-jobs/x', f'/run/bollard-jobs/{sys.argv[1]}/x', '/run/bollard-jobs/999/x'):\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        "    try:\n        os.makedirs(os.path.dirname(path), exist_ok=True)\n        s.bind(path)\n"
        "        print('bound', path)\n"
        "    except OSError:\n        pass\n"
    )
    step = f"srun -Q --container={images.small} --container-name=mine sh -c '{WHERE}'"
    script = f"echo $SLURM_JOB_ID > {work.path}/id; {work.pause('one')}; {step}; {step}; bollard ps | wc -l"
    with cluster.start(["salloc", "-Q", "-w", "n1", "bash", "-c", script]) as job:
        work.wait_for("one")
        number = work.read("id").strip()
        tried = cluster.exec(["python3", "-c", squatter, number], node="n1", user="bob")
        assert good(tried) == ""
        work.go_on("one")
        done = job.result()
    assert done.out.splitlines()[:2] == ["inside", "inside"] and done.rc == 0, done


def test_failing_steps_have_no_tasks_on_record(cluster: Cluster, images: Images, work: Work) -> None:
    """All failures of a job are in one file: a line for each container, with the phase that failed, and no task."""
    head = b"hsqs" + bytes(24) + b"\4\0\0\0" + bytes(8) + (4096).to_bytes(8, "little")
    bad = work.write("bad.sif", head + bytes(8192))  # srun's look at it finds nothing; the node's file server fails
    script = f"for i in 1 2 3 4 5 6; do srun -Q --container={bad} true; done; echo $SLURM_JOB_ID"
    done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", script], cwd=work.path)
    number = done.out.split()[-1]
    until(lambda: not ours(cluster), "the end of the job")
    assert len(good(cluster.exec(f"ls /var/log/bollard/{number}.*", "n1", "root")).split()) == 1
    lines = good(cluster.exec(f"cat /var/log/bollard/{number}.*", "n1", "root")).splitlines()
    assert len(lines) == 6 and all(" tasks=0 " in line and " failed=" in line for line in lines), lines


def test_steps_from_many_directories_share_a_container(cluster: Cluster, images: Images, work: Work) -> None:
    step = f"srun -Q --container={images.small} readlink /proc/self/ns/mnt"
    script = f"for i in 1 2 3 4 5 6; do mkdir d$i; cd d$i; {step}; cd ..; done; cd /tmp; {step}"
    done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", script], cwd=work.path)
    assert len(good(done).split()) == 7 and len(set(done.out.split())) == 1, done


def test_a_directory_that_is_not_shown_is_another_container(cluster: Cluster, images: Images, work: Work) -> None:
    """Steps that start in a directory of the node itself each see the files there, so each has its own container."""
    good(cluster.exec("mkdir -p /data/a /data/b; touch /data/a/of-a /data/b/of-b", "n1", "root"))
    try:
        step = f"srun -Q --container={images.small} sh -c 'pwd; ls'"
        script = f"{step.replace('srun', 'srun -D /data/a')}; {step.replace('srun', 'srun -D /data/b')}; {step}"
        done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", script], cwd=work.path)
        assert good(done).split() == ["/data/a", "of-a", "/data/b", "of-b", work.path], done
    finally:
        good(cluster.exec("rm -r /data", "n1", "root"))


def test_steps_that_start_together_share_a_container(cluster: Cluster, images: Images) -> None:
    step = f"srun -Q -n1 --overlap --container={images.small} readlink /proc/self/ns/mnt"
    script = f"for i in 1 2 3; do {step} & done; wait"
    for _ in range(3):
        done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", script])
        assert len(good(done).split()) == 3 and len(set(done.out.split())) == 1, done


def test_keepers_memory_is_bounded(cluster: Cluster, images: Images, work: Work) -> None:
    """After many requests of the largest allowed size, the keeper's memory has not grown beyond a limit."""
    sender = (
        "import glob, socket, struct\n"
        "for path in glob.glob('/run/bollard-jobs/*/' + 16 * '[0-9a-f]'):\n"
        "    for number in range(300):\n"
        "        spec = b'SLURM_BOLLARD_SPEC=name=mine env=A' + b'%d' % number + b'=' + b'x' * 120000\n"
        "        env = [spec, *(b'V%d=' % n + b'y' * 10000 for n in range(100))]\n"
        "        words = [b'1', b'true', b'%d' % len(env), *env, b'/', b'', b'']\n"
        "        frame = b'\\0'.join(words)\n"
        "        peer = socket.socket(socket.AF_UNIX)\n        peer.settimeout(60)\n        peer.connect(path)\n"
        "        peer.sendall(b'T' + struct.pack('=I', len(frame)) + frame)\n"
        "        answer = peer.recv(1)\n        peer.close()\n"
        "print(answer)\n"
    )
    words = ["srun", "-Q", "-w", "n1", f"--container={images.small}", "--container-name=mine"]
    with cluster.start([*words, "sh", "-c", work.pause("in")]) as step:
        work.wait_for("in")
        good(cluster.exec(["python3", "-c", sender], node="n1"))
        used = [int(process.status("VmRSS").split()[0]) for process in cluster.named("n1", "bollard-keeper")]
        work.go_on("in")
        assert step.result().rc == 0
    assert used and max(used) < 100 << 10, f"KiB: {used}"


def test_a_step_is_ended_whose_file_server_is_stopped(cluster: Cluster, images: Images, work: Work) -> None:
    """The job goes on. Processes of the step wait for the file server; the fixture checks that no node is drained."""
    busy = "while :; do find / -xdev -exec ls -ld {} + > /dev/null 2>&1; done"
    script = f"srun -Q --container={images.small} sh -c '{work.pause('in')}; ({busy}) & ({busy}) & ({busy}) & wait'"
    script += f"; {work.pause('over')}; srun -Q --container={images.small} sh -c '{WHERE}'"
    script = f"echo $SLURM_JOB_ID > {work.path}/id; {script}"
    with cluster.start(["salloc", "-Q", "-w", "n1", "-n1", "bash", "-c", script]) as job:
        work.wait_for("in")
        work.go_on("in")
        until(lambda: cluster.named("n1", "ls"), "a process that reads the image")
        for process in cluster.named("n1", *SERVERS):
            process.kill(signal.SIGSTOP)
        time.sleep(1)  # until all of them wait
        good(cluster.exec(["scancel", "--signal=KILL", f"{work.read('id').strip()}.0"]))
        work.wait_for("over")
        work.go_on("over")
        done = job.result()
    assert done.out == "inside\n", done
