# SPDX-License-Identifier: BSD-3-Clause
"""Let one task in: the keeper's answer to the task's launcher (the C side is spank_plugin/entry.c).

A task sends its command, its environment and its working directory. It gets descriptors of the container's
namespaces, and the command, environment and working directory to use in the container. admission.py handles the other
messages of peers.
"""

from __future__ import annotations

import os
import time
from _socket import socket

from bollard.runtime import constants
from bollard.runtime.container import action, enroot, environment, pytorch, record, renewal, wire
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.frozen import replace
from bollard.runtime.request import plan, spec, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.container.container import Container
    from bollard.runtime.request.spec import Spec

SPEC_VARIABLE = wire.SPEC.encode() + b"="
# The action of one task, for APPTAINER_COMMAND, if it differs from that of the container.
COMMAND_VARIABLE = wire.COMMAND.encode() + b"="
RUN = constants.ACTION_RUN.encode()
# Modes in which the launcher waits for its program (supervise.c). WAIT: for a process namespace, which only child
# processes enter. SAVE: the launcher sends wire.DONE after its program and ends when the keeper has answered.
WAIT = constants.LAUNCHER_WAIT.encode()
SAVE = constants.LAUNCHER_SAVE.encode()
# With --container-remap-root: chown to an id that is not mapped reports success (ownership.h).
AS_ROOT = b"root"
ENTRYPOINT = "/.singularity.d/runscript"
# How long the image's environment scripts may take: one minute, as in Apptainer.
SCRIPT_SECONDS = constants.SCRIPT_WAIT_MS / 1000
# The keeper caches this many parsed specs of later steps, each with a text of at most KEPT_SPEC_MAX bytes.
KEPT_SPECS = 64
KEPT_SPEC_MAX = 8 << 10


def parse_request(frame: bytes) -> tuple[list[bytes], list[bytes], bytes, bytes]:
    """Return argv, environment, working directory and verbose of a request.

    `verbose` is the time when the client began; b"" without --container-verbose.

    Raises:
        ValueError: the frame is not a request.
    """
    words = frame.split(b"\0")
    argv, at = wire.list_at(words, 0)
    env, at = wire.list_at(words, at)
    if at + 3 != len(words) or words[-1] != b"" or not argv:
        raise ValueError("a frame with too little or too much in it")
    return argv, env, words[at], words[at + 1]


def reply(
    argv: list[bytes],
    env: list[bytes],
    cwd: bytes,
    note: bytes = b"",
    mode: bytes = b"",
    root: bytes = b"",
    scratch: bytes = b"",
) -> bytes:
    """Return the frame that lets a task in.

    argv, env, cwd  what the task uses in the container
    note            text for the task's stderr
    mode            how the launcher runs the program: WAIT, SAVE, or b"" to execute it
    root            AS_ROOT or b""
    scratch         directory of the host that the launcher shows in the container, or b""
    """
    return wire.texts(argv, env, cwd, note, mode, root, scratch)


def working_directory(asked: Spec, cwd: bytes, own: bytes = b"") -> bytes:
    """Return the directory in which the task starts: the first of these that it can enter.

    --pwd, the image's working directory, the task's own (not with --contain), the home directory, "/".

    asked  the spec of the task's step
    cwd    the task's directory on the host, b"" for one that was removed
    own    the working directory that the image names (enroot's layout), b"" for none

    Raises:
        BollardError: the directory of --pwd does not exist in the container.
    """
    if asked.pwd:
        if not os.path.isdir(asked.pwd):
            what = f"working directory {asked.pwd}: no such directory in the container"
            raise BollardError(what, "make it, or bind one there")
        return os.fsencode(os.path.realpath(asked.pwd))  # $PWD is without links, as for the task's own directory
    for path in (own, b"" if asked.contain else cwd, os.fsencode(asked.home)):
        if path and os.path.isdir(path) and os.access(path, os.X_OK):
            return path
    return b"/"


