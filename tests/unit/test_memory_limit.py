# SPDX-License-Identifier: BSD-3-Clause
"""Whether the memory limit of a job has ended a process of a container."""

from __future__ import annotations

import pytest

from bollard.runtime.container import memory_limit

V1 = "31 24 0:27 {root} {point} rw - cgroup cgroup rw,memory\n"
V2 = "32 24 0:28 {root} {point} rw - cgroup2 cgroup2 rw\n"
OTHER = "30 24 0:26 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n22 1 0:21 / / rw - overlay x rw\n"


@pytest.fixture
def watch(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_limit, "_events", -1)
    monkeypatch.setattr(memory_limit, "_before", 0)

    def call(own, mounts):
        (tmp_path / "own").write_text(own)
        (tmp_path / "mounts").write_text(mounts)
        memory_limit.watch(f"{tmp_path}/own", f"{tmp_path}/mounts")

    return call


@pytest.mark.parametrize(
    ("own", "mount", "root", "place"),
    [
        ("4:memory:/slurm/job_7/step_bollard\n0::/\n", V1, "/", "slurm/job_7/step_bollard/memory.oom_control"),
        ("4:cpu,memory:/a/job_7/step_bollard\n", V1, "/a", "job_7/step_bollard/memory.oom_control"),
        ("0::/system.slice/job_7/step_bollard\n", V2, "/", "system.slice/job_7/step_bollard/memory.events.local"),
    ],
)
def test_what_the_kernel_counts(watch, tmp_path, own, mount, root, place):
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text("low 3\noom 9\noom_kill 2\noom_group_kill 5\n")
    watch(own, OTHER + mount.format(root=root, point=tmp_path))
    assert memory_limit.told("else") == ("", "else")
    file.write_text("low 3\noom 9\noom_kill 3\n")
    assert memory_limit.told("else") == ("by the job's memory limit", "ask for more memory (--mem, --mem-per-cpu)")


@pytest.mark.parametrize(
    "own", ["", "0::/\n", "4:memory:/user.slice\n0::/\n", "6:freezer:/slurm/job_7/step_0\n4:memory:/\n", "rubbish"]
)
def test_where_nothing_is_counted(watch, tmp_path, own):
    watch(own, V1.format(root="/", point=tmp_path) + V2.format(root="/", point=tmp_path))
    assert memory_limit.told("else") == ("", "else")


def test_a_file_that_is_gone(watch, tmp_path):
    watch("0::/job_7\n", V2.format(root="/", point=tmp_path))
    assert memory_limit.told() == ("", "")
