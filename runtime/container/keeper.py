# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: one process per container and node. It opens the image, makes the namespaces, lets tasks in,
and takes everything with it when it ends.

    Slurm      shim ── fork, become the user ──► main()              ends with its step, or with the job here
    by hand    bollard exec ── fork ──► byhand: enter(), serve()     ends with the program, or with its instance

It runs as the user, in a user namespace that maps his own ids. What it makes lives in its mount namespace, so
nothing has to be cleaned up: when it and its tasks are gone, so are the mounts and the FUSE server.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGCHLD, signal
from errno import EINVAL, EIO, ENOSPC, ENOSYS

from bollard.runtime import host_slurm
from bollard.runtime.container import entry, fuse, idle, imports, layers, mounts, readahead, record, task_reaper
from bollard.runtime.container.clock import Clock
from bollard.runtime.container.container import Container
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import PREFIX, SESSION
from bollard.runtime.request import plan, site, spec
from bollard.runtime.system import identity, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.save import Saver
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec

# The image's own environment scripts, and how many at most.
SCRIPTS = "/.singularity.d/env"
SCRIPTS_MAX = 64
# Of such a script, and of /etc/passwd and /etc/group, in bytes.
FILE_MAX = 1 << 20
_S_IFMT = 0o170000  # sys/stat.h
_S_IFREG = 0o100000
# Room for the few files and directories the keeper writes; images never go here.
_SESSION_OPTIONS = "mode=0755,size=16m"


def _write(path: str, data: bytes) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.write(fd, data)
    os.close(fd)
    return path


def _read_in(root: int, path: str) -> bytes:
    """A small file of the image; empty when there is none, or when it is no regular file."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if linux.is_missing(error) or not _is_file(root, path):
            return b""
        raise
    try:
        info = os.fstat(fd)
        if info.st_mode & _S_IFMT != _S_IFREG:
            return b""
        if info.st_size > FILE_MAX:
            raise BollardError(
                f"{path} in the image has {info.st_size} bytes, over {FILE_MAX}", "is it what it should be?"
            )
        return os.read(fd, FILE_MAX)
    finally:
        os.close(fd)


def _is_file(root: int, path: str) -> bool:
    """Whether `path` is a regular file. A socket and a device cannot be opened to find that out."""
    fd = linux.open_in_root(root, path)
    try:
        return os.fstat(fd).st_mode & _S_IFMT == _S_IFREG
    finally:
        os.close(fd)


def enter(asked: Spec, clock: Clock, spool: str = "", program: str = "", here: site.Site = plan.DEFAULTS) -> Container:
    """Make the container and move this process into it. Must be in a user namespace already.

    `spool` is SlurmdSpoolDir, `program` what the first task will most likely start, `here` what the site wants.
    """
    deadlines: list[fuse.Deadline] = []
    try:
        container = _enter(asked, clock, spool, program, here, deadlines)
    except (OSError, BollardError) as error:
        if not all(deadline.met() for deadline in deadlines):
            raise fuse.silent(asked.asked) from error
        if isinstance(error, OSError):
            raise _explained(asked, error) from error
        raise
    if not all(deadline.met() for deadline in deadlines):
        raise fuse.silent(asked.asked)
    return container


def _explained(asked: Spec, error: OSError) -> BollardError:
    """What the kernel's refusal most likely means to the user."""
    what, reason = os.fsdecode(error.filename or "?"), error.strerror or str(error)
    if error.errno == ENOSYS:
        return BollardError(f"{what}: the kernel {os.uname().release} lacks it", "bollard needs Linux 5.12 or newer")
    if error.errno == ENOSPC and what.startswith("unshare"):
        return BollardError(f"{what}: too many namespaces on this node", "see /proc/sys/user/max_mnt_namespaces")
    if error.errno == EIO and what.startswith(SESSION):
        return BollardError(f"{asked.asked}: damaged: its filesystem cannot be read", "copy or build it again")
    return BollardError(
        f"{asked.asked}: cannot be made a root filesystem: {what}: {reason}",
        "look at that path in the image, and at the binds",
    )


