# SPDX-License-Identifier: BSD-3-Clause
"""Submit a flow: check everything, write it down, hand it to Slurm with the roots held, release them at the end.

Whatever ends this process in between leaves only jobs that are held or wait for held jobs. `cancel` finds them by the
file `ids` and by their comment, which also has those that sbatch made and nobody noted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bollard.runtime import installed
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import batch, bundle, content, ending, folder, secret, slurm, state, volume
from bollard.runtime.flow import flow as flows
from bollard.runtime.flow.batch import BatchJob, Image, Place
from bollard.runtime.flow.bundle import Bundle, Ref
from bollard.runtime.flow.flow import Flow
from bollard.runtime.local.submission import NODE_LOCAL
from bollard.runtime.request import site

if TYPE_CHECKING:
    from bollard.runtime.build.conversion import Pulled

_DEPENDENCY_MAX = 120_000  # bytes of one argument, which the kernel limits to 128 KiB
_END = 120  # seconds, over KillWait of most sites
_HIGHEST = 10**9  # numbers of jobs have ten digits at most


def command() -> tuple[str, ...]:
    """Return how a node starts this program."""
    found = shutil.which(sys.argv[0])
    return (os.path.abspath(found),) if found else (sys.executable, os.path.abspath(sys.argv[0]))


def submit(source: str, sets: Mapping[str, str]) -> Path:
    """Check a flow file and submit it; return the flow's directory.

    source: the path of the flow file.
    sets: the values of --set.

    Raises:
        BollardError: the flow cannot run as it is, or Slurm refuses it. Nothing of it is left then.
    """
    found = flows.load(source, sets)
    place = folder.make(found.name)
    try:
        with folder.locked(place, wait=True):
            _run(found, source, place, 1, sets, os.getcwd(), {}, {})
    except BaseException:
        with contextlib.suppress(BollardError):  # Slurm does not answer; `flow list` shows what may be left
            if not (place / "ids").exists() or not _active(place):
                discard(place)
        raise
    return place


def _active(place: Path) -> bool:
    return any(row.state in slurm.ACTIVE for row in state.queue(place))


def resume(place: Path, source: str, sets: Mapping[str, str]) -> list[str]:
    """Submit again what has not succeeded or has changed; return the names of these jobs.

    place: the flow's directory.
    source: a changed flow file; "" for the same.
    sets: the values of --set, in addition to those before.

    Raises:
        BollardError: the flow still runs, or cannot be submitted.
    """
    folder.refuse_shared(place.parent)
    with folder.locked(place, wait=False) as held:
        if not held:
            raise BollardError(f"{place.name}: is being submitted or cancelled", "wait for that")
        before = state.of(place)
        if before.complaint:
            raise BollardError(f"{place.name}: {before.complaint}", "resume it when Slurm answers")
        if any(part.state not in state.FINAL for part in before.parts) or not before.parts:
            raise BollardError(f"{place.name}: is not over", f"bollard flow cancel {place.name}")
        plan = folder.plan(place)
        done = {part.name for part in before.parts if part.state == "ok"}
        keys = {job["name"]: job["key"] for job in plan["jobs"]}
        # A changed file may have dropped a value that was set before.
        names = flows.value_names(source or str(place / "flow.yaml"))
        sets = {**{name: value for name, value in plan["sets"].items() if name in names}, **sets}
        found = flows.load(source or str(place / "flow.yaml"), sets)
        gone = [name for name, path in plan["volumes"].items() if not os.path.isdir(path)]
        lost = {job.name for job in found.jobs if set(gone) & {name for name, _ in job.mounts}}
        lost |= {f"{name}.{way}" for name in gone for way in ("in", "out")}
        old = {name: key for name, key in keys.items() if name not in lost}
        return _run(found, source, place, plan["generation"] + 1, sets, plan["workdir"], old, done)


def prepare(
    found: Flow, place: Path, generation: int, workdir: str, *, dry: bool = False
) -> tuple[list[BatchJob], Place]:
    """Return the batch jobs of a flow, after all checks that need no sbatch.

    found: the flow.
    place: its directory.
    generation: the number of the submission.
    workdir: where its jobs start.
    dry: fetch no image, make no link.

    Raises:
        BollardError: an image, a secret, an array or a kind of MPI cannot be used.
    """
    here = site.load(installed.PREFIX)
    for path in (str(place), workdir):
        if any(f"{path}/".startswith(f"{local}/") for local in NODE_LOCAL):
            raise BollardError(f"{path}: is on this host alone, and the nodes need it", "use a shared directory")
    limit = slurm.array_limits()[0] if any(job.is_array for job in found.jobs) else 0
    for job in found.jobs:
        if job.is_array and job.array[1] >= limit:
            raise BollardError(
                f"jobs.{job.name}.task-array: {job.array[1]} is over this cluster's limit, {limit - 1} (MaxArraySize)",
                "make several jobs of it",
            )
    logins = {job.image: "" for job in found.jobs}
    logins.update((job.image, job.image_secret) for job in found.jobs if job.image_secret)
    images = {name: _image(name, login, place, workdir, dry=dry) for name, login in logins.items()}
    names = {value.rpartition("/")[2] for job in found.jobs for _, value in job.env if value.startswith("secret://")}
    secrets = {name: secret.path(name, os.environ) for name in sorted(names)}
    for moves in ((*item.ingress, *item.egress) for item in found.volumes):
        for move in moves:
            if move.secret:
                secret.refuse_unencrypted(move.uri, secret.login(move.secret, os.environ))
            if move.uri.partition("://")[0] not in ("http", "https", "file") and not shutil.which("rclone"):
                raise BollardError(
                    f"{move.uri}: needs the program rclone, which is not here", "install it on all nodes"
                )
    volumes = {item.name: volume.path(item, place, here.flow_scratch, here.flow_volumes) for item in found.volumes}
    mpi = slurm.mpi_types() if any(job.nodes for job in found.jobs) else ()
    target = Place(str(place), generation, workdir, images, volumes, secrets, mpi, command())
    return batch.jobs(found, target), target


def _image(name: str, login: str, place: Path, workdir: str, *, dry: bool) -> Image:
    """Return the image of a job. An address is fetched; a file is linked into the flow's directory if it can be."""
    from bollard.runtime.image import image

    if not image.is_uri(name):
        return _linked(os.path.join(workdir, os.path.expanduser(name)), "", place, dry=dry, fetched=False)
    if dry:
        return Image(name, name, "")
    pulled = _fetched(name, login)
    try:
        return _linked(pulled.path, pulled.source, place, dry=False, fetched=True)
    finally:
        pulled.close()  # without a cache, this removes the file


