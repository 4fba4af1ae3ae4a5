# SPDX-License-Identifier: BSD-3-Clause
"""The image's part of an environment: what its scripts make, with a shell and without."""

from __future__ import annotations

import os
import subprocess

import pytest
from environment_makers import FIRST, IMAGE, LAST, LIBRARIES, OWN, image_env, task_env

from bollard.runtime.container.environment import DEFAULT_PATH, completed, of_image, of_task
from bollard.runtime.container.image_shell import PRINTER
from bollard.runtime.errors import BollardError
from bollard.runtime.request.spec import Spec


def test_an_image_without_scripts_has_the_standard_path():
    assert image_env() == {b"PATH": DEFAULT_PATH}


def test_the_frame_that_builders_write():
    assert image_env(FIRST, OWN, LAST) == {
        b"PATH": DEFAULT_PATH,
        b"WHO": b"image",
        b"MINE": None,
        b"LD_LIBRARY_PATH": LIBRARIES,
        b"PS1": b"bollard> ",
    }


def test_a_prompt_of_the_image_stays():
    assert image_env(("90-environment.sh", b"export PS1='lab> '"), LAST)[b"PS1"] == b"lab> "


def test_path_is_completed_after_docker_and_set_before_the_users_part():
    docker = ("10-docker2singularity.sh", b'export PATH="/opt/x/bin:/usr/bin:/bin"\n')
    own = ("90-environment.sh", b"export PATH=/own:$PATH\n")

    assert image_env(docker)[b"PATH"] == b"/opt/x/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"
    assert image_env(FIRST, own)[b"PATH"] == b"/own:" + DEFAULT_PATH
    assert image_env(("environment", b"PATH=/old; export PATH"))[b"PATH"] == b"/old:" + DEFAULT_PATH
    assert completed(DEFAULT_PATH) == DEFAULT_PATH


def test_the_scripts_know_the_home_and_the_image():
    env = image_env(("90-environment.sh", b"export A=$HOME/a B=$APPTAINER_NAME C=$SINGULARITY_CONTAINER"))

    assert (env[b"A"], env[b"B"], env[b"C"]) == (b"/home/u/a", b"img.sif", IMAGE)


def test_the_runtime_has_its_own_last_script():
    assert image_env(("99-runtimevars.sh", b"export PATH=/wrong $(unreadable")) == {b"PATH": DEFAULT_PATH}


def test_an_image_cannot_forge_a_wire_up():
    env = image_env(("90-environment.sh", b"export PMI_FD=3 PMIX_RANK=0 OMPI_MCA_btl=tcp"))

    assert set(env) == {b"PATH", b"OMPI_MCA_btl"}


def real_shell(folder, program="bash", cwd="/"):
    """What bollard-enter does with a script, on this machine: the files of `folder` stand for the image's."""

    def shell(script: bytes, env: list[bytes]) -> bytes:
        script = script.replace(b"/.singularity.d/env", os.fsencode(folder))
        script = script.replace(PRINTER, b"/usr/bin/env -0")
        pairs = dict(pair.split(b"=", 1) for pair in env)
        return subprocess.run([program, "-c", script], env=pairs, cwd=cwd, stdout=subprocess.PIPE, check=False).stdout

    return shell


def files(folder, **texts: str) -> list[tuple[str, bytes]]:
    """Scripts in `folder`: their names without ".sh" and their texts."""
    for name, text in texts.items():
        (folder / f"{name}.sh").write_text(text)
    return [(f"{name}.sh", text.encode()) for name, text in texts.items()]