def _enter(
    asked: Spec, clock: Clock, spool: str, program: str, here: site.Site, deadlines: list[fuse.Deadline]
) -> Container:
    """The order is one of time: what needs no answer of the image's server is done while that starts."""
    signal(SIGCHLD, SIG_IGN)  # children are watched by their pidfd; none waits to be reaped
    linux.new_mount_namespace()  # first, for a directory can be bound only by the namespace it was opened in
    opened, own_layers = _open(asked, here)
    clock.mark("image")
    linux.mount("tmpfs", SESSION, _SESSION_OPTIONS, linux.MS_NOSUID | linux.MS_NODEV)
    processes = _unshare(asked)
    own = layers.are_own(asked, own_layers)
    base, server, words = _mount(asked, opened, own)
    state = fuse.open_state(server) if server else -1
    deadlines += [fuse.Deadline(server, state)] if server else []
    clock.mark("fuse")
    imports.complete()  # meanwhile the server starts
    ops, lacking = _plan(asked, spool, here)
    warnings: list[str] = []
    files = _write_files(asked)
    accounts = identity.lines(asked.home)
    ready = {plan.PROC: linux.clone_tree(f"{SESSION}/proc", recursive=False)} if processes >= 0 else {}
    places = mounts.clone_sources(ops, files, SESSION, ready, warnings)
    clock.mark("sources")
    root = _first_look(asked, base, words)
    if server:
        readahead.start(root, program)
    for name, ours in accounts.items():
        _write(files[name], identity.merged(_read_in(root, f"/etc/{name}"), ours))
    clock.mark("server")
    base, servers = layers.mount(asked, base, SESSION, own_layers, places)
    saver = _start_saver(asked, base, own)
    new_root = mounts.make_root(base, SESSION, places, warnings, layers.is_writable(asked, own_layers))
    ways_in = _ways_in(asked, processes)
    imports.end()
    linux.change_root(new_root)
    clock.mark("mounts")
    container = Container(asked, opened, ops, server, clock, here, ways_in)
    container.saver, container.servers = saver, servers
    container.warnings = lacking + [f"{os.uname().nodename}: {warning}" for warning in warnings]
    container.server_state, container.image_root = state, root
    _look_around(container)
    clock.mark("environment")
    return container


def _open(asked: Spec, here: site.Site) -> tuple[Image, list[layers.Layer]]:
    """What is the user's, by his own rights alone: the image, layers above it, a directory for scratch files."""
    linux.use_capabilities(False)
    opened = image.open_image(asked.image, os.uname().machine)
    site.refuse_image(here, opened.fd, asked.asked)
    if asked.writable and opened.kind != image.DIRECTORY and not opened.overlays:
        raise BollardError(f"{asked.asked}: is a file; --writable needs a directory", "use --writable-tmpfs")
    own_layers = layers.opened(asked, opened)
    if asked.workdir and not os.path.isdir(asked.workdir):
        raise BollardError(f"workdir {asked.workdir}: no such directory", "make it, or name another one")
    for path in plan.workdirs(asked):
        os.makedirs(path, exist_ok=True)
    if asked.save:
        from bollard.runtime.container import save

        save.refuse(asked.save)
    linux.use_capabilities(True)
    return opened, own_layers


def _mount(asked: Spec, opened: Image, own: bool) -> tuple[str, int, int]:
    """Where the image is mounted, the process id of its server, and a descriptor of what that prints; for a directory,
    which needs no server, 0 and -1."""
    base = f"{SESSION}/image"
    os.mkdir(base, 0o755)
    if opened.kind == image.DIRECTORY:
        try:
            mounts.bind_directory(opened.fd, base, asked.writable)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            raise BollardError(
                f"{asked.asked}: another filesystem is mounted below it, so it cannot be an image",
                "name a directory that holds all of the image, or leave the container out for the host's own /",
            ) from None
        return base, 0, -1
    scratch = f"{SESSION}/scratch"
    os.mkdir(scratch, 0o755)
    return base, *fuse.mount(opened.fd, opened.offset, base, scratch, own)


def _plan(asked: Spec, spool: str, here: site.Site) -> tuple[list[plan.Op], list[str]]:
    """What is mounted, and a warning for each kind of card that was asked for and is not there."""
    real_cwd = os.path.realpath(asked.cwd)
    ops = plan.make(asked, spool, PREFIX, here, host_slurm.TOOLS, host_slurm.PLACES, real_cwd)
    if not asked.cards:
        return ops, []
    from bollard.runtime.container import gpu

    cards, lacking = gpu.make(asked.cards, asked.contain)
    warning = f"{os.uname().nodename} has no driver for it; the container starts without"
    return ops + cards, [f"--{kind}: {warning}" for kind in lacking]


def _write_files(asked: Spec) -> dict[str, str]:
    """The files of /etc that are the container's own, by their names; empty where there is nothing of the user's to
    write yet."""
    files = {name: f"{SESSION}/{name}" for name in ("passwd", "group", "resolv.conf", "hostname")}
    for path in files.values():
        _write(path, b"")
    if asked.dns:
        _write(files["resolv.conf"], "".join(f"nameserver {server}\n" for server in asked.dns).encode())
    if asked.hostname:
        _write(files["hostname"], f"{asked.hostname}\n".encode())
    return files


def _start_saver(asked: Spec, base: str, own: bool) -> Saver | None:
    """For a container that is to be saved, or may be: a later step can ask it of a named one with files of its own."""
    if not asked.save and not (asked.name and own):
        return None
    from bollard.runtime.container import save

    return save.start(base)


