# SPDX-License-Identifier: BSD-3-Clause
"""Let tasks in: what the keeper says to the launcher of each (the C side is spank_plugin/entry.c).

A task sends its command, its environment and its working directory; it gets descriptors of the container's
namespaces, and the command, environment and working directory to go on with. A peer that sends "L" instead
holds a lifeline: the keeper stays until all lifelines are gone. Of a job's container only root may hold one: the
slurmstepd of each step.
"""

from __future__ import annotations

import os
import select
import time
from _socket import socket
from errno import ECONNABORTED, ENOTCONN

from bollard.runtime import constants
from bollard.runtime.container import enroot, environment, fuse, pytorch, record, task_reaper, wire
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.frozen import replace
from bollard.runtime.request import options, plan, spec, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.container.container import Container
    from bollard.runtime.container.save import Saver
    from bollard.runtime.request.spec import Spec

SPEC_VARIABLE = wire.SPEC.encode() + b"="
# What a task of an instance was started by, for APPTAINER_COMMAND; elsewhere one word holds for all (instance.py).
COMMAND_VARIABLE = b"SLURM_BOLLARD_COMMAND="
# A launcher with one of these modes waits for its program (supervise.c): in a process namespace, which only children
# enter; to save the container, when it sends wire.DONE and ends when it is answered.
WAIT = constants.LAUNCHER_WAIT.encode()
SAVE = constants.LAUNCHER_SAVE.encode()
# With --container-remap-root: changes of owner, which the namespace knows no ids for, succeed (ownership.h).
AS_ROOT = b"root"
ENTRYPOINT = "/.singularity.d/runscript"
# A launcher says what it has to say at once; the image's environment scripts may take a minute (Apptainer's rule).
PEER_SECONDS = 10.0
SCRIPT_SECONDS = constants.SCRIPT_WAIT_MS / 1000
# Specs of later steps of a named container: how many are kept, read, and how long they may be; others are read again.
KEPT_SPECS = 64
KEPT_SPEC_MAX = 8 << 10
# Who may hold a lifeline: of a job's container root alone, whose user may be root himself; else its user.
ANYONE, ROOT, USER_IS_ROOT = range(3)


def parse_request(frame: bytes) -> tuple[list[bytes], list[bytes], bytes, bytes]:
    """argv, environment, working directory, and when its client began if the user wants to know more (else "");
    ValueError for anything else."""
    words = frame.split(b"\0")
    argv, at = wire.list_at(words, 0)
    env, at = wire.list_at(words, at)
    if at + 3 != len(words) or words[-1] != b"" or not argv:
        raise ValueError("a frame with too little or too much in it")
    return argv, env, words[at], words[at + 1]


def reply(
    argv: list[bytes], env: list[bytes], cwd: bytes, note: bytes = b"", mode: bytes = b"", root: bytes = b""
) -> bytes:
    """The frame of a yes; `note` goes to the task's stderr; `mode` is "" or how to run the program; `root` is "" or
    AS_ROOT."""
    return wire.texts(argv, env, cwd, note, mode, root)


def working_directory(asked: Spec, cwd: bytes, own: bytes = b"") -> bytes:
    """Where the task starts: --pwd, the image's own (enroot's images), the task's (not with --contain), home, or "/".

    cwd   the task's directory on the host, "" for one that was removed
    own   the working directory that the image names, "" for none
    """
    if asked.pwd:
        if not os.path.isdir(asked.pwd):
            raise BollardError(f"--pwd {asked.pwd}: no such directory in the container", "make it, or bind one there")
        return os.fsencode(asked.pwd)
    for path in (own, b"" if asked.contain else cwd, os.fsencode(asked.home)):
        if path and os.path.isdir(path) and os.access(path, os.X_OK):
            return path
    return b"/"


