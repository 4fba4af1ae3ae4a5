# SPDX-License-Identifier: BSD-3-Clause
"""FUSE servers of the keeper: one for its squashfs image, one for each layer in a file. They end with the keeper.

The keeper opens /dev/fuse and mounts that descriptor in its own mount namespace. The server then gets the descriptor as
"/dev/fd/N" (libfuse 3). This needs no fusermount and no privilege of the host. The first access to the mount waits for
the server's answer, so nothing has to be polled.
"""

from __future__ import annotations

import os
import select
import time
from _signal import pidfd_send_signal
from _socket import socketpair

from bollard.runtime import causes, constants
from bollard.runtime.container import memory_limit
from bollard.runtime.errors import BollardError
from bollard.runtime.installed import LAUNCHER, NO_SERVER, SERVER, SERVER_2, SERVER_OWNER, SHOWS_OWNER
from bollard.runtime.system import fuse_device, linux

# How long a server whose mount has failed may take to end, in seconds.
STATUS_SECONDS = 0.5
# With a lower limit of open files than this, a server ends without a message.
_FILES_ENOUGH = 32
_UNKNOWN = 256  # stands for an exit status that another process has read
_NOT_LOADED = 127  # exit status of ld.so when a library is missing
_REPAIR = "the site's administrator should run `bollard site check` on this node"
_AGAIN = "try again; if it comes back, the site's administrator should install bollard again and see the kernel's log"
# Parts of squashfuse's messages for a file that it cannot read as squashfs.
_OF_IMAGE = ("squashfs image", "root of this filesystem", "Squashfs version", "SQUASHFS superblock")
# How long a file server may take to answer while a container is made, and how long one that was stopped (SIGSTOP).
ANSWER_SECONDS = 60
STOPPED_SECONDS = 5
_SIGKILL = 9
_SIGTERM = 15
_SUPER_BLOCK = 96  # bytes
_BLOCK = 1 << 20
# So much of the tables is looked at for a disk that cannot be read, in bytes; those of large images have more.
_TABLES_MAX = 256 << 20


def mount(fd: int, offset: int, target: str, scratch: str, own: bool = False) -> tuple[int, int]:
    """Mount a squashfs. Returns the server's process id and a descriptor of its messages.

    fd       the file that holds the squashfs
    offset   where the squashfs begins in `fd`, in bytes
    target   directory to mount it on
    scratch  an empty directory of the keeper
    own      show every file as owned by the user: most files of an image belong to root, whose uid is not mapped

    Raises:
        BollardError: the server is not installed, or /dev/fuse cannot be used.
    """
    device = fuse_device.mount("squashfuse", target, linux.MS_RDONLY)
    old = os.path.exists(SERVER_2)
    if old:
        _answer_libfuse_2(scratch)
    elif not os.path.exists(SERVER):
        raise BollardError(*NO_SERVER)
    words = os.memfd_create("squashfuse", os.MFD_CLOEXEC)
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        options = f"ro,offset={offset}"
        server = SERVER
        if own or os.path.exists(SHOWS_OWNER):
            options += f",uid={os.getuid()},gid={os.getgid()}"
            # squashfuse_ll treats uid 0 and gid 0 as "not given"; libfuse's own options do not.
            other = not os.path.exists(SHOWS_OWNER) or os.getuid() == 0 or os.getgid() == 0
            server = SERVER_OWNER if other and os.path.exists(SERVER_OWNER) else SERVER
        if old:
            command = [SERVER_2, "-f", "-o", options, f"/proc/self/fd/{fd}", f"{scratch}/unused"]
        else:
            command = [server, "-f", "-o", options, f"/proc/self/fd/{fd}", f"/dev/fd/{device}"]
        serve(parent, command, (device, fd), words, {"PATH": scratch, constants.ENV_FUSE_FD: str(device)})
    os.close(device)
    return pid, words


