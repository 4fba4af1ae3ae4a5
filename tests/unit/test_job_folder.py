# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a job on a node (job_folder.c): which slurmstepd is the last; how many files a user can make in it."""

from __future__ import annotations

import os
import tempfile

import compiled
import pytest

DECLARATIONS = """
int job_folder_is_last(int folder);
void job_folder_hold_again(int folder);
void job_folder_release(int folder);
int job_folder_lock(const char *address, int ms);
void job_folder_tidy(const char *address);
int job_folder_listen(const char *address, unsigned uid);
int held(int folder);
"""
MORE = "int held(int folder) { return flock(folder, LOCK_SH | LOCK_NB); }"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    others = ("privilege", "root_owned", "job_cgroup", "wire")
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


@pytest.fixture
def short():
    """A directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield path


def test_the_locks_of_a_job_are_bounded(library, short):
    for number in range(300):
        lock = library.job_folder_lock(f"{short}/{number % 3:02x}{number:014x}".encode(), 0)
        assert lock >= 0
        library.job_folder_release(lock)
    assert sorted(os.listdir(short)) == ["lock.00", "lock.01", "lock.02"]


def test_dead_sockets_are_removed_and_living_ones_stay(library, short):
    """Also where the dead one has the lock of the address that is made; not while another step has the lock."""
    uid, mine = os.getuid(), f"{short}/{0xAA << 56:016x}"
    names = [f"{(number % 4) << 56 | number:016x}" for number in range(70)] + [f"{0xAA << 56 | 7:016x}"]
    lock = library.job_folder_lock(mine.encode(), 0)
    for name in names:
        fd = library.job_folder_listen(f"{short}/{name}".encode(), uid)
        assert fd >= 0
        if name != names[5]:
            os.close(fd)
        else:
            alive = fd
    other = library.job_folder_lock(f"{short}/{names[2]}".encode(), 0)

    library.job_folder_tidy(mine.encode())

    left = {name for name in os.listdir(short) if len(name) == 16}
    assert left == {names[5], *(name for name in names if name.startswith("02"))}
    for fd in (lock, other, alive):
        os.close(fd)


def test_few_sockets_are_left_alone(library, short):
    for number in range(10):
        os.close(library.job_folder_listen(f"{short}/{number:016x}".encode(), os.getuid()))
    library.job_folder_tidy(f"{short}/{99:016x}".encode())
    assert len(os.listdir(short)) == 10