def admit(container: Container, peer: socket, frame: bytes) -> tuple[str, str]:
    """Answer the request `frame` of one task with the way in; the step it is of, and the file to save the container to
    after it."""
    begin = time.monotonic_ns()
    argv, env, cwd, verbose = parse_request(frame)
    step = record.step_of(env)
    asked = step_spec(container, env)
    command = taken(env, COMMAND_VARIABLE) or container.command
    if container.spec.fakeroot and any(entry.startswith(b"PMIX_NAMESPACE=") for entry in env):
        # Refused by PMIx's server, whose library then waits for itself (libpmix 4.2.2): the step would never end.
        reason = "root in a container does not go with PMIx, which compares user ids"
        raise BollardError(reason, "use --mpi=pmi2 or --mpi=none")
    own = enroot.workdir(container.rc) if container.by_slurm else b""
    asked_cwd, cwd = cwd, working_directory(asked, cwd, own)
    if cwd not in (asked_cwd, own) and not asked.pwd and not asked.contain and asked_cwd not in container.replaced:
        if len(container.replaced) < KEPT_SPECS:
            container.replaced.add(asked_cwd)
        name = os.fsdecode(asked_cwd) or "a directory that was removed"
        words = f"{name} cannot be entered in the container; the program starts in {os.fsdecode(cwd)}"
        container.warnings.append(f"{container.node}: {words}")

    root = AS_ROOT if container.spec.fakeroot else b""

    def shell(script: bytes, start: list[bytes]) -> bytes | None:
        return _run_there(peer, container.ways_in, script, start, root)

    image_env = container.environment
    if image_env is None:
        image_env = container.define_environment(shell, cwd)
    defaults = container.site.environment
    if root:
        defaults += ((b"APT_CONFIG", plan.APT_CONF.encode()),)
    env = environment.of_task(
        image_env, env, asked, command, container.binds, cwd, defaults, container.tools, container.locales
    )
    if container.by_slurm:
        torch = pytorch.variables(dict(entry.split(b"=", 1) for entry in env))
        env += [name + b"=" + value for name, value in torch.items()]
    if asked.entrypoint:
        env = _through_entrypoint(container, asked, env, cwd, shell)
    mode = SAVE if asked.save or container.servers else WAIT if "pid" in container.spec.unshare else b""
    wire.send(peer, wire.OK, reply(argv, env, cwd, note(container, verbose, begin), mode, root), container.ways_in)
    return step, asked.save


def taken(env: list[bytes], name: bytes) -> bytes:
    """The value of the variable `name` (with its "="), which is taken out of `env`; "" where there is none."""
    found = [entry for entry in env if entry.startswith(name)]
    for entry in found:
        env.remove(entry)
    return found[0][len(name) :] if found else b""


def step_spec(container: Container, env: list[bytes]) -> Spec:
    """What this task's step asked; of a container with a name that may be another than made it. Its spec is taken
    out of `env`."""
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
    """Say no to a later step of a named container that counts on more than that was made with."""
    made = container.spec
    given = dict(values)
    lacking = []
    # Of the options that fill one field, those that were given are named first.
    for row in sorted(options.TABLE, key=lambda row: row.name not in given):
        if not row.fixed:
            continue
        want, have = getattr(asked, row.field), getattr(made, row.field)
        if not set(want) <= set(have) if isinstance(want, tuple) else want and want != have:
            lacking.append(f"--{row.slurm or row.name}")
    writable = made.writable_tmpfs or made.writable or bool(made.overlays)
    if asked.writable_tmpfs and not writable:
        lacking.append("--container-writable")
    if "writable-tmpfs" in given and not asked.writable_tmpfs and writable:
        lacking.append("--container-readonly")
    if spec.switch([given.get("no-home", "")]) and made.home:
        lacking.append("--no-container-mount-home")
    if "no-home" in given and not spec.switch([given["no-home"]]) and not made.home:
        lacking.append("--container-mount-home")
    if "fakeroot" in given and not asked.fakeroot and made.fakeroot:
        lacking.append("--no-container-remap-root")
    if asked.save and not container.saver:
        lacking.append("--container-save")
    if lacking:
        raise BollardError(
            f"this job's container {made.name} was made without this {lacking[0]}",
            "ask for it where the container is made, or use another name",
        )


def _through_entrypoint(
    container: Container, asked: Spec, env: list[bytes], cwd: bytes, shell: Callable[[bytes, list[bytes]], bytes | None]
) -> list[bytes]:
    """`env` with what the image's entrypoint changes in it. That runs once per container, in its first task."""
    words = ["/bin/sh", enroot.RC] if container.rc else [ENTRYPOINT]
    if container.entrypoint is None and os.access(words[0], os.X_OK):
        answer = shell(environment.entrypoint_script(words, cwd, asked.entrypoint_log), env)
        if answer is None:
            raise BollardError(
                "the image's entrypoint did not run the command it was given", "use --no-container-entrypoint"
            )
        container.entrypoint = environment.changes(env, answer)
    return environment.changed(env, container.entrypoint or {})


def _run_there(peer: socket, ways_in: tuple[int, ...], script: bytes, env: list[bytes], root: bytes) -> bytes | None:
    """What the image's shell prints when this task's launcher runs `script` with exactly `env`; None without
    a shell. `root` is "" or AS_ROOT. It is the image's code, so it must run within the task's limits."""
    peer.settimeout(SCRIPT_SECONDS)
    wire.send(peer, wire.SCRIPT, wire.texts(env, script, root), ways_in)
    return wire.receive_frame(peer, constants.SCRIPT_OUTPUT_MAX) or None


