# SPDX-License-Identifier: BSD-3-Clause
"""Jobs of equal shape as one array of Slurm: one call of sbatch for a thousand of them.

Each job keeps its name, script, log, state file and key. Element I of the array runs the script of one job, which sees
nothing of the array. Jobs are bundled that have the same options of sbatch, and
* either need the same jobs: the array has one dependency, afterok;
* or each need element I of the same bundles: then each is element I itself, and the dependency is aftercorr.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bollard.runtime.flow import batch, graph
from bollard.runtime.flow.batch import BatchJob

LEAST = 20  # jobs; fewer stay jobs of their own, which people find in squeue by their names


class Ref(NamedTuple):
    """A job of Slurm, or an element of an array. `element` is -1 for a job that is no array, or a whole array."""

    job: int
    element: int = -1

    def __str__(self) -> str:
        """Return it as scancel takes it."""
        return str(self.job) if self.element < 0 else f"{self.job}_{self.element}"


@dataclass(frozen=True)
class Bundle:
    """One call of sbatch.

    name: the job's, or FIRST..LAST of the jobs of a bundle.
    jobs: one job, or those of the elements.
    elements: their numbers; () for one job.
    each: a job of each bundle whose element I has to succeed before element I. All other needs are those of every job.
    """

    name: str
    jobs: tuple[BatchJob, ...]
    elements: tuple[int, ...] = ()
    each: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """Return sbatch's options without dependency, --array and --output of a bundle."""
        first = self.jobs[0]
        if not self.elements:
            return list(first.options)
        return [f"--job-name={self.name}", *(word for word in first.options if not word.startswith(_OWN))]

    @property
    def array(self) -> str:
        """Return the value of --array; "" for none."""
        first = self.jobs[0]
        indexes = self.elements or first.indexes
        return batch.array_option(indexes, first.concurrency) if indexes else ""

    def refs(self, number: int) -> dict[str, Ref]:
        """Return the job of Slurm for each job of the flow, when sbatch has given this number."""
        if not self.elements:
            return {self.name: Ref(number)}
        return {job.name: Ref(number, element) for job, element in zip(self.jobs, self.elements)}


# Options, single jobs that are needed, bundles of which an element is needed.
_Needs = tuple[tuple[str, ...], frozenset[str], frozenset[str]]
_OWN = ("--job-name=", "--output=")


def of(jobs: Sequence[BatchJob], limit: int) -> list[Bundle]:
    """Return the calls of sbatch for these jobs, each after those that it needs; .cancel and .end are last.

    jobs: all that is submitted.
    limit: how many elements an array can have.
    """
    last = [job for job in jobs if job.kind in ("cancel", "end")]
    names = {job.name: job for job in jobs if job not in last}
    edges = {name: [need.name for need in job.needs if need.name in names] for name, job in names.items()}
    places: dict[str, tuple[str, int]] = {}  # first job of the bundle and element, of each bundled job
    found: list[Bundle] = []
    for level in graph.levels(edges):
        for bundle in _level([names[name] for name in level], edges, places, limit):
            places.update({job.name: (bundle.jobs[0].name, at) for job, at in zip(bundle.jobs, bundle.elements)})
            found.append(bundle)
    return [*found, *(Bundle(job.name, (job,)) for job in last)]


def _level(
    jobs: Sequence[BatchJob], edges: Mapping[str, list[str]], places: Mapping[str, tuple[str, int]], limit: int
) -> list[Bundle]:
    """Return the bundles of jobs that do not need one another; `of` has the parameters."""
    alike: dict[object, list[BatchJob]] = {}
    for job in jobs:
        alike.setdefault((job.shape, frozenset(edges[job.name])) if _can(job) else job.name, []).append(job)
    found: list[Bundle] = []
    rest: list[BatchJob] = []
    for group in alike.values():
        if len(group) < LEAST or limit < LEAST:
            rest += group
            continue
        for at in range(0, len(group), limit):
            some = tuple(group[at : at + limit])
            found.append(_bundle(some, tuple(range(len(some))), ()))
    corresponding: dict[tuple[_Needs, int], dict[int, BatchJob]] = {}
    for job in rest:
        above = [places[name] for name in edges[job.name] if name in places]
        numbers = {element for _, element in above}
        if not _can(job) or len(numbers) != 1:
            found.append(Bundle(job.name, (job,)))
            continue
        (number,) = numbers
        needs = (job.shape, frozenset(edges[job.name]) - set(places), frozenset(first for first, _ in above))
        rank = 0
        while number in corresponding.setdefault((needs, rank), {}):
            rank += 1
        corresponding[needs, rank][number] = job
    for (needs, _), members in corresponding.items():
        if len(members) < LEAST:
            found += [Bundle(job.name, (job,)) for job in members.values()]
        else:
            numbers_in_order = sorted(members)
            some = tuple(members[number] for number in numbers_in_order)
            found.append(_bundle(some, tuple(numbers_in_order), tuple(sorted(needs[2]))))
    return found


