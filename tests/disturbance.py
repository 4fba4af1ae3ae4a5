# SPDX-License-Identifier: BSD-3-Clause
"""Renames without a pause, beside which openat2(2) answers EAGAIN to look-ups with a ".." in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

_PROGRAM = """
import os, sys
one, other = "one", "other"
open(one, "w").close()
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1000):
        os.rename(one, other)
        os.rename(other, one)
"""


@contextlib.contextmanager
def renames() -> Iterator[None]:
    """A process that renames a file over and over, on a file system in memory, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="bollard-test-renames-", dir="/dev/shm") as place:
        argv = [sys.executable, "-c", _PROGRAM, str(os.getpid())]
        with subprocess.Popen(argv, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it has begun
                yield
            finally:
                process.kill()
