# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: one process per container and node.

It opens the image, makes the namespaces and lets tasks in. When it ends, everything that it made ends with it.

    Slurm      shim ── fork, become the user ──► main()              ends with its step, or with the job here
    by hand    bollard exec ── fork ──► execution: enter(), serve()  ends with the program, or with its instance

It runs as the user, in a user namespace that maps the user's own ids. Everything that it mounts is in its mount
namespace. The kernel removes these mounts when the keeper and its tasks have ended, and the FUSE server ends too.
"""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIG_IGN, SIGCHLD, signal
from errno import ECONNABORTED, EINVAL, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, ENOSYS, ENOTCONN

from bollard.runtime import causes, constants, host_slurm
from bollard.runtime.container import (
    admission,
    enroot,
    fuse,
    idle,
    imports,
    locales,
    memory_limit,
    mounts,
    readahead,
    record,
    renewal,
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
    from bollard.runtime.image.encryption import Key
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec

# The directory of the image's environment scripts, and the largest number of scripts.
SCRIPTS = "/.singularity.d/env"
SCRIPTS_MAX = 64
# The largest size in bytes of an environment script, of /etc/passwd and of /etc/group.
FILE_MAX = 1 << 20
# How many mounts of an image's fstab one line names.
_TOLD_TARGETS = 5
_S_IFMT = 0o170000  # sys/stat.h
_S_IFREG = 0o100000
# 16 MiB are enough: the keeper writes a few small files and directories there, never an image.
_SESSION_OPTIONS = "mode=0755,size=16m"


def _write(path: str, data: bytes) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.write(fd, data)
    os.close(fd)
    return path


def _read_in(root: int, path: str) -> bytes:
    """Return the content of a small file of the image; b"" if it is missing or not a regular file."""
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
    """Return whether `path` is a regular file. Opens it with O_PATH: a socket or a device cannot be opened to read."""
    fd = linux.open_in_root(root, path)
    try:
        return os.fstat(fd).st_mode & _S_IFMT == _S_IFREG
    finally:
        os.close(fd)


def enter(
    asked: Spec, clock: Clock, here: site.Site, spool: str = "", program: str = "", command: bytes = b"exec",
    instance: str = "", connection: int = -1, kept: renewal.Layer | None = None, key: Key | None = None,
) -> Container:  # fmt: skip
    """Make the container and move this process into it. The process must already be in its user namespace.

    asked     the spec of the container
    clock     records when each phase ends
    here      the site's configuration
    spool     path of SlurmdSpoolDir
    program   the program that the first task will most likely start; it is read ahead
    command   the action (exec, run, shell, test), for APPTAINER_COMMAND
    instance  name of the instance, "" for a container that is not an instance
    connection  to the witness of owners (trust.witness), or -1
    kept      the layer in memory of the container that this one follows; gets this container's own
    key       of an encrypted image; None to read the files that the spec names

    Raises:
        BollardError: the container cannot be made, or its file server did not answer within fuse.ANSWER_SECONDS.
    """
    deadlines: list[fuse.Deadline] = []
    try:
        container = _enter(
            asked, clock, here, spool, program, command, instance, connection, deadlines, kept or renewal.Layer(), key
        )
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
    """Return the error to show for an OSError of the kernel: its most likely cause and what to do."""
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
    connection: int, deadlines: list[fuse.Deadline], kept: renewal.Layer, key: Key | None,
) -> Container:  # fmt: skip
    """Make the plan, then carry it out. Work that does not need the file server runs while the file server starts."""
    signal(SIGCHLD, SIG_DFL)  # fuse.py reads the exit status of a file server that ends before it answers
    node = os.uname().nodename  # before --hostname changes it
    linux.new_mount_namespace()  # first: only the mount namespace in which a directory was opened can bind it
    opened, made, own_layers, trusted, password = _open(asked, here, spool, connection, kept, key)
    clock.mark("image")
    linux.mount("tmpfs", SESSION, _SESSION_OPTIONS, linux.MS_NOSUID | linux.MS_NODEV)
    processes = _unshare(made)
    base, server, words = _mount(asked, opened, made.owned, password)
    password = b""
    state = fuse.open_state(server) if server else -1
    deadlines += [fuse.Deadline(server, state)] if server else []
    clock.mark("fuse")
    imports.complete()  # the file server starts during this
    report = mounts.Report()
    files = _write_files(asked)
    accounts = identity.lines(asked.home)
    proc = linux.clone_tree(f"{SESSION}/proc", recursive=False) if processes >= 0 else -1
    trees = {mount.source: linux.clone_tree(files[mount.source]) for mount in made.mounts if mount.kind == plan.FILE}
    linux.set_bindable(SESSION, False)  # so that a bind of /usr does not contain the session tmpfs
    places = mounts.clone_sources(made.mounts, trees, SESSION, proc, report)
    linux.set_bindable(SESSION, True)
    clock.mark("sources")
    root = _first_look(asked, base, words, server, opened)
    if server:
        readahead.start(root, program)
    for name, ours in accounts.items():
        _write(files[name], identity.merged(_read_in(root, f"/etc/{name}"), ours))
    if any(place.mount.only in (plan.CAN_LOAD, plan.LACKS) for place in places):
        from bollard.runtime.container import driver_libraries

        places = driver_libraries.fitting(root, places, report)
    clock.mark("server")
    servers = None
    if made.layers:
        from bollard.runtime.container import layers

        base, servers = layers.mount(made, base, SESSION, own_layers, places, kept)
    _let_children_go()
    saver = _start_saver(asked, base, made.owned and not opened.encrypted)
    new_root = mounts.make_root(base, SESSION, places, report, made.writable)
    namespace_fds = _namespace_fds(made, processes)
    imports.end()
    task_reaper.hold_proc()
    linux.change_root(new_root)
    clock.mark("mounts")
    if asked.app and not os.path.isdir(f"/scif/apps/{asked.app}"):
        raise BollardError(
            f"{asked.asked}: has no app {asked.app}", f"see `bollard inspect --list-apps {asked.asked}`", 1
        )
    container = Container(
        node=node, spec=asked, site=here, image=opened, plan=made, report=report, server=server, clock=clock,
        server_state=state, image_root=root, trusted=trusted,
        saver=saver, servers=servers, scripts=_scripts(), rc=_enroot_rc(), locales=_locales(), command=command,
        instance=instance, namespace_fds=namespace_fds, layer=kept,
        tools=os.fsencode(plan.TOOLS) if os.path.isdir(plan.TOOLS) else b"",
    )  # fmt: skip
    container.warnings += [layer.warning for layer in own_layers if layer.warning] + _unread_fstab(container)
    try:
        container.define_environment(_no_shell_here)
    except _NeedsShell:
        pass  # only a task may run code of the image: see entry.admit
    clock.mark("environment")
    return container


def _hold(fd: int) -> None:
    """Lock an image of the cache for reading, while the container runs: the cache removes no locked image."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # a filesystem without locks, or the image is being removed: the descriptor keeps its data


