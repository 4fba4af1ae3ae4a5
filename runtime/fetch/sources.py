# SPDX-License-Identifier: BSD-3-Clause
"""Fetch the parts of an image into the cache: the layers of an image in a registry, or a SIF file.

This code runs as the user, outside of a build's namespaces: there the user's logins and registry settings apply.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bollard.runtime import progress
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, library, oci, reference, registry, skopeo_policy, variants, web
from bollard.runtime.fetch.cache import Store
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.registry import Access
from bollard.runtime.image import image, sif
from bollard.runtime.request import options
from bollard.runtime.request.spec import switch

AGENTS = ("docker", "docker-daemon", "oras", "library")
# Singularity 3.0 wrote "appliciation", and images of that time still have it.
SIF_LAYERS = ("application/vnd.sylabs.sif.layer.v1.sif", "appliciation/vnd.sylabs.sif.layer.tar")


class Settings(NamedTuple):
    """Options for fetching, from the command line or from environment variables."""

    access: Access = Access()
    login: bool = False  # ask on the terminal for a user name and a password
    disable_cache: bool = False
    library: str = ""
    arch: str = ""  # Go's name; "" for this machine's
    verbose: bool = False  # print which policy is used


class Source(NamedTuple):
    """The start of a build. One of these three is set.

    layers, digest: the layers to unpack, and the digest of their manifest in hexadecimal digits.
    path: the path of an image.
    arch: the architecture of an image that is still in its archive.
    """

    layers: oci.Layers | None = None
    digest: str = ""
    path: str = ""
    arch: str = ""


def settings(given: list[tuple[str, str]], environ: Mapping[str, str]) -> Settings:
    """Return the settings from options (name and value), or else from environment variables.

    Raises:
        BollardError: an architecture is unknown.
    """
    asked = dict(given)

    def on(option: str, *forms: str) -> bool:
        return switch([asked[option] if option in asked else options.setting(environ, *forms)])

    user = options.setting(environ, "DOCKER_USERNAME") or environ.get("DOCKER_USERNAME", "")
    password = options.setting(environ, "DOCKER_PASSWORD") or environ.get("DOCKER_PASSWORD", "")
    daemon = asked.get("docker-host") or options.setting(environ, "DOCKER_HOST") or environ.get("DOCKER_HOST", "")
    return Settings(
        access=Access(asked.get("authfile", ""), user, password, on("no-https", "NOHTTPS", "NO_HTTPS"), daemon),
        login=on("docker-login", "DOCKER_LOGIN"),
        disable_cache=on("disable-cache", "DISABLE_CACHE"),
        library=asked.get("library") or options.setting(environ, "LIBRARY"),
        arch=_arch(asked.get("arch"), environ),
        verbose=on("verbose", "VERBOSE", "LOG"),
    )


def _arch(asked: str | None, environ: Mapping[str, str]) -> str:
    """Return the architecture of --arch; else BOLLARD_PULL_ARCH, with its variant, if it is this machine's."""
    if asked is not None:
        return variants.parse(asked)
    found = variants.parse(options.setting(environ, "PULL_ARCH"))
    return found if found.partition("/")[0] == sif.arch_name(os.uname().machine) else ""


def from_header(header: Mapping[str, str]) -> Reference:
    """Return the reference that a definition file's header names.

    Raises:
        BollardError: the header has no `From`, or the name is invalid.
    """
    agent, name = header["bootstrap"].lower(), header.get("from", "")
    if not name:
        raise BollardError(f"Bootstrap: {agent} needs From", "add `from: ...`")
    name = name.partition("://")[2] if name.lower().startswith(f"{agent}://") else name
    if agent == "docker":
        parts = [header.get(key, "").strip("/") for key in ("registry", "namespace")]
        name = "/".join([*(part for part in parts if part), name])
    return reference.make(agent, name)


