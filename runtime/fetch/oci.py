# SPDX-License-Identifier: BSD-3-Clause
"""Read OCI and Docker images: unpack their layers into a tree, turn their configuration into image scripts.

This module reads `oci:`, `oci-archive:` and `docker-archive:`. Images from registries and from Docker's daemon are read
from the blobs in the cache (`sources`). Every blob that is named by its digest is checked against it. Every path of a
layer is resolved beneath the tree's root.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any, NamedTuple

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import variants
from bollard.runtime.fetch.layer import apply
from bollard.runtime.fetch.reference import ARCHIVES
from bollard.runtime.image import oci_config, sif
from bollard.runtime.system.tree import Tree

TRANSPORTS = (*ARCHIVES, "docker", "docker-daemon")
MAX_JSON = 8 << 20
_MAX_LAYERS = 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_ELSEWHERE = ("foreign", "nondistributable")  # in the media types of layers that registries need not hold
_SHOWN_MAX = 100
_REF_NAME = "org.opencontainers.image.ref.name"
_NAMES_SHOWN = 8  # of the images in an archive, in a message


class Layers(NamedTuple):
    """An image: the files of its layers, the lowest first; their digests ("" if unknown); its configuration."""

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    config: dict[str, Any]


def fetch(agent: str, reference: str, scratch: str, arch: str = "") -> Layers:
    """Return the layers of an image in an archive or an OCI layout.

    agent: "oci", "oci-archive" or "docker-archive".
    reference: the path, or PATH:NAME.
    scratch: an empty private directory; an archive is unpacked there.
    arch: Go's name of the architecture, optionally with a variant ("arm64/v8"); "" for this machine's.

    Raises:
        BollardError: the path does not exist, or the image is damaged, ambiguous or not for `arch`.
    """
    path, tag = split(agent, reference)
    if agent == "oci":
        return _from_layout(path, tag, reference, arch)
    layout = f"{scratch}/archive"
    os.mkdir(layout)
    _extract_plain(path, layout)
    return from_folder(agent, layout, tag, reference, arch)


def from_folder(agent: str, layout: str, tag: str, name: str, arch: str = "") -> Layers:
    """Return the layers of an image in an archive that is unpacked already.

    agent: "docker-archive", or any other value for an OCI layout.
    layout: the directory of the unpacked archive.
    tag: the name of the image in the archive; "" if it holds only one.
    name: the name of the archive for messages.
    arch: Go's name of the architecture, optionally with a variant; "" for this machine's.
    """
    return (_from_docker if agent == "docker-archive" else _from_layout)(layout, tag, name, arch)


def transport(folder: str) -> str:
    """Return the kind of the unpacked archive in a directory: "oci-archive", "docker-archive", or "" for neither."""
    names = set(os.listdir(folder))
    if {"oci-layout", "index.json"} <= names:
        return "oci-archive"
    if "manifest.json" not in names or not os.path.isfile(f"{folder}/manifest.json"):
        return ""
    try:
        entries = _json_list(f"{folder}/manifest.json", folder)
    except BollardError:
        return ""  # some other file of this name; the caller says what the archive is not
    return "docker-archive" if entries and all("Layers" in _dict(entry) for entry in entries) else ""


def unpack(layers: Layers, tree: Tree, name: str) -> None:
    """Unpack the layers into the empty tree, the lowest first; `name` is the image's name for messages.

    Raises:
        BollardError: a layer is damaged or too large, does not match its digest, or cannot be written.
    """
    for number, (path, digest) in enumerate(zip(layers.paths, layers.digests), 1):
        what = f"{name}: layer {number} of {len(layers.paths)}"
        with open(path, "rb") as file:
            apply(file, tree, what, digest)


def split(agent: str, reference: str) -> tuple[str, str]:
    """Split PATH[:NAME] of an archive into the path and the name of an image in it.

    Both may hold colons: the longest existing path is used.

    Raises:
        BollardError: no such path exists, or the name is empty.
    """
    path = reference
    while not os.path.exists(path):
        path, colon, _ = path.rpartition(":")
        if not colon:
            raise BollardError(f"{agent}:{reference}: no such file or directory", "check the path")
    if reference == f"{path}:":
        raise BollardError(f"{agent}:{reference}: names no image behind its last colon", "write a name or a tag there")
    return path, reference[len(path) + 1 :]


def _from_layout(layout: str, tag: str, name: str, arch: str) -> Layers:
    found = _json(f"{layout}/index.json", name)
    entries = [item for item in _list(found.get("manifests")) if isinstance(item, dict)]
    named = [item for item in entries if tag in _dict(item.get("annotations")).values()] if tag else entries
    digests = {str(item.get("digest")) for item in named}  # an image with two tags has two entries
    if len(digests) > 1 and len({json.dumps(item.get("annotations")) for item in named}) == 1:
        named = [{"digest": for_arch({"manifests": named}, arch, name)}]
    elif len(digests) != 1:
        known = [str(_dict(item.get("annotations")).get(_REF_NAME, "")) for item in entries]
        raise _ambiguous(name, len(digests), known, ":TAG")
    document = _blob(f"{layout}/blobs", named[0], name)
    for _ in range(4):
        if not is_index(document):
            break
        document = _blob(f"{layout}/blobs", {"digest": for_arch(document, arch, name)}, name)
    return from_manifest(document, f"{layout}/blobs", name, arch)


def _ambiguous(name: str, count: int, known: list[str], form: str) -> BollardError:
    names = [one for one in known if one.isprintable() and one]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    shown = ", ".join(names[:_NAMES_SHOWN]) + more
    if not count:
        has = f"it has {shown}" if names else "its images have no names"
        return BollardError(f"{name}: no image of that name", has)
    hint = f"add {form} to name one" + (f" of {shown}" if names else "")
    return BollardError(f"{name}: {count} images of that name", hint)


def from_manifest(document: dict[str, Any], blobs: str, name: str, arch: str = "") -> Layers:
    """Return the layers of a manifest of OCI or Docker.

    document: the manifest.
    blobs: the directory of the blobs, laid out as in an OCI image layout.
    name: the name of the image for messages.
    arch: Go's name of the architecture, optionally with a variant; "" accepts every architecture.

    Raises:
        BollardError: the image is damaged, has no layers, keeps one elsewhere, or is not for the architecture `arch`.
    """
    config = _blob(blobs, _dict(document.get("config")), name)
    _check_arch(config, arch, name)
    listed = _list(document.get("layers"))
    if not listed:
        raise BollardError(f"{name}: has no layers, so no files", "name another image")
    for number, layer in enumerate(map(_dict, listed), 1):
        if layer.get("urls") and any(word in str(layer.get("mediaType")) for word in _ELSEWHERE):
            place = shown(str(layer["urls"]))[:_SHOWN_MAX]
            raise BollardError(
                f"{name}: layer {number} is not in the registry, but at {place}", "let its author push the whole image"
            )
    layers = digests(document, name)[: len(listed)]
    paths = tuple(f"{blobs}/{digest.replace(':', '/')}" for digest in layers)
    return Layers(paths, tuple(layers), _dict(config.get("config")))


def _check_arch(config: dict[str, Any], arch: str, name: str) -> None:
    found, wanted = config.get("architecture"), arch.partition("/")[0]
    if wanted and isinstance(found, str) and found and found != wanted:
        shown = found if found.isprintable() else ascii(found)
        raise BollardError(f"{name}: is for {shown}, not for {wanted}", f"name another image, or --arch {shown}")


def digests(document: dict[str, Any], name: str) -> list[str]:
    """Return the digests of a manifest's layers, then that of its configuration if it has one.

    Raises:
        BollardError: the manifest has over 1024 layers, or a digest is not a SHA-256.
    """
    layers = [_dict(item) for item in _list(document.get("layers"))]
    if len(layers) > _MAX_LAYERS:
        raise BollardError(f"{name}: over {_MAX_LAYERS} layers", "flatten it first")
    config = document.get("config")
    return [_digest(item, name) for item in (*layers, *([_dict(config)] if config else []))]


def is_index(document: dict[str, Any]) -> bool:
    """Return whether the document is an index, a list of manifests."""
    return document.get("mediaType") in _INDEXES or "manifests" in document


def _from_docker(layout: str, tag: str, name: str, arch: str) -> Layers:
    entries = [item for item in _json_list(f"{layout}/manifest.json", name) if isinstance(item, dict)]
    # Some programs write the registry's name before the tag, others do not.
    named = [item for item in entries if any(f"/{one}".endswith(f"/{tag}") for one in _tags(item))]
    named = named if tag else entries
    if len(named) != 1:
        known = [one for item in entries for one in _tags(item)]
        raise _ambiguous(name, len(named), known, ":NAME:TAG")
    config = _json(_inside(layout, str(named[0].get("Config")), name), name)
    _check_arch(config, arch, name)
    paths = tuple(_inside(layout, path, name) for path in oci_config.strings(named[0].get("Layers")))
    # diff_ids are the digests of the uncompressed tar files. The layers of `docker save` are uncompressed.
    digests = oci_config.strings(_dict(config.get("rootfs")).get("diff_ids"))
    known = digests if len(digests) == len(paths) and all(_is_plain(path) for path in paths) else [""] * len(paths)
    return Layers(paths, tuple(known), _dict(config.get("config")))


def _tags(entry: dict[str, Any]) -> list[str]:
    return oci_config.strings(entry.get("RepoTags"))


def _is_plain(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(263)[257:262] == b"ustar"


def for_arch(index: dict[str, Any], arch: str, name: str) -> str:
    """Return the digest of the best image in an index; else of the one entry that is an index itself.

    index: the index.
    arch: Go's name of the architecture, optionally with a variant; "" for this machine's.
    name: the name of the image for messages.

    Raises:
        BollardError: the index has no image for the architecture.
    """
    arch = arch or sif.arch_name(os.uname().machine)
    wanted, most = arch.partition("/")[0], variants.highest(arch)
    known, best, digest, inner = set(), -1, "", set()
    for item in map(_dict, _list(index.get("manifests"))):
        platform = _dict(item.get("platform"))
        if not platform.get("architecture"):
            if item.get("mediaType") in _INDEXES:
                inner.add(_digest(item, name))
            continue
        found, variant = str(platform.get("architecture")), str(platform.get("variant") or "")
        known.add(f"{found}/{variant}" if variant else found)
        if found != wanted or platform.get("os", "linux") != "linux":
            continue
        rank = variants.rank(wanted, variant, most)
        if rank > best:
            best, digest = rank, _digest(item, name)
    if digest or len(inner) == 1:
        return digest or inner.pop()
    others = sorted(one for one in known - {"unknown"} if one.isprintable())
    asked = f"{wanted}/{most}" if most and any(one.partition("/")[0] == wanted for one in others) else wanted
    if not others:
        what = f"{name}: no image of it names an architecture, which has to be {asked}"
        raise BollardError(what, "name another image")
    raise BollardError(f"{name}: no image for {asked}, only for {', '.join(others)}", "name another image, or --arch")


def _inside(layout: str, path: str, name: str) -> str:
    if not path.isprintable():  # a NUL byte or a lone surrogate would make realpath fail
        raise BollardError(f"{name}: names {ascii(path)}, which it does not hold", "fetch it again")
    full = os.path.realpath(os.path.join(layout, path))
    if os.path.commonpath((full, os.path.realpath(layout))) != os.path.realpath(layout) or not os.path.isfile(full):
        raise BollardError(f"{name}: names {path}, which it does not hold", "fetch it again")
    return full


def _blob(blobs: str, item: dict[str, Any], name: str) -> dict[str, Any]:
    digest = _digest(item, name)
    path = f"{blobs}/{digest.replace(':', '/')}"
    document = _json(path, name)
    with open(path, "rb") as file:
        if hashlib.sha256(file.read(MAX_JSON)).hexdigest() != digest.partition(":")[2]:
            raise BollardError(f"{name}: a blob does not match its digest {digest}", "fetch it again")
    return document


def _digest(item: dict[str, Any], name: str) -> str:
    digest = item.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BollardError(f"{name}: damaged: {digest!r} is no SHA-256 digest", "fetch it again")
    return digest


def _json(path: str, name: str) -> dict[str, Any]:
    found = _load(path, name)
    if not isinstance(found, dict):
        raise BollardError(f"{name}: damaged: {os.path.basename(path)} is no JSON object", "fetch it again")
    return found


def json_object(raw: bytes) -> dict[str, Any] | None:
    """Return the object that a text in JSON is; None if it is none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json_list(path: str, name: str) -> list[Any]:
    return _list(_load(path, name))


def _load(path: str, name: str) -> object:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise BollardError(f"{name}: {os.path.basename(path)} has over {MAX_JSON} bytes", "fetch it again")
        loaded: object = json.loads(data)
    except FileNotFoundError:
        raise BollardError(
            f"{name}: damaged: it lacks {os.path.basename(path)}", "is it an image of that kind?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BollardError(f"{name}: damaged: {os.path.basename(path)}: {error}", "fetch it again") from None
    return loaded


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _extract_plain(path: str, target: str) -> None:
    """Unpack an archive of blobs. It may hold links between them, as Docker's do."""
    place = Tree(target)
    try:
        with open(path, "rb") as file:
            apply(file, place, path, layer=False)
    finally:
        place.close()
