# SPDX-License-Identifier: BSD-3-Clause
"""The variables of PyTorch's launcher, made of Slurm's."""

from __future__ import annotations

import pytest

from bollard.runtime.container import pytorch

STEP = {
    b"PYTORCH_VERSION": b"2.1",
    b"SLURM_PROCID": b"3",
    b"SLURM_LOCALID": b"1",
    b"SLURM_NTASKS": b"4",
    b"SLURM_JOB_ID": b"9000",
    b"SLURM_STEP_NODELIST": b"gpu[07-08]",
    b"SLURM_STEP_NUM_TASKS": b"4",
    b"SLURM_STEP_NUM_NODES": b"2",
}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        (b"n1", b"n1"), (b"n1,n2", b"n1"), (b"n[1-4,7],x", b"n1"), (b"n[007,9]", b"n007"),
        (b"r[1-2]n[03-04]", b"r1n03"),
        (b"n[2-3]-ib.site", b"n2-ib.site"), (b"", b""), (b"n[", b"n"),
    ],
)  # fmt: skip
def test_the_first_host(hosts, first):
    assert pytorch.first_host(hosts) == first


def test_what_a_task_gets():
    found = pytorch.variables(STEP)
    assert found.pop(pytorch.OWN).split() == [name + b"=" + value for name, value in found.items()]
    assert found == {
        b"RANK": b"3",
        b"LOCAL_RANK": b"1",
        b"WORLD_SIZE": b"4",
        b"MASTER_ADDR": b"gpu07",
        b"MASTER_PORT": b"65464",
        b"OMP_NUM_THREADS": b"1",
    }


def test_what_somebody_has_set_stays():
    own = {b"RANK": b"0", b"MASTER_ADDR": b"here", b"OMP_NUM_THREADS": b"8"}

    assert not pytorch.variables({**STEP, **own}).keys() & own.keys()


def test_a_step_within_a_step_has_its_own():
    """All ranks of an srun in a batch script would be rank 0, because the script's container has set RANK."""
    script = {b"SLURM_PROCID": b"0", b"SLURM_LOCALID": b"0", b"SLURM_NTASKS": b"4", b"SLURM_JOB_ID": b"9000"}
    outer = {b"PYTORCH_VERSION": b"2.1", **script}
    outer.update(pytorch.variables(outer))
    assert outer[b"RANK"] == b"0"

    found = pytorch.variables({**outer, **STEP})
    assert (found[b"RANK"], found[b"LOCAL_RANK"], found[b"MASTER_ADDR"]) == (b"3", b"1", b"gpu07")

    own = {b"MASTER_ADDR": b"here", b"RANK": b"7"}  # what the script has set itself stays
    assert not pytorch.variables({**outer, **own, **STEP}).keys() & own.keys()


def test_an_image_without_it_gets_nothing():
    assert pytorch.variables({name: value for name, value in STEP.items() if name != pytorch.MARK}) == {}


def test_one_task_a_node_keeps_its_threads():
    assert b"OMP_NUM_THREADS" not in pytorch.variables({**STEP, b"SLURM_STEP_NUM_TASKS": b"2"})
