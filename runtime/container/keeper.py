# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: one process per container and node.

It opens the image, makes the namespaces and lets tasks in. When it ends, everything that it made ends with it.

    Slurm      shim ── fork, become the user ──► step.main()         ends with its step, or with the job here
    by hand    bollard exec ── fork ──► execution                    ends with the program, or with its instance

Both call `enter`, then `serve`.

It runs as the user, in a user namespace that maps the user's own ids. Everything that it mounts is in its mount
namespace. The kernel removes these mounts when the keeper and its tasks have ended, and the FUSE server ends too.
"""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIG_IGN, SIGCHLD, signal
from errno import ECONNABORTED, EINVAL, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, ENOSYS, ENOTCONN

from bollard.runtime import causes, host_slurm
from bollard.runtime.container import (
    admission,
    fuse,
    image_scripts,
    imports,
    mounts,
    readahead,
    renewal,
    task_reaper,
)
from bollard.runtime.container.clock import Clock
from bollard.runtime.container.container import Container
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import PREFIX, SESSION
from bollard.runtime.request import plan, plan_records, site
from bollard.runtime.system import identity, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container import host_mpi, layers
    from bollard.runtime.container.save import Saver
    from bollard.runtime.image.encryption import Key
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec

# 16 MiB are enough: the keeper writes a few small files and directories there, never an image.
_SESSION_OPTIONS = "mode=0755,size=16m"


def _write(path: str, data: bytes) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    os.write(fd, data)
    os.close(fd)
    return path


def enter(
    asked: Spec, clock: Clock, here: site.Site, spool: str = "", program: str = "", command: bytes = b"exec",
    instance: str = "", connection: int = -1, kept: renewal.Layer | None = None, keys: list[Key] | None = None,
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
    keys      of an encrypted image, at most one: it is taken out; without one the files that the spec names are read

    Raises:
        BollardError: the container cannot be made, or its file server did not answer within fuse.ANSWER_SECONDS.
    """
    deadlines: list[fuse.Deadline] = []
    try:
        container = _enter(
            asked, clock, here, spool, program, command, instance, connection, deadlines,
            kept or renewal.Layer(), [] if keys is None else keys,
        )  # fmt: skip
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
    connection: int, deadlines: list[fuse.Deadline], kept: renewal.Layer, keys: list[Key],
) -> Container:  # fmt: skip
    """Make the plan, then carry it out. Work that does not need the file server runs while the file server starts."""
    signal(SIGCHLD, SIG_DFL)  # fuse.py reads the exit status of a file server that ends before it answers
    node = os.uname().nodename  # before --hostname changes it
    linux.new_mount_namespace()  # first: only the mount namespace in which a directory was opened can bind it
    opened, made, own_layers, trusted, password = _open(asked, here, spool, connection, kept, keys)
    clock.mark("image")
    linux.mount("tmpfs", SESSION, _SESSION_OPTIONS, linux.MS_NOSUID | linux.MS_NODEV)
    processes = _unshare(made)
    base, server, words = _mount(asked, opened, made.owned, deadlines, password)
    password = b""
    state = fuse.open_state(server) if server else -1
    deadlines += [fuse.Deadline(server, state)] if server else []
    clock.mark("fuse")
    imports.complete()  # the file server starts during this
    report = mounts.Report()
    files = _write_files(asked)
    accounts = identity.lines(asked.home)
    places = _clone_sources(made, files, processes >= 0, report)
    clock.mark("sources")
    root = _first_look(asked, base, words, server, opened)
    if server:
        readahead.start(root, program)
    for name, ours in accounts.items():
        _write(files[name], identity.merged(image_scripts.read(root, f"/etc/{name}"), ours))
    places, hosts_mpi = _fitting(asked, here, root, places, report)
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
    _refuse_missing_app(asked)
    container = Container(
        node=node, spec=asked, site=here, image=opened, plan=made, report=report, server=server, clock=clock,
        server_state=state, image_root=root, trusted=trusted,
        saver=saver, servers=servers, scripts=image_scripts.scripts(), rc=image_scripts.enroot_rc(),
        locales=image_scripts.available_locales(), command=command,
        instance=instance, namespace_fds=namespace_fds, layer=kept,
        tools=os.fsencode(plan.TOOLS) if os.path.isdir(plan.TOOLS) else b"",
        hosts_mpi=hosts_mpi,
    )  # fmt: skip
    container.warnings += [layer.warning for layer in own_layers if layer.warning]
    container.warnings += image_scripts.unmade_mounts(container)
    _define_environment(container)
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
    asked: Spec, here: site.Site, spool: str, connection: int, kept: renewal.Layer, keys: list[Key]
) -> tuple[Image, plan_records.Plan, list[layers.Layer], list[tuple[str, str]], bytes]:
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
    if not opened.encrypted:
        keys.clear()
    else:
        from bollard.runtime.container import decrypted
        from bollard.runtime.image.encryption import Key

        password = decrypted.password(asked, opened, keys.pop() if keys else Key())
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

    Raises:
        BollardError: an overlay, a device or the host's MPI that was asked for cannot be used.
    """
    brought: tuple[tuple[str, int], ...] = ()
    overlays: tuple[str, ...] = ()
    gpus = plan_records.Gpus()
    if opened.overlays or asked.overlays:
        from bollard.runtime.container import layers

        brought = layers.of_image(opened, asked.asked)
        overlays = tuple([layers.filesystem(path) for path, _ in asked.overlays])
    # A node without a GPU's device has nothing to decide, unless the site or an option says so.
    if asked.gpus or here.gpu == "always" or (here.gpu == "auto" and _has_gpu()):
        from bollard.runtime.container import gpu

        gpus = gpu.find(gpu.chosen(asked, here), asked.contain)
    if asked.devices:
        from bollard.runtime.container import cdi

        gpus += cdi.find(asked.devices, asked.cdi_dirs, asked.contain)
    mpi: tuple[plan_records.Mount, ...] = ()
    warnings: tuple[str, ...] = ()
    if asked.mpi != "image" or here.fabrics:
        from bollard.runtime.container import host_mpi

        mpi, warnings = host_mpi.find(here, asked.mpi, asked.contain)
    return plan.Facts(
        here, spool, PREFIX, host_slurm.TOOLS, host_slurm.PLACES, opened.kind == image.DIRECTORY, brought, overlays,
        gpus, os.path.realpath(asked.cwd), kept, mpi, warnings,
    )  # fmt: skip


def _has_gpu() -> bool:
    """Return whether this node has a device of the kernel's drivers for NVIDIA's or AMD's GPUs."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")