def _linked(path: str, digest: str, place: Path, *, dry: bool, fetched: bool) -> Image:
    """Return the image in a file, with a link to it in the flow's directory if there can be one.

    path: the file.
    digest: the digest that its server gave; "" for none.
    place: the flow's directory.
    dry: make no link.
    fetched: whether the file is one of the cache.
    """
    from bollard.runtime.image import image

    opened = image.open_image(path, os.uname().machine)
    digest = digest or opened.digest()
    opened.close()
    info = os.stat(path)
    stamp = f"{info.st_size} {int(info.st_mtime)}"
    digest = digest or f"{os.path.realpath(path)} {stamp}"
    if dry or os.path.isdir(path):
        return Image(path, digest, "")
    # A link holds the content that was checked, also after the cache or the user has removed the file.
    link = place / "images" / f"{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.sif"
    try:
        if not link.exists():
            os.link(path, link)
        return Image(str(link), digest, "" if fetched else stamp)
    except OSError:
        if not fetched:
            return Image(path, digest, stamp)  # another filesystem, or another user's: the job compares the stamp
        shutil.copyfile(path, link)
        return Image(str(link), digest, "")


def _fetched(name: str, login: str) -> Pulled:
    """Fetch an image.

    Raises:
        BollardError: it cannot be fetched, or the secret has no user name and password.
    """
    from bollard.runtime.build import conversion
    from bollard.runtime.fetch import sources

    given: list[tuple[str, str]] = []
    settings = sources.settings(given, os.environ)
    if login:
        keys = secret.login(login, os.environ)
        if not keys.get("username") or not keys.get("password"):
            raise BollardError(
                f"secret {login}: the login of a registry needs username and password",
                "a token is the password; the registry tells its username",
            )
        access = settings.access._replace(user=keys.get("username", ""), password=keys.get("password", ""))
        settings = settings._replace(access=access)
    return conversion.image_of(name, settings)


