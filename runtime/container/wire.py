# SPDX-License-Identifier: BSD-3-Clause
"""What goes through the keeper's socket, in frames; its letters and names are in runtime/constants.py.

Who sends what is in docs/internals.md, "Wire".
"""

from __future__ import annotations

import time
from _socket import SCM_RIGHTS, SO_PEERCRED, SOL_SOCKET, socket
from sys import byteorder

from bollard.runtime import constants
from bollard.runtime.causes import one_line

SPEC, ENTRY, VERBOSE, OWN = constants.ENV_SPEC, constants.ENV_ENTRY, constants.ENV_VERBOSE, constants.ENV_OWN
LIFELINE, QUESTION, TASK = constants.WIRE_LIFELINE, constants.WIRE_QUESTION, constants.WIRE_TASK
DONE, OK, ERROR, SCRIPT = constants.WIRE_DONE, constants.WIRE_OK, constants.WIRE_ERROR, constants.WIRE_SCRIPT
# From another keeper of the job: end, unless a step is here.
END_IDLE = b"E"
FRAME_MAX = constants.WIRE_FRAME_MAX
# The folders of jobs on this node, root's: JOBS/JOB/HASH is the socket of a keeper (spank_plugin/job_folder.h).
JOBS = constants.JOB_FOLDERS


def credentials(peer: socket) -> tuple[int, int]:
    """(pid, uid) of the other end, as seen from here: struct ucred of unix(7)."""
    raw = peer.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], byteorder), int.from_bytes(raw[4:8], byteorder)


def receive(peer: socket, size: int) -> bytes:
    """Exactly `size` bytes, within the peer's time-out in all."""
    data, deadline = b"", time.monotonic() + (peer.gettimeout() or 0.0)
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part or time.monotonic() > deadline:
            raise ConnectionError("the other end went away")
        data += part
    return data


def receive_frame(peer: socket, most: int = FRAME_MAX) -> bytes:
    """One frame; ValueError for one of more than `most` bytes."""
    size = int.from_bytes(receive(peer, 4), byteorder)
    if size > most:
        raise ValueError(f"a frame of {size} bytes")
    return receive(peer, size)


def send(peer: socket, status: bytes, frame: bytes, fds: tuple[int, ...] = ()) -> None:
    """A letter with descriptors attached, then a frame."""
    rights = [(SOL_SOCKET, SCM_RIGHTS, b"".join(fd.to_bytes(4, byteorder) for fd in fds))] if fds else []
    peer.sendmsg([status], rights)
    peer.sendall(len(frame).to_bytes(4, byteorder) + frame)


def refuse(peer: socket, error: Exception) -> None:
    """Tell a peer why not; one that has gone, or does not speak our language, need not hear it."""
    text = one_line(error)
    try:
        send(peer, ERROR, text.encode("utf-8", "replace") + b"\0")
    except OSError:
        pass


def refuse_waiting(listener: socket, error: Exception) -> None:
    """Tell each task that has connected and was not answered yet why not. `listener` does not block."""
    while True:
        try:
            number, _ = listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            return  # that was the last
        peer = socket(fileno=number)
        peer.settimeout(1.0)
        try:
            if receive(peer, 1) == TASK:
                receive_frame(peer)  # a refusal beside unread words would reset the connection
                refuse(peer, error)
        except (OSError, ValueError):
            pass  # it has gone
        finally:
            peer.close()


def texts(*parts: bytes | list[bytes]) -> bytes:
    """A frame of texts and of lists of them."""
    words: list[bytes] = []
    for part in parts:
        words += [part] if isinstance(part, bytes) else [b"%d" % len(part), *part]
    return b"\0".join([*words, b""])


def list_at(words: list[bytes], at: int) -> tuple[list[bytes], int]:
    """The list that begins at `at` of a frame's texts, and where it ends; ValueError where there is none."""
    if at >= len(words):
        raise ValueError("a frame without a list")
    count = int(words[at])
    if count < 0 or at + 1 + count > len(words):
        raise ValueError("a list runs over its frame")
    return words[at + 1 : at + 1 + count], at + 1 + count
