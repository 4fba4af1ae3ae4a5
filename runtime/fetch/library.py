# SPDX-License-Identifier: BSD-3-Clause
"""library://: look up an image in a container library, with the library protocol.

    GET BASE/v1/images/PATH:TAG?arch=ARCH        {"data": {"hash": "sha256.HEX", "size": BYTES, ...}}
    GET BASE/v1/imagefile/PATH:TAG?arch=ARCH     the file, through a redirect to its place

The library is the host in the name, or the one of --library or its environment variables, or of `Library:` in a
definition file. As in Apptainer, there is no default library.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, urlencode

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import reference, web
from bollard.runtime.fetch.reference import Reference

_HASH = re.compile(r"sha256\.([0-9a-f]{64})")


class Image(NamedTuple):
    """An image in a library: digest in hexadecimal digits, size in bytes (0 for unknown), URL of the file."""

    digest: str
    size: int
    url: str


def pinned(name: Reference) -> str:
    """Return the digest, in hexadecimal digits, if the tag of the name is a digest; else ""."""
    found = _HASH.fullmatch(reference.library_path(name).tag)
    return found[1] if found else ""


def look_up(name: Reference, library: str, arch: str, insecure: bool = False) -> Image:
    """Ask a library for an image.

    name: the reference, library://...
    library: the URL or host of the library; "" if the name holds the host.
    arch: Go's name of the architecture.
    insecure: use plain HTTP for a host that the name holds.

    Raises:
        BollardError: no library is named, or two are; the library is not a web address; it gives no SHA-256.
    """
    host, path, tag = reference.library_path(name)
    if host and library:
        raise BollardError(f"{name.uri}: names its library, and so does --library {library}", "name it once")
    base = f"{'http' if insecure else 'https'}://{host}" if host else library
    if not base:
        raise BollardError(
            f"{name.uri}: no library is named",
            "add --library URL, set BOLLARD_LIBRARY, or write library://HOST/ENTITY/COLLECTION/CONTAINER",
        )
    base = base if "://" in base else f"https://{base}"
    if not base.startswith(("http://", "https://")):
        raise BollardError(f"library {base}: is not a web address", "write https://HOST")
    where = f"{quote(path)}:{tag}?{urlencode({'arch': arch})}"
    base = base.rstrip("/")
    found = web.document(f"{base}/v1/images/{where}", name.uri).get("data")
    data = found if isinstance(found, dict) else {}
    said = _HASH.fullmatch(str(data.get("hash", "")))
    if not said:
        raise BollardError(
            f"{name.uri}: the library gives no SHA-256 for it", "an image is not used without one; name another"
        )
    size = data.get("size")
    size = size if isinstance(size, int) and 0 < size <= web.MAX_FILE else 0
    return Image(said[1], size, f"{base}/v1/imagefile/{where}")
