# SPDX-License-Identifier: BSD-3-Clause
"""A container that is ready for tasks: its spec, image, mounts, environment and the processes that serve it."""

from __future__ import annotations

import os

from bollard.runtime.container import environment, record
from bollard.runtime.request.spec import bind_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.container import layers
    from bollard.runtime.container.clock import Clock
    from bollard.runtime.container.save import Saver
    from bollard.runtime.image.image import Image
    from bollard.runtime.request import plan, site
    from bollard.runtime.request.spec import Spec


class Container:
    """A container that is ready: this process stands in it."""

    __slots__ = (
        "binds",
        "clock",
        "command",
        "entrypoint",
        "environment",
        "image",
        "image_root",
        "instance",
        "ops",
        "record",
        "replaced",
        "saver",
        "scripts",
        "server",
        "server_state",
        "servers",
        "site",
        "spec",
        "steps",
        "told",
        "tools",
        "warnings",
        "ways_in",
    )

    def __init__(
        self,
        spec: Spec,
        opened: Image,
        ops: list[plan.Op],
        server: int,
        clock: Clock,
        here: site.Site,
        ways_in: tuple[int, ...],
    ) -> None:
        self.spec = spec
        self.site = here
        self.image = opened
        self.ops = ops
        self.server = server  # process id of the FUSE server, 0 for a directory
        self.server_state = -1  # a descriptor of its /proc/PID/stat
        self.image_root = -1  # a descriptor of the image's own root directory
        self.clock = clock
        self.scripts: list[tuple[str, bytes]] = []  # the image's own, for its environment
        self.environment: environment.ImageEnvironment | None = None  # what they set, once that is known
        self.entrypoint: dict[bytes, bytes] | None = None  # what the entrypoint changed, once it has run
        self.saver: Saver | None = None
        self.servers: layers.Servers | None = None  # of layers in files
        self.steps: dict[bytes, Spec] = {}  # spec text of a step that named this container: what it asked
        self.binds = os.fsencode(bind_text(spec.binds))
        self.command = b"exec"  # the action, for APPTAINER_COMMAND
        self.instance = ""  # its name, for an instance: who ends tells the tasks in other words
        self.record = record.Record(opened)
        self.replaced: set[bytes] = set()  # working directories that are not in it, and of which a task was told
        self.warnings: list[str] = []  # what was to be there and is not; until the first task has printed it
        self.told = False  # --container-verbose has been answered
        self.ways_in = ways_in  # descriptors of the namespaces to join, in that order
        self.tools = b""  # where the host's Slurm commands are, in the container

    def private(self, listener: int) -> tuple[int, ...]:
        """The descriptors that are the keeper's alone."""
        saver = (self.saver.ask, self.saver.answer) if self.saver else ()
        return (listener, self.image.fd, self.image_root, *self.ways_in, self.record.fd, *saver)

    def define_environment(
        self, shell: Callable[[bytes, list[bytes]], bytes | None], cwd: bytes = b"/"
    ) -> environment.ImageEnvironment:
        """Evaluate the image's scripts, with the help of `shell` where they need one (environment.of_image)."""
        home, path = os.fsencode(self.spec.home), os.fsencode(self.spec.image)
        self.environment = environment.of_image(self.scripts, home, path, shell, os.fsencode(self.spec.app), cwd)
        return self.environment