def _ways_in(asked: Spec, processes: int) -> tuple[int, ...]:
    """Descriptors of the namespaces, opened on the host's /proc: the container may have none."""
    names = [name for name in ("user", "mnt", *asked.unshare) if name != "pid"]
    ways = tuple(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names)
    return (*ways, processes) if processes >= 0 else ways


def _look_around(container: Container) -> None:
    """What is known of the image only now that this process stands in it: its app, commands and environment."""
    asked = container.spec
    if asked.app and not os.path.isdir(f"/scif/apps/{asked.app}"):
        raise BollardError(
            f"{asked.asked}: has no app {asked.app}", f"see `bollard inspect --list-apps {asked.asked}`", 1
        )
    if os.path.isdir(plan.TOOLS):
        container.tools = os.fsencode(plan.TOOLS)
    container.scripts = _scripts()
    try:
        container.define_environment(_no_shell_here)
    except _NeedsShell:
        pass  # user code, so a task runs it: entry.admit


def _unshare(asked: Spec) -> int:
    """The namespaces asked for, beyond those that every container has. A descriptor of the process namespace, whose
    /proc is at SESSION/proc then; -1 where none was asked for."""
    linux.new_namespaces(tuple(name for name in asked.unshare if name != "pid"))
    if asked.hostname:
        from _socket import sethostname

        sethostname(asked.hostname)
    if "net" in asked.unshare:
        linux.bring_up("lo")
    if "pid" not in asked.unshare:
        return -1
    os.mkdir(f"{SESSION}/proc", 0o755)
    try:
        return linux.start_first(f"{SESSION}/proc")
    except OSError as error:
        raise BollardError(
            f"no process namespace for the container: {error.filename}: {error.strerror}",
            "leave --pid and --containall out; a machine that covers parts of /proc allows none",
        ) from None


class _NeedsShell(Exception):
    """The image's environment scripts are more than `shellenv` understands."""


def _no_shell_here(script: bytes, env: list[bytes]) -> bytes | None:
    raise _NeedsShell


def _first_look(asked: Spec, base: str, words: int) -> int:
    """A descriptor of the image's root, once its server has answered; `words` is what that prints, -1 for none."""
    try:
        root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(linux.open_in_root(root, "/", os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        reason = fuse.last_words(words) if words >= 0 else str(error.strerror)
        raise fuse.unreadable(asked.asked, reason) from None
    if words >= 0:
        os.close(words)
    return root


def _scripts() -> list[tuple[str, bytes]]:
    """The image's environment scripts in the order in which they count; this process stands in the image."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = sorted(name for name in os.listdir(SCRIPTS) if name.endswith(".sh"))
        if len(names) > SCRIPTS_MAX:
            raise BollardError(
                f"the image has {len(names)} environment scripts, over {SCRIPTS_MAX}", f"look at {SCRIPTS}"
            )
        return [(name, _read_in(root, f"{SCRIPTS}/{name}")) for name in names]
    except OSError as error:
        if not linux.is_missing(error):
            raise
        old = _read_in(root, "/environment")  # Singularity before 2.3
        return [("environment", old)] if old else []
    finally:
        os.close(root)


def serve(container: Container, listener: int, job: int, holder: int = entry.ANYONE) -> None:
    """Let tasks in until the end of the step, of the job, or of the last task (see entry.Server.run). `holder`: who may
    hold a lifeline."""
    linux.drop_capabilities()
    watcher = task_reaper.start(job, container.private(listener), container.server, container.server_state)
    container.clock.mark("ready")
    entry.Server(container, listener, job, watcher, holder).run()


def main(spec_text: bytes, arguments: bytes, program: bytes, listener: int, job: int, times: tuple[int, int]) -> None:
    """Be a step's keeper. Raises what went wrong; the caller then tells it to every task.

    `arguments`: of the plugin's line in plugstack.conf;
    `times`: when the shim forked, and when the child had given root up (CLOCK_MONOTONIC, ns).
    """
    clock = Clock(times[0])
    clock.mark("fork", times[1])
    clock.mark("python")
    values = spec.pairs(spec_text)
    if any(name.isupper() for name, _ in values):  # the client was in a container, and could not settle them
        from bollard.runtime.request import forms

        values = forms.resolve(values)
    here = site.load(PREFIX)
    asked = spec.make(site.completed(values, here))
    if asked.fakeroot and os.getuid() != 0:  # privilege.c makes the namespace, and reads no variables
        raise BollardError("inside a container, no variable can ask for root in another", "use --container-remap-root")
    words = os.fsdecode(arguments)
    spool = plan.spool_directory(words, os.uname().nodename.split(".")[0], here)
    idle.end_oldest(listener, here.idle)
    holder = entry.USER_IS_ROOT if identity.is_host_root() else entry.ROOT
    container = enter(asked, clock, spool, os.fsdecode(program), here)
    container.record.fd, container.record.container = record.descriptor(words)
    serve(container, listener, job, holder)
