# SPDX-License-Identifier: BSD-3-Clause
"""The submitter's environment: what a task gets of it, and that none of it steers bollard itself."""

from __future__ import annotations

import pytest
from cluster import WHERE, Cluster, Images, Work, good

EVIL_MODULES = ("os", "site", "sitecustomize", "usercustomize", "encodings", "_cffi_backend", "bollard", "options")
EVIL_PROGRAMS = ("python3", "squashfuse", "squashfuse_ll", "mount", "sh", "fusermount", "fusermount3", "bollard-enter")


@pytest.fixture
def evil(work: Work) -> dict[str, str]:
    """Traps in every place where Python or a program would look, each of which leaves a mark."""
    mark = f"{work.path}/marks"
    for name in EVIL_MODULES:
        work.write(f"{name}.py", f"open({mark!r}, 'a').write('module {name}\\n')\n")
    for name in EVIL_PROGRAMS:
        work.write(name, f"#!/bin/bash\necho program {name} >> {mark}\n")
    work.write("pyvenv.cfg", f"home = {work.path}\n")
    return {
        "PYTHONHOME": work.path,
        "PYTHONPATH": work.path,
        "PYTHONSTARTUP": f"{work.path}/os.py",
        "PYTHONEXECUTABLE": f"{work.path}/python3",
        "PYTHONPLATLIBDIR": "evil",
        "PYTHONINSPECT": "1",
        "PYTHONBREAKPOINT": "os.abort",
        "PYTHONWARNINGS": "error",
        "__PYVENV_LAUNCHER__": f"{work.path}/python3",
        "VIRTUAL_ENV": work.path,
        "PATH": f"{work.path}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": work.path,
    }


@pytest.mark.parametrize("thorough", [False, True])
def test_nothing_of_the_users_steers_bollard(
    cluster: Cluster, images: Images, work: Work, evil: dict[str, str], thorough: bool
) -> None:
    """`thorough`: the client looks at the image with Python as well."""
    more = ["--container-verbose"] if thorough else []
    words = [f"--container={images.small}", *more, "/bin/sh", "-c", WHERE]
    done = cluster.srun("-n2", *words, cwd=work.path, env=evil)
    assert (done.rc, done.out) == (0, "inside\ninside\n"), done
    assert not work.exists("marks"), work.read("marks")
    job = cluster.batch(f"#!/bin/bash\n{WHERE}\n", work, f"--container={images.small}", *more, env=evil)
    assert job.rc == 0 and job.out.endswith("inside\n"), job
    assert not work.exists("marks"), work.read("marks")


def test_a_refusal_is_not_steered_either(cluster: Cluster, work: Work, evil: dict[str, str]) -> None:
    done = cluster.srun(f"--container={work.path}/nowhere.sif", "true", cwd=work.path, env=evil)
    assert done.rc == 255 and len(done.complaints()) == 1 and "no such file" in done.err, done
    assert not work.exists("marks"), work.read("marks")


def test_variables_reach_the_task(cluster: Cluster, images: Images) -> None:
    given = {
        "PLAIN": "1",
        "WITH_SPACE": " two  words ",
        "LINES": "a\nb\\n",
        "EMPTY": "",
        "ODD": "päth=%41'\"$(id)`id`",
        "PYTHONPATH": "/x",
    }
    look = 'for n in PLAIN WITH_SPACE LINES EMPTY ODD PYTHONPATH; do printf "%s=[%s]\\n" $n "${!n-unset}"; done'
    inside = good(cluster.srun(f"--container={images.small}", "bash", "-c", look, env=given))
    assert inside == "".join(f"{name}=[{value}]\n" for name, value in given.items())


def test_variables_of_the_images(cluster: Cluster, images: Images) -> None:
    """PATH is the image's, after Slurm's commands, and LD_LIBRARY_PATH not the host's, as with Apptainer; HOME is the
    user's."""
    given = {"PATH": "/home/alice/bin:/usr/bin", "LD_LIBRARY_PATH": "/host/lib", "HOME": "/home/alice"}
    done = cluster.srun(
        f"--container={images.small}", "sh", "-c", "echo $PATH; echo $LD_LIBRARY_PATH; echo $HOME", env=given
    )
    path, library, home = good(done).splitlines()
    assert path == "/run/bollard/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert "/host/lib" not in library
    assert home == "/home/alice"


def test_a_shell_is_told_where_it_is(cluster: Cluster, images: Images) -> None:
    done = cluster.srun(f"--container={images.small}", "sh", "-c", "echo $APPTAINER_CONTAINER; echo $SINGULARITY_NAME")
    assert good(done) == f"{images.small}\n{images.small.rpartition('/')[2]}\n"


def test_slurms_variables_are_the_tasks(cluster: Cluster, images: Images) -> None:
    look = ["bash", "-c", "env | grep ^SLURM_ | grep -vE '_(ID|JOBID|SLUID|PORT|PID|TIME)=|CLUSTER=' | sort"]
    inside = cluster.srun("-w", "n1", "-n2", "--label", f"--container={images.small}", *look)
    outside = cluster.srun("-w", "n1", "-n2", "--label", *look)
    assert inside.lines() == outside.lines() and len(inside.lines()) > 40
