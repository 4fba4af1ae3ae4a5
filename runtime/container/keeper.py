# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: one process per container and node. It opens the image, makes the namespaces, lets tasks in,
and takes everything with it when it ends.

    Slurm      shim ── fork, become the user ──► main()              ends with its step, or with the job here
    by hand    bollard exec ── fork ──► execution: enter(), serve()  ends with the program, or with its instance

It runs as the user, in a user namespace that maps his own ids. What it makes lives in its mount namespace, so
nothing has to be cleaned up: when it and its tasks are gone, so are the mounts and the FUSE server.
"""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIG_IGN, SIGCHLD, signal
from errno import ECONNABORTED, EINVAL, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, ENOSYS, ENOTCONN

from bollard.runtime import causes, host_slurm
from bollard.runtime.container import (
    admission,
    enroot,
    fuse,
    idle,
    imports,
    locales,
    mounts,
    readahead,
    record,
    task_reaper,
)
from bollard.runtime.container.clock import Clock
from bollard.runtime.container.container import Container
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import PREFIX, SESSION
from bollard.runtime.request import plan, site, spec, spec_text
from bollard.runtime.system import identity, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container import layers
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


def enter(
    asked: Spec, clock: Clock, here: site.Site, spool: str = "", program: str = "", command: bytes = b"exec",
    instance: str = "",
) -> Container:  # fmt: skip
    """Make the container and move this process into it. Must be in a user namespace already.

    here      what the site wants
    spool     SlurmdSpoolDir
    program   what the first task will most likely start
    command   the action, for APPTAINER_COMMAND
    instance  its name, for an instance
    """
    deadlines: list[fuse.Deadline] = []
    try:
        container = _enter(asked, clock, here, spool, program, command, instance, deadlines)
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
    what = os.fsdecode(error.filename or "")
    if error.errno == ENOSYS:
        return BollardError(f"{what}: the kernel {os.uname().release} lacks it", "bollard needs Linux 5.12 or newer")
    if error.errno == ENOSPC and what.startswith("unshare"):
        return BollardError(f"{what}: too many namespaces on this node", "see /proc/sys/user/max_mnt_namespaces")
    if error.errno in (ENOTCONN, ECONNABORTED):
        return fuse.lost(asked.asked)
    inside = what.startswith((SESSION, "/proc/self/fd/"))
    if error.errno == EIO and inside:
        return BollardError(f"{asked.asked}: damaged: its filesystem cannot be read", "copy or build it again")
    doing = f"{asked.asked}: cannot be made a root filesystem" + (f": {what}" if what and not inside else "")
    return causes.of(error, doing, what, "look at that path in the image, and at the binds")


def _enter(
    asked: Spec, clock: Clock, here: site.Site, spool: str, program: str, command: bytes, instance: str,
    deadlines: list[fuse.Deadline],
) -> Container:  # fmt: skip
    """Decide first, then do: the plan is made before anything is touched. Work that does not need the file server
    runs while the file server starts."""
    signal(SIGCHLD, SIG_DFL)  # until the file servers have answered: why one ended is in its exit status
    node = os.uname().nodename  # the container may have a name of its own
    linux.new_mount_namespace()  # first, for a directory can be bound only by the namespace it was opened in
    opened, made, own_layers = _open(asked, here, spool)
    clock.mark("image")
    linux.mount("tmpfs", SESSION, _SESSION_OPTIONS, linux.MS_NOSUID | linux.MS_NODEV)
    processes = _unshare(made)
    base, server, words = _mount(asked, opened, made.owned)
    state = fuse.open_state(server) if server else -1
    deadlines += [fuse.Deadline(server, state)] if server else []
    clock.mark("fuse")
    imports.complete()  # meanwhile the server starts
    report = mounts.Report()
    files = _write_files(asked)
    accounts = identity.lines(asked.home)
    proc = linux.clone_tree(f"{SESSION}/proc", recursive=False) if processes >= 0 else -1
    trees = {mount.source: linux.clone_tree(files[mount.source]) for mount in made.mounts if mount.kind == plan.FILE}
    linux.set_bindable(SESSION, False)  # a bind of /usr holds nothing of the keeper's
    places = mounts.clone_sources(made.mounts, trees, SESSION, proc, report)
    linux.set_bindable(SESSION, True)
    clock.mark("sources")
    root = _first_look(asked, base, words, server, opened)
    if server:
        readahead.start(root, program)
    for name, ours in accounts.items():
        _write(files[name], identity.merged(_read_in(root, f"/etc/{name}"), ours))
    clock.mark("server")
    servers = None
    if made.layers:
        from bollard.runtime.container import layers

        base, servers = layers.mount(made, base, SESSION, own_layers, places)
    _let_children_go()
    saver = _start_saver(asked, base, made.owned)
    new_root = mounts.make_root(base, SESSION, places, report, made.writable)
    namespace_fds = _namespace_fds(made, processes)
    imports.end()
    linux.change_root(new_root)
    clock.mark("mounts")
    if asked.app and not os.path.isdir(f"/scif/apps/{asked.app}"):
        raise BollardError(
            f"{asked.asked}: has no app {asked.app}", f"see `bollard inspect --list-apps {asked.asked}`", 1
        )
    container = Container(
        node=node, spec=asked, site=here, image=opened, plan=made, report=report, server=server, clock=clock,
        server_state=state, image_root=root,
        saver=saver, servers=servers, scripts=_scripts(), rc=_enroot_rc(), locales=_locales(), command=command,
        instance=instance, namespace_fds=namespace_fds,
        tools=os.fsencode(plan.TOOLS) if os.path.isdir(plan.TOOLS) else b"",
    )  # fmt: skip
    try:
        container.define_environment(_no_shell_here)
    except _NeedsShell:
        pass  # user code, so a task runs it: entry.admit
    clock.mark("environment")
    return container


def _open(asked: Spec, here: site.Site, spool: str) -> tuple[Image, plan.Plan, list[layers.Layer]]:
    """Open what is the user's, by his own rights alone, and decide what is done with it."""
    linux.use_capabilities(False)
    opened = image.open_image(asked.image, os.uname().machine)
    site.refuse_image(here, opened.fd, asked.asked)
    made = plan.make(asked, facts(asked, opened, here, spool))
    own_layers: list[layers.Layer] = []
    if made.layers:
        from bollard.runtime.container import layers

        own_layers = layers.opened(made.layers, opened.fd)
        for layer in own_layers:
            if not layer.overlay.offset:  # those in the image's own file lie where it does
                site.refuse_overlay(here, layer.fd, layer.overlay.source)
    if asked.workdir and not os.path.isdir(asked.workdir):
        raise BollardError(f"workdir {asked.workdir}: no such directory", "make it, or name another one")
    for path in made.directories:
        os.makedirs(path, exist_ok=True)
    if asked.save:
        from bollard.runtime.container import save

        save.refuse(asked.save)
    linux.use_capabilities(True)
    return opened, made, own_layers