def _mount(
    asked: Spec, opened: Image, own: bool, deadlines: list[fuse.Deadline], password: bytes
) -> tuple[str, int, int]:
    """Mount the image.

    Returns the path of the mount, the process id of the file server, and a descriptor of the file server's
    messages. A directory has no file server: 0 and -1. `deadlines` gets those of an OCI-SIF's layers.
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
    if opened.oci:
        from bollard.runtime.container import oci_layers

        return *oci_layers.mount(opened, asked.asked, SESSION, scratch, own, deadlines), -1
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


def _clone_sources(
    made: plan_records.Plan, files: dict[str, str], own_proc: bool, report: mounts.Report
) -> list[mounts.Place]:
    """Return the plan's mounts whose sources are there, each with a detached copy of its source.

    made      the plan
    files     {name: path} of the files that `_write_files` wrote
    own_proc  `_unshare` mounted a /proc of the container's own
    report    gets the mounts that are left out
    """
    proc = linux.clone_tree(f"{SESSION}/proc", recursive=False) if own_proc else -1
    trees = {
        mount.source: linux.clone_tree(files[mount.source]) for mount in made.mounts if mount.kind == plan_records.FILE
    }
    linux.set_bindable(SESSION, False)  # so that a bind of /usr does not contain the session tmpfs
    places = mounts.clone_sources(made.mounts, trees, SESSION, proc, report)
    linux.set_bindable(SESSION, True)
    return places


def _fitting(
    asked: Spec, here: site.Site, root: int, places: list[mounts.Place], report: mounts.Report
) -> tuple[list[mounts.Place], host_mpi.Fit | None]:
    """Return the mounts without those libraries of the host that do not suit the image, and what its MPI needs.

    asked   the spec of the container
    here    the site's configuration
    root    descriptor of the image's root directory
    places  what `_clone_sources` returned
    report  gets what is left out
    """
    if any(place.mount.only in (plan_records.CAN_LOAD, plan_records.LACKS) for place in places):
        from bollard.runtime.container import driver_libraries

        places = driver_libraries.fitting(root, places, report)
    if not any(place.mount.only == plan_records.HOST_MPI for place in places):
        return places, None
    from bollard.runtime.container import host_mpi

    fit = host_mpi.fitting(root, places, asked.mpi, here, report)
    return fit.places, fit


def _start_saver(asked: Spec, base: str, own: bool) -> Saver | None:
    """Start the saver, if this container is to be saved.

    A named container whose files show as the user's gets a saver too: a later step can ask for --container-save.
    """
    if not asked.save and not (asked.name and own):
        return None
    from bollard.runtime.container import save

    return save.start(base)


def _namespace_fds(made: plan_records.Plan, processes: int) -> tuple[int, ...]:
    """Return descriptors of the container's namespaces.

    They are opened on the host's /proc, as the container may have no /proc.
    """
    names = [namespace.name for namespace in made.namespaces if namespace.name != "pid"]
    ways = tuple(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names)
    return (*ways, processes) if processes >= 0 else ways


def _unshare(made: plan_records.Plan) -> int:
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


def _refuse_missing_app(asked: Spec) -> None:
    """Raise if the image lacks the SCIF app of the spec. This process must be in the container."""
    if asked.app and not os.path.isdir(f"/scif/apps/{asked.app}"):
        raise BollardError(
            f"{asked.asked}: has no app {asked.app}", f"see `bollard inspect --list-apps {asked.asked}`", 1
        )


class _NeedsShell(Exception):
    """runtime/shell cannot evaluate the image's environment scripts."""


def _no_shell_here(script: bytes, env: list[bytes]) -> bytes | None:
    raise _NeedsShell


def _define_environment(container: Container) -> None:
    """Evaluate the image's environment scripts, unless they need a shell: the first task runs them then."""
    try:
        container.define_environment(_no_shell_here)
    except _NeedsShell:
        pass  # only a task may run code of the image: see entry.admit


def _let_children_go() -> None:
    """Let the kernel reap the children from here on: the keeper watches them by pidfd."""
    signal(SIGCHLD, SIG_IGN)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # no child is left


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
    container.record.ready(container.clock)
    admission.AdmissionLoop(container, listener, job, watcher, holder).run()