def _open(
    asked: Spec, here: site.Site, spool: str, connection: int, kept: renewal.Layer, key: Key | None
) -> tuple[Image, plan.Plan, list[layers.Layer], list[tuple[str, str]], bytes]:
    """Open the image and the layers without any capability, apply the site's policy to them, and make the plan.

    The last two values returned are the policy's verdict, as pairs for the record, and the password of an encrypted
    image.
    """
    linux.use_capabilities(False)
    opened = image.open_image(asked.image, os.uname().machine, encrypted=True)
    if asked.source:
        _hold(opened.fd)
    site.refuse_image(here, opened.fd, asked.asked)
    made = plan.make(asked, facts(asked, opened, here, spool, kept.tree >= 0))
    own_layers: list[layers.Layer] = []
    if made.layers:
        from bollard.runtime.container import layers

        own_layers = layers.opened(made.layers, opened.fd)
        for layer in own_layers:
            if not layer.overlay.offset:  # a layer with an offset is in the image file, which was checked above
                site.refuse_overlay(here, layer.fd, layer.overlay.source)
    trusted: list[tuple[str, str]] = []
    if here.trust:
        from bollard.runtime.trust import evidence, witness

        verdicts = [evidence.check_image(here.trust, opened, asked.asked, connection)]
        for layer in own_layers:
            if not layer.overlay.offset:
                verdicts.append(evidence.check_layer(here.trust, layer.fd, layer.overlay.source, connection))
        trusted = evidence.summary(here.trust, verdicts)
        witness.end(connection)
    elif connection >= 0:
        os.close(connection)  # nobody is at its other end
    password = b""
    if opened.encrypted:
        from bollard.runtime.container import decrypted
        from bollard.runtime.image.encryption import Key

        password = decrypted.password(asked, opened, key or Key())
    if asked.workdir and not os.path.isdir(asked.workdir):
        raise BollardError(f"workdir {asked.workdir}: no such directory", "make it, or name another one")
    for path in made.directories:
        os.makedirs(path, exist_ok=True)
    if asked.save:
        from bollard.runtime.container import save

        save.refuse(asked.save)
    linux.use_capabilities(True)
    return opened, made, own_layers, trusted, password


