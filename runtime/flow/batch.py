# SPDX-License-Identifier: BSD-3-Clause
"""Compile a flow to batch jobs: sbatch's options, scripts and edges. A pure function; nothing on the machine changes.

Beside the jobs of the file there are: VOLUME.in and VOLUME.out, which move data; .cancel, which cancels the rest after
a failure if the flow says so; .end, which removes volumes and writes the verdict.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import graph, sbatch_options, script, units
from bollard.runtime.flow.flow import Flow, Job, Need, Transfer, Volume
from bollard.runtime.preflight import wireup
from bollard.runtime.request import spec

END, CANCEL = ".end", ".cancel"
# The places of a flow's files in a container.
_INSIDE = "/run/bollard-flow"
_GRACE = 60  # seconds that a batch job may take beside its attempts
_BINDINGS = {"CORE": "cores", "SOCKET": "sockets", "NUMA": "ldoms"}


class Image(NamedTuple):
    """The image of a job: its file, its digest or stamp for the content key, and a stamp to check on the node."""

    path: str
    digest: str
    stamp: str  # size and time; "" for a file of the flow's own


@dataclass(frozen=True)
class Place:
    """What a flow is compiled for: this user, this site, this cluster."""

    folder: str
    generation: int
    workdir: str
    images: Mapping[str, Image]  # by the address in the file
    volumes: Mapping[str, str]  # directory by name
    secrets: Mapping[str, str]  # file by name
    mpi: tuple[str, ...]  # the words of srun --mpi, such as pmix_v4
    command: tuple[str, ...]  # how a node starts bollard

    @property
    def id(self) -> str:
        """The ID of the flow."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True)
class BatchJob:
    """One call of sbatch, without its dependency, which needs the numbers of jobs.

    kind: job, ingress, egress, cancel or end.
    needs: what must succeed before.
    options: sbatch's options.
    indexes: of an array; () for one job.
    concurrency: how many elements run at a time; 0 for all.
    script: the text of the batch script.
    files: further files of it, by their path below the flow's directory.
    """

    name: str
    kind: str
    needs: tuple[Need, ...]
    options: tuple[str, ...]
    indexes: tuple[int, ...]
    concurrency: int
    script: str
    files: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[str, ...]:
        """Return sbatch's options that Slurm's decisions depend on."""
        return tuple(word for word in self.options if not word.startswith(("--job-name=", "--output=", "--comment=")))

    @property
    def parts(self) -> list[str]:
        """The names of its state files."""
        return [f"{self.name}.{index}" for index in self.indexes] or [self.name]


def jobs(flow: Flow, place: Place) -> list[BatchJob]:
    """Return the batch jobs of a flow, each after those that it needs; .cancel and .end are last.

    Raises:
        BollardError: the flow asks for something that this cluster does not have.
    """
    made = {job.name: _job(flow, job, place) for job in flow.jobs}
    for volume in flow.volumes:
        made.update((move.name, move) for move in _moves(flow, volume, place))
    edges = {name: [need.name for need in job.needs] for name, job in made.items()}
    found = [made[name] for name in graph.order(edges)]
    if flow.on_failure == "cancel":
        options = (*_common(flow, place, CANCEL), "--time=5")
        found.append(BatchJob(CANCEL, "cancel", (), options, (), 0, script.canceller(place.folder, place.generation)))
    options = (*_common(flow, place, END), "--time=30")
    ending = script.plain((*place.command, "flow", "part", place.folder, END))
    return [*found, BatchJob(END, "end", (), options, (), 0, ending)]


def edges(flow: Flow) -> dict[str, list[str]]:
    """Return what each job and each transfer of a flow needs, for a picture."""
    found: dict[str, list[str]] = {}
    inputs = {volume.name for volume in flow.volumes if volume.ingress}
    for volume in flow.volumes:
        if volume.ingress:
            found[f"{volume.name}.in"] = []
    for job in flow.jobs:
        found[job.name] = [need.name for need in job.needs]
        found[job.name] += dict.fromkeys(f"{name}.in" for name, _ in job.mounts if name in inputs)
    for volume in flow.volumes:
        if volume.egress:
            found[f"{volume.name}.out"] = _users(flow, volume)
    return found


def _users(flow: Flow, volume: Volume) -> list[str]:
    users = [job.name for job in flow.jobs if volume.name in dict(job.mounts)]
    return users or ([f"{volume.name}.in"] if volume.ingress else [])


