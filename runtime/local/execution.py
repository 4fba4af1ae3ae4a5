# SPDX-License-Identifier: BSD-3-Clause
"""A container started by hand, `bollard exec`: the same keeper and launcher as under Slurm, without root.

    bollard ── fork twice ──► keeper: user namespace, image, mounts ── "ready" ──┐
       └── waits for that, then becomes bollard-enter, which becomes the program ◄┘

The program is the process that the user started: signals, terminal, standard streams and exit status are its
own. The keeper holds a pidfd of it and ends with it, and with what it left in the background.
An instance's keeper is made here too (instance_init.py).
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
from bollard.runtime.installed import LAUNCHER, PREFIX
from bollard.runtime.request import site

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bollard.runtime.request.site import Site
    from bollard.runtime.request.spec import Spec


def start(asked: Spec, action: str, argv: list[str], shell: str = "", opened: Callable[[], None] | None = None) -> None:
    """Make the container and become the program in it; returns only where there is nothing to start. `opened` is
    called when the image's file need not be where it is any more.
    `BollardError` for everything that went wrong, the keeper's failures too."""
    address, _, command = launch(asked, action, argv, shell, os.pidfd_open(os.getpid()))
    if opened:
        opened()
    if command:
        from bollard.runtime.local import action as actions

        if asked.no_umask:
            os.umask(0o022)
        become(address, command, variables(asked.verbose, actions.variables(action, command)))


def launch(
    asked: Spec, action: str, argv: list[str], shell: str, handle: int, instance: str = ""
) -> tuple[str, int, list[str]]:
    """Start a keeper: its address, its process id, and the command to start for `action`.

    It ends when `handle` hangs up; that of an `instance` serves even where there is nothing to start.
    """
    if not os.access(LAUNCHER, os.X_OK):
        raise BollardError(f"{LAUNCHER} is missing", "install bollard again")
    name = b"bollard-" + os.urandom(16).hex().encode()
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    listener.bind(b"\0" + name)
    listener.listen(8)
    asked = replace(asked, console=terminal())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _fork_keeper(asked, action, argv, shell, listener.fileno(), writer, handle, instance)
    os.close(writer)
    os.waitpid(child, 0)
    keeper, *command = answer(reader)
    listener.close()
    return name.decode(), int(keeper), command


def terminal() -> str:
    """The path of this process's terminal, "" where it has none."""
    for fd in range(3):
        try:
            return os.ttyname(fd)
        except OSError:
            pass
    return ""


def spool(here: Site) -> str:
    """The directory of Slurm's that a container by hand shows: the site's SlurmdSpoolDir, or in a step the one that
    its PMIx files lie in; "" for none."""
    named = site.spool_directory("", os.uname().nodename.split(".")[0], here)
    return named or os.path.dirname(os.environ.get("PMIX_SERVER_TMPDIR", ""))


def variables(verbose: bool, container: dict[str, str]) -> dict[str, str]:
    """Our own environment for the launcher: the user's, and what is to be set for the program."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(wire.OWN)}
    if environ.get("LC_CTYPE") == "C.UTF-8" and b"\0LC_CTYPE=" not in b"\0" + _first_environment():
        del environ["LC_CTYPE"]  # Python sets it where there is no locale (PEP 538)
    if verbose:
        environ[wire.VERBOSE] = str(time.time_ns())
    for key, value in container.items():
        environ["BOLLARDENV_" + key] = value
    return environ


def become(address: str, command: list[str], environ: dict[str, str]) -> NoReturn:
    """Become `command` in the container whose keeper listens at `address`."""
    # Python ignores them for itself, and exec would hand that down.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(LAUNCHER, ["bollard-enter", *command], {**environ, wire.ENTRY: address})


def _first_environment() -> bytes:
    """The environment this process was started with."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def answer(reader: int) -> list[str]:
    """What the keeper has to say: its process id and the command to start, or its failure, raised."""
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
    asked: Spec, action: str, argv: list[str], shell: str, listener: int, writer: int, handle: int, instance: str
) -> NoReturn:
    """In the first child: a session of its own, no terminal, no child of the program to be."""
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            from bollard.runtime.system import linux

            linux.close_others((listener, writer, handle))
            os.umask(0o022)
            os.chdir("/")
            _keep(asked, action, argv, shell, listener, writer, handle, instance)
        code = 0
    except BaseException as error:  # noqa: BLE001 - it becomes the one line the user sees
        tell_failure(writer, error)
    finally:
        os._exit(code)


def _keep(
    asked: Spec, action: str, argv: list[str], shell: str, listener: int, writer: int, handle: int, instance: str
) -> None:
    """Be the keeper; tells through `writer` when it is ready, or why not, as "status NUL text"."""
    try:
        from bollard.runtime.container import clock, keeper
        from bollard.runtime.local import action as actions
        from bollard.runtime.system import linux  # now, for none can be imported inside

        linux.name_process("bollard-keeper")
        times = clock.Clock()
        here = site.load(PREFIX)
        new_user_namespace(asked.fakeroot)
        program = argv[0] if argv else "sh"
        container = keeper.enter(asked, times, here, spool(here), program, action.encode(), instance)
        command = actions.inside(action, argv, _is_program, shell, asked.app)
    except BaseException as error:  # noqa: BLE001 - it becomes the one line the user sees
        tell_failure(writer, error)
        return
    tell(writer, "+", "".join(f"{word}\0" for word in (str(os.getpid()), *command)))
    os.close(writer)
    if not command and not instance:
        return
    keeper.serve(container, listener, handle)  # the program's pidfd in the place of a job's socket
    pause = 0.02
    while not instance and _others_here():  # what the program left in the background goes on, as it would on the host
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _others_here() -> bool:
    """Whether another process is in this mount namespace; with a private process namespace there is none left."""
    try:
        here, names = os.readlink("/proc/self/ns/mnt"), os.listdir("/proc")
    except OSError:
        return False
    for name in names:
        try:
            if name.isdigit() and int(name) != os.getpid() and os.readlink(f"/proc/{name}/ns/mnt") == here:
                return True
        except OSError:
            pass  # not ours, or gone
    return False


def tell_failure(writer: int, error: BaseException) -> None:
    """What `answer` then raises."""
    tell(writer, str(error.code if isinstance(error, BollardError) else 255), one_line(error))


def tell(writer: int, status: str, text: str) -> None:
    data = os.fsencode(f"{status}\0{text}")
    while data:
        data = data[os.write(writer, data) :]


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def new_user_namespace(as_root: bool) -> None:
    """identity.new_namespace, with a word to the user where the machine refuses."""
    from bollard.runtime.system import identity

    try:
        identity.new_namespace(as_root)
    except OSError as error:
        raise causes.no_namespaces(error, "this machine does not let users make namespaces") from None
