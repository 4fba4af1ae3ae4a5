# SPDX-License-Identifier: BSD-3-Clause
"""The record of a container, and what `bollard job` and `bollard ps` read of it."""

from __future__ import annotations

import os
import socket

import pytest

from bollard.runtime.container import record
from bollard.runtime.errors import BollardError
from bollard.runtime.image.image import Image
from bollard.runtime.local import job, running
from bollard.runtime.request import spec


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
    fd = os.open(folder / "7.1000.0123456789abcdef.5", os.O_RDWR | os.O_CREAT)
    kept = record.Record(image, "n1.example", fd)
    kept.write()
    assert job.records(7, str(folder))[0]["tasks"] == 0
    for step in ("0", "0", "batch"):
        kept.entered(step)
    kept.end()
    os.close(fd)
    (found,) = job.records(7, str(folder))
    assert (found["image"], found["id"], found["user"]) == (image.path, "1.2.3", 1000)
    assert (found["tasks"], found["steps"]) == (3, {"0": 2, "batch": 1})
    assert found["made"] <= found["first"] <= found["last"] <= found["ended"]
    assert job.records(70, str(folder)) == [] and job.records(7, str(tmp_path / "none")) == []


def test_a_record_only_grows(image):
    """Each is written over the one before: nothing of that may be left behind its end."""
    kept = record.Record(image, "n1")
    sizes = [len(spec.text(kept.values()))]
    for count in range(1200):
        kept.entered(str(count))
        sizes.append(len(spec.text(kept.values())))
    kept.end()
    sizes.append(len(spec.text(kept.values())))
    assert sizes == sorted(sizes)
    assert len(kept.steps) == record.STEPS_MAX + 1 and kept.steps[record.OTHERS] == 200


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
def test_step_of(environment, step):
    assert record.step_of(environment) == step


@pytest.mark.parametrize(
    ("site", "fd"),
    [("spool=/x record-fd=17 ", 17), ("spool=/x ", -1), ("record-fd=x ", -1), ("record-fd= ", -1), ("", -1)],
)
def test_descriptor(site, fd):
    assert record.descriptor(site) == fd


@pytest.mark.parametrize("name", ["x", "", "1.", "-1", "1;2", "\u0661", ".0"])
def test_no_job(name):
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
    found = running.Container("bollard/1000/7/0123456789abcdef", told)
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
        running.Container("bollard/1000/7/0123456789abcdef", {"image": "/a", **told})


def test_another_users_words_do_nothing_to_a_terminal():
    told = {"there": "5:\x1b[2J", "image": "/a\x1b]0;own\x07\nb"}
    text = "\n".join(running.lines([running.Container("bollard/1000/7/0123456789abcdef", told)]))
    assert text.count("\n") == 1 and "\x1b" not in text and r"/a\x1b]0;own\x07\nb" in text
    found = {"slurm": [], "here": [{"image": "/a\x1b[2J\nb"}], "node": "n1"}
    assert all(line.isprintable() for line in job.lines(found))


@pytest.mark.parametrize("name", ["\u00b2/1/x", "1/\u00b2/x", "1/2/\udcff"])
def test_an_address_that_only_looks_like_a_keepers(name):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0bollard/" + name.encode("utf-8", "surrogateescape"))
        listener.listen()
        assert all(address.isascii() for address in running.addresses())
        running.containers(1)