def _common(flow: Flow, place: Place, name: str, slurm: tuple[tuple[str, str | None], ...] = ()) -> tuple[str, ...]:
    """Return the options that every batch job has; those below `slurm:` are verbatim, and a job's own come later."""
    return (
        f"--job-name={slurm_name(place.id, name)}",
        f"--comment=bollard:{place.id}.{place.generation}",
        f"--chdir={place.workdir}",
        "--open-mode=append",
        "--requeue",
        *(sbatch_options.argument(key, value) for key, value in _chosen(flow, slurm).items()),
    )


def slurm_name(id: str, name: str) -> str:
    """Return the name that Slurm has for a batch job of the flow with this ID."""
    return id + name if name.startswith(".") else name


def _chosen(flow: Flow, slurm: tuple[tuple[str, str | None], ...]) -> dict[str, str | None]:
    """Return the options below `slurm:`. A job's own are last: sbatch takes the last of -c and --cpus-per-task."""
    own = dict(slurm)
    return {**{name: value for name, value in flow.slurm if name not in own}, **own}


def _moves(flow: Flow, volume: Volume, place: Place) -> list[BatchJob]:
    found = []
    for way, moves in (("in", volume.ingress), ("out", volume.egress)):
        if not moves:
            continue
        name = f"{volume.name}.{way}"
        needs = tuple(Need(user, False) for user in _users(flow, volume)) if way == "out" else ()
        # If the user gives no timeout, the partition's default counts: a long limit can be over the partition's own.
        given = all(move.limited for move in moves)
        limit = sum(move.timeout * move.attempts for move in moves) + 300 if given else 0
        options = (
            *_common(flow, place, name), f"--output={place.folder}/logs/{name}.out",
            *([f"--time={units.minutes(limit)}"] if limit else []),
        )  # fmt: skip
        command = (*place.command, "flow", "part", place.folder, name)
        text = script.text(
            name, place.folder, place.generation, options, command=command, limit=limit,
            cancel_others=flow.on_failure == "cancel",
        )  # fmt: skip
        found.append(BatchJob(name, "ingress" if way == "in" else "egress", needs, options, (), 0, text))
    return found


def move_plain(move: Transfer) -> dict[str, str | int]:
    """Return a transfer as plain data for plan.json."""
    return {
        "uri": move.uri, "path": move.path, "secret": move.secret, "digest": move.digest, "timeout": move.timeout,
        "attempts": move.attempts,
    }  # fmt: skip


def _job(flow: Flow, job: Job, place: Place) -> BatchJob:
    inputs = {volume.name for volume in flow.volumes if volume.ingress}
    fetched = dict.fromkeys(f"{name}.in" for name, _ in job.mounts if name in inputs)
    needs = (*job.needs, *(Need(name, False) for name in fetched))
    indexes = tuple(range(job.array[0], job.array[1] + 1)) if job.is_array else ()
    limit = units.minutes(job.timeout * (1 if job.requeue else job.attempts) + _GRACE) if job.timeout else 0
    log = f"{place.folder}/logs/{job.name}{'_%a' if job.is_array else ''}.out"
    options = [*_common(flow, place, job.name, job.slurm), f"--output={log}", *_resources(flow, job)]
    if limit:
        options.append(f"--time={limit}")
    step, before, files = _step(flow, job, place)
    image = place.images[job.image]
    if image.stamp:
        before = script.unchanged(image.path, image.stamp) + before
    text = script.text(
        job.name, place.folder, place.generation, options, command=step, attempts=job.attempts, requeue=job.requeue,
        timeout=job.timeout, limit=limit * 60, cancel_others=flow.on_failure == "cancel", before=before,
    )  # fmt: skip
    return BatchJob(job.name, "job", needs, tuple(options), indexes, job.array[2], text, files)


def _resources(flow: Flow, job: Job) -> list[str]:
    """Return sbatch's options for what a job needs of a node. What `slurm:` says as well is left out."""
    said = {key for key, _ in (*flow.slurm, *job.slurm)}
    found: list[tuple[tuple[str, ...], str | None]] = []
    if job.nodes:
        found += [
            (("nodes", "N"), str(job.nodes)),
            (("ntasks-per-node",), str(1 if job.implementation == "generic" else job.procs)),
        ]
    elif not said & {"nodes", "N", "ntasks", "n", "ntasks-per-node"}:
        found += [(("nodes", "N"), "1"), (("ntasks", "n"), "1")]
    if _per_task(job):
        found.append((("cpus-per-task", "c"), str(_per_task(job))))
    if job.threads is not None:
        found.append((("hint",), "multithread" if job.threads else "nomultithread"))
    if job.sockets:
        found.append((("sockets-per-node",), str(job.sockets)))
    if job.memory:
        found.append((("mem-per-cpu" if job.by_core else "mem",), f"{units.mebibytes(job.memory)}M"))
    if job.gpus:
        found.append((("gres",), f"gpu:{job.gpu_model + ':' if job.gpu_model else ''}{job.gpus}"))
    if job.exclusive:
        found.append((("exclusive",), None))
    return [sbatch_options.argument(names[0], value) for names, value in found if not said & set(names)]


