# SPDX-License-Identifier: BSD-3-Clause
"""The record of a container, and what `bollard job` and `bollard ps` read of it."""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading

import pytest

from bollard.runtime.container import record, wire
from bollard.runtime.errors import BollardError
from bollard.runtime.image.image import Image
from bollard.runtime.local import job, running
from bollard.runtime.request import spec_text


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a b.sif"
    path.write_bytes(b"")
    fd = os.open(path, os.O_RDONLY)
    yield Image(str(path), fd, "squashfs", (1, 2, 3))
    os.close(fd)


def test_what_is_written_last_is_read(tmp_path, image):
    folder = tmp_path / "records"
    folder.mkdir()
    fd = os.open(folder / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    kept = record.Record(image, "n1.example", fd)
    assert job.records(7, str(folder)) == []
    for step in ("0", "0", "batch"):
        kept.entered(step)
    kept.end()
    os.close(fd)
    (found,) = job.records(7, str(folder))
    assert (found["image"], found["id"], found["user"]) == (image.path, "1.2.3", 1000)
    assert (found["tasks"], found["steps"]) == (3, {"0": 2, "batch": 1})
    assert found["made"] <= found["first"] <= found["last"] <= found["ended"]
    assert job.records(70, str(folder)) == [] and job.records(7, str(tmp_path / "none")) == []


def test_containers_of_a_job_share_a_file(tmp_path, image):
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    one, two = record.Record(image, "n1.example", fd), record.Record(image, "n1.example", fd)
    one.container, two.container = "a.1", "b.2"
    for kept in (one, two, one):
        kept.entered("0")
    two.end()
    found = job.records(7, str(tmp_path))
    assert [(entry["container"], entry["tasks"], "ended" in entry) for entry in found] == [
        ("a.1", 2, False), ("b.2", 1, True),
    ]  # fmt: skip
    os.write(fd, b"bollard=0.1.0 container=a.1 tas")  # cut off
    assert job.records(7, str(tmp_path)) == found
    os.close(fd)


def test_a_container_without_tasks_is_not_on_record(tmp_path, image):
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    record.Record(image, "n1.example", fd).end()
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_a_record_is_bounded(tmp_path, image):
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    kept = record.Record(image, "n1.example", fd)
    for count in range(20_000):
        kept.entered(str(count % 1200))
    assert record.FREE < os.fstat(fd).st_size < 4 * record.FREE and kept.pending
    kept.end()
    os.close(fd)
    (found,) = job.records(7, str(tmp_path))
    assert (found["tasks"], len(found["steps"])) == (20_000, record.STEPS_MAX + 1)


def test_many_containers_of_a_job_have_one_bound(tmp_path, image):
    """Each step can have a container of its own; each writes a last line, whatever the file has."""
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for number in range(200):
        kept = record.Record(image, "n1", fd)
        kept.container = "c" * 20_000 + str(number)
        kept.entered("0")
        kept.end()
    assert os.fstat(fd).st_size <= 2 * record.SIZE_MAX
    os.close(fd)


def test_a_limit_of_file_sizes_keeps_tasks_out(tmp_path, image):
    """Any process of the user's may set it; a line that is cut off stays alone."""
    fd = os.open(tmp_path / "7.1000", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    kept = record.Record(image, "n1", fd)
    kept.entered("0")
    size = os.fstat(fd).st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        with pytest.raises(BollardError, match="may not write its record"):
            kept.entered("1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.fstat(fd).st_size == size + 40
    kept.entered("2")
    os.close(fd)
    lines = (tmp_path / "7.1000").read_text().splitlines()
    assert len(lines) == 3 and lines[2].startswith("bollard=") and "steps=0:1,1:1,2:1" in lines[2]


def test_a_full_disk_is_no_error(image):
    with open("/dev/full", "wb") as full:
        record.Record(image, "n1", full.fileno()).entered("0")


@pytest.mark.parametrize(
    ("environment", "step"),
    [
        ([b"SLURM_STEP_ID=3"], "3"),
        ([b"A=1", b"SLURM_STEP_ID=4294967290"], "interactive"),
        ([b"SLURM_STEP_ID=-5"], "batch"),
        ([b"A=1"], "batch"),
        ([b"SLURM_STEP_ID=0:99,1"], record.OTHERS),
        ([b"SLURM_STEP_ID=" + b"9" * 100], record.OTHERS),
        ([b"SLURM_STEP_ID="], record.OTHERS),
    ],
)
def test_the_step_of_an_environment(environment, step):
    assert record.step_of(environment) == step


@pytest.mark.parametrize(
    ("site", "fd"),
    [
        ("spool=/x record-fd=17 record-as=a.1 ", (17, "a.1")), ("spool=/x ", (-1, "")), ("record-fd=x ", (-1, "")),
        ("record-fd= ", (-1, "")), ("", (-1, "")),
    ],
)  # fmt: skip
def test_the_record_descriptor_in_the_plugins_arguments(site, fd):
    assert record.descriptor(site) == fd


@pytest.mark.parametrize("name", ["x", "", "1.", "-1", "1;2", "\u0661", ".0"])
def test_what_is_no_job_or_step_is_refused(name):
    with pytest.raises(BollardError):
        running.parse(name)


def test_job_and_step():
    assert running.parse("12") == (12, "") and running.parse("12.batch") == (12, "batch")


def test_comments_of_others_are_no_records():
    fields = ["JobID", "AdminComment", "Container"]
    assert "entered" not in job._row(fields, ["1", "the site's own", "a|b"])
    row = job._row(fields, ["1", "bollard=0.1.0 node=n1 tasks=4 steps=0:4", "a|b"])
    assert row["entered"] == {"bollard": "0.1.0", "node": "n1", "tasks": 4, "steps": {"0": 4}}
    assert row["container"] == "a|b"
    assert job._row(fields, ["1", "bollard=0.1.0 tasks=", ""])["entered"] == {}  # cut off


def test_a_container_as_json():
    told = {"there": "5:0,6:batch", "image": "/a", "keeper": "4", "tasks": "3", "made": "1.5", "bollard": "0.1.0"}
    found = running.Container("/run/bollard-jobs/7/0123456789abcdef", 1000, told)
    assert found.plain() == {
        "job": 7, "user": 1000, "steps": ["0", "batch"], "image": "/a", "digest": "", "keeper": 4,
        "tasks": [{"pid": 5, "step": "0"}, {"pid": 6, "step": "batch"}], "entered": 3, "since": 1.5, "bollard": "0.1.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    "told",
    [
        {"keeper": "abc"}, {"made": "x"}, {"made": "inf"}, {"made": "nan"}, {"made": "1e300"}, {"made": "-1"},
        {"tasks": "z"}, {"there": "a:b"},
    ],
)  # fmt: skip
def test_what_no_keeper_says(told):
    with pytest.raises(ValueError, match=r"\S"):
        running.Container("/run/bollard-jobs/7/0123456789abcdef", 1000, {"image": "/a", **told})


def test_another_users_words_do_nothing_to_a_terminal():
    told = {"there": "5:\x1b[2J", "image": "/a\x1b]0;own\x07\nb"}
    text = "\n".join(running.lines([running.Container("/run/bollard-jobs/7/0123456789abcdef", 1000, told)]))
    assert text.count("\n") == 1 and "\x1b" not in text and r"/a\x1b]0;own\x07\nb" in text
    found = {"slurm": [], "here": [{"image": "/a\x1b[2J\nb"}], "node": "n1"}
    assert all(line.isprintable() for line in job.lines(found))


def test_only_sockets_of_keepers_are_addresses(tmp_path):
    """Only sockets of keepers: not root's own, no locks, no names that are no jobs."""
    for folder, name in (("7", "0123456789abcdef"), ("7", "job"), ("7", "job.0"), ("x", "0123456789abcdef")):
        (tmp_path / folder).mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / folder / name))
    (tmp_path / "7/0123456789abcdef.lock").touch()
    assert list(running.addresses(0, str(tmp_path))) == [(f"{tmp_path}/7/0123456789abcdef", os.getuid())]
    assert list(running.addresses(8, str(tmp_path))) == []


def test_nothing_to_verify():
    with pytest.raises(BollardError, match="n1 has no record") as caught:
        job.verify({"job": 7, "node": "n1", "here": [], "slurm": [{"jobid": "7"}]})
    assert caught.value.code == 1


def test_verify_has_a_line_for_each_image(tmp_path):
    """A line for each image, whatever became of the others."""
    entries = [{"image": f"{tmp_path}/gone.sif", "digest": "0" * 64}, {"image": str(tmp_path), "digest": ""}]
    (tmp_path / "bin").mkdir()
    told = job.verify(
        {"job": 7, "node": "n1", "here": [{**entry, "user": os.getuid()} for entry in entries], "slurm": []}
    )
    assert told[1] is False
    assert told[0][0] == f"{tmp_path}: is a directory: nothing to compare"
    assert told[0][1].startswith(f"{tmp_path}/gone.sif: cannot be read: ")


def _listen(path, answer):
    """A listener at `path` that answers one question with `answer`; None for a mute one."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)

    def serve():
        peer = listener.accept()[0]
        assert peer.recv(1) == wire.QUESTION
        peer.sendall(answer)
        peer.close()

    if answer is not None:
        threading.Thread(target=serve, daemon=True).start()
    return listener


def test_mute_listeners_share_one_deadline(tmp_path):
    """A mute one takes no time from those that answer; all of them together are waited for once."""
    said = spec_text.text([("image", "/a"), ("made", "1")]) + b"\0"
    good = wire.OK + len(said).to_bytes(4, sys.byteorder) + said
    uid = os.getuid()
    sockets = [_listen(tmp_path / name, None) for name in ("a", "b", "c", "d")]
    sockets += [_listen(tmp_path / "e", good), _listen(tmp_path / "f", b"-"), _listen(tmp_path / "g", good[:9])]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names = ["a", "b", "c", "d", "e", "f", "g", "link", "gone"]
    try:
        answers, mute = running.ask([(f"{tmp_path}/{name}", uid) for name in names], 0.5)
    finally:
        for item in sockets:
            item.close()
    assert answers == {f"{tmp_path}/e": {"image": "/a", "made": "1"}}
    assert mute == [f"{tmp_path}/{name}" for name in "abcd"]
    other = _listen(tmp_path / "other", None)
    assert running.ask([(f"{tmp_path}/other", uid + 1)], 0.5) == ({}, [])
    other.close()