@pytest.mark.parametrize("program", ["bash", "dash"])
def test_a_shell_runs_all_where_the_evaluator_stops(tmp_path, program):
    scripts = files(
        tmp_path,
        **{
            "20-b": "export A=\"it's\"; B='plain  value'",
            "50-a": "export HERE=$(echo computed) MORE=\"$B\"\nexport NL='x\ny'\n",
            "90-environment": f"export PATH=/own:$PATH USER_ID=$UID GROUP_ID=$GID\nsource /no/such/file\n"
            f"source {tmp_path}/more\n",
        },
    )
    (tmp_path / "more").write_text("export SOURCED=1\n")

    env = image_env(*scripts, shell=real_shell(tmp_path, program))

    assert env[b"A"] == b"it's"
    assert (env[b"HERE"], env[b"MORE"], env[b"NL"]) == (b"computed", b"plain  value", b"x\ny")
    assert (env[b"USER_ID"], env[b"GROUP_ID"]) == (b"%d" % os.getuid(), b"%d" % os.getgid())
    assert (env[b"PATH"], env[b"SOURCED"]) == (b"/own:" + DEFAULT_PATH, b"1")
    assert not {b"PWD", b"SHLVL", b"_", b"HOME"} & set(env)


def test_bash_reads_what_is_written_for_it(tmp_path):
    text = """
source /no/such/file
[[ -d / && $HOME == /home/* ]] && export TESTED=1
function f() { export CALLED=$1; }
f yes
list=(a b); export SECOND=${list[1]} DASHED=${HOME//\\//-}
HIDDEN=1
cat /dev/null | while read -r _; do :; done
echo x | read -r READ; export READ
"""
    scripts = files(tmp_path, **{"90-environment": text, "95-later": "export LATER=1\n"})

    env = image_env(*scripts, shell=real_shell(tmp_path))

    assert {name: env.get(name) for name in (b"TESTED", b"CALLED", b"SECOND", b"DASHED", b"READ", b"LATER")} == {
        b"TESTED": b"1", b"CALLED": b"yes", b"SECOND": b"b", b"DASHED": b"-home-u", b"READ": b"x", b"LATER": b"1",
    }  # fmt: skip
    assert env[b"HIDDEN"] is None
    assert set(env) <= {
        b"TESTED", b"CALLED", b"SECOND", b"DASHED", b"READ", b"LATER", b"HIDDEN", b"PATH", b"list", b"PIPESTATUS",
        b"REPLY",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[ -d / ]] && export A=1", True),
        ("if [ $HOME == / ]; then :; fi", True),
        ("export LIST=x; LIST+=:y", True),
        ("B=(1 2)", True),
        ("T=$'a'", True),
        ("# [[ a comment\n[ -d / ] && export A=1; echo \"a=b\"", False),
    ],
)
def test_what_is_written_for_bash_is_told_without_bash(tmp_path, text, told):
    scripts = files(tmp_path, **{"10-a": "export NOW=$(echo 1)", "90-environment": text})
    for program in ("bash", "dash"):
        warnings: list[str] = []
        of_image(scripts, b"/home/u", b"/i.sif", real_shell(tmp_path, program), warnings=warnings)
        wanted = ["the image has no bash, for which 90-environment.sh may be written; variables may be missing"]
        assert warnings == (wanted if told and program == "dash" else [])


@pytest.mark.parametrize(("literal", "lines"), [(False, 1), (True, 0)])
def test_a_value_that_would_run_a_command_is_told(literal, lines):
    warnings: list[str] = []
    asked = Spec("/i.sif", env=((b"A", b"$(id)"), (b"B", b"$HOME")), no_eval=literal)
    found = of_task({}, [], asked, warnings=warnings)
    assert b"A=$(id)" in found and len(warnings) == lines
    assert all(line.startswith("A is passed as it is") for line in warnings)


@pytest.mark.parametrize("program", ["bash", "dash"])
def test_a_broken_script_is_left_out_and_no_other(tmp_path, program):
    scripts = files(tmp_path, **{"10-a": "A=$(echo 1)\nexport A", "20-b": "if [", "30-c": "export C=1"})

    env = image_env(*scripts, shell=real_shell(tmp_path, program))

    assert (env[b"A"], env.get(b"B"), env[b"C"]) == (b"1", None, b"1")


