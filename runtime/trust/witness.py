# SPDX-License-Identifier: BSD-3-Clause
"""Find out who owns a file, from a user namespace: there every owner but the user himself looks the same.

The witness, a process outside of the namespace, looks and answers on a socket. For a job it is the program
bollard-witness (spank_plugin/witness.c), for `bollard exec` a child that `start` forks.

    keeper   one byte, with the descriptor (SCM_RIGHTS)
    witness  uid and mode, u32 each; it ends when the keeper has closed the connection
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket, socketpair

from bollard.runtime.errors import BollardError

# How long the witness may take. The filesystem of the file may be slow to answer.
SECONDS = 60
_SIZE = 4  # bytes of an int
_ORDER = sys.byteorder
_ENDED = "the process that looks at the file's owner does not answer"


def start() -> int:
    """Fork a witness; return the connection to it. Call this outside of the user namespace."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours.detach()


def _serve(connection: socket) -> None:
    while True:
        _, attached, _, _ = connection.recvmsg(1, 64)
        if not attached:
            return
        fd = int.from_bytes(attached[0][2][:_SIZE], _ORDER)
        info = os.fstat(fd)
        os.close(fd)
        connection.send(info.st_uid.to_bytes(_SIZE, _ORDER) + info.st_mode.to_bytes(_SIZE, _ORDER))


def owner(connection: int, fd: int) -> tuple[int, int]:
    """Return uid and mode of an opened file as they are outside of this process's user namespace.

    connection: the connection to the witness; -1 if this process is in no user namespace of its own.
    fd: the file, perhaps opened with O_PATH.

    Raises:
        BollardError: the witness has ended or does not answer; the caller refuses the file.
    """
    if connection < 0:
        info = os.fstat(fd)
        return info.st_uid, info.st_mode
    asking = socket(AF_UNIX, SOCK_SEQPACKET, 0, os.dup(connection))
    try:
        asking.settimeout(SECONDS)
        asking.sendmsg([b"?"], [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(_SIZE, _ORDER))])
        data = asking.recv(2 * _SIZE)
    except OSError:
        data = b""  # it has ended: no answer is a refusal, below
    finally:
        asking.close()
    if len(data) != 2 * _SIZE:
        raise BollardError(_ENDED, "submit again; has somebody stopped it?")
    return int.from_bytes(data[:_SIZE], _ORDER), int.from_bytes(data[_SIZE:], _ORDER)


def end(connection: int) -> None:
    """Close the connection. The witness ends then; if it has ended at once, reap it."""
    if connection < 0:
        return
    os.close(connection)
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass  # a site without rules about owners has no witness