def admit(container: Container, peer: socket, frame: bytes, entering: Callable[[str], None]) -> str:
    """Answer the request of one task: send it the namespaces, command and environment.

    Returns the file to save the container to when the step has ended ("" for none).

    container  the container
    peer       the connection to the task's launcher
    frame      its request
    entering   called with the task's step before the first descriptor goes out: a peer that has it can enter,
               whatever it reads or says after that

    Raises:
        BollardError: the task may not go in.
        ValueError: the frame is not a request.
    """
    begin = time.monotonic_ns()
    argv, env, cwd, verbose = parse_request(frame)
    scratch = _scratch(container, env)
    step = record.step_of(env)
    asked = step_spec(container, env)
    command = taken(env, COMMAND_VARIABLE) or container.command
    if container.by_slurm and command == RUN:  # srun's program is the image
        arguments = [os.fsdecode(word) for word in argv[1:]]
        argv = [os.fsencode(word) for word in action.inside("run", arguments, is_program, app=asked.app)]
    if container.spec.fakeroot:
        _refuse_pmix(env)
    cwd = _directory(container, asked, cwd)
    root = AS_ROOT if container.spec.fakeroot else b""

    def shell(script: bytes, start: list[bytes]) -> bytes | None:
        entering(step)
        return _run_there(peer, container.namespace_fds, script, start, root)

    env = _environment(container, asked, env, command, cwd, shell)
    mode = SAVE if asked.save or container.servers else WAIT if "pid" in container.spec.unshare else b""
    if b"TMPDIR=" + scratch not in env:
        scratch = b""
    answer = reply(argv, env, cwd, note(container, verbose, begin), mode, root, scratch)
    entering(step)
    wire.send(peer, wire.OK, answer, container.namespace_fds)
    return asked.save


def _refuse_pmix(env: list[bytes]) -> None:
    """Raise if a task with the environment `env`, which is root in its container, would talk to a PMIx server.

    The server refuses uid 0, and its library then waits forever (libpmix 4.2.2): the step would not end.
    """
    if any(entry.startswith(b"PMIX_NAMESPACE=") for entry in env):
        reason = "root in a container does not go with PMIx, which compares user ids"
        raise BollardError(reason, "use --mpi=pmi2 or --mpi=none")


def _directory(container: Container, asked: Spec, cwd: bytes) -> bytes:
    """Return the directory in which the task starts (`working_directory`). Warns if it is not the one asked for.

    container  the container; gets the warning
    asked      the spec of the task's step
    cwd        the task's directory on the host, b"" for one that was removed
    """
    own = enroot.workdir(container.rc) if container.by_slurm else b""
    found = working_directory(asked, cwd, own)
    if found not in (cwd, own) and not asked.pwd and not asked.contain:
        name = os.fsdecode(cwd) or "a directory that was removed"
        told = f"{name} cannot be entered in the container; the program starts in {os.fsdecode(found)}"
        container.warn_once([f"{container.node}: {told}"])
    return found


def _environment(
    container: Container, asked: Spec, env: list[bytes], command: bytes, cwd: bytes,
    shell: Callable[[bytes, list[bytes]], bytes | None],
) -> list[bytes]:  # fmt: skip
    """Return the environment of the task's program, NAME=VALUE.

    container  the container; keeps what the image's scripts and its entrypoint set
    asked      the spec of the task's step
    env        the task's environment on the host
    command    the action, for APPTAINER_COMMAND
    cwd        the directory in which the task starts
    shell      runs a script in the image's shell, in the task's launcher; see `_run_there`
    """
    image_env = container.environment
    if image_env is None:
        image_env = container.define_environment(shell, cwd)
    defaults = container.defaults
    if container.spec.fakeroot:
        defaults += ((b"APT_CONFIG", plan.APT_CONF.encode()),)
    unexpanded: list[str] = []
    env = environment.of_task(
        image_env, env, asked, command, container.binds, cwd, defaults, container.tools, container.locales,
        container.variables, container.plan.libraries, unexpanded,
        container.first_libraries,
    )  # fmt: skip
    container.warn_once(unexpanded)
    if container.by_slurm:
        named = dict(entry.split(b"=", 1) for entry in env)
        env = [name + b"=" + value for name, value in {**named, **pytorch.variables(named)}.items()]
    if asked.entrypoint:
        env = _through_entrypoint(container, asked, env, cwd, shell)
    return env


def _scratch(container: Container, env: list[bytes]) -> bytes:
    """Return the task's TMPDIR, if it is a directory of the host that the container lacks and may show; else b"".

    A TaskProlog may have made it after the container.
    """
    made = container.spec
    path = next((entry[7:] for entry in env if entry.startswith(b"TMPDIR=")), b"")
    if not container.by_slurm or made.contain or "tmp" in made.no_mount or "/tmp" in made.no_mount:
        return b""
    if not path.startswith(b"/") or b".." in path.split(b"/"):
        return b""
    return path if plan.needs_bind(os.fsdecode(path), container.plan.mounts, made.binds) else b""


