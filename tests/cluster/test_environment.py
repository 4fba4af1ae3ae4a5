# SPDX-License-Identifier: BSD-3-Clause
"""The submitter's environment: which variables a task gets, and that none changes what bollard does."""

from __future__ import annotations

import pytest
from cluster import WHERE, Cluster, Images, Work, good

EVIL_MODULES = ("os", "site", "sitecustomize", "usercustomize", "encodings", "_cffi_backend", "bollard", "options")
EVIL_PROGRAMS = ("python3", "squashfuse", "squashfuse_ll", "mount", "sh", "fusermount", "fusermount3", "bollard-enter")


@pytest.fixture
def evil(work: Work) -> dict[str, str]:
    """Variables and files for every place where Python or a program might look; each makes a file when it is used."""
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
    """With `thorough` the client also checks the image with Python."""
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
    """PATH is that of the image, after Slurm's commands. LD_LIBRARY_PATH is not the host's, as with Apptainer. HOME is
    the user's."""
    given = {"PATH": "/home/alice/bin:/usr/bin", "LD_LIBRARY_PATH": "/host/lib", "HOME": "/home/alice"}
    done = cluster.srun(
        f"--container={images.small}", "sh", "-c", "echo $PATH; echo $LD_LIBRARY_PATH; echo $HOME", env=given
    )
    path, library, home = good(done).splitlines()
    assert path == "/run/bollard/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert "/host/lib" not in library
    assert home == "/home/alice"


SCRIPT = """\
source {path}/setup.sh
source /no/such/file
[[ -d /etc && $SETUP == yes ]] && export TESTED=1
function add() {{ export WORDS="${{WORDS:+$WORDS }}$1"; }}
list=(one two)
for word in "${{list[@]}}"; do add $word; done
export WHO=$(id -u) WHERE_AM_I=$PWD
HIDDEN=1
"""
PLACE = "/.singularity.d/env/90-environment.sh"


@pytest.mark.parametrize("shells", ["bash", "sh"])
def test_an_environment_script_written_for_bash(cluster: Cluster, images: Images, work: Work, shells: str) -> None:
    """The image's sh is dash. bash runs the script once per container, for all its tasks; without bash, sh runs it."""
    work.write("setup.sh", "export SETUP=yes\n")
    mounts = f"{work.write('env.sh', SCRIPT.format(path=work.path))}:{PLACE}"
    if shells == "sh":
        simple = f"source {work.path}/setup.sh\nsource /no/such/file\nexport TESTED=1 WORDS='one two'\n"
        simple += "export WHO=$(id -u) WHERE_AM_I=$PWD\n"
        mounts = f"{work.write('env.sh', simple)}:{PLACE},{work.write('no-bash', '', 0o644)}:/usr/bin/bash"
    look = "echo $SETUP:$TESTED:$WORDS:$WHO:$WHERE_AM_I:$HIDDEN"
    options = ("-w", "n1", "-n2", "-D", work.path, f"--container={images.small}", f"--container-mounts={mounts}")
    done = cluster.srun(*options, "sh", "-c", look, env={"HIDDEN": "host"})
    uid = good(cluster.exec("id -u")).strip()
    hidden = "" if shells == "bash" else "host"
    assert (done.rc, done.out) == (0, f"yes:1:one two:{uid}:{work.path}:{hidden}\n" * 2), done
    assert len(done.err.splitlines()) == 1 and "/no/such/file" in done.err, "what a shell says is seen once"


def test_an_environment_script_that_ends_its_shell(cluster: Cluster, images: Images, work: Work) -> None:
    """The program does not start, because the rest of the script would have set more variables."""
    mounts = f"--container-mounts={work.write('env.sh', 'echo no license >&2; exit 3')}:{PLACE}"
    done = cluster.srun(f"--container={images.small}", mounts, "echo", "started")
    assert done.rc == 255 and done.out == "" and "no license" in done.err, done
    assert "an environment script of the image ended with status 3" in done.err, done


def test_the_home_has_a_name_without_being_shown(cluster: Cluster, images: Images) -> None:
    """Nextflow starts containers so, with an empty environment."""
    line = f"env - PATH=$PATH bollard exec --no-home {images.small} sh -c 'echo $HOME'"
    assert good(cluster.exec(["bash", "-c", line])) == "/home/alice\n"
    line = f"env - PATH=$PATH srun --no-container-mount-home --container={images.small} sh -c 'echo $HOME'"
    assert good(cluster.exec(["bash", "-c", line], cwd="/")) == "/home/alice\n"


def test_locales_are_passed_where_the_image_has_them(cluster: Cluster, images: Images) -> None:
    look = ("sh", "-c", "echo ${LANG-none} ${LC_ALL-none} ${LC_TIME-none}")
    given = {"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8", "LC_TIME": "C"}
    assert good(cluster.srun(f"--container={images.small}", *look, env=given)) == "none C.UTF-8 C\n"
    asked = {**given, "APPTAINERENV_LANG": "de_DE.UTF-8"}
    assert good(cluster.srun(f"--container={images.small}", *look, env=asked)) == "de_DE.UTF-8 C.UTF-8 C\n"
    silent = cluster.srun(f"--container={images.small}", "bash", "-c", "true", env={"LANG": "de_DE.UTF-8"})
    assert (silent.rc, silent.err) == (0, ""), silent


def test_a_shell_is_told_where_it_is(cluster: Cluster, images: Images) -> None:
    done = cluster.srun(f"--container={images.small}", "sh", "-c", "echo $APPTAINER_CONTAINER; echo $SINGULARITY_NAME")
    assert good(done) == f"{images.small}\n{images.small.rpartition('/')[2]}\n"


def test_slurms_variables_are_the_tasks(cluster: Cluster, images: Images) -> None:
    look = ["bash", "-c", "env | grep ^SLURM_ | grep -vE '_(ID|JOBID|SLUID|PORT|PID|TIME)=|CLUSTER=' | sort"]
    inside = cluster.srun("-w", "n1", "-n2", "--label", f"--container={images.small}", *look)
    outside = cluster.srun("-w", "n1", "-n2", "--label", *look)
    assert inside.lines() == outside.lines() and len(inside.lines()) > 40
