# SPDX-License-Identifier: BSD-3-Clause
"""Frames on the keeper's socket. The letters and names are in runtime/constants.py.

docs/internals.md, "Wire", says who sends which frame.
"""

from __future__ import annotations

import time
from _socket import SCM_RIGHTS, SO_PEERCRED, SOL_SOCKET, socket
from sys import byteorder

from bollard.runtime import constants
from bollard.runtime.causes import one_line

SPEC, ENTRY, VERBOSE, OWN = constants.ENV_SPEC, constants.ENV_ENTRY, constants.ENV_VERBOSE, constants.ENV_OWN
COMMAND = constants.ENV_COMMAND
LIFELINE, QUESTION, TASK = constants.WIRE_LIFELINE, constants.WIRE_QUESTION, constants.WIRE_TASK
DONE, OK, ERROR, SCRIPT = constants.WIRE_DONE, constants.WIRE_OK, constants.WIRE_ERROR, constants.WIRE_SCRIPT
# Another keeper of the job asks this one to end, unless it has a step.
END_IDLE = b"E"
ANEW = constants.WIRE_ANEW
FRAME_MAX = constants.WIRE_FRAME_MAX
# Root's directories for the jobs on this node: JOBS/JOB/HASH is the socket of a keeper (spank_plugin/job_folder.h).
JOBS = constants.JOB_FOLDERS


def credentials(peer: socket) -> tuple[int, int]:
    """Return (pid, uid) of the peer, in this process's namespaces: struct ucred of unix(7)."""
    raw = peer.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], byteorder), int.from_bytes(raw[4:8], byteorder)


def receive(peer: socket, size: int) -> bytes:
    """Return exactly `size` bytes. The timeout of `peer` holds for all of them together.

    Raises:
        ConnectionError: the peer closed the connection, or was too slow.
    """
    data, deadline = b"", time.monotonic() + (peer.gettimeout() or 0.0)
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part or time.monotonic() > deadline:
            raise ConnectionError("the other end went away")
        data += part
    return data


def receive_frame(peer: socket, most: int = FRAME_MAX) -> bytes:
    """Return one frame.

    Raises:
        ValueError: the frame has more than `most` bytes.
    """
    size = int.from_bytes(receive(peer, 4), byteorder)
    if size > most:
        raise ValueError(f"a frame of {size} bytes")
    return receive(peer, size)


def send(peer: socket, status: bytes, frame: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send a letter with the descriptors `fds` attached, then a frame.

    peer    the connection
    status  the letter, one byte
    frame   the bytes after it
    fds     descriptors for the peer (SCM_RIGHTS of unix(7))
    """
    rights = [(SOL_SOCKET, SCM_RIGHTS, b"".join(fd.to_bytes(4, byteorder) for fd in fds))] if fds else []
    peer.sendmsg([status], rights)
    peer.sendall(len(frame).to_bytes(4, byteorder) + frame)


def refuse(peer: socket, error: Exception) -> None:
    """Send the message of `error` to a peer. Ignores a peer that has closed the connection."""
    text = one_line(error)
    try:
        send(peer, ERROR, text.encode("utf-8", "replace") + b"\0")
    except OSError:
        pass  # nobody is there to read it


def refuse_waiting(listener: socket, error: Exception) -> None:
    """Send `error` to each task that has connected but was not accepted yet. `listener` must be non-blocking."""
    while True:
        try:
            number, _ = listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            return  # that was the last
        peer = socket(fileno=number)
        peer.settimeout(1.0)
        try:
            if receive(peer, 1) == TASK:
                receive_frame(peer)  # close() with unread data would reset the connection
                refuse(peer, error)
        except (OSError, ValueError):
            pass  # the peer has closed the connection
        finally:
            peer.close()


def texts(*parts: bytes | list[bytes]) -> bytes:
    """Return a frame of texts and lists of texts: each ends with NUL, a list begins with its length."""
    words: list[bytes] = []
    for part in parts:
        words += [part] if isinstance(part, bytes) else [b"%d" % len(part), *part]
    return b"\0".join([*words, b""])


def list_at(words: list[bytes], at: int) -> tuple[list[bytes], int]:
    """Return the list that begins at index `at` of a frame's texts, and the index after its end.

    Raises:
        ValueError: there is no list at `at`, or it is longer than the frame.
    """
    if at >= len(words):
        raise ValueError("a frame without a list")
    count = int(words[at])
    if count < 0 or at + 1 + count > len(words):
        raise ValueError("a list runs over its frame")
    return words[at + 1 : at + 1 + count], at + 1 + count