def is_program(path: str) -> bool:
    """Return whether the container has an executable file at `path`."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def taken(env: list[bytes], name: bytes) -> bytes:
    """Remove the variable `name` (with its "=") from `env` and return its value; b"" if it is not set."""
    found = [entry for entry in env if entry.startswith(name)]
    for entry in found:
        env.remove(entry)
    return found[0][len(name) :] if found else b""


def step_spec(container: Container, env: list[bytes]) -> Spec:
    """Return the spec of this task's step and remove its variable from `env`.

    For a named container the spec can differ from the spec that created the container.

    Raises:
        BollardError: the container was made from another image, or lacks something that this spec needs.
    """
    text = taken(env, SPEC_VARIABLE)
    if not text:
        return container.spec
    asked = container.steps.get(text)
    if asked is None:
        header, values = spec_text.read(text)
        asked = spec.make(values)
        spec_text.refuse_other(header, asked)
        made = container.spec
        if asked.image and asked.image != made.image:
            other = f"was made from {made.asked}, not from {asked.asked}"
            raise BollardError(f"this job's container {made.name} {other}", "use another name")
        _refuse_what_it_lacks(container, asked, values)
        asked = replace(asked, image=made.image, asked=made.asked, home=made.home)
        if len(text) <= KEPT_SPEC_MAX:
            while len(container.steps) >= KEPT_SPECS:
                del container.steps[next(iter(container.steps))]
            container.steps[text] = asked
    return asked


def _refuse_what_it_lacks(container: Container, asked: Spec, values: list[tuple[str, str]]) -> None:
    """Raise if a step needs an option that its named container was not made with.

    Other tasks run in it: a container without tasks has been made anew for the step (renewal.py).
    """
    made = container.spec
    lacking = renewal.lacking(made, asked, values, container.saver is not None)
    if lacking and not renewal.OTHER_LAYERS.isdisjoint(lacking):
        other = min(renewal.OTHER_LAYERS.intersection(lacking))
        raise BollardError(
            f"this job's container {made.name} was made without this {other}",
            "ask for it where the container is made, or use another name",
        )
    if lacking:
        raise BollardError(
            f"this job's container {made.name} was made without this {lacking[0]}, and tasks of another step run in it",
            "wait until they have ended, or use another name",
        )


def _through_entrypoint(
    container: Container, asked: Spec, env: list[bytes], cwd: bytes, shell: Callable[[bytes, list[bytes]], bytes | None]
) -> list[bytes]:
    """Return `env` with the changes of the image's entrypoint. It runs once per container, in the first task."""
    words = ["/bin/sh", enroot.RC] if container.rc else [ENTRYPOINT]
    if container.entrypoint is None and os.access(words[0], os.X_OK):
        answer = shell(environment.entrypoint_script(words, cwd, asked.entrypoint_log), env)
        if answer is None:
            raise BollardError(
                "the image's entrypoint did not run the command it was given", "use --no-container-entrypoint"
            )
        container.entrypoint = environment.changes(env, answer)
    return environment.changed(env, container.entrypoint or {})


def _run_there(
    peer: socket, namespace_fds: tuple[int, ...], script: bytes, env: list[bytes], root: bytes
) -> bytes | None:
    """Return what `script` prints when the task's launcher runs it in the image's shell; None without a shell.

    The script is code of the image, so it must run within the task's limits, not in the keeper.

    peer           the connection to the launcher
    namespace_fds  descriptors of the container's namespaces
    script         text of the script
    env            its whole environment, NAME=VALUE
    root           AS_ROOT or b""
    """
    peer.settimeout(SCRIPT_SECONDS)
    wire.send(peer, wire.SCRIPT, wire.texts(env, script, root), namespace_fds)
    return wire.receive_frame(peer, constants.SCRIPT_OUTPUT_MAX) or None


def note(container: Container, verbose: bytes, begin: int) -> bytes:
    """Return the text for the task's stderr: warnings that were not shown yet, and the lines of --container-verbose.

    container  the container
    verbose    when the client began, ns since 1970; b"" without --container-verbose
    begin      when this task came, ns of CLOCK_MONOTONIC
    """
    warnings = "".join(f"bollard: {shown(warning)}\n" for warning in container.warnings)
    container.warnings = []
    if not verbose:
        return warnings.encode("utf-8", "replace")
    if container.told:
        lines = [f"image {container.spec.image}, container of an earlier step of this job"]
    else:
        lines = [f"image {container.spec.image}, {container.image.compression or container.image.kind}"]
        lines += container.lines()
        lines += container.clock.lines(int(verbose) if verbose.isdigit() and len(verbose) < 20 else 0)
        container.told = True
    lines.append(f"{'entry':<15} {(time.monotonic_ns() - begin) / 1e6:8.2f} ms")
    text = warnings + "".join(f"bollard: {container.node}: {shown(line)}\n" for line in lines)
    return text.encode("utf-8", "replace")
