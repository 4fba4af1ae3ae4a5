# SPDX-License-Identifier: BSD-3-Clause
"""The host's FUSE servers, for an installation that pip has made: it has no copies of them.

Such an installation has one user, or users who all could replace nothing in it. The servers run as the user, with no
rights that the user lacks, so they may be programs that the user can read.
"""

from __future__ import annotations

import os
import shutil

from bollard.runtime import installed

_LIBFUSE_2 = b"libfuse.so.2"
_INSTALL = "root installs it: `apt-get install squashfuse`, `dnf install squashfuse` or `zypper install squashfuse`"


def use() -> None:
    """Make the paths in `installed` those of the host's programs. Call it before `container` rooms are imported."""
    server = shutil.which("squashfuse_ll") or shutil.which("squashfuse") or ""
    simple = shutil.which("squashfuse") or ""
    old = _has(server, _LIBFUSE_2)
    installed.SERVER, installed.SERVER_2 = ("", server) if old else (server, "")
    installed.SERVER_OWNER = simple if simple != server else ""
    known = server and (not installed.SERVER_OWNER or _has(server, b"uid=%d"))
    installed.SHOWS_OWNER = server if known else ""
    ext = shutil.which("fuse2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
    installed.EXT, installed.EXT_2 = ("fuse2fs", ext) if _has(ext, _LIBFUSE_2) else (ext or "/fuse2fs", "")
    installed.EXT_OFFSET_IN_NAME = "" if _has(ext, b"offset=") else ext
    installed.NO_SERVER = ("squashfuse is missing on this machine", _INSTALL)
    installed.GOCRYPTFS = shutil.which("gocryptfs") or "/gocryptfs"
    installed.OPENSSL = shutil.which("openssl") or "/openssl"
    installed.OVERLAY = shutil.which("fuse-overlayfs") or "/fuse-overlayfs"


def _has(program: str, text: bytes) -> bool:
    if not program:
        return False
    with open(program, "rb") as file:
        return text in file.read()