def facts(asked: Spec, opened: Image, here: site.Site, spool: str = "") -> plan.Facts:
    """What the plan for `asked` needs to know of this node and of the files it names. Reads, and changes nothing."""
    brought: tuple[tuple[str, int], ...] = ()
    overlays: tuple[str, ...] = ()
    gpus: tuple[plan.Mount, ...] = ()
    missing: tuple[str, ...] = ()
    if opened.overlays or asked.overlays:
        from bollard.runtime.container import layers

        brought = layers.of_image(opened, asked.asked)
        overlays = tuple([layers.filesystem(path) for path, _ in asked.overlays])
    if asked.cards:
        from bollard.runtime.container import gpu

        gpus, missing = gpu.find(asked.cards, asked.contain)
    return plan.Facts(
        here, spool, PREFIX, host_slurm.TOOLS, host_slurm.PLACES, opened.kind == image.DIRECTORY, brought, overlays,
        gpus, missing, os.path.realpath(asked.cwd),
    )  # fmt: skip


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


def _write_files(asked: Spec) -> dict[str, str]:
    """The files of /etc that are the container's own, by their names; empty where there is nothing of the user's to
    write yet."""
    files = {name: f"{SESSION}/{name}" for name in ("passwd", "group", "resolv.conf", "hostname", "apt.conf")}
    for path in files.values():
        _write(path, b"")
    _write(files["apt.conf"], b'APT::Sandbox::User "root";\n')
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


