# SPDX-License-Identifier: BSD-3-Clause
"""Write the encrypted partition of an image: gocryptfs encrypts what mksquashfs writes.

    tree ── mksquashfs ──► PLACE/opened, a mount of gocryptfs ──► PLACE/sealed ── mksquashfs ──► image file

No byte of the squashfs of the root filesystem is written to a disk before it is encrypted. The process must be root of
its user and mount namespace (`system.rootless`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import encryption
from bollard.runtime.system import fuse_device, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from bollard.runtime.image.encryption import Key

_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_TIMEOUT: Final = 60  # seconds for gocryptfs to make or read a key; it takes 0.2 s


def secret_of(key: Key) -> tuple[bytes, bytes]:
    """Return gocryptfs's password for a new image, and the message for the SIF file, b"" with a passphrase.

    As in Apptainer, an RSA key is used where both are given.

    Raises:
        BollardError: the RSA key cannot be used.
    """
    if not key.pem:
        return key.passphrase, b""
    secret = os.urandom(32).hex().encode()
    return secret, encryption.wrap(secret, key.pem)


def squash(secret: bytes, work: str, fd: int, offset: int, write: Callable[[str], None], target: str) -> None:
    """Write an encrypted squashfs into a file.

    secret: gocryptfs's password.
    work: a directory for the encrypted file; it takes as much space as the image.
    fd, offset: the file, and where the partition begins in it, in bytes.
    write: writes the squashfs of the root filesystem to the path that it gets.
    target: the name of the image, for messages.

    Raises:
        BollardError: gocryptfs is missing or fails, /dev/fuse cannot be used, or there is no space.
    """
    program = encryption.program("gocryptfs")
    with tempfile.TemporaryDirectory(prefix="bollard-sealed-", dir=work) as place:
        sealed, plain, name = f"{place}/sealed", f"{place}/opened", f"squashfs-{int.from_bytes(os.urandom(4), 'big')}"
        for part in (sealed, plain):
            os.mkdir(part, 0o700)
        done = subprocess.run(
            [program, "-init", "-q", "-plaintextnames", sealed],
            input=secret + b"\n", capture_output=True, env=_ENVIRONMENT, cwd="/", timeout=_TIMEOUT, check=False,
        )  # fmt: skip
        if done.returncode:
            raise _failed(done.returncode, done.stderr, target, sealed)
        with _mounted(program, secret, sealed, plain, target):
            write(f"{plain}/{name}")
        os.chmod(f"{sealed}/{encryption.CONFIG}", 0o444)
        argv = ["mksquashfs", f"{sealed}/{name}", f"{sealed}/{encryption.CONFIG}", f"/proc/self/fd/{fd}"]
        argv += ["-offset", str(offset), "-noappend", "-all-root", "-comp", "gzip", "-noI", "-noD", "-noF", "-noX"]
        done = subprocess.run(
            [*argv, "-no-progress", "-exit-on-error"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**_ENVIRONMENT, "LC_ALL": "C"}, pass_fds=(fd,), check=False,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace")
            raise causes.of_program("mksquashfs", done.returncode, said, f"{target}: cannot be written", target)


@contextlib.contextmanager
def _mounted(program: str, secret: bytes, sealed: str, plain: str, target: str) -> Iterator[None]:
    """Show the directory `sealed` decrypted at `plain`; what is written there is encrypted into `sealed`."""
    device = fuse_device.mount("gocryptfs", plain, 0)
    server = None
    try:
        server = subprocess.Popen(
            [program, "-fg", "-q", "-nosyslog", sealed, f"/dev/fd/{device}"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_ENVIRONMENT, cwd="/",
            pass_fds=(device,),
            # With a capability over mounts, gocryptfs 2.4 and later would mount by itself, on /dev/fd/N.
            preexec_fn=linux.be_no_root,
        )  # fmt: skip
        guard = threading.Timer(_TIMEOUT, server.kill)
        guard.start()
        os.close(device)
        device = -1
        assert server.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the look below says so
            server.stdin.write(secret + b"\n")
            server.stdin.close()
        server.stdin = None  # `communicate` would flush the closed file
        try:
            os.listdir(plain)  # waits for its first answer
        except OSError:
            _, said = server.communicate()
            raise _failed(server.returncode, said, target, sealed) from None
        finally:
            guard.cancel()
        yield
    finally:
        if device >= 0:
            os.close(device)
        linux.unmount(plain)
        if server is not None:
            server.kill()  # the kernel keeps nothing back: FUSE writes through to the server
            server.communicate()


def _failed(status: int, said: bytes, target: str, place: str) -> BollardError:
    text = said.decode("utf-8", "replace")
    return causes.of_program("gocryptfs", status, text, f"{target}: cannot be encrypted", place, "try again")
