# SPDX-License-Identifier: BSD-3-Clause
"""A flow as records: what the document means, after the checks that need no machine."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import document, graph, sbatch_options, secret, suggestion, units
from bollard.runtime.flow.document import Document
from bollard.runtime.request.yaml_node import Mistake

SCHEMES_IN = ("http", "https", "file", "s3", "ftp", "sftp", "webdav")
SCHEMES_OUT = ("file", "s3", "ftp", "sftp", "webdav")
_GPUS = {"nvidia.com/gpu": "nv", "amd.com/gpu": "rocm"}


class Need(NamedTuple):
    """A job that must succeed before; `each`: element by element of two arrays."""

    name: str
    each: bool


@dataclass(frozen=True)
class Transfer:
    """One file or directory that is moved. `path` is in the volume; a directory ends with /. Times in seconds.

    limited: whether the user gave the timeout.
    """

    uri: str
    path: str
    secret: str
    digest: str
    timeout: int
    attempts: int
    limited: bool = False


@dataclass(frozen=True)
class Volume:
    """A directory that jobs share. `shelf` and `name` are of a persistent one; `shelf` is "" for an ephemeral one."""

    name: str
    shelf: str
    persistent: str
    ingress: tuple[Transfer, ...]
    egress: tuple[Transfer, ...]


@dataclass(frozen=True)
class Job:
    """One job of a flow. Sizes in bytes, times in seconds; 0 and "" for what the file does not say."""

    name: str
    line: int
    image: str
    image_secret: str
    command: tuple[str, ...]
    script: str
    env: tuple[tuple[str, str], ...]
    cwd: str
    mounts: tuple[tuple[str, str], ...]  # volume or path of the host, path in the container
    files: tuple[tuple[str, str], ...]  # path in the container, text
    needs: tuple[Need, ...]
    cores: int
    threads: bool | None
    sockets: int
    affinity: str
    memory: int
    by_core: bool
    gpus: int
    gpu_kind: str  # nv, rocm or ""
    gpu_model: str
    exclusive: bool
    nodes: int  # 0: no multinode
    implementation: str
    procs: int
    array: tuple[int, int, int]  # first, last, concurrency; (0, -1, 0) for no array
    timeout: int
    attempts: int
    requeue: bool  # whether each further attempt has another allocation
    isolated: bool
    slurm: tuple[tuple[str, str | None], ...]

    @property
    def is_array(self) -> bool:
        """Whether the job has elements."""
        return self.array[1] >= self.array[0]


@dataclass(frozen=True)
class Flow:
    """A whole flow."""

    name: str
    on_failure: str
    slurm: tuple[tuple[str, str | None], ...]
    files: tuple[tuple[str, str], ...]
    volumes: tuple[Volume, ...]
    jobs: tuple[Job, ...]


def load(path: str, sets: Mapping[str, str]) -> Flow:
    """Return the flow in a file.

    Raises:
        BollardError: the file cannot be read or has a mistake; the message names the first one.
    """
    found, mistakes = check(path, sets)
    if found is None or mistakes:
        first, more = mistakes[0], len(mistakes) - 1
        rest = f" (and {more} more: `bollard flow check {path}`)" if more else ""
        raise BollardError(f"{path}:{first.line}: {first.text}", first.hint + rest)
    return found


def check(path: str, sets: Mapping[str, str]) -> tuple[Flow | None, list[Mistake]]:
    """Return the flow in a file, None if it has a mistake, and all its mistakes. Raises as `content` and `parse`."""
    text = content(path)
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(path).stem.lower()).strip("-")
    return parse(text, sets, stem[:40].strip("-") or "flow")


def value_names(path: str) -> set[str]:
    """Return the names below `values:` in a flow file. Raises as `content` and `parse`."""
    return set(document.read(content(path), {})[0].data.get("values") or {})


def content(path: str) -> bytes:
    """Return the content of a flow file.

    Raises:
        BollardError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise causes.of(error, path, path, "name a flow file") from None


def parse(text: bytes, sets: Mapping[str, str], name: str) -> tuple[Flow | None, list[Mistake]]:
    """Return the flow in the text of a file, None if it has a mistake, and all its mistakes.

    text: the file.
    sets: the values of --set.
    name: the flow's name if the file has none.

    Raises:
        BollardError: PyYAML is not installed.
    """
    read, mistakes = document.read(text, sets)
    maker = _Maker(read)
    maker.mistakes += mistakes
    made = maker.flow(name)
    return (None if maker.mistakes else made), sorted(set(maker.mistakes))