def start(
    server: str, options: str, words: list[str], target: str, inherited: tuple[int, ...], read_only: bool,
    scratch: str = "",
) -> int:  # fmt: skip
    """Start a FUSE server and mount it. Returns its process id when it has given its first answer.

    The kernel ends the server when this process ends. A server that writes gets SIGTERM, so that it leaves its file
    clean; one that only reads gets SIGKILL.

    server     path of the program
    options    the text after `-o`
    words      its other arguments
    target     directory to mount on
    inherited  descriptors that the server needs
    read_only  mount read-only
    scratch    a directory of the keeper, for a server built with libfuse 2; "" for libfuse 3

    Raises:
        BollardError: the server is not installed, did not start, or /dev/fuse cannot be used.
    """
    name = server.rsplit("/", 1)[1]
    if not os.path.exists(server):
        raise BollardError(f"{name} is missing on this machine", "install it, then bollard again; or use a directory")
    if scratch:
        _answer_libfuse_2(scratch)
    device = fuse_device.mount(name, target, linux.MS_RDONLY if read_only else 0)
    log = os.memfd_create(name, os.MFD_CLOEXEC)
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        command = [server, "-f", "-o", options, *words, f"{scratch}/unused" if scratch else f"/dev/fd/{device}"]
        env = {"PATH": scratch, constants.ENV_FUSE_FD: str(device)} if scratch else {"PATH": "/usr/bin:/bin"}
        serve(parent, command, (device, *inherited), log, env, _SIGKILL if read_only else _SIGTERM)
    os.close(device)
    try:
        os.close(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # waits for its first answer
    except OSError:
        raise _ended(server, log, pid, hint="is that file what it should be?") from None
    os.close(log)
    return pid


def _answer_libfuse_2(scratch: str) -> None:
    """Put the launcher in the place of fusermount, for a server built with libfuse 2.

    libfuse 2 does not accept a descriptor. It runs /bin/fusermount, or else the one in PATH, to get one. In the
    keeper's mount namespace the launcher has that name and passes the mounted descriptor (enter.c, `be_fusermount`).
    """
    if os.path.lexists(f"{scratch}/fusermount"):
        return  # done for another server of this container
    os.makedirs(scratch, exist_ok=True)
    os.symlink(LAUNCHER, f"{scratch}/fusermount")
    os.mkdir(f"{scratch}/unused", 0o755)  # libfuse 2 requires an empty directory as mount point
    if os.path.exists("/bin/fusermount"):
        tree = linux.clone_tree(LAUNCHER, recursive=False)
        place = os.open("/bin/fusermount", os.O_PATH | os.O_CLOEXEC)
        linux.attach(tree, place)
        linux.set_bindable("/bin/fusermount", False)  # so that a bind of /usr shows the host's fusermount
        os.close(place)
        os.close(tree)


def failed(name: str, words: int, pid: int, fd: int, offset: int) -> BollardError:
    """Return the error that says why squashfuse does not serve an image.

    name    the image, for the message
    words   descriptor of squashfuse's messages
    pid     its process id
    fd      the file that holds the squashfs
    offset  where the squashfs begins in `fd`, in bytes
    """
    reason = last_words(words)
    if " compression" in reason:  # squashfuse was built without that library; lzma needs squashfuse 0.5
        return BollardError(f"{name}: cannot be read on this machine ({reason})", "build it again with zstd or gzip")
    try:
        _read_tables(fd, offset)
    except OSError as error:
        place = os.readlink(f"/proc/self/fd/{fd}")
        return causes.of(error, f"{name}: cannot be read", place, hint="check the filesystem it is on")
    status = exit_status(pid)
    if status is None:  # it still runs, but cannot read the image
        return BollardError(f"{name}: damaged: its filesystem cannot be read", "copy or build it again")
    if any(text in reason for text in _OF_IMAGE) and not causes.told(reason):
        return BollardError(f"{name}: damaged: its filesystem cannot be read ({reason})", "copy or build it again")
    server = SERVER_2 if os.path.exists(SERVER_2) else SERVER
    return _ended(server, words, pid, f"{name}: ", status)


def _read_tables(fd: int, offset: int) -> None:
    """Read what a server of a squashfs reads first: the super block, and the tables from the inodes to the end.

    Raises:
        OSError: the filesystem that holds the file cannot be read there.
    """
    head = os.pread(fd, _SUPER_BLOCK, offset)
    end, at = (int.from_bytes(head[first : first + 8], "little") for first in (40, 64))  # bytes_used, inode_table_start
    end = min(end, at + _TABLES_MAX)
    while at < end and os.pread(fd, min(_BLOCK, end - at), offset + at):
        at += _BLOCK


def lost(name: str) -> BollardError:
    """Return the error for a file server that ended while the container of the image `name` was made."""
    cause, hint = memory_limit.told(_AGAIN)
    return BollardError(f"{name}: the file server {SERVER} " + (f"was ended {cause}" if cause else "has ended"), hint)


def _ended(
    server: str, words: int, pid: int, before: str = "", status: int | None = None, hint: str = ""
) -> BollardError:
    """Return the error that says why a server does not start.

    server  path of the program
    words   descriptor of its messages
    pid     its process id
    before  text before the message
    status  result of `exit_status`, if it is known already
    hint    the hint to show when the message is the server's own
    """
    status = exit_status(pid) if status is None else status
    reason = last_words(words)
    doing = f"{before}the file server {server} does not start"
    if causes.told(reason):
        return causes.of_program(server, status or 0, reason, doing)
    if reason.startswith(f"{server}: "):
        return BollardError(f"{doing}: {reason[len(server) + 2 :]}", _REPAIR)
    few = os.sysconf("SC_OPEN_MAX")
    if not reason and few < _FILES_ENOUGH:
        return BollardError(f"{doing}: the limit of open files, {few}, is too low", "raise it with `ulimit -n`")
    if status is not None and status < 0:
        cause, hint = memory_limit.told(_AGAIN)
        return BollardError(f"{doing}: it was ended {cause or f'by {causes.signal_name(-status)}'}", hint)
    if status == _NOT_LOADED or not reason:
        hint = _REPAIR
    how = "it ended" if status in (None, _UNKNOWN) else f"it ended with exit status {status}"
    return BollardError(f"{doing}: {how}" + (f": {reason}" if reason else ""), hint or _REPAIR)


def exit_status(pid: int) -> int | None:
    """Return the child's exit status, negative for a signal; None if it still runs after STATUS_SECONDS."""
    end = time.monotonic() + STATUS_SECONDS
    while time.monotonic() < end:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return _UNKNOWN  # it has been reaped already
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


class Deadline:
    """A child process that kills a file server unless `met` is called in time.

    A process that waits for the file server then gets an error.

    Nothing else ends such a wait: the kernel cannot interrupt a request that the file server has read. So the process
    that waits cannot watch the time itself.
    """

    __slots__ = ("_end",)

    def __init__(self, pid: int, state: int) -> None:
        """Start to watch the file server `pid`. `state` is what `open_state` returned for it."""
        self._end, other = socketpair()
        handle = os.pidfd_open(pid)  # before the fork: the child may be in another process namespace
        parent = os.getpid()
        if os.fork():
            other.close()
            os.close(handle)
            return
        try:
            linux.die_with_parent(_SIGKILL, parent)  # also when its user has stopped it
            self._end.close()
            linux.name_process("bollard-watch")
            poll = select.poll()
            poll.register(other, select.POLLIN)
            stopped = 0
            for _ in range(ANSWER_SECONDS):
                if poll.poll(1000):
                    os._exit(0)
                stopped = stopped + 1 if is_stopped(state) else 0
                if stopped == STOPPED_SECONDS:
                    break
            other.send(b"K")
            pidfd_send_signal(handle, _SIGKILL)
        finally:
            os._exit(0)

    def met(self) -> bool:
        """Stop watching. Returns False if the file server did not answer in time and was killed."""
        self._end.setblocking(False)
        try:
            return not self._end.recv(1)
        except OSError:  # EAGAIN: the child has sent nothing
            return True
        finally:
            self._end.close()


def open_state(pid: int) -> int:
    """Return a descriptor of /proc/PID/stat for `is_stopped`. It still works when /proc is no longer mounted."""
    return os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)


