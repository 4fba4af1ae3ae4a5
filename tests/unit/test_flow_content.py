# SPDX-License-Identifier: BSD-3-Clause
"""Flow files: what a key means, what is refused because nothing would come of it, and when a job has changed."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import batch, content, sbatch_options
from bollard.runtime.flow import flow as flows
from bollard.runtime.flow.batch import Image, Place
from bollard.runtime.request import spec

JOB = "jobs: {a: {image: i.sif, command: [x], %s}}\n"


def good(text, sets=None):
    found, wrong = flows.parse(text.encode(), sets or {}, "f")
    assert not wrong
    return found


def mistakes(text):
    return "\n".join(f"{item.text}; {item.hint}" for item in flows.parse(text.encode(), {}, "f")[1])


def compiled(text, **changes):
    found = good(text)
    values = {
        "folder": "/flows/f-1", "generation": 1, "workdir": "/w",
        "images": {job.image: Image(f"/i/{job.image}", "d", "") for job in found.jobs},
        "volumes": {volume.name: f"/v/{volume.name}" for volume in found.volumes}, "secrets": {"s": "/secrets/s"},
        "mpi": ("pmix", "pmi2"), "command": ("bollard",), **changes,
    }  # fmt: skip
    return {job.name: job for job in batch.jobs(found, Place(**values))}


def step(text, **changes):
    """Return the words of the srun line of job a."""
    script = compiled(text, **changes)["a"].script
    return shlex.split(script[script.index("go srun") : script.rindex("\n    status=$?")])


def keys(text):
    found = good(text)
    return content.keys(found, {job.image: Image("/i", "d", "") for job in found.jobs})


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
@example("-Da=1,-Db=2")
@example('a=1,"b"=2,\n=')
def test_a_variable_keeps_commas_and_equals_signs(value):
    flow = good(JOB % "")
    job = dataclasses.replace(flow.jobs[0], image="i", env=(("JAVA_OPTS", value),))
    place = Place("/flows/f-1", 1, "/w", {"i": Image("/i", "d", "")}, {}, {}, (), ())
    words, _, _ = batch._step(flow, job, place)
    options = shlex.split(next(word for word in words if word.startswith("--container-opts="))[17:])
    if value.startswith("secret://"):
        return

    assert options[0] == "--env" and spec._assignments(options[1]) == [(b"JAVA_OPTS", value.encode())]


def test_a_path_that_a_mount_would_split_is_refused():
    text = "volumes: {v: {use: ephemeral}}\n" + JOB % "mounts: {/d: v}"

    for place in ("/v:1", "/v,1"):
        with pytest.raises(BollardError, match="cannot be mounted"):
            compiled(text, volumes={"v": place})


def test_a_longer_array_changes_what_needs_the_whole_of_it():
    def of(end, each):
        array = f"task-array: {{end: {end}}}"
        return keys(
            f"volumes: {{v: {{use: ephemeral, egress: [{{source: {{uri: file://o}}, destination: "
            f"{{uri: file:///o}}}}]}}}}\n"
            f"jobs:\n  a: {{image: i, command: [x], {array}, mounts: {{/d: v}}}}\n"
            f"  each: {{image: i, command: [x], {array}, needs: [{{name: a, each: true}}]}}\n"
            f"  all: {{image: i, command: [x], needs: {each}}}\n"
        )

    for needs in ("a", "each"):
        before, after = of(3, needs), of(5, needs)
        assert {name for name in before if before[name] != after[name]} == {"all", "v.out"}


@pytest.mark.parametrize(
    "other", ["reference: volume://user/shelf/p", "{use: persistent, name: q}", "{use: persistent}"]
)
def test_another_place_of_a_volume_changes_what_uses_it(other):
    def of(volume):
        ingress = "ingress: [{source: {uri: https://h/f}, destination: {uri: file://f}}]"
        volume = volume.strip("{}")
        return keys(
            f"volumes: {{v: {{{volume}, {ingress}}}}}\njobs:\n  a: {{image: i, command: [x], mounts: {{/d: v}}}}\n"
            "  b: {image: i, command: [x], needs: a}\n  c: {image: i, command: [x]}\n"
        )

    before, after = of("use: ephemeral"), of(other)
    assert {name for name in before if before[name] == after[name]} == {"c"}


@pytest.mark.parametrize(
    "name",
    [*sbatch_options.OWN, *sbatch_options.LETTERS, "dep", "hol", "tim", "cluster", "wai", "job-n", "quie"],
)
def test_options_that_would_break_the_flow(name):
    assert f"jobs.a.slurm.{name}: " in mistakes(JOB % f"slurm: {{{name}: x}}")
    assert f"slurm.{name}: " in mistakes(f"slurm: {{{name}: x}}\n" + JOB % "")


@pytest.mark.parametrize("name", ["export-file", "wait-all-nodes", "exclude", "mail-user", "p", "time-min", "verbose"])
def test_other_options_are_passed(name):
    assert sbatch_options.mistake(name, "1") == ("", "")


def test_an_option_without_a_value_takes_no_other():
    options = compiled(JOB % "slurm: {contiguous: , no-requeue: ~, O: }")["a"].options

    assert {"--contiguous", "--no-requeue", "-O"} <= set(options)
    for text in ("{partition: }", "{partition: ~}", "{p: }", "{parti: }", "{contiguous: ''}", "{account: ''}"):
        assert "needs a value" in mistakes(JOB % f"slurm: {text}"), text
    assert "needs a value" in mistakes("values: {P: ''}\n" + JOB % "slurm: {partition: '${P}'}")


@pytest.mark.parametrize(
    ("flow", "job", "wanted"),
    [
        ("", "slurm: {cpus-per-task: 8}", "8"),
        ("", "slurm: {c: 8}", "8"),
        ("slurm: {c: 8}\n", "resource: {cpu: {cores: 2}}", "8"),
        ("slurm: {c: 8}\n", "slurm: {cpus-per-task: 4}", "4"),
        ("slurm: {c: 8, cpus-per-task: 9}\n", "slurm: {c: 4}", "4"),
        ("", "resource: {cpu: {cores: 2}}", "2"),
    ],
)
def test_a_step_has_the_cores_of_its_job(flow, job, wanted):
    text = flow + JOB % job
    of_job = [word for word in compiled(text)["a"].options if re.match(r"-c|--cpus-per-task=", word)]

    assert f"--cpus-per-task={wanted}" in step(text)
    assert re.sub(r"\D", "", of_job[-1]) == wanted  # sbatch takes the last one


def test_arguments_of_a_line_begin_with_one():
    assert good("jobs: {a: {image: i, command: 'echo \"$1\"', args: [q]}}").jobs[0].command == (
        "/bin/sh", "-c", 'echo "$1"', "sh", "q",
    )  # fmt: skip


@pytest.mark.parametrize(
    "job",
    [
        "command: [x, '${NO}']", "command: x, args: ['${NO}']", "command: [x], env: {A: '${NO}'}",
        "command: [x], env: ['A=${NO}']", "script: x, args: ['${NO}']", "command: [x], mounts: {'/${NO}': v}",
        "command: [x], files: {'/${NO}': t}",
    ],
)  # fmt: skip
def test_a_name_that_no_shell_reads_has_a_value(job):
    text = f"values: {{YES: y}}\nvolumes: {{v: {{use: ephemeral}}}}\njobs: {{a: {{image: i, {job}}}}}\n"

    assert "${NO} has no value" in mistakes(text)
    assert not mistakes(text.replace("NO", "YES"))


def test_a_value_that_names_another():
    assert "values.A: ${B} is not replaced in a value" in mistakes("values: {A: '${B}/x', B: b}\n" + JOB % "")
    assert not mistakes("values: {A: '${HOME}', B: '$${A}'}\n" + JOB % "")


def test_a_name_in_a_path_is_replaced():
    job = good(
        "values: {D: data}\nvolumes: {v: {use: ephemeral}}\njobs: {a: {image: i, command: [x, '$${D}'], "
        "mounts: {'/${D}': v}, files: {'/${D}/f': t}, env: {A: '$${B}'}}}\n"
    ).jobs[0]  # fmt: skip

    assert (job.mounts, job.files) == ((("v", "/data"),), (("/data/f", "t"),))
    assert (job.command, job.env) == (("x", "${D}"), (("A", "${B}"),))
    text = "values: {D: data}\n" + JOB % "files: {'/${D}': t, /data: u}"
    assert "stands here twice" in mistakes(text)


@pytest.mark.parametrize(
    "job",
    ["command: 'echo ${HOME}'", "command: [sh, -c, 'echo ${HOME}']", "command: [/bin/bash], args: [-c, 'echo ${HOME}']",
     "script: 'echo ${HOME}'", "command: [x], files: {/f: '${HOME}'}"],
)  # fmt: skip
def test_a_name_that_a_shell_reads_is_left_to_it(job):
    assert not mistakes(f"jobs: {{a: {{image: i, {job}}}}}\n")


@pytest.mark.parametrize(
    ("job", "wanted"),
    [
        ("network: {host: false}", "write isolated: true"),
        ("network: {host: true, isolated: true}", "give one of both"),
        ("resource: {annotations: {nvidia.com/gpu.model: a100}}", "the job has no nvidia.com/gpu"),
        ("resource: {devices: {amd.com/gpu: 1}, annotations: {nvidia.com/gpu.model: a}}", "has no nvidia.com/gpu"),
        ("resource: {devices: {nvidia.com/gpu: 1}, annotations: {nvidia.com/gpu.model: }}", "needs a value"),
        ("resource: {devices: {nvidia.com/gpu: 1, amd.com/gpu: 1}}", "give one of both"),
        ("resource: {devices: {nvidia.com/gpu: }}", "nothing is not a number"),
        ("resource: {memory: {by-core: true}}", "write size"),
        ("cwd: null", "jobs.a.cwd: null is no value"),
        ("env: {A: ~}", "jobs.a.env.A: ~ is no value"),
        ("script: ''", "jobs.a.script: is empty"),
    ],
)
def test_what_would_be_ignored_is_refused(job, wanted):
    assert wanted in mistakes(JOB % job)


@pytest.mark.parametrize("line", ["command: ''", "command: '  '", "command: ['']", "script: ' \n '"])
def test_a_job_that_does_nothing(line):
    assert "is empty" in mistakes(f"jobs: {{a: {{image: i, {line}}}}}\n")


def test_null_is_no_text():
    assert "jobs.a.command: null is no value" in mistakes("jobs: {a: {image: i, command: null}}")
    assert "name: null is no value" in mistakes("name: null\n" + JOB % "")
    assert good("name: 'null'\n" + JOB % "").name == "null"
    assert good("name:\n" + JOB % "").name == "f"


def test_a_secret_of_an_image_that_takes_none():
    text = "jobs: {a: {image: {uri: '%s', secret: secret://user/s}, command: [x]}}"

    for uri in ("i.sif", "https://h/i.sif", "library://a/b"):
        assert "takes no login" in mistakes(text % uri)
    assert not mistakes(text % "docker://h/i") and not mistakes(text % "oras://h/i")


def test_networks_that_are_meant():
    assert good(JOB % "network: {isolated: true, host: false}").jobs[0].isolated
    assert not good(JOB % "network: {host: true}").jobs[0].isolated


@pytest.mark.parametrize(
    ("volume", "wanted"),
    [
        ("{name: precious}", "volumes.v.name: an ephemeral volume is removed"),
        ("{use: ephemeral, name: precious}", "volumes.v.name: an ephemeral volume is removed"),
        ("{reference: 'volume://user/ephemeral', use: persistent}", "volumes.v.use: stands beside reference"),
        ("{reference: 'volume://user/s/n', name: n}", "volumes.v.name: stands beside reference"),
    ],
)
def test_a_volume_that_would_be_removed_against_a_word_of_the_file(volume, wanted):
    assert wanted in mistakes(f"volumes: {{v: {volume}}}\n" + JOB % "")


def test_a_jobs_own_keys_win():
    text = "volumes: {a: {use: ephemeral}, b: {use: ephemeral}}\ndefaults: {job: {mounts: {/d: a, /e: a}, resource: "
    text += "{devices: {nvidia.com/gpu: 1}, annotations: {nvidia.com/gpu.model: m}, memory: {by-core: true}}}}\n"
    job = good(text + JOB % "mounts: {/d: b}, resource: {devices: {amd.com/gpu: 2}}").jobs[0]

    assert job.mounts == (("a", "/e"), ("b", "/d"))
    assert (job.gpus, job.gpu_kind, job.gpu_model) == (2, "rocm", "")
    assert "/d is there twice" in mistakes(text + JOB % "mounts: {a: {location: /d}, b: {location: /d}}")


def test_a_cluster_with_one_version_of_pmix():
    text = JOB % "multinode: {nodes: 2, implementation: openmpi}"

    assert "--mpi=pmix_v4" in step(text, mpi=("pmi2", "pmix_v3", "pmix_v4"))
    assert "--mpi=pmix" in step(text, mpi=("pmix", "pmix_v4"))
    with pytest.raises(BollardError, match="needs srun --mpi=pmix"):
        compiled(text, mpi=("pmi2", "cray_shasta"))
