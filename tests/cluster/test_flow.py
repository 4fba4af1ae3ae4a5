# SPDX-License-Identifier: BSD-3-Clause
"""`bollard flow`: flows on a real Slurm, which holds their graph. A flow's own files and Slurm have to agree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Cluster, Images, Result, Work, good, until

MPI = {"bullseye": "pmix", "bookworm": "pmix", "trixie": "pmix", "sid": "pmi2"}


class Flows:
    """alice's flows in a directory of the test."""

    def __init__(self, cluster: Cluster, images: Images, work: Work) -> None:
        self.cluster, self.work, self.image = cluster, work, images.small
        self.folder = f"{work.path}/flows"
        self.env = {"BOLLARD_FLOWS": self.folder}

    def run(self, *words: str, seconds: float = 120, cwd: str = "", env: dict[str, str] | None = None) -> Result:
        return self.cluster.exec(
            ["bollard", "flow", *words], cwd=cwd or self.work.path, env={**self.env, **(env or {})}, seconds=seconds
        )

    def write(self, text: str, name: str = "f.yaml") -> str:
        self.work.write(name, text.replace("IMG", self.image))
        return name

    def submit(self, text: str, *options: str) -> str:
        return good(self.run("submit", *options, self.write(text))).strip()

    def status(self, name: str, *options: str) -> dict[str, Any]:
        done = self.run("status", "--json", *options, name)
        assert not done.err, done
        found: dict[str, Any] = json.loads(done.out)
        assert done.rc == (found["status"] if "--wait" in options else 0), done
        return found

    def states(self, name: str, *options: str) -> dict[str, str]:
        return {part["name"]: part["state"] for part in self.status(name, *options)["parts"]}

    def logs(self, name: str, job: str) -> str:
        return good(self.run("logs", name, job))

    def queue(self) -> str:
        return good(self.cluster.exec("squeue -h -o '%i %j %T %r' -u alice"))


@pytest.fixture
def flows(cluster: Cluster, images: Images, work: Work) -> Iterator[Flows]:
    made = Flows(cluster, images, work)
    yield made
    cluster.exec("scancel -Q -u alice", user="root")
    until(lambda: not made.queue(), "an empty queue")


def test_a_chain_a_diamond_and_a_fan(flows: Flows) -> None:
    chain = "\n".join(
        f"  c{at}: {{image: IMG, command: 'echo {at} >> chain', needs: [{f'c{at - 1}' if at else ''}]}}"
        for at in range(5)
    )
    fan = "\n".join(f"  f{at}: {{image: IMG, command: 'echo {at} > fan.{at}', needs: [a]}}" for at in range(6))
    text = f"""
jobs:
{chain}
  a: {{image: IMG, command: [touch, a]}}
{fan}
  end: {{image: IMG, command: 'cat fan.* | wc -l > end', needs: [{", ".join(f"f{at}" for at in range(6))}]}}
"""
    name = flows.submit(text)
    found = flows.status(name, "--wait")

    assert {part["state"] for part in found["parts"]} == {"ok"}, found
    assert flows.work.read("chain").split() == list("01234")
    assert flows.work.read("end").strip() == "6"
    assert flows.run("list").out.split() == [name, "ok", "13/13", "done"]


def test_a_mistake_submits_nothing(flows: Flows) -> None:
    name = flows.write("jobs:\n  a: {imagee: IMG, command: [x]}\n  b: {image: IMG, command: [x], needs: [a, c]}\n")
    done = flows.run("check", name)
    assert done.rc == 1
    assert 'f.yaml:2: jobs.a: no key is called "imagee"; did you mean image?' in done.err
    assert 'f.yaml:3: jobs.b.needs: no job is called "c"' in done.err

    for text, message in (
        ("jobs: {a: {image: none.sif, command: [x]}}", "none.sif: no such file"),
        ("jobs: {a: {image: IMG, command: [x], slurm: {partition: none}}}", "jobs.a: sbatch: "),
        ("jobs: {a: {image: IMG, command: [x], task-array: {end: 200000}}}", "is over this cluster's limit"),
        ("jobs: {a: {image: IMG, command: [x], resource: {cpu: {cores: 4000}}}}", "jobs.a: sbatch: "),
        ("jobs: {a: {image: IMG, command: [x], env: [A=secret://user/none]}}", "secret none: "),
    ):
        done = flows.run("submit", flows.write(text))
        assert done.rc == 255 and message in done.err, done
    assert not flows.queue() and not flows.run("list").out


