# SPDX-License-Identifier: BSD-3-Clause
"""`cluster exec`: run a command in all namespaces of a node, as one of its users.

This process joins the namespaces with setns(2) and starts no other program than the command, because tests call it
thousands of times. Tests know the node's init, so they run this file itself, which imports little.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt")  # the mount namespace last: it has another /proc
PR_SET_PDEATHSIG = 1
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
)
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


class Account:
    """A user's account, from /etc/passwd and /etc/group of a node."""

    def __init__(self, root: str, name: str) -> None:
        """Read the node's own files, which this machine's C library does not read.

        Raises:
            OSError: the node has no such user.
        """
        with open(f"{root}/etc/passwd") as users, open(f"{root}/etc/group") as groups:
            found = [line.rstrip("\n").split(":") for line in users if line.startswith(f"{name}:")]
            if not found:
                raise OSError(f"no user '{name}' on the node: choose root, alice or bob")
            self.name, _, uid, gid, _, self.home, self.shell = found[0]
            rows = [line.rstrip("\n").split(":") for line in groups]
        self.uid, self.gid = int(uid), int(gid)
        self.groups = [self.gid, *(int(row[2]) for row in rows if name in row[3].split(","))]


def run(pid: int, command: list[str], user: str, cwd: str | None) -> int:
    """Run a command in a node; return its exit status, 128+n after signal n.

    pid: the process id of the node's init.
    command: the program and its arguments.
    user: the name of a user of the node.
    cwd: the directory to run in; None for the user's home.

    Raises:
        OSError: the node has no such user, or has ended.
    """
    who = Account(f"/proc/{pid}/root", user)
    environment = {
        "HOME": who.home,
        "USER": who.name,
        "LOGNAME": who.name,
        "SHELL": who.shell,
        "LANG": "C.UTF-8",
        "PATH": (
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            if who.uid == 0
            else "/usr/local/bin:/usr/bin:/bin"
        ),
    }
    if "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    libc = ctypes.CDLL(None, use_errno=True)
    join(libc, pid)
    # The signals are blocked here and read in `wait`. The command starts with the previous signal mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *FORWARDED})
    child = os.fork()
    if child == 0:
        become(libc, who, cwd or who.home, command, environment, before)
    return wait(child)


def join(libc: ctypes.CDLL, pid: int) -> None:
    """Join all namespaces of the process `pid`.

    Raises:
        OSError: setns(2) fails.
    """
    handles = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for name, handle in zip(NAMESPACES, handles):
        if libc.setns(handle, 0):
            raise OSError(
                f"cannot enter the {name} namespace of process {pid}: "
                f"{os.strerror(ctypes.get_errno())}; is the node still up?"
            )
        os.close(handle)


def become(
    libc: ctypes.CDLL,
    who: Account,
    cwd: str,
    command: list[str],
    environment: dict[str, str],
    mask: set[signal.Signals] | set[int] | set[int | signal.Signals],
) -> NoReturn:
    """Change to the user and the directory, and become the command. Runs in the child.

    libc: the C library.
    who: the user.
    cwd: the directory to run in.
    command: the program and its arguments.
    environment: its environment.
    mask: its signal mask.
    """
    status = FAILED
    try:
        os.umask(0o022)
        os.setgroups(who.groups)
        os.setgid(who.gid)
        os.setuid(who.uid)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the command ends if `cluster exec` is killed
        os.chdir(cwd)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these; execve would keep that
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = NOT_EXECUTABLE
        os.execvpe(command[0], command, environment)
    except OSError as error:
        if status == NOT_EXECUTABLE and isinstance(error, FileNotFoundError):
            status = NOT_FOUND
        print(
            f"cluster exec: {cwd if status == FAILED else command[0]}: {error.strerror}",
            file=sys.stderr,
            flush=True,
        )
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """Wait until the command ends; return its exit status.

    Signals from other processes are passed on. Those from the terminal have reached the command already.
    """
    while True:
        caught = signal.sigwaitinfo({signal.SIGCHLD, *FORWARDED})
        if caught.si_signo != signal.SIGCHLD:
            if caught.si_code <= 0:  # from a process; the kernel's signals (> 0) go to the whole foreground group
                os.kill(child, caught.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(pid: str, user: str, cwd: str, *command: str) -> int:
    """Run a command as `run` does, with "" for the user's home; return its exit status, or 125 after an error."""
    try:
        return run(int(pid), list(command), user, cwd or None)
    except OSError as error:
        print(f"cluster exec: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