def source(name: Reference, asked: Settings, store: Store) -> Source:
    """Return the start of a build; fetch it if the cache does not have it.

    name: a reference with one of the schemes of AGENTS, or http, or https.
    asked: the settings.
    store: the opened cache.

    Raises:
        BollardError: the image cannot be fetched, is damaged, or is refused by the host's policy.
    """
    asked = with_login(name, asked)
    if name.scheme in ("docker", "docker-daemon"):
        digest, raw = manifest(name, asked, store)
        return Source(layers(name, digest, raw, asked, store), digest)
    return Source(path=file(name, asked, store))


def with_login(name: Reference, asked: Settings) -> Settings:
    """Return the settings with the user name and the password that --docker-login asks for on the terminal.

    Raises:
        BollardError: --docker-login is set, and stdin is not a terminal.
    """
    if not asked.login or name.scheme not in ("docker", "oras"):
        return asked
    if not sys.stdin.isatty():
        raise BollardError("--docker-login needs a terminal", "set BOLLARD_DOCKER_USERNAME")
    sys.stderr.write("Docker user name: ")
    sys.stderr.flush()
    user = sys.stdin.readline().strip()
    access = asked.access._replace(user=user, password=getpass.getpass("Docker password: "))
    return asked._replace(access=access, login=False)


def manifest(name: Reference, asked: Settings, store: Store) -> tuple[str, dict[str, Any]]:
    """Return the digest (hexadecimal) and the manifest of the image for the architecture.

    name: the reference of the image. If it has a digest, the manifest in the cache is used without a request.
    asked: the settings.
    store: the opened cache.

    Raises:
        BollardError: the manifest cannot be fetched, does not match its digest, or is not supported.
    """
    for _ in range(4):
        pinned = reference.digest(name)
        raw = cache.blob(store, pinned, oci.MAX_JSON) if pinned else None
        if raw is None:
            raw = registry.manifest(name, asked.access)
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            if pinned and digest != pinned:
                raise BollardError(f"{name.uri}: the registry sent another manifest, {digest}", "do not use it")
            cache.keep_blob(store, raw)
        found = _object(raw, name.uri)
        if not oci.is_index(found):
            return hashlib.sha256(raw).hexdigest(), found
        digest = oci.for_arch(found, asked.arch, name.uri)
        name = Reference(name.uri, name.scheme, f"{reference.repository(name.name)}@{digest}")
    raise BollardError(f"{name.uri}: indexes of indexes, too deep", "name one of its images")


def layers(name: Reference, digest: str, found: dict[str, Any], asked: Settings, store: Store) -> oci.Layers:
    """Return the image's layers in the cache; fetch them if they are missing, damaged, or not yet accepted.

    name: the reference of the image.
    digest: the digest of its manifest, in hexadecimal digits.
    found: the manifest.
    asked: the settings.
    store: the opened cache.

    Raises:
        BollardError: a layer cannot be fetched, the image is damaged, or the host's policy refuses it.
    """
    wanted = oci.digests(found, name.uri)

    def complete() -> bool:
        intact = [cache.is_intact(store, item) for item in wanted]  # a list: all are checked, damaged ones are removed
        return all(intact) and is_accepted(name, digest, store)

    if not complete():
        # One process fetches. With a policy of the host, those who find a finished image in the cache come here too.
        with cache.making(store, "blob", digest, lambda: say_waiting(name)) as place:
            if not complete():
                _copy(name, digest, found, store.blobs, place, asked, store)
    return oci.from_manifest(found, store.blobs, name.uri, asked.arch)


def is_accepted(name: Reference, digest: str, store: Store) -> bool:
    """Return whether the host's present policy has accepted the image before.

    name: the reference of the image.
    digest: the digest of its manifest, in hexadecimal digits.
    store: the opened cache.

    Raises:
        BollardError: the policy cannot be read, or its rule may be for the same image under another name.
    """
    digest = f"sha256:{digest}"
    asked = skopeo_policy.of_host(name, digest, os.environ)
    return skopeo_policy.is_accepted(asked, name, digest, store)


