# SPDX-License-Identifier: BSD-3-Clause
"""How a flow stands, and what wait, cancel, list and resume make of it. squeue and scancel are programs of the test."""

from __future__ import annotations

import json
import os

import pytest

from bollard.runtime.cli import flow as command
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import batch, bundle, ending, folder, secret, slurm, state, submission
from bollard.runtime.flow.bundle import Ref
from bollard.runtime.flow.slurm import Row

FLOW = "values: {%s}\njobs:\n  a: {image: i.sif, command: [x]}\n  b: {image: i.sif, command: [x], needs: a}\n"


class Flows:
    """Flows in a directory of the test, and a Slurm that says what the test has told it."""

    def __init__(self, top):
        self.top = top
        for name in ("flows", "bin"):
            (top / name).mkdir()
        self.slurm()
        self.tool("scancel", f'echo "$@" >> {top}/cancelled; for n in "$@"; do sed -i "/^$n|/d" {top}/rows; done')

    def tool(self, name, text):
        path = self.top / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def slurm(self, *rows):
        (self.top / "rows").write_text("".join(f"{row}\n" for row in rows))
        self.tool("squeue", f"cat {self.top}/rows")

    def make(self, name="f-1", *, released=True, **jobs):
        """Make a flow; `jobs` are {name: (number, state)}, with an empty state for a job that wrote nothing."""
        path = self.top / "flows" / name
        for part in ("jobs", "state", "logs", "images"):
            (path / part).mkdir(parents=True)
        plan = [
            {"name": job, "kind": "job", "key": "", "skipped": False, "all": [], "indexes": [], "needs": []}
            for job in jobs
        ]
        text = {"generation": 1, "sets": {}, "workdir": str(self.top), "jobs": plan, "volumes": {}, "ephemeral": [],
                "moves": {}, "texts": {}, "edges": {}}  # fmt: skip
        folder.write(path / "plan.json", json.dumps(text))
        folder.reserve(path, list(jobs))
        for job, (number, word) in jobs.items():
            folder.note(path, 1, {job: Ref(number)})
            if word:
                line = f"state={word} job={number} start=1 end=2 status=143 attempt=1"
                (path / "state" / job).write_text(line.ljust(folder.RESERVED - 2) + ".\n")
        if released:
            folder.mark(path, "released", 1)
        return path

    def run(self, verb, *words, **options):
        return command.run(verb, list(options.items()), list(words))

    def cancelled(self):
        path = self.top / "cancelled"
        return sorted({word for word in path.read_text().split() if word.isdigit()}) if path.exists() else []


