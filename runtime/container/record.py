# SPDX-License-Identifier: BSD-3-Clause
"""What the keeper writes down of its container: which image, how many tasks entered, when.

    root     opens RECORDS/JOB.UID, which is root's, and hands the keeper a descriptor to append with
    keeper   appends one line when a task gets the way in; nobody else but the job's other keepers has that descriptor

A line is a spec's text (`spec_text.text`): name=value parted by spaces. The last line of a container counts; the word
`container` tells the job's containers apart. What is there when the keeper is killed is true. A file in which nothing
stands is removed by root when the job ends.
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
    from bollard.runtime.image.image import Image

# spank_plugin/keeper.c makes it.
RECORDS = constants.RECORDS
# A job of many steps: the first so many are counted by name, the others together.
STEPS_MAX = 1000
OTHERS = "others"
# Bytes that one container writes at once, how many a second after that, and how large the file of a job may get; the
# last lines of containers may be as much again.
FREE = 64 << 10
RATE = 4096
SIZE_MAX = 1 << 20


def descriptor(site: str) -> tuple[int, str]:
    """The descriptor, -1 for none, and the container's name in the file, from the words of the site."""
    words = dict(word.partition("=")[::2] for word in site.split(" "))
    fd = words.get(constants.RECORD_FD_WORD.rstrip("="), "")
    return (int(fd) if fd.isdigit() else -1), words.get("record-as", "")


class Record:
    """The record of one container."""

    __slots__ = (
        "_cut", "_known", "_size", "_written", "container", "ended", "fd", "first", "last", "made", "pending", "steps"
    )  # fmt: skip

    def __init__(self, image: Image, node: str, fd: int = -1) -> None:
        self.fd = fd
        self.container = ""
        self.pending = False  # something has changed that is not in the file
        self._cut = False  # the last line has no end
        self._size = 0  # of all lines that were written
        self._written = 0.0  # when the last one was
        self.made = time.time()
        self.first = self.last = self.ended = 0.0
        self.steps: dict[str, int] = {}  # step: tasks that entered
        self._known = [
            ("bollard", __version__),
            ("node", node.split(".")[0]),
            ("image", image.path),
            ("id", ".".join(map(str, image.identity))),
            ("digest", image.digest()),
            ("keeper", str(os.getpid())),
            ("made", f"{self.made:.3f}"),
        ]

    def values(self) -> list[tuple[str, str]]:
        """All that is known by now."""
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
        return found

    def entered(self, step: str) -> None:
        """A task of that step gets the way in.

        Raises: BollardError where the line may not be written: RLIMIT_FSIZE of this process, which its user can lower.
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
        """The container ends as it should."""
        self.ended = time.time()
        if self.first:
            self.write(last=True)

    def write(self, last: bool = False) -> bool:
        """Append what is known now; later, unless it is the `last` line, where much was written lately. False where a
        limit of this process's forbids it; a full disk takes no container away."""
        now = time.monotonic()
        if self.fd < 0 or (not last and now - self._written < (self._size - FREE) / RATE):
            return True
        line = spec_text.text(self.values()) + b"\n"
        allowed = True
        try:
            if os.fstat(self.fd).st_size + len(line) <= (2 * SIZE_MAX if last else SIZE_MAX):
                self._append(line)
        except OSError as error:
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
    """The step that a task says it is of; a batch script has no number."""
    for item in environment:
        if item.startswith(b"SLURM_STEP_ID="):
            number = item[14:]
            known = number.isdigit() and len(number) < 11
            return _STEPS.get(number, number.decode() if known else OTHERS)
    return "batch"


# SLURM_BATCH_SCRIPT and SLURM_INTERACTIVE_STEP, slurm.h; signed since 25.11.
_STEPS = {b"4294967291": "batch", b"4294967290": "interactive", b"-5": "batch", b"-6": "interactive"}