def _run(
    found: Flow, source: str, place: Path, generation: int, sets: Mapping[str, str], workdir: str,
    keys: Mapping[str, str], done: Collection[str],
) -> list[str]:  # fmt: skip
    """Submit one generation of a flow; return the names of its jobs.

    found: the flow.
    source: its file; "" for the one in its directory.
    place: its directory.
    generation: the number of the submission.
    sets: the values of --set.
    workdir: where the jobs start.
    keys: the content keys before, by name.
    done: the parts that have succeeded before.
    """
    jobs, target = prepare(found, place, generation, workdir)
    plan, todo = _left_to_do(jobs, content.keys(found, target.images), keys, done)
    real = [job for job in todo if not job.name.startswith(".")]
    if not real:
        raise BollardError(f"{place.name}: every job is done and unchanged", "there is nothing to resume")
    calls = bundles(todo)
    _refuse_long_edges(calls)
    for path in target.volumes.values():
        volume.make(path, place)
    for job in todo:
        folder.write(place / "jobs" / f"{job.name}.sh", job.script, 0o700, settle=False)
        for name, text in job.files:
            folder.write(place / name, text, 0o700, settle=False)
    _test(todo, place)
    for job in real:
        folder.reserve(place, job.parts)
    written = {"generation": generation, "sets": dict(sets), "workdir": workdir, "jobs": plan}
    if source:
        folder.write(place / "flow.yaml", flows.content(source).decode("utf-8", "surrogateescape"))
    folder.write(place / "plan.json", json.dumps({**written, **_plan_of_data(found, target)}))
    partial = {item["name"] for item in plan if len(item["indexes"]) < len(item["all"])}
    with _interruptible():
        try:
            _hand_over(calls, target, place, partial)
        except BaseException:
            cancel_jobs(place, generation)
            raise
    return [job.name for job in real]


def _left_to_do(
    jobs: list[BatchJob], fresh: Mapping[str, str], keys: Mapping[str, str], done: Collection[str]
) -> tuple[list[dict[str, Any]], list[BatchJob]]:
    """Return the jobs as plan.json lists them, and those to submit, each with the indexes that are left.

    jobs: all jobs of the flow.
    fresh: their content keys now, by name.
    keys: the content keys before, by name.
    done: the parts that have succeeded before.
    """
    plan: list[dict[str, Any]] = []
    todo: list[BatchJob] = []
    for job in jobs:
        same = not job.name.startswith(".") and keys.get(job.name) == fresh[job.name]
        left = tuple(index for index in job.indexes if not same or f"{job.name}.{index}" not in done)
        skipped = same and (not left if job.indexes else job.name in done)
        plan.append(
            {
                "name": job.name, "kind": job.kind, "key": fresh.get(job.name, ""), "skipped": skipped,
                "all": list(job.indexes), "indexes": list(left), "needs": [need.name for need in job.needs],
            }
        )  # fmt: skip
        if not skipped:
            todo.append(dataclasses.replace(job, indexes=left))
    return plan, todo


