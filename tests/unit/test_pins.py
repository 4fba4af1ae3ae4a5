# SPDX-License-Identifier: BSD-3-Clause
"""What a name means in a job: the first step decides."""

from __future__ import annotations

import pytest

from bollard.runtime.fetch import cache, pins

URI = "docker://host/a:v1"
ONE, TWO = (f"docker://host/a@sha256:{digit * 64}" for digit in "12")


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, ".7"),
        ({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_CLUSTER_NAME": "c"}, "c.7"),
        ({"SLURM_JOB_ID": "../x", "SLURM_CLUSTER_NAME": "c"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "../c"}, "___c.7"),
    ],
)
def test_the_job_of_an_environment(environ, job):
    assert pins.job(environ) == job


def test_the_first_decides(tmp_path):
    with cache.opened({"HOME": str(tmp_path)}) as store:
        assert pins.get(store, "c.7", URI) == ""
        assert pins.keep(store, "c.7", URI, ONE) == ONE
        assert pins.keep(store, "c.7", URI, TWO) == ONE
        assert pins.get(store, "c.7", URI) == ONE
        assert pins.get(store, "c.8", URI) == pins.get(store, "c.7", URI + "x") == ""
    with cache.opened({"HOME": str(tmp_path)}) as store:
        assert pins.get(store, "c.7", URI) == ONE
