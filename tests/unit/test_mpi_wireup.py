# SPDX-License-Identifier: BSD-3-Clause
"""bollard.mpi.wireup: what passes through, from environments as Slurm and mpirun really make them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bollard.mpi import wireup

# A task of `srun --mpi=pmix`, Slurm 22.05.8 with libpmix 4.2.2, and the OMPI_MCA key that 25.05 adds.
PMIX = {
    b"SLURM_JOB_ID": b"12",
    b"SLURM_STEP_ID": b"3",
    b"SLURM_PROCID": b"1",
    b"HOME": b"/home/alice",
    b"SLURM_PMIX_MAPPING_SERV": b"(vector,(0,2,1))",
    b"SLURM_PMIXP_ABORT_AGENT_PORT": b"44191",
    b"OMPI_MCA_orte_precondition_transports": b"0000000c00000003-0000000c00000003",
    b"PMIX_NAMESPACE": b"slurm.pmix.12.3",
    b"PMIX_RANK": b"1",
    b"PMIX_HOSTNAME": b"n2",
    b"PMIX_SERVER_URI41": b"pmix-server.1038;tcp4://127.0.0.1:60463",
    b"PMIX_SECURITY_MODE": b"munge,native",
    b"PMIX_GDS_MODULE": b"ds21,ds12,hash",
    b"PMIX_SYSTEM_TMPDIR": b"/tmp",
    b"PMIX_VERSION": b"4.2.2rc2",
    b"PMIX_SERVER_TMPDIR": b"/var/spool/slurmd/pmix.12.3/",
    b"PMIX_DSTORE_21_BASE_PATH": b"/var/spool/slurmd/pmix.12.3//pmix_dstor_ds21_1038",
    b"PMIX_DSTORE_ESH_BASE_PATH": b"/var/spool/slurmd/pmix.12.3//pmix_dstor_ds12_1038",
}
PMI2 = {
    b"SLURM_JOB_ID": b"12",
    b"SLURM_STEP_ID": b"4",
    b"PATH": b"/usr/bin",
    b"PMI_FD": b"11",
    b"PMI_JOBID": b"12.4",
    b"PMI_RANK": b"0",
    b"PMI_SIZE": b"2",
}
CRAY = {
    b"SLURM_JOB_ID": b"12",
    b"SLURM_STEP_ID": b"5",
    b"PALS_APID": b"12.5",
    b"PALS_RANKID": b"0",
    b"PALS_SPOOL_DIR": b"/var/spool/slurmd/mpi_cray_shasta/12.5",
    b"PALS_APINFO": b"/var/spool/slurmd/mpi_cray_shasta/12.5/apinfo",
    b"PMI_CONTROL_PORT": b"20001",
    b"PMI_SHARED_SECRET": b"77",
    b"PMI_RANK": b"0",
}
NONE = {b"SLURM_JOB_ID": b"12", b"SLURM_STEP_ID": b"6", b"SLURM_SRUN_COMM_HOST": b"10.0.0.1"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        (PMIX, ("pmix",)),
        (PMI2, ("pmi2",)),
        (CRAY, ("cray_shasta",)),
        (NONE, ()),
        ({}, ()),
        ({**PMI2, b"PMI_FD": b""}, ()),
    ],
)
def test_flavour(env: dict[bytes, bytes], expected: tuple[str, ...]) -> None:
    assert wireup.flavours(env) == expected


def test_flavour_of_mpirun_outside_slurm() -> None:
    env = {b"PMIX_NAMESPACE": b"689373185", b"PMIX_RANK": b"0", b"OMPI_COMM_WORLD_SIZE": b"1"}
    assert wireup.flavours(env) == ("pmix",)


def test_variables_of_another_step_do_not_count() -> None:
    nested = {**PMIX, b"SLURM_STEP_ID": b"4"}
    assert wireup.stale(nested) == {"pmix": "12.3"}
    assert wireup.flavours(nested) == ()
    assert wireup.flavours({**nested, **PMI2}) == ("pmi2",)
    assert wireup.stale({**PMI2, b"SLURM_JOB_ID": b"13"}) == {"pmi2": "12.4"}


def test_heterogeneous_components_share_the_first_ones_job_id() -> None:
    second = {**PMIX, b"SLURM_JOB_ID": b"13", b"SLURM_HET_SIZE": b"2"}
    assert wireup.flavours(second) == ("pmix",)


def test_spawned_jobs_have_names_of_their_own() -> None:
    assert wireup.flavours({**PMI2, b"PMI_JOBID": b"12.4-1"}) == ("pmi2",)


@pytest.mark.parametrize("env", [PMIX, PMI2, CRAY, NONE])
def test_kept_is_all_that_slurm_set(env: dict[bytes, bytes]) -> None:
    others = {b"HOME", b"PATH"}
    assert {name for name in env if wireup.is_kept(name)} == env.keys() - others


@pytest.mark.parametrize(
    "name",
    [
        b"PMIX_RANK",
        b"PMI_FD",
        b"PMI2_DEBUG",
        b"PALS_APID",
        b"SLINGSHOT_VNIS",
        b"OMPI_COMM_WORLD_RANK",
        b"OMPI_MCA_orte_precondition_transports",
        b"OMPI_MCA_ess_base_jobid",
    ],
)
def test_an_image_may_not_carry_a_wireup(name: bytes) -> None:
    assert wireup.is_guarded(name)
    assert wireup.is_kept(name)


@pytest.mark.parametrize("name", [b"SLURM_CONF", b"PMIX_MCA_gds"])
def test_an_image_may_set_these_where_the_host_does_not(name: bytes) -> None:
    assert not wireup.is_guarded(name)
    assert wireup.is_kept(name)


@pytest.mark.parametrize("name", [b"PMIX", b"PMI", b"MY_PMIX_RANK", b"OMPI_MCA_btl", b"PATH", b"", b"SLURM"])
def test_other_names_follow_the_usual_rules(name: bytes) -> None:
    assert not wireup.is_guarded(name)
    assert not wireup.is_kept(name)


def test_directories() -> None:
    assert wireup.directories(PMIX) == (b"/var/spool/slurmd/pmix.12.3",)
    assert wireup.directories(PMIX, uid=1000) == (
        b"/var/spool/slurmd/pmix.12.3",
        b"/tmp/spmix_appdir_1000_12.3",
    )
    assert wireup.directories(CRAY, uid=1000) == (b"/var/spool/slurmd/mpi_cray_shasta/12.5",)
    assert wireup.directories(PMI2, uid=1000) == ()
    assert wireup.directories(NONE, uid=1000) == ()


def test_the_users_choice_of_a_client_directory() -> None:
    env = {**PMIX, b"SLURM_PMIX_TMPDIR": b"/scratch/u"}
    assert wireup.directories(env, uid=7)[1:] == (b"/scratch/u/spmix_appdir_7_12.3",)


def test_client_directory_of_a_heterogeneous_component_is_named_after_the_first() -> None:
    env = {**PMIX, b"SLURM_JOB_ID": b"13", b"SLURM_HET_SIZE": b"2"}
    assert wireup.directories(env, uid=7)[1:] == (b"/tmp/spmix_appdir_7_12.3",)


@pytest.mark.parametrize("value", [b"/", b"//", b"tmp", b"/a/../etc", b"/a/..", b"", b"/a\0b", b"."])
def test_what_is_no_directory_is_left_out(value: bytes) -> None:
    assert wireup.directories({b"PMIX_SERVER_TMPDIR": value}) == ()


def test_a_forged_namespace_leads_nowhere() -> None:
    env = {**PMIX, b"PMIX_NAMESPACE": b"slurm.pmix./../../etc"}
    assert wireup.directories(env, uid=7) == (b"/var/spool/slurmd/pmix.12.3",)


def test_importing_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import bollard.mpi.wireup; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"bollard", "bollard.mpi", "bollard.mpi.wireup"}


def test_the_fast_tables_are_those_of_the_long_one() -> None:
    for pattern, _ in wireup.VARIABLES:
        assert (pattern[:-1] in wireup.KEPT_BEGIN) if pattern.endswith(b"*") else (pattern in wireup.KEPT)
    assert len(wireup.KEPT) + len(wireup.KEPT_BEGIN) == len(wireup.VARIABLES)
