# SPDX-License-Identifier: BSD-3-Clause
"""Run openssl. Keys and signatures reach it as files of memory: they are neither on a disk nor in its arguments."""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.system import linux

_TIMEOUT = 60  # seconds; it takes milliseconds
# Without the machine's configuration, which can load other modules into it.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}


def run(program: str, words: list[str], data: bytes = b"", **files: bytes) -> tuple[int, bytes, bytes]:
    """Run openssl; return its exit status, its standard output and its standard error.

    program: its path.
    words: its arguments; "{NAME}" stands for the path of a file of memory.
    data: its standard input.
    files: the contents of these files, by NAME.

    Raises:
        BollardError: it does not end.
    """
    import subprocess

    opened = {name: os.memfd_create(name, os.MFD_CLOEXEC) for name in files}
    try:
        for name, fd in opened.items():
            os.write(fd, files[name])
        paths = {name: f"/dev/fd/{fd}" for name, fd in opened.items()}
        done = subprocess.run(
            [program, *(word.format(**paths) for word in words)],
            input=data,
            capture_output=True,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=tuple(opened.values()),
            timeout=_TIMEOUT,
            check=False,
            # As uid 0 of a user namespace openssl would get this process's capabilities.
            preexec_fn=linux.be_no_root if os.getuid() == 0 else None,
        )
    except subprocess.TimeoutExpired:
        raise BollardError(f"openssl gave no answer in {_TIMEOUT} s", "try again") from None
    finally:
        for fd in opened.values():
            os.close(fd)
    return done.returncode, done.stdout, done.stderr
