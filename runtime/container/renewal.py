# SPDX-License-Identifier: BSD-3-Clause
"""A named container that is made anew: a later step gives other options, and no task runs in it.

    root to keeper            L and the step's spec: the container lacks something, and is idle
    keeper to root            A, then a frame: the options of the container; its layer in memory attached
    root                      starts another keeper, which gets this connection
    keeper                    ends; the connection with it
    the other keeper          makes the container of the step's options and the old ones, above the same layer

When the other keeper cannot make the container, it keeps the layer for the next step that asks (`keep`).
"""

from __future__ import annotations

import os
import select
import time
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket
from sys import byteorder

from bollard.runtime import constants
from bollard.runtime.container import wire
from bollard.runtime.errors import BollardError
from bollard.runtime.request import options, spec, spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.request.spec import Spec

    Values = list[tuple[str, str]]

# How long the old keeper may take to end, in seconds: a file server of a layer may write as long (layers._END_MS).
_END_SECONDS = 65.0
_PEER_SECONDS = 10.0
# Options that stay those of the container where a step does not give them; besides the rows with `fixed`. Root is not
# among them: each step says itself whether it is root, as under pyxis.
_STAY = (
    "home", "no-home", "workdir", "writable-tmpfs", "containall", "compat", "no-slurm", "pem-path", "passphrase-file",
)  # fmt: skip
_STEPS_OWN = "fakeroot"
# Options that one group of rows sets.
_GROUPS = {"no-home": "home"}
# What no second container can have above the layer of the first: another layer to write to.
OTHER_LAYERS = frozenset(("--overlay", "--writable"))


class Layer:
    """A container's layer in memory, as a detached mount: `tree` is its descriptor, -1 without such a layer."""

    __slots__ = ("tree",)

    def __init__(self, tree: int = -1) -> None:
        self.tree = tree


def lacking(made: Spec, asked: Spec, values: Values, can_save: bool) -> list[str]:
    """Return the options that a step gives and the container `made` does not have, as the user types them.

    made      the spec of the container
    asked     the spec of the step
    values    the (name, value) pairs of `asked`
    can_save  the container has a saver
    """
    given = dict(values)
    found = []
    hidden = spec.switch([given.get("no-home", "")])
    # Words of --no-mount for which the step has typed another option.
    implied = {"home", "cwd"} if hidden else set()
    # Several options can fill one field: the message should name one that the user gave.
    for row in sorted(options.TABLE, key=lambda row: row.name not in given):
        if not row.fixed:
            continue
        want, have = getattr(asked, row.field), getattr(made, row.field)
        if row.field == "no_mount":
            want = tuple(word for word in want if word not in implied)
        if not set(want) <= set(have) if isinstance(want, tuple) else want and want != have:
            found.append(f"--{row.slurm or row.name}")
    writable = made.writable_tmpfs or made.writable or bool(made.overlays)
    if asked.writable_tmpfs and not writable:
        found.append("--container-writable")
    if "writable-tmpfs" in given and not asked.writable_tmpfs and writable:
        found.append("--container-readonly")
    home = made.home and "home" not in made.no_mount
    if hidden and home:
        found.append("--no-container-mount-home")
    if "no-home" in given and not spec.switch([given["no-home"]]) and not home:
        found.append("--container-mount-home")
    if "fakeroot" in given and not asked.fakeroot and made.fakeroot:
        found.append("--no-container-remap-root")
    if asked.save and not can_save:
        found.append("--container-save")
    return found


def suits(made: Spec, text: bytes, can_save: bool, shows: Callable[[str], bool]) -> bool:
    """Return whether a step with the spec `text` joins the container as it is.

    A step that cannot have a container made for it joins too: its tasks get the reason.

    made      the spec of the container
    text      the spec of the step
    can_save  the container has a saver
    shows     tells whether the container shows a working directory
    """
    try:
        header, values = spec_text.read(text)
        asked = spec.make(values)
    except BollardError:
        return True  # its tasks bring the same text, and get the reason
    if header.mode == constants.MODE_CREATE or (asked.image and asked.image != made.image):
        return True
    found = lacking(made, asked, values, can_save)
    if not OTHER_LAYERS.isdisjoint(found):
        return True
    return not found and asked.fakeroot == made.fakeroot and (bool(asked.pwd) or shows(asked.cwd))


def merged(old: Values, new: Values) -> Values:
    """Return the values of a container that is made anew: its step's, and old ones that the step does not give."""
    given = {_group(name) for name, _ in new}
    return [(name, value) for name, value in old if _stays(name) and _group(name) not in given] + new


def _stays(name: str) -> bool:
    if name in ("image", "asked", "id", "source"):
        return True
    row = options.ROWS.get(name)
    return row is not None and name != _STEPS_OWN and (row.fixed or name in _STAY)


def _group(name: str) -> str:
    row = options.ROWS.get(name)
    return (row.field if row is not None else "") or _GROUPS.get(name, name)


