# SPDX-License-Identifier: BSD-3-Clause
"""Start a container by hand, `bollard exec`: with the same keeper and launcher as under Slurm, without root.

    bollard ── fork twice ──► keeper: user namespace, image, mounts ── "ready" ──┐
       └── waits for that, then becomes bollard-enter, which becomes the program ◄┘

The process that the user started becomes the program: it gets the signals, the terminal, the standard streams, and its
exit status is the program's. The keeper holds a pidfd of this process. It ends after the program and after all
processes that the program left in the background.
This module also starts the keeper of an instance (instance_init.py).
"""

from __future__ import annotations

import _signal as signal
import os
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from bollard.runtime import causes
from bollard.runtime.causes import one_line
from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.frozen import replace
from bollard.runtime.installed import BY_PIP, LAUNCHER, PREFIX
from bollard.runtime.local import rank_namespace
from bollard.runtime.request import site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bollard.runtime.image.encryption import Key
    from bollard.runtime.request.site import Site
    from bollard.runtime.request.spec import Spec


def start(
    asked: Spec, action: str, argv: list[str], shell: str = "", opened: Callable[[], None] | None = None,
    keys: list[Key] | None = None,
) -> None:  # fmt: skip
    """Make the container and become the program in it. Returns only if there is nothing to start.

    asked: the spec of the container.
    action: "exec", "run", "shell" or "test".
    argv: the program or the arguments that the user gave.
    shell: the shell that the user asked for, "" for none.
    opened: called after the keeper has opened the image: the file may then be removed.
    keys: of an encrypted image, at most one; `launch` takes it out.

    Raises:
        BollardError: the container cannot be made, also if the keeper fails (from `launch`).
    """
    address, _, command = launch(asked, action, argv, shell, os.pidfd_open(os.getpid()), keys=keys)
    if opened:
        opened()
    if command:
        from bollard.runtime.container import action as actions

        if asked.no_umask:
            os.umask(0o022)
        become(address, command, variables(asked.verbose, actions.variables(action, command)))


def launch(
    asked: Spec, action: str, argv: list[str], shell: str, handle: int, instance: str = "",
    keys: list[Key] | None = None,
) -> tuple[str, int, list[str]]:  # fmt: skip
    """Start a keeper; return its address, its process id, and the command to start.

    asked: the spec of the container.
    action: "exec", "run", "shell", "test" or "start".
    argv: the program or the arguments that the user gave.
    shell: the shell that the user asked for, "" for none.
    handle: a file descriptor; the keeper ends when it hangs up.
    instance: the name of the instance, "" for none. Its keeper runs even if there is nothing to start.
    keys: of an encrypted image, at most one. The keeper, a fork of this process, has it until it has opened the image.
        Each of the two empties its list.

    Raises:
        BollardError: the launcher is missing, or the keeper fails.
    """
    if not os.access(LAUNCHER, os.X_OK):
        raise BollardError(f"{LAUNCHER} is missing", "install bollard again")
    if BY_PIP:
        from bollard.runtime.local import host_programs

        host_programs.use()
    name = b"bollard-" + os.urandom(16).hex().encode()
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    listener.bind(b"\0" + name)
    listener.listen(8)
    asked = replace(asked, console=terminal())
    reader, writer = os.pipe()
    keys = [] if keys is None else keys
    ranks = "" if instance or asked.fakeroot else rank_namespace.key(os.environ)  # here: a keeper has another parent
    child = os.fork()
    if child == 0:
        _fork_keeper(asked, action, argv, shell, listener.fileno(), writer, handle, instance, keys, ranks)
    keys.clear()
    os.close(writer)
    os.waitpid(child, 0)
    keeper, *command = answer(reader)
    listener.close()
    return name.decode(), int(keeper), command


def terminal() -> str:
    """Return the path of this process's terminal; "" if it has none."""
    for fd in range(3):
        try:
            return os.ttyname(fd)
        except OSError:
            pass  # no terminal, or closed: the next descriptor may have one
    return ""


def spool(here: Site) -> str:
    """Return the directory of Slurm that is bound into the container; "" for none.

    It is the site's SlurmdSpoolDir, else, in a step, the parent directory of the PMIx server's files.
    """
    named = site.spool_directory("", os.uname().nodename.split(".")[0], here)
    return named or os.path.dirname(os.environ.get("PMIX_SERVER_TMPDIR", ""))


def variables(verbose: bool, container: dict[str, str]) -> dict[str, str]:
    """Return the environment for the launcher: the user's environment, and `container`, variables for the program."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(wire.OWN)}
    if environ.get("LC_CTYPE") == "C.UTF-8" and b"\0LC_CTYPE=" not in b"\0" + _first_environment():
        del environ["LC_CTYPE"]  # Python has set it, because there is no locale (PEP 538)
    if verbose:
        environ[wire.VERBOSE] = str(time.time_ns())
    for key, value in container.items():
        environ["BOLLARDENV_" + key] = value
    return environ


def become(address: str, command: list[str], environ: dict[str, str]) -> NoReturn:
    """Become `command` in a container.

    address: the abstract socket address of its keeper.
    command: the program and its arguments.
    environ: the environment for the launcher, from `variables`.
    """
    # Python ignores these signals, and execve would keep them ignored for the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(LAUNCHER, ["bollard-enter", *command], {**environ, wire.ENTRY: address})


def _first_environment() -> bytes:
    """Return the environment with which this process was started."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""  # no /proc: LC_CTYPE then counts as Python's own