def test_failures_stay_in_their_branch(flows: Flows) -> None:
    text = """
jobs:
  bad: {image: IMG, command: 'exit 7'}
  after: {image: IMG, command: 'touch after', needs: bad}
  later: {image: IMG, command: 'touch later', needs: after}
  good: {image: IMG, command: 'touch good'}
  late:
    image: IMG
    command: sleep 60
    policy: {timeout: {execute: 2s}}
  killed: {image: IMG, command: 'sleep 60'}
  gone: {image: IMG, command: 'touch gone', needs: killed}
  again:
    image: IMG
    command: 'echo >> tries; test $(wc -l < tries) = 3'
    policy: {retry: {attempts: 3}}
  kept: {image: IMG, command: 'touch kept', needs: again}
"""
    name = flows.submit(text)
    until(lambda: flows.states(name)["killed"] == "running", "the job runs")
    number = next(part["job"] for part in flows.status(name)["parts"] if part["name"] == "killed")
    good(flows.cluster.exec(["scancel", str(number)]))
    found = flows.status(name, "--wait")

    assert {part["name"]: part["state"] for part in found["parts"]} == {
        "bad": "failed", "after": "cancelled", "later": "cancelled", "good": "ok", "late": "timeout",
        "killed": "cancelled", "gone": "cancelled", "again": "ok", "kept": "ok",
    }, found  # fmt: skip
    assert found["state"] == "failed" and found["status"] == 124
    parts = {part["name"]: part for part in found["parts"]}
    assert (parts["bad"]["status"], parts["again"]["attempt"]) == (7, 3)
    assert not flows.work.exists("after") and flows.work.exists("kept")
    assert "stopped after 2 s" in flows.logs(name, "late")

    # Slurm has forgotten the jobs: their own files tell the same.
    ids = {part["job"] for part in found["parts"]}
    until(lambda: (flows.work.here / f"flows/{name}/verdict.1.json").exists(), "the verdict")
    (flows.work.here / f"flows/{name}/verdict.1.json").unlink()
    fake = flows.work.write("squeue", "#!/bin/sh\nexit 0\n")
    assert fake and ids
    env = {"PATH": f"{flows.work.path}:/usr/bin:/bin"}
    told = json.loads(flows.run("status", "--json", name, env=env).out)
    assert {part["name"]: part["state"] for part in told["parts"]} == {
        part["name"]: part["state"] for part in found["parts"]
    }


def test_on_failure_cancel(flows: Flows) -> None:
    text = """
on-failure: cancel
jobs:
  long: {image: IMG, command: 'sleep 100'}
  bad: {image: IMG, command: 'until test -e go; do sleep 0.1; done; exit 3'}
  next: {image: IMG, command: 'true', needs: long}
"""
    name = flows.submit(text)
    until(lambda: flows.states(name)["long"] == "running", "the long job runs")
    flows.work.write("go", "")
    assert flows.states(name, "--wait") == {"long": "cancelled", "bad": "failed", "next": "cancelled"}


