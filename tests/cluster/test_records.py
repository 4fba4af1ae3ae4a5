# SPDX-License-Identifier: BSD-3-Clause
"""The records of a container: Slurm's own field, and the node's file, which belongs to root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Cluster, Images, Work, good, until

RECORDS = "/var/log/bollard"


def shown(cluster: Cluster, job: int) -> str:
    """Slurm's own Container field of a job."""
    text = good(cluster.exec(["scontrol", "show", "job", "--oneliner", str(job)]))
    return next((word[10:] for word in text.split() if word.startswith("Container=")), "")


def record(cluster: Cluster, job: int, node: str = "n1") -> dict[str, str]:
    """The only record of a job on a node; waits for the end of its keeper."""

    def look() -> str:
        text = cluster.exec(f"cat {RECORDS}/{job}.*", node, "root").out
        return text if " ended=" in text else ""

    return dict(word.split("=", 1) for word in until(look, f"the record of job {job}").split())


def test_slurm_names_the_image_of_a_batch_job(cluster: Cluster, images: Images, work: Work) -> None:
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, f"--container={images.small}")
    cluster.ended(job)
    assert shown(cluster, job) == ("" if cluster.suite == "bullseye" else images.small)


def test_slurm_names_the_image_of_a_step(cluster: Cluster, images: Images, work: Work) -> None:
    """Slurm shows the image's full path. slurmstepd does not get it: its OCI code would take the file for a bundle."""
    work.write("a.sif", cluster.path("ctl", images.small).read_bytes(), 0o644)
    words = ["srun", "-Q", "-w", "n1", "--container=a.sif", "sh", "-c", f"{work.pause('ready')}; env"]
    with cluster.start(words, cwd=work.path) as step:
        work.wait_for("ready")
        steps = good(cluster.exec("scontrol show step -o; squeue -h -o %i")).split()
        work.go_on("ready")
        done = step.result()
    expected = set() if cluster.suite == "bullseye" else {f"Container={work.path}/a.sif"}
    assert {word for word in steps if word.startswith("Container=") and word[10:] != "(null)"} == expected
    assert (done.rc, done.err) == (0, "") and "SLURM_CONTAINER" not in done.out


def test_the_nodes_record(cluster: Cluster, images: Images, work: Work) -> None:
    """The file belongs to root; the user can read it but not write it. It counts the tasks of each step."""
    image = images.small
    script = f"srun -Q -n2 --container={image} true; srun -Q -n3 --container={image} true; echo $SLURM_JOB_ID"
    job = int(good(cluster.exec(["salloc", "-Q", "-w", "n1", "-n3", "bash", "-c", script])))
    found = record(cluster, job)
    assert (found["node"], found["image"], found["tasks"], found["steps"]) == ("n1", image, "5", "0:2,1:3")
    assert float(found["made"]) <= float(found["first"]) <= float(found["last"]) <= float(found["ended"])
    mode = good(cluster.exec(f"stat -c '%a %u %G' {RECORDS}/{job}.*; stat -c '%a %u' {RECORDS}", "n1"))
    assert mode == "640 0 alice\n755 0\n"
    refused = cluster.exec(f"echo tasks=99 >> $(ls {RECORDS}/{job}.*); rm -f {RECORDS}/{job}.*", "n1")
    assert refused.rc != 0 and record(cluster, job)["tasks"] == "5", refused
    assert cluster.exec(f"cat {RECORDS}/{job}.*", "n1", "bob").rc != 0


@pytest.mark.parametrize("trap", ["", "sleep 1; exit 0"], ids=["until-kill", "tidies-up"])
def test_a_cancelled_job_has_an_end_on_record(cluster: Cluster, images: Images, work: Work, trap: str) -> None:
    """At scancel the extern step ends first, and a task that traps SIGTERM runs on. The keeper ends after the task, by
    itself: only then can it write the line."""
    script = f"trap '{trap}' TERM; echo $SLURM_JOB_ID > {work.path}/job; {work.pause('ready')}"
    with cluster.start(["srun", "-Q", "-w", "n1", f"--container={images.small}", "sh", "-c", script]) as step:
        work.wait_for("ready")
        job = int(work.read("job"))
        good(cluster.exec(["scancel", str(job)]))
        assert trap or step.result().rc != 0
    assert record(cluster, job)["tasks"] == "1"


def test_the_record_is_there_when_the_keeper_was_killed(cluster: Cluster, images: Images, work: Work) -> None:
    words = ["srun", "-Q", "-w", "n1", "-n2", f"--container={images.small}"]
    with cluster.start([*words, "sh", "-c", f"echo $SLURM_JOB_ID > {work.path}/job; {work.pause('ready')}"]) as step:
        work.wait_for("ready")
        until(lambda: work.exists("job"), "its number")
        job = int(work.read("job"))
        until(lambda: " tasks=2" in cluster.exec(f"cat {RECORDS}/{job}.*", "n1").out, "both tasks")
        text = good(cluster.exec(f"cat {RECORDS}/{job}.*", "n1"))
        for process in cluster.named("n1", "bollard-keeper"):
            process.kill()
        assert step.result().rc != 0
    after = good(cluster.exec(f"cat {RECORDS}/{job}.*", "n1"))
    assert " tasks=2 steps=0:2" in after and " ended=" not in after and after.startswith(text.split(" last=")[0])


