# SPDX-License-Identifier: BSD-3-Clause
"""Read and change the file tree of an image that is being built.

Every path is resolved beneath the tree's root (openat2(2)). So no symlink of an image can lead a write, a copy or a
removal to files of the machine that builds it.

Every function raises OSError, as `open` does, if the kernel refuses to read or change the tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator

from bollard.runtime.errors import BollardError
from bollard.runtime.system import linux, wildcards

MAX_TEXT = 1 << 20
_MAX_MATCHES = 100_000
_MAX_LINKS = 40
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
DIRECTORY = stat.S_IFDIR  # what Tree.kind returns for a directory


_Above = tuple[tuple[int, int], ...]  # st_dev and st_ino of the directories around an entry, the outermost first


class CopyError(Exception):
    """A file that cannot be copied: `path` below the named file or directory ("" for itself), the reason, the cure."""

    def __init__(self, path: str, reason: str, hint: str = "check the path, and that you may read it") -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = hint


class Tree:
    """The tree below the directory `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, _DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor of the root. The tree cannot be used any more."""
        os.close(self.fd)

    @contextlib.contextmanager
    def opened(self, path: str, flags: int = os.O_PATH) -> Iterator[int]:
        """Yield a descriptor of `path`. Symlinks are followed inside the tree."""
        fd = linux.open_in_root(self.fd, path or "/", flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory that holds `path`, and the last component. Makes a missing directory.

        Raises:
            BollardError: `path` has no last component that can be an entry.
        """
        head, _, name = path.strip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise BollardError(f"{path}: names no entry of the image", "name a file or directory below its root")
        fd = self._directory(head)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def makedirs(self, path: str, mode: int = 0o755) -> None:
        """Make the directory `path` and its missing parents. `mode` is for `path`; parents get 0755.

        Raises:
            BollardError: a component of `path` cannot be a directory.
        """
        os.close(self._directory(path, mode))

    def _directory(self, path: str, mode: int = 0o755, links: int = _MAX_LINKS) -> int:
        """Return a descriptor of the directory `path`. Makes it if it is missing, also where a dangling link leads."""
        try:
            return linux.open_in_root(self.fd, "/" + path, _DIRECTORY)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise self._no_directory(path) from None
        head, _, name = path.strip("/").rpartition("/")
        if name == "..":
            raise BollardError(f"{path}: does not exist in the image", "name it without ..")
        above = self._directory(head, links=links)
        try:
            os.mkdir(name, mode, dir_fd=above)
            os.chmod(name, mode, dir_fd=above)  # mkdir applies the umask
        except FileExistsError:
            if not links or not stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                raise self._no_directory(path) from None
            return self._directory(self.behind(path).lstrip("/"), mode, links - 1)
        finally:
            os.close(above)
        return linux.open_in_root(self.fd, "/" + path, _DIRECTORY)

    def _no_directory(self, path: str) -> BollardError:
        """Return the error for the part of `path` that is no directory."""
        above = path.strip("/")
        while "/" in above and self.kind(above) == 0:
            above = above.rpartition("/")[0]
        return BollardError(f"/{above} in the image is no directory", "name another place")

    def exists(self, path: str) -> bool:
        """Return whether `path` exists. Follows symlinks."""
        return self.kind(path) != 0

    def kind(self, path: str) -> int:
        """Return the file type of `path` (S_IFREG, S_IFDIR, ...), symlinks followed; 0 if it does not exist."""
        try:
            with self.opened(path) as fd:
                return stat.S_IFMT(os.fstat(fd).st_mode)
        except OSError as error:
            if not linux.is_missing(error):
                raise
            return 0

    def is_link(self, path: str) -> bool:
        """Return whether `path` is a symlink."""
        try:
            with self.opened(path, os.O_PATH | os.O_NOFOLLOW) as fd:
                return stat.S_ISLNK(os.fstat(fd).st_mode)
        except OSError as error:
            if not linux.is_missing(error):
                raise
            return False

    def read(self, path: str) -> bytes | None:
        """Return the content of a regular file; None if `path` is missing or another kind of file.

        Raises:
            BollardError: the file has more than MAX_TEXT bytes.
        """
        try:
            with self.opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as fd:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                with open(fd, "rb", closefd=False) as file:
                    data = file.read(MAX_TEXT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > MAX_TEXT:
            raise BollardError(f"{path} of the image: more than {MAX_TEXT} bytes", "such a text does not belong there")
        return data

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write `data` to a new regular file at `path`. Replaces a file or a symlink there.

        path  where to write, beneath the root
        data  the content
        mode  its mode, whatever the umask

        Raises:
            BollardError: `path` has no last component that can be an entry.
        """
        with self.parent(path) as (above, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=above)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=above)
            with open(fd, "wb") as file:
                file.write(data)
                os.fchmod(fd, mode)

    def link(self, path: str, target: str) -> None:
        """Make `path` a symlink to `target`. Replaces a symlink; leaves a file or directory as it is.

        Raises:
            BollardError: `path` has no last component that can be an entry.
        """
        with self.parent(path) as (above, name):
            try:
                if not stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                    return
                os.unlink(name, dir_fd=above)
            except FileNotFoundError:
                pass
            os.symlink(target, name, dir_fd=above)

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory, if it exists.

        Raises:
            BollardError: `path` has no last component that can be an entry.
        """
        with self.parent(path) as (above, name):
            remove_at(above, name)

    def names(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`; [] if it does not exist."""
        try:
            with self.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                return sorted(os.listdir(fd))
        except OSError as error:
            if not linux.is_missing(error):
                raise
            return []

    def glob(self, pattern: str) -> list[str]:
        """Return the paths in the tree that match `pattern` (wildcards.py); the pattern's text if it has no match.

        Raises:
            BollardError: more than _MAX_MATCHES paths match.
        """
        found: list[str] = []
        for one in wildcards.braces(pattern):
            places = ["/"]
            for part in [part for part in one.split("/") if part]:
                if wildcards.is_pattern(part):
                    places = [
                        f"{place.rstrip('/')}/{name}"
                        for place in places
                        for name in self.names(place)
                        if wildcards.matches(name, part)
                    ]
                else:
                    places = [f"{place.rstrip('/')}/{wildcards.unescaped(part)}" for place in places]
                if len(places) > _MAX_MATCHES:
                    raise BollardError(f"{pattern}: over {_MAX_MATCHES} matches", "name their directory instead")
            found += places or [wildcards.unescaped(one)]
        return found

    def behind(self, path: str) -> str:
        """Return where the symlink at `path` leads in the tree, which need not exist; `path` if it is no symlink."""
        for _ in range(_MAX_LINKS):
            head, _, name = path.strip("/").rpartition("/")
            try:
                with self.opened(head, _DIRECTORY) as above:
                    link = os.readlink(name, dir_fd=above)
                    place = os.readlink(f"/proc/self/fd/{above}")[len(os.path.realpath(self.path)) :]
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):  # EINVAL: no symlink
                    raise
                return path
            path = os.path.normpath(os.path.join("/", place, link))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def copy_in(self, source: int, name: str, target: str, *, follow: bool) -> None:
        """Copy a file to `target`, or a directory into the directory `target`, which is made if it is missing.

        source  descriptor of the directory that holds it
        name    its name there
        target  path in the tree; where that is a symlink, the file that it leads to is written
        follow  True: as `cp -rL`. Copy the files that symlinks lead to, and apply the umask to modes. A file that is
                there keeps its mode and its other names. A symlink inside `name` that is dangling, or leads to a
                directory around it, stays a symlink. False: keep symlinks, modes, times and owners, and replace files.

        Raises:
            CopyError: it names the path below `name` that cannot be copied.
        """
        try:
            target = self.behind(target.rstrip("/"))
        except OSError as error:
            raise CopyError("", f"{target} in the image: {error.strerror}", "name another place") from None
        self._copy(source, name, target, follow, "", ())

    def _copy(self, source: int, name: str, target: str, follow: bool, path: str, above: _Above) -> None:
        """Copy one entry. `path` is its path below the named directory, `above` are the directories around it."""
        try:
            self._copy_entry(source, name, target, follow, path, above)
        except OSError as error:
            raise CopyError(path, error.strerror or str(error)) from None
        except RecursionError:
            raise CopyError("", "its directories are nested too deep") from None

    def _copy_entry(self, source: int, name: str, target: str, follow: bool, path: str, above: _Above) -> None:
        info = _info(source, name, follow, path, above)
        target = self.behind(target) if follow else target
        there = self.kind(target)
        if there == stat.S_IFDIR and not stat.S_ISDIR(info.st_mode):
            raise CopyError(path, f"{target} in the image is a directory", "name another place")
        if there not in (0, stat.S_IFDIR) and stat.S_ISDIR(info.st_mode):
            raise CopyError(path, f"is a directory, but {target} in the image is not", "name another place")
        if stat.S_ISDIR(info.st_mode):
            self._copy_directory(source, name, target, follow, info, path, above)
        elif stat.S_ISREG(info.st_mode):
            self._copy_file(source, name, target, follow, info)
        else:
            with self.parent(target) as (place, last):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(last, dir_fd=place)
                if stat.S_ISLNK(info.st_mode):
                    os.symlink(os.readlink(name, dir_fd=source), last, dir_fd=place)
                elif stat.S_ISFIFO(info.st_mode):
                    os.mkfifo(last, stat.S_IMODE(info.st_mode), dir_fd=place)
                else:
                    return  # a socket: useless without its listener; or a device: containers get the host's /dev
                if not follow:
                    os.chown(last, info.st_uid, info.st_gid, dir_fd=place, follow_symlinks=False)

    def _copy_directory(
        self, source: int, name: str, target: str, follow: bool, info: os.stat_result, path: str, above: _Above
    ) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        inside = os.open(name, flags, dir_fd=source)
        try:
            names = sorted(os.listdir(inside))
            made = self.kind(target) != stat.S_IFDIR
            if made and self.is_link(target):
                raise BollardError(f"{target}: is a link to nothing in the image", "name another place")
            self.makedirs(target)
            for entry in names:
                inner = (*above, (info.st_dev, info.st_ino))
                self._copy(inside, entry, f"{target.rstrip('/')}/{entry}", follow, f"{path}/{entry}", inner)
        finally:
            os.close(inside)
        if made:
            with self.opened(target, os.O_RDONLY | os.O_DIRECTORY) as fd:
                self._dress(fd, info, follow)

    def _copy_file(self, source: int, name: str, target: str, follow: bool, info: os.stat_result) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
        with open(os.open(name, flags, dir_fd=source), "rb") as data, self.parent(target) as (above, last):
            fd = self._existing(above, last) if follow else -1
            if fd >= 0:
                with open(fd, "wb") as file:
                    _copy_data(data.fileno(), file.fileno())
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=above)
            fd = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=above)
            with open(fd, "wb") as file:
                _copy_data(data.fileno(), fd)
                self._dress(fd, info, follow)

    @staticmethod
    def _existing(above: int, name: str) -> int:
        """Return a descriptor of the regular file that is to be overwritten, now empty; -1 if there is none."""
        try:
            if not stat.S_ISREG(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                return -1
            return os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except (FileNotFoundError, PermissionError):  # `cp -f` replaces a file that it cannot write
            return -1

    @staticmethod
    def _dress(fd: int, info: os.stat_result, follow: bool) -> None:
        """Set owner, mode and times of a new file or directory as in its source; with `follow` as cp -r does."""
        if follow:
            os.fchmod(fd, info.st_mode & 0o777 & ~umask())
            return
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def _info(source: int, name: str, follow: bool, path: str, above: _Above) -> os.stat_result:
    """Return the stat result of the file to copy: a symlink's target, or the symlink if that cannot be copied."""
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    if not follow or not stat.S_ISLNK(info.st_mode):
        return info
    try:
        found = os.stat(name, dir_fd=source)
    except OSError as error:
        if path and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return info
        raise
    return info if (found.st_dev, found.st_ino) in above else found