def test_arrays(flows: Flows) -> None:
    text = """
jobs:
  many:
    image: IMG
    command: 'echo $FB_TASK_ID > many.$FB_TASK_ID; test $FB_TASK_ID != 3 -o -e mended'
    task-array: {start: 2, end: 5, concurrency: 3}
  each:
    image: IMG
    command: 'cat many.$FB_TASK_ID > each.$FB_TASK_ID; echo >> each.runs'
    task-array: {start: 2, end: 5}
    needs: [{name: many, each: true}]
  all: {image: IMG, command: 'cat each.* | wc -l > all', needs: each}
"""
    name = flows.submit(text)
    found = flows.status(name, "--wait")
    states = {part["name"]: part["state"] for part in found["parts"]}
    assert states == {
        "many.2": "ok", "many.3": "failed", "many.4": "ok", "many.5": "ok",
        "each.2": "ok", "each.3": "cancelled", "each.4": "ok", "each.5": "ok", "all": "cancelled",
    }, found  # fmt: skip
    table = flows.run("status", name).out
    assert re.search(r"^many\[3\] +failed ", table, re.M) and re.search(r"^many\[3 elements\] +ok ", table, re.M)

    # Only the element that failed, and what comes after it, runs again.
    flows.work.write("mended", "")
    good(flows.run("resume", "--wait", name))
    assert set(flows.states(name).values()) == {"ok"}
    assert len(flows.work.read("each.runs").splitlines()) == 4
    done = flows.run("resume", name)
    assert done.rc == 255 and "every job is done" in done.err


def test_equal_jobs_are_one_array_of_slurm(flows: Flows) -> None:
    """Twenty equal jobs are one call of sbatch, and every job is still a job of its own."""
    count, bad = 20, {3: "test -e mended", 5: "sleep 1000", 7: "echo >> tries; test $(wc -l < tries) = 2"}
    rows = ["jobs:", "  first: {image: IMG, command: touch first}"]
    rows += [
        f'  a{at}: {{image: IMG, command: \'test -z "$SLURM_ARRAY_JOB_ID$FB_TASK_ID" || exit 9; echo $SLURM_JOB_NAME; '
        f"echo {at} >> a.{at}; {bad.get(at, 'true')}', needs: first, policy: {{retry: {{attempts: {1 + (at == 7)}}}}}}}"
        for at in range(count)
    ]
    rows += [f"  b{at}: {{image: IMG, command: 'cat a.{at} > b.{at}', needs: a{at}}}" for at in range(count)]
    rows += ["  some: {image: IMG, command: 'cat b.1 b.19', needs: [b1, b19]}"]
    rows += [
        f"  all: {{image: IMG, command: 'cat b.* | wc -l', needs: [{', '.join(f'b{at}' for at in range(count))}]}}"
    ]
    text = "\n".join([*rows, ""])

    dry = good(flows.run("submit", "--dry-run", flows.write(text)))
    assert "# a0..a19: an array of 20 jobs of equal shape\nsbatch --job-name=a0..a19 " in dry and "=0-19 " in dry
    name = flows.submit(text)
    ids = (flows.work.here / f"flows/{name}/ids").read_text().splitlines()
    assert len({line.split()[2].partition("_")[0] for line in ids}) == 6  # first, a, b, some, all, .end
    until(lambda: flows.states(name)["a5"] == "running", "the job runs")
    numbers = {part["name"]: part["slurm"] for part in flows.status(name)["parts"]}
    assert re.search(rf"^a5 +running +{numbers['a5']} ", flows.run("status", name).out, re.M)
    good(flows.cluster.exec(["scancel", numbers["a5"]]))
    states = flows.states(name, "--wait")
    wanted = {**dict.fromkeys(numbers, "ok"), "a3": "failed", "a5": "cancelled"}
    wanted.update(dict.fromkeys(("b3", "b5", "all"), "cancelled"))
    assert states == wanted
    assert flows.logs(name, "a4") == "a4\n" and flows.logs(name, "some") == "1\n19\n"
    assert "bollard: a7: attempt 1 of 2 ended with status 1" in flows.logs(name, "a7")
    assert "CANCELLED" in flows.logs(name, "a5")

    # What runs again is too few for an array.
    flows.work.write("mended", "")
    changed = flows.write(text.replace("sleep 1000", "true"), "changed.yaml")
    done = flows.run("resume", "--wait", name, changed)
    assert done.rc == 0 and done.out.splitlines()[0].split()[1:] == ["a3", "a5", "b3", "b5", "all"], done
    assert flows.logs(name, "all") == "23\n"