def test_no_descriptor_of_it_reaches_a_task(cluster: Cluster, images: Images) -> None:
    done = cluster.srun("-w", "n1", f"--container={images.small}", "ls", "-l", "/proc/self/fd")
    assert done.rc == 0 and RECORDS not in done.out, done


def test_bollard_job(cluster: Cluster, work: Work) -> None:
    image = f"{work.path}/a b.sif"
    made = "mkdir -p tree/bin && cp /usr/lib/bollard/bollard-enter tree/bin/show && bollard build 'a b.sif' tree"
    good(cluster.exec(made, cwd=work.path))
    shown = cluster.srun("-w", "n1", f"--container={image}", "show", "--print-environment")
    job = next(int(item[13:]) for item in good(shown).split("\0") if item.startswith("SLURM_JOB_ID="))
    record(cluster, job)
    there = json.loads(good(cluster.exec(["bollard", "job", "--json", str(job)], "n1")))
    assert [(entry["image"], entry["steps"], entry["tasks"]) for entry in there["here"]] == [(image, {"0": 1}, 1)]
    assert len(there["here"][0]["digest"]) == 64
    assert good(cluster.exec(["bollard", "job", "--verify", str(job)], "n1")) == f"{image}: is what is on record\n"
    ask = ["bollard", "job", "--verify", str(job)]
    assert good(cluster.exec(ask, "n1", "root")) == f"{image}: is what is on record\n"
    # alice chose the path: root reads only files there that she may read.
    good(cluster.exec("ln -sf /etc/shadow 'a b.sif'", cwd=work.path))
    for user in ("alice", "root"):
        done = cluster.exec(ask, "n1", user)
        assert done.rc == 1, done
        assert done.out == f"{image}: cannot be read: permission denied: it belongs to root, mode 0640\n"
    elsewhere = json.loads(good(cluster.exec(["bollard", "job", "--json", str(job)])))
    assert elsewhere["here"] == [] and elsewhere["slurm"][0]["nodelist"] == "n1"
    other = cluster.exec(["bollard", "job", "--json", str(job)], "n1", "bob")
    assert json.loads(good(other))["here"] == []


@pytest.mark.parametrize("where", ["ctl", "n3"])
def test_records_of_all_nodes(cluster: Cluster, images: Images, where: str) -> None:
    """`bollard job` prints them on a login host or any node, for running jobs and for jobs that have ended."""
    ask = "bollard job --json --collect"
    script = f"srun -Q --container={images.small} true; {ask} $SLURM_JOB_ID > /dev/null; echo $? $SLURM_JOB_ID"
    done = good(cluster.exec(["salloc", "-Q", "-w", "n1,n2", "-n3", "bash", "-c", script])).split()
    assert done[0] == "0"
    record(cluster, int(done[1]), "n2")
    found = json.loads(good(cluster.exec(f"{ask} {done[1]}", where)))
    assert sorted((entry["node"], entry["tasks"]) for entry in found["here"]) in (
        [("n1", 1), ("n2", 2)], [("n1", 2), ("n2", 1)]
    )  # fmt: skip
    assert {entry["image"] for entry in found["here"]} == {images.small}


def test_the_accounting_names_the_image(cluster: Cluster, images: Images, work: Work) -> None:
    """Only on a cluster that was started with --accounting; else Slurm reports that there is no accounting."""
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, f"--container={images.small}")
    cluster.ended(job)
    words = ["sacct", "-nP", "-j", str(job), "-o", "JobID,Container"]
    done = cluster.exec(words)
    if "accounting storage is disabled" in done.err:
        return
    until(lambda: cluster.exec(words).out.count(images.small) == 2, "the job and its script in the accounting")


def test_bollard_job_of_no_job(cluster: Cluster) -> None:
    done = cluster.exec(["bollard", "job", "99999999"])
    assert done == (255, "", "bollard: 99999999: neither this node nor Slurm knows of such a job; check the number "
                    "with squeue or sacct\n")  # fmt: skip
    done = cluster.exec(["bollard", "job", "x;y"])
    assert done == (255, "", "bollard: x;y: not a job; write JOB or JOB.STEP, as squeue does\n")


@pytest.fixture
def accounting(cluster: Cluster) -> Iterator[None]:
    """Let n1 report to the accounting; only on a cluster that was started with --accounting."""
    line = "/etc/slurm/plugstack.conf.d/bollard.conf"
    good(cluster.exec(f"cp {line} /root/line; sed -i 's/$/ account=yes/' {line}", "n1", "root"))
    yield
    good(cluster.exec(f"mv /root/line {line}", "n1", "root"))


