# SPDX-License-Identifier: BSD-3-Clause
"""Tar archives for tests, from bytes at hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def tarball(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A tar archive: executable files by their names and contents, and symbolic links by their names and targets."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return raw.getvalue()
