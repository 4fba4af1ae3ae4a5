# SPDX-License-Identifier: BSD-3-Clause
"""Unpack one layer of an image, or another tar archive, into a tree. Every path is resolved beneath the tree's root.

A whiteout removes files of lower layers, never of its own layer, at any position in the archive (image-spec, layer.md):

    d/.wh.name        removes d/name of lower layers
    d/.wh..wh..opq    removes everything in d of lower layers

The files that a layer has written are recorded as inode of the directory and name. So a path through a link is
recognized.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import decompression
from bollard.runtime.fetch.decompression import Stream
from bollard.runtime.installed import PREFIX
from bollard.runtime.request import site
from bollard.runtime.system import linux
from bollard.runtime.system.tree import Tree, remove_at

_MAX_DEPTH = 256  # parts of a path in a layer
_NAMES_MAX = 1 << 20  # bytes of a header for long names and attributes, which tarfile reads into memory
_OF_NAMES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_WHITEOUT, _META, _OPAQUE = ".wh.", ".wh..wh.", ".wh..wh..opq"


def apply(file: IO[bytes], tree: Tree, what: str, digest: str = "", *, layer: bool = True) -> None:
    """Unpack one tar archive (plain, gzip, zstd, xz or bzip2) into the tree.

    file: the archive, read once from its current position.
    tree: the tree to unpack into.
    what: the name of the archive for messages.
    digest: "sha256:HEX" of the archive as it is stored; "" if unknown.
    layer: the archive is a layer, and its whiteouts remove files.

    Raises:
        BollardError: the archive is damaged, too large for this site, or does not match its digest, or a write fails.
    """
    checked = decompression.Hashed(file)
    try:
        with decompression.opened(checked, what) as stream:
            archive = tarfile.open(None, "r:", cast("IO[bytes]", stream), tarinfo=_Member)
            _apply_members(archive, stream, tree, layer, _Budget(site.load(PREFIX).layer_max, what))
    except decompression.DAMAGED as error:
        raise BollardError(f"{what}: damaged: {error}", "fetch or build it again") from None
    except OSError as error:  # a link to nothing, a name too long, a full disk
        raise causes.of(error, f"{what}: cannot be unpacked", tree.path, "is the image whole?") from None
    while checked.read(1 << 20):
        pass  # the digest covers all bytes, also those after the end of the archive
    if digest and checked.hash.hexdigest() != digest.partition(":")[2]:
        raise BollardError(f"{what}: does not match its digest {digest}", "fetch it again")


class _Member(tarfile.TarInfo):
    """A member of an archive; a header for long names or attributes has at most _NAMES_MAX bytes.

    A header that is cut or damaged is an error: tarfile takes it for the end of the archive.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not bytes(buf).strip(b"\0") and len(buf) in (0, tarfile.BLOCKSIZE):
                raise  # the end of the archive: a block of zeros, or nothing
            raise ValueError(f"it ends within a member, or a header is no header ({error})") from None
        if found.type in _OF_NAMES and found.size > _NAMES_MAX:
            raise ValueError(f"a header of {found.size} bytes, over {_NAMES_MAX}")
        return found


class _Budget:
    """The number of bytes that an archive may still unpack to; the site's `layer-max` limits it."""

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.what = what
        self.left = most

    def take(self, member: tarfile.TarInfo) -> None:
        """Subtract the size of a member and its header.

        Raises:
            BollardError: the limit is exceeded.
        """
        self.left -= tarfile.BLOCKSIZE + (member.size if member.isreg() else 0)
        if self.most and self.left < 0:
            raise BollardError(
                f"{self.what}: unpacks to more than {self.most} bytes, this site's layer-max",
                "build it from less, or ask the site's administrator",
            )


