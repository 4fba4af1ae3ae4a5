# SPDX-License-Identifier: BSD-3-Clause
"""Names of images in registries and other places (docker://, oras://, library://, ...) as data.

    docker://HOST/NAME[:TAG][@sha256:HEX]     library://[HOST/]ENTITY/COLLECTION/CONTAINER[:TAG]

Spelling and default file names are Apptainer's. All functions are pure: they open no file and no connection.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bollard.runtime.errors import BollardError

ARCHIVES = ("oci", "oci-archive", "docker-archive")
SCHEMES = ("docker", "oras", "library", "docker-daemon", *ARCHIVES, "http", "https")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Characters allowed in an argument of skopeo and in a URL: no space, no control character, no "-" at the start.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/@+,\[\]%~-]*")
_LIBRARY_TAG = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}")


class Reference(NamedTuple):
    """The name of an image: `uri` as the user typed it; `name` is the part after the scheme and its slashes."""

    uri: str
    scheme: str
    name: str


class LibraryPath(NamedTuple):
    """The parts of a name in a container library."""

    host: str  # "" if the name has no host
    path: str
    tag: str


def parse(uri: str) -> Reference:
    """Return the reference for a URI.

    Raises:
        BollardError: the scheme is unknown, or the rest is not the name of an image.
    """
    scheme, _, rest = uri.partition(":")
    scheme = "docker-daemon" if scheme == "dockerd" else scheme.lower()  # enroot's word for it
    if scheme not in SCHEMES:
        known = f"known are {', '.join(SCHEMES)}"
        if scheme == "podman":  # enroot's word for the user's own store of podman
            save = f"podman save --format oci-archive -o FILE.tar {rest.lstrip('/')}"
            hint = f"use `{save}` and oci-archive:FILE.tar"
            raise BollardError(f"{_shown(uri)}: podman's own store is not read", hint)
        hint = known if rest.startswith("//") else f"an image of a registry is docker://{_shown(uri)}; {known}"
        raise BollardError(f"{_shown(uri)}: {scheme} images cannot be fetched", hint)
    if scheme in ARCHIVES:
        name = rest[2:] if rest.startswith("//") else rest
    elif scheme in ("http", "https"):
        name = rest[2:] if rest.startswith("//") else ""
    else:
        name = rest.lstrip("/")
        if scheme in ("docker", "oras") and name and len(rest) - len(name) == 1:  # docker:/alpine
            raise BollardError(f"{_shown(uri)}: is not the name of an image", f"write {scheme}://{_shown(name)}")
    return make(scheme, name, uri)


def make(scheme: str, name: str, uri: str = "") -> Reference:
    """Return the reference for a scheme and a name, as a definition file gives them.

    scheme: one of SCHEMES; for a definition file, its bootstrap agent.
    name: the part after the scheme and its slashes.
    uri: the URI for messages; "" to make it from scheme and name.

    Raises:
        BollardError: `name` is empty or is not the name of an image.
    """
    uri = uri or (f"{scheme}:{name}" if scheme in ARCHIVES or scheme == "docker-daemon" else f"{scheme}://{name}")
    if scheme == "docker" and "#" in name:  # enroot's form: [USER@]REGISTRY#NAME
        host, _, name = name.partition("#")
        name = f"{host.rpartition('@')[2]}/{name}"
    if not name:
        raise BollardError(f"{_shown(uri)}: names no image", f"write {scheme}:{'' if scheme in ARCHIVES else '//'}NAME")
    if scheme in ("docker", "oras") and name.startswith("["):  # skopeo 1.22 takes none either
        raise BollardError(f"{_shown(uri)}: an IPv6 address cannot name a registry", "use the name of its host")
    web = scheme in ("http", "https")
    if scheme not in ARCHIVES and not (name.isascii() and name.isprintable() if web else _NAME.fullmatch(name)):
        raise BollardError(f"{_shown(uri)}: is not the name of an image", "check its spelling")
    if scheme in ("docker", "oras") and not {".", ".."}.isdisjoint(name.split("/")):
        raise BollardError(f"{_shown(uri)}: is not the name of an image", "leave . and .. out")
    return Reference(uri, scheme, name)


def digest(reference: Reference) -> str:
    """Return the digest in a name, "sha256:HEX"; "" if the name has none.

    Raises:
        BollardError: the part after @ is not a SHA-256 digest.
    """
    _, at, found = reference.name.partition("@")
    if at and not _DIGEST.fullmatch(found):
        small = _DIGEST.fullmatch(found.lower())
        hint = f"write @{found.lower()}, in lower case" if small else "write NAME@sha256:HEX"
        raise BollardError(f"{_shown(reference.uri)}: {found!r} is not a SHA-256 digest", hint)
    return found


def with_digest(reference: Reference, digest: str) -> str:
    """Return the URI of an image in a registry by its digest, given in hexadecimal digits."""
    return f"{reference.scheme}://{repository(reference.name)}@sha256:{digest}"


def repository(name: str) -> str:
    """Return a registry's name of an image without tag and digest."""
    name = name.partition("@")[0]
    above, slash, last = name.rpartition("/")
    return above + slash + last.partition(":")[0]


def registry(name: str) -> str:
    """Return the registry in a name, as docker does: the part before the first / if it can be a host.

    "" means the default registry of skopeo.
    """
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def library_path(reference: Reference) -> LibraryPath:
    """Return host, path and tag of a library's name. With three or more slashes the first part is a host.

    The first of several tags is used.

    Raises:
        BollardError: the name is not a name in a library.
    """
    name, host = reference.name, ""
    if name.count("/") > 2:
        host, _, name = name.partition("/")
    path, _, tags = name.partition(":")
    tag = tags.partition(",")[0] or "latest"
    if not path.strip("/") or ".." in path.split("/") or not _LIBRARY_TAG.fullmatch(tag):
        raise BollardError(
            f"{_shown(reference.uri)}: is not a name in a library", "write library://ENTITY/COLLECTION/CONTAINER:TAG"
        )
    return LibraryPath(host, path, tag)


def library_tags(reference: Reference) -> list[str]:
    """Return all tags of a library's name. Raises BollardError as `library_path`, for each of them."""
    name = reference.name.partition("/")[2] if reference.name.count("/") > 2 else reference.name
    path, _, tags = name.partition(":")
    found = [tag for tag in tags.split(",") if tag] or ["latest"]
    for tag in found:
        library_path(reference._replace(name=f"{path}:{tag}"))
    return found


def file_name(reference: Reference) -> str:
    """Return the default file name for `bollard pull`: NAME_TAG.sif, or the last part of a URL.

    Raises:
        BollardError: the URL does not end with a file name.
    """
    last = reference.name.lstrip("/").rpartition("/")[2]
    if reference.scheme in ("http", "https"):
        last = last.partition("?")[0].partition("#")[0]
        if last in ("", ".", ".."):
            text = f"{_shown(reference.uri)}: does not end with a file's name"
            raise BollardError(text, "write `bollard pull FILE URI`")
        return last
    container, _, tags = last.partition(":")
    return f"{container}_{tags.partition(':')[0].partition(',')[0] or 'latest'}.sif"


def _shown(uri: str) -> str:
    return uri if uri.isprintable() else ascii(uri)[1:-1]