def _copy(
    name: Reference, digest: str, document: dict[str, Any], blobs: str, scratch: str, asked: Settings, store: Store
) -> None:
    """Fetch the blobs of a manifest, `document`, if the host's policy accepts it."""
    progress.say(f"fetching {name.uri}")
    digest = f"sha256:{digest}"
    found = skopeo_policy.of_host(name, digest, os.environ)
    if asked.verbose:
        how = f"the policy in {found.file} is asked" if found.file else "accepted: this host has no policy.json"
        progress.note(f"bollard: {name.uri}: {how}")
    registry.copy(name, digest, blobs, scratch, asked.access, found, _watch(document, blobs, scratch))
    skopeo_policy.accept(found, name, digest, store)


def _watch(document: dict[str, Any], blobs: str, scratch: str) -> Callable[[], None]:
    """Return a function that notes how many bytes of the missing blobs of a manifest have come.

    document: the manifest.
    blobs, scratch: as in `registry.copy`. A blob is in `scratch` until it is complete.
    """
    listed = document.get("layers")
    entries = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    sizes = {}
    for item in entries:
        digest, size = item.get("digest"), item.get("size")
        if isinstance(digest, str) and isinstance(size, int):
            sizes[f"{blobs}/{digest.replace(':', '/')}"] = size
    missing = {path: size for path, size in sizes.items() if not os.path.exists(path)}
    outside = [path for path in missing if not path.startswith(f"{scratch}/")]

    def watch() -> None:
        come = sum(missing[path] for path in outside if os.path.exists(path))
        for folder, _, names in os.walk(scratch):
            for name in names:
                with contextlib.suppress(OSError):  # it has got its name in `blobs`
                    come += os.lstat(f"{folder}/{name}").st_size
        progress.moved(come, sum(missing.values()))

    return watch


def file(name: Reference, asked: Settings, store: Store) -> str:
    """Return the cached path of an image that is fetched as one file; fetch it if the cache does not have it.

    name: a reference with the scheme oras, library, http or https.
    asked: the settings.
    store: the opened cache.

    Raises:
        BollardError: it cannot be fetched, or is not an image.
    """
    return pinned_file(name, asked, store)[0]


def pinned_file(name: Reference, asked: Settings, store: Store) -> tuple[str, str]:
    """Return the same as `file`, and the URI with the digest of what was fetched; "" if its scheme has none.

    name, asked, store: as for `file`.

    Raises:
        BollardError: as for `file`.
    """
    if name.scheme == "oras":
        return _artifact(name, asked, store)
    if name.scheme == "library":
        return _library_image(name, asked, store)
    date = web.date(name.uri, name.uri)
    # The key is Apptainer's. A file without a date gets a random key, so it is fetched each time.
    key = hashlib.sha256(f"{name.uri}{date or os.urandom(16).hex()}".encode()).hexdigest()

    def get(place: str) -> str:
        web.save(name.uri, f"{place}/image", name.uri)
        return f"{place}/image"

    return _kept(store, "net", key, name, get), ""


def _artifact(name: Reference, asked: Settings, store: Store) -> tuple[str, str]:
    """Return path and name of an image of oras://: the SIF file is the only layer of its manifest."""
    digest, found = manifest(name, asked, store)
    entries = found.get("layers")
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        count = len(entries) if isinstance(entries, list) else 0
        raise BollardError(f"{name.uri}: has {count} layers; a SIF file is a single one", _other(name))
    layer = entries[0]
    if layer.get("mediaType") not in SIF_LAYERS:
        raise BollardError(f"{name.uri}: is not a SIF file, but {layer.get('mediaType')}", _other(name))
    wanted, size = oci.digests({"layers": entries}, name.uri)[0], layer.get("size")
    if not isinstance(size, int) or not 0 < size <= web.MAX_FILE:
        raise BollardError(f"{name.uri}: its size is given as {size} bytes", "push it again")

    def get(place: str) -> str:
        os.mkdir(f"{place}/blobs")
        _copy(name, digest, found, f"{place}/blobs", place, asked, store)
        path = f"{place}/blobs/{wanted.replace(':', '/')}"
        _verify(name, path, size, wanted.partition(":")[2])
        return path

    key = wanted.partition(":")[2]
    if is_image(cache.found(store, "oras", key)) and not is_accepted(name, digest, store):
        with cache.scratch(store) as place:
            get(place)
    return _kept(store, "oras", key, name, get), reference.with_digest(name, digest)


