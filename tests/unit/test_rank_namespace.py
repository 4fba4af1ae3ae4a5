# SPDX-License-Identifier: BSD-3-Clause
"""Which ranks share a user namespace, and how one finds that of the others."""

from __future__ import annotations

import socket

import pytest

from bollard.runtime.local import rank_namespace

HERE = rank_namespace._inode("/proc/self/ns/user")


@pytest.fixture(autouse=True)
def ordinary_user(monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 1000)


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "8"}, f"1000.{HERE}.7.3"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "1"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "8"}, ""),  # a batch script
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-n1-12@1"}, f"1000.{HERE}.prterun.n1.12.1"),
        ({"OMPI_COMM_WORLD_SIZE": "1", "PMIX_NAMESPACE": "77"}, ""),
        ({}, ""),
    ],
)
def test_which_ranks_share_a_namespace(environ, ranks):
    assert rank_namespace.common(environ) == ranks


def test_key_of_ranks_of_hydra_is_their_parent(monkeypatch):
    monkeypatch.setattr("os.getppid", lambda: 42)
    assert rank_namespace.common({"PMI_SIZE": "2"}).startswith(f"1000.{HERE}.42.")


def test_root_shares_with_nobody(monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert rank_namespace.key({"PMI_SIZE": "2"}) == ""


def test_an_address_cannot_be_foretold(monkeypatch):
    """What the ranks have in common is known to all users; the number of the keyring is not."""
    environ = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    number = rank_namespace.key(environ)
    assert number == rank_namespace.key(environ) and len(number) == 32
    assert number != rank_namespace.key({**environ, "SLURM_STEP_ID": "4"})
    monkeypatch.setattr("bollard.runtime.system.linux.user_keyring", lambda: 5)
    assert number != rank_namespace.key(environ)


def test_a_long_name_fits_an_address():
    ranks = rank_namespace.key({"PMI_SIZE": "2", "PMIX_NAMESPACE": "x" * 300})
    assert len(f"{rank_namespace._PREFIX}{ranks}-4194304-4294967295") < 107


def test_only_holders_of_these_ranks_are_found():
    begin = "0000000000000000: 00000002 00000000 00000000 0002 01 "
    names = ["@bollard-ranks-1000.9.7.3-12-99", "@bollard-ranks-1000.9.7.3-lock", "@bollard-ranks-1000.9.7.30-5-6",
             "@bollard-ranks-1000.9.7.3-x-y", "@bollard-ranks-1000.9.7.3-1",
             "/run/bollard-ranks-1000.9.7.3-1-2"]  # fmt: skip
    text = "Num RefCount Protocol Flags Type St Inode Path\n" + "".join(
        f"{begin}{at} {name}\n" for at, name in enumerate(names)
    )
    assert rank_namespace.holders(text, "1000.9.7.3") == [(12, 99)]


def test_a_rank_that_gets_neither_lock_nor_namespace_says_so(monkeypatch):
    """Another process holds the lock all the time."""
    made: list[bool] = []
    monkeypatch.setattr(rank_namespace, "_PATIENCE", 0.1)
    monkeypatch.setattr(rank_namespace.identity, "new_namespace", made.append)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind(f"\0{rank_namespace._PREFIX}unit-test-lock")
        assert "user namespace of its own" in rank_namespace.enter("unit-test")
    assert made == [False]
