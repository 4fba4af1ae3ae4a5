# SPDX-License-Identifier: BSD-3-Clause
"""The environment of a task: whose value wins, and what the image's scripts make of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from environment_makers import IMAGE, LAST, LIBRARIES, OWN, asking, image_env, task_env

from bollard.runtime.container.environment import DEFAULT_PATH, of_task
from bollard.runtime.errors import BollardError
from bollard.runtime.request.spec import Spec


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


def test_what_cannot_be_set_is_told_once():
    warnings: list[str] = []
    asked = asking((b"HOME", b"/y"), (b"SLURM_PROCID", b"7"), (b"SLURM_JOB_ID", b"5"), (b"X", b"1"))
    env = task_env(host=[b"SLURM_PROCID=0", b"SLURM_JOB_ID=5"], spec=asked, warnings=warnings)
    assert warnings == ["HOME, SLURM_PROCID cannot be set for a container; --home sets HOME"]
    assert (env[b"SLURM_PROCID"], env[b"X"]) == (b"0", b"1")

    task_env(spec=asking((b"HOME", b"/home/u")), warnings=warnings)
    assert len(warnings) == 1  # it is what was asked for


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


def test_the_home_is_named_even_where_it_is_not_shown():
    """As Nextflow starts containers: an empty environment, and no home."""
    hidden = Spec("/i.sif", user_home="/home/u")

    assert task_env(image={}, spec=hidden)[b"HOME"] == b"/home/u"
    assert task_env(image={}, spec=hidden, host=[b"HOME=/other"])[b"HOME"] == b"/other"
    assert task_env(image={}, spec=Spec("/i.sif", user_home="/home/u", fakeroot=True))[b"HOME"] == b"/root"


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


@pytest.mark.parametrize("text", ["$HOSTNAME", "$$", "$((1+2))", "a`id`"])
def test_why_a_value_is_passed_as_it_is(text):
    warnings: list[str] = []
    of_task({}, [], Spec("/i.sif", env=((b"A", text.encode()),)), warnings=warnings)
    part = {"$((1+2))": "$(", "a`id`": "a command in backquotes"}.get(text, text)
    assert warnings == [f"A is passed as it is: a value is not evaluated if it has {part} (--no-eval)"]


def test_values_name_each_other():
    """In Apptainer the order is by chance; here a plain value is there for all others, whatever the order."""
    asked = (
        *((b"A", b"$B"), (b"B", b"$C/b"), (b"D", b"$B:$PATH"), (b"C", b"3"), (b"PATH", b"/own:$PATH")),
        (b"H", b"$H:x"),
    )
    found = of_task({b"PATH": b"/image"}, [b"H=host", b"C=host"], Spec("/i.sif", env=asked))
    assert {b"B=3/b", b"D=3/b:/image", b"C=3", b"PATH=/own:/image", b"H=host:x"} <= set(found)
    assert b"A=" in found  # what is named later has no value yet


def test_forms_name_each_other():
    task = [b"APPTAINERENV_Q=$P", b"APPTAINERENV_P=1"]
    assert {b"P=1", b"Q=1", b"R=11"} <= set(of_task({}, task, Spec("/i.sif", env=((b"R", b"$P$Q"),))))
