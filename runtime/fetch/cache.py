# SPDX-License-Identifier: BSD-3-Clause
"""The cache of fetched images and layers.

    PLACE/bollard/           0700, the user's own
        blob/sha256/HEX      layers, manifests and configurations of registries, by their digest
        oci-tmp/HEX          SIF files made of them, by the digest of the manifest, and SIF files made of archives
        oras/HEX             SIF files by their own digest
        library/sha256.HEX   SIF files by their own digest
        net/HEX              files of http(s)://, by address and date
        pin/                 what names mean in jobs, see pins.py
        tmp/                 unfinished work
        lock                 flock: shared while a process fetches, exclusive while a process cleans

The types are Apptainer's. A file gets its name when it is complete. A killed process leaves a directory in tmp. The
next process that gets the exclusive lock removes it, and what the cache has over its limit.

The site's cache, `cache.shared` in bollard.yaml, has the same form. Users read it, before their own, and cannot write
it: it belongs to root or to a service. It has only what is named by a digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from errno import EDQUOT, ENOSPC, EROFS
from typing import NamedTuple

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import eviction
from bollard.runtime.installed import PREFIX
from bollard.runtime.request import options, site
from bollard.runtime.system import workspace

TYPES = ("library", "oci-tmp", "oras", "net", "blob")
IMAGES = TYPES[:-1]
BY_DIGEST = ("library", "oci-tmp", "oras", "blob")
_VARIABLE = "BOLLARD_CACHEDIR"
_FOLDER = "bollard"
_READ_SIZE = 1 << 20
_PIN_DAYS = 30
_HINT = f"set {_VARIABLE} to a directory of your own, or add --disable-cache"


class Store(NamedTuple):
    """An opened cache. With --disable-cache it is a temporary directory.

    root: its directory.
    shared: the directory of the site's cache, "" for none.
    mode: permission bits of images that are kept in it.
    """

    root: str
    shared: str = ""
    mode: int = 0o700

    def path(self, kind: str, name: str) -> str:
        """Return the path of an entry; `kind` is one of TYPES."""
        return f"{self.root}/{kind}/{name}"

    @property
    def blobs(self) -> str:
        """The directory of blobs, laid out as `blobs` in an OCI image layout."""
        return f"{self.root}/blob"


class Entry(NamedTuple):
    """A file in the cache: its type, its name, its path, its size and its time."""

    kind: str
    name: str
    path: str
    size: int  # bytes
    created: float  # seconds since 1970


def directory(environ: Mapping[str, str]) -> str:
    """Return the path of the cache: a directory `bollard` in the directory that the environment variables name.

    The cache always has a directory of its own, because cleaning must not remove other files.
    """
    place = options.setting(environ, "CACHEDIR")
    if not place:
        place = environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(place):  # XDG: relative paths are void
            place = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    return os.path.join(os.path.abspath(place), _FOLDER)


@contextlib.contextmanager
def opened(environ: Mapping[str, str], disabled: bool = False) -> Iterator[Store]:
    """Open the cache, and make it if it does not exist. While it is open, no process can clean it.

    environ: environment variables, which name the place of the cache.
    disabled: use a temporary directory, which is removed at the end.

    Raises:
        BollardError: the place of the cache cannot be used, another user could write to it, or its disk is full.
    """
    if disabled:
        place = workspace.make(workspace.parent(environ))
        try:
            with _worded(place):
                yield _complete(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    root = _own_directory(directory(environ))
    causes.movable(root, _VARIABLE)
    here = site.load(PREFIX)
    store = _complete(root)._replace(shared=_trusted(here.cache_shared))
    with _used(store, here.cache_max):
        yield store


@contextlib.contextmanager
def opened_shared() -> Iterator[Store]:
    """Open the site's cache for writing, as its owner.

    Raises:
        BollardError: the site has none, or it is not this user's, or others may write into it.
    """
    here = site.load(PREFIX)
    root = here.cache_shared
    if not root:
        raise BollardError("this site has no shared cache", "name it in bollard.yaml: `cache.shared: DIRECTORY`")
    try:
        owner = os.lstat(root).st_uid
    except OSError as error:
        raise BollardError(f"cache.shared {root}: {error.strerror}", "make it; its owner fills it") from None
    if owner != os.geteuid():
        raise BollardError(f"cache.shared {root}: belongs to another user", "let its owner fill it")
    if not _trusted(root):
        raise BollardError(f"cache.shared {root}: others can write into it or exchange it", f"`chmod 755 {root}`")
    mask = os.umask(0o022)
    try:
        with _used(_complete(root, 0o755)._replace(mode=0o755), here.cache_shared_max, shared=True):
            yield Store(root, mode=0o755)
    finally:
        os.umask(mask)


@contextlib.contextmanager
def _used(store: Store, limit: int, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of an opened cache. Before and after, clean it, unless another process uses it."""
    root = store.root
    with _worded(root):
        _tidy(store, limit, shared)
        try:
            with _locked(f"{root}/lock", fcntl.LOCK_SH):
                yield
        finally:
            _tidy(store, limit, shared)


