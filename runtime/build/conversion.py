# SPDX-License-Identifier: BSD-3-Clause
"""Return the image file for a URI, from the cache; make it there if it is missing. `pull`, `exec` and others use it.

docker://NAME ──► manifest ──► its digest ──► oci-tmp/DIGEST, if there ──────────────────────────► the file
                                    └──► layers in blob/ ──► a build ──► oci-tmp/DIGEST ──────────────┘
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from bollard.runtime import causes, progress
from bollard.runtime.build import builder, summary
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, oci, pins, reference, sources, variants
from bollard.runtime.fetch.cache import Store
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.sources import Settings, Source
from bollard.runtime.image import image, sif, sif_write
from bollard.runtime.system import rootless


class Pulled(NamedTuple):
    """The path of an image; it stays valid until `close` is called.

    source: the image with its digest, docker://NAME@sha256:HEX; "" if its scheme has no digests.
    """

    path: str
    close: Callable[[], None]
    source: str = ""


def image_of(uri: str, asked: Settings) -> Pulled:
    """Return the image that the URI names; fetch and build it if the cache does not have it.

    A signal removes unfinished files and then ends this process.

    Raises:
        BollardError: the URI names no image, or its image cannot be fetched or built.
    """
    name = reference.parse(uri)
    with rootless.ending_by_signals(), contextlib.ExitStack() as stack:
        store = stack.enter_context(cache.opened(os.environ, asked.disable_cache))
        path, source = _path(name, sources.with_login(name, asked), store)
        progress.settle()
        return Pulled(path, stack.pop_all().close, source)


def image_in_job(uri: str, asked: Settings, job: str) -> Pulled:
    """Return the image that the URI means in a job: the first step has decided about its digest.

    uri: the URI of the image.
    asked: settings for fetching.
    job: from `pins.job`; "" outside of a job.

    Raises:
        BollardError: as for `image_of`.
    """
    if not job:
        return image_of(uri, asked)
    with cache.opened(os.environ) as store:
        known = pins.get(store, job, uri)
    found = image_of(known or uri, asked)
    if known or not found.source:
        return found
    with cache.opened(os.environ) as store:
        decided = pins.keep(store, job, uri, found.source)
    if decided == found.source:
        return found
    found.close()
    return image_of(decided, asked)


def to_shared(uri: str, asked: Settings) -> str:
    """Fetch the image that the URI names into the site's cache; return its path there.

    Raises:
        BollardError: this user does not own the site's cache, or the URI's scheme has no digest to compare with.
    """
    name = reference.parse(uri)
    if name.scheme not in ("docker", "oras", "library"):
        hint = "use docker://, oras:// or library://"
        raise BollardError(f"{uri}: the site's cache takes only what a digest names", hint)
    with rootless.ending_by_signals(), cache.opened_shared() as store:
        path, _ = _path(name, sources.with_login(name, asked), store)
        if not _is_whole(path):
            cache.discard(path)
            raise BollardError(f"{uri}: is damaged in the site's cache, and was removed there", "fetch it again")
        progress.settle()
        return path


def to_file(uri: str, target: str, asked: Settings, *, force: bool) -> None:
    """Write the image that the URI names to a file. The cached file is first compared with its digest.

    uri: the URI of the image.
    target: path of the new file.
    asked: settings for fetching.
    force: replace an existing target.

    Raises:
        BollardError: `target` exists and `force` is not set, or the image cannot be fetched, built or written.
    """
    if not force and os.path.lexists(target):
        raise sif_write.exists(target)
    sif_write.check_place(target)
    name = reference.parse(uri)
    with rootless.ending_by_signals(), cache.opened(os.environ, asked.disable_cache) as store:
        asked = sources.with_login(name, asked)
        path = _path(name, asked, store)[0]
        if not _is_whole(path):
            cache.spoil(store, path)
            path = _path(name, asked, store)[0]
        _copy(path, target, force=force)
        progress.done(f"{image.shown(target)}: {summary.facts(target)}")


def _path(name: Reference, asked: Settings, store: Store) -> tuple[str, str]:
    """Return the path of the image, and its name with a digest, "" for none."""
    if name.scheme in reference.ARCHIVES:
        return _made(name, _archive_key(name, asked.arch), lambda: Source(arch=asked.arch), store), ""
    if name.scheme not in ("docker", "docker-daemon"):
        return sources.pinned_file(name, asked, store)
    digest, found = sources.manifest(name, asked, store)
    if not sources.is_accepted(name, digest, store):  # the policy must accept it even if the cache has the SIF file
        sources.layers(name, digest, found, asked, store)
    path = _made(name, digest, lambda: Source(sources.layers(name, digest, found, asked, store), digest), store)
    return path, reference.with_digest(name, digest) if name.scheme == "docker" else ""


def _archive_key(name: Reference, arch: str) -> str:
    """Return the cache key of an archive: it depends on the architecture and on the file's inode, size and time."""
    path, tag = oci.split(name.scheme, name.name)
    info = os.stat(f"{path}/index.json" if name.scheme == "oci" and os.path.isdir(path) else path)
    arch = arch or variants.highest(sif.arch_name(os.uname().machine))
    words = (name.scheme, os.path.realpath(path), tag, arch, info.st_ino, info.st_size, info.st_mtime_ns)
    return hashlib.sha256(repr(words).encode("utf-8", "surrogateescape")).hexdigest()


def _made(name: Reference, key: str, begin: Callable[[], Source], store: Store) -> str:
    """Return the path of the cached SIF file; build it if it is missing or damaged. `begin` fetches the layers."""
    path = cache.found(store, "oci-tmp", key)
    if sources.is_image(path):
        return path
    path = store.path("oci-tmp", key)
    with cache.making(store, "oci-tmp", key, lambda: sources.say_waiting(name)) as place:
        if not sources.is_image(path):
            target = f"{place}/image.sif"
            builder.make(builder.Request(target, name.uri, shown=name.uri, test=False), [begin()])
            os.chmod(target, store.mode)
            cache.discard(path)
            cache.keep(store, target, "oci-tmp", key)
    return path


def _is_whole(path: str) -> bool:
    """Return whether a cached file matches the digest in its name or, for other types, the digest that it records."""
    kind, name = path.split("/")[-2:]
    if kind in ("oras", "library"):
        return cache.sha256(path) == name.rpartition(".")[2]
    opened = image.open_image(path, encrypted=True)
    try:
        said = opened.digest()
        return not said or said == sif_write.sha256(opened.fd, opened.offset, opened.offset + opened.size)
    finally:
        opened.close()


def _copy(path: str, target: str, *, force: bool) -> None:
    """Copy the file to `target`, with the mode of the umask. It gets its name when it is complete."""
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
        raise causes.of(error, f"{target}: cannot be written", target, "choose a directory you can write to") from None