def _copy_data(source: int, target: int) -> None:
    """Copy the content of a file to an empty one. Holes stay holes."""
    size, at = os.fstat(source).st_size, 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data up to the end
                break
            end = size  # a filesystem without holes
        os.lseek(source, at, os.SEEK_SET)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (block := os.read(source, min(1 << 20, end - at))):
            at += len(block)
            while block:
                block = block[os.write(target, block) :]
        if at < end:  # the file became shorter
            size = at
    os.ftruncate(target, size)
    # What a file of /proc holds, its size does not say; and a file can grow.
    os.lseek(source, size, os.SEEK_SET)
    os.lseek(target, size, os.SEEK_SET)
    with open(source, "rb", closefd=False) as rest, open(target, "wb", closefd=False) as file:
        shutil.copyfileobj(rest, file, 1 << 20)


def umask() -> int:
    """Return the umask of this process."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def remove_at(above: int, name: str, kept: Collection[tuple[int, str]] = ()) -> None:
    """Remove an entry of a directory with everything below it, whatever the modes are. Follows no symlink.

    above  descriptor of the directory
    name   the entry
    kept   entries to keep, as (inode of their directory, name); directories around them stay too, with mode 0755
    """
    keep = (os.fstat(above).st_ino, name) in kept
    if _stays(above, name) if keep else _unlink(above, name):
        return
    _empty(above, name, kept)
    if not keep:
        _rmdir(above, name, kept)


def _empty(above: int, name: str, kept: Collection[tuple[int, str]]) -> None:
    """Remove the content of a directory.

    It uses one descriptor and no recursion, because a layer of an image can be nested deeper than the limits of
    both.
    """
    fd = _enter(above, name)
    names, left = [(name, True)], [os.listdir(fd)]  # the caller removes the first directory itself
    try:
        while names:
            inode = os.fstat(fd).st_ino
            while left[-1]:
                entry = left[-1].pop()
                keep = (inode, entry) in kept
                if _stays(fd, entry) if keep else _unlink(fd, entry):
                    continue
                below = _enter(fd, entry)
                os.close(fd)
                fd = below
                inode = os.fstat(fd).st_ino
                names.append((entry, keep))
                left.append(os.listdir(fd))
            done, keep = names.pop()
            left.pop()
            if names:
                outer = os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = outer
                if not keep:
                    _rmdir(fd, done, kept)
    finally:
        os.close(fd)


def _rmdir(above: int, name: str, kept: Collection[tuple[int, str]]) -> None:
    try:
        os.rmdir(name, dir_fd=above)
    except OSError as error:
        if not kept or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        os.chmod(name, 0o755, dir_fd=above)


def _stays(above: int, name: str) -> bool:
    """Return whether there is nothing to remove in the entry: it is not a directory, or does not exist."""
    try:
        return not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return True


def _enter(above: int, name: str) -> int:
    with contextlib.suppress(OSError):
        os.chmod(name, 0o700, dir_fd=above)  # no race with a symlink: no other process changes the tree
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)


def _unlink(above: int, name: str) -> bool:
    """Remove the entry if it is not a directory. Returns False for a directory."""
    try:
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        return False
    return True
