# SPDX-License-Identifier: BSD-3-Clause
"""Limit the idle containers of a job on this node. The container that has been idle for the longest time ends first.

A new keeper asks the other keepers of its job, whose sockets are in the same directory. It asks before it enters its
own container.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_STREAM, socket

from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec_text

# How long a keeper may take to answer. One that answers later is busy with a task, so it is not idle.
_SECONDS = 0.2
_ANSWER_MAX = 1 << 20
_NAME_SIZE = 16  # of a keeper's socket, in hexadecimal digits


def end_oldest(listener: int, most: int) -> None:
    """End idle containers of this job until at most `most` containers are left, this keeper's own included.

    Containers with a step are not ended, so more than `most` can remain. `listener` is the descriptor of this keeper's
    listening socket.
    """
    own = _path_of(listener)
    folder = os.path.dirname(own)
    try:
        names = [name for name in os.listdir(folder) if len(name) == _NAME_SIZE and f"{folder}/{name}" != own]
    except OSError:
        return  # the job has ended, and root has removed the folder
    if len(names) < most:
        return
    known = [(_idle_seconds(f"{folder}/{name}"), name) for name in names]
    there = sorted(((seconds, name) for seconds, name in known if seconds is not None), reverse=True)
    for seconds, name in there[: len(there) + 1 - most]:
        if seconds >= 0:
            _say(f"{folder}/{name}", wire.END_IDLE)


def job_of(listener: int) -> str:
    """Return the number of the job, from the path of a keeper's listening socket: JOBS/JOB/HASH."""
    return os.path.basename(os.path.dirname(_path_of(listener)))


def _path_of(listener: int) -> str:
    own = socket(fileno=os.dup(listener))
    try:
        return str(own.getsockname())
    finally:
        own.close()


def _idle_seconds(path: str) -> float | None:
    """Return how long the container has been idle; -1 while it has a step; None if its keeper has ended."""
    answer = _say(path, wire.QUESTION, True)
    if answer is None:
        return None
    try:
        return float(dict(spec_text.pairs(answer.rstrip(b"\0"))).get("idle", "") or -1)
    except (ValueError, BollardError):
        return -1  # not a keeper's answer: what listens there is not ended


def _say(path: str, word: bytes, answer: bool = False) -> bytes | None:
    """Send `word` to a keeper. Returns its answer; b"" if none came in time; None if nobody listens."""
    peer = socket(AF_UNIX, SOCK_STREAM)
    peer.settimeout(_SECONDS)
    try:
        peer.connect(path)
    except OSError:
        return None  # its keeper has ended
    try:
        peer.sendall(word)
        return wire.receive_frame(peer, _ANSWER_MAX) if answer and wire.receive(peer, 1) == wire.OK else b""
    except (OSError, ValueError):
        return b""  # it is busy with a task, or has just ended
    finally:
        peer.close()
