# SPDX-License-Identifier: BSD-3-Clause
"""Which of a job's slurmstepds is the last on the node (job_folder.c)."""

from __future__ import annotations

import os

import compiled
import pytest

DECLARATIONS = """
int job_folder_is_last(int folder);
void job_folder_hold_again(int folder);
void job_folder_release(int folder);
int held(int folder);
"""
MORE = "int held(int folder) { return flock(folder, LOCK_SH | LOCK_NB); }"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    others = ("privilege", "job_cgroup", "wire")
    return compiled.load("job_folder", tmp_path_factory.mktemp("job_folder"), DECLARATIONS, MORE, others)[1]


@pytest.fixture
def folders(library, tmp_path):
    """Three that hold one folder, each by a description of its own."""
    found = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    assert [library.held(fd) for fd in found] == [0, 0, 0]
    return found


def test_one_is_the_last_in_whatever_order_they_ask(library, folders):
    assert [library.job_folder_is_last(fd) for fd in folders] == [0, 0, 1]


def test_who_waits_for_the_others_is_the_last(library, folders):
    waiting, *others = folders
    for fd in others:
        assert not library.job_folder_is_last(waiting)
        library.job_folder_hold_again(waiting)
        assert not library.job_folder_is_last(fd)
        library.job_folder_release(fd)

    assert library.job_folder_is_last(waiting)


def test_nobody_is_the_last_twice(library, folders):
    waiting, last, other = folders
    library.job_folder_release(other)
    assert not library.job_folder_is_last(waiting)
    assert library.job_folder_is_last(last)
    library.job_folder_hold_again(waiting)

    assert library.held(waiting) < 0
    library.job_folder_release(last)
    assert library.job_folder_is_last(waiting)