def hand_over(peer: socket, values: Values, layer: Layer) -> None:
    """Answer a step for which the container is made anew.

    peer    the connection of the step's slurmstepd, which gives it to the new keeper
    values  the (name, value) pairs of this container
    layer   its layer
    """
    peer.sendall(wire.ANEW)  # alone: root reads one byte, and must not take the descriptor with it
    frame = spec_text.text(values)
    fds = [(SOL_SOCKET, SCM_RIGHTS, layer.tree.to_bytes(4, byteorder))] if layer.tree >= 0 else []
    size = len(frame).to_bytes(4, byteorder)
    sent = peer.sendmsg([size], fds)
    peer.sendall(size[sent:] + frame)


def take_over(fd: int) -> tuple[Values, Layer]:
    """Return the values and the layer of the container that this one follows, once its keeper has ended.

    fd  the connection to the old keeper; it is closed

    Raises:
        BollardError: the old keeper did not hand over, or does not end.
    """
    peer = socket(fileno=fd)
    peer.settimeout(_PEER_SECONDS)
    layer = Layer()
    try:
        data, rights, _, _ = peer.recvmsg(4, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
        for level, kind, number in rights:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                layer.tree = int.from_bytes(number[:4], byteorder)
        size = int.from_bytes(data + wire.receive(peer, 4 - len(data)), byteorder)
        if size > constants.SPEC_MAX:
            raise ValueError(f"a frame of {size} bytes")
        values = spec_text.pairs(wire.receive(peer, size))
        peer.settimeout(_END_SECONDS)
        peer.recv(1)  # it sends nothing more: this is its end
    except (OSError, ValueError) as error:
        raise BollardError(
            f"the container of an earlier step of this job cannot be made anew ({error})", "use another name"
        ) from None
    finally:
        peer.close()
    return values, layer


def keep(listener: int, job: int, values: Values, layer: Layer, error: Exception, user_is_root: bool) -> None:
    """Keep the layer of a container that could not be made anew, and tell the tasks why.

    Returns when another keeper has taken the layer, or when the job has ended.

    listener  descriptor of the listening socket
    job       descriptor that hangs up when the job has ended on this node
    values    the (name, value) pairs of the old container
    layer     its layer
    error     what the tasks of this step are told
    user_is_root  the job's user is root. Else only another uid, which is root's, gets the layer or holds a lifeline
    """
    accepting = socket(fileno=listener)
    steps: dict[int, socket] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(job, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == job:
                return
            if fd in steps:
                poll.unregister(fd)
                steps.pop(fd).close()
                continue
            try:
                number, _ = accepting._accept()  # type: ignore[attr-defined]  # typeshed lacks it
            except OSError:
                continue  # the peer has closed its connection
            peer = socket(fileno=number)
            peer.settimeout(_PEER_SECONDS)
            try:
                _, uid = wire.credentials(peer)
                root = user_is_root or uid != os.getuid()  # the mode of the socket lets in only the user and root
                kind = wire.receive(peer, 1)
                if kind == wire.LIFELINE and root and wire.receive_frame(peer, constants.SPEC_MAX):
                    hand_over(peer, values, layer)
                    return
                if kind == wire.LIFELINE and root:
                    steps[number] = peer
                    poll.register(number, select.POLLIN)
                    peer.sendall(wire.OK)
                elif kind == wire.TASK:
                    wire.receive_frame(peer)  # close() with unread data would reset the connection
                    wire.refuse(peer, error)
                elif kind == wire.END_IDLE and not steps:
                    return
            except (OSError, ValueError):
                pass  # the peer has closed its connection, or is none of ours
            finally:
                if number not in steps:
                    peer.close()


class Waiting:
    """Steps that ask for other options while the container has steps, but no task.

    Slurm tells the user that a step has ended before its slurmstepd has: the next step comes in between.
    """

    SECONDS = 5.0
    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[tuple[socket, float]] = []

    def add(self, peer: socket) -> None:
        """Let a step wait, for SECONDS at most."""
        self.entries.append((peer, time.monotonic() + self.SECONDS))

    def milliseconds(self) -> int | None:
        """Return how long the loop may sleep; None for any time."""
        if not self.entries:
            return None
        return max(0, int((self.entries[0][1] - time.monotonic()) * 1000) + 1)

    def over(self) -> list[socket]:
        """Remove and return the steps that have waited long enough."""
        now = time.monotonic()
        late = [peer for peer, end in self.entries if end <= now]
        self.entries = [entry for entry in self.entries if entry[1] > now]
        return late

    def taken(self) -> list[socket]:
        """Remove and return all steps that wait."""
        found = [peer for peer, _ in self.entries]
        self.entries = []
        return found


def runs(pids: dict[int, int]) -> bool:
    """Return whether any task still runs. `pids` maps the pidfd of each task to its process id."""
    poll = select.poll()
    for handle in pids:
        poll.register(handle, select.POLLIN)
    return len(poll.poll(0)) < len(pids)
