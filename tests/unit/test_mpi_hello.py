# SPDX-License-Identifier: BSD-3-Clause
"""bollard.mpi.hello: which way in it takes, and what it says of a neighbour that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bollard.mpi import hello, library, pmi2, pmix
from bollard.mpi.errors import WireupError


class Pair:
    """A session of two ranks, seen by rank 1; rank 0 has put what the test says."""

    library = "none"
    job, rank, size = "12.3", 1, 2

    def __init__(self, neighbours: str | None) -> None:
        self.neighbours = neighbours
        self.calls: list[str] = []

    def join(self) -> None:
        self.calls.append("join")

    def put(self, value: str) -> None:
        self.calls.append(f"put {value}")

    def fence(self) -> None:
        self.calls.append("fence")

    def get(self, rank: int) -> str | None:
        self.calls.append(f"get {rank}")
        return self.neighbours

    def leave(self) -> None:
        self.calls.append("leave")


def test_exchange() -> None:
    session = Pair("12.3 0 n1")
    report = hello.exchange(session, "n2")
    assert session.calls == ["join", "put 12.3 1 n2", "fence", "fence", "get 0", "leave"]
    assert (report["neighbour"], report["neighbour_host"], report["host"]) == (0, "n1", "n2")
    report.update(init_ms=12.3, fence_ms=1.06)
    assert hello.sentence(report) == ("rank 1 of 2 on n2: none: init 12 ms, fence 1.1 ms, neighbour 0 on n1 says ok")


@pytest.mark.parametrize("value", [None, "", "12.3 1 n1", "12.2 0 n1", "12.3 0", "12.3 0 n1 x"])
def test_wrong_neighbour(value: str | None) -> None:
    with pytest.raises(WireupError, match=r"expected '12\.3 0 HOST' of neighbour 0"):
        hello.exchange(Pair(value), "n2")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "no PMI in the environment; start it with srun --mpi=pmix or --mpi=pmi2"),
        ({b"PALS_APID": b"1", b"PALS_SPOOL_DIR": b"/s"}, "cray_shasta is prepared"),
        (
            {
                b"PMIX_NAMESPACE": b"slurm.pmix.7.0",
                b"PMIX_RANK": b"0",
                b"SLURM_JOB_ID": b"7",
                b"SLURM_STEP_ID": b"1",
            },
            "the pmix variables in the environment are of another step",
        ),
        ({b"PMI_FD": b"999999", b"PMI_RANK": b"0"}, "PMI_FD=999999 is no open socket"),
    ],
)
def test_nothing_to_join(env: dict[bytes, bytes], message: str) -> None:
    with pytest.raises(WireupError) as caught:
        hello.choose(env)
    assert message in str(caught.value)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((pmix, "libpmix.so.2"), (pmi2, "libpmi2.so.0")):
        monkeypatch.setattr(module, "_library", None)
        with pytest.raises(WireupError, match=f"no {name} here"):
            module.load(("/nonexistent/*/lib.so", "libnonexistent.so.0"))


def test_missing_cffi_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pmix, pmi2):
        monkeypatch.setattr(module, "_library", None)
        monkeypatch.setattr(library, "FFI", None)
        with pytest.raises(WireupError, match="this Python has no cffi"):
            module.load()


def test_a_missing_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "PMIX_NAMESPACE": "slurm.pmix.7.0", "PMIX_RANK": "3"}
    (tmp_path / f"spmix_appdir_{os.getuid()}_7.0").mkdir()
    for name, value in {**step, "PMIX_SERVER_TMPDIR": "/nonexistent/", "SLURM_PMIX_TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pmix, "_library", None)
    monkeypatch.setattr(library, "FFI", None)

    assert hello.main([]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "rank 3 on" in first and "has no cffi, so libpmix cannot be called" in first
    assert "/nonexistent is not visible here" in second


def test_what_another_step_used_is_not_missed() -> None:
    env = {b"PMIX_NAMESPACE": b"slurm.pmix.7.0", b"PMIX_RANK": b"0", b"PMIX_SERVER_TMPDIR": b"/nonexistent"}
    assert hello.invisible(env, 1000)
    assert hello.invisible({**env, b"SLURM_JOB_ID": b"7", b"SLURM_STEP_ID": b"1"}, 1000) == []