def note(container: Container, verbose: bytes, begin: int) -> bytes:
    """What the first task of a step on this node tells the user: warnings, --container-verbose.

    `verbose` is when its client began (ns since 1970), "" when the user did not ask; `begin` when this task came.
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


class Server:
    """The keeper's loop: who is there, and until when."""

    def __init__(
        self, container: Container, listener: int, job: int, watcher: task_reaper.Guard, holder: int = ANYONE
    ) -> None:
        self.container = container
        self.holder = holder  # who may hold a lifeline
        self.listener = socket(fileno=listener)
        self.listener.setblocking(False)
        self.job = job  # hangs up when the job has ended on this node; -1 when nothing tells
        self.watcher = watcher
        self.server = task_reaper.task_handle(container.server) if container.server else -1
        self.lifelines: dict[int, socket] = {}
        self.tasks: dict[int, int] = {}  # pidfd: pid
        self.steps: dict[int, str] = {}  # pid: step
        self.finished: set[int] = set()  # pids of tasks that have told so
        # Tasks that will tell of their end: connection, its pid, the file to save the container to.
        self.savers: dict[int, tuple[socket, int, str]] = {}
        self.saves: list[tuple[socket, str]] = []  # those that wait for their file; the first is being written
        self.begun = False
        self.by_slurm = False  # a lifeline came: slurmstepd decides when it is over
        self.idle_since = time.monotonic()  # when the last lifeline went
        self.over = False  # another keeper of the job has asked this idle one to end
        self.poll = select.poll()
        for fd in (listener, job, self.server):
            if fd >= 0:
                self.poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Until the step has ended, and the job where that is known; or, with no lifeline, the last task."""
        try:
            self._loop()
        except Exception as error:
            self._end(f"the container's keeper failed ({type(error).__name__}: {error}) and")
        if self.container.servers:
            self.container.servers.end()
        self.container.record.end()
        self.watcher.dismiss()

    def _loop(self) -> None:
        while not self.over and (
            not self.begun or self.job >= 0 or self.lifelines or (self.tasks and not self.by_slurm)
        ):
            for fd, _ in self.poll.poll():
                if fd == self.listener.fileno():
                    self._accept()
                elif fd == self.server:
                    self._end("the container's file server")
                    gone = f"the container's file server on {self.container.node} has ended"
                    wire.refuse_waiting(self.listener, BollardError(gone, "submit again"))
                    return
                elif fd == self.job:
                    self.poll.unregister(fd)
                    self.job = -1
                    self.begun = True  # and over: nobody will come any more
                elif fd in self.tasks:
                    self._forget(self.tasks[fd])
                    if not self.tasks and self.container.record.pending:
                        self.container.record.write()
                elif fd in self.savers:
                    self._done(fd)
                elif self.container.saver and fd == self.container.saver.answer:
                    self._saved(self.container.saver)
                elif fd in self.lifelines:
                    self.poll.unregister(fd)
                    self.lifelines.pop(fd).close()
                    self.idle_since = time.monotonic()
        if self.tasks:
            self._end(f"the instance {self.container.instance}" if self.container.instance else "slurmstepd")
        if self.container.instance:
            task_reaper.end_members()

    def _done(self, fd: int) -> None:
        """A task has ended: the last one of its step on the node waits until the container is saved."""
        self.poll.unregister(fd)
        peer, pid, target = self.savers.pop(fd)
        try:
            told = peer.recv(1) == wire.DONE
        except OSError:
            told = False
        if not told:  # it was ended; so nothing is saved
            peer.close()
            return
        self.finished.add(pid)
        step = self.steps.get(pid)
        if target and self.container.saver and not any(self.steps.get(other) == step for other in self._unfinished()):
            self.saves.append((peer, target))
            if len(self.saves) == 1:
                self._save(self.container.saver)
        else:
            self._answer(peer, "")

    def _unfinished(self) -> list[int]:
        return [pid for pid in self.tasks.values() if pid not in self.finished]

    def _save(self, saver: Saver) -> None:
        """Begin with the first file that is waited for; tasks come and go meanwhile."""
        saver.start(self.saves[0][1])
        self.poll.register(saver.answer, select.POLLIN)

    def _saved(self, saver: Saver) -> None:
        self.poll.unregister(saver.answer)
        peer, _ = self.saves.pop(0)
        self._answer(peer, saver.result())
        if self.saves:
            self._save(saver)

    def _answer(self, peer: socket, text: str) -> None:
        """Let a task that has told of its end go; `text` is what went wrong."""
        # A step's later tasks, and later steps, still need the servers; by hand the last task is the end.
        if self.container.servers and not self.by_slurm and not self.saves and not self._unfinished():
            self.container.servers.end()
        try:
            wire.send(peer, wire.ERROR if text else wire.OK, text.encode("utf-8", "replace") + b"\0")
        except OSError:
            pass  # it was ended meanwhile
        peer.close()

    def _end(self, who: str) -> None:
        reason = f"{who} on {self.container.node} ended; the task in its container is ended too"
        task_reaper.end_tasks([(pid, handle) for handle, pid in self.tasks.items()], reason)

    def _accept(self) -> None:
        try:
            number, _ = self.listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            return  # gone again
        peer = socket(fileno=number)
        peer.settimeout(PEER_SECONDS)
        pid = 0
        try:
            pid, uid = wire.credentials(peer)
            # A job's socket is a file that lets in its user and root alone; root has no number of its own in a user
            # namespace.
            mine = uid == os.getuid()
            root = self.holder == USER_IS_ROOT or (self.holder == ROOT and not mine)
            if not mine and not root:
                return
            kind = wire.receive(peer, 1)
            if kind == wire.QUESTION:
                wire.send(peer, wire.OK, self.state())
                return  # no task: nobody waits for its end
            if kind == wire.END_IDLE:
                self.over = self._is_idle()
                return
            if kind == wire.LIFELINE:
                if root or self.holder == ANYONE:
                    self._hold(peer)
                return
            if not mine:
                return
            watched = self._watch(pid)
            frame = wire.receive_frame(peer)  # first: a refusal beside unread words would reset the connection
            self._ask_server()
            step, target = admit(self.container, peer, frame)
            if watched:
                self.steps[pid] = step
            self.container.record.entered(step)
            self.begun = True
            if target or self.container.servers:
                self.savers[number] = (peer, pid, target)
                self.poll.register(number, select.POLLIN)
        except Exception as error:  # whatever one peer says or does, the others' container stays
            self._forget(pid)  # it ends by itself, with the reason
            wire.refuse(peer, error)
        finally:
            if number not in self.lifelines and number not in self.savers:
                peer.close()

    def _ask_server(self) -> None:
        """Raise where the file server does not answer any more. It is asked before each task goes in, for a task that
        waits for it cannot be ended. The reaper sees to it that this comes back."""
        if self.container.server <= 0:
            return
        begin = time.monotonic()
        self.watcher.waiting()
        try:
            os.fstatvfs(self.container.image_root)  # the kernel never answers this by itself
        except OSError as error:
            # Else it has no such answer; or has just ended, which the loop tells.
            if error.errno in (ENOTCONN, ECONNABORTED) and time.monotonic() - begin > fuse.STOPPED_SECONDS - 1:
                raise fuse.silent(self.container.spec.asked) from None
        finally:
            self.watcher.answered()

    def _hold(self, peer: socket) -> None:
        """Stay for as long as `peer` is open, unless its step needs a working directory that is not here."""
        cwd = spec_text.pairs(wire.receive_frame(peer, constants.CWD_MAX))
        if cwd and not self._shows(cwd[0][1]):
            peer.sendall(wire.ERROR)
            return
        number = peer.fileno()
        # Its end may have come already: poll tells, and that too ends this container.
        self.lifelines[number] = peer
        self.poll.register(number, select.POLLIN)
        self.begun = self.by_slurm = True
        peer.sendall(wire.OK)

    def _shows(self, cwd: str) -> bool:
        """Whether a step can work there: in the directory as it was called, and in what links lead to."""
        self.watcher.waiting()
        try:
            names = {cwd, os.path.realpath(cwd)}
        finally:
            self.watcher.answered()
        return all(plan.shows(self.container.plan.mounts, name, self.container.spec) for name in names)

    def _is_idle(self) -> bool:
        return self.by_slurm and not self.lifelines and not self.tasks

    def state(self) -> bytes:
        """The record, and the tasks that are there now: for `bollard ps`."""
        there = ",".join(f"{pid}:{self.steps[pid]}" for pid in self.tasks.values() if pid in self.steps)
        idle = f"{time.monotonic() - self.idle_since:.3f}" if self._is_idle() else ""
        return spec_text.text([*self.container.record.values(), ("there", there), ("idle", idle)]) + b"\0"

    def _forget(self, pid: int) -> None:
        """A task has ended, or was not let in."""
        for handle in [handle for handle, task in self.tasks.items() if task == pid]:
            self.poll.unregister(handle)
            os.close(handle)
            del self.tasks[handle]
        self.steps.pop(pid, None)
        self.finished.discard(pid)

    def _watch(self, pid: int) -> bool:
        """Whether that task is there."""
        handle = task_reaper.task_handle(pid)
        if handle >= 0:
            self.tasks[handle] = pid
            self.poll.register(handle, select.POLLIN)
            try:
                self.watcher.watch(pid)
            except OSError:  # somebody killed the guard: another one takes over
                self.watcher.dismiss()
                self.watcher = task_reaper.start(
                    self.job, self.container.private(self.listener.fileno()),
                    self.container.server, self.container.server_state,
                )  # fmt: skip
                for task in self.tasks.values():
                    self.watcher.watch(task)
        return handle >= 0
