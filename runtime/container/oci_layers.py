# SPDX-License-Identifier: BSD-3-Clause
"""Mount the layers of an OCI-SIF image, and merge them with the kernel's overlayfs.

    /.singularity.d ......... scripts made from the image's configuration, as `bollard build` would write them
    layer N                   each squashfs has a file server
    (whiteouts of layer N)    only where it has opaque directories
    ...
    layer 1
    mount points ............ dev, proc, tmp and others, for an image without them

A layer marks an opaque directory with the attribute trusted.overlay.opaque. The kernel shows the value of trusted.*
only to root of the host, so overlayfs in a user namespace does not see it. The name can be listed. A whiteout for the
same directory in a layer directly below has the same effect. This module is imported only for an OCI-SIF image.
"""

from __future__ import annotations

import json
import os
from stat import S_IFCHR

from bollard.runtime import causes
from bollard.runtime.container import fuse
from bollard.runtime.errors import BollardError
from bollard.runtime.image import layout, oci_config
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.image.image import Image
    from bollard.runtime.image.oci_sif import Contents, Layer

_OPAQUE = "trusted.overlay.opaque"
_HINT = "is it damaged? convert it to a SIF file of one layer"
_NO_TABLE = b"\xff" * 8
# A hostile squashfs can list one directory at any number of paths, and so hold the keeper, or fill its memory.
_DIRECTORIES_MAX = 1_000_000
_OPAQUE_MAX = 10_000
_XATTR_TABLE = 56  # offset in bytes of xattr_id_table_start in the superblock of squashfs 4.0


def mount(
    opened: Image, name: str, session: str, scratch: str, own: bool, deadlines: list[fuse.Deadline]
) -> tuple[str, int]:  # fmt: skip
    """Mount the merged layers. Returns the path of the root, and the process id of the lowest layer's file server.

    opened     the image
    name       the image, for messages
    session    path of the session tmpfs
    scratch    an empty directory of the keeper
    own        show every file as owned by the user
    deadlines  gets the deadline of each file server

    Raises:
        BollardError: a layer cannot be read, or the layers cannot be merged.
    """
    assert opened.oci
    place = f"{session}/oci"
    os.mkdir(place, 0o755)
    started = []
    for number, layer in enumerate(opened.oci.layers):
        os.mkdir(f"{place}/{number}", 0o755)
        pid, words = fuse.mount(opened.fd, layer.offset, f"{place}/{number}", scratch, own)
        deadlines.append(fuse.Deadline(pid, fuse.open_state(pid)))
        started.append((layer, pid, words))
    _write_scripts(f"{place}/scripts", opened.oci)
    _write_points(f"{place}/points")
    lower = ["points"]
    for number, (layer, pid, words) in enumerate(started):
        target = f"{place}/{number}"
        try:
            os.stat(target)  # waits for the first answer
            opaque = _opaque(opened.fd, layer, target, name) if number else []
        except OSError:
            raise fuse.failed(name, words, pid, opened.fd, layer.offset) from None
        os.close(words)
        if "" in opaque:
            lower = ["points"]  # its root hides everything below
        elif opaque:
            _hide(f"{place}/hidden{number}", opaque)
            lower.insert(0, f"hidden{number}")
        lower.insert(0, str(number))
    _merge(name, place, ["scripts", *lower])
    return f"{place}/merged", started[0][1]


def _opaque(fd: int, layer: Layer, top: str, name: str) -> list[str]:
    """Return the opaque directories of a layer, outermost first, as paths without a leading slash; "" is its root.

    fd     the image file
    layer  the layer
    top    where it is mounted
    name   the image, for messages

    Raises:
        BollardError: the layer has more directories, or more opaque ones, than an image can need.
    """
    if os.pread(fd, 8, layer.offset + _XATTR_TABLE) == _NO_TABLE:
        return []  # the squashfs has no extended attributes
    found: list[str] = []
    left = [""]
    listed = 1
    while left:
        path = left.pop()
        here = f"{top}/{path}"
        if _OPAQUE in os.listxattr(here, follow_symlinks=False):
            found.append(path)
            if len(found) > _OPAQUE_MAX:
                raise BollardError(f"{name}: a layer has over {_OPAQUE_MAX} opaque directories", _HINT)
            continue  # what is below it is hidden by the same whiteout
        with os.scandir(here) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        listed += len(names)
        if listed > _DIRECTORIES_MAX:
            raise BollardError(f"{name}: a layer has over {_DIRECTORIES_MAX} directories", _HINT)
        left += [f"{path}/{part}" if path else part for part in names]
    return found


def _hide(place: str, paths: list[str]) -> None:
    """Make a layer with a whiteout at each path."""
    os.mkdir(place, 0o755)
    for path in paths:
        target = f"{place}/{path}"
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.mknod(target, S_IFCHR, 0)  # since Linux 5.8 every user may make a whiteout


def _write_scripts(place: str, contents: Contents) -> None:
    """Write the layer of `.singularity.d`."""
    os.mkdir(place, 0o755)
    for path in layout.OWN_DIRECTORIES:
        os.makedirs(f"{place}/{path}", 0o755, exist_ok=True)
    made = {f".singularity.d/{path}": text for path, text in oci_config.scripts(contents.config).items()}
    for path, text in {**layout.OWN_SCRIPTS, **made}.items():
        _write(f"{place}/{path}", text, 0o755)
    _write(f"{place}/.singularity.d/labels.json", json.dumps(oci_config.labels(contents.config)), 0o644)
    for path, target in layout.OWN_LINKS.items():
        os.symlink(target, f"{place}/{path}")


def _write_points(place: str) -> None:
    """Write the layer of mount points."""
    os.mkdir(place, 0o755)
    for path, mode in layout.DIRECTORIES:
        os.mkdir(f"{place}/{path}", mode)
        os.chmod(f"{place}/{path}", mode)  # mkdir(2) applies the umask
    for path in layout.EMPTY_FILES:
        _write(f"{place}/{path}", "", 0o644)


def _write(path: str, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(fd, data) :]
    os.fchmod(fd, mode)
    os.close(fd)


def _merge(name: str, place: str, lower: list[str]) -> None:
    """Mount the layers, which are directories in `place` and are listed from the top, at `place`/merged."""
    os.mkdir(f"{place}/merged", 0o755)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # Short names: mount(2) takes one page of options.
    os.chdir(place)
    try:
        flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
        linux.mount("overlay", "merged", f"lowerdir={':'.join(lower)},userxattr", flags)
    except OSError as error:
        raise causes.of(error, f"{name}: its layers cannot be merged", place, "OCI-SIF needs Linux 5.11") from None
    finally:
        os.fchdir(here)
        os.close(here)
