# SPDX-License-Identifier: BSD-3-Clause
"""An image by its URI as a file, from the cache or made there: what `pull` copies, and `exec` and the rest start.

docker://NAME ──► manifest ──► its digest ──► oci-tmp/DIGEST, if there ──────────────────────────► the file
                                    └──► layers in blob/ ──► a build ──► oci-tmp/DIGEST ──────────────┘
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bollard.runtime import causes, progress
from bollard.runtime.build import builder
from bollard.runtime.fetch import cache, oci, reference, sources, variants
from bollard.runtime.fetch.cache import Store
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.sources import Settings, Source
from bollard.runtime.image import image, sif, sif_write
from bollard.runtime.system import rootless


class Pulled(NamedTuple):
    """The image's path, which is good until `close` is called."""

    path: str
    close: Callable[[], None]


def image_of(uri: str, asked: Settings) -> Pulled:
    """The image that the URI names. A signal meanwhile ends the process, and leaves nothing half done."""
    name = reference.parse(uri)
    with _ending_by_signals(), contextlib.ExitStack() as stack:
        store = stack.enter_context(cache.opened(os.environ, asked.disable_cache))
        path = _path(name, sources.with_login(name, asked), store)
        progress.settle()
        return Pulled(path, stack.pop_all().close)


def to_file(uri: str, target: str, asked: Settings, *, force: bool) -> None:
    """Write the image that the URI names to `target`; all of it is compared with its digest on the way."""
    if not force and os.path.lexists(target):
        raise sif_write.exists(target)
    sif_write.check_place(target)
    name = reference.parse(uri)
    with _ending_by_signals(), cache.opened(os.environ, asked.disable_cache) as store:
        asked = sources.with_login(name, asked)
        path = _path(name, asked, store)
        if not _is_whole(path):
            cache.discard(path)
            path = _path(name, asked, store)
        _copy(path, target, force=force)
        progress.settle()


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    try:
        with rootless.interruptible():
            yield
    except rootless.Interrupted as interrupted:
        rootless.end_by(interrupted.number)


def _path(name: Reference, asked: Settings, store: Store) -> str:
    if name.scheme in reference.ARCHIVES:
        return _made(name, _archive_key(name, asked.arch), lambda: Source(arch=asked.arch), store)
    if name.scheme not in ("docker", "docker-daemon"):
        return sources.file(name, asked, store)
    digest, found = sources.manifest(name, asked, store)
    if not sources.is_accepted(name, digest, store):  # else the image made of it may be here
        sources.layers(name, digest, found, asked, store)
    return _made(name, digest, lambda: Source(sources.layers(name, digest, found, asked, store)), store)


def _archive_key(name: Reference, arch: str) -> str:
    """What changes with the architecture, and when the archive or layout does: its file, time and size."""
    path, tag = oci.split(name.scheme, name.name)
    info = os.stat(f"{path}/index.json" if name.scheme == "oci" and os.path.isdir(path) else path)
    arch = arch or variants.highest(sif.arch_name(os.uname().machine))
    words = (name.scheme, os.path.realpath(path), tag, arch, info.st_ino, info.st_size, info.st_mtime_ns)
    return hashlib.sha256(repr(words).encode("utf-8", "surrogateescape")).hexdigest()


def _made(name: Reference, key: str, begin: Callable[[], Source], store: Store) -> str:
    """The SIF file of a container image, built where the cache has none or a damaged one."""
    path = store.path("oci-tmp", key)
    if sources.is_image(path):
        return path
    with cache.making(store, "oci-tmp", key, lambda: sources.say_waiting(name)) as place:
        if not sources.is_image(path):
            target = f"{place}/image.sif"
            builder.make(builder.Request(target, name.uri, shown=name.uri, test=False), [begin()])
            os.chmod(target, 0o700)
            cache.discard(path)
            cache.keep(store, target, "oci-tmp", key)
    return path


def _is_whole(path: str) -> bool:
    """Whether a cached file has the digest that it is named by, or that is in it."""
    kind, name = path.split("/")[-2:]
    if kind in ("oras", "library"):
        return cache.sha256(path) == name.rpartition(".")[2]
    opened = image.open_image(path)
    try:
        said = opened.digest()
        return not said or said == sif_write.sha256(opened.fd, opened.offset, opened.offset + opened.size)
    finally:
        opened.close()


def _copy(path: str, target: str, *, force: bool) -> None:
    """A copy with a mode as any new file's, which has its name when it is complete."""
    mask = os.umask(0o022)
    os.umask(mask)
    try:
        fd, made = tempfile.mkstemp(prefix=".bollard-", suffix=".tmp", dir=os.path.dirname(target) or ".")
        try:
            with open(path, "rb") as source, open(fd, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fchmod(file.fileno(), 0o777 & ~mask)
                os.fsync(file.fileno())
            if not force and os.path.lexists(target):
                raise sif_write.exists(target)
            os.replace(made, target)
        finally:
            cache.discard(made)
    except OSError as error:
        raise causes.of(
            error, f"{target}: cannot be written", target, "choose a directory you can write to"
        ) from None
