# SPDX-License-Identifier: BSD-3-Clause
"""Mount an encrypted image. What is decrypted is in the memory of file servers and of the kernel, never on a disk.

    image file ── squashfuse ──► SESSION/sealed: gocryptfs.conf, and one file      as in the image
                  gocryptfs  ──► SESSION/opened: the same file, decrypted          password by its standard input
                  squashfuse ──► the root filesystem

All three servers end with the keeper. The keeper imports this module only for an encrypted image.
"""

from __future__ import annotations

import os
from _signal import SIGKILL

from bollard.runtime import causes, installed
from bollard.runtime.container import fuse
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.image import encryption, image
from bollard.runtime.system import fuse_device, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.image.encryption import Key
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec

_WRONG = 12  # exit status of gocryptfs for a wrong password (its internal/exitcodes)
_REGULAR = 0o100000


def password(asked: Spec, opened: Image, key: Key) -> bytes:
    """Return the password of the image. Reads the files that the spec names, with the user's rights.

    asked: the spec.
    opened: the image.
    key: what the command `bollard` has read already; empty under Slurm.

    Raises:
        BollardError: no key, another one, a program is missing, or the container would write the image's content.
    """
    name = shown(asked.asked)
    if asked.save:
        raise BollardError(f"container-save: {name} is encrypted, and its copy would not be", "leave it out")
    for path in (installed.GOCRYPTFS, installed.OPENSSL):
        if not os.access(path, os.X_OK):
            program = path.rpartition("/")[2]
            release = " 2.0 or newer" if path == installed.GOCRYPTFS else ""
            raise BollardError(
                f"{name}: is encrypted, and {program}{release} is missing on {os.uname().nodename}",
                f"the site's administrator installs {program}, then bollard again",
            )
    if not key:
        key = encryption.Key(
            encryption.read_passphrase(asked.passphrase_file) if asked.passphrase_file else b"",
            encryption.read_pem(asked.pem_path) if asked.pem_path else b"",
        )
    return encryption.password(name, opened.wrapped_key(), key)


def mount(name: str, opened: Image, secret: bytes, target: str, session: str, own: bool) -> tuple[int, int]:
    """Mount an encrypted image. Returns process id and descriptor of the messages of the server of its root filesystem.

    name: the image as the user typed it.
    opened: the image.
    secret: what `password` has returned.
    target: directory to mount it on.
    session: the directory of the keeper; `sealed`, `opened` and `scratch` are made in it.
    own: as for `fuse.mount`.

    Raises:
        BollardError: the password is wrong, the image is damaged, or a server does not start.
    """
    sealed, plain, scratch = (f"{session}/{part}" for part in ("sealed", "opened", "scratch"))
    for path in (sealed, plain, scratch):
        os.mkdir(path, 0o700)
    server, words = fuse.mount(opened.fd, opened.offset, sealed, scratch, True)
    try:
        config = _content(f"{sealed}/{encryption.CONFIG}")
    except OSError:
        raise fuse.failed(name, words, server, opened.fd, opened.offset) from None
    os.close(words)
    encryption.check_config(name, config)
    _start(name, secret, sealed, plain)
    fd = _only_file(name, plain)
    try:
        image.check_superblock(name, fd, 0, os.fstat(fd).st_size)
        return fuse.mount(fd, 0, target, scratch, own)
    finally:
        os.close(fd)


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, encryption.CONFIG_MAX + 1)
    finally:
        os.close(fd)


def _start(name: str, secret: bytes, sealed: str, plain: str) -> None:
    """Start gocryptfs, and wait until it has the key."""
    device = fuse_device.mount("gocryptfs", plain, linux.MS_RDONLY)
    log = os.memfd_create("gocryptfs", os.MFD_CLOEXEC)
    reader, writer = os.pipe()
    os.write(writer, secret + b"\n")  # less than the 4096 bytes that a pipe takes without a reader
    os.close(writer)
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.dup2(reader, 0)
        command = [installed.GOCRYPTFS, "-fg", "-ro", "-q", "-nosyslog", sealed, f"/dev/fd/{device}"]
        fuse.serve(parent, command, (0, device), log, {"PATH": "/nonexistent"}, SIGKILL)
    os.close(reader)
    os.close(device)
    state = fuse.open_state(pid)
    deadline = fuse.Deadline(pid, state)
    try:
        os.close(os.open(plain, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))  # waits for its first answer
    except OSError as error:
        if not deadline.met():
            raise fuse.silent(name) from None
        status = fuse.exit_status(pid)
        if status == _WRONG:
            raise BollardError(f"{name}: the given key does not open it", "check the key, and its file") from None
        said = fuse.last_words(log)
        if status is None or not said:
            raise causes.of(error, f"{name}: gocryptfs does not answer", plain) from None
        raise BollardError(f"{name}: gocryptfs does not start: {shown(said)}", "copy or build it again") from None
    deadline.met()
    os.close(state)
    os.close(log)


def _only_file(name: str, plain: str) -> int:
    """Return a descriptor of the decrypted file. It must be the only one: its name is the maker's choice."""
    try:
        names = os.listdir(plain)
        if len(names) == 1:
            fd = os.open(f"{plain}/{names[0]}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if os.fstat(fd).st_mode & 0o170000 == _REGULAR:
                return fd
            os.close(fd)
    except OSError as error:
        raise causes.of(error, f"{name}: damaged: its encrypted file cannot be read", plain) from None
    raise BollardError(f"{name}: damaged: it holds {len(names)} encrypted objects, not one file", "build it again")
