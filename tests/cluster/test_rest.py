# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that slurmrestd submits. It loads no plugin, so only the node can refuse a container."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from cluster import CONTROLLER, Cluster, Images, Work, good, until

# The API of each release that has jobs with containers.
API = {(22, 5): "v0.0.38", (24, 11): "v0.0.41"}
# Submits the job on its standard input, through a slurmrestd of its user's; prints the answer.
SUBMIT = r"""
import json, socket, subprocess, sys, tempfile, time
body = sys.stdin.buffer.read()
with tempfile.TemporaryDirectory() as folder:
    path = folder + "/socket"
    server = subprocess.Popen(
        ["/usr/sbin/slurmrestd", "-a", "rest_auth/local", "-s", sys.argv[2], "unix:" + path], stdin=subprocess.DEVNULL,
        stdout=open(folder + "/log", "w"), stderr=subprocess.STDOUT, cwd=folder,
    )
    try:
        for _ in range(200):
            peer = socket.socket(socket.AF_UNIX)
            try:
                peer.connect(path)
                break
            except OSError:
                peer.close()
                if server.poll() is not None:
                    sys.exit(open(folder + "/log").read())
                time.sleep(0.05)
        head = f"POST /slurm/{sys.argv[1]}/job/submit HTTP/1.1\r\nHost: ctl\r\nContent-Type: application/json\r\n"
        head += f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.settimeout(30)
        peer.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += peer.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(rest) < size:
            rest += peer.recv(65536)
        print(rest[:size].decode())
    finally:
        server.kill()
        server.wait()
"""


def submit(cluster: Cluster, work: Work, **fields: object) -> int:
    version = cluster.release
    if version not in API:
        pytest.skip(f"the API of Slurm {version} has no container, or is not known here")
    cluster.front("add", "slurmrestd")
    where = {"standard_output": f"{work.path}/out", "standard_error": f"{work.path}/err"}
    job = {"name": "rest", "current_working_directory": work.path, "partition": "main", **where, **fields}
    environment: object = {"PATH": "/usr/bin:/bin"}
    if version >= (23, 2):
        environment = ["PATH=/usr/bin:/bin"]
    body = {"script": "#!/bin/sh\necho ran\n", "job": {**job, "environment": environment}}
    openapi = "openapi/v0.0.38" if version < (23, 11) else "slurmctld"
    program = work.write("submit.py", SUBMIT)
    env = {"SLURMRESTD_SECURITY": "disable_user_check"}
    done = cluster.exec(["python3", program, API[version], openapi], env=env, stdin=json.dumps(body).encode())
    answer = json.loads(good(done))
    assert not answer["errors"], answer
    number = int(answer["job_id"])
    cluster.jobs.append(number)
    return number


def test_a_container_is_refused_on_the_node(cluster: Cluster, images: Images, work: Work) -> None:
    """One line says what to write instead, and no line of the script runs on the host."""
    ended = cluster.ended(submit(cluster, work, container=images.small))
    assert ended["JobState"] == "FAILED" and ended["ExitCode"].startswith("255:"), ended
    assert work.read("out") == ""
    (line,) = work.read("err").splitlines()
    assert line.startswith("bollard: this job's script asks for a container, but slurmrestd")
    assert line.endswith("write srun --container=IMAGE PROGRAM in the script")


def test_a_plain_job_is_none_of_ours(cluster: Cluster, work: Work) -> None:
    ended = cluster.ended(submit(cluster, work))
    assert ended["JobState"] == "COMPLETED" and work.read("out") == "ran\n", ended


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def stop_before_it_asks(cluster: Cluster, controller: int, stopped: list[int], seconds: float = 60) -> None:
    """Stop `controller`, slurmctld's process, when the next batch script's slurmstepd is there; `stopped` has it then.

    slurmstepd asks later: it reads its plugins first. It is stopped meanwhile. A job's first slurmstepd is the extern
    step's, the second is the batch script's.
    """
    inits = [cluster.init(node) for node in cluster.nodes() if node != CONTROLLER]
    before = {init: children(init) for init in inits}
    seen: set[int] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for init in inits:
            for pid in children(init) - before[init] - seen:
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmstepd":
                        seen.add(pid)
                        if len(seen) == 2:
                            os.kill(pid, signal.SIGSTOP)
                            os.kill(controller, signal.SIGSTOP)
                            stopped.append(controller)
                            os.kill(pid, signal.SIGCONT)
                            return
        time.sleep(0.0005)


def test_a_slurmctld_that_does_not_answer(cluster: Cluster, work: Work) -> None:
    """The job is refused with one line: it may want a container, and its script must not run on the host then."""
    (controller,) = cluster.named(CONTROLLER, "slurmctld")
    for _ in range(5):
        stopped: list[int] = []
        watcher = threading.Thread(target=stop_before_it_asks, args=(cluster, controller.pid, stopped))
        watcher.start()
        try:
            job = submit(cluster, work)
            watcher.join()
            until(lambda: work.exists("err") and (work.read("out") or work.read("err")), "the job's output", 200)
        finally:
            watcher.join()
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        ended = cluster.ended(job)
        if not work.read("out"):
            break  # else the job had its answer before slurmctld was stopped
    assert ended["ExitCode"].startswith("255:") and work.read("out") == "", ended
    (line,) = [line for line in work.read("err").splitlines() if line.startswith("bollard: ")]
    assert line.startswith("bollard: slurmctld does not tell whether this job asks for a container"), line
