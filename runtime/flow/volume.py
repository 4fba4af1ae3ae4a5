# SPDX-License-Identifier: BSD-3-Clause
"""The directories of a flow's volumes, on the site's places: `flow.scratch` and `flow.volumes` in bollard.yaml."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from bollard.runtime.errors import BollardError
from bollard.runtime.flow.flow import Volume
from bollard.runtime.system import private_directory, tree

_PLACES = "the site's places are in /etc/bollard/bollard.yaml, `flow.`"


def expanded(place: str) -> str:
    """Return a place of the site with %u replaced by the user's name."""
    return place.replace("%u", pwd.getpwuid(os.getuid()).pw_name)


def path(volume: Volume, folder: Path, scratch: str, volumes: str) -> str:
    """Return the directory of a volume.

    volume: the volume.
    folder: the flow's directory.
    scratch: the site's place for ephemeral volumes; "" for the flow's directory.
    volumes: the site's place for persistent volumes; "" for one in the home directory.
    """
    if volume.shelf:
        top = expanded(volumes) or os.path.join(os.path.expanduser("~"), ".local/share/bollard/volumes")
        return os.path.join(top, volume.shelf, volume.persistent)
    if scratch:
        return os.path.join(expanded(scratch), f"bollard-{folder.name}", volume.name)
    return str(folder / "volumes" / volume.name)


def make(place: str, folder: Path) -> None:
    """Make the directory of a volume if it is not there, and check that nobody else can change or exchange it.

    place: the directory. Its last two levels are bollard's: bollard-ID/NAME, CLASS/NAME or volumes/NAME.
    folder: the flow's directory.

    Raises:
        BollardError: it cannot be made, is somebody else's, or another user could put one in its place.
    """
    if set(place) & set(":,\n"):
        raise BollardError(f"{place}: a volume's directory cannot have a : or a , in its path", "choose another")
    top = os.path.dirname(os.path.dirname(place))
    homes = (str(folder), os.path.expanduser("~"))
    try:
        private_directory.make(top)
        wrong = private_directory.place_fault(top, strict=not any(f"{top}/".startswith(f"{one}/") for one in homes))
        if wrong:
            cure = f"chmod go-w it if it is yours; {_PLACES}"
            raise BollardError(f"{place}: another user could exchange it: {wrong}", cure)
        with _parent(place, create=True) as above:
            os.close(private_directory.enter(above, os.path.basename(place), place, create=True))
    except OSError as error:
        raise BollardError(f"{place}: {error.strerror}", _PLACES) from None


@contextlib.contextmanager
def _parent(place: str, *, create: bool = False) -> Iterator[int]:
    """Yield a descriptor of the directory that has the volume, which is this user's alone."""
    parent = os.path.dirname(place)
    top = os.open(os.path.dirname(parent), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = private_directory.enter(top, os.path.basename(parent), parent, create=create)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.close(top)


def remove(place: str) -> None:
    """Remove an ephemeral volume, also directories that a job made unwritable. Follow no symlink.

    Raises:
        BollardError: it, or the directory that has it, is not this user's alone.
        OSError: something in it cannot be removed.
    """
    name, parent = os.path.basename(place), os.path.dirname(place)
    with _parent(place) as above:
        # A job may have let others write into the volume itself; nobody else can enter the directory that has it.
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise BollardError(f"{place}: is not a directory of yours", "remove it by hand")
        tree.remove_at(above, name)
    if os.path.basename(parent).startswith("bollard-"):
        try:
            os.rmdir(parent)
        except OSError:
            return  # another volume of the flow is still there
