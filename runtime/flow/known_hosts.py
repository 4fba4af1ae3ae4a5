# SPDX-License-Identifier: BSD-3-Clause
"""The host keys that an sftp server must have: those of the user and of the node, as for ssh."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from bollard.runtime.errors import BollardError

FILES = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@contextlib.contextmanager
def listed() -> Iterator[str]:
    """Yield the path of a file with the keys of all FILES. rclone takes one file, and ssh reads both.

    Raises:
        BollardError: there is no such file, or one cannot be read.
    """
    texts = []
    for name in FILES:
        path = os.path.expanduser(name)
        try:
            with open(path, "rb") as file:
                texts.append(file.read())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BollardError(f"{path}: {error.strerror}", "an sftp server is known by its key there") from None
    if not texts:
        raise BollardError(
            f"no sftp server can be known: neither {FILES[0]} nor {FILES[1]} exists on this node",
            "connect to the server once with ssh, and compare its key",
        )
    with tempfile.NamedTemporaryFile(prefix="bollard-known-hosts-") as made:
        made.write(b"\n".join(texts))
        made.flush()
        yield made.name