def test_resume_runs_what_has_changed(flows: Flows) -> None:
    text = """
values: {WORD: one}
jobs:
  a: {image: IMG, command: 'echo >> a.runs'}
  b: {image: IMG, command: 'echo ${WORD} >> b.runs; test ${WORD} = two', needs: a}
  c: {image: IMG, command: 'echo >> c.runs', needs: b}
"""
    name = flows.submit(text)
    assert flows.states(name, "--wait") == {"a": "ok", "b": "failed", "c": "cancelled"}
    # A changed file with a mistake, or with a job that Slurm refuses, leaves the flow as it was.
    for wrong in ("jobs: {a: {}}", "jobs: {a: {image: IMG, command: x, slurm: {partition: none}}}"):
        done = flows.run("resume", name, flows.write(wrong, "wrong.yaml"))
        assert done.rc == 255 and "jobs.a: " in done.err
    assert flows.states(name) == {"a": "ok", "b": "failed", "c": "cancelled"}
    done = flows.run("resume", "--wait", "--set", "WORD=two", name)
    assert done.rc == 0 and done.out.splitlines()[0] == f"{name} b c", done
    assert [len(flows.work.read(f"{job}.runs").splitlines()) for job in "abc"] == [1, 2, 1]


def test_volumes_files_and_transfers(flows: Flows) -> None:
    flows.work.write("input.txt", "from a file\n")
    digest = hashlib.sha256(b"from a file\n").hexdigest()
    path = flows.work.path
    text = f"""
version: v1
files: {{note: "a text\\n"}}
volumes:
  data:
    reference: volume://user/ephemeral
    ingress:
      - source: {{uri: "file://{path}/input.txt"}}
        destination: {{uri: file://in/input.txt}}
        digest: "sha256:{digest}"
      - {{source: {{uri: file://note}}, destination: {{uri: file://in/note}}}}
      - {{source: {{uri: "http://ctl:8765/input.txt"}}, destination: {{uri: file://web/}}}}
    egress:
      - {{source: {{uri: file://out/result}}, destination: {{uri: "file://{path}/result"}}}}
jobs:
  work:
    image: {{uri: IMG}}
    script: |
      #!/bin/sh
      mkdir /data/out; cat /data/in/* /data/web/input.txt /etc/own > /data/out/result; pwd >> /data/out/result
    cwd: /data
    mounts: {{data: {{location: /data}}}}
    files: {{/etc/own: file://note}}
"""
    server = f"cd {path}; exec timeout 100 python3 -m http.server 8765 --bind ctl"
    with flows.cluster.start(server):
        until(lambda: flows.cluster.exec("exec 3<>/dev/tcp/ctl/8765").rc == 0, "the server")
        name = flows.submit(text)
        assert flows.states(name, "--wait") == {"data.in": "ok", "work": "ok", "data.out": "ok"}
    assert flows.work.read("result") == "from a file\na text\nfrom a file\na text\n/data\n"
    until(lambda: (flows.work.here / f"flows/{name}/verdict.1.json").exists(), "the verdict")
    assert not (flows.work.here / f"flows/{name}/volumes/data").exists()

    wrong = text.replace(digest, "0" * 64).replace('"http://ctl:8765/input.txt"', "file://note")
    wrong = wrong.replace("        digest:", "        policy: {retry: {attempts: 1}}\n        digest:")
    name = flows.submit(wrong)
    assert flows.states(name, "--wait") == {"data.in": "failed", "work": "cancelled", "data.out": "cancelled"}
    assert "its digest is sha256:" in flows.logs(name, "data.in")