def _other(name: Reference) -> str:
    return f"is it a container image? then use docker://{name.name}"


def _library_image(name: Reference, asked: Settings, store: Store) -> tuple[str, str]:
    pinned = library.pinned(name)
    place = reference.library_path(name)
    whole = f"library://{place.host}{'/' if place.host else ''}{place.path}:sha256."
    if pinned and os.path.exists(cache.found(store, "library", f"sha256.{pinned}")):
        return _kept(store, "library", f"sha256.{pinned}", name, lambda place: ""), whole + pinned
    arch = asked.arch.partition("/")[0] or sif.arch_name(os.uname().machine)
    found, token = library.look_up(name, asked.library, arch, asked.access.insecure)
    if pinned and found.digest != pinned:
        raise BollardError(f"{name.uri}: the library tells of another image, {found.digest}", "do not use it")

    def get(place: str) -> str:
        digest = web.save(found.url, f"{place}/image", name.uri, found.size, token)
        if digest != found.digest:
            raise _damaged(name, f"its SHA-256 is {digest}, not {found.digest}")
        return f"{place}/image"

    return _kept(store, "library", f"sha256.{found.digest}", name, get), whole + found.digest


def _kept(store: Store, kind: str, key: str, name: Reference, get: Callable[[str], str]) -> str:
    """Return the path of a cached file; `get(directory)` fetches it if it is missing or not an image."""
    path = cache.found(store, kind, key)
    if is_image(path):
        return path
    path = store.path(kind, key)
    with cache.making(store, kind, key, lambda: say_waiting(name)) as place:
        if is_image(path):
            return path
        cache.discard(path)
        progress.say(f"fetching {name.uri}")
        made = get(place)
        try:
            image.open_image(made, encrypted=True).close()
        except BollardError as error:
            raise BollardError(error.message.replace(image.shown(made), name.uri), "is it an image?") from None
        os.chmod(made, store.mode)
        return cache.keep(store, made, kind, key)


def say_waiting(name: Reference) -> None:
    """Show that another process fetches this image, and that this one waits."""
    progress.say(f"waiting for another process that fetches {name.uri}")


def is_image(path: str) -> bool:
    """Return whether `path` is a complete image, judged by its headers and its size."""
    try:
        image.open_image(path, encrypted=True).close()
    except BollardError:
        return False
    return True


def _verify(name: Reference, path: str, size: int, digest: str) -> None:
    if not os.path.exists(path):
        raise _damaged(name, "its layer did not come")
    if os.path.getsize(path) != size:
        raise _damaged(name, f"{os.path.getsize(path)} bytes came, {size} expected")
    found = cache.sha256(path)
    if found != digest:
        raise _damaged(name, f"its SHA-256 is {found}, not {digest}")


def _damaged(name: Reference, text: str) -> BollardError:
    return BollardError(f"{name.uri}: damaged: {text}", "fetch it again")


def _object(raw: bytes, name: str) -> dict[str, Any]:
    found = oci.json_object(raw)
    if found is None:
        raise BollardError(f"{name}: its manifest is not a JSON object", "push it again")
    if "manifests" in found and ("layers" in found or "config" in found):
        raise BollardError(f"{name}: its manifest is an index and an image at once", "do not use it")
    if oci.is_index(found) and not isinstance(found.get("manifests"), list):
        raise BollardError(f"{name}: its manifest says that it is an index, and lists no images", "push it again")
    if found.get("schemaVersion") == 1:
        raise BollardError(f"{name}: its manifest is in Docker's format of before 2016", "push it again")
    return found