def facts(asked: Spec, opened: Image, here: site.Site, spool: str = "", kept: bool = False) -> plan.Facts:
    """Return the facts that the plan for `asked` needs.

    Reads the node and the files that the spec names; changes nothing.

    asked   the spec of the container
    opened  its image
    here    the site's configuration
    spool   path of SlurmdSpoolDir, "" outside Slurm
    kept    the container has the layer in memory of the one that it follows
    """
    brought: tuple[tuple[str, int], ...] = ()
    overlays: tuple[str, ...] = ()
    gpus = plan.Gpus()
    if opened.overlays or asked.overlays:
        from bollard.runtime.container import layers

        brought = layers.of_image(opened, asked.asked)
        overlays = tuple([layers.filesystem(path) for path, _ in asked.overlays])
    # A node without a card's device has nothing to decide, unless the site or an option says so.
    if asked.cards or here.gpu == "always" or (here.gpu == "auto" and _has_card()):
        from bollard.runtime.container import gpu

        gpus = gpu.find(gpu.chosen(asked, here), asked.contain)
    if asked.devices:
        from bollard.runtime.container import cdi

        gpus += cdi.find(asked.devices, asked.cdi_dirs, asked.contain)
    return plan.Facts(
        here, spool, PREFIX, host_slurm.TOOLS, host_slurm.PLACES, opened.kind == image.DIRECTORY, brought, overlays,
        gpus, os.path.realpath(asked.cwd), kept,
    )  # fmt: skip


def _has_card() -> bool:
    """Return whether this node has a device of the kernel's drivers for NVIDIA's or AMD's GPUs."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")


def _mount(asked: Spec, opened: Image, own: bool, password: bytes) -> tuple[str, int, int]:
    """Mount the image.

    Returns the path of the mount, the process id of the file server, and a descriptor of the file server's
    messages. A directory has no file server: 0 and -1.
    """
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
    if opened.encrypted:
        from bollard.runtime.container import decrypted

        return base, *decrypted.mount(asked.asked, opened, password, base, SESSION, own)
    scratch = f"{SESSION}/scratch"
    os.mkdir(scratch, 0o755)
    return base, *fuse.mount(opened.fd, opened.offset, base, scratch, own)


def _write_files(asked: Spec) -> dict[str, str]:
    """Write the container's own files of /etc.

    Returns {name: path}. passwd and group stay empty here: `_enter` fills them when the image can be read.
    """
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
    """Start the saver, if this container is to be saved.

    A named container whose files show as the user's gets a saver too: a later step can ask for --container-save.
    """
    if not asked.save and not (asked.name and own):
        return None
    from bollard.runtime.container import save

    return save.start(base)


def _namespace_fds(made: plan.Plan, processes: int) -> tuple[int, ...]:
    """Return descriptors of the container's namespaces.

    They are opened on the host's /proc, as the container may have no /proc.
    """
    names = [namespace.name for namespace in made.namespaces if namespace.name != "pid"]
    ways = tuple(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names)
    return (*ways, processes) if processes >= 0 else ways


def _unshare(made: plan.Plan) -> int:
    """Make the plan's namespaces except user and mount: this process is already in these.

    Returns a descriptor of the process namespace and mounts its /proc at SESSION/proc; -1 if the plan has no
    process namespace.
    """
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
    """runtime/shell cannot evaluate the image's environment scripts."""


def _no_shell_here(script: bytes, env: list[bytes]) -> bytes | None:
    raise _NeedsShell


def _let_children_go() -> None:
    """Let the kernel reap the children from here on: the keeper watches them by pidfd."""
    signal(SIGCHLD, SIG_IGN)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _first_look(asked: Spec, base: str, words: int, server: int, opened: Image) -> int:
    """Wait for the file server's first answer and return a descriptor of the image's root.

    `words` is the descriptor of the file server's messages, -1 without a file server.
    """
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
    """Return the locales of the container (locales.available). "/" must be the container's root."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return locales.available(root)
    finally:
        os.close(root)


def _scripts() -> list[tuple[str, bytes]]:
    """Return the image's environment scripts as (file name, text), sorted by name. "/" must be the container's root."""
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
    """Return the text of /etc/rc of an image in enroot's layout, else b"". "/" must be the container's root."""
    if os.path.isdir("/.singularity.d"):
        return b""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = _read_in(root, enroot.RC)
    finally:
        os.close(root)
    return text if enroot.is_layout(text) else b""


def _unread_fstab(container: Container) -> list[str]:
    """Return the warning about mounts in the fstab of an image in enroot's layout, if the container lacks them."""
    if not container.rc:
        return []
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        targets = enroot.mount_targets(_read_in(root, enroot.FSTAB))
    finally:
        os.close(root)
    there = {mount.target for mount in container.plan.mounts}
    lacking = [target for target in targets if plan.tidy(target) not in there]
    if not lacking:
        return []
    names = ", ".join(lacking[:_TOLD_TARGETS]) + (", ..." if len(lacking) > _TOLD_TARGETS else "")
    return [f"{container.spec.asked}: mounts of its {enroot.FSTAB} are not made: {names}; use --container-mounts"]