def test_a_secret_reaches_its_job_alone(flows: Flows) -> None:
    token = "s3cr" + "et-of-alice-93"
    good(flows.cluster.exec("mkdir -p -m 700 ~/.config/bollard/secrets; touch ~/.config/bollard/secrets/flowtest"))
    place = flows.cluster.path("ctl", "/home/alice/.config/bollard/secrets/flowtest")
    place.write_text(token + "\n")
    text = """
jobs:
  has:
    image: IMG
    command: 'test "$TOKEN" = s3cr""et-of-alice-93 && touch has.it; until test -e go; do sleep 0.1; done'
    env: {TOKEN: secret://user/flowtest}
  other: {image: IMG, command: 'env; until test -e go; do sleep 0.1; done'}
"""
    done = flows.run("submit", flows.write(text))
    assert done.rc == 255 and "others can use" in done.err
    place.chmod(0o600)
    name = flows.submit(text)
    until(lambda: flows.work.exists("has.it"), "the job has it")
    until(lambda: flows.states(name)["other"] == "running", "the other job runs")
    seen = []
    for node in flows.cluster.nodes():
        line = "grep -rlaF s3cret-of-alice-93 /var/spool /var/lib/slurm* /var/log /tmp /run/slurm* 2>/dev/null"
        seen += flows.cluster.exec(line, node=node, user="root").out.split()
    numbers = [part["job"] for part in flows.status(name)["parts"]]
    shown = flows.cluster.exec(
        f"for j in {' '.join(map(str, numbers))}; do scontrol show job -d $j; scontrol write batch_script $j -; done"
    )
    flows.work.write("go", "")
    assert set(flows.states(name, "--wait").values()) == {"ok"}
    seen += flows.cluster.exec(f"grep -rlaF s3cret-of-alice-93 {flows.work.path}").out.split()
    good(flows.cluster.exec("rm -r ~/.config/bollard"))
    assert not seen and token not in shown.out and token not in flows.logs(name, "other")


def test_many_nodes(flows: Flows, cluster: Cluster, images: Images) -> None:
    kind = MPI[cluster.suite]
    program = "ompi_ring" if kind == "pmix" else "mpich_ring"
    implementation = "openmpi" if kind == "pmix" else "mpich"
    text = f"""
version: v1
jobs:
  make: {{image: {{uri: "{images.mpi}"}}, command: [touch, made]}}
  ring:
    image: {{uri: "{images.mpi}"}}
    command: [/opt/mpi/{program}]
    resource: {{cpu: {{cores: 2, affinity: CORE}}, memory: {{size: 100MiB}}}}
    multinode: {{nodes: 2, implementation: {implementation}, procsPerNode: 1}}
    depends-on: [{{name: make, status: FINISHED}}]
  hosts:
    image: {{uri: "{images.mpi}"}}
    command: [sh, -c, 'echo $MULTINODE_HOSTLIST $MULTINODE_HOSTLIST_NOSLOTS $MULTINODE_TOTAL_SLOTS']
    resource: {{cpu: {{cores: 3}}}}
    multinode: {{nodes: 2, implementation: generic}}
    requires: [make]
"""
    name = flows.submit(text)
    assert flows.states(name, "--wait") == {"make": "ok", "ring": "ok", "hosts": "ok"}, flows.logs(name, "ring")
    assert re.fullmatch(r"(n\d):3,(n\d):3 \1,\2 6\n", flows.logs(name, "hosts"))


def test_cancel_and_list(flows: Flows) -> None:
    text = """
volumes: {v: {use: ephemeral}}
jobs:
  long: {image: IMG, command: 'touch /v/x; sleep 100', mounts: {/v: v}}
  next: {image: IMG, command: 'true', needs: long}
"""
    name = flows.submit(text)
    until(lambda: flows.states(name) == {"long": "running", "next": "waiting"}, "the job runs")
    good(flows.run("cancel", name))
    until(lambda: not flows.queue(), "an empty queue")
    assert flows.states(name, "--wait") == {"long": "cancelled", "next": "cancelled"}
    assert flows.run("list").out.split()[:2] == [name, "cancelled"]
    good(flows.run("cancel", "--remove", name[:-2]))
    assert not flows.run("list").out


