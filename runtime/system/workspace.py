# SPDX-License-Identifier: BSD-3-Clause
"""The private directory of a build, with mode 0700: beside a sandbox, or in the directory for temporary files."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.system import rootless
from bollard.runtime.system.tree import remove_at

_FORMS = ("BOLLARD_TMPDIR", "APPTAINER_TMPDIR", "SINGULARITY_TMPDIR", "TMPDIR")


def parent(environ: Mapping[str, str], sandbox: str = "") -> str:
    """Return the directory in which to make the workspace.

    For the path `sandbox` that is its parent directory, so that the finished tree only has to be renamed. Else it is
    the first of BOLLARD_TMPDIR, APPTAINER_TMPDIR, SINGULARITY_TMPDIR and TMPDIR that is set in `environ`, or /tmp.

    Raises:
        BollardError: that is not a directory.
    """
    if sandbox:
        return os.path.dirname(os.path.abspath(sandbox))
    place = next((environ[form] for form in _FORMS if environ.get(form)), "/tmp")
    if not os.path.isdir(place):
        raise BollardError(f"{place}: is not a directory for temporary files", f"set {_FORMS[0]} to one with space")
    return os.path.abspath(place)


def make(place: str) -> str:
    """Make a workspace in the directory `place` and return its path.

    Raises:
        BollardError: `place` cannot be written.
    """
    try:
        made = tempfile.mkdtemp(prefix=".bollard-build-", dir=place)
    except OSError as error:
        causes.movable(place, _FORMS[0])
        cure = f"set {_FORMS[0]} to a directory that you can write to"
        raise causes.of(error, f"{place}: cannot be written", place, cure) from None
    causes.movable(made, _FORMS[0])
    return made


def remove(path: str, way: rootless.Way) -> None:
    """Remove a workspace, also its files of subordinate ids and its directories without permissions.

    `way` is how the build became root (rootless.choose): its ids can be needed to remove files. After another failure
    it raises nothing, but prints that the workspace is left: the first failure is the one to tell.

    Raises:
        BollardError: the machine refuses the namespaces in which foreign ids can be removed.
    """
    failed = sys.exc_info()[1]
    try:
        shutil.rmtree(path)
        return
    except (OSError, RecursionError):  # before Python 3.13 a tree may be too deep for it
        pass
    above, name = os.path.split(path)

    def work() -> None:
        place = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        remove_at(place, name)

    try:
        rootless.run(way, work)
    except (OSError, BollardError) as error:
        if failed is None:
            raise
        _tell_left(path, error)


def discard(path: str) -> None:
    """Remove a workspace in which all files are the user's own, with as few descriptors as one directory needs.

    Raises nothing, but prints that it is left: it is called after a failure, for example at the limit of open files.
    """
    try:
        for above, folders, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(os.path.join(above, name))
            for name in folders:
                inside = os.path.join(above, name)
                (os.unlink if os.path.islink(inside) else os.rmdir)(inside)
        os.rmdir(path)
    except OSError as error:
        _tell_left(path, error)


def _tell_left(path: str, error: Exception) -> None:
    sys.stderr.write(f"bollard: warning: {path} is left: {causes.one_line(error)}\n")