def _tidy(store: Store, limit: int, shared: bool) -> None:
    with _locked(f"{store.root}/lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as fd:
        if fd is not None:
            _sweep(store)  # no other process uses the cache: the files in tmp were left by killed processes
            if limit:
                eviction.trim([(item.kind, item.path) for item in _scan(store.root, TYPES)], limit, shared)


_told = False


def _trusted(path: str) -> str:
    """Return the site's cache if no user could put anything into it, else "" and print why, once."""
    global _told
    if not path or not os.path.lexists(path):
        return ""
    real = os.path.realpath(path)
    owners = (0, os.lstat(real).st_uid)
    above, wrong = real, ""
    while not wrong:
        info = os.lstat(above)
        if not stat.S_ISDIR(info.st_mode):
            wrong = f"{above} is not a directory"
        elif info.st_uid not in owners:
            wrong = f"{above} belongs to another user than root and its owner"
        elif info.st_mode & 0o022 and not (info.st_mode & stat.S_ISVTX and above != real):
            wrong = f"others may write into {above}"
        if above == "/":
            break
        above = os.path.dirname(above)
    if wrong and not _told:
        sys.stderr.write(f"bollard: warning: the site's cache {path} is not used: {wrong}\n")
        _told = True
    return "" if wrong else real


def found(store: Store, kind: str, name: str) -> str:
    """Return the path of an entry: that of the site's cache if it has it, else that of the user's.

    store: the opened cache.
    kind, name: the type and the name of the entry.
    """
    if store.shared and kind in BY_DIGEST:
        path = f"{store.shared}/{kind}/{name}"
        with contextlib.suppress(OSError):  # not there, or not readable: the user's own cache fetches it
            info, owner = os.lstat(path), os.lstat(store.shared).st_uid
            if stat.S_ISREG(info.st_mode) and info.st_uid == owner and not info.st_mode & 0o022:
                return path
    path = store.path(kind, name)
    touch(path)
    return path


def touch(path: str) -> None:
    """Note that a file is used now: set its time of access. Its time of change stays, as it is part of a spec."""
    with contextlib.suppress(OSError):  # it is missing, or another user's
        os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))


def spoil(store: Store, path: str) -> None:
    """Remove a damaged file from the user's cache.

    Raises:
        BollardError: it lies in the site's cache.
    """
    if store.shared and path.startswith(f"{store.shared}/"):
        raise BollardError(f"{path}: is damaged", "tell the site's administrator; --disable-cache does without it")
    discard(path)


@contextlib.contextmanager
def _worded(root: str) -> Iterator[None]:
    """Turn "disk full" and "read-only" errors of the block into a BollardError that names the cache."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EROFS):
            raise
        raise causes.of(error, f"cache {root}: cannot be written", root) from None


def _own_directory(path: str) -> str:
    """Make the directory `path`, mode 0700; return it with links resolved. Raise if another user could write to it."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        path = os.path.realpath(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        causes.movable(path, _VARIABLE)
        raise causes.of(error, f"cache {path}", path, _HINT) from None
    try:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid():
            raise BollardError(f"cache {path}: belongs to another user", _HINT)
        if info.st_mode & 0o022:
            raise BollardError(f"cache {path}: others may write into it", f"`chmod 700 {path}`, or choose another one")
        if stat.S_IMODE(info.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
    _refuse_owned_above(path)
    return path


def _refuse_owned_above(path: str) -> None:
    """Raise BollardError if another user could replace a parent directory of the cache.

    The owner of a parent directory can do this, also in a sticky directory. In a directory that all users may write
    to and that is not sticky, every user can. Parents of the home directory are not checked.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    trusted = (os.geteuid(), os.stat("/").st_uid, 0)
    above = os.path.dirname(path)
    while above not in (home, "/") and not home.startswith(f"{above}/"):
        info = os.stat(above)
        if info.st_uid not in trusted:
            raise BollardError(f"cache {path}: {above} belongs to another user, who could exchange it", _HINT)
        if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
            raise BollardError(f"cache {path}: all may write into {above}, and exchange it", _HINT)
        above = os.path.dirname(above)


def _complete(root: str, mode: int = 0o700) -> Store:
    """Make the directories of a store in `root`, which only the user can write to; `mode` has their permission bits."""
    for name in (*TYPES, "pin", "tmp", "blob/sha256"):
        path = f"{root}/{name}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700 if name in ("tmp", "pin") else mode)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise BollardError(f"cache {path}: is not a directory", "remove it")
    return Store(root)


@contextlib.contextmanager
def _locked(path: str, how: int) -> Iterator[int | None]:
    """Hold the lock and yield its file descriptor; yield None if it is held by another process and `how` has LOCK_NB.

    A filesystem without locks is used without. There, work can be done twice, and cleaning can break a fetch.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, how)
        except BlockingIOError:
            yield None
            return
        except OSError:
            pass  # no locks here: see above
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def making(store: Store, kind: str, name: str, waiting: Callable[[], None]) -> Iterator[str]:
    """Yield a directory in which to make an entry. Only one process at a time makes the same entry.

    store: the opened cache.
    kind, name: the type and the name of the entry.
    waiting: called if another process makes the entry, before the wait for it.
    """
    lock = f"{store.root}/tmp/{kind}.{name}.lock"
    with _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as fd:
        if fd is not None:
            with scratch(store) as place:
                yield place
            return
    waiting()
    with _locked(lock, fcntl.LOCK_EX), scratch(store) as place:
        yield place


