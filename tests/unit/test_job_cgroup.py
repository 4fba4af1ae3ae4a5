# SPDX-License-Identifier: BSD-3-Clause
"""Where a job's control groups are (job_cgroup.c), and that a failure is not taken for their absence."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess

import compiled
import pytest

DECLARATIONS = """
struct job_cgroups { int count; char job[16][512], v1[512], v2[512]; };
int find(struct job_cgroups *found, unsigned job, const char *own, const char *mountinfo);
int job_cgroups_count(const struct job_cgroups *groups);
int job_cgroups_follow(const struct job_cgroups *groups);
int moved(const struct job_cgroups *groups, int pid);
int look(struct job_cgroups *found, const char *mountinfo);
int job_cgroups_remove(const struct job_cgroups *groups, int alone, unsigned int *ours);
int vacant(const char *job);
"""
MORE = """
int find(struct job_cgroups *found, unsigned job, const char *own, const char *mountinfo)
{
	return find_in(found, job, own, mountinfo);
}
int look(struct job_cgroups *found, const char *mountinfo) { return look_in(found, mountinfo); }
int vacant(const char *job) { return is_vacant(job); }
int moved(const struct job_cgroups *groups, int pid)
{
	int handle = open_member(groups->job[0], pid);

	return handle < 0 ? -1 : move(groups, pid, handle);
}
"""
V2 = "32 24 0:28 / {} rw - cgroup2 cgroup2 rw\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled.load("job_cgroup", tmp_path_factory.mktemp("job_cgroup"), DECLARATIONS, MORE)


@pytest.fixture
def find(library, tmp_path):
    """Calls job_cgroups_find() for job 7 with these texts of /proc/self/cgroup and mountinfo; None: no such file."""
    ffi, lib = library

    def call(own, mounts):
        for name, text in (("own", own), ("mounts", mounts)):
            if text is not None:
                (tmp_path / name).write_text(text)
        found = ffi.new("struct job_cgroups *")
        rc = lib.find(found, 7, f"{tmp_path}/own".encode(), f"{tmp_path}/mounts".encode())
        reason = ffi.errno if rc < 0 else 0
        return reason, [ffi.string(found.job[i]).decode() for i in range(found.count)]

    return call


def test_the_jobs_directory(find, tmp_path):
    (tmp_path / "slurm/job_7").mkdir(parents=True)
    assert find("0::/slurm/job_7/step_0\n", V2.format(tmp_path)) == (0, [f"{tmp_path}/slurm/job_7"])


@pytest.mark.parametrize(
    "own", ["", "0::/system.slice/slurmd.service\n", "0::/slurm/job_77/step_0\n", "0::/" + "x" * 600]
)
def test_a_site_without_cgroups(find, own):
    """The mounts are not looked at."""
    assert find(own, None) == (0, [])


@pytest.mark.parametrize(
    ("own", "mounts", "reason"),
    [
        (None, "", errno.ENOENT),
        ("0::/job_7/step_0\n", None, errno.ENOENT),
        ("0::/job_7/step_0\n", V2.format("/none"), errno.ENOENT),
        ("0::/job_7/step_0\n", "31 24 0:27 / /sys rw - cgroup cgroup rw,memory\n", errno.ENODEV),
        ("0::/" + "x" * 600 + "/job_7/step_0\n", "", errno.ENAMETOOLONG),
        ("0::/job_7\n", V2.format("/" + "x" * 300), errno.ENAMETOOLONG),
        ("0::/" + "x" * 400 + "/job_7\n", V2.format("/" + "x" * 200), errno.ENAMETOOLONG),
        ("0::/job_7\n", V2.format("/etc/passwd"), errno.ENOTDIR),
    ],
)
def test_what_cannot_be_told_is_a_failure(find, own, mounts, reason):
    assert find(own, mounts) == (reason, [])


def test_a_file_that_cannot_be_read(library, tmp_path):
    """Opening a directory works; reading it fails."""
    ffi, lib = library
    found = ffi.new("struct job_cgroups *")
    assert lib.find(found, 7, str(tmp_path).encode(), b"/dev/null") == -1 and ffi.errno == errno.EISDIR
    (tmp_path / "own").write_text("0::/job_7\n")
    assert lib.find(found, 7, f"{tmp_path}/own".encode(), str(tmp_path).encode()) == -1 and ffi.errno == errno.EISDIR


def test_more_hierarchies_than_there_is_room_for(find, tmp_path):
    (tmp_path / "job_7").mkdir()
    reason, found = find("0::/job_7\n", V2.format(tmp_path) * 17)
    assert reason == errno.E2BIG and len(found) == 16


def test_processes_that_cannot_be_read_are_not_nobody(library, tmp_path):
    ffi, lib = library
    groups = ffi.new("struct job_cgroups *", {"count": 1})
    groups.job[0] = str(tmp_path).encode()
    assert lib.job_cgroups_count(groups) == 0
    (tmp_path / "step_bollard/cgroup.procs").mkdir(parents=True)
    assert lib.job_cgroups_count(groups) == -1 and ffi.errno == errno.EISDIR
    assert lib.job_cgroups_follow(groups) == -1
    (tmp_path / "step_bollard/cgroup.procs").rmdir()
    (tmp_path / "step_bollard/cgroup.procs").write_text("12\n0\n13\n")
    assert lib.job_cgroups_count(groups) == 2


def test_only_a_process_that_is_still_there_is_moved(library, tmp_path):
    """A process id can belong to another process by the time that it is written."""
    ffi, lib = library
    groups = ffi.new("struct job_cgroups *", {"count": 2})
    for number, name in enumerate(("one", "two")):
        (tmp_path / name / "step_bollard").mkdir(parents=True)
        (tmp_path / name / "step_bollard/cgroup.procs").touch()
        groups.job[number] = f"{tmp_path}/{name}".encode()
    child = subprocess.Popen(["sleep", "1000"])
    ended = subprocess.Popen(["true"])
    ended.wait()
    try:
        (tmp_path / "one/step_bollard/cgroup.procs").write_text(f"{ended.pid}\n{child.pid}\n")
        assert lib.job_cgroups_follow(groups) == 0
        assert (tmp_path / "two/step_bollard/cgroup.procs").read_text() == str(child.pid)
        assert lib.moved(groups, os.getpid()) == -1 and ffi.errno == errno.ESRCH, "it was never in the directory"
    finally:
        child.kill()
        child.wait()


def test_hierarchies_that_came_later(library, tmp_path):
    """Slurm 20.11 makes the other directories after the first look, and moves the process out before the last one."""
    ffi, lib = library
    found = ffi.new("struct job_cgroups *")
    (tmp_path / "freezer/slurm/job_7").mkdir(parents=True)
    lines = [f"31 24 0:27 / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n" for name in ("freezer", "memory")]
    (tmp_path / "mounts").write_text("".join(lines))
    (tmp_path / "own").write_text("6:freezer:/slurm/job_7/step_extern\n4:memory:/\n")
    mounts = f"{tmp_path}/mounts".encode()
    assert lib.find(found, 7, f"{tmp_path}/own".encode(), mounts) == 0 and found.count == 1
    (tmp_path / "memory/slurm/job_7").mkdir(parents=True)
    assert lib.look(found, mounts) == 0
    jobs = [ffi.string(found.job[number]).decode() for number in range(found.count)]
    assert jobs == [f"{tmp_path}/{name}/slurm/job_7" for name in ("freezer", "memory")]


@pytest.fixture
def remove(library, tmp_path):
    """Makes a job's directories and calls job_cgroups_remove(); returns its result and what is left."""
    ffi, lib = library
    job = tmp_path / "uid_5/job_7"
    groups = ffi.new("struct job_cgroups *", {"count": 1})
    groups.job[0] = str(job).encode()

    def call(alone, *others):
        for name in ("step_bollard", *others):
            (job / name).mkdir(parents=True)
        rc = lib.job_cgroups_remove(groups, alone, ffi.new("unsigned int *"))
        return rc, sorted(path.name for path in tmp_path.rglob("*"))

    return call


