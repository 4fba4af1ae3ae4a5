# SPDX-License-Identifier: BSD-3-Clause
"""Run a program in the tree of an image that is being built: %post and %test.

The program's root directory is the tree. It sees:
    its own processes in /proc, the host's /sys, a small /dev;
    private /tmp and /var/tmp with the tree's files of these directories;
    copies of the host's resolv.conf and hosts;
    the directories and files of --bind.
It does not see the home directory or any other file of the host.
Its environment has PATH, HOME, LANG, TERM, the proxies and some variables for apt and fakeroot. The build and the
image's scripts add variables. No other variable of the host is passed.

    bollard ── fork ──► waits ── fork ──► process 1: reaps ── fork ──► the program
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from bollard.runtime import causes
from bollard.runtime.build import trace
from bollard.runtime.constants import DEFAULT_PATH
from bollard.runtime.errors import BollardError
from bollard.runtime.system import linux, rootless
from bollard.runtime.system.tree import Tree, remove_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.spec import Bind

_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# apt changes to the user _apt, which fails in a user namespace that maps a single id. This file makes apt stay root.
_APT = "/dev/.bollard-apt.conf"
_APT_TEXT = b'APT::Sandbox::User "root";\n'
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")
# As `apptainer exec` does, the image's environment scripts run first. They are written for bash. dash has no `source`,
# and without `command` it ends if `.` fails.
_SOURCE = """\
command -v source >/dev/null 2>&1 || eval 'source() { command . "$@"; }'
for script in /.singularity.d/env/*.sh; do if [ -f "$script" ]; then command . "$script"; fi; done
exec "$@"
"""
_IN_BASH = '[ -x /bin/bash ] && exec /bin/bash -p -c "$0" bash "$@"; eval "$0"'
_TEMPORARY = {"tmp": "/tmp", "vartmp": "/var/tmp"}  # name in the scratch directory -> path in the image
_DESCRIPTORS = 65536


class _Lent(NamedTuple):
    """A temporary directory of the image. During the run, its entries `names` are in the directory `private`."""

    path: str
    private: str
    names: tuple[str, ...]


class Result(NamedTuple):
    """The end of a program: its exit status (-N or 128+N for signal N), and the last traced command."""

    status: int
    trace: trace.Trace


def command(argv: list[str], script: str) -> list[str]:
    """Return the command that sets the image's environment and then runs `argv`; `script` as in `traced`."""
    return ["/bin/sh", "-c", _IN_BASH, _SOURCE, *trace.traced(argv, script)]


def preloaded(argv: list[str], binds: tuple[Bind, ...]) -> tuple[list[str], tuple[Bind, ...]]:
    """Return `argv` and `binds` changed so that the program runs under the host's fakeroot (rootless.PRELOADED)."""
    found = rootless.fakeroot_files()
    assert found  # rootless.choose has checked this
    places = [f"/.singularity.d/libs/{os.path.basename(path)}" for path in found]
    script, daemon, library = places
    binds += tuple((source, target, True) for source, target in zip(found, places))
    return [script, "-f", daemon, "-l", library, "--", *argv], binds


def run_on_host(argv: list[str], env: Mapping[str, str], cwd: str) -> Result:
    """Run `argv` on the host, outside of any tree, and wait for its end.

    argv: the command.
    env: its environment.
    cwd: its working directory.
    """
    reader, writer = os.pipe()
    process = subprocess.Popen(argv, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    traced = trace.relay(reader)
    return Result(process.wait(), traced)


def environment(host: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the program: a few variables of the host, and `own`."""
    found = {
        "PATH": DEFAULT_PATH,
        "HOME": "/root",
        "LANG": "C",
        "APT_CONFIG": _APT,
        "FAKEROOTDONTTRYCHOWN": "1",
    }
    for name in ("TERM", *_PROXIES, *(proxy.upper() for proxy in _PROXIES)):
        if name in host:
            found[name] = host[name]
    return {**found, **own}


def run(
    tree: Tree,
    argv: list[str],
    env: Mapping[str, str],
    scratch: str,
    *,
    binds: tuple[Bind, ...] = (),
    read_only: bool = False,
    layered: bool = False,
) -> Result:
    """Run `argv` in `tree` and wait for its end.

    tree: the tree of the image, which becomes the root directory.
    argv: the command; its first word is a path in the tree.
    env: its environment.
    scratch: a private directory outside of the tree.
    binds: directories and files of the host to bind into the tree.
    read_only: mount the tree read-only.
    layered: mount a layer in memory above the tree: the program can write, and the tree does not change.
    """
    made = _places(tree, binds)
    lent = _lend(tree, scratch)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        private = [(place.private, place.path) for place in lent]
        _first(tree, argv, env, scratch, binds, private, read_only, layered, writer)
    os.close(writer)
    traced = trace.relay(reader)
    _, status = os.waitpid(pid, 0)
    _take_back(tree, lent)
    for path in reversed(made):
        tree.remove(path)
    return Result(os.waitstatus_to_exitcode(status), traced)


def in_namespaces(work: Callable[[], None]) -> int:
    """Call `work` in a child with its own mount and process namespaces; return the exit status (0 if `work` returns).

    Processes that `work` leaves running are killed at its end.
    """
    pid = os.fork()
    if pid == 0:
        _guarded(lambda: _namespaces(work))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def mount_devices(target: str, links: bool = True) -> None:
    """Mount a small /dev on the directory `target`. `links` is False for debootstrap, which makes the links itself."""
    linux.mount("tmpfs", target, "mode=0755,size=1m", linux.MS_NOSUID)
    for name in _DEVICES:
        try:
            tree = linux.clone_tree(f"/dev/{name}", recursive=False)
        except OSError as error:
            # /dev/tty cannot be cloned without a terminal, and a machine can lack a device: what needs it then says so.
            if name != "tty" and not linux.is_missing(error):
                raise
            continue
        path = f"{target}/{name}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        linux.attach(tree, place)
        os.close(place)
        os.close(tree)
    os.mkdir(f"{target}/shm")
    linux.mount("tmpfs", f"{target}/shm", "mode=1777", linux.MS_NOSUID | linux.MS_NODEV)
    os.mkdir(f"{target}/pts")
    try:
        linux.mount("devpts", f"{target}/pts", "newinstance,ptmxmode=0666,mode=620")
    except OSError:
        pass  # few %post scripts open a terminal; one that does gets the kernel's error
    # debootstrap runs mknod(1) for a missing device. With the seccomp filter mknod(2) makes nothing, and the chmod of
    # mknod(1) then fails.
    for name in ("console",) if links else ("console", "ptmx"):
        os.close(os.open(f"{target}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for name, link in _DEVICE_LINKS.items() if links else ():
        os.symlink(link, f"{target}/{name}")
    with open(f"{target}/{os.path.basename(_APT)}", "wb") as file:
        file.write(_APT_TEXT)


def _lend(tree: Tree, scratch: str) -> list[_Lent]:
    """Move the image's files in /tmp and /var/tmp to the private directories that are mounted over them.

    %files can have put such files there.
    """
    lent: list[_Lent] = []
    seen = []
    for name, path in _TEMPORARY.items():
        private = _private(scratch, name)
        try:
            with tree.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                info = os.fstat(fd)
                if (info.st_dev, info.st_ino) in seen:
                    continue  # /tmp and /var/tmp are the same directory
                seen.append((info.st_dev, info.st_ino))
                names = tuple(os.listdir(fd))
                _move(fd, private, names)
        except NotADirectoryError:
            continue  # a link or file of the base image: nothing can be lent there
        lent.append(_Lent(path, private, names))
    return lent


def _take_back(tree: Tree, lent: list[_Lent]) -> None:
    """Move the files that `_lend` moved back to the image, if they still exist; remove files the program has added."""
    for place in lent:
        above = os.open(place.private, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        left = set(os.listdir(above))
        with tree.opened(place.path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            for name in place.names:
                if name in left:
                    os.rename(name, name, src_dir_fd=above, dst_dir_fd=fd)
        for name in left - set(place.names):
            remove_at(above, name)
        os.close(above)


def _move(source: int, target: str, names: tuple[str, ...]) -> None:
    place = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=place)
    os.close(place)


def _places(tree: Tree, binds: tuple[Bind, ...]) -> list[str]:
    """Make the missing mount points in the tree; return the paths to remove after the run."""
    made = []
    for path in ("/dev", "/proc", "/sys", "/tmp", "/var/tmp"):
        if not tree.exists(path):
            tree.makedirs(path)
    for source, target, _ in binds:
        if tree.exists(target):
            continue
        top = target
        while not (tree.exists(os.path.dirname(top)) or tree.is_link(os.path.dirname(top))):
            top = os.path.dirname(top)
        if os.path.isdir(source):
            tree.makedirs(target)
        else:
            tree.write(target, b"")
        made.append(top)
    return made


def _guarded(work: Callable[[], None]) -> NoReturn:
    """Call `work` and end this process; an error is printed on stderr."""
    code = 255
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 255
    except BollardError as error:
        os.write(2, f"bollard: {error}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        os.write(2, f"bollard: {causes.one_line(error)}\n".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(code)


def _namespaces(work: Callable[[], None]) -> None:
    linux.die_with_parent(signal.SIGKILL, os.getppid())
    linux.new_mount_namespace()
    linux.new_process_namespaces()
    pid = os.fork()
    if pid == 0:
        _guarded(lambda: _dying_with_parent(work))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    raise SystemExit(code if code >= 0 else 128 - code)


def _dying_with_parent(work: Callable[[], None]) -> None:
    linux.die_with_parent(signal.SIGKILL, os.getppid())
    work()


def _first(
    tree: Tree,
    argv: list[str],
    env: Mapping[str, str],
    scratch: str,
    binds: tuple[Bind, ...],
    private: list[tuple[str, str]],
    read_only: bool,
    layered: bool,
    writer: int,
) -> NoReturn:
    """Run the program; called in the child of `run`."""

    def work() -> None:
        os.dup2(writer, 2)
        _mount(tree, scratch, binds, private, read_only, layered)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        pid = os.fork()
        if pid == 0:
            _guarded(lambda: _become(argv, env))
        raise SystemExit(_reap(pid))

    _guarded(lambda: _namespaces(work))


def _become(argv: list[str], env: Mapping[str, str]) -> None:
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.closerange(3, 1024)
    # rpm, fakeroot and others close every possible file descriptor. With a limit of 10**9 this takes minutes.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= soft <= _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, hard))
    try:
        os.execve(argv[0], argv, env)
    except OSError as error:
        raise BollardError(
            f"{argv[0]} of the image: {error.strerror}", "a definition with %post or %test needs a shell in its image"
        ) from None


def _reap(program: int) -> int:
    """Reap all children until the program ends; return its exit status as a shell does. Runs as process 1."""
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _mount_layered(tree: Tree, scratch: str, base: str) -> None:
    """Mount the tree on `base`, with an empty layer in memory above it."""
    layer = f"{scratch}/layer"
    os.makedirs(layer, exist_ok=True)
    linux.mount("tmpfs", layer, "mode=0755", linux.MS_NOSUID | linux.MS_NODEV)
    os.mkdir(f"{layer}/upper")
    os.mkdir(f"{layer}/work")
    # Relative paths: a comma or colon in the name of the workspace would have a meaning in these options.
    here = os.getcwd()
    os.chdir(os.path.dirname(tree.path))
    low, upper = os.path.basename(tree.path), os.path.relpath(layer, os.path.dirname(tree.path))
    try:
        linux.mount("overlay", base, f"lowerdir={low},upperdir={upper}/upper,workdir={upper}/work,userxattr")
    except OSError as error:
        raise causes.of(error, "--writable-tmpfs: overlay", layer, "leave it out") from None
    os.chdir(here)


def _mount(
    tree: Tree, scratch: str, binds: tuple[Bind, ...], private: list[tuple[str, str]], read_only: bool, layered: bool
) -> None:
    root = linux.clone_tree(tree.path, recursive=False)
    linux.set_mount_flags(root, linux.MOUNT_ATTR_RDONLY if read_only else 0)
    sources = [(linux.clone_tree(source), source, target, ro) for source, target, ro in binds]
    files = [(_copy(name, scratch), f"/etc/{name}") for name in ("resolv.conf", "hosts")]
    trees = [(linux.clone_tree(path, recursive=False), target, True) for path, target in files if path]
    trees += [(linux.clone_tree(path, recursive=False), target, True) for path, target in private]
    sysfs = linux.clone_tree("/sys")
    linux.set_mount_flags(sysfs, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    trees.append((sysfs, "/sys", True))
    devices = f"{scratch}/dev"
    os.makedirs(devices, exist_ok=True)
    mount_devices(devices)
    trees.append((linux.clone_tree(devices), "/dev", False))

    base = f"{scratch}/root"
    os.makedirs(base, exist_ok=True)
    if layered:
        _mount_layered(tree, scratch, base)
    else:
        place = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        linux.attach(root, place)
        os.close(place)
    inside = Tree(base)
    with inside.opened("/proc", os.O_PATH | os.O_DIRECTORY) as fd:
        _mount_proc(fd)
    for handle, target, optional in trees:
        if not _attach(inside, handle, target, optional):
            raise BollardError(f"{target} of the image is not a directory", "a build needs it")
    for handle, source, target, ro in sources:
        attributes = linux.MOUNT_ATTR_NOSUID | (linux.MOUNT_ATTR_RDONLY if ro else 0)
        linux.set_mount_flags(handle, attributes)
        if not _attach(inside, handle, target, optional=False):
            raise BollardError(f"bind {source}: no place for it at {target}", "name another place for it")
    inside.close()
    linux.change_root(base)


def _mount_proc(fd: int) -> None:
    """Mount a new /proc. If the kernel refuses it because a surrounding container hides parts of /proc, bind that."""
    target = f"/proc/self/fd/{fd}"
    flags = linux.MS_NOSUID | linux.MS_NODEV
    try:
        linux.mount("proc", target, "", flags)
    except PermissionError:
        tree = linux.clone_tree("/proc")  # the kernel refuses it in a container that hides parts of /proc
        linux.attach(tree, fd)
        os.close(tree)


def _attach(inside: Tree, handle: int, target: str, optional: bool) -> bool:
    """Mount the detached tree on `target`; return whether this succeeded, or True if it is `optional`.

    Both must be directories, or neither.
    """
    try:
        with inside.opened(target) as fd:
            if stat.S_ISDIR(os.fstat(fd).st_mode) == stat.S_ISDIR(os.fstat(handle).st_mode):
                linux.attach(handle, fd)
                return True
    except OSError as error:
        if not linux.is_missing(error):
            raise
    finally:
        os.close(handle)
    return optional


def _copy(name: str, scratch: str) -> str:
    """Copy /etc/NAME of the host and append a newline; return the path, "" if the host has none.

    The newline makes the file differ: package managers then treat it as changed by the administrator and keep it.
    """
    path = f"{scratch}/{name}"
    try:
        with open(f"/etc/{name}", "rb") as file:
            data = file.read(1 << 20)
    except FileNotFoundError:
        return ""  # this machine has none
    with open(path, "wb") as copy:
        copy.write(data + b"\n")
    os.chmod(path, 0o644)
    return path


def _private(scratch: str, name: str) -> str:
    path = f"{scratch}/{name}"
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o1777)
    return path