def serve(container: Container, listener: int, job: int, holder: int = admission.ANYONE) -> None:
    """Let tasks in until the step, the job or the last task ends (AdmissionLoop.run). Gives up all capabilities first.

    container  the container that `enter` made
    listener   descriptor of the listening socket
    job        descriptor that hangs up when the job has ended on this node, or -1
    holder     who may hold a lifeline: admission.ANYONE, ROOT or USER_IS_ROOT
    """
    linux.drop_capabilities()
    watcher = task_reaper.start(job, container.private(listener), container.server, container.server_state)
    container.clock.mark("ready")
    admission.AdmissionLoop(container, listener, job, watcher, holder).run()


def _witness(words: str) -> int:
    """Return the descriptor of the connection to the witness, which is in the plugin's arguments; -1 for none."""
    mark = constants.WITNESS_FD_WORD
    numbers = [word[len(mark) :] for word in words.split(" ") if word.startswith(mark)]
    return int(numbers[-1]) if numbers else -1


def main(
    text: bytes, arguments: bytes, program: bytes, listener: int, job: int, times: tuple[int, int], before: int = -1
) -> None:  # fmt: skip
    """Run the keeper of a job step. Returns when the container has ended. The caller sends an exception to every task.

    text       the spec, as the client sent it (spec_text)
    arguments  the plugin's arguments in plugstack.conf
    program    the program that the first task will most likely start
    listener   descriptor of the listening socket
    job        descriptor of the job socket, or -1
    times      when the shim forked, and when the child had given up root (ns of CLOCK_MONOTONIC)
    before     connection to the keeper of the container that this one follows, or -1

    Raises:
        BollardError: the spec is not valid, or the container cannot be made.
    """
    clock = Clock(times[0])
    clock.mark("fork", times[1])
    clock.mark("python")
    header, values = spec_text.read(text)
    # A client inside a container sends the variables as they are, not resolved to options.
    if any(name.isupper() or name in ("opts", "env-file") for name, _ in values):
        from bollard.runtime.request import forms

        values = forms.resolve(values)
    here = site.load(PREFIX)
    holder = admission.USER_IS_ROOT if identity.is_host_root() else admission.ROOT  # before /proc is the container's
    old, kept = renewal.take_over(before) if before >= 0 else ([], renewal.Layer())
    try:
        container = _of_step(header, values, old, kept, here, clock, arguments, program, listener)
    except Exception as error:
        if before < 0:
            raise
        linux.drop_capabilities()
        renewal.keep(listener, job, old, kept, error, holder == admission.USER_IS_ROOT)
        return
    serve(container, listener, job, holder)


def _of_step(
    header: spec_text.Header, values: list[tuple[str, str]], old: list[tuple[str, str]], kept: renewal.Layer,
    here: site.Site, clock: Clock, arguments: bytes, program: bytes, listener: int,
) -> Container:  # fmt: skip
    """Make the container of a job step.

    The parameters are those of `main`; old and kept are of the container that this one follows.
    """
    spec_text.refuse_other(header, spec.make(values))
    values = site.completed(renewal.merged(old, values), here)
    asked = spec.make(values)
    if asked.fakeroot and not header.root:  # privilege.c makes the user namespace, and it reads only the header
        raise BollardError("inside a container, --container-opts cannot ask for root", "use --container-remap-root")
    words = os.fsdecode(arguments)
    spool = site.spool_directory(words, os.uname().nodename.split(".")[0], here)
    idle.end_oldest(listener, here.idle)
    memory_limit.watch()
    try:
        container = enter(asked, clock, here, spool, os.fsdecode(program), connection=_witness(words), kept=kept)
    except BollardError as error:
        if here.trust and hasattr(error, "trusted"):
            record.write_refused(words, asked.image, os.uname().nodename, error.trusted)
        raise
    container.values = values
    container.by_slurm = True
    container.record.fd, container.record.container = record.descriptor(words)
    return container