@contextlib.contextmanager
def scratch(store: Store) -> Iterator[str]:
    """Yield a temporary directory on the cache's filesystem; it is removed at the end."""
    place = tempfile.mkdtemp(prefix="fetch-", dir=f"{store.root}/tmp")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def keep(store: Store, made: str, kind: str, name: str) -> str:
    """Flush the complete file `made` to the disk and rename it to its place in the cache; return the new path.

    store: the opened cache.
    kind, name: the type and the name of the entry.
    """
    path = store.path(kind, name)
    with open(made, "rb") as file:
        if kind == "blob" and store.mode & 0o044:
            os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(made, path)
    return path


def is_intact(store: Store, digest: str) -> bool:
    """Return whether the blob exists and its content has the digest; a damaged blob is removed."""
    path = store.path("blob", digest.replace(":", "/"))
    try:
        if sha256(path) == digest.partition(":")[2]:
            touch(path)
            return True
    except FileNotFoundError:
        return False
    discard(path)
    return False


def blob(store: Store, digest: str, limit: int) -> bytes | None:
    """Return the content of a small blob; None if it is missing, damaged, or has more than `limit` bytes.

    store: the opened cache.
    digest: "sha256:HEX".
    limit: the most bytes to read.
    """
    try:
        with open(found(store, "blob", digest.replace(":", "/")), "rb") as file:
            data = file.read(limit)
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == digest.partition(":")[2] else None


def keep_blob(store: Store, data: bytes) -> str:
    """Write a small blob into the cache; return its digest, "sha256:HEX"."""
    name = hashlib.sha256(data).hexdigest()
    with scratch(store) as place:
        with open(f"{place}/blob", "wb") as file:
            file.write(data)
        keep(store, f"{place}/blob", "blob", f"sha256/{name}")
    return f"sha256:{name}"


def sha256(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: it cannot be read; with its path.
    """
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            try:
                data = file.read(_READ_SIZE)
            except OSError as error:
                error.filename = path  # for the message: a read(2) does not know it
                raise
            if not data:
                return total.hexdigest()
            total.update(data)


def discard(path: str) -> None:
    """Remove a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def entries(environ: Mapping[str, str], kinds: tuple[str, ...] = TYPES) -> list[Entry]:
    """Return the entries of the cache, sorted. Does not make the cache.

    Raises:
        BollardError: the place of the cache cannot be used, or another user could write to it.
    """
    root = directory(environ)
    if not os.path.isdir(root):
        return []
    return _scan(_own_directory(root), kinds)


def shared_entries(kinds: tuple[str, ...] = TYPES) -> list[Entry]:
    """Return the entries of the site's cache, sorted; none if there is no such cache.

    Raises:
        BollardError: the installation's site.conf cannot be parsed.
    """
    root = _trusted(site.load(PREFIX).cache_shared)
    return _scan(root, kinds) if root else []


def _scan(root: str, kinds: tuple[str, ...]) -> list[Entry]:
    found = []
    for kind in kinds:
        folder = f"{root}/blob/sha256" if kind == "blob" else f"{root}/{kind}"
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as listing:
            for item in listing:
                with contextlib.suppress(FileNotFoundError):  # another process is cleaning
                    info = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found.append(Entry(kind, item.name, item.path, info.st_size, info.st_mtime))
    return sorted(found)


def older(found: list[Entry], days: int) -> list[Entry]:
    """Return the entries that are at least `days` days old."""
    limit = time.time() - days * 86400
    return [entry for entry in found if days <= 0 or entry.created <= limit]


def remove(environ: Mapping[str, str], found: list[Entry], waiting: Callable[[], None]) -> None:
    """Remove entries and the content of tmp, when no other process uses the cache.

    environ: environment variables, which name the place of the cache.
    found: the entries to remove.
    waiting: called if another process fetches, before the wait for it.

    Raises:
        BollardError: the place of the cache cannot be used, or another user could write to it.
    """
    if not found and not os.path.isdir(directory(environ)):
        return
    store = _complete(_own_directory(directory(environ)))
    with contextlib.ExitStack() as stack:
        if stack.enter_context(_locked(f"{store.root}/lock", fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
            waiting()
            stack.enter_context(_locked(f"{store.root}/lock", fcntl.LOCK_EX))
        for entry in found:
            discard(entry.path)
        _sweep(store)


def _sweep(store: Store) -> None:
    """Remove what killed processes have left in tmp, and pins that no job has used for long."""
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{store.root}/pin") as pins:
        for item in pins:
            if time.time() - item.stat(follow_symlinks=False).st_mtime > _PIN_DAYS * 86400:
                discard(item.path)
    for name in os.listdir(f"{store.root}/tmp"):
        path = f"{store.root}/tmp/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            discard(path)
