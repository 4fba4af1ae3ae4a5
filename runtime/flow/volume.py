# SPDX-License-Identifier: BSD-3-Clause
"""The directories of a flow's volumes, on the site's places: `flow.scratch` and `flow.volumes` in bollard.yaml."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from bollard.runtime.errors import BollardError
from bollard.runtime.flow.flow import Volume


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


def make(place: str) -> None:
    """Make the directory of a volume if it is not there.

    Raises:
        BollardError: it cannot be made, or is somebody else's.
    """
    if set(place) & set(":,\n"):
        raise BollardError(f"{place}: a volume's directory cannot have a : or a , in its path", "choose another")
    try:
        os.makedirs(place, 0o700, exist_ok=True)
    except OSError as error:
        raise BollardError(
            f"{place}: {error.strerror}", "the site's places are in /etc/bollard/bollard.yaml, `flow.`"
        ) from None
    if os.stat(place).st_uid != os.getuid():
        raise BollardError(f"{place}: belongs to somebody else", "give the volume another name")


def remove(place: str) -> None:
    """Remove an ephemeral volume, also directories that a job made unwritable.

    Raises:
        OSError: something in it cannot be removed.
    """
    for top, names, _ in os.walk(place):
        for name in ("", *names):
            inner = os.path.join(top, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(place)
    parent = os.path.dirname(place)
    if os.path.basename(parent).startswith("bollard-"):
        try:
            os.rmdir(parent)
        except OSError:
            return  # another volume of the flow is still there
