# SPDX-License-Identifier: BSD-3-Clause
"""One line in the node's system log for the start and for the end of each container: `journal: yes` in bollard.yaml.

The keeper writes the lines, as the user, to the socket of syslog(3), which journald and rsyslog read. It connects
before `pivot_root`: afterwards /dev/log is the container's. All text that a user can choose is quoted as in a spec, so
that it has no line break, no control character and no space. It is cut to PATH_MAX characters.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

from bollard.runtime.request import spec_text

SOCKET = "/dev/log"
# Facility daemon (3), severity info (6): syslog.h.
_PRIORITY = 3 << 3 | 6
# syslogd cuts lines at 1024 bytes or later.
PATH_MAX = 512


class Journal:
    """The connection to the system log, and what each line of a container begins with."""

    __slots__ = ("_head", "_peer")

    def __init__(self, peer: socket, job: str) -> None:
        self._peer = peer
        self._head = [("job", job), ("user", str(os.getuid()))]

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._peer.fileno()

    def say(self, event: str, values: list[tuple[str, str]]) -> None:
        """Write one line: `event` (start, end or failed), then the values as name=value."""
        data = line(event, [*self._head, *values], os.getpid())
        try:
            self._peer.send(data)
        except OSError:
            pass  # the log is full, or its daemon has been started anew: a job does not wait for it and does not fail


def connect(job: str, path: str = SOCKET) -> Journal | None:
    """Return a connection to the system log; None if this node has none. `job` is the number of the job."""
    peer = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        return None  # `bollard site check` reports it: no job fails for want of a log
    return Journal(peer, job)


def line(event: str, values: list[tuple[str, str]], pid: int) -> bytes:
    """Return the text of one line as syslog(3) sends it, without a time: the log's daemon adds that.

    event   what happened, one word
    values  (name, value) pairs
    pid     process id of the keeper
    """
    words = [f"{name}={spec_text.quote(value).replace(' ', '%20')[:PATH_MAX]}" for name, value in values]
    return f"<{_PRIORITY}>bollard[{pid}]: {event} {' '.join(words)}".encode("ascii")
