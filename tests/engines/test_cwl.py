# SPDX-License-Identifier: BSD-3-Clause
"""cwltool and toil, which call `singularity run` or `exec` with a working directory, a home and no network."""

from __future__ import annotations

import pytest
from workflows import CWL, LINES, right


def prepare(work, image):
    """Write the workflow; the image lies in the engine's cache, under the name that it gives to a pull of tools:1."""
    work.write("fruit.cwl", CWL)
    work.write("lines", LINES)
    work.write("job.yml", "lines: {class: File, path: lines}\n")
    return f"mkdir -p cache && ln -sf {image} cache/tools:1.sif && "


def check(work):
    assert right(work.read("out/sorted")) and work.read("out/count").strip() == "4"


@pytest.mark.every_run
def test_cwltool(login, work, image, seen):
    here = login("cwltool")
    here.good(
        prepare(work, image) + "cwltool --singularity --outdir out fruit.cwl job.yml",
        CWL_SINGULARITY_CACHE=f"{work.path}/cache",
    )
    check(work)
    seen["cwltool"] = {"version": here.version("cwltool")}


def test_cwltool_of_debian(login, work, image, debian, seen):
    here = login("")
    here.good(
        prepare(work, image) + "cwltool --singularity --outdir out fruit.cwl job.yml",
        CWL_SINGULARITY_CACHE=f"{work.path}/cache",
    )
    check(work)
    seen["cwltool of Debian 12"] = {"version": here.version("cwltool")}


def test_toil(login, work, image, seen):
    here = login("toil")
    here.good(
        prepare(work, image)
        + "toil-cwl-runner --singularity --batchSystem single_machine --outdir out fruit.cwl job.yml",
        CWL_SINGULARITY_CACHE=f"{work.path}/cache",
    )
    check(work)
    seen["toil"] = {"version": here.version("toil")}
