#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/engines.md: the workflow engines that ran with bollard, and how they hand an image to Slurm.

A tick is a row of tests/engines/results.json, which `make engines` writes after the row's engine has run. The files
shown are those of contrib/engines, which the tests run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs/engines.md"
RESULTS = TOP / "tests/engines/results.json"
SNIPPETS = TOP / "contrib/engines"


class Row(NamedTuple):
    """A program that calls Apptainer, by the name that its test records."""

    name: str
    calls: str
    note: str


ROWS = (
    Row("Snakemake", "`apptainer exec --home DIR --bind … IMG bash -c …`", "`snakemake --sdm apptainer`"),
    Row("Snakemake, Slurm executor", "the same, in a job for each rule", "`--executor slurm --sdm apptainer`"),
    Row("Snakemake 7", "`singularity exec --home DIR IMG bash -c …`", "Debian 12's package; `--use-singularity`"),
    Row("cwltool", "`singularity run --contain --ipc --cleanenv --no-eval --pid --home … --mount=… --pwd … --net`",
        "`cwltool --singularity`"),
    Row("cwltool of Debian 12", "the same", "also needs the package python3-setuptools"),
    Row("toil", "cwltool's", "`toil-cwl-runner --singularity`"),
    Row("miniwdl", "`singularity exec --containall --no-mount hostfs --fakeroot --bind … --pwd …`",
        "`[scheduler] container_backend = singularity`"),
    Row("ReFrame", "`apptainer exec -B… --pwd /rfm_workdir IMG CMD`", "platforms `Apptainer` and `Singularity`"),
    Row("spython", "`singularity exec`, `run`, `inspect`, `build`, `instance start`", ""),
    Row("shpc", "`singularity exec -B … IMG CMD` in wrapper scripts", "`shpc install NAME img.sif`"),
    Row("Nextflow", "`env - PATH=… SINGULARITYENV_…=… singularity exec --no-home --pid -B … IMG /bin/bash -c …`",
        "the line of its source, not Nextflow itself; both names"),
    Row("Galaxy", "`singularity -s exec --contain --cleanenv --ipc --pid --no-mount tmp -B … --home … IMG sh …`",
        "the line of its source, not Galaxy itself"),
    Row("Cromwell", "`singularity exec --containall --bind … IMG SHELL SCRIPT`", "the line of its documentation"),
)  # fmt: skip
# The name of the test's record, the title, the text, the file and its language.
BETTER = (
    ("Snakemake, profile with --container", "A Snakemake profile",
     "Rules begin their command with `{resources.mpi}`, as rules with MPI do in any case.",
     "snakemake/config.yaml", "yaml"),
    ("Nextflow, configuration with --container", "A Nextflow configuration",
     "Slurm starts the script of each task in the image. The test submits a script of the form that Nextflow writes.",
     "nextflow.config", "text"),
    ("ReFrame, platform with --container", "A ReFrame platform",
     "The settings file adds a container platform. A test says `container_platform = \"Bollard\"` and the image.",
     "reframe_settings.py", "text"),
)  # fmt: skip
HEAD = """\
# Workflow engines

Engines that call `apptainer` or `singularity` call bollard, when its names are first in `PATH`:

```console
alice@ctl$ bollard names names
made apptainer, singularity, run-singularity in /home/alice/demo/names; to use them: PATH=/home/alice/demo/names:$PATH
```

## What ran

Each row is a workflow of three steps in an image, on the test cluster, with bollard's names in the place of Apptainer.
`make engines` runs them all and writes the ticks; `docs/engines_page.py` writes this page.

"""


def table() -> list[str]:
    """The lines of the table: a tick where the last run of the tests has a record."""
    seen = json.loads(RESULTS.read_text())
    lines = ["| program | release | | what it calls | how it was asked |", "|---|---|---|---|---|"]
    for row in ROWS:
        release = seen.get(row.name, {}).get("version", "")
        lines.append(
            f"| {row.name} | {release} | {'✓' if row.name in seen else 'not run'} | {row.calls} | {row.note} |"
        )
    return lines


def page() -> str:
    """The text of the page."""
    seen = json.loads(RESULTS.read_text())
    lines = [HEAD + "\n".join(table()), ""]
    lines += ["## Without a prefix: `srun --container`", ""]
    lines += ["A prefix starts a container for each command. Slurm's option starts one for each job and node, tells a"]
    lines += ["mistake at submission, and lets ranks share memory. The files are in `contrib/engines`.", ""]
    for name, title, text, file, language in BETTER:
        state = f"It ran with {seen[name]['version']}." if name in seen else "It was not run."
        lines += [f"### {title}", "", f"{text} {state}", "", f"```{language}"]
        lines += [(SNIPPETS / file).read_text().rstrip("\n"), "```", ""]
    lines += ["## Not tried", ""]
    lines += [
        "Nextflow, Galaxy and Cromwell themselves, `nf-core pipelines download`, and pulls of these engines from a"
    ]
    lines += [
        "registry: they call `singularity pull` or `build`, which [images.md](images.md#fetch-an-image) describes."
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
