# SPDX-License-Identifier: BSD-3-Clause
"""Flow files: what is read, what is refused and how, and what they become."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import (
    batch,
    content,
    document,
    fields,
    graph,
    sbatch_options,
    schema,
    units,
)
from bollard.runtime.flow import flow as flows
from bollard.runtime.flow.batch import Image, Place

SHORT = "jobs:\n  a: {image: i.sif, command: [echo, a]}\n"


def parse(text, sets=None):
    return flows.parse(text.encode(), sets or {}, "f")


def mistakes(text, sets=None):
    return [f"{line}: {what}; {hint}" for line, what, hint in parse(text, sets)[1]]


def good(text, sets=None):
    found, wrong = parse(text, sets)
    assert not wrong
    return found


def compiled(text, **changes):
    found = good(text)
    images = {job.image: Image(f"/i/{job.image}", "d", "") for job in found.jobs}
    values = {
        "folder": "/flows/f-1", "generation": 1, "workdir": "/w", "images": images,
        "volumes": {volume.name: f"/v/{volume.name}" for volume in found.volumes}, "secrets": {"s": "/secrets/s"},
        "mpi": ("pmix", "pmi2"), "command": ("bollard",), **changes,
    }  # fmt: skip
    return {job.name: job for job in batch.jobs(found, Place(**values))}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"", ["1: the file is empty; write `jobs:` and a job below it"]),
        (b"- 1\n", ["1: the file is a list; write `jobs:` and a job below it"]),
        (b"\xff", ["1: byte 0xff is not UTF-8; save the file as UTF-8"]),
        (b"a: {{ .Values.x }}\n", ["render the template first"]),
        (b"a: [\n", ["not YAML"]),
    ],
)
def test_what_is_no_flow(text, wanted):
    found = [f"{line}: {what}; {hint}" for line, what, hint in document.read(text, {})[1]]

    assert any(wanted[0] in item for item in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("jobs:\na:\n  image: x\n", '2: the file: no key is called "a"; indent a job below `jobs:`'),
        ("jobs:\n  a:\n    image: x\n   command: [x]\n", "4: not YAML: the indentation fits no line above; align"),
        ("jobs:\n  a:\n    image: x\n    command: [x\n", "4: not YAML: a [ is not closed"),
        ('{"jobs": {"a": {"image": "x",}}\n', "1: not YAML: a { is not closed, or a comma is missing behind it"),
        ('jobs: {a: {image: "C:\\images"}}\n', "1: not YAML: a backslash in double quotes begins no escape"),
        ("jobs:\n  a:\n  \u00a0 image: x\n    command: [x]\n", "no-break space"),
        ("jobs:\n  a: {image: x, command: *.txt}\n", "2: not YAML: "),
        ("jobs: &j\n  a: {image: x, command: [x]}\n  <<: *j\n", "2: jobs: << names what it stands in"),
        ("hsqs\0", "1: is not a text file; name a flow file, not an image"),
        (f"{SHORT}resource: {{}}\n", 'no key is called "resource"; write it in a job, or below `defaults:'),
        ("job: {}\n", 'no key is called "job"; did you mean jobs?'),
        ("values: {X: b}\njobs: {a: {image: '${X:-c}', command: [x]}}", "write ${NAME}, or $${ for the characters ${"),
        ("values: {X: b}\njobs: {a: {image: $X, command: [x]}}", "2: jobs.a.image: $X is not replaced; write ${X}"),
        ("values: {X: b}\njobs: {a: {image: '{{ X }}', command: [x]}}", "{{X is not replaced; write ${X}"),
        ("values: {X: b}\njobs: {a: {image: x, command: [e, '\\${X}']}}", "changes nothing here; write $${X}"),
        ("jobs: {a: {image: x, command: [x], needs: B}, b: {image: x, command: [x]}}", "did you mean b?"),
        ("volumes: {v: {use: ephemeral, ingress: [{source: {uri: 'https://a b'}, destination: {uri: file://c}}]}}\n"
         + SHORT, "1: volumes.v.ingress.0: \"https://a b\": an address has no space; write %20"),
    ],
)  # fmt: skip
def test_a_wrong_file_has_one_cause(text, wanted):
    found = mistakes(text)

    assert any(wanted in item for item in found), found
    assert len(found) == 1, found


def test_a_backslash_keeps_a_name_for_a_shell():
    found = good("values: {X: b}\njobs: {a: {image: x, script: 'echo ${X} \\${X} \\\\${X} $${X} ${Y:-c}'}}")

    assert found.jobs[0].script == "echo b \\${X} \\\\b ${X} ${Y:-c}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("command: [x]\n    timeout: 1h", "write policy: {timeout: {execute: ...}}"),
        ("command: [x]\n    retry: 3", "write policy: {retry: ...}"),
        ("command: [x]\n    nodes: 2", "write multinode: {nodes: ...}"),
        ("command: [x]\n    environment: {A: b}", "write env: ..."),
        ("command: [x]\n    resource: {gpus: 1}", "write devices: ..."),
        ("command: [x]\n    partition: gpu", "write an option of sbatch below `slurm:`"),
        ("command: [x]\n    slurm: {exclusive: true}", "write exclusive: with nothing behind it, or leave it out"),
        ("command: [x]\n    slurm: {cpus_per_task: 4}", "write cpus-per-task"),
        ("command: [x]\n    slurm: {mail-type: [END, FAIL]}", "jobs.b.slurm.mail-type: is a list; write one value"),
        ("command: [x]\n    resource: {memory: {size: 4}}", "4 bytes: no job runs in less than 1 MiB; write a unit"),
        ("command: [x]\n    policy: {timeout: {execute: 1-02:30:00}}", "write 26h30m"),
        ("command: [x]\n    mounts: {/d: /data:ro}", "/data:ro: a mount has no :ro; leave it out"),
        ("command: [\u201cx\u201d]", "begins with the typographic quote"),
        ("command: [x, \u2013flag]", "begins with the long dash"),
        ("command:\n    - x\n     - y", "7 continues this text; indent the items of a list alike"),
        ("commands: [x]", '3: jobs.b: no key is called "commands"; did you mean command?'),
        ("command: [x]\n    resource: {cpu: {cores: 0644}}", "write 644"),
        ("command: [x]\n    resource: {exclusive: on}", "on is text in YAML 1.2: write true or false"),
        ("command: [x]\n    policy: {timeout: {execute: 12:30}}", "12:30 is a number of base 60 in YAML 1.1"),
        ("command: [x]\n    resource: {memory: {size: 4 gigs}}", '"4 gigs" is not a number of bytes'),
        ("command: [x]\n    needs: [aa]", 'no job is called "aa"; did you mean a?'),
        ("command: [x]\n    needs: b", "jobs.b: needs itself: b → b; take one of these needs out"),
        ("command: [x]\n    depends-on: [{name: a, status: RUNNING}]", "there are no services"),
        ("command: [x]\n    mounts: {/data: v}", 'no volume is called "v"'),
        ("command: [x]\n    multinode: {nodes: 2, implementation: gasnet}", "gasnet is not supported"),
        ("command: [x]\n    multinode: {implementation: openmpi}", "needs the number of nodes"),
        ("command: [x]\n    env: [A=secret://group/x]", "secret://group is not supported"),
        ("command: [x]\n    env: [A]", "A has no value"),
        ("command: [x]\n    slurm: {dependency: 'afterok:1'}", "the flow sets this option itself"),
        ("command: [x]\n    slurm: {time: 5}", "give policy.timeout.execute"),
        ("command: [x]\n    network: {ports: [{name: x}]}", "jobs.b.network.ports is not supported"),
        ("command: [x]\n    image: {uri: i.sif, decryptionSecret: secret://user/x}", "stands here twice"),
        ("command: [x]\n    command: [y]", "jobs.b.command: stands here twice; put both into one"),
        ("command: [x]\n    task-array: {start: 5, end: 4}", "needs an end that is not below 5"),
        ("command: [x]\n    needs: [{name: a, each: true}]", "a is not an array of the same numbers"),
        ("command: [x]\n    cwd: ${NO}", "${NO} has no value"),
        ("command: [x]\n    resource: {devices: {nvidia.com/gpus: 1}}", "did you mean nvidia.com/gpu?"),
        ("command: [x]\n    policy: {retry: {attempts: 0}}", "0: from 1 to 1000"),
        ("command: [x]\n    needs: 'a, c'", 'no job is called "a, c"; write a list: [one, two]'),
        ("command: !!binary aGk=", "jobs.b.command: has the tag !!binary; leave it out"),
        ("command: [!!binary aGk=]", "jobs.b.command: has the tag !!binary; leave it out"),
        ("command: !!python/object/apply:os.system [id]", "has the tag !!python/object/apply:os.system; leave it out"),
        ("command: x\n    resource: {cpu: {cores: 0}}", "cores: is 0; write 1 or more, or leave it out"),
        ("command: x\n    task-array: {end: 3, concurrency: 0}", "concurrency: is 0; write 1 or more, or leave it out"),
        ("command: x\n    policy: {timeout: {execute: 90}}", "write 90s, or 90m"),
        ("command: x\n    policy: {timeout: {execute: 2d}}", "write 48h"),
        ("command: x\n    env: [A=1, A=2]", "jobs.b.env.A: stands here twice; leave one of them out"),
        ("command: x\n    env: A=1", 'jobs.b.env: is "A=1"; write NAME: VALUE below it, or [NAME=VALUE]'),
        ("command: x\n    mounts: {/: v}", '"/" cannot be a path in the container'),
        ("command: x\n    mounts: {/d: v, /d/: w}", "/d/ is there twice"),
        ("command: [x]\n    name: c", "jobs.b.name: c: is not the job's key, b; leave it out"),
        ("command: [x]\n    policy: {retry: {requeue: true}}", "there is one attempt alone"),
        (
            "command: [x]\n    policy: {retry: {requeue: true, attempts: 2}}\n    slurm: {no-req: }",
            "no-requeue below `slurm:` forbids it",
        ),
    ],
)
def test_a_mistake_has_its_line_and_a_remedy(line, wanted):
    found = mistakes(f"{SHORT}  b:\n    image: i.sif\n    {line}\n".replace("jobs:\n", "jobs:\n", 1))

    assert any(wanted.removeprefix("3: ") in item for item in found), found
    assert all(item.split(":")[0].isdigit() for item in found)


@pytest.mark.parametrize("key", [field.key for field in fields.TABLE if field.kind == fields.REFUSED])
def test_what_is_refused_says_why_and_what_instead(key):
    field = fields.BY_KEY[key]
    why, _, instead = field.help.partition("; ")

    assert why and instead
    text = {
        "services": "services: {x: {}}\n", "annotations": "annotations: {x: y}\n",
        "volumes.*.annotations": "volumes: {v: {use: ephemeral, annotations: {x: y}}}\n",
    }.get(key)  # fmt: skip
    text = text + SHORT if text else f"jobs: {{a: {{{_nested(key.removeprefix('jobs.*.'))}}}}}"
    assert any(
        f"{key.replace('*', 'v' if 'volumes' in key else 'a')} is not supported" in item for item in mistakes(text)
    )


def _nested(key):
    return f"{key.replace('.', ': {')}: x{'}' * key.count('.')}"


def test_a_circle_is_shown():
    pairs = (("a", "c"), ("b", "a"), ("c", "b"))
    text = "jobs:" + "".join(f"\n  {job}: {{image: i, command: [x], needs: {need}}}" for job, need in pairs)

    assert "→" in mistakes(text)[0]


def test_values_are_set_and_shell_variables_are_left():
    text = (
        "values: {IMG: i.sif, N: '3'}\njobs:\n  a:\n    image: ${IMG}\n    script: echo ${N} ${HOME} $${N}\n"
        "    resource: {cpu: {cores: '${N}'}}\n"
    )
    job = good(text, {"IMG": "j.sif"}).jobs[0]

    assert (job.image, job.script, job.cores) == ("j.sif", "echo 3 ${HOME} ${N}", 3)
    assert mistakes(text, {"IMGS": "x"}) == ["1: --set IMGS: the file has no such value; did you mean IMG?"]


def test_texts_keep_what_yaml_1_1_would_change():
    job = good("jobs:\n  a: {image: i, command: [on, 0644, '12:30', 1e3, ~, 0x10], env: {A: no, B: 12:30}}\n").jobs[0]

    assert job.command == ("on", "0644", "12:30", "1e3", "~", "0x10")
    assert job.env == (("A", "no"), ("B", "12:30"))


FUZZBALL = """
version: {version}
defaults: {{job: {{env: [A=1, B=2], policy: {{timeout: {{execute: 1h}}, retry: {{attempts: 2}}}}}}}}
files: {{t: text}}
volumes:
  v:
    {volume}
    ingress: [{{source: {{uri: "s3://b/k", secret: secret://user/s}}, destination: {{uri: file://k}}}}]
    egress: [{{source: {{uri: file://o}}, destination: {{uri: "file:///x/o"}}, policy: {{timeout: {{execute: 5m}}}}}}]
jobs:
  a:
    image: {{uri: docker://alpine, secret: secret://user/s}}
    script: |
      #!/bin/sh
      true
    args: [x]
    env: [B=3, C=secret://user/s]
    cwd: /data
    mounts: {mounts}
    files: {{/etc/t: file://t}}
    resource:
      cpu: {{cores: 4, threads: true, sockets: 1, affinity: NUMA}}
      memory: {{size: 1GB, by-core: true}}
      devices: {{nvidia.com/gpu: 2}}
      annotations: {{nvidia.com/gpu.model: a100}}
      exclusive: true
    task-array: {{start: 1, end: 3, concurrency: 2}}
    network: {{{network}}}
  b:
    image: {{uri: i.sif}}
    command: [x]
    multinode: {{nodes: 2, implementation: openmpi, procsPerNode: 2}}
    resource: {{cpu: {{cores: 4, affinity: core}}, memory: {{size: 1GiB}}}}
    depends-on: [{{name: a, status: finished}}]
    requires: [c]
"""
V1 = {
    "version": "v1",
    "volume": "reference: volume://user/ephemeral",
    "mounts": "{v: {location: /data}}",
    "network": "",
}
V4 = {
    "version": "v4",
    "volume": "use: persistent\n    name: p\n    size: 1GiB",
    "mounts": "{/data: {volume: v}}",
    "network": "host: true",
}


@pytest.mark.parametrize("form", [V1, V4], ids=["v1", "v4"])
def test_every_field_of_fuzzball(form):
    found = good(FUZZBALL.format(**form))
    a, b = found.jobs

    assert a.env == (("A", "1"), ("B", "3"), ("C", "secret://user/s")) and a.mounts == (("v", "/data"),)
    assert (a.timeout, a.attempts, a.memory, a.gpus, a.gpu_model) == (3600, 2, 10**9, 2, "a100")
    assert [need.name for need in b.needs] == ["a"]
    assert (found.volumes[0].shelf, found.volumes[0].persistent) == (("", "") if form is V1 else ("persistent", "p"))

    jobs = compiled(FUZZBALL.format(**form))
    assert list(jobs) == ["v.in", "a", "b", "v.out", ".end"]
    options = set(jobs["a"].options)
    assert options >= {
        "--cpus-per-task=4", "--hint=multithread", "--sockets-per-node=1", "--mem-per-cpu=954M", "--gres=gpu:a100:2",
        "--exclusive", "--time=121", "--requeue",
    }  # fmt: skip
    assert jobs["a"].indexes == (1, 2, 3) and jobs["a"].concurrency == 2
    assert batch.array_option((1, 2, 3, 7, 9, 10), 2) == "1-3,7,9-10%2"
    assert set(jobs["b"].options) >= {"--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2", "--mem=1024M"}
    assert "--mpi=pmix" in jobs["b"].script and "--cpu-bind=cores" in jobs["b"].script
    assert [need.name for need in jobs["a"].needs] == ["v.in"] and [need.name for need in jobs["v.out"].needs] == ["a"]
    assert "s3://" not in jobs["v.in"].script


def test_users_text_is_quoted_in_scripts():
    nasty = "'; touch /tmp/x; echo \"$(id)`id`\n"
    text = json.dumps({"jobs": {"a": {"image": "i", "command": ["echo", nasty], "env": {"A": nasty}, "args": ["b c"]}}})
    job = compiled(text)["a"]
    line = job.script[job.script.index("go srun") :]
    words = shlex.split(line[: line.index("\n    status=$?")])

    assert words[-3:] == ["echo", nasty, "b c"]
    assert shlex.split(next(word for word in words if word.startswith("--container-opts="))[17:]) == [
        "--env",
        f"A={nasty}",
    ]


def test_slurms_own_options_win():
    job = compiled(
        "slurm: {partition: p, account: x}\njobs:\n  a: {image: i, command: [x], slurm: {partition: q, ntasks: 4}}\n"
    )
    options = job["a"].options

    assert "--partition=q" in options and "--partition=p" not in options and "--account=x" in options
    assert "--ntasks=4" in options and "--ntasks=1" not in options
    assert "--partition=p" in job[".end"].options


def test_mpi_that_the_cluster_does_not_have():
    with pytest.raises(BollardError, match="needs srun --mpi=pmix"):
        compiled(
            "jobs:\n  a: {image: i, command: [x], multinode: {nodes: 2, implementation: openmpi}}\n", mpi=("pmi2",)
        )


def test_keys_follow_content_and_what_is_needed():
    images = {"i": Image("/i", "d", "")}

    def keys(first, cores="1", digest="d"):
        text = (
            f"jobs:\n  a: {{image: i, command: [{first}], resource: {{cpu: {{cores: {cores}}}}}}}\n"
            "  b: {image: i, command: [x], needs: a}\n  c: {image: i, command: [x]}\n"
        )
        return content.keys(good(text), {"i": images["i"]._replace(digest=digest)})

    before, after = keys("x"), keys("y")
    assert [before[name] == after[name] for name in "abc"] == [False, False, True]
    assert keys("x", cores="2") == {**before, "a": keys("x", cores="2")["a"], "b": keys("x", cores="2")["b"]}
    assert not set(before.values()) & set(keys("x", digest="e").values())


@pytest.mark.parametrize(
    ("text", "wanted"), [("30s", 30), ("1h30m", 5400), ("8h0m0s", 28800), ("1.5h", 5400), ("500ms", 1)]
)
def test_durations(text, wanted):
    assert units.seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "0s", "12:30", "5", "-1s", "1d", "99999999h", "1e3s"])
def test_no_durations(text):
    with pytest.raises(ValueError):
        units.seconds(text)


@pytest.mark.parametrize(
    ("text", "wanted"), [("1GB", 10**9), ("1GiB", 2**30), ("1G", 2**30), ("1024", 1024), ("1.5 KiB", 1536), ("3B", 3)]
)
def test_sizes(text, wanted):
    assert units.size(text) == wanted


def test_pictures():
    edges = {"b": ["a"], "a": [], "c": ["a", "b"]}

    assert graph.order(edges) == ["a", "b", "c"] and graph.levels(edges) == [["a"], ["b"], ["c"]]
    assert graph.text(edges, {"a": "ok"})[0] == "  1  a  [ok]"
    assert graph.svg({"a<b": []}, {}).count("<rect") == 1 and "a<b" not in graph.svg({"a<b": []}, {})


def test_files_of_fuzzball_that_repeat_a_key_as_a_name():
    volumes = "volumes: {v: {name: v, reference: 'volume://user/ephemeral'}}"
    assert not mistakes(f"version: v1\n{volumes}\njobs: {{a: {{name: a, image: {{uri: i.sif}}, script: x}}}}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("jobs:\n\ta:\n", "2: not YAML: a tab stands before a key; indent with spaces"),
        (f"{SHORT}---\n{SHORT}", "not YAML: a second document begins; put both into one, without the line ---"),
        ('jobs:\n  a: {image: "i.sif, command: x}\n', "2: not YAML: a quote is not closed; close it"),
        ("jobs: {a: *b}", "1: not YAML: found undefined alias; quote text that begins with *, or write &NAME"),
        ("jobs: {a: \0}", "1: not YAML: the character #x0000 is not allowed; take it out of the file"),
        ("jobs: [{name: a}]", "1: jobs: is a list; write NAME: in place of each dash"),
        ("jobs: {a: }", "1: jobs.a: is empty; write "),
        ("jobs: {My_Data: x}", '"My_Data" is not a name; a name has letters a-z, digits and -, at most 63: my-data'),
    ],
)  # fmt: skip
def test_a_file_that_is_no_flow(text, wanted):
    assert any(item.startswith(wanted) or wanted in item for item in mistakes(text)), mistakes(text)


def test_home_can_be_another_directory():
    """Public files of Fuzzball set it. --env leaves HOME as it is, as with Apptainer."""
    text = "jobs: {a: {image: i.sif, command: [p, 'a b'], env: {HOME: /tmp/h}}}"
    script = compiled(text)["a"].script
    assert "--env" not in script and "HOME=/tmp/h; export HOME; exec" in script


def test_a_directory_of_the_host():
    script = compiled("jobs: {a: {image: i.sif, command: x, mounts: {/d: /scratch/a b}}}")["a"].script
    assert "--bind" in script and "/scratch/a b:/d" in script
    for path in ("/s/../etc", "/a:/b", "/a,b"):
        text = f"jobs: {{a: {{image: i.sif, command: x, mounts: {{/d: '{path}'}}}}}}"
        assert any("has a : or , or .. in it" in item for item in mistakes(text))


def test_a_place_for_anchors():
    text = "x-small: &small {image: i.sif, resource: {cpu: {cores: 1}}}\njobs: {a: {<<: *small, command: x}}\n"
    assert good(text).jobs[0].image == "i.sif"


def test_a_template_is_one_mistake():
    text = "version: v4\njobs: {a: {image: {uri: 'i:{{.Tag}}'}, command: x, resource: {cpu: {cores: {{.Cores}}}}}}\n"
    assert [item.partition(";")[0] for item in mistakes(text)] == [
        "2: {{ begins a template of Go, which is not rendered here"
    ]


def test_the_page_has_the_table():
    page = Path(__file__).resolve().parent.parent.parent / "docs/flows.md"

    assert schema.reference() in page.read_text(), "put what schema.reference() returns there"
    assert all(f"`{name}`" in page.read_text() for name in sbatch_options.OWN)


def test_the_schema_has_every_key():
    text = json.dumps(schema.json_schema())

    assert json.loads(text)["required"] == ["jobs"]
    for field in fields.TABLE:
        assert f'"{field.key.rpartition(".")[2]}"' in text or field.key.endswith("*")
        assert field.kind in fields.KINDS and field.kind in document._METHODS


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_keys = st.sampled_from([field.key.rpartition(".")[2] for field in fields.TABLE])


# A loaded machine makes documents slowly; that says nothing about the reader.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_keys, _plain | st.dictionaries(_keys, _plain, max_size=4), max_size=5))
def test_no_document_breaks_the_reader(data):
    found, wrong = flows.parse(json.dumps(data).encode(), {}, "f")

    assert (found is None) == bool(wrong)
    assert all(item.line >= 1 and item.text and item.hint for item in wrong)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*<!\n '\"#|>?,%@`", max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(data):
    flows.parse(data, {}, "f")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 12), max_size=4), min_size=1, max_size=12))
def test_any_graph_is_sorted_or_has_a_circle(data):
    edges = {str(name): [str(other) for other in needs if other in data] for name, needs in data.items()}
    circle = graph.circle(edges)

    if circle:
        assert circle[0] == circle[-1] and all(a in edges[b] or b in edges[a] for a, b in zip(circle, circle[1:]))
    else:
        places = {name: at for at, name in enumerate(graph.order(edges))}
        assert all(places[other] < places[name] for name, needs in edges.items() for other in needs)
