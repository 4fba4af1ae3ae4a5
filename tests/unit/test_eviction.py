# SPDX-License-Identifier: BSD-3-Clause
"""What a cache removes over its limit, and what it never removes."""

from __future__ import annotations

import fcntl
import os
import time

import pytest

from bollard.runtime.fetch import eviction

BLOCK = 1 << 16


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Four images, the first unused for the longest, and one blob; squeue tells that no job waits."""
    monkeypatch.setattr(eviction, "wanted_by_jobs", lambda shared: frozenset())
    found = []
    for age, name in enumerate(("a", "b", "c", "d", "blob")):
        path = tmp_path / name
        path.write_bytes(os.urandom(BLOCK))
        used = time.time() - (5 - age) * 86400
        os.utime(path, (used, used))
        found.append(("blob" if name == "blob" else "oras", str(path)))
    return found


def names(paths):
    return [os.path.basename(path) for path in paths]


def test_nothing_under_the_limit(entries):
    assert eviction.trim(entries, 5 * BLOCK, False) == []


def test_the_longest_unused_first(entries):
    assert names(eviction.trim(entries, 3 * BLOCK, False)) == ["a", "b"]
    assert names(path for _, path in entries if os.path.exists(path)) == ["c", "d", "blob"]


def test_a_read_counts_as_a_use(entries):
    os.utime(entries[0][1], (time.time() - 3600, os.stat(entries[0][1]).st_mtime))
    assert names(eviction.trim(entries, 3 * BLOCK, False)) == ["b", "c"]


def test_what_a_container_has_locked_stays(entries):
    with open(entries[0][1], "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert names(eviction.trim(entries, 0, False)) == ["b", "c", "d", "blob"]
    assert names(eviction.trim(entries, 0, False)) == ["a"]


def test_what_a_waiting_job_names_stays(entries, monkeypatch):
    monkeypatch.setattr(eviction, "wanted_by_jobs", lambda shared: frozenset((entries[1][1],)))
    assert names(eviction.trim(entries, 0, False)) == ["a", "c", "d", "blob"]


def test_what_was_just_used_stays(entries):
    os.utime(entries[0][1])
    assert names(eviction.trim(entries, 0, False)) == ["b", "c", "d", "blob"]


def test_where_slurm_does_not_tell_images_stay_for_two_weeks(entries, monkeypatch):
    monkeypatch.setattr(eviction, "wanted_by_jobs", lambda shared: None)
    old = time.time() - eviction.UNKNOWN - 1
    os.utime(entries[0][1], (old, old))
    assert names(eviction.trim(entries, 0, False)) == ["a", "blob"]


def test_a_link_is_not_followed(entries, tmp_path):
    (tmp_path / "link").symlink_to(entries[0][1])
    assert eviction.trim([("oras", str(tmp_path / "link"))], -1, False) == []
    assert os.path.exists(entries[0][1])


@pytest.mark.parametrize(
    ("script", "found"),
    [("printf '/a b.sif    \\n(null)\\n'", {"/a b.sif", "(null)"}), ("exit 1", None), ("printf ''", set())],
)
def test_what_squeue_says(tmp_path, monkeypatch, script, found):
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert eviction.wanted_by_jobs(False) == (found if found is None else frozenset(found))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert eviction.wanted_by_jobs(False) == frozenset()
