# SPDX-License-Identifier: BSD-3-Clause
"""Jobs of equal shape as arrays: which are bundled, and that every job waits for what it waited for alone."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bollard.runtime.flow import bundle, folder, script, state
from bollard.runtime.flow.batch import BatchJob, Need
from bollard.runtime.flow.bundle import LEAST, Ref


def job(name, *needs, options=("--ntasks=1",), indexes=(), kind="job"):
    own = (f"--job-name={name}", f"--output=/f/logs/{name}.out", *options)
    return BatchJob(name, kind, tuple(Need(need, False) for need in needs), own, indexes, 0, "")


def handed_over(calls):
    """The value of --dependency of each call, with numbers as sbatch gives them: 1, 2, ..."""
    refs, sizes, edges = {}, {}, {}
    for number, call in enumerate(calls, 1):
        edges[call.name] = bundle.dependency(call, refs, sizes)
        refs.update(call.refs(number))
        sizes[number] = len(call.elements)
    return edges


def waits(calls):
    """What each job waits for, as Slurm understands the dependencies."""
    numbers = {str(ref): name for call, number in zip(calls, range(1, 9999)) for name, ref in call.refs(number).items()}
    whole = {str(number): [job.name for job in call.jobs] for number, call in enumerate(calls, 1)}
    found = {}
    for call, edge in zip(calls, handed_over(calls).values()):
        for at, one in enumerate(call.jobs):
            found[one.name] = set()
            for word, _, ids in (part.partition(":") for part in edge.split(",") if part):
                for ref in ids.split(":"):
                    if word == "aftercorr":
                        found[one.name].add(numbers[f"{ref}_{call.elements[at]}"])
                    else:
                        found[one.name].update([numbers[ref]] if "_" in ref else whole[ref])
    return found


def test_a_fan_and_chains():
    first, last = job("first"), job("last", *(f"c{at}" for at in range(40)))
    jobs = [first, *(job(f"a{at}", "first") for at in range(40)), *(job(f"b{at}", f"a{at}") for at in range(40)),
            *(job(f"c{at}", f"b{at}", "first") for at in range(40)), last, job(".end", kind="end")]  # fmt: skip
    calls = bundle.of(jobs, 1000)

    assert handed_over(calls) == {
        "first": "", "a0..a39": "afterok:1", "b0..b39": "aftercorr:2", "c0..c39": "aftercorr:3,afterok:1",
        "last": "afterok:4", ".end": "afterany:1:2:3:4:5",
    }  # fmt: skip
    assert (calls[1].array, calls[1].options) == ("0-39", ["--job-name=a0..a39", "--ntasks=1"])


def test_what_is_not_bundled():
    few = [job(f"f{at}") for at in range(LEAST - 1)]
    shapes = [job(f"s{at}", options=(f"--mem={at}",)) for at in range(LEAST)]
    arrays = [job(f"r{at}", indexes=(1, 2), options=("--x",)) for at in range(LEAST)]
    moves = [job(f"v{at}.in", kind="ingress", options=("--y",)) for at in range(LEAST)]
    many = [job(f"m{at}", options=("--z",)) for at in range(LEAST)]

    assert not any(call.elements for call in bundle.of([*few, *shapes, *arrays, *moves], 1000))
    assert not any(call.elements for call in bundle.of(many, 0))
    assert [len(call.jobs) for call in bundle.of(many * 1, 1000)] == [LEAST]


def test_a_bundle_is_cut_where_arrays_end():
    calls = bundle.of([*(job(f"a{at}") for at in range(55)), job("z", "a3", "a54")], 25)

    assert [call.name for call in calls] == ["a0..a24", "a25..a49", "a50..a54", "z"]
    assert handed_over(calls)["z"] == "afterok:1_3:3_4"


def test_diamonds_side_by_side():
    jobs = []
    for at in range(30):
        jobs += [job(f"t{at}"), job(f"l{at}", f"t{at}"), job(f"r{at}", f"t{at}"), job(f"b{at}", f"l{at}", f"r{at}")]
    edges = handed_over(bundle.of(jobs, 1000))

    assert edges == {"t0..t29": "", "l0..l29": "aftercorr:1", "r0..r29": "aftercorr:1", "b0..b29": "aftercorr:2:3"}


def test_the_canceller_sees_each_element():
    calls = bundle.of([*(job(f"a{at}") for at in range(LEAST)), job(".cancel", kind="cancel")], 1000)

    assert handed_over(calls)[".cancel"] == "?".join(f"afternotok:1_{at}" for at in range(LEAST))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_job_waits_for_what_it_needs(data):
    jobs = []
    for level in range(data.draw(st.integers(1, 4))):
        before = [one.name for one in jobs]
        shared = data.draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        step, count = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 50))
        for at in range(count):
            own = [f"j{level - 1}-{at * step}"] if step and f"j{level - 1}-{at * step}" in before else []
            jobs.append(job(f"j{level}-{at}", *dict.fromkeys([*own, *shared])))
    calls = bundle.of(jobs, data.draw(st.sampled_from([0, 25, 1000])))

    assert waits(calls) == {one.name: {need.name for need in one.needs} for one in jobs}


def test_an_element_is_its_job_alone(tmp_path):
    """The script of a bundle, run by bash as slurmd runs it for element 3."""
    jobs = [job(f"a{at}") for at in range(LEAST)]
    (call,) = bundle.of(jobs, 1000)
    for part in ("jobs", "state", "logs"):
        (tmp_path / part).mkdir()
    folder.reserve(tmp_path, ["a3"])
    command = ["sh", "-c", 'echo "$SLURM_JOB_NAME $FB_TASK_ID $(env | grep -c SLURM_ARRAY)"; exit 4']
    own = script.text("a3", str(tmp_path), 1, [], command=command, cancel_others=True)
    (tmp_path / "jobs/a3.sh").write_text(own)
    (tmp_path / "ids").write_text("1 b 6\n1 a0..a19 7\n1 a2 7_2\n1 a3 7_3\n1 .end 8\n0 c 5\n")
    scancel = tmp_path / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/cancelled\n')
    scancel.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "10", "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "20", "SLURM_JOB_NAME": call.name,
    }  # fmt: skip
    (tmp_path / "bundle.sh").write_text(bundle.script(call, str(tmp_path), ["--array=0-19"]))
    done = subprocess.run(
        ["bash", str(tmp_path / "bundle.sh")], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (4, "a3  0\n")
    wrote = state.read(tmp_path / "state/a3")
    assert (wrote.state, wrote.job, wrote.status) == ("failed", 7, 4)
    assert (tmp_path / "cancelled").read_text().split() == ["--quiet", "6", "7_2"]


def test_the_jobs_of_a_bundle_are_noted(tmp_path):
    folder.note(tmp_path, 1, {"a0..a19": Ref(7), "a0": Ref(7, 0), "a1": Ref(7, 1)})
    folder.note(tmp_path, 1, {"b": Ref(8)})

    assert folder.ids(tmp_path, 1) == {"a0": Ref(7, 0), "a1": Ref(7, 1), "b": Ref(8)}
    assert folder.submitted(tmp_path) == [("a0..a19", 7), ("b", 8)]
    assert [str(ref) for ref in folder.ids(tmp_path, 1).values()] == ["7_0", "7_1", "8"]


@pytest.mark.parametrize("line", ["1 a 7_", "1 a _3", "1 a 7_x", "1 a x"])
def test_a_cut_line_is_no_job(tmp_path, line):
    (tmp_path / "ids").write_text(f"1 b 6\n{line}")

    assert folder.ids(tmp_path, 1) == {"b": Ref(6)}
