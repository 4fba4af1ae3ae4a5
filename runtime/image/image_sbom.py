# SPDX-License-Identifier: BSD-3-Clause
"""Read the SBOM and the provenance statement that `bollard build` stores in an image."""

from __future__ import annotations

import json

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

NAME: Final = "sbom.spdx.json"
PROVENANCE: Final = "provenance.intoto.json"
# How the comment of a document begins in which packages are missing.
GAPS: Final = "Incomplete, these were not read: "
SIZE_MAX: Final = 256 << 20  # bytes of a document
_PURL: Final = "pkg:"


class Listed:
    """A package of an SBOM.

    kind: its package manager: deb, rpm, apk, pypi, conda, npm, or another type of purl.
    name, version: as the package manager prints them.
    purl: its package URL.
    """

    __slots__ = ("kind", "name", "purl", "version")

    def __init__(self, kind: str, name: str, version: str, purl: str) -> None:
        self.kind = kind
        self.name = name
        self.version = version
        self.purl = purl

    @property
    def upstream(self) -> str:
        """The name of the source package; "" if the purl names none."""
        from urllib.parse import unquote

        for word in self.purl.partition("?")[2].split("&"):
            if word.startswith("upstream="):
                return unquote(word[len("upstream=") :])
        return ""


class Sbom:
    """The content of an SBOM: its packages, and which of the image's databases it does not cover ("" for none)."""

    __slots__ = ("gaps", "packages")

    def __init__(self, packages: list[Listed], gaps: str) -> None:
        self.packages = packages
        self.gaps = gaps


def text_of(fd: int, opened: sif.Sif, provenance: bool = False) -> bytes | None:
    """Return the SBOM, or the provenance statement, in the primary partition's group; None if there is none.

    fd: the image file, open for reading.
    opened: its header and descriptors.
    provenance: return the provenance statement.

    Raises:
        BollardError: there are two of them, it is too large, or it cannot be read.
    """
    if sif.is_oci(opened):
        return None  # its layers come from elsewhere: no SBOM of ours is about them
    group = sif.primary(opened, encrypted=True).group
    kind, name = (sif.GENERIC_JSON, PROVENANCE) if provenance else (sif.SBOM, NAME)
    found = [d for d in opened.descriptors if (d.datatype, d.name, d.group) == (kind, name, group)]
    if not found:
        return None
    if len(found) > 1:
        raise BollardError(f"{opened.name}: has {len(found)} objects named {name}", "see `bollard sif list`")
    if found[0].size > SIZE_MAX:
        raise BollardError(f"{opened.name}: its {name} has {found[0].size} bytes", f"at most {SIZE_MAX} are read")
    return sif.pread(fd, found[0].size, found[0].offset, opened.name)


def text_in(path: str, provenance: bool = False) -> bytes:
    """Return the SBOM, or the provenance statement, of the SIF file at `path`.

    Raises:
        BollardError: the file has none, is not a SIF file, or cannot be read.
    """
    import os

    fd, opened = image.open_sif(path)
    try:
        text = text_of(fd, opened, provenance)
    finally:
        os.close(fd)
    if text is None:
        what = "provenance statement" if provenance else "SBOM"
        raise BollardError(
            f"{opened.name}: has no {what}", f"`bollard build NEW.sif {opened.name}` makes an image that has one"
        )
    return text


def parse(text: bytes, name: str) -> Sbom:
    """Return the packages of an SPDX document in JSON.

    text: the document.
    name: the name of the image for messages.

    Raises:
        BollardError: the text is not such a document.
    """
    try:
        found = json.loads(text)
        comment = found["creationInfo"].get("comment") or ""
        listed = [package for item in found["packages"] for package in _listed(item)]
        gaps = comment[len(GAPS) :] if comment.startswith(GAPS) else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BollardError(f"{name}: its SBOM is not an SPDX document in JSON", "build it again") from None
    return Sbom(listed, gaps)


def _listed(item: dict[str, Any]) -> list[Listed]:
    """Return the package of an entry; [] for the image itself, which has no purl."""
    for reference in item.get("externalRefs", ()):
        purl = reference["referenceLocator"]
        if reference["referenceType"] == "purl" and purl.startswith(_PURL):
            kind = purl[len(_PURL) :].split("/")[0]
            return [Listed(kind, str(item["name"]), str(item.get("versionInfo", "")), purl)]
    return []
