# SPDX-License-Identifier: BSD-3-Clause
"""The record of a container: which image ran, how many tasks entered, and when.

    root     opens RECORDS/JOB.UID, a file of root, and passes the keeper a descriptor that can only append
    keeper   appends one line before a task may enter; only the keepers of this job have such a descriptor

A line is spec text (`spec_text.text`): name=value, separated by spaces. The last line of a container is the valid one;
its value `container` tells the containers of a job apart. If the keeper is killed, the last line is still true. Root
removes an empty file when the job ends.
"""

from __future__ import annotations

import os
import time
from errno import EFBIG

from bollard import __version__
from bollard.runtime import constants
from bollard.runtime.errors import BollardError
from bollard.runtime.request import spec_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.clock import Clock
    from bollard.runtime.container.journal import Journal
    from bollard.runtime.image.image import Image

# spank_plugin/keeper.c makes it.
RECORDS = constants.RECORDS
# The first 1000 steps of a job are counted by name, all later ones together as OTHERS.
STEPS_MAX = 1000
OTHERS = "others"
# A container may write FREE bytes at once and RATE bytes per second after that. SIZE_MAX: bytes of a job's file; the
# last lines of containers may be as much again.
FREE = 64 << 10
RATE = 4096
SIZE_MAX = 1 << 20
# The phases of a start, in their order, as the keeper marks them in its Clock.
PHASES = ("fork", "python", "image", "fuse", "sources", "server", "mounts", "environment", "ready")
# Why a container was not made: the site's policy; the phase that was not finished; a mistake in the spec, or a defect.
POLICY, OTHER = "policy", "other"
CAUSES = (POLICY, *PHASES[2:], OTHER)


def descriptor(site: str) -> tuple[int, str]:
    """Return the descriptor of the record (-1 for none) and the container's name in it. `site`: plugin arguments."""
    words = dict(word.partition("=")[::2] for word in site.split(" "))
    fd = words.get(constants.RECORD_FD_WORD.rstrip("="), "")
    return (int(fd) if fd.isdigit() else -1), words.get("record-as", "")


def cause(error: Exception, phases: list[tuple[str, int]]) -> str:
    """Return the word for why no container was made: one of CAUSES.

    error: what stopped it.
    phases: the phases that had ended (`Clock.phases`).
    """
    if hasattr(error, "trusted"):
        return POLICY
    last = phases[-1][0] if phases else ""
    return PHASES[PHASES.index(last) + 1] if last in PHASES[:-1] else OTHER


def write_failed(site: str, path: str, node: str, failed: str, trusted: list[tuple[str, str]]) -> None:
    """Append a line about a container that could not be made.

    site: the plugin's arguments.
    path: the path of the image.
    node: the name of this host.
    failed: one of CAUSES.
    trusted: the verdict of the site's policy, if it has one.
    """
    fd, container = descriptor(site)
    if fd < 0:
        return
    now = f"{time.time():.3f}"
    known = [("bollard", __version__), ("container", container), ("node", node.split(".")[0]), ("image", path)]
    more = [("made", now), ("ended", now), ("tasks", "0"), ("failed", failed), *trusted]
    try:
        if os.fstat(fd).st_size <= SIZE_MAX:
            os.write(fd, spec_text.text([*known, *more]) + b"\n")
    except OSError:
        pass  # a full disk: the task gets the error all the same


