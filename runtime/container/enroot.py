# SPDX-License-Identifier: BSD-3-Clause
"""Images as `enroot import` makes them: environment, working directory, entrypoint (enroot's doc/image-format.md).

    /etc/environment    NAME=VALUE lines, not quoted; ${NAME} stands for the host's value
    /etc/rc             a shell script: changes to the working directory and starts the entrypoint with its arguments
    /etc/fstab          mounts of directories of the host. It is not followed: an image does not decide what it sees of
                        the host. A line says so

This module runs on the node path: it imports nothing.
"""

from __future__ import annotations

RC = "/etc/rc"
ENVIRONMENT = "/etc/environment"
FSTAB = "/etc/fstab"
# How the source of a mount begins that enroot writes for a volume of the image: it mounts the directory on itself.
_OWN = b"${ENROOT_ROOTFS}"
# A line that enroot writes into each RC, and the beginning of the line that names the working directory.
_MARK = b"if [ -s /etc/rc.local ]; then"
_CD = b'cd "'


def is_layout(rc: bytes) -> bool:
    """Return whether enroot wrote this text of RC. Other systems have a file with that name too."""
    return _MARK in rc


def workdir(rc: bytes) -> bytes:
    """Return the working directory that the text of RC names; b"" for none."""
    for line in rc.split(b"\n"):
        if line.startswith(_CD):
            path = line[len(_CD) :].split(b'"')[0]
            return path if path.startswith(b"/") and path.strip(b"/") else b""
    return b""


def script(text: bytes) -> bytes:
    """Return an environment script that sets the variables in the text of ENVIRONMENT.

    NAME=${NAME} is left out: the task gets the host's variables anyway.
    """
    lines = []
    for line in text.split(b"\n"):
        name, equals, value = line.strip().partition(b"=")
        is_name = name.isascii() and name.replace(b"_", b"a").isalnum() and not name[:1].isdigit()
        if equals and is_name and value != b"${" + name + b"}":
            lines.append(b"export " + name + b"='" + value.replace(b"'", b"'\\''") + b"'")
    return b"\n".join(lines) + b"\n"


def mount_targets(text: bytes) -> list[str]:
    """Return the targets of the mounts in the text of FSTAB, without the volumes of the image itself."""
    found = []
    for line in text.split(b"\n"):
        words = line.split()
        if len(words) > 1 and not words[0].startswith((b"#", _OWN)):
            found.append(words[1].decode("utf-8", "replace"))
    return found