@pytest.fixture
def flows(tmp_path, monkeypatch):
    monkeypatch.setenv("BOLLARD_FLOWS", str(tmp_path / "flows"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_PAUSE", 0)
    return Flows(tmp_path)


@pytest.mark.parametrize("comment", ["", "site: seen", "(null)", "bollard:f-1.1"])
def test_jobs_whose_comment_was_replaced(flows, comment):
    path = flows.make(a=(5, "running"), b=(6, ""))
    folder.note(path, 1, {".end": Ref(7)})
    flows.slurm(f"5|N/A|RUNNING|None|n1|a|{comment}", f"6|N/A|PENDING|Dependency||b|{comment}",
                f"7|N/A|PENDING|Dependency||f-1.end|{comment}", f"8|N/A|RUNNING|None|n1|a|{comment[:5]}")  # fmt: skip

    assert [part.state for part in state.of(path).parts] == ["running", "waiting"]
    flows.run("cancel", "f-1")
    assert flows.cancelled() == ["5", "6", "7"]


def test_another_job_with_the_number_of_an_old_one_is_not_cancelled(flows):
    flows.make(a=(5, "running"))
    flows.slurm("5|N/A|RUNNING|None|n1|bash|")
    flows.run("cancel", "f-1")

    assert not flows.cancelled()


@pytest.mark.parametrize(
    ("word", "wanted", "code"),
    [("TIMEOUT", "timeout", 124), ("DEADLINE", "timeout", 124), ("OUT_OF_MEMORY", "failed", 143),
     ("NODE_FAIL", "lost", 255), ("CANCELLED", "cancelled", 130), ("PREEMPTED", "cancelled", 130)],
)  # fmt: skip
def test_slurm_knows_why_a_job_was_stopped(flows, word, wanted, code):
    path = flows.make(a=(5, "cancelled"))
    flows.slurm(f"5|N/A|{word}|None|n1|a|bollard:f-1.1")
    found = state.of(path)

    assert (found.parts[0].state, found.code) == (wanted, code)
    # The script took the end of an earlier time limit for its own.
    line = "state=timeout job=5 start=1 end=2 status=143 attempt=1"
    (path / "state/a").write_text(line.ljust(folder.RESERVED - 2) + ".\n")
    assert state.of(path).parts[0].state == wanted
    flows.slurm()
    assert state.of(path).parts[0].state == "timeout"
    assert (
        state.resolved(state.Record("ok", 5, 1, 2), Row(5, -1, word, "", "", ""), 5, released=True, answered=True)[0]
        == "ok"
    )


def test_waiting_goes_on_while_a_job_is_held(flows, capsys):
    """The job is held when squeue is asked first, and is over the second time."""
    flows.make(a=(5, ""))
    flows.tool(
        "squeue",
        f"if mkdir {flows.top}/asked 2> /dev/null; then word=PENDING; else word=FAILED; fi\n"
        'echo "5|N/A|$word|JobHeldUser||a|bollard:f-1.1"',
    )

    assert flows.run("status", "f-1", wait="1") == 1
    assert "flow f-1: failed" in capsys.readouterr().out


def test_waiting_for_a_submission_that_was_cut_off(flows, capsys):
    flows.make(a=(5, ""), released=False)
    flows.slurm("5|N/A|PENDING|JobHeldUser||a|bollard:f-1.1")
    with pytest.raises(BollardError, match="was cut off, so it does not start; bollard flow cancel f-1") as caught:
        flows.run("status", "f-1", wait="1")
    assert caught.value.code == 255 and "flow f-1: held" in capsys.readouterr().out


def test_a_submission_that_still_runs_is_not_cut_off(flows):
    path = flows.make(a=(5, ""), released=False)
    with folder.locked(path, wait=True):
        assert not submission.is_cut_off(path)
    assert submission.is_cut_off(path)
    folder.mark(path, "released", 1)
    assert not submission.is_cut_off(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"generation": 1}', '{"generation": "1", "jobs": []}', "\x00"])
def test_a_damaged_plan(flows, capsys, text):
    path = flows.make(a=(5, "running"))
    flows.make("f-2", a=(6, "ok"))
    (path / "plan.json").write_text(text)
    flows.slurm("5|N/A|RUNNING|None|n1|a|bollard:f-1.1")

    assert flows.run("list") == 0
    assert sorted(line.split() for line in capsys.readouterr().out.splitlines()) == [
        ["f-1", "damaged", "0/0", "done"], ["f-2", "ok", "1/1", "done"],
    ]  # fmt: skip
    for verb in ("status", "cancel"):
        with pytest.raises(folder.Damaged, match="is damaged; bollard flow cancel --remove f-1"):
            flows.run(verb, "f-1")
    assert flows.run("cancel", "f-1", remove="1") == 0
    assert flows.cancelled() == ["5"] and not path.exists()


def test_a_plan_that_cannot_be_read_is_not_damaged(flows, capsys):
    path = flows.make(a=(5, "running"))
    (path / "plan.json").unlink()
    (path / "plan.json").mkdir()

    assert flows.run("list") == 0 and "unreadable" in capsys.readouterr().out
    with pytest.raises(BollardError, match="Is a directory"):
        flows.run("cancel", "f-1", remove="1")
    assert path.exists()


@pytest.mark.parametrize("word", ["RUNNING", "PENDING"])
def test_no_verdict_while_a_job_is_open(flows, monkeypatch, word):
    path = flows.make(a=(5, "ok"), b=(6, ""))
    flows.slurm(f"6|N/A|{word}|None|n1|b|bollard:f-1.1")
    monkeypatch.setattr(ending, "_PATIENCE", 0)
    with pytest.raises(BollardError, match="no verdict: b is still"):
        ending.end(path)
    assert not list(path.glob("verdict*"))
    flows.slurm("6|N/A|COMPLETED|None|n1|b|bollard:f-1.1")
    ending.end(path)
    assert list(path.glob("verdict*"))


def test_a_value_that_a_changed_file_has_dropped(flows, monkeypatch):
    """resume goes on to the image, which is not there."""
    path = flows.make(a=(5, "failed"), b=(6, "cancelled"))
    plan = json.loads((path / "plan.json").read_text())
    folder.write(path / "plan.json", json.dumps({**plan, "sets": {"WORD": "x", "KEPT": "y"}}))
    source = flows.top / "new.yaml"
    source.write_text(FLOW % "KEPT: a")
    monkeypatch.setattr(
        submission, "_run", lambda found, source, place, number, sets, *more: [f"{number}", *sets.values()]
    )

    assert submission.resume(path, str(source), {}) == ["2", "y"]
    with pytest.raises(BollardError, match="--set WORD: the file has no such value"):
        submission.resume(path, str(source), {"WORD": "z"})


def test_a_fetched_image_is_linked_before_it_is_removed(flows, monkeypatch, tmp_path):
    from bollard.runtime.build import conversion
    from bollard.runtime.image import image

    class Opened:
        def digest(self):
            return ""

        def close(self):
            pass

    file = tmp_path / "fetched.sif"
    file.write_text("content")
    monkeypatch.setattr(image, "open_image", lambda path, machine: Opened())
    pulled = conversion.Pulled(str(file), file.unlink, "docker://h/i@sha256:1")
    monkeypatch.setattr(conversion, "image_of", lambda name, settings: pulled)
    path = flows.make()
    found = submission._image("docker://h/i", "", path, str(tmp_path), dry=False)

    assert found.digest == "docker://h/i@sha256:1" and not found.stamp and not file.exists()
    with open(found.path) as kept:
        assert kept.read() == "content"


def test_a_login_of_a_registry_is_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    place = tmp_path / "bollard/secrets/s"
    place.parent.mkdir(parents=True)
    for text in ("token: t\n", "username: u\n", "password: p\n"):
        place.write_text(text)
        place.chmod(0o600)
        assert secret.login("s", os.environ)
        with pytest.raises(BollardError, match="secret s: the login of a registry needs username and password"):
            submission._fetched("docker://h/i", "s")


NEW = "MPI plugin types are...\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4\n"
OLD = "srun: MPI types are...\nsrun: cray_shasta\nsrun: pmix\nsrun: pmix_v3\n"
LISTS = {NEW: ("none", "pmi2", "pmix_v4"), OLD: ("cray_shasta", "pmix", "pmix_v3"), "": ()}


@pytest.mark.parametrize("text", LISTS)
def test_types_of_mpi(flows, text):
    (flows.top / "list").write_text(text)
    flows.tool("srun", f"cat {flows.top}/list >&2")

    assert slurm.mpi_types() == LISTS[text]


def test_a_record_that_cannot_be_read_is_not_one_of_a_waiting_job(tmp_path):
    assert state.read(tmp_path / "none").state == "waiting"
    (tmp_path / "job").mkdir()  # reading it gives EISDIR
    with pytest.raises(BollardError, match=r"/job: cannot be read: Is a directory"):
        state.read(tmp_path / "job")


def test_records_of_jobs_that_ended_are_read_once(flows, monkeypatch):
    """A flow may have ten thousand jobs."""
    path = flows.make(a=(5, "ok"), b=(6, "failed"), c=(7, "running"))
    for name, number in (("a", 5), ("b", 6)):
        text = f"state={'ok' if name == 'a' else 'failed'} job={number} start=1 end=2 status=0 attempt=1"
        (path / "state" / name).write_text(text.ljust(folder.RESERVED - 2) + ".\n")
    flows.slurm("5|N/A|COMPLETED|None|n1|a|bollard:f-1.1", "7|N/A|RUNNING|None|n1|c|bollard:f-1.1")
    seen, real = [], state.read

    def read(path):
        seen.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(state, "read", read)
    assert [part.state for part in state.of(path).parts] == ["ok", "failed", "running"]
    assert sorted(seen) == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("kind", "count", "wanted"),
    [("job", 10_000, ""), ("job", 11_000, "jobs.z: needs 11000 jobs, over 10908"), ("end", 10_000, ""),
     ("end", 11_000, "the flow has 11000 jobs, over 10908"), ("cancel", 6000, "on-failure: cancel: the flow has 6000")],
)  # fmt: skip
def test_too_many_edges_are_refused_before_anything_is_submitted(kind, count, wanted):
    needs = tuple(batch.Need(f"j{at}", False) for at in range(count))
    jobs = [batch.BatchJob(need.name, "job", (), (), (), 0, "") for need in needs]
    last = batch.BatchJob("z" if kind == "job" else f".{kind}", kind, needs if kind == "job" else (), (), (), 0, "")
    calls = bundle.of([*jobs, last], 0)
    assert len(calls) == count + 1
    if not wanted:
        submission._refuse_long_edges(calls)
    else:
        with pytest.raises(BollardError, match=wanted):
            submission._refuse_long_edges(calls)
    # As arrays of equal jobs they are no many.
    submission._refuse_long_edges(bundle.of([*jobs, last], 1000)[: None if kind != "cancel" else -1])


def test_a_directory_that_cannot_be_written_keeps_no_job_alive(flows, monkeypatch):
    path = flows.make(a=(5, "running"))
    flows.slurm("5|N/A|RUNNING|None|n1|a|bollard:f-1.1")

    def full(place, *more):
        raise BollardError(f"{place}: cannot be written: No space left on device", "make room")

    monkeypatch.setattr(folder, "write", full)
    with pytest.raises(BollardError, match=r"the jobs are cancelled, but .*cancelled.1: cannot be written"):
        flows.run("cancel", "f-1")
    assert flows.cancelled() == ["5"]

    flows.slurm("5|N/A|RUNNING|None|n1|a|bollard:f-1.1")
    (path / "lock").touch()  # with it, a mark needs no room
    flows.run("cancel", "f-1")
    assert folder.marked(path, "cancelled", 1)


def test_a_number_that_cannot_be_noted_names_the_file(flows):
    path = flows.make()
    (path / "ids").symlink_to("/dev/full")
    with pytest.raises(BollardError, match=r"ids: cannot be written: .*"):
        folder.note(path, 1, {"a": Ref(5)})


def test_a_flow_is_removed_when_its_jobs_have_ended(flows, monkeypatch):
    path = flows.make(a=(5, "running"))
    flows.slurm("5|N/A|RUNNING|None|n1|a|bollard:f-1.1")
    flows.tool("scancel", "exit 0")
    monkeypatch.setattr(submission, "_END", 0)
    with pytest.raises(BollardError, match="f-1: the jobs are cancelled, and have not ended after 0 s"):
        flows.run("cancel", "f-1", remove="1")
    assert path.exists()

    flows.slurm()
    flows.run("cancel", "f-1", remove="1")
    assert not path.exists()


def test_logs_of_a_job_that_never_ran(flows):
    flows.make(a=(5, "failed"), b=(6, ""))
    with pytest.raises(BollardError, match="b: has no log: it has not started"):
        flows.run("logs", "f-1", "b")
    with pytest.raises(BollardError, match="c: is no job of f-1") as caught:
        flows.run("logs", "f-1", "c")
    assert caught.value.hint == "its jobs are a, b"
