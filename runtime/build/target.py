# SPDX-License-Identifier: BSD-3-Clause
"""Whether a build may write its target. This is decided before the work begins."""

from __future__ import annotations

import os

from bollard.runtime.build import dockerfile, recipes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif_write


def check(target: str, source: str, sandbox: bool, force: bool, update: bool) -> None:
    """Check that the target can be made, before the work for it begins.

    target: the path of the image or sandbox to make.
    source: what it is made from, as the user typed it.
    sandbox, force, update: whether these options are given.

    Raises:
        BollardError: the target exists and may not be replaced, or its directory cannot be written.
    """
    sif_write.check_place(target)
    if not sandbox and target.endswith("/"):
        raise BollardError(f"{target}: names a directory", "leave the / out, or add --sandbox")
    if update:
        if not os.path.isdir(f"{target}/.singularity.d"):
            raise BollardError(f"{target}: no sandbox to update", "build it with --sandbox first")
        return
    if not os.path.lexists(target):
        return
    if not force:
        raise sif_write.exists(target)
    if _is_recipe(target, source):
        raise BollardError(f"{target}: is what images are built from, and is not replaced", "write TARGET, then SOURCE")
    if sandbox and not os.path.isdir(f"{target}/.singularity.d"):
        raise BollardError(f"{target}: is no sandbox, and is not replaced by one", "remove it, or choose another name")
    if not sandbox and os.path.isdir(target):
        raise BollardError(f"{target}: is a directory", "remove it, choose another name, or add --sandbox")


def _is_recipe(target: str, source: str) -> bool:
    """Return whether a target is a text that is the source, or has a name of sources: the two words were exchanged."""
    if not os.path.isfile(target):
        return False
    try:
        with open(target, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False  # a file that cannot be read can be replaced: its directory decides that
    if not head or b"\0" in head:
        return False  # each image has a NUL byte there
    same = os.path.exists(source) and os.path.samefile(source, target)
    return same or target.endswith(".def") or dockerfile.is_one(target) or bool(recipes.kind(target))