def test_root_tells_the_accounting(cluster: Cluster, images: Images, work: Work, accounting: None) -> None:
    """Root sets AdminComment, which users cannot set. A user's own comment cannot forge it."""
    job = cluster.sbatch("#!/bin/sh\ntrue\n", work, "-w", "n1", f"--container={images.small}")
    cluster.ended(job)

    def told() -> str:
        """The job's fields once they have the comment, else "": the extern step, which reports, ends after the job."""
        text = good(cluster.exec(["scontrol", "show", "job", "--oneliner", str(job)]))
        return text if "AdminComment=bollard=" in text else ""

    text = until(told, "the comment")
    assert f" image={images.small} " in text and " tasks=1 steps=batch:1" in text
    assert cluster.exec(["scontrol", "update", f"JobId={job}", "AdminComment=x"]).rc != 0


def test_the_numbers_of_a_node(cluster: Cluster, images: Images, work: Work) -> None:
    """Totals count what this test starts; what runs now is counted while it runs."""

    def numbers() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(good(cluster.exec("bollard site stats --json", "n1", "root")))
        return found

    before = numbers()
    words = ["srun", "-Q", "-w", "n1", "-n2", f"--container={images.small}"]
    with cluster.start([*words, "sh", "-c", f"{work.pause('ready')}"]) as step:
        work.wait_for("ready")
        now = until(lambda: (found := numbers())["tasks"] == 2 and found, "both tasks")
        work.go_on("ready")
        step.result()
    assert now["containers"] == 1 and now["servers"]["squashfuse"]["running"] == 1
    assert now["servers"]["squashfuse"]["memory"] > 1 << 20
    assert cluster.srun("-w", "n1", f"--container={images.small}", "--container-mounts=/nonexistent:/x", "true").rc != 0
    until(lambda: numbers()["containers"] == 0, "the end of the container")
    after = numbers()
    assert (after["starts"] - before["starts"], after["entered"] - before["entered"]) == (1, 2)
    assert sum(after["failures"].values()) == sum(before["failures"].values()) + 1
    starts = sum(after["phases"]["all"]["buckets"].values()) - sum(before["phases"]["all"]["buckets"].values())
    assert starts == 1 and after["phases"]["python"]["seconds"] > before["phases"]["python"]["seconds"]
    file = "/var/lib/bollard.prom"
    good(cluster.exec(f"bollard site stats --output {file} && ls -l {file}", "n1", "root"))
    text = good(cluster.exec(f"cat {file}; rm {file} {RECORDS}/stats.json", "n1", "root"))
    assert f"\nbollard_starts_total {after['starts']}\n" in text
    refused = cluster.exec("bollard site stats", "n1")
    assert refused.rc == 255 and refused.complaints() == [refused.err.strip()], refused


def test_lines_in_the_system_log(cluster: Cluster, images: Images, work: Work) -> None:
    """With `journal: yes`: a line for the start, the end, a failure. The image's name is the user's text."""
    name = "a b\n<2>root: x.sif"
    work.write(name, cluster.path("ctl", images.small).read_bytes(), 0o644)
    log = f"{work.path}/log"
    listen = (
        "import os, socket; s = socket.socket(1, 2); s.bind('/dev/log'); os.chmod('/dev/log', 0o666)\n"
        f"while 1: open({log!r}, 'ab').write(s.recv(4096) + b'\\n')"
    )
    good(cluster.exec("mkdir -p /etc/bollard; echo journal: yes > /etc/bollard/bollard.yaml", "n1", "root"))
    good(cluster.exec("bollard site configure", "n1", "root"))
    try:
        with cluster.start(["python3", "-c", listen], "n1", "root") as listener:
            until(lambda: cluster.exec("test -S /dev/log", "n1").rc == 0, "the log's socket")
            done = cluster.exec(["srun", "-Q", "-w", "n1", "--export=ALL", f"--container={name}", "env"], cwd=work.path)
            job = next(line[13:] for line in good(done).splitlines() if line.startswith("SLURM_JOB_ID="))
            bad = "--container-mounts=/nonexistent:/x"
            assert cluster.srun("-w", "n1", f"--container={images.small}", bad, "true").rc != 0
            lines = until(
                lambda: (found := work.read("log").splitlines() if work.exists("log") else [])[2:] and found,
                "three lines",
            )
            listener.terminate()
    finally:
        good(cluster.exec("rm -rf /dev/log /etc/bollard; bollard site configure", "n1", "root"))
    path = f"{work.path}/a%20b%0A<2>root:%20x.sif"
    own = [line.partition("]: ")[2] for line in lines if f" job={job} " in line]
    assert [line.split()[0] for line in own] == ["start", "end"], lines
    assert all(" user=1000 " in line and f" image={path} " in line for line in own), lines
    assert len(lines) == 3 and any("]: failed job=" in line and " cause=" in line for line in lines), lines
    assert all(line.startswith("<30>bollard[") for line in lines)