def answer(reader: int) -> list[str]:
    """Read the keeper's report from a pipe; return its process id and the command to start.

    Raises:
        BollardError: the keeper has failed, or ended before it was ready.
    """
    data = b""
    while True:
        part = os.read(reader, 65536)
        if not part:
            break
        data += part
    os.close(reader)
    status, _, rest = data.partition(b"\0")
    if status == b"+":
        return [os.fsdecode(word) for word in rest.split(b"\0")[:-1]]
    if not status:
        raise BollardError("the container's keeper ended before it was ready", "was it killed?")
    raise BollardError(rest.decode("utf-8", "replace"), code=int(status))


def _fork_keeper(
    asked: Spec, action: str, argv: list[str], shell: str, listener: int, writer: int, handle: int, instance: str,
    keys: list[Key], ranks: str = "",
) -> NoReturn:  # fmt: skip
    """Fork the keeper and end; runs in the first child. The keeper gets its own session, without a terminal.

    So the keeper is not a child of the process that becomes the program.
    """
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            from bollard.runtime.system import linux, processes

            linux.close_others((listener, writer, handle))
            os.umask(0o022)
            os.chdir("/")
            if keys:
                processes.leave_no_core()
            _keep(asked, action, argv, shell, listener, writer, handle, instance, keys, ranks)
        code = 0
    except BaseException as error:  # noqa: BLE001 - it becomes the user's error message
        tell_failure(writer, error)
    finally:
        os._exit(code)


def _keep(
    asked: Spec, action: str, argv: list[str], shell: str, listener: int, writer: int, handle: int, instance: str,
    keys: list[Key], ranks: str = "",
) -> None:  # fmt: skip
    """Run the keeper. It writes "status NUL text" to `writer` when it is ready or has failed."""
    try:
        from bollard.runtime.container import action as actions
        from bollard.runtime.container import clock, keeper
        from bollard.runtime.system import linux  # imported now: in the container no module can be imported

        linux.name_process("bollard-keeper")
        times = clock.Clock()
        here = site.load(PREFIX)
        connection = _witness(here)
        warning = new_user_namespace(asked.fakeroot, ranks)
        program = argv[0] if argv else "sh"
        container = keeper.enter(
            asked, times, here, spool(here), program, action.encode(), instance, connection, keys=keys
        )
        container.warnings += [warning] if warning else []
        command = actions.inside(action, argv, _is_program, shell, asked.app)
    except BaseException as error:  # noqa: BLE001 - it becomes the user's error message
        tell_failure(writer, error)
        return
    tell(writer, "+", "".join(f"{word}\0" for word in (str(os.getpid()), *command)))
    os.close(writer)
    if not command and not instance:
        return
    keeper.serve(container, listener, handle)  # the pidfd of the program is used like a job socket
    pause = 0.02
    while not instance and _others_here():  # processes left in the background continue, as they do on the host
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _witness(here: Site) -> int:
    """Start the witness of owners if a rule of the site asks for them; return the connection to it, else -1."""
    if not here.trust or not any(rule.owners for rule in here.trust.rules):
        return -1
    from bollard.runtime.trust import witness

    return witness.start()


def _others_here() -> bool:
    """Return whether another process is in this mount namespace. With a private process namespace there is none."""
    try:
        here, names = os.readlink("/proc/self/ns/mnt"), os.listdir("/proc")
    except OSError:
        return False  # the container has no /proc (--no-mount proc), so its keeper ends with the program
    for name in names:
        try:
            if name.isdigit() and int(name) != os.getpid() and os.readlink(f"/proc/{name}/ns/mnt") == here:
                return True
        except OSError:
            pass  # a process of another user, or it has ended
    return False


def tell_failure(writer: int, error: BaseException) -> None:
    """Write an error to the pipe; `answer` raises it in the reader."""
    tell(writer, str(error.code if isinstance(error, BollardError) else 255), one_line(error))


def tell(writer: int, status: str, text: str) -> None:
    """Write a report for `answer` to the pipe.

    writer: the file descriptor.
    status: "+" for success, else the exit status as a number.
    text: words that each end with NUL; after a failure, the error message.
    """
    data = os.fsencode(f"{status}\0{text}")
    while data:
        data = data[os.write(writer, data) :]


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def new_user_namespace(as_root: bool, ranks: str = "") -> str:
    """Make a user namespace, in which the user is root if `as_root` is set; or join that of the `ranks`.

    Returns a warning, "" for none.

    Raises:
        BollardError: this machine does not let users make user namespaces.
    """
    from bollard.runtime.system import identity

    try:
        if ranks:
            return rank_namespace.enter(ranks)
        identity.new_namespace(as_root)
    except OSError as error:
        raise causes.no_namespaces(error, "this machine does not let users make namespaces") from None
    return ""
