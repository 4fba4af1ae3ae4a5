# SPDX-License-Identifier: BSD-3-Clause
"""The software bill of materials of a new image: an SPDX 2.3 document, in JSON (spdx.github.io/spdx-spec/v2.3).

It is an object of the SIF file's primary group, so a signature of the group covers it. The document names each package
with its package URL (purl). If SOURCE_DATE_EPOCH is set, equal trees give equal documents.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from urllib.parse import quote

import bollard
from bollard.runtime.build import packages
from bollard.runtime.build.packages import Found, Package
from bollard.runtime.image import image_sbom, sif, sif_write
from bollard.runtime.system.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The same for all images: an image does not depend on the name of its file.
_IMAGE = "container-image"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_DISTRIBUTIONS = {"deb": "debian", "rpm": "redhat", "apk": "alpine"}  # of an image without os-release
_FORMAT_SPDX_JSON = 4  # of an SBOM object's `extra` field (apptainer/sif, pkg/sif/descriptor.go)


def of_tree(tree: Tree, now: float) -> tuple[sif_write.Object, tuple[str, ...]]:
    """Return the SBOM of a file tree as an object of a SIF file, and what could not be read, one text for each gap.

    tree: the tree of the image.
    now: the time of the build, in seconds since 1970.
    """
    found = packages.of_tree(tree)
    text = json.dumps(document(found, os_release(tree), now), separators=(",", ":")).encode()
    return sif_write.Object(sif.SBOM, image_sbom.NAME, text, _FORMAT_SPDX_JSON.to_bytes(4, "little")), found.gaps


def os_release(tree: Tree) -> dict[str, str]:
    """Return the variables of the image's os-release(5); {} if it has none."""
    text = tree.read("/etc/os-release") or tree.read("/usr/lib/os-release") or b""
    pairs = re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)", text.decode("utf-8", "replace"), re.MULTILINE)
    return dict(pairs)


def document(found: Found, system: dict[str, str], now: float) -> dict[str, Any]:
    """Return the SPDX document as plain data.

    found: the packages of the image, and the gaps.
    system: the variables of os-release.
    now: the time of the build, in seconds since 1970.
    """
    listed: list[dict[str, Any]] = [
        {
            "SPDXID": "SPDXRef-Image",
            "name": _IMAGE,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "primaryPackagePurpose": "CONTAINER",
        }
    ]
    for number, package in enumerate(found.packages, 1):
        listed.append(
            {
                "SPDXID": f"SPDXRef-{number}-{package.kind}-{re.sub('[^A-Za-z0-9.-]', '-', package.name)}",
                "name": package.name,
                "versionInfo": package.version,
                "supplier": "NOASSERTION",
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "externalRefs": [
                    {
                        "referenceCategory": "PACKAGE-MANAGER",
                        "referenceType": "purl",
                        "referenceLocator": purl(package, system),
                    }
                ],
            }
        )
    created = time.strftime(_TIME, time.gmtime(now))
    key = hashlib.sha256(json.dumps([created, listed], sort_keys=True).encode()).hexdigest()
    creation: dict[str, Any] = {"created": created, "creators": [f"Tool: bollard-{bollard.__version__}"]}
    if found.gaps:
        creation["comment"] = image_sbom.GAPS + "; ".join(found.gaps)
    described = ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")
    contained = [("SPDXRef-Image", "CONTAINS", str(item["SPDXID"])) for item in listed[1:]]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": _IMAGE,
        "documentNamespace": f"https://spdx.org/spdxdocs/bollard-{key[:32]}",
        "creationInfo": creation,
        "packages": listed,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in (described, *contained)
        ],
    }


def purl(package: Package, system: dict[str, str]) -> str:
    """Return the package URL (github.com/package-url/purl-spec) of a package.

    system: the variables of the image's os-release.
    """
    kind, name, version = package.kind, package.name, package.version
    space, qualifiers = "", {}
    if kind in _DISTRIBUTIONS:
        space = system.get("ID") or _DISTRIBUTIONS[kind]
        qualifiers["arch"] = package.arch
        if kind == "rpm" and ":" in version:
            qualifiers["epoch"], _, version = version.partition(":")
        qualifiers["upstream"] = package.origin if package.origin != name else ""
        if system.get("ID") and system.get("VERSION_ID"):
            qualifiers["distro"] = f"{system['ID']}-{system['VERSION_ID']}"
    elif kind == "pypi":
        name = re.sub("[-_.]+", "-", name).lower()
    elif kind == "conda":
        qualifiers = {"channel": package.origin, "subdir": package.arch}
    elif name.startswith("@") and "/" in name:
        space, _, name = name.partition("/")
    parts = [part for part in (space, name) if part]
    place = "/".join(quote(part, safe="-._~") for part in parts)
    after = "&".join(f"{key}={quote(value, safe='-._~:/')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{place}@{quote(version, safe='-._~:')}" + (f"?{after}" if after else "")
