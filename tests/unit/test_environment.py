# SPDX-License-Identifier: BSD-3-Clause
"""The environment of a task: whose value wins, and what the image's scripts make of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bollard.runtime.container import locales
from bollard.runtime.container.environment import DEFAULT_PATH, completed, is_locale, normalized, of_image, of_task
from bollard.runtime.container.image_shell import PRINTER
from bollard.runtime.errors import BollardError
from bollard.runtime.request.spec import Spec

IMAGE = b"/data/img.sif"
LIBRARIES = b"/.singularity.d/libs"

# Files as builders write them, reduced to what they do.
FIRST = ("01-base.sh", b"#!/bin/sh\n")
OWN = ("90-environment.sh", b"#!/bin/sh\nexport WHO=image\nMINE=1\n")
LAST = (
    "99-base.sh",
    b"""if [ -z "${LD_LIBRARY_PATH:-}" ]; then
  LD_LIBRARY_PATH=/.singularity.d/libs
else
  LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi
if [ -z "${PS1:-}" ]; then PS1="Apptainer> "; fi
export LD_LIBRARY_PATH PS1
""",
)


def no_shell(script: bytes, env: list[bytes]) -> bytes | None:
    raise AssertionError("a shell was asked for")


def image_env(*scripts, home=b"/home/u", shell=no_shell):
    return of_image(list(scripts), home, IMAGE, shell)


def task_env(image=None, host=(), spec=None, **more) -> dict[bytes, bytes]:
    spec = spec or Spec("/data/img.sif", asked="img.sif", home="/home/u")
    pairs = of_task(image if image is not None else image_env(), list(host), spec, **more)
    assert len({pair.partition(b"=")[0] for pair in pairs}) == len(pairs)
    return dict(pair.split(b"=", 1) for pair in pairs)


def asking(*env: tuple[bytes, bytes], cleanenv=False) -> Spec:
    return Spec("/data/img.sif", home="/home/u", env=env, cleanenv=cleanenv)


# The image's part


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


@pytest.mark.parametrize("text", ["$HOSTNAME", "$$", "$((1+2))", "a`id`"])
def test_why_a_value_is_passed_as_it_is(text):
    warnings: list[str] = []
    of_task({}, [], Spec("/i.sif", env=((b"A", text.encode()),)), warnings=warnings)
    part = {"$((1+2))": "$(", "a`id`": "a command in backquotes"}.get(text, text)
    assert warnings == [f"A is passed as it is: a value is not evaluated if it has {part} (--no-eval)"]


def test_values_name_each_other():
    """In Apptainer the order is by chance; here a plain value is there for all others, whatever the order."""
    asked = ((b"A", b"$B"), (b"B", b"$C/b"), (b"D", b"$B:$PATH"), (b"C", b"3"), (b"PATH", b"/own:$PATH"))
    asked += ((b"H", b"$H:x"),)
    found = of_task({b"PATH": b"/image"}, [b"H=host", b"C=host"], Spec("/i.sif", env=asked))
    assert {b"B=3/b", b"D=3/b:/image", b"C=3", b"PATH=/own:/image", b"H=host:x"} <= set(found)
    assert b"A=" in found  # what is named later has no value yet


def test_forms_name_each_other():
    task = [b"APPTAINERENV_Q=$P", b"APPTAINERENV_P=1"]
    assert {b"P=1", b"Q=1", b"R=11"} <= set(of_task({}, task, Spec("/i.sif", env=((b"R", b"$P$Q"),))))


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


# The task's part


def test_host_variables_pass_but_not_those_of_places_and_settings():
    host = [b"A=1", b"E=", b"NL=x\ny", b"BASH_FUNC_m%%=() { :; }"]
    host += [b"PATH=/host", b"HOME=/host", b"LD_LIBRARY_PATH=/host"]
    host += [b"APPTAINER_BIND=/x", b"SINGULARITY_SHELL=/x", b"BOLLARD_BIND=/x"]

    env = task_env(host=host)

    assert (env[b"A"], env[b"E"], env[b"NL"], env[b"BASH_FUNC_m%%"]) == (b"1", b"", b"x\ny", b"() { :; }")
    assert (env[b"PATH"], env[b"HOME"]) == (DEFAULT_PATH, b"/home/u")
    assert not {b"LD_LIBRARY_PATH", b"SINGULARITY_SHELL", b"BOLLARD_BIND"} & set(env)
    assert env[b"APPTAINER_BIND"] == b""


def test_the_image_wins_over_the_host():
    image = image_env(OWN, ("91-environment.sh", b"export NOTHING="))

    env = task_env(image, [b"WHO=host", b"MINE=host", b"NOTHING=host"])

    assert env[b"WHO"] == b"image"
    assert b"MINE" not in env  # the image uses the name without exporting it
    assert b"NOTHING" not in env


def test_forms_win_over_the_image_in_their_order():
    host = [b"SINGULARITYENV_WHO=s", b"BOLLARDENV_WHO=b", b"APPTAINERENV_WHO=a"]
    host += [b"SINGULARITYENV_X=s", b"APPTAINERENV_X=a"]

    env = task_env(image_env(OWN), host)

    assert (env[b"WHO"], env[b"X"]) == (b"b", b"a")
    assert task_env(image_env(OWN), host, asking((b"WHO", b"option")))[b"WHO"] == b"option"
    assert not any(name.partition(b"ENV_")[1] for name in env)


def test_home_and_ids_are_not_the_users_to_set():
    env = task_env(host=[b"APPTAINERENV_HOME=/x", b"APPTAINERENV_UID=0"], spec=asking((b"HOME", b"/y")))

    assert env[b"HOME"] == b"/home/u"
    assert b"UID" not in env


def test_without_a_home_directory_its_name_stays():
    assert task_env(host=[b"HOME=/home/u"], spec=Spec("/data/img.sif"))[b"HOME"] == b"/home/u"
    assert b"HOME" not in task_env(spec=Spec("/data/img.sif"))


def test_an_image_may_set_the_home():
    env = image_env(("90-environment.sh", b"export HOME=/opt/home"))

    assert task_env(env)[b"HOME"] == b"/opt/home"


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ([b"PREPEND_PATH=/pre"], b"/pre:/image"),
        ([b"APPEND_PATH=/app"], b"/image:/app"),
        ([b"PREPEND_PATH=/pre", b"APPEND_PATH=/app"], b"/pre:/image:/app"),
        ([b"PATH=/only", b"PREPEND_PATH=/pre"], b"/only"),
        ([b"PATH=/mine:$PATH"], b"/mine:/image"),
        ([b"PREPEND_PATH="], b"/image"),
    ],
)
def test_the_forms_of_path(asked, path):
    image = {b"PATH": b"/image"}

    env = task_env(image, [b"APPTAINERENV_" + pair for pair in asked])

    assert env[b"PATH"] == path
    assert b"PREPEND_PATH" not in env
    assert task_env(image, spec=asking(*(tuple(pair.split(b"=")) for pair in asked)))[b"PATH"] == path


def test_libraries_of_the_host_stay_at_the_end():
    assert task_env(image_env(LAST), spec=asking((b"LD_LIBRARY_PATH", b"/u")))[b"LD_LIBRARY_PATH"] == b"/u:" + LIBRARIES
    assert task_env(image_env(LAST), spec=asking((b"LD_LIBRARY_PATH", b"")))[b"LD_LIBRARY_PATH"] == LIBRARIES


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (b"plain 'x' \"y\"", b"plain 'x' \"y\""),
        (b"$HOME/x", b"/home/u/x"),
        (b"\\$HOME", b"$HOME"),
        (b"$(id)", b"$(id)"),
        (b"`id`", b"`id`"),
        (b"a\nb", b"a\nb"),
        (b"", b""),
    ],
)
def test_a_value_may_name_variables_and_runs_nothing(value, result):
    assert task_env(spec=asking((b"X", value)))[b"X"] == result


def test_cleanenv_keeps_the_terminal_proxies_and_slurm():
    host = [b"A=1", b"TERM=xterm", b"http_proxy=p", b"NO_PROXY=n", b"LANG=de", b"SLURM_JOB_ID=7", b"PMIX_RANK=0"]
    host += [b"PMI_FD=9", b"APPTAINERENV_B=2"]

    env = task_env(host=host, spec=asking(cleanenv=True))

    assert b"A" not in env
    assert (env[b"TERM"], env[b"http_proxy"], env[b"NO_PROXY"], env[b"LANG"]) == (b"xterm", b"p", b"n", b"C")
    assert (env[b"SLURM_JOB_ID"], env[b"PMIX_RANK"], env[b"PMI_FD"], env[b"B"]) == (b"7", b"0", b"9", b"2")


def test_variables_that_are_not_passed():
    host = [b"A=1", b"B=2", b"C=3", b"SLURM_JOB_ID=7"]
    given = Spec("/i.sif", home="/home/u", no_env=(b"A", b"C", b"SLURM_JOB_ID"))
    env = task_env(host=host, spec=given)
    assert b"A" not in env and env[b"B"] == b"2" and b"C" not in env
    assert env[b"SLURM_JOB_ID"] == b"7"  # the wire-up is Slurm's


def test_the_image_and_the_user_may_set_the_language_under_cleanenv():
    image = image_env(("90-environment.sh", b"export LANG=C.UTF-8"))

    assert task_env(image, spec=asking(cleanenv=True))[b"LANG"] == b"C.UTF-8"
    assert task_env(image, spec=asking((b"LANG", b"x"), cleanenv=True))[b"LANG"] == b"x"


def test_the_wire_up_wins_over_everything():
    image = {b"PATH": b"/x", b"SLURM_JOB_ID": b"image"}

    env = task_env(image, [b"PMIX_RANK=3", b"SLURM_JOB_ID=7"], asking((b"PMIX_RANK", b"0"), (b"SLURM_JOB_ID", b"8")))

    assert (env[b"PMIX_RANK"], env[b"SLURM_JOB_ID"]) == (b"3", b"7")


def test_a_program_can_tell_where_it_is():
    env = task_env(command=b"run", binds=b"/a:/b", cwd=b"/scratch", host=[b"PWD=/old"])

    for prefix in (b"APPTAINER_", b"SINGULARITY_"):
        assert env[prefix + b"CONTAINER"] == IMAGE
        assert env[prefix + b"NAME"] == b"img.sif"
        assert env[prefix + b"BIND"] == b"/a:/b"
        assert env[prefix + b"ENVIRONMENT"] == b"/.singularity.d/env/91-environment.sh"
    assert env[b"APPTAINER_COMMAND"] == b"run"
    assert (env[b"BOLLARD_CONTAINER"], env[b"BOLLARD_IMAGE"], env[b"PWD"]) == (IMAGE, b"img.sif", b"/scratch")


def test_the_prompt_survives_what_bash_reads_later():
    first = task_env()
    again = task_env(host=[b"PROMPT_COMMAND=date"])
    script = 'for i in 1 2; do eval "$PROMPT_COMMAND"; echo "$PS1|$PROMPT_COMMAND"; PS1=host; done'

    def prompts(env):
        done = subprocess.run(["/bin/bash", "-c", script], env=env, stdout=subprocess.PIPE, check=True)
        return [line for line in done.stdout.decode().splitlines() if "|" in line]

    assert prompts(first)[0] == "bollard> |"
    assert prompts(again)[0] == "bollard> |date"


def test_words_that_are_no_variables_are_dropped():
    assert b"word" not in task_env(host=[b"word", b""])


def test_the_node_path_imports_nothing_else():
    code = "import sys; old = set(sys.modules); import bollard.runtime.container.environment; "
    code += "print(*(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, encoding="utf-8")

    assert {name for name in done.stdout.split() if not name.startswith("bollard")} <= {"__future__", "_csv"}
    assert "bollard.runtime.shell.interpreter" not in done.stdout


def test_the_hosts_commands_come_first_in_path():
    assert task_env(tools=b"/run/tools")[b"PATH"] == b"/run/tools:" + DEFAULT_PATH
    assert task_env(host=[b"BOLLARDENV_PREPEND_PATH=/mine"], tools=b"/t")[b"PATH"] == b"/mine:/t:" + DEFAULT_PATH
    assert task_env(host=[b"BOLLARDENV_PATH=/mine"], tools=b"/run/tools")[b"PATH"] == b"/mine"
    kept = Spec("/i.sif", keep_env=(b"PATH",))
    assert task_env(host=[b"PATH=/host"], spec=kept, tools=b"/t")[b"PATH"] == b"/host"
    assert task_env(host=[b"BOLLARDENV_PATH=/mine:$PATH"], tools=b"/t")[b"PATH"] == b"/mine:/t:" + DEFAULT_PATH


# The home's name


def test_the_home_is_named_even_where_it_is_not_shown():
    """As Nextflow starts containers: an empty environment, and no home."""
    hidden = Spec("/i.sif", user_home="/home/u")

    assert task_env(image={}, spec=hidden)[b"HOME"] == b"/home/u"
    assert task_env(image={}, spec=hidden, host=[b"HOME=/other"])[b"HOME"] == b"/other"
    assert task_env(image={}, spec=Spec("/i.sif", user_home="/home/u", fakeroot=True))[b"HOME"] == b"/root"


# Locales


@pytest.mark.parametrize(
    ("name", "same"),
    [
        (b"de_DE.UTF-8", b"de_DE.utf8"),
        (b"de_DE.utf-8@euro", b"de_DE.utf8@euro"),
        (b"de_DE.8859-1", b"de_DE.iso88591"),
        (b"C", b"C"),
    ],
)
def test_names_of_locales_are_compared_as_glibc_does(name, same):
    assert normalized(name) == same


def host_with(*pairs: bytes, image=None, spec=None, known=(b"C", b"POSIX", b"", b"C.utf8")) -> dict[bytes, bytes]:
    env = task_env(image={} if image is None else image, host=pairs, spec=spec, locales=frozenset(known))
    return {name: value for name, value in env.items() if is_locale(name)}


def test_locales_that_the_image_has_not_are_not_passed():
    assert host_with(b"LANG=de_DE.UTF-8", b"LC_ALL=C.UTF-8", b"LC_TIME=C", b"LC_CTYPE=fr_FR") == {
        b"LC_ALL": b"C.UTF-8",
        b"LC_TIME": b"C",
    }
    assert task_env(image={}, host=[b"LANG=de_DE.UTF-8"])[b"LANG"] == b"de_DE.UTF-8"  # an image that takes any


def test_a_locale_that_was_asked_for_is_there():
    lang = b"de_DE.UTF-8"

    assert host_with(image={b"LANG": lang}) == {b"LANG": lang}
    assert host_with(b"LANG=" + lang, spec=Spec("/i.sif", keep_env=(b"LANG",))) == {b"LANG": lang}
    assert host_with(b"LANG=x", spec=Spec("/i.sif", env=((b"LANG", lang),))) == {b"LANG": lang}
    assert host_with(b"APPTAINERENV_LC_ALL=" + lang) == {b"LC_ALL": lang}


def tree_of(folder, *paths: str) -> int:
    for path in paths:
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return os.open(folder, os.O_PATH | os.O_DIRECTORY)


def test_which_locales_an_image_has(tmp_path):
    found = locales.available(tree_of(tmp_path, "/lib64/ld-linux-x86-64.so.2", "/usr/lib/locale/C.utf8/LC_CTYPE"))

    assert found == frozenset((b"C", b"POSIX", b"", b"C.utf8"))


def test_an_image_of_musl_or_of_no_library_takes_any(tmp_path):
    assert locales.available(tree_of(tmp_path / "static", "/bin/app")) is None
    musl = ("/lib/ld-musl-x86_64.so.1", "/lib/ld-linux-x86-64.so.2")  # gcompat has the second
    assert locales.available(tree_of(tmp_path / "musl", *musl)) is None


def test_locales_of_an_archive(tmp_path):
    place = tmp_path / "usr/lib/locale"
    place.mkdir(parents=True)
    source = "de_DE"
    if not os.path.exists(f"/usr/share/i18n/locales/{source}"):
        source = "POSIX"
    charmap = "UTF-8"
    done = subprocess.run(
        ["localedef", "--prefix", tmp_path, "-c", "-i", source, "-f", charmap, f"{source}.{charmap}"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (place / "locale-archive").exists(), done.stderr

    found = locales.available(tree_of(tmp_path))
    assert found is not None and f"{source}.utf8".encode() in found


@pytest.mark.parametrize("content", [b"", b"x" * 55, b"\x09\x01\x02\xde" + b"\xff" * 52, b"\x09\x01\x02\xde" * 14])
def test_an_archive_that_is_none(tmp_path, content):
    root = tree_of(tmp_path, "/usr/lib/locale/locale-archive")
    (tmp_path / "usr/lib/locale/locale-archive").write_bytes(content)

    found = locales.available(root)
    assert found is not None and b"C" in found


# Values of the user's


def test_a_users_value_knows_his_numbers():
    found = task_env(
        image={}, host=[b"APPTAINERENV_W=/scratch/$UID/$GID"], spec=asking((b"V", b"${EUID}:$PWD")), cwd=b"/d"
    )

    assert found[b"W"] == b"/scratch/%d/%d" % (os.getuid(), os.getgid())
    assert found[b"V"] == b"%d:/d" % os.getuid()
    assert not {b"UID", b"GID", b"EUID"} & set(found)


def test_directories_before_and_after_those_of_libraries():
    image = {b"LD_LIBRARY_PATH": b"/image"}
    asked = [b"APPTAINERENV_PREPEND_LD_LIBRARY_PATH=/first", b"APPTAINERENV_APPEND_LD_LIBRARY_PATH=/last"]

    assert task_env(image=image, host=asked)[b"LD_LIBRARY_PATH"] == b"/first:/image:/last"
    assert task_env(image=image, host=asked[1:])[b"LD_LIBRARY_PATH"] == b"/image:/last"
    assert b"LD_LIBRARY_PATH" not in task_env(image={}, host=asked)


def test_values_that_name_large_variables_are_bounded_together():
    """Each is short where it is asked for; a task may send many thousands."""
    host = [b"A=" + b"a" * 100_000, *(b"APPTAINERENV_V%d=x$A" % number for number in range(200))]
    with pytest.raises(BollardError, match="variables given for the container"):
        task_env(host=host)
    with pytest.raises(BollardError, match="variables given for the container"):
        task_env(host=host[:1], spec=asking(*((b"V%d" % number, b"x$A") for number in range(200))))
    assert task_env(host=host[:20])[b"V0"] == b"x" + b"a" * 100_000


@pytest.mark.parametrize("clean", [False, True])
def test_slurms_choice_of_gpus_wins_over_the_images_in_a_job(clean):
    image: dict[bytes, bytes | None] = {b"CUDA_VISIBLE_DEVICES": b"7", b"ROCR_VISIBLE_DEVICES": b"7"}
    here, spec = [b"CUDA_VISIBLE_DEVICES=0,1"], Spec("/i.sif", cleanenv=clean)

    def value(env, name=b"CUDA_VISIBLE_DEVICES", asked=spec):
        return next(entry[len(name) + 1 :] for entry in of_task(image, env, asked) if entry.startswith(name + b"="))

    assert value([*here, b"SLURM_JOB_ID=1"]) == b"0,1"
    assert value([*here, b"SLURM_JOB_ID=1"], b"ROCR_VISIBLE_DEVICES") == b"7"  # Slurm has not set it
    assert value(here) == b"7"
    own = Spec("/i.sif", cleanenv=clean, env=((b"CUDA_VISIBLE_DEVICES", b"none"),))
    assert value([*here, b"SLURM_JOB_ID=1"], asked=own) == b"none"
    left_out = Spec("/i.sif", cleanenv=clean, no_env=(b"CUDA_VISIBLE_DEVICES",))
    assert value([*here, b"SLURM_JOB_ID=1"], asked=left_out) == b"7"


@pytest.mark.parametrize(
    ("image", "asked", "seen"),
    [
        ({}, (), b"/.singularity.d/libs"),
        ({b"LD_LIBRARY_PATH": b"/opt/lib"}, (), b"/opt/lib:/.singularity.d/libs"),
        ({b"LD_LIBRARY_PATH": b"/.singularity.d/libs"}, (), b"/.singularity.d/libs"),
        ({}, ((b"LD_LIBRARY_PATH", b"/own"),), b"/own:/.singularity.d/libs"),
        ({}, ((b"LD_LIBRARY_PATH", b""),), b"/.singularity.d/libs"),
    ],
)
def test_the_drivers_libraries_are_found_in_every_image(image, asked, seen):
    env = of_task(image, [], Spec("/i.sif", env=asked), libraries=True)
    assert dict(entry.split(b"=", 1) for entry in env)[b"LD_LIBRARY_PATH"] == seen


def test_variables_of_cdi_devices_win_over_the_images():
    devices = ((b"CARD", b"cdi"),)

    def value(asked):
        env = of_task({b"CARD": b"image"}, [], Spec("/i.sif", env=asked), devices=devices)
        return dict(entry.split(b"=", 1) for entry in env)[b"CARD"]

    assert (value(()), value(((b"CARD", b"user"),))) == (b"cdi", b"user")
