# SPDX-License-Identifier: BSD-3-Clause
"""`bollard build --on-slurm`: the same build, in a job of one task."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import NoReturn

from bollard.runtime.build import builder, target
from bollard.runtime.errors import BollardError
from bollard.runtime.local.submission import NODE_LOCAL

# Variables by which srun would start the build in a container.
_CONTAINER_FORMS = ("SRUN_CONTAINER", "BOLLARD_CONTAINER_IMAGE", "PYXIS_CONTAINER_IMAGE")

# srun passes its standard input on to the node.
_STDIN = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def start(wanted: builder.Request, given: list[tuple[str, str]], words: list[str]) -> NoReturn:
    """Become srun, which runs the build on a node. Mistakes are reported before that.

    wanted: the request for the builder.
    given: the options, name and value.
    words: TARGET and SOURCE.

    Raises:
        BollardError: srun or the command is missing, the target cannot be made, or the node does not see a path.
    """
    target.check(wanted.target, wanted.source, wanted.sandbox, wanted.force, wanted.update)
    for path in words:
        full = os.path.abspath(path)
        if any(full.startswith(place + "/") for place in NODE_LOCAL) and ("://" not in path):
            raise BollardError(f"{path}: is on this host alone, and the build runs on a node", "use a shared directory")
    if is_pipe(words[1]) and words[1] not in _STDIN:
        raise BollardError(f"{words[1]}: is a pipe on this host, and the build runs on a node", "use < and /dev/stdin")
    program = shutil.which("srun")
    if not program:
        raise BollardError("srun is not on this host", "leave --on-slurm out")
    try:
        options = [word for name, value in given if name == "on-slurm" for word in shlex.split(value)]
    except ValueError as error:
        raise BollardError(f"--on-slurm: {error}", "close the quotation mark") from None
    for form in _CONTAINER_FORMS:
        os.environ.pop(form, None)
    sys.stdout.flush()
    os.execv(program, ["srun", "--job-name=bollard-build", *options, "-N1", "-n1", *command(given, words)])


def is_pipe(path: str) -> bool:
    """Return whether there is something at `path` that is neither a file nor a directory; bash makes <(...) a pipe."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def command(given: list[tuple[str, str]], words: list[str]) -> list[str]:
    """Return the command that runs on the node: this one without --on-slurm."""
    found = shutil.which(sys.argv[0])
    own = [os.path.abspath(found)] if found else [sys.executable, os.path.abspath(sys.argv[0])]
    options = [f"--{name}={value}" for name, value in given if name != "on-slurm"]
    return [*own, "build", *options, "--", *words]
