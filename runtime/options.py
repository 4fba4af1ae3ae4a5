# SPDX-License-Identifier: BSD-3-Clause
"""The table of options: everything a user can ask of a container, declared once.

Rendered from it: the options of srun, sbatch and salloc (`spank_plugin/build.py` writes them as C),
those of `bollard exec|run|shell|plan`, the environment forms, and the reference in docs/users.md.
It imports nothing, so that a build script can run it.

A row is (name, argument, variables, slurm, help):
  name       its key in the spec and, on the command line, `--name`
  argument   the word that stands for its value, or "" for a switch
  variables  environment forms, each also with APPTAINER_ and SINGULARITY_ for BOLLARD_; the first set wins
  slurm      its name for srun, sbatch and salloc, or "" where they do not offer it
  help       one line
"""

Row = tuple[str, str, tuple[str, ...], str, str]

TABLE: tuple[Row, ...] = (
    (
        "bind",
        "SRC[:DST[:ro|rw]]",
        ("BOLLARD_BIND", "BOLLARD_BINDPATH"),
        "",
        "show a file or directory of the host in the container; commas between several",
    ),
    ("env", "NAME=VALUE", (), "", "set a variable in the container, over the image's own value"),
    ("cleanenv", "", ("BOLLARD_CLEANENV",), "", "start from an empty environment"),
    ("home", "SRC[:DST]", ("BOLLARD_HOME",), "", "another directory as the home"),
    ("no-home", "", ("BOLLARD_NO_HOME",), "", "do not show the home directory"),
    ("pwd", "DIR", ("BOLLARD_PWD",), "", "the working directory in the container"),
    ("no-slurm", "", ("BOLLARD_NO_SLURM",), "", "leave srun, sbatch, ... and mpirun to the image"),
    ("no-mpirun", "", ("BOLLARD_NO_MPIRUN",), "", "leave mpirun and mpiexec to the image"),
    (
        "verbose",
        "",
        ("BOLLARD_VERBOSE", "BOLLARD_LOG"),
        "container-verbose",
        "tell what is done for the container, and how long each step takes",
    ),
)

PREFIXES = ("BOLLARD_", "APPTAINER_", "SINGULARITY_")


def variables(row: Row) -> list[str]:
    """Every environment name of `row`, in the order in which they win."""
    return [prefix + name[len(PREFIXES[0]) :] for prefix in PREFIXES for name in row[2]]
