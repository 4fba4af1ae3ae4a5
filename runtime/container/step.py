# SPDX-License-Identifier: BSD-3-Clause
"""The keeper of a job step: from the text of the spec to the end of the container."""

from __future__ import annotations

import os

from bollard.runtime import constants
from bollard.runtime.container import admission, idle, journal, keeper, memory_limit, record, renewal
from bollard.runtime.container.clock import Clock
from bollard.runtime.errors import BollardError
from bollard.runtime.installed import PREFIX
from bollard.runtime.request import site, spec, spec_text
from bollard.runtime.system import identity, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.container.container import Container


def _witness(words: str) -> int:
    """Return the descriptor of the connection to the witness, which is in the plugin's arguments; -1 for none."""
    mark = constants.WITNESS_FD_WORD
    numbers = [word[len(mark) :] for word in words.split(" ") if word.startswith(mark)]
    return int(numbers[-1]) if numbers else -1


def main(
    text: bytes, arguments: bytes, program: bytes, listener: int, job: int, times: tuple[int, int], before: int = -1
) -> None:  # fmt: skip
    """Run the keeper of a job step. Returns when the container has ended. The caller sends an exception to every task.

    text       the spec, as the client sent it (spec_text)
    arguments  the plugin's arguments in plugstack.conf
    program    the program that the first task will most likely start
    listener   descriptor of the listening socket
    job        descriptor of the job socket, or -1
    times      when the shim forked, and when the child had given up root (ns of CLOCK_MONOTONIC)
    before     connection to the keeper of the container that this one follows, or -1

    Raises:
        BollardError: the spec is not valid, or the container cannot be made.
    """
    clock = Clock(times[0])
    clock.mark("fork", times[1])
    clock.mark("python")
    header, values = spec_text.read(text)
    # A client inside a container sends the variables as they are, not resolved to options.
    if any(name.isupper() or name in ("opts", "env-file") for name, _ in values):
        from bollard.runtime.request import forms

        values = forms.resolve_for_job(values)
    here = site.load(PREFIX)
    holder = admission.USER_IS_ROOT if identity.is_host_root() else admission.ROOT  # before /proc is the container's
    old, kept = renewal.take_over(before) if before >= 0 else ([], renewal.Layer())
    try:
        container = _of_step(header, values, old, kept, here, clock, arguments, program, listener)
    except Exception as error:
        if before < 0:
            raise
        linux.drop_capabilities()
        renewal.keep(listener, job, old, kept, error, holder == admission.USER_IS_ROOT)
        return
    keeper.serve(container, listener, job, holder)


def _of_step(
    header: spec_text.Header, values: list[tuple[str, str]], old: list[tuple[str, str]], kept: renewal.Layer,
    here: site.Site, clock: Clock, arguments: bytes, program: bytes, listener: int,
) -> Container:  # fmt: skip
    """Make the container of a job step.

    The parameters are those of `main`; old and kept are of the container that this one follows.
    """
    spec_text.refuse_other(header, spec.make(values))
    values = site.completed(renewal.merged(old, values), here)
    asked = spec.make(values)
    if asked.fakeroot and not header.root:  # privilege.c makes the user namespace, and it reads only the header
        raise BollardError("inside a container, --container-opts cannot ask for root", "use --container-remap-root")
    words = os.fsdecode(arguments)
    spool = site.spool_directory(words, os.uname().nodename.split(".")[0], here)
    idle.end_oldest(listener, here.idle)
    memory_limit.watch()
    log = journal.connect(idle.job_of(listener)) if here.journal else None
    node = os.uname().nodename  # before --hostname changes it
    try:
        container = keeper.enter(asked, clock, here, spool, os.fsdecode(program), connection=_witness(words), kept=kept)
    except Exception as error:
        cause = record.cause(error, clock.phases)
        record.write_failed(words, asked.image, node, cause, getattr(error, "trusted", []))
        if log:
            log.say("failed", [("cause", cause), ("image", asked.image)])
        raise
    container.values = values
    container.by_slurm = True
    container.record.fd, container.record.container = record.descriptor(words)
    container.record.journal = log
    return container
