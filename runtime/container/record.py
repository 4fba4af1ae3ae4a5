# SPDX-License-Identifier: BSD-3-Clause
"""What the keeper writes down of its container: which image, how many tasks entered, when.

    root     opens RECORDS/JOB.UID.HASH.TIME, a new file that is root's, and hands the keeper its descriptor
    keeper   writes one line into it, anew at each entry; nobody else has that descriptor

The line is a spec's text (`spec.text`): name=value parted by spaces. It only grows, so that what is written over
never leaves a rest behind, and what is there when the keeper is killed is true.
"""

from __future__ import annotations

import os
import time

from bollard import __version__
from bollard.runtime.request import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.image.image import Image

# spank_plugin/keeper.c makes it.
RECORDS = "/var/log/bollard"
# A job of many steps: the first so many are counted by name, the others together.
STEPS_MAX = 1000
OTHERS = "others"


def descriptor(site: str) -> int:
    """The number that root has told in the words of the site; -1 for none."""
    for word in site.split(" "):
        if word.startswith("record-fd=") and word[10:].isdigit():
            return int(word[10:])
    return -1


class Record:
    """The record of one container."""

    __slots__ = ("_known", "ended", "fd", "first", "last", "made", "steps")

    def __init__(self, image: Image, node: str, fd: int = -1) -> None:
        self.fd = fd
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
        if self.first:
            found += [("first", f"{self.first:.3f}"), ("last", f"{self.last:.3f}")]
        found.append(("tasks", str(sum(self.steps.values()))))
        if self.steps:
            found.append(("steps", ",".join(f"{step}:{count}" for step, count in self.steps.items())))
        if self.ended:
            found.append(("ended", f"{self.ended:.3f}"))
        return found

    def entered(self, step: str) -> None:
        """A task of that step has got the way in."""
        if step not in self.steps and len(self.steps) >= STEPS_MAX:
            step = OTHERS
        self.steps[step] = self.steps.get(step, 0) + 1
        self.last = time.time()
        self.first = self.first or self.last
        self.write()

    def end(self) -> None:
        """The container ends as it should."""
        self.ended = time.time()
        self.write()

    def write(self) -> None:
        if self.fd >= 0:
            try:
                os.pwrite(self.fd, spec.text(self.values()) + b"\n", 0)
            except OSError:
                pass  # a full disk of the node's takes no container away


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
