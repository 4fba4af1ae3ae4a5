# SPDX-License-Identifier: BSD-3-Clause
"""The last line of a build and of a pull: size and digest of what was made."""

from __future__ import annotations

import os

from bollard.runtime import progress
from bollard.runtime.image import image


def facts(path: str) -> str:
    """Return size and digest of an image file, "66.6 MB, sha256:2f0a8d77c0de"; the digest is that of its filesystem.

    Raises:
        BollardError: the image cannot be opened or is damaged.
    """
    opened = image.open_image(path, encrypted=True)
    try:
        digest = opened.digest()
    finally:
        opened.close()
    return f"{os.path.getsize(path) / 1e6:.1f} MB" + (f", sha256:{digest[:12]}" if digest else "")


def finished(target: str, shown: str) -> None:
    """Note that a build has ended, and print its result.

    target: the path of what was built, a SIF file or a sandbox.
    shown: the name of the image that is made for the cache, where `exec` or `pull` goes on with it; else "".

    Raises:
        BollardError: what was built cannot be read as an image.
    """
    if shown:
        progress.settle()
    else:
        progress.done(f"{target}: {'built' if os.path.isdir(target) else facts(target)}")
