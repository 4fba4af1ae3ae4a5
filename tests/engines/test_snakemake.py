# SPDX-License-Identifier: BSD-3-Clause
"""Snakemake, which calls `apptainer exec` (8 and later) or `singularity exec` for each rule."""

from __future__ import annotations

import pytest
from workflows import LINES, SNAKEFILE, right


def prepare(work, image):
    work.write("Snakefile", SNAKEFILE.replace("IMAGE", image))
    work.write("lines", LINES)


@pytest.mark.every_run
def test_snakemake_9(login, work, image, seen):
    prepare(work, image)
    here = login("snakemake")
    here.good("snakemake --cores 2 --sdm apptainer")
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Snakemake"] = {"version": here.version("snakemake")}


@pytest.mark.every_run
def test_snakemake_9_submits_to_slurm(login, work, image, seen):
    prepare(work, image)
    here = login("snakemake")
    here.good(
        "snakemake --executor slurm --jobs 3 --sdm apptainer --latency-wait 20"
        " --default-resources runtime=5 mem_mb=0 slurm_account=none --slurm-no-account"
        " --slurm-status-command=squeue --slurm-init-seconds-before-status-checks=12"
    )
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Snakemake, Slurm executor"] = {"version": here.version("snakemake-executor-plugin-slurm")}


def test_snakemake_7_of_debian(login, work, image, debian, seen):
    prepare(work, image)
    here = login("")
    here.good("snakemake --cores 2 --use-singularity")
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Snakemake 7"] = {"version": here.good("snakemake --version").strip()}
