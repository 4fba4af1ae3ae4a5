# SPDX-License-Identifier: BSD-3-Clause
"""The table of the keys of a flow file. The reader, its messages, docs/flows.md and the JSON Schema are made of it.

In a key, `*` stands for a name that the user chooses, and `[]` for an item of a list.
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """One key.

    key: its place in the file.
    kind: the type of its value; KINDS explains it.
    origin: who has it: "v1", "v4", "v1, v4" of Fuzzball, or "bollard".
    slurm: what it becomes in Slurm, for the documentation.
    help: what it does; of a refused key, why it is refused and what to do instead, with a semicolon between.
    choices: the values of a key of the kind CHOICE.
    """

    key: str
    kind: str
    origin: str
    slurm: str
    help: str
    choices: tuple[str, ...] = ()


MAP, NAMES, LIST, TEXT, TEXTS, COMMAND, ENV, PATH, URI = (
    "keys", "names", "list", "text", "texts", "command", "environment", "path", "address",
)  # fmt: skip
SWITCH, NUMBER, SIZE, DURATION, CHOICE, LABEL, NEEDS, MOUNTS, OPTIONS, REFUSED, IMAGE = (
    "switch", "number", "size", "duration", "choice", "name", "needs", "mounts", "options", "refused", "image",
)  # fmt: skip

KINDS = {
    MAP: "a set of keys",
    NAMES: "a set of names",
    LIST: "a list",
    TEXT: "text",
    TEXTS: "a list of texts",
    COMMAND: "a list of words, or a line for /bin/sh",
    ENV: "a list of NAME=VALUE, or a set of names",
    PATH: "a path that begins with /",
    URI: "an address such as https://HOST/PATH",
    SWITCH: "true or false",
    NUMBER: "a whole number",
    SIZE: "a number of bytes, or one with KB, MB, GB, TB, KiB, MiB, GiB, TiB",
    DURATION: "a time such as 30s, 10m or 1h30m",
    CHOICE: "one of the given words",
    LABEL: "letters a-z, digits and -, at most 63",
    NEEDS: "a name, or a list of names or of {name: NAME, each: true}",
    MOUNTS: "a set of PATH: VOLUME, PATH: {volume: VOLUME}, VOLUME: {location: PATH} or PATH: /HOST/PATH",
    OPTIONS: "a set of names and values",
    IMAGE: "a path, an address, or a set of keys with `uri`",
    REFUSED: "refused",
}

_BOTH = "v1, v4"
_ANNOTATIONS = (
    "annotations place jobs on Fuzzball's machines, which Slurm does not know; write what they mean under `slurm:`, "
    "such as constraint or partition"
)


def _shared(job: str) -> tuple[Field, ...]:
    """Return the fields that a job and `defaults.job` have in common."""
    return (
        Field(f"{job}.env", ENV, _BOTH, "the container's environment", "variables; a value may be secret://user/NAME"),
        Field(f"{job}.mounts", MOUNTS, _BOTH, "--container-mounts", "volumes or paths of the host, and where they are"),
        Field(f"{job}.policy", MAP, _BOTH, "", "limits of one job"),
        Field(f"{job}.policy.timeout", MAP, _BOTH, "", "how long a job may take"),
        Field(
            f"{job}.policy.timeout.execute", DURATION, _BOTH, "--time, and timeout(1) for each attempt",
            "how long one attempt may take",
        ),
        Field(f"{job}.policy.retry", MAP, _BOTH, "", "what to do after a failure"),
        Field(
            f"{job}.policy.retry.attempts", NUMBER, _BOTH, "the script of the job",
            "how many times the command is started at most, in the same allocation",
        ),
        Field(
            f"{job}.policy.retry.requeue", SWITCH, "bollard", "scontrol requeue",
            "whether Slurm starts each further attempt in another allocation, after its delay of about 2 minutes",
        ),
        Field(f"{job}.resource", MAP, _BOTH, "", "what a job needs of a node"),
        Field(f"{job}.resource.cpu", MAP, _BOTH, "", "processors"),
        Field(f"{job}.resource.cpu.cores", NUMBER, _BOTH, "--cpus-per-task", "cores of each node; default 1"),
        Field(f"{job}.resource.cpu.threads", SWITCH, _BOTH, "--hint", "whether hardware threads count as cores"),
        Field(f"{job}.resource.cpu.sockets", NUMBER, _BOTH, "--sockets-per-node", "sockets of a node at least"),
        Field(
            f"{job}.resource.cpu.affinity", CHOICE, _BOTH, "--cpu-bind", "what a process is bound to",
            ("CORE", "SOCKET", "NUMA"),
        ),
        Field(f"{job}.resource.memory", MAP, _BOTH, "", "memory"),
        Field(f"{job}.resource.memory.size", SIZE, _BOTH, "--mem", "memory of each node, rounded up to MiB"),
        Field(f"{job}.resource.memory.by-core", SWITCH, _BOTH, "--mem-per-cpu", "whether `size` is for each core"),
        Field(f"{job}.resource.devices", OPTIONS, _BOTH, "--gres=gpu:N; --nv, --rocm", "nvidia.com/gpu: N, or amd.com"),
        Field(f"{job}.resource.exclusive", SWITCH, _BOTH, "--exclusive", "whether the nodes are for this job alone"),
        Field(
            f"{job}.resource.annotations", OPTIONS, _BOTH, "--gres=gpu:MODEL:N", "nvidia.com/gpu.model; no others",
        ),
        Field(f"{job}.slurm", OPTIONS, "bollard", "sbatch's options, verbatim", "such as {partition: gpu, account: x}"),
    )  # fmt: skip


def _transfers(key: str, what: str) -> tuple[Field, ...]:
    rows = [Field(key, LIST, _BOTH, "a job of its own", what)]
    for side in ("source", "destination"):
        rows += [
            Field(f"{key}.[].{side}", MAP, _BOTH, "", f"the {side} of one file or directory"),
            Field(f"{key}.[].{side}.uri", URI, _BOTH, "", "its address; file://PATH in the volume"),
            Field(f"{key}.[].{side}.secret", TEXT, _BOTH, "", "secret://user/NAME, with a login"),
        ]
    return (
        *rows,
        Field(f"{key}.[].digest", TEXT, "bollard", "", "sha256:HEX; another content is refused"),
        Field(f"{key}.[].policy", MAP, _BOTH, "", "limits of this transfer"),
        Field(f"{key}.[].policy.timeout", MAP, _BOTH, "", ""),
        Field(f"{key}.[].policy.timeout.execute", DURATION, _BOTH, "", "how long one attempt may take; default 1h"),
        Field(f"{key}.[].policy.retry", MAP, _BOTH, "", ""),
        Field(f"{key}.[].policy.retry.attempts", NUMBER, _BOTH, "", "how many attempts are made; default 3"),
    )


TABLE: tuple[Field, ...] = (
    Field("version", CHOICE, _BOTH, "", "the form of Fuzzball; left out in a file of bollard", ("v1", "v4")),
    Field("name", LABEL, "bollard", "the ID begins with it", "the flow's name; default: the file's name"),
    Field("values", NAMES, "bollard", "", "values that ${NAME} stands for; --set NAME=VALUE changes one"),
    Field("values.*", TEXT, "bollard", "", "the value"),
    Field(
        "on-failure", CHOICE, "bollard", "a job with afternotok", "after a job has failed: go on with jobs that do not "
        "need it, or cancel all others", ("continue", "cancel"),
    ),
    Field("slurm", OPTIONS, "bollard", "sbatch's options, verbatim", "for every job; names have no dashes"),
    Field("files", NAMES, _BOTH, "", "texts that ingress and jobs name as file://NAME"),
    Field("files.*", TEXT, _BOTH, "", "the text"),
    Field("defaults", MAP, _BOTH, "", ""),
    Field("defaults.job", MAP, _BOTH, "", "values of every job; a key of the job itself wins"),
    *_shared("defaults.job"),
    Field("annotations", REFUSED, _BOTH, "", _ANNOTATIONS),
    Field("volumes", NAMES, _BOTH, "", "directories that jobs share"),
    Field("volumes.*", MAP, _BOTH, "a directory", "one volume"),
    Field(
        "volumes.*.reference", TEXT, "v1", "flow.scratch, flow.volumes in bollard.yaml",
        "volume://user/ephemeral, or volume://user/CLASS/NAME for one that stays",
    ),
    Field(
        "volumes.*.use", CHOICE, "v4", "flow.scratch, flow.volumes in bollard.yaml",
        "whether the volume is removed after the flow has succeeded", ("ephemeral", "persistent"),
    ),
    Field("volumes.*.name", LABEL, _BOTH, "", "the name of a volume with use: persistent; or the key again"),
    Field("volumes.*.size", SIZE, "v4", "", "read and not enforced: the filesystem's quota holds"),
    Field("volumes.*.annotations", REFUSED, "v4", "", _ANNOTATIONS),
    *_transfers("volumes.*.ingress", "what is fetched into the volume before its first use"),
    *_transfers("volumes.*.egress", "what is copied out after its last use"),
    Field("jobs", NAMES, _BOTH, "", "the jobs"),
    Field("jobs.*", MAP, _BOTH, "sbatch", "one job"),
    Field("jobs.*.name", LABEL, _BOTH, "", "the job's key again"),
    Field("jobs.*.image", IMAGE, _BOTH, "--container", "the image: a file, docker://, oras://, library://, https://"),
    Field("jobs.*.image.uri", TEXT, _BOTH, "--container", "the image"),
    Field("jobs.*.image.secret", TEXT, _BOTH, "", "secret://user/NAME, with username and password of the registry"),
    Field(
        "jobs.*.image.decryptionSecret", REFUSED, _BOTH, "",
        "encrypted images cannot be started by a flow; decrypt the image, and protect its file by its mode",
    ),
    Field("jobs.*.command", COMMAND, _BOTH, "srun", "the program and its arguments"),
    Field("jobs.*.script", TEXT, _BOTH, "srun", "a script; without #! it is for /bin/sh"),
    Field("jobs.*.args", TEXTS, _BOTH, "srun", "more arguments"),
    Field("jobs.*.cwd", PATH, _BOTH, "--container-workdir", "where it starts; default: where the flow was submitted"),
    Field("jobs.*.needs", NEEDS, "bollard", "afterok; each: aftercorr", "jobs that must succeed before"),
    Field("jobs.*.depends-on", LIST, _BOTH, "afterok", "the same, as Fuzzball writes it"),
    Field("jobs.*.depends-on.[].name", LABEL, _BOTH, "", "the job"),
    Field("jobs.*.depends-on.[].each", SWITCH, "bollard", "aftercorr", "element I of an array after element I"),
    Field("jobs.*.depends-on.[].status", TEXT, _BOTH, "", "FINISHED"),
    Field("jobs.*.requires", TEXTS, "v1", "afterok", "the same; ignored beside depends-on"),
    *_shared("jobs.*"),
    Field("jobs.*.multinode", MAP, _BOTH, "", "a program of many processes on many nodes"),
    Field("jobs.*.multinode.nodes", NUMBER, _BOTH, "--nodes", "how many nodes"),
    Field(
        "jobs.*.multinode.implementation", CHOICE, _BOTH, "srun --mpi=pmix; mpich: pmi2", "how the processes find one "
        "another; generic: one process, with MULTINODE_HOSTLIST and others", ("openmpi", "mpich", "generic", "gasnet"),
    ),
    Field("jobs.*.multinode.procsPerNode", NUMBER, _BOTH, "--ntasks-per-node", "processes of a node; default: cores"),
    Field("jobs.*.task-array", MAP, _BOTH, "--array", "the same job many times, with FB_TASK_ID"),
    Field("jobs.*.task-array.start", NUMBER, _BOTH, "--array", "the first number; default 1"),
    Field("jobs.*.task-array.end", NUMBER, _BOTH, "--array", "the last number"),
    Field("jobs.*.task-array.concurrency", NUMBER, _BOTH, "--array=...%N", "how many run at a time"),
    Field("jobs.*.network", MAP, _BOTH, "", "the host's network is used"),
    Field("jobs.*.network.host", SWITCH, "v4", "", "true, as without the key"),
    Field("jobs.*.network.isolated", SWITCH, "v4", "--container-unshare=net", "a network of its own, no way out"),
    Field(
        "jobs.*.network.ports", REFUSED, _BOTH, "", "ports are not forwarded; the host's network is used, so the "
        "program can be reached on its node",
    ),
    Field("jobs.*.network.endpoints", REFUSED, _BOTH, "", "there are no endpoints; use ssh -L to the job's node"),
    Field("jobs.*.files", NAMES, _BOTH, "--container-mounts", "files in the container"),
    Field("jobs.*.files.*", TEXT, _BOTH, "", "the text, or file://NAME"),
    Field("jobs.*.persist", REFUSED, "v4", "", "a flow has no services; start the program as a job, or by hand"),
    Field(
        "services", REFUSED, _BOTH, "",
        "a flow has no services; run a server in the job that needs it, or by `bollard instance start`",
    ),
)  # fmt: skip

BY_KEY = {field.key: field for field in TABLE}


def children(key: str) -> dict[str, Field]:
    """Return the fields directly below the key, by the last word of their own; "" is the top of the file."""
    start = f"{key}." if key else ""
    return {
        field.key[len(start) :]: field
        for field in TABLE
        if field.key.startswith(start) and "." not in field.key[len(start) :] and field.key != key
    }