class Record:
    """The record of one container."""

    __slots__ = (
        "_cut", "_known", "_phases", "_size", "_written", "container", "ended", "fd", "first", "journal", "last",
        "made", "pending", "steps",
    )  # fmt: skip

    def __init__(
        self, image: Image, node: str, fd: int = -1, trusted: list[tuple[str, str]] | None = None, source: str = ""
    ) -> None:
        """Begin the record of a container.

        image    its image
        node     the name of this node
        fd       the descriptor of the record, or -1
        trusted  the verdict of the site's policy
        source   the URI that the image was fetched from; "" for a file
        """
        self.fd = fd
        self.container = ""
        self.journal: Journal | None = None
        self._phases = ""  # what the start took
        self.pending = False  # something has changed that is not in the file
        self._cut = False  # the last line has no end
        self._size = 0  # bytes of all lines so far
        self._written = 0.0  # when the last line was written
        self.made = time.time()
        self.first = self.last = self.ended = 0.0
        self.steps: dict[str, int] = {}  # step: tasks that entered
        self._known = [
            ("bollard", __version__),
            ("node", node.split(".")[0]),
            ("image", image.path),
            ("id", ".".join(map(str, image.identity))),
            ("digest", image.digest()),
            *([("source", source)] if source else []),
            ("keeper", str(os.getpid())),
            ("made", f"{self.made:.3f}"),
            *(trusted or []),
        ]

    def values(self) -> list[tuple[str, str]]:
        """Return the record as (name, value) pairs, with what is known by now."""
        found = list(self._known)
        if self.container:
            found.insert(1, ("container", self.container))
        if self.first:
            found += [("first", f"{self.first:.3f}"), ("last", f"{self.last:.3f}")]
        found.append(("tasks", str(sum(self.steps.values()))))
        if self.steps:
            found.append(("steps", ",".join(f"{step}:{count}" for step, count in self.steps.items())))
        if self.ended:
            found.append(("ended", f"{self.ended:.3f}"))
        if self._phases:
            found.append(("phases", self._phases))
        return found

    def ready(self, clock: Clock) -> None:
        """Note how long each phase of the start took, in ms; the system log gets its line, if the site wants one."""
        before, words = clock.begin, []
        for name, at in clock.phases:
            words.append(f"{name}:{(at - before) / 1e6:.2f}")
            before = at
        self._phases = ",".join(words)
        if self.journal:
            self.journal.say("start", self._shown("image", "digest"))

    def _shown(self, *names: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self._known if name in names]

    def entered(self, step: str) -> None:
        """Count a task of `step` that is about to enter, and write the record.

        Raises:
            BollardError: the line may not be written, by RLIMIT_FSIZE of this process, which its user can lower.
        """
        if step not in self.steps and len(self.steps) >= STEPS_MAX:
            step = OTHERS
        self.steps[step] = self.steps.get(step, 0) + 1
        self.last = time.time()
        self.first = self.first or self.last
        self.pending = True
        if not self.write():
            raise BollardError("the container's keeper may not write its record", "raise its limit of file sizes again")

    def end(self) -> None:
        """Write the last line: the container ends normally."""
        self.ended = time.time()
        if self.first:
            self.write(last=True)
        if self.journal:
            counts = [("tasks", str(sum(self.steps.values()))), ("seconds", f"{self.ended - self.made:.1f}")]
            self.journal.say("end", [*counts, *self._shown("image", "digest")])

    def write(self, last: bool = False) -> bool:
        """Append a line, unless the container has written too much lately. The `last` line is always written.

        Returns False when a limit of this process forbids it. A full disk of the node does not end the container.
        """
        now = time.monotonic()
        if self.fd < 0 or (not last and now - self._written < (self._size - FREE) / RATE):
            return True
        line = spec_text.text(self.values()) + b"\n"
        allowed = True
        try:
            if os.fstat(self.fd).st_size + len(line) <= (2 * SIZE_MAX if last else SIZE_MAX):
                self._append(line)
        except OSError as error:
            # A full disk must not stop jobs. A limit that the user has set (ulimit -f) could hide what ran.
            allowed = error.errno != EFBIG
        self._size += len(line)
        self._written = now
        self.pending = False
        return allowed

    def _append(self, line: bytes) -> None:
        left = b"\n" + line if self._cut else line
        while left:
            left = left[os.write(self.fd, left) :]
            self._cut = bool(left)


def step_of(environment: list[bytes]) -> str:
    """Return the step of a task, from SLURM_STEP_ID in its environment; "batch" if that is not set."""
    for item in environment:
        if item.startswith(b"SLURM_STEP_ID="):
            number = item[14:]
            known = number.isdigit() and len(number) < 11
            return _STEPS.get(number, number.decode() if known else OTHERS)
    return "batch"


# SLURM_BATCH_SCRIPT and SLURM_INTERACTIVE_STEP, slurm.h; signed since 25.11.
_STEPS = {b"4294967291": "batch", b"4294967290": "interactive", b"-5": "batch", b"-6": "interactive"}