def _namespace_fds(made: plan.Plan, processes: int) -> tuple[int, ...]:
    """Descriptors of the namespaces, opened on the host's /proc: the container may have none."""
    names = [namespace.name for namespace in made.namespaces if namespace.name != "pid"]
    ways = tuple(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names)
    return (*ways, processes) if processes >= 0 else ways


def _unshare(made: plan.Plan) -> int:
    """Make the plan's namespaces, but for those of user and mounts, in which this process is. A descriptor of the
    process namespace, whose /proc is at SESSION/proc then; -1 where none was asked for."""
    own = {namespace.name: namespace.setting for namespace in made.namespaces[2:]}
    linux.new_namespaces(tuple(name for name in own if name != "pid"))
    if own.get("uts"):
        from _socket import sethostname

        sethostname(own["uts"])
    if "net" in own:
        linux.bring_up("lo")
    if "pid" not in own:
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
    """The image's environment scripts are more than `shell.interpreter` understands."""


def _no_shell_here(script: bytes, env: list[bytes]) -> bytes | None:
    raise _NeedsShell


def _let_children_go() -> None:
    """From here on children are watched by their pidfd; none waits to be reaped."""
    signal(SIGCHLD, SIG_IGN)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _first_look(asked: Spec, base: str, words: int, server: int, opened: Image) -> int:
    """A descriptor of the image's root, once its server has answered; `words` is what that prints, -1 for none."""
    try:
        root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(linux.open_in_root(root, "/", os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        if words < 0 or error.errno in (EMFILE, ENFILE, ENOMEM):
            raise causes.of(error, f"{asked.asked}: cannot be read", asked.image) from None
        raise fuse.failed(asked.asked, words, server, opened.fd, opened.offset) from None
    if words >= 0:
        os.close(words)
    return root


def _locales() -> frozenset[bytes] | None:
    """The locales of the container (locales.available); this process stands in it."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return locales.available(root)
    finally:
        os.close(root)


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
        if not old and enroot.is_layout(_read_in(root, enroot.RC)):
            old = enroot.script(_read_in(root, enroot.ENVIRONMENT))
        return [("environment", old)] if old else []
    finally:
        os.close(root)


def _enroot_rc() -> bytes:
    """The text of /etc/rc of an image in enroot's layout, "" for any other; this process stands in the image."""
    if os.path.isdir("/.singularity.d"):
        return b""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = _read_in(root, enroot.RC)
    finally:
        os.close(root)
    return text if enroot.is_layout(text) else b""


def serve(container: Container, listener: int, job: int, holder: int = admission.ANYONE) -> None:
    """Let tasks in until the end of the step, of the job, or of the last task (AdmissionLoop.run).

    `holder` says who may hold a lifeline.
    """
    linux.drop_capabilities()
    watcher = task_reaper.start(job, container.private(listener), container.server, container.server_state)
    container.clock.mark("ready")
    admission.AdmissionLoop(container, listener, job, watcher, holder).run()


def main(text: bytes, arguments: bytes, program: bytes, listener: int, job: int, times: tuple[int, int]) -> None:
    """Be a step's keeper. Raises what went wrong; the caller then tells it to every task.

    `arguments`: of the plugin's line in plugstack.conf;
    `times`: when the shim forked, and when the child had given root up (CLOCK_MONOTONIC, ns).
    """
    clock = Clock(times[0])
    clock.mark("fork", times[1])
    clock.mark("python")
    header, values = spec_text.read(text)
    if any(name.isupper() or name in ("opts", "env-file") for name, _ in values):  # from a client in a container
        from bollard.runtime.request import forms

        values = forms.resolve(values)
    here = site.load(PREFIX)
    asked = spec.make(site.completed(values, here))
    if asked.fakeroot and not header.root:  # privilege.c makes the namespace, and reads the header alone
        raise BollardError("inside a container, --container-opts cannot ask for root", "use --container-remap-root")
    spec_text.refuse_other(header, asked)
    words = os.fsdecode(arguments)
    spool = site.spool_directory(words, os.uname().nodename.split(".")[0], here)
    idle.end_oldest(listener, here.idle)
    holder = admission.USER_IS_ROOT if identity.is_host_root() else admission.ROOT
    container = enter(asked, clock, here, spool, os.fsdecode(program))
    container.by_slurm = True
    container.record.fd, container.record.container = record.descriptor(words)
    serve(container, listener, job, holder)