def _apply_members(archive: tarfile.TarFile, stream: Stream, tree: Tree, layer: bool, budget: _Budget) -> None:
    directories: dict[str, tarfile.TarInfo] = {}
    written: set[tuple[int, str]] = set()
    for member in archive:
        budget.take(member)
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ValueError(f"{member.name!r} has a .. in it")
        if len(parts) > _MAX_DEPTH:
            raise ValueError(f"a path of {len(parts)} parts, over {_MAX_DEPTH}")
        path = "/".join(parts)
        if layer and any(part.startswith(_META) and part != _OPAQUE for part in parts):
            continue  # metadata of aufs
        if layer and parts and parts[-1].startswith(_WHITEOUT):
            _whiteout(tree, parts, written)
        elif not parts:
            with tree.opened("/", os.O_RDONLY | os.O_DIRECTORY) as fd:
                os.fchmod(fd, member.mode & 0o7777 | 0o700)
        else:
            directories.pop(path, None)  # the last of several members with the same name counts
            _apply_member(archive, stream, member, tree, path, written)
            if member.isdir():
                directories[path] = member
    # Times and modes of directories are set last, the deepest first: writing a file changes the time of its directory
    # and needs write permission.
    for path, member in sorted(directories.items(), key=lambda item: -item[0].count("/")):
        try:
            with tree.opened(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as fd:
                os.fchmod(fd, member.mode & 0o7777)
                os.utime(fd, (member.mtime, member.mtime))
        except OSError as error:
            if not linux.is_missing(error):  # missing: a later member has replaced the directory
                raise


def _whiteout(tree: Tree, parts: list[str], written: set[tuple[int, str]]) -> None:
    """Remove the files that the whiteout `parts` names, except those that this layer has `written`."""
    name = parts[-1][len(_WHITEOUT) :]
    if name in ("", ".", ".."):
        raise ValueError(f"{'/'.join(parts)!r} is a whiteout of no name")
    try:
        with tree.opened("/".join(parts[:-1]), os.O_RDONLY | os.O_DIRECTORY) as above:
            for entry in os.listdir(above) if parts[-1] == _OPAQUE else (name,):
                remove_at(above, entry, written)
    except OSError as error:
        if not linux.is_missing(error):  # missing: lower layers have nothing there
            raise


def _apply_member(
    archive: tarfile.TarFile,
    stream: Stream,
    member: tarfile.TarInfo,
    tree: Tree,
    path: str,
    written: set[tuple[int, str]],
) -> None:
    with tree.parent(path) as (above, name):
        written.add((os.fstat(above).st_ino, name))
        if member.islnk():
            _link(member, tree, above, name)
            return
        if not member.isdir() or not _is_directory(above, name):
            remove_at(above, name)
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=above)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=above)
        elif member.isreg():
            _write_file(archive, stream, member, above, name)
        else:
            return  # a device: not made, because a container gets /dev from the host
        _own(member, above, name)


def _link(member: tarfile.TarInfo, tree: Tree, above: int, name: str) -> None:
    """Make a hard link. tar writes a link to itself for a file that is named twice; this link exists already."""
    with tree.parent(member.linkname) as (place, source):
        if source == name and os.path.sameopenfile(place, above):
            os.stat(name, dir_fd=above, follow_symlinks=False)
            return
        remove_at(above, name)
        os.link(source, name, src_dir_fd=place, dst_dir_fd=above, follow_symlinks=False)


def _write_file(archive: tarfile.TarFile, stream: Stream, member: tarfile.TarInfo, above: int, name: str) -> None:
    room = os.fstatvfs(above)
    if member.size > room.f_bavail * room.f_frsize:
        place = os.readlink(f"/proc/self/fd/{above}")
        where, left = causes.mount_point(place), room.f_bavail * room.f_frsize
        raise BollardError(
            f"{member.name} has {member.size} bytes, and there is room for {left} on {where}", causes.room_hint(place)
        )
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=above)
    with open(fd, "wb", buffering=0) as file:
        for block in _content(archive, stream, member):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
        if file.tell() != member.size:
            raise EOFError(f"{member.name} ends early")
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr."):
                with _unless_refused():
                    os.setxattr(fd, key[13:], value.encode("utf-8", "surrogateescape"))


def _content(archive: tarfile.TarFile, stream: Stream, member: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield the content of a file, from the stream where tarfile has left it: its own way copies each block twice."""
    if member.issparse():
        data = archive.extractfile(member)
        assert data is not None
        while block := data.read(1 << 20):
            yield block
        return
    left = member.size
    while left and (block := stream.part(left)):
        left -= len(block)
        yield block


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    """Pass over an attribute or an owner that this filesystem or namespace cannot have. A full disk is an error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _own(member: tarfile.TarInfo, above: int, name: str) -> None:
    """Set owner, mode and time. An owner that this user namespace does not map is not set: the file stays root's."""
    with _unless_refused():
        os.chown(name, member.uid, member.gid, dir_fd=above, follow_symlinks=False)
    if member.isdir():
        return
    if not member.issym():
        os.chmod(name, member.mode & 0o7777, dir_fd=above)
    os.utime(name, (member.mtime, member.mtime), dir_fd=above, follow_symlinks=False)


def _is_directory(above: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
