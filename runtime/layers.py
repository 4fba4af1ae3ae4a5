# SPDX-License-Identifier: BSD-3-Clause
"""A root that can be written to: the image below, and above it a layer that takes what is written.

    --writable-tmpfs    a layer in memory, gone with the container
    --overlay DIR       DIR/upper, with DIR/work for the kernel's own use (Apptainer's layout); DIR:ro is read only

The kernel's overlay does it, with user.* attributes for its marks (Linux 5.11; on a tmpfs 6.6).
"""

from __future__ import annotations

import os

from bollard.runtime import linux
from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.spec import Spec


def is_writable(asked: Spec) -> bool:
    """Whether the container's root takes writes."""
    return asked.writable or asked.writable_tmpfs or any(not ro for _, ro in asked.overlays)


def directories(asked: Spec) -> list[tuple[int, bool]]:
    """(descriptor, read-only) of the user's own layers; to be opened without any capability."""
    found = []
    for path, read_only in asked.overlays:
        try:
            found.append((os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), read_only))
        except NotADirectoryError:
            raise BollardError(f"overlay {path}: not a directory", "make one: mkdir DIR, --overlay DIR") from None
        except OSError as error:
            raise BollardError(f"overlay {path}: {error.strerror}", "make it, and see that you may use it") from None
    if sum(not read_only for _, read_only in found) + asked.writable_tmpfs > 1:
        raise BollardError("more than one layer to write to", "keep one of the overlays, or --writable-tmpfs")
    return found


def mount(asked: Spec, base: str, session: str, opened: list[tuple[int, bool]]) -> str:
    """Mount the layers of `asked` above the image at `base`; the path of the result, `base` where there are none."""
    if not opened and not asked.writable_tmpfs:
        return base
    lower, upper, work = [base], "", ""
    for fd, read_only in opened:
        path = f"/proc/self/fd/{fd}"
        if read_only:
            lower.insert(0, f"{path}/upper" if os.path.isdir(f"{path}/upper") else path)
            continue
        upper, work = f"{path}/upper", f"{path}/work"
        _make(upper, asked)
        _make(work, asked)
    if asked.writable_tmpfs:
        room = f"{session}/written"
        os.mkdir(room, 0o755)
        linux.mount("tmpfs", room, "mode=0755", linux.MS_NOSUID | linux.MS_NODEV)
        upper, work = f"{room}/upper", f"{room}/work"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o755)
    merged = f"{session}/merged"
    os.mkdir(merged, 0o755)
    options = f"lowerdir={':'.join(lower)},userxattr" + (f",upperdir={upper},workdir={work}" if upper else "")
    try:
        linux.mount("overlay", merged, options, linux.MS_NOSUID | linux.MS_NODEV)
    except OSError as error:
        where = ", ".join(path for path, _ in asked.overlays) or "memory"
        raise BollardError(
            f"no layer to write to in {where}: {error.strerror}",
            "a network file system takes none; on Linux before 6.6 use --overlay with a directory of a local disk",
        ) from None
    for fd, _ in opened:
        os.close(fd)
    return merged


def _make(path: str, asked: Spec) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        named = next(name for name, read_only in asked.overlays if not read_only)
        raise BollardError(f"overlay {named}: {error.strerror}", "use a directory that you may write to") from None