def _can(job: BatchJob) -> bool:
    return job.kind == "job" and not job.indexes


def _bundle(jobs: tuple[BatchJob, ...], elements: tuple[int, ...], each: tuple[str, ...]) -> Bundle:
    return Bundle(f"{jobs[0].name}..{jobs[-1].name}", jobs, elements, each)


def dependency(bundle: Bundle, refs: Mapping[str, Ref], sizes: Mapping[int, int], partial: Iterable[str] = ()) -> str:
    """Return the value of --dependency; "" for none.

    bundle: what is submitted.
    refs: the jobs of Slurm by name, of all that was submitted before.
    sizes: the number of elements of each bundle, by the number of its job.
    partial: arrays of the flow file of which only some elements are submitted.
    """
    first = bundle.jobs[0]
    if first.kind == "end":
        numbers = dict.fromkeys(ref.job for name, ref in refs.items() if not name.startswith("."))
        return "afterany:" + ":".join(map(str, numbers))
    if first.kind == "cancel":
        return "?".join(f"afternotok:{ref}" for ref in refs.values())
    # Of an array that is submitted again in parts, element I may have no element I before it.
    parts = {first.name, *(need.name for need in first.needs)} & set(partial)
    words: dict[str, list[Ref]] = {}
    corresponding = {refs[name].job for name in bundle.each}
    for need in first.needs:
        if need.name not in refs:
            continue
        ref = refs[need.name]
        if ref.job in corresponding:
            words.setdefault("aftercorr", []).append(Ref(ref.job))
        else:
            each = need.each and not {first.name, need.name} & parts
            words.setdefault("aftercorr" if each else "afterok", []).append(ref)
    return ",".join(":".join([word, *_short(found, sizes)]) for word, found in words.items())


def _short(refs: Sequence[Ref], sizes: Mapping[int, int]) -> list[str]:
    """Return the jobs for a dependency: a bundle of which all elements are there is one number."""
    counts: dict[int, int] = {}
    for ref in refs:
        counts[ref.job] = counts.get(ref.job, 0) + 1
    whole = {job for job, count in counts.items() if count == sizes.get(job, 0)}
    return list(dict.fromkeys(str(ref.job) if ref.job in whole else str(ref) for ref in refs))


def script(bundle: Bundle, folder: str, options: Sequence[str]) -> str:
    """Return the batch script of a bundle: it runs the script of the element's job, which sees no array.

    bundle: the bundle.
    folder: the flow's directory.
    options: sbatch's options, for a comment.
    """
    names = " ".join(f"[{element}]={job.name}" for job, element in zip(bundle.jobs, bundle.elements))
    shown = " ".join(shlex.quote(word) for word in options).replace("\n", " ")
    return (
        f"#!/bin/bash\n# Made by `bollard flow`: {len(bundle.jobs)} jobs of equal shape. Submitted by: sbatch {shown}\n"
        f"names=({names})\n"
        "export SLURM_JOB_NAME=${names[SLURM_ARRAY_TASK_ID]}\n"
        "set -- $SLURM_ARRAY_JOB_ID ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\n"
        'unset "${!SLURM_ARRAY_@}"\n'
        f'. {shlex.quote(folder)}/jobs/"$SLURM_JOB_NAME.sh" "$@"\n'
    )