def _plan_of_data(found: Flow, target: Place) -> dict[str, Any]:
    """Return what plan.json says of the flow's volumes, files and edges."""
    ephemeral = [target.volumes[item.name] for item in found.volumes if not item.shelf]
    moves = {
        f"{item.name}.{way}": {"volume": target.volumes[item.name], "moves": [batch.move_plain(move) for move in some]}
        for item in found.volumes for way, some in (("in", item.ingress), ("out", item.egress))
    }  # fmt: skip
    return {
        "volumes": dict(target.volumes), "ephemeral": ephemeral, "moves": moves, "texts": dict(found.files),
        "edges": batch.edges(found),
    }  # fmt: skip


def bundles(todo: list[BatchJob]) -> list[Bundle]:
    """Return the calls of sbatch for these jobs. Many jobs of equal shape are one.

    Raises:
        BollardError: scontrol does not tell how long an array can be.
    """
    many = sum(job.kind == "job" and not job.indexes for job in todo) >= bundle.LEAST
    return bundle.of(todo, slurm.array_limits()[1] if many else 0)


def _refuse_long_edges(calls: list[Bundle]) -> None:
    """Raise if a dependency of sbatch would be longer than an argument can be.

    Raises:
        BollardError: a job needs too many others, or the flow has too many jobs.
    """
    refs: dict[str, Ref] = {}
    sizes: dict[int, int] = {}
    for call in calls:
        edge = bundle.dependency(call, refs, sizes)
        job = call.jobs[0]
        if len(edge) > _DEPENDENCY_MAX:
            count = len(refs) if job.kind in ("cancel", "end") else len(job.needs)
            what = {"cancel": f"on-failure: cancel: the flow has {count} jobs", "end": f"the flow has {count} jobs"}
            text = what.get(job.kind, f"jobs.{job.name}: needs {count} jobs")
            most = count * _DEPENDENCY_MAX // len(edge)
            raise BollardError(f"{text}, over {most}, which sbatch can take", "make arrays of equal jobs: task-array")
        number = _HIGHEST + len(refs)
        sizes[number] = len(call.elements)
        refs.update(call.refs(number))


def _test(todo: list[BatchJob], place: Path) -> None:
    """Ask Slurm for one job of each shape whether it can ever run."""
    seen = set()
    for job in todo:
        if job.shape not in seen:
            seen.add(job.shape)
            what = f"jobs.{job.name}" if job.kind == "job" else job.name
            slurm.test(job.options, str(place / "jobs" / f"{job.name}.sh"), what)