@pytest.fixture
def held(tmp_path):
    """The lock of the filesystem's topmost directory, which any user can take."""
    top = tmp_path
    while len(top.parts) > 2 and top.parent.stat().st_dev == top.stat().st_dev:
        top = top.parent
    lock = os.open(top, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def test_the_last_step_removes_all_directories(remove):
    assert remove(True) == (0, [])


def test_another_step_keeps_the_jobs_directory(remove):
    assert remove(True, "step_0") == (0, ["job_7", "step_0", "uid_5"])


def test_nobody_keeps_the_jobs_directory_by_a_lock(remove, held):
    """Another job of the user may be starting, so the user's own directory stays."""
    assert remove(True) == (0, ["uid_5"])


def test_without_an_extern_step_the_lock_counts(remove, held):
    assert remove(False) == (0, ["job_7", "uid_5"])


def test_what_a_busy_directory_holds(library, tmp_path):
    _, lib = library
    place = str(tmp_path).encode()
    assert lib.vacant(place) == 0  # it has no list of processes: not known
    (tmp_path / "cgroup.procs").write_text("")
    assert lib.vacant(place) == 1
    (tmp_path / "cgroup.procs").write_text("12\n")
    assert lib.vacant(place) == 0
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "step_0").mkdir()
    assert lib.vacant(place) == 0