@pytest.mark.parametrize("program", ["bash", "dash"])
def test_lines_as_windows_ends_them(tmp_path, program):
    assert image_env(("90-environment.sh", b"export A=1\r\n"))[b"A"] == b"1"
    scripts = files(tmp_path, **{"90-environment": "export A=$(echo 1)\r\nexport B='$A'\r\n"})

    env = image_env(*scripts, shell=real_shell(tmp_path, program))

    assert (env[b"A"], env[b"B"]) == (b"1", b"$A")


@pytest.mark.parametrize("program", ["bash", "dash"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("export A=1; exit 3", "ended with status 3"),
        ("set -e; false", "ended with status 1"),
        ("exit 0", "ended with status 0"),
        ("exec true", "replaced its shell"),
    ],
)
def test_a_script_that_ends_the_shell_is_a_failure(tmp_path, program, text, reason):
    """Else the program would run without what the rest of the scripts set."""
    with pytest.raises(BollardError, match=reason):
        image_env(*files(tmp_path, **{"90-environment": text}), shell=real_shell(tmp_path, program))


def test_all_scripts_share_one_bound():
    """A shell goes on, in the limits of the task: so many scripts cannot keep the keeper busy."""
    busy = b"i=; while [ x$i != x" + b"a" * 300 + b" ]; do i=a$i; done"
    asked = []
    image_env(("10-a.sh", busy), shell=lambda script, env: asked.append(script))
    assert not asked
    image_env(*((f"{n}-a.sh", b"i=;" + busy) for n in range(10, 610)), shell=lambda script, env: asked.append(script))
    assert len(asked) == 1


def test_a_script_runs_where_the_program_will(tmp_path):
    scripts = files(tmp_path, **{"90-environment": "export HERE=$PWD BEFORE=${OLDPWD:-none}"})

    env = of_image(scripts, b"/home/u", IMAGE, real_shell(tmp_path), b"", os.fsencode(tmp_path))

    assert (env[b"HERE"], env[b"BEFORE"]) == (os.fsencode(tmp_path), b"none")


def test_without_a_shell_what_was_found_out_counts():
    scripts = (("10-a.sh", b"export A=1"), ("20-b.sh", b"export B=$(id)"), ("30-c.sh", b"export C=1"))

    told: list[str] = []
    found = of_image(list(scripts), b"/home/u", IMAGE, lambda script, env: None, warnings=told)

    assert found == {b"PATH": DEFAULT_PATH, b"A": b"1"}
    assert told == ["no shell of the image could run its environment scripts; variables may be missing"]


# As builders write it, for the app that was asked for.
APPS = (
    "95-apps.sh",
    b"""if test -n "${SINGULARITY_APPNAME:-}"; then
    if test -d "/"; then export SCIF_APPROOT="/scif/apps/$SINGULARITY_APPNAME"; PATH="$SCIF_APPROOT/bin:$PATH"; fi
fi
""",
)


def test_without_an_app_its_script_needs_no_shell():
    assert image_env(FIRST, OWN, APPS)[b"PATH"] == DEFAULT_PATH


def test_an_app_prepares_its_environment(tmp_path):
    scripts = files(tmp_path, **{name[:-3]: text.decode() for name, text in (OWN, APPS)})
    found = of_image(scripts, b"/home/u", IMAGE, real_shell(tmp_path, "sh"), b"foo")
    assert (found[b"SCIF_APPROOT"], found[b"PATH"]) == (b"/scif/apps/foo", b"/scif/apps/foo/bin:" + DEFAULT_PATH)
    env = task_env(found, spec=Spec("/data/img.sif", home="/home/u", app="foo"))
    assert env[b"APPTAINER_APPNAME"] == env[b"SINGULARITY_APPNAME"] == b"foo"
    assert b"SINGULARITY_APPNAME" not in task_env(host=[b"SINGULARITY_APPNAME=host"])