def test_dry_run_and_graph(flows: Flows) -> None:
    file = flows.write("jobs:\n  a: {image: IMG, command: [echo, a]}\n  b: {image: IMG, command: [x], needs: a}\n")
    shown = good(flows.run("submit", "--dry-run", file))
    assert "# b  after a" in shown and "echo a" in shown and not flows.queue() and not flows.run("list").out
    assert flows.run("graph", file).out == "  1  a\n  2  b  ← a\n"
    assert good(flows.run("graph", "--format", "svg", file)).startswith("<svg ")


def test_a_node_that_dies(flows: Flows) -> None:
    text = """
jobs:
  moved:
    image: IMG
    command: 'touch started.$SLURM_RESTART_COUNT; until test -e go; do sleep 0.1; done'
    slurm: {nodelist: n2}
  after: {image: IMG, command: 'touch after', needs: moved}
  lost: {image: IMG, command: 'touch lost.started; sleep 1000', slurm: {no-requeue: , nodelist: n2}}
"""
    name = flows.submit(text)
    until(lambda: flows.work.exists("started.") and flows.work.exists("lost.started"), "both run")
    flows.cluster.front("kill", "--node", "n2")
    try:
        until(lambda: flows.states(name)["lost"] == "lost", "Slurm sees it", 120)
        assert flows.states(name)["moved"] in ("waiting", "held") and flows.states(name)["after"] == "waiting"
    finally:
        flows.cluster.front("up", "--plugin")
    flows.work.write("go", "")
    assert flows.states(name)["moved"] != "ok"
    good(flows.run("cancel", name))


# (system call, its number): at each of these, submit of the flow below is killed.
POINTS = [
    *(("fsync", at) for at in range(1, 9)),
    *(("rename", at) for at in range(1, 7)),
    *(("vfork", at) for at in range(1, 8)),
    *(("wait4", at) for at in range(1, 7)),
]


def test_submit_is_killed_at_any_point(flows: Flows) -> None:
    if flows.cluster.release < (21, 0):
        pytest.skip("Python 3.9 starts programs by another system call")
    file = flows.write("""
jobs:
  a: {image: IMG, command: [touch, ran]}
  b: {image: IMG, command: [touch, ran], needs: a}
  c: {image: IMG, command: [touch, ran]}
""")
    line = f"""
export BOLLARD_FLOWS={flows.folder} PYTHONDONTWRITEBYTECODE=1
printf '%s\\n' {" ".join(f"{call}:{at}" for call, at in POINTS)} | xargs -P3 -I@ sh -c '
    point=@; strace -qq -o /dev/null -e trace=${{point%:*}} -e inject=${{point%:*}}:signal=KILL:when=${{point#*:}} \\
        bollard flow submit {file} >> ids; echo $? >> statuses'
"""
    done = flows.cluster.exec(line, cwd=flows.work.path, seconds=300)
    assert flows.work.read("statuses").split() == ["137"] * len(POINTS), done
    assert not flows.work.read("ids")
    until(lambda: not flows.cluster.named("ctl", "sbatch", "scontrol"), "the commands that were started have ended")
    assert all(re.fullmatch(r"\d+ \S+ PENDING (JobHeldUser|Dependency)", row) for row in flows.queue().splitlines())
    assert len(flows.queue().splitlines()) > len(POINTS)  # some were killed late
    listed = flows.run("list").out.splitlines()
    assert len(listed) > 20 and all(row.split()[1] in ("held", "unfinished") for row in listed), listed

    names = " ".join(row.split()[0] for row in listed)
    good(flows.cluster.exec(f"printf '%s\\n' {names} | xargs -P2 -n1 bollard flow cancel", env=flows.env, seconds=300))
    until(lambda: not flows.queue(), "an empty queue")
    assert not flows.run("list").out and not flows.work.exists("ran")