def _hand_over(calls: list[Bundle], target: Place, place: Path, partial: set[str]) -> None:
    """Submit the jobs, roots held, then release the roots."""
    refs: dict[str, Ref] = {}
    sizes: dict[int, int] = {}
    roots: list[int] = []
    for call in calls:
        if folder.marked(place, "cancelled", target.generation):
            raise BollardError(f"{place.name}: was cancelled while it was submitted")
        kind, options = call.jobs[0].kind, list(call.options)
        edge = bundle.dependency(call, refs, sizes, partial)
        if edge:
            options.append(f"--dependency={edge}")
        else:
            options.append("--hold")
        if edge and kind != "end":
            options.append("--kill-on-invalid-dep=yes")
        if kind in ("end", "cancel"):
            options.append(f"--output={place}/logs/.end.out" if kind == "end" else "--output=/dev/null")
        if call.array:
            options.append(f"--array={call.array}")
        if call.elements:
            names = {element: job.name for job, element in zip(call.jobs, call.elements)}
            options.append(f"--output={folder.link_logs(place, f'{target.generation}.{call.name}', names)}")
            text = bundle.script(call, str(place), options)
            folder.write(place / "jobs" / f"{call.name}.sh", text, 0o700, settle=False)
        number = slurm.submit(options, str(place / "jobs" / f"{call.name}.sh"), call.name)
        new = call.refs(number)
        folder.note(place, target.generation, {call.name: Ref(number), **new} if call.elements else new)
        refs.update(new)
        sizes[number] = len(call.elements)
        if not edge:
            roots.append(number)
    if folder.marked(place, "cancelled", target.generation):
        raise BollardError(f"{place.name}: was cancelled while it was submitted")
    folder.mark(place, "released", target.generation)
    slurm.release(roots)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into an exception, so that what was submitted is cancelled."""

    def stop(number: int, frame: object) -> None:
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # while the jobs are cancelled
        raise BollardError("interrupted: what was submitted is cancelled", "", 128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cancel_jobs(place: Path, generation: int) -> None:
    """Cancel all jobs of a generation, those that nobody noted too.

    Raises:
        BollardError: Slurm does not answer, or the flow's directory cannot be written. The jobs are cancelled then too.
    """
    complaint = None
    try:
        folder.mark(place, "cancelled", generation)
    except BollardError as error:
        complaint = error
    slurm.cancel(sorted({row.job for row in state.queue(place) if row.state in slurm.ACTIVE}))
    if complaint:
        raise BollardError(f"the jobs are cancelled, but {complaint.message}", complaint.hint)


def cancel(place: Path) -> bool:
    """Cancel a flow, and remove its ephemeral volumes; return whether it was still there for Slurm.

    Raises:
        BollardError: Slurm does not answer.
    """
    plan = folder.plan(place)
    generation = plan.get("generation", 1)
    if plan and state.of(place).word in ("ok", "failed", "timeout", "lost", "cancelled"):
        ending.remove_volumes(place)
        return False
    cancel_jobs(place, generation)
    with folder.locked(place, wait=True):  # a submission that still runs sees the mark, and ends
        cancel_jobs(place, generation)
    ending.remove_volumes(place)
    return True


def is_cut_off(place: Path) -> bool:
    """Return whether the flow's last submission ended before its jobs were released, so that they stay held.

    Raises:
        BollardError: the flow's plan cannot be read.
    """
    generation = folder.plan(place).get("generation", 1)
    if any(folder.marked(place, word, generation) for word in ("released", "cancelled")):
        return False
    with folder.locked(place, wait=False) as free:  # a process that still submits it has the lock
        if not free:
            return False
        # It may have ended just before the lock was free.
        generation = folder.plan(place).get("generation", 1)
        return not any(folder.marked(place, word, generation) for word in ("released", "cancelled"))


def cancel_damaged(place: Path) -> None:
    """Cancel the jobs of a flow whose plan cannot be read. Ephemeral volumes on the site's place are left, and told.

    Raises:
        BollardError: Slurm does not answer.
    """
    with folder.locked(place, wait=True):
        slurm.cancel(sorted({row.job for row in state.queue(place) if row.state in slurm.ACTIVE}))
    scratch = site.load(installed.PREFIX).flow_scratch
    left = os.path.join(volume.expanded(scratch), f"bollard-{place.name}") if scratch else ""
    if left and os.path.isdir(left):
        os.write(2, f"bollard: {left}: is left: the flow's plan is damaged; remove it\n".encode())


def wait_for_end(place: Path) -> None:
    """Wait until Slurm has ended the cancelled jobs of a flow: until then they write into its directory.

    Raises:
        BollardError: they do not end, or Slurm does not answer.
    """
    deadline = time.monotonic() + _END
    while _active(place):
        if time.monotonic() > deadline:
            text = f"{place.name}: the jobs are cancelled, and have not ended after {_END} s"
            raise BollardError(text, f"bollard flow cancel --remove {place.name}, when squeue does not show them")
        time.sleep(1)


def discard(place: Path) -> None:
    """Remove the directory of a flow whose jobs are gone.

    Raises:
        BollardError: the flow's plan cannot be read.
    """
    with contextlib.suppress(folder.Damaged):  # cancel_damaged has told what is left
        ending.remove_volumes(place)
    shutil.rmtree(place, ignore_errors=True)  # what is left is shown by `flow list`