def _per_task(job: Job) -> int:
    """Return the cores of one process; 0 for Slurm's default."""
    if job.nodes and job.implementation != "generic":
        return job.cores // job.procs
    return job.cores


def _step_cores(flow: Flow, job: Job) -> str:
    """Return the cores of one process for srun, as sbatch gets them; "" for Slurm's default."""
    said = [value for name, value in _chosen(flow, job.slurm).items() if name in ("cpus-per-task", "c")]
    return (said[-1] or "") if said else str(_per_task(job) or "")


def _bind(source: str, path: str, mode: str = "") -> list[str]:
    """Return the option that mounts `source` at `path`.

    Raises:
        BollardError: the path of the source has a character that separates parts of the option's value.
    """
    if set(source) & set(":,"):
        raise BollardError(f"{source}: cannot be mounted: its path has a : or a ,", "use a directory without them")
    return ["--bind", f"{source}:{path}{mode}"]


def _step(flow: Flow, job: Job, place: Place) -> tuple[list[str], str, tuple[tuple[str, str], ...]]:
    """Return the srun line of a job, shell code before it, and files that it needs."""
    step, before = ["srun"], ""
    cores = _step_cores(flow, job)
    if cores:
        step.append(f"--cpus-per-task={cores}")  # from 22.05 on, a step does not take it from its job
    if job.affinity:
        step.append(f"--cpu-bind={_BINDINGS[job.affinity]}")
    if job.nodes:
        step.append("--kill-on-bad-exit=1")
        if job.implementation == "generic":
            step += ["--nodes=1", "--ntasks=1"]
            before = script.MULTINODE.format(slots=job.procs)
        else:
            step.append(f"--mpi={_mpi(job, place)}")
    files: list[tuple[str, str]] = []
    options: list[str] = []
    for volume, path in job.mounts:
        options += _bind(place.volumes.get(volume, volume), path)
    for at, (path, text) in enumerate(job.files):
        files.append((f"files/{job.name}.{at}", text))
        options += _bind(f"{place.folder}/files/{job.name}.{at}", path, ":ro")
    command = list(job.command)
    if job.script:
        text = job.script if job.script.startswith("#!") else f"#!/bin/sh\n{job.script}"
        files.append((f"jobs/{job.name}.script", text))
        options += _bind(f"{place.folder}/jobs/{job.name}.script", f"{_INSIDE}/script", ":ro")
        command = [f"{_INSIDE}/script", *command]
    sets = []
    for name, value in job.env:
        if value.startswith("secret://"):
            secret = value.rpartition("/")[2]
            options += _bind(place.secrets[secret], f"{_INSIDE}/secrets/{secret}", ":ro")
            sets.append(f'{name}="$(cat {_INSIDE}/secrets/{shlex.quote(secret)})" || exit 255; export {name}; ')
        elif name == "HOME":
            sets.append(f"HOME={shlex.quote(value)}; export HOME; ")  # --env cannot change it
        else:
            options += ["--env", spec.one_assignment(f"{name}={value}")]
    if sets:
        command = ["/bin/sh", "-c", f'{"".join(sets)}exec "$@"', "sh", *command]
    if job.gpu_kind:
        options.append(f"--{job.gpu_kind}")
    step.append(f"--container={place.images[job.image].path}")
    if job.cwd:
        step.append(f"--container-workdir={job.cwd}")
    if job.isolated:
        step.append("--container-unshare=net")
    if options:
        step.append(f"--container-opts={shlex.join(options)}")
    return [*step, *command], before, tuple(files)


def _mpi(job: Job, place: Place) -> str:
    wanted = "pmi2" if job.implementation == "mpich" else "pmix"
    words = [word for word in place.mpi if wireup.kind(word) == wanted]
    if not words:
        raise BollardError(
            f"jobs.{job.name}.multinode: {job.implementation} needs srun --mpi={wanted}, which is not here",
            f"it has {', '.join(place.mpi) or 'none'}; use an image with {'MPICH' if wanted == 'pmix' else 'Open MPI'}",
        )
    return wanted if wanted in words else words[-1]  # a cluster may have pmix_v4 alone


def array_option(indexes: tuple[int, ...], concurrency: int) -> str:
    """Return the value of --array for these indexes: 1-4,7%2."""
    found: list[list[int]] = []
    for index in indexes:
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
    return f"{text}%{concurrency}" if concurrency else text
