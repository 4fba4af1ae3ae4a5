# SPDX-License-Identifier: BSD-3-Clause
"""The better way: engines that hand the image to Slurm. What is tested are the files of contrib/engines themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_python import CHECK
from workflows import LINES, STEPS, right

SNIPPETS = Path(__file__).resolve().parents[2] / "contrib/engines"


RULES = """\
rule all:
    input: "count"

rule upper:
    input: "lines"
    output: "upper"
    shell: "{resources.mpi} -n {resources.tasks} sh -c 'test $SLURM_PROCID = 1 || {{ tr a-z A-Z < {input};"
        " cat /etc/debian_version; }}' > {output}"

rule sort:
    input: "upper"
    output: "sorted"
    shell: "LC_ALL=C {resources.mpi} -n 1 sort {input} > {output}"

rule count:
    input: "sorted"
    output: "count"
    shell: "{resources.mpi} -n 1 sh -c 'grep -q ^11 /etc/debian_version && wc -l < {input}' > {output}"
"""


def with_image(name, image):
    """A file of contrib/engines, with the image in the place of its example."""
    text = (SNIPPETS / name).read_text()
    assert text.count("/path/to/img.sif") == 1
    return text.replace("/path/to/img.sif", image)


def test_snakemake_profile(login, work, image, seen):
    """Rules whose command begins with {resources.mpi}, with two ranks in the first."""
    work.write("lines", LINES)
    work.write("Snakefile", RULES)
    here = login("snakemake")
    here.good("mkdir -p bollard")
    work.write("bollard/config.yaml", with_image("snakemake/config.yaml", image))
    done = here.run(
        "snakemake --workflow-profile bollard --slurm-no-account --slurm-status-command=squeue"
        " --slurm-init-seconds-before-status-checks=12"
    )
    assert done.rc == 0, here.run("cat .snakemake/slurm_logs/*/*").out + done.err
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["Snakemake, profile with --container"] = {"version": here.version("snakemake")}


@pytest.mark.every_run
def test_nextflow_configuration(login, work, image, seen):
    """The script that Nextflow submits for a task: its header has `clusterOptions`; it runs .command.sh itself."""
    found = re.search(r"clusterOptions = '([^']*)'", with_image("nextflow.config", image))
    assert found
    options = found[1]
    here = login("")
    work.write("lines", LINES)
    files = ("lines", "upper", "sorted", "count")
    for number, step in enumerate(STEPS):
        task = f"{work.path}/work/{number}"
        source = work.path if number == 0 else f"{work.path}/work/{number - 1}"
        here.good(f"mkdir -p {task}")
        work.write(f"work/{number}/.command.sh", f"#!/bin/bash -ue\n{step}\n")
        work.write(
            f"work/{number}/.command.run",
            f"#!/bin/bash\n#SBATCH -J nf-step{number}\n#SBATCH -o {task}/.command.log\n#SBATCH --no-requeue\n"
            f"#SBATCH --signal B:USR2@30\n#SBATCH {options}\nNXF_CHDIR={task}\nset -e\nset -u\n"
            "NXF_TASK_WORKDIR=$PWD\nnxf_stage() { rm -f " + files[number] + "; ln -s "
            f"{source}/{files[number]} {files[number]}; }}\n[[ $NXF_CHDIR ]] && cd $NXF_CHDIR\n"
            "printf '' > .command.begin\nnxf_stage\n"
            f"/bin/bash -ue {task}/.command.sh > .command.out 2> .command.err\nprintf 0 > .exitcode\n",
        )
        here.good(f"cd {task} && sbatch -W .command.run")
        assert work.read(f"work/{number}/.exitcode") == "0"
    assert right(work.read("work/1/sorted")) and work.read("work/2/count").strip() == "4"
    seen["Nextflow, configuration with --container"] = {"version": "26.08, its script"}


@pytest.mark.every_run
def test_reframe_platform(login, work, image, seen):
    here = login("reframe")
    # The test cluster keeps no accounts, which ReFrame's scheduler "slurm" reads.
    text = (SNIPPETS / "reframe_settings.py").read_text()
    assert '"scheduler": "slurm"' in text
    work.write("settings.py", text.replace('"scheduler": "slurm"', '"scheduler": "squeue"'))
    check = CHECK.replace("IMAGE", image).replace("here:local", "cluster:main").replace('["none"]', '["builtin"]')
    work.write("check.py", check.replace('parameter(["Apptainer", "Singularity"])', 'parameter(["Bollard"])'))
    here.good("mkdir sources")
    work.write("sources/lines", LINES)
    work.write("sources/steps.sh", "\n".join((*STEPS, "cat sorted count")))
    here.good("reframe -C settings.py -c check.py -r")
    seen["ReFrame, platform with --container"] = {"version": here.version("ReFrame-HPC")}
