# SPDX-License-Identifier: BSD-3-Clause
"""A container that is ready for tasks: its spec, image, mounts, environment and the processes that serve it."""

from __future__ import annotations

import os

from bollard.runtime.container import environment, record
from bollard.runtime.request.binds import bind_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.container import host_mpi, layers, mounts, renewal
    from bollard.runtime.container.clock import Clock
    from bollard.runtime.container.save import Saver
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.plan_records import Plan
    from bollard.runtime.request.site import Site
    from bollard.runtime.request.spec import Spec

SAID_MAX = 64
# The attributes that change after the container was made; all others are set once.
_LEARNED = ("by_slurm", "entrypoint", "environment", "told", "values", "warnings")


class Container:
    """A container that is ready for tasks. This process is inside it."""

    __slots__ = (
        "binds", "by_slurm", "clock", "command", "defaults", "entrypoint", "environment", "first_libraries", "image",
        "image_root", "instance", "layer", "locales", "namespace_fds", "node", "plan", "rc", "record", "report",
        "said", "saver", "scripts", "server", "server_state", "servers", "site", "spec", "steps", "told", "tools",
        "values", "variables", "warnings",
    )  # fmt: skip

    def __init__(
        self, *, node: str, spec: Spec, site: Site, image: Image, plan: Plan, report: mounts.Report, server: int,
        server_state: int, image_root: int, clock: Clock, saver: Saver | None, servers: layers.Servers | None,
        scripts: list[tuple[str, bytes]], rc: bytes, locales: frozenset[bytes] | None, command: bytes, instance: str,
        tools: bytes, namespace_fds: tuple[int, ...], layer: renewal.Layer,
        trusted: list[tuple[str, str]] | None = None, hosts_mpi: host_mpi.Fit | None = None,
    ) -> None:  # fmt: skip
        self.node = node  # name of the host
        self.spec = spec
        self.site = site
        self.image = image
        self.plan = plan
        self.report = report  # results of the plan's mounts
        self.server = server  # process id of the FUSE server, 0 for a directory
        self.server_state = server_state  # a descriptor of its /proc/PID/stat
        self.image_root = image_root  # a descriptor of the image's own root directory
        self.clock = clock
        self.saver = saver
        self.servers = servers  # the file servers of layers in files
        self.layer = layer  # in memory, for a container that is made anew
        self.values: list[tuple[str, str]] = []  # the values of the spec, for the same
        self.rc = rc  # /etc/rc of an image in enroot's layout, else b""
        self.scripts = scripts  # the image's environment scripts
        self.locales = locales  # the image's locales (locales.available)
        self.command = command  # the action, for APPTAINER_COMMAND
        self.instance = instance  # name of the instance, for messages; "" otherwise
        self.tools = tools  # path of the host's Slurm commands in the container
        # Of the host's MPI and the site: the directory that comes first in LD_LIBRARY_PATH; variables, used if no other
        # source sets them; variables that win over the image's, as those of CDI devices do.
        self.first_libraries = hosts_mpi.libraries if hosts_mpi else b""
        self.defaults = (hosts_mpi.defaults if hosts_mpi else ()) + site.environment
        self.variables = plan.variables + (hosts_mpi.variables if hosts_mpi else ())
        self.namespace_fds = namespace_fds  # descriptors of the namespaces to join, in that order
        self.binds = os.fsencode(bind_text(spec.binds))  # for APPTAINER_BIND
        self.record = record.Record(image, node, trusted=trusted, source=spec.source)
        self.steps: dict[bytes, Spec] = {}  # parsed specs of later steps, by their spec text
        self.environment: environment.ImageEnvironment | None = None  # what the scripts set, once that is known
        self.entrypoint: dict[bytes, bytes] | None = None  # what the entrypoint changed, once it has run
        self.said: set[str] = set()  # warnings about tasks that were shown
        no_driver = f"{node} has no driver for it; the container starts without"
        # Warnings that no task has shown yet.
        self.warnings = [f"{driver.because}: {no_driver}" for driver in plan.missing]
        self.warnings += [f"{node}: {warning}" for warning in (*plan.warnings, *report.warnings)]
        self.by_slurm = False  # made for a job step, not by the command `bollard`
        self.told = False  # --container-verbose has been answered

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _LEARNED and hasattr(self, name):
            raise AttributeError(f"{name} of a container is fixed")
        object.__setattr__(self, name, value)

    def warn_once(self, lines: list[str]) -> None:
        """Add the warnings that no task of this container has had: SAID_MAX at most, as tasks choose their words."""
        for line in lines:
            if line not in self.said and len(self.said) < SAID_MAX:
                self.said.add(line)
                self.warnings.append(line)

    def lines(self) -> list[str]:
        """Return the plan and the results of its mounts, one line each, for the user."""
        return self.plan.lines() + self.report.lines()

    def private(self, listener: int) -> tuple[int, ...]:
        """Return the descriptors that a child of the keeper must close."""
        saver = (self.saver.ask, self.saver.answer) if self.saver else ()
        journal = (self.record.journal.fileno(),) if self.record.journal else ()
        return (listener, self.image.fd, self.image_root, *self.namespace_fds, self.record.fd, *saver, *journal)

    def define_environment(
        self, shell: Callable[[bytes, list[bytes]], bytes | None], cwd: bytes = b"/"
    ) -> environment.ImageEnvironment:
        """Evaluate the image's scripts and keep the result. `shell` and `cwd` are those of environment.of_image.

        Raises:
            BollardError: a script ended the shell.
        """
        home, path = os.fsencode(self.spec.home or self.spec.user_home), os.fsencode(self.spec.image)
        app = os.fsencode(self.spec.app)
        self.environment = environment.of_image(self.scripts, home, path, shell, app, cwd, self.warnings)
        return self.environment
