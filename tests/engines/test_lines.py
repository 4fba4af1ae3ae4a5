# SPDX-License-Identifier: BSD-3-Clause
"""The command lines of engines that cannot be installed here, as their sources write them.

Nextflow: `SingularityBuilder.groovy`, `ApptainerBuilder.groovy`, and the wrapper that it writes for each task
(`command-run.txt`). Galaxy: `lib/galaxy/tool_util/deps/singularity_util.py`. Cromwell: its documentation of
containers.
"""

from __future__ import annotations

import pytest
from workflows import LINES, STEPS, right


@pytest.mark.every_run
@pytest.mark.parametrize("name", ["singularity", "apptainer"])
def test_nextflow(login, work, image, seen, name):
    """Three tasks, each in a directory of its own with links to its inputs, as Nextflow stages them."""
    here = login("")
    flavour = name.upper()
    work.write("lines", LINES)
    files = ("lines", "upper", "sorted", "count")
    for number, step in enumerate(STEPS):
        task = f"{work.path}/work/{number}"
        source = work.path if number == 0 else f"{work.path}/work/{number - 1}"
        script = f"#!/bin/bash -ue\n{step}\n"
        launch = (
            f'set +u; env - PATH="$PATH" ${{TMP:+{flavour}ENV_TMP="$TMP"}} ${{TMPDIR:+{flavour}ENV_TMPDIR="$TMPDIR"}} '
            f'${{NXF_TASK_WORKDIR:+{flavour}ENV_NXF_TASK_WORKDIR="$NXF_TASK_WORKDIR"}} '
            f"{flavour}ENV_NXF_DEBUG=${{NXF_DEBUG:=0}} {name} exec --no-home --pid -B {work.path} {image} "
            f'/bin/bash -c "cd {task}; eval $(nxf_container_env); /bin/bash -ue {task}/.command.sh"'
        )
        run = (
            'nxf_container_env() {\ncat << EOF\nexport PATH="\\$PATH"\nexport GREETING="from Nextflow"\nEOF\n}\n'
            f"export NXF_TASK_WORKDIR=$PWD\n{launch}\n"
        )
        here.good(f"mkdir -p {task} && cd {task} && ln -s {source}/{files[number]} {files[number]}")
        work.write(f"work/{number}/.command.sh", script)
        work.write(f"work/{number}/.command.run", run)
        here.good(f"cd {task} && bash .command.run")
    assert right(work.read("work/1/sorted")) and work.read("work/2/count").strip() == "4"
    home = here.good(f"env - PATH=\"$PATH\" {name} exec --no-home --pid {image} /bin/bash -c 'echo $HOME'")
    assert home.strip() == "/home/alice"
    seen["Nextflow"] = {"version": "26.08, its line"}


@pytest.mark.every_run
def test_galaxy(login, work, image, seen):
    here = login("")
    work.write("lines", LINES)
    for number, step in enumerate(STEPS):
        work.write(f"step{number}.sh", f"{step}\n")
        here.good(
            f'SINGULARITYENV_GALAXY_SLOTS="1" singularity -s exec --contain --pwd {work.path} --cleanenv --ipc --pid '
            f"--no-mount tmp -B {work.path}:{work.path}:rw --home {work.path}:{work.path} {image} "
            f"/bin/sh {work.path}/step{number}.sh"
        )
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Galaxy"] = {"version": "26.0, its line"}


@pytest.mark.every_run
def test_cromwell(login, work, image, seen):
    here = login("")
    work.write("lines", LINES)
    for number, step in enumerate(STEPS):
        work.write(f"script{number}", f"cd /cromwell-executions\n{step}\n")
        here.good(f"singularity exec --containall --bind {work.path}:/cromwell-executions {image} "
                  f"/bin/bash /cromwell-executions/script{number}")  # fmt: skip
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Cromwell"] = {"version": "its documented line"}