def is_stopped(state: int) -> bool:
    """Return whether the process is stopped (SIGSTOP or a tracer); False when it has ended."""
    try:
        return os.pread(state, 512, 0).rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False  # it has ended, which its pidfd tells


def silent(name: str) -> BollardError:
    """Return the error for a file server of the image `name` that did not answer in time."""
    return BollardError(
        f"{name}: its file server squashfuse on {os.uname().nodename} does not answer, and was ended",
        "has somebody stopped it? is the filesystem of the image there?",
    )


def last_words(words: int) -> str:
    """Return the last line that a server has printed. `words` is the descriptor of its messages."""
    lines = os.pread(words, 4096, 0).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def serve(
    parent: int, command: list[str], inherited: tuple[int, ...], words: int, env: dict[str, str], end: int = _SIGKILL
) -> None:
    """In the child: execute the server. Does not return.

    parent     process id of the keeper: the server ends with it
    command    the server and its arguments
    inherited  descriptors that the server keeps
    words      descriptor of the pipe for its messages
    env        its whole environment
    end        the signal that it gets when the keeper ends
    """
    try:
        linux.die_with_parent(end, parent)
        linux.leave_mount_namespace()
        # The server reads images that anyone can write, so it must not have root's capabilities. With them libfuse 2
        # would also mount by itself, without fusermount.
        if os.getuid() == 0:
            linux.be_no_root()
        os.dup2(words, 2)
        for fd in inherited:
            os.set_inheritable(fd, True)
        os.execve(command[0], command, env)
    except OSError as error:
        os.write(words, f"{command[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)