class _Maker:
    """Makes records of a document. `mistakes` grows."""

    def __init__(self, read: Document) -> None:
        self.data, self.lines = read
        self.mistakes: list[Mistake] = []
        self.told: set[str] = set()  # places of mistakes of the reader
        self.files: dict[str, str] = dict(self.data.get("files") or {})

    def wrong(self, place: str, text: str, hint: str) -> None:
        """Note a mistake at a key, or at the nearest key above it that has a line."""
        key = place
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        self.mistakes.append(Mistake(self.lines.get(key, 1), f"{place}: {text}", hint))

    def unknown(self, place: str, what: str, name: str, known: Collection[str]) -> None:
        """Note that the file has nothing of this name."""
        self.wrong(place, f'no {what} is called "{name}"', suggestion.of_name(name, known))

    def flow(self, name: str) -> Flow:
        data = self.data
        self.told = {mistake.text.partition(":")[0] for mistake in self.mistakes}
        if not data.get("jobs") and not self.mistakes:
            self.wrong("jobs", "the flow has no job", "write `jobs:`, and below it a name with image and command")
        volumes = tuple(self.volume(key, value) for key, value in (data.get("volumes") or {}).items())
        defaults = (data.get("defaults") or {}).get("job") or {}
        jobs = tuple(self.job(key, value, defaults) for key, value in (data.get("jobs") or {}).items())
        self.references(jobs, {volume.name for volume in volumes})
        slurm = self.options("slurm", data.get("slurm") or {})
        on_failure = data.get("on-failure") or "continue"
        return Flow(data.get("name") or name, on_failure, slurm, tuple(self.files.items()), volumes, jobs)

    def references(self, jobs: tuple[Job, ...], volumes: set[str]) -> None:
        """Check the names of jobs and volumes in jobs, and that no job needs itself."""
        known = {job.name: job for job in jobs}
        for job in jobs:
            place = f"jobs.{job.name}"
            word = next((word for word in ("needs", "depends-on") if f"{place}.{word}" in self.lines), "requires")
            for need in job.needs:
                other = known.get(need.name)
                if other is None:
                    self.unknown(f"{place}.{word}", "job", need.name, known)
                elif need.each and not (job.is_array and other.is_array and job.array[:2] == other.array[:2]):
                    self.wrong(
                        f"{place}.{word}", f"each: {need.name} is not an array of the same numbers",
                        "give both the same task-array, or leave `each` out",
                    )  # fmt: skip
            seen: set[str] = set()
            for volume, path in job.mounts:
                if volume.endswith((":ro", ":rw")):
                    self.wrong(f"{place}.mounts", f"{volume}: a mount has no {volume[-3:]}", "leave it out")
                elif volume.startswith("/"):
                    if set(volume) & set(":,\n") or ".." in volume.split("/"):
                        self.wrong(f"{place}.mounts", f"{volume}: has a : or , or .. in it", "use another path")
                elif volume not in volumes:
                    self.unknown(f"{place}.mounts", "volume", volume, volumes)
                if posixpath.normpath(path) in seen:
                    self.wrong(f"{place}.mounts", f"{path} is there twice", "mount each at a path of its own")
                seen.add(posixpath.normpath(path))
        edges = {job.name: [need.name for need in job.needs if need.name in known] for job in jobs}
        circle = graph.circle(edges)
        if circle:
            self.wrong(f"jobs.{circle[0]}", f"needs itself: {' → '.join(circle)}", "take one of these needs out")

    def volume(self, name: str, data: dict[str, Any]) -> Volume:
        place = f"volumes.{name}"
        shelf = persistent = ""
        reference = data.get("reference")
        # Files of Fuzzball, v1, repeat the key as `name`.
        for word in ("use", "name"):
            if reference and word in data and data[word] != name:
                self.wrong(f"{place}.{word}", "stands beside reference", "leave one of them out")
        if "name" in data and not reference and data.get("use") != "persistent":
            self.wrong(
                f"{place}.name", "an ephemeral volume is removed, and has no name",
                "write use: persistent, or leave the name out",
            )  # fmt: skip
        if reference:
            words = reference.removeprefix("volume://").split("/")
            if not reference.startswith("volume://") or not all(words):
                self.wrong(f"{place}.reference", f'"{reference}" is not known', "write volume://user/ephemeral")
            elif words[0] != "user":
                self.wrong(
                    f"{place}.reference", f"{words[0]} is not supported: a volume is one user's",
                    f"write volume://user/{'/'.join(words[1:])}; others may read it if its directory's mode lets them",
                )  # fmt: skip
            elif words[1:] != ["ephemeral"]:
                if len(words) != 3 or words[1] == "ephemeral":
                    self.wrong(f"{place}.reference", f'"{reference}" is not known', "write volume://user/CLASS/NAME")
                else:
                    shelf, persistent = words[1], words[2]
        elif data.get("use") == "persistent":
            shelf, persistent = "persistent", data.get("name") or name
        for word in (shelf, persistent):
            if word in (".", "..") or not word.isprintable() or "/" in word:
                self.wrong(
                    f"{place}.reference", f'"{word}" cannot be the name of a directory', "use letters and digits"
                )
        return Volume(
            name, shelf, persistent, self.transfers(place, "ingress", data), self.transfers(place, "egress", data)
        )  # fmt: skip

    def transfers(self, place: str, way: str, data: dict[str, Any]) -> tuple[Transfer, ...]:
        found = []
        for at, item in enumerate(data.get(way) or []):
            here = f"{place}.{way}.{at}"
            far, near = ("source", "destination") if way == "ingress" else ("destination", "source")
            sides = {side: item.get(side) or {} for side in (far, near)}
            if not all(side.get("uri") for side in sides.values()):
                hint = "write {source: {uri: ...}, destination: {uri: ...}}"
                self.wrong(here, "source and destination each need a uri", hint)
                continue
            uri, inner = sides[far]["uri"], sides[near]["uri"]
            scheme = uri.partition("://")[0]
            known = SCHEMES_IN if way == "ingress" else SCHEMES_OUT
            if scheme not in known:
                self.wrong(here, f"{uri}: cannot be reached", f"known are {', '.join(known)}")
            if scheme in ("http", "https") and set(uri) & set(" \t\n"):
                self.wrong(here, f'"{uri}": an address has no space', "write %20 for a space")
            path = inner.removeprefix("file://").lstrip("/")
            if not inner.startswith("file://") or not path or ".." in path.split("/") or "\n" in path:
                self.wrong(here, f"{inner}: is not a path in the volume", "write file://PATH, without ..")
            if scheme == "file" and way == "ingress" and not uri.startswith("file:///"):
                name = uri.removeprefix("file://")
                if name not in self.files:
                    self.unknown(here, "text below `files:`", name, self.files)
            elif scheme == "file" and not uri.startswith("file:///"):
                self.wrong(here, f"{uri}: is not a full path", "write file:///PATH")
            digest = item.get("digest") or ""
            if digest and not units.is_digest(digest):
                self.wrong(here, f"{digest}: is not a digest", "write sha256: and 64 hexadecimal digits")
            why = secret.unencrypted(uri) if sides[far].get("secret") else ""
            if why:
                self.wrong(here, f"{uri}: {why}", secret.ENCRYPTED)
            policy = item.get("policy") or {}
            found.append(
                Transfer(
                    uri, path, self.secret(here, sides[far].get("secret") or ""), digest,
                    (policy.get("timeout") or {}).get("execute") or 3600,
                    self.attempts(here, policy, 3),
                    "timeout" in policy,
                )
            )  # fmt: skip
            if sides[near].get("secret"):
                self.wrong(here, f"{near}.secret: a volume needs no login", f"write it below {far}")
        return tuple(found)

    def attempts(self, place: str, policy: dict[str, Any], default: int) -> int:
        number = (policy.get("retry") or {}).get("attempts")
        if number is not None and not 1 <= number <= 1000:
            self.wrong(f"{place}.policy.retry.attempts", f"{number}: from 1 to 1000", "write 3")
        return default if number is None else max(1, number)

    def requeue(self, place: str, policy: dict[str, Any], slurm: dict[str, str | None]) -> bool:
        """Return whether a job is requeued after a failed attempt."""
        retry = policy.get("retry") or {}
        if not retry.get("requeue"):
            return False
        if (retry.get("attempts") or 1) < 2:
            self.wrong(f"{place}.policy.retry.requeue", "there is one attempt alone", "write attempts: 3 beside it")
        if any(sbatch_options.is_no_requeue(name) for name in (*slurm, *(self.data.get("slurm") or {}))):
            self.wrong(f"{place}.policy.retry.requeue", "no-requeue below `slurm:` forbids it", "leave one of them out")
        return True

    def secret(self, place: str, text: str) -> str:
        """Return the name of the secret; "" for none and after a mistake."""
        if not text:
            return ""
        try:
            return secret.name_of(text)
        except BollardError as error:
            self.wrong(place, error.message, error.hint)
            return ""

    def options(self, place: str, data: dict[str, str | None]) -> tuple[tuple[str, str | None], ...]:
        for name, value in data.items():
            text, hint = sbatch_options.mistake(name, value)
            if text:
                self.wrong(f"{place}.{name}", text, hint)
        return tuple(data.items())

    def job(self, name: str, data: dict[str, Any], defaults: dict[str, Any]) -> Job:
        place = f"jobs.{name}"
        line = self.lines.get(place, 1)
        if data.get("name", name) != name:
            self.wrong(f"{place}.name", f"{data['name']}: is not the job's key, {name}", "leave it out")
        given = _merged(defaults, data)
        own_paths = {path for _, path in data.get("mounts") or []}
        given["mounts"] = [
            *(pair for pair in defaults.get("mounts") or [] if pair[1] not in own_paths), *(data.get("mounts") or [])
        ]  # fmt: skip
        image = given.get("image") or {}
        if not image.get("uri", "").strip() and not self.told & {f"{place}.image", f"{place}.image.uri"}:
            self.wrong(place, "has no image", "write `image: img.sif`, or an address")
        secret_name = self.secret(f"{place}.image", image.get("secret") or "")
        if secret_name and image.get("uri", "").partition(":")[0] not in ("docker", "oras"):
            self.wrong(f"{place}.image", f"{image.get('uri')}: takes no login", "leave the secret out")
        command, script = tuple(given.get("command") or ()), given.get("script") or ""
        line_or_program = command[2:3] or command[:1] if document.is_line(command) else command[:1]
        for word, text in (("command", "".join(line_or_program)), ("script", script)):
            if word in given and not text.strip():
                self.wrong(f"{place}.{word}", "is empty", "write what the job runs")
        if command and script:
            self.wrong(place, "has command and script", "give one of both")
        if not set(given) & {"command", "script"} and not self.told & {f"{place}.command", f"{place}.script"}:
            self.wrong(place, "has neither command nor script", "give one of both")
        resource, multinode = given.get("resource") or {}, given.get("multinode") or {}
        cpu, memory = resource.get("cpu") or {}, resource.get("memory") or {}
        own = data.get("resource") or {}
        gpus = self.gpus(place, {**resource, "devices": own.get("devices") or resource.get("devices")}, own)
        if 0 < (memory.get("size") or 0) < 1 << 20:
            few = f"{memory['size']} bytes: no job runs in less than 1 MiB"
            self.wrong(f"{place}.resource.memory.size", few, "write a unit: 4GiB")
        if (own.get("memory") or {}).get("by-core") and not memory.get("size"):
            self.wrong(f"{place}.resource.memory.by-core", "has no size beside it", "write size: 2GiB")
        implementation = multinode.get("implementation") or ("openmpi" if multinode else "")
        if implementation == "gasnet":
            self.wrong(f"{place}.multinode", "gasnet is not supported", "use openmpi, mpich or generic")
        nodes = multinode.get("nodes", 0)
        if multinode and not 1 <= nodes <= 100_000:
            self.wrong(f"{place}.multinode", "needs the number of nodes", "write nodes: 2")
        cores = cpu.get("cores") or 0
        procs = (multinode.get("procsPerNode") or cores or 1) if multinode else 0
        if cores and procs > cores:
            self.wrong(f"{place}.multinode", f"{procs} processes do not fit {cores} cores", "raise resource.cpu.cores")
        policy = given.get("policy") or {}
        network = given.get("network") or {}
        if network.get("host") is False and not network.get("isolated"):
            self.wrong(f"{place}.network.host", "false: which network then?", "write isolated: true")
        if network.get("host") and network.get("isolated"):
            self.wrong(f"{place}.network", "has host and isolated", "give one of both")
        for pair in given.get("env") or []:
            if pair[1].startswith("secret://"):
                self.secret(f"{place}.env", pair[1])
        return Job(
            name, line, image.get("uri", ""), secret_name,
            (*command, *(given.get("args") or ())) if command else tuple(given.get("args") or ()), script,
            tuple((key, value) for key, value in dict(given.get("env") or []).items()),
            given.get("cwd") or "", tuple((volume, path) for volume, path in given.get("mounts") or []),
            self.job_files(place, given.get("files") or {}), self.needs(place, given),
            cores, cpu.get("threads"), cpu.get("sockets") or 0, cpu.get("affinity") or "",
            memory.get("size") or 0, bool(memory.get("by-core")), *gpus, bool(resource.get("exclusive")),
            nodes, implementation, procs, self.array(place, given.get("task-array")),
            (policy.get("timeout") or {}).get("execute") or 0, self.attempts(place, policy, 1),
            self.requeue(place, policy, given.get("slurm") or {}), bool(network.get("isolated")),
            self.options(f"{place}.slurm", given.get("slurm") or {}),
        )  # fmt: skip

    def gpus(self, place: str, resource: dict[str, Any], own: dict[str, Any]) -> tuple[int, str, str]:
        """Return number, kind and model of GPUs. `own` is what the job itself says, without the defaults."""
        number, kind, model = 0, "", ""
        devices = resource.get("devices") or {}
        if len(set(devices) & set(_GPUS)) > 1:
            self.wrong(f"{place}.resource.devices", f"has {' and '.join(devices)}", "give one of both")
        for name, value in devices.items():
            if name not in _GPUS:
                hint = suggestion.of_name(name, _GPUS) if "gpu" in name else "write gres below `slurm:`"
                self.wrong(f"{place}.resource.devices", f"{name}: is not known", hint)
            elif not value or not value.isascii() or not value.isdigit() or not int(value):
                self.wrong(f"{place}.resource.devices", f"{name}: {value or 'nothing'} is not a number", "write 1")
            else:
                number, kind = int(value), _GPUS[name]
        for name, value in (resource.get("annotations") or {}).items():
            device = name.removesuffix(".model")
            if device in _GPUS and name != device:
                if not value:
                    self.wrong(f"{place}.resource.annotations", f"{name}: needs a value", "write a model such as a100")
                elif device in devices:
                    model = value
                elif name in (own.get("annotations") or {}):
                    self.wrong(
                        f"{place}.resource.annotations", f"{name}: the job has no {device}",
                        f"write {device}: 1 below devices",
                    )  # fmt: skip
            else:
                self.wrong(
                    f"{place}.resource.annotations", f"{name}: is not known", "write a constraint below `slurm:`"
                )
        return number, kind, model

    def array(self, place: str, data: dict[str, Any] | None) -> tuple[int, int, int]:
        if data is None:
            return 0, -1, 0
        first, last = data.get("start", 1), data.get("end")
        if last is None or last < first:
            self.wrong(f"{place}.task-array", f"needs an end that is not below {first}", "write {start: 1, end: 10}")
            return 0, -1, 0
        return first, last, data.get("concurrency") or 0

    def job_files(self, place: str, data: dict[str, str]) -> tuple[tuple[str, str], ...]:
        found = []
        for path, value in data.items():
            text = value
            if not path.startswith("/") or set(path) & set(":,\n") or ".." in path.split("/"):
                self.wrong(f"{place}.files", f'"{path}" cannot be a path in the container', "write it from / on")
            if value.startswith("file://"):
                name = value.removeprefix("file://")
                if name not in self.files:
                    self.unknown(f"{place}.files", "text below `files:`", name, self.files)
                text = self.files.get(name, "")
            found.append((path, text))
        return tuple(found)

    def needs(self, place: str, data: dict[str, Any]) -> tuple[Need, ...]:
        items = [*(data.get("needs") or []), *(data.get("depends-on") or [])]
        if "depends-on" not in data:
            items += [{"name": name} for name in data.get("requires") or []]
        found: dict[str, Need] = {}
        for item in items:
            status = (item.get("status") or "FINISHED").upper()
            if status != "FINISHED":
                self.wrong(f"{place}.depends-on", f"status {status}: there are no services", "write FINISHED")
            if not item.get("name"):
                self.wrong(place, "a need has no name", "write {name: JOB}")
                continue
            found[item["name"]] = Need(item["name"], bool(item.get("each")))
        return tuple(found.values())


def _merged(defaults: Any, own: Any) -> Any:
    """Return the defaults with a job's own values; variables are joined by name, mounts by path."""
    if isinstance(defaults, dict) and isinstance(own, dict):
        return {key: _merged(defaults[key], own[key]) if key in defaults and key in own else {**defaults, **own}[key]
                for key in {**defaults, **own}}  # fmt: skip
    if isinstance(defaults, list) and isinstance(own, list) and defaults and isinstance(defaults[0], list):
        return [*defaults, *own]
    return own


def plain(job: Job) -> dict[str, Any]:
    """Return a job as plain data for JSON."""
    return dataclasses.asdict(job)
