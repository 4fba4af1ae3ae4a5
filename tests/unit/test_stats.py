# SPDX-License-Identifier: BSD-3-Clause
"""What `bollard site stats` counts, and the lines of the system log."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from bollard.runtime.container import journal, record
from bollard.runtime.container.clock import Clock
from bollard.runtime.errors import BollardError
from bollard.runtime.image.image import Image
from bollard.runtime.local import exposition, job, stats
from bollard.runtime.request import spec_text

DIGEST = "ab" * 32


class Node:
    """The directories of records and of jobs that `stats.count` reads."""

    def __init__(self, top):
        self.records, self.jobs = top / "records", top / "jobs"
        self.records.mkdir()
        self.jobs.mkdir()
        self.state = stats.load("/nonexistent")

    def job(self, number, *containers, ended=True):
        path = self.records / f"{number}.1000"
        path.write_bytes(b"".join(spec_text.text(list(pairs.items())) + b"\n" for pairs in containers))
        if not ended:
            (self.jobs / str(number)).mkdir()

    def count(self, later=3600):
        stamp = max((path.stat().st_mtime for path in self.records.iterdir()), default=0)
        return stats.count(self.state, str(self.records), str(self.jobs), stamp + later)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def container(name="a.1", **more):
    first = {"bollard": "1", "container": name, "digest": DIGEST, "keeper": "7", "made": "1.0", "tasks": "2"}
    return {**first, "ended": "2.0", **{key.replace("_", "-"): value for key, value in more.items()}}


def test_totals_stay_when_records_are_removed(node):
    node.job(1, container(), container("b.2"))
    node.job(2, container(phases="fork:1.5,python:8"), ended=False)
    first = node.count()
    assert (first["starts"], first["tasks"], first["images"]) == ({"": 3}, {"": 6}, {DIGEST: 3})
    assert first["seconds"] == {"fork": 0.0015, "python": 0.008, "all": 0.0095}
    assert node.count() == first, "what was added is not added again"
    (node.records / "1.1000").unlink()
    assert node.count() == first
    assert set(node.state["counted"]) == set()
    (node.jobs / "2").rmdir()
    (node.records / "2.1000").write_bytes(b"")  # a later job of the same number: another file
    (node.records / "2.1000").unlink()
    node.job(3, container())
    assert node.count()["starts"] == {"": 3}, "job 2 was never final: it is gone without its totals"


def test_a_file_that_may_grow_is_not_added_to_the_state(node):
    node.job(1, container())
    assert node.count(later=1)["starts"] == {"": 1} and node.state["past"] == {}
    assert node.count()["starts"] == {"": 1} and node.state["past"]["starts"] == {"": 1}
    (node.records / "1.1000").rename(node.records / "old")
    node.job(1, container(), container("b.2"))  # another job of the same number, after a reset of Slurm's counter
    assert node.count()["starts"] == {"": 3}


def test_what_a_requeued_job_adds_is_counted_and_nothing_twice(node):
    node.job(1, container())
    assert node.count()["starts"] == {"": 1}
    with (node.records / "1.1000").open("ab") as file:
        file.write(spec_text.text(list(container("b.2").items())) + b"\n")
    assert node.count(later=1)["starts"] == {"": 2} and node.state["past"]["starts"] == {"": 1}
    assert node.count()["starts"] == node.count()["starts"] == {"": 2}


def test_failures_have_a_cause(node):
    killed = {key: value for key, value in container("c.3").items() if key != "ended"}
    failed = {"container": "d.4", "image": "/x", "made": "1", "ended": "1", "tasks": "0"}
    node.job(
        1, killed, {**failed, "failed": "server"},
        {**failed, "container": "e", "failed": "policy", "trust": "enforce:refused"},
        {**failed, "container": "f", "failed": 'x"}\n1'},
    )  # fmt: skip
    node.job(2, killed, ended=False)
    found = node.count()
    assert found["failures"] == {"killed": 1, "server": 1, "policy": 1, "other": 1}
    assert found["starts"] == {"": 2} and found["verdicts"] == {"enforce:refused": 1}


def test_what_users_wrote_makes_no_label(node):
    node.job(
        1, container("a", digest='x"} 1\nevil 1'), container("b", trust="own:word", phases="python:nan,mine:3"),
        container("c", phases="python:-1"), container("d", tasks="-5", phases="python:1e99"),
    )  # fmt: skip
    node.job(2, *(container(str(number), digest=f"{number:064x}") for number in range(stats.IMAGES_MAX + 5)))
    found = node.count()
    assert set(found) == {"starts", "tasks", "images"} and len(found["images"]) == stats.IMAGES_MAX
    assert found["tasks"][""] == 6 + 2 * (stats.IMAGES_MAX + 5)
    text = exposition.text(stats.Stats(0, 0, 0, {}, None, 0, {"images": {'x"\n\\': 1}}))
    assert 'digest="x\\"\\n\\\\"' in text


def test_a_damaged_state_begins_anew(tmp_path):
    path = tmp_path / "stats.json"
    for text in ("", "[]", "{", '{"past": {"starts": {"": 4}}}'):
        path.write_text(text)
        found = stats.load(str(path))
        assert stats.count(found, str(tmp_path / "none")) == ({"starts": {"": 4}} if "past" in text else {})
    stats.save(found, str(path))
    assert json.loads(path.read_text()) == found and os.listdir(tmp_path) == ["stats.json"]
    with pytest.raises(OSError, match="no/such"):
        stats.write(str(tmp_path / "no/such"), "x")


def test_the_histogram_is_cumulative(node):
    node.job(1, *(container(phase, phases=f"fork:{phase}") for phase in ("0.5", "20", "99000")))
    lines = exposition.text(stats.Stats(0, 0, 0, {}, None, 1, node.count())).splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith('bollard_start_seconds_bucket{phase="fork"')]
    assert found == ["1", *["1"] * 3, *["2"] * 9, "3"]
    assert 'bollard_start_seconds_sum{phase="fork"} 99.020500' in lines


def test_memory_of_file_servers(tmp_path):
    """Those of this installation and of the tree before it; not another program of the same name."""
    for folder in ("bollard-1", "bollard-2", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "squashfuse").write_bytes(open("/bin/sleep", "rb").read())
        (tmp_path / folder / "squashfuse").chmod(0o755)
    (tmp_path / "bollard").symlink_to("bollard-2")
    started = [subprocess.Popen([tmp_path / name / "squashfuse", "60"]) for name in ("bollard-1", "bollard", "other")]
    try:
        found = stats.servers(str(tmp_path / "bollard"))
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert list(found) == ["squashfuse"] and found["squashfuse"].running == 2
    assert found["squashfuse"].memory > 2 * 4096


def test_the_record_has_phases_and_the_log_has_lines(tmp_path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "log"))
    image = Image("/data/a b\n<3>root: x\x1b[2J.sif", -1, "squashfs", (1, 2, 3))
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    kept = record.Record(image, "n1", fd)
    kept.journal = journal.connect("7", str(tmp_path / "log"))
    clock = Clock(1_000_000)
    for name, at in (("fork", 3_500_000), ("ready", 4_000_000)):
        clock.mark(name, at)
    kept.ready(clock)
    kept.entered("0")
    kept.end()
    os.close(fd)
    (found,) = job.records(7, str(tmp_path))
    assert found["phases"] == {"fork": 2.5, "ready": 0.5}
    start, end = listener.recv(4096).decode("ascii"), listener.recv(4096).decode("ascii")
    path = "/data/a%20b%0A<3>root:%20x%1B[2J.sif"
    user = os.getuid()
    assert start == f"<30>bollard[{os.getpid()}]: start job=7 user={user} image={path} digest="
    assert end == f"<30>bollard[{os.getpid()}]: end job=7 user={user} tasks=1 seconds=0.0 image={path} digest="
    listener.close()
    assert kept.journal is not None
    kept.journal.say("end", [])  # nobody listens: the job goes on
    assert journal.connect("7", str(tmp_path / "none")) is None
    assert len(journal.line("start", [("image", "x" * 9000)], 1)) < 600


def test_the_cause_of_a_failure():
    refused = BollardError("no", "ask")
    refused.trusted = [("trust", "enforce:refused")]  # type: ignore[attr-defined]
    assert record.cause(refused, [("fork", 1)]) == "policy"
    assert [record.cause(OSError(), [(name, 1)]) for name in ("python", "fuse", "mounts", "ready", "new")] == [
        "image", "sources", "environment", "other", "other",
    ]  # fmt: skip
    assert record.cause(OSError(), []) == "other"
