# SPDX-License-Identifier: BSD-3-Clause
"""The provenance statement of a new image: in-toto's Statement v1 with SLSA's predicate Provenance v1 (slsa.dev).

It says from which definition and from which base image the image was made, by which program, and when. Its subject is
the image's filesystem; the writer of the SIF file adds that digest when mksquashfs has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, NamedTuple

import bollard
from bollard.runtime.image import image_sbom, sif, sif_write

BUILD_TYPE = "urn:bollard:build:v1"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NO_DIGEST = "0" * 2 * hashlib.sha256().digest_size
_NO_TIME = time.strftime(_TIME, time.gmtime(0))


class Base(NamedTuple):
    """An image that a stage starts from: its name as in the definition, and its SHA-256 in hexadecimal digits.

    The digest is that of the manifest for an image of a registry, that of the whole file for a file, and "" for a
    directory.
    """

    uri: str
    digest: str


class Facts(NamedTuple):
    """What a statement tells of a build.

    definition: the text of the definition file in the image, "" for a plain directory.
    source: the plain directory, "" where there is a definition.
    bases: the images that its stages start from.
    arguments: the names of the build arguments; their values may be secret.
    sections: the sections that were used.
    started: in seconds since 1970.
    """

    definition: str
    source: str
    bases: tuple[Base, ...]
    arguments: tuple[str, ...]
    sections: tuple[str, ...]
    started: float


def statement(facts: Facts) -> sif_write.Object:
    """Return the statement as an object of a SIF file."""
    text = json.dumps(_plain(facts), separators=(",", ":")).encode()

    def finish(digest: str) -> bytes:
        done = text.replace(_NO_DIGEST.encode(), digest.encode(), 1)
        now = clock()
        return done.replace(b'"finishedOn":"' + _NO_TIME.encode(), b'"finishedOn":"' + _time(now).encode(), 1)

    return sif_write.Object(sif.GENERIC_JSON, image_sbom.PROVENANCE, text, finish=finish)


def clock() -> float:
    """Return the time for a new image in seconds since 1970: SOURCE_DATE_EPOCH if it is set, else now."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return float(epoch) if epoch else time.time()


def _time(seconds: float) -> str:
    return time.strftime(_TIME, time.gmtime(seconds))


def _plain(facts: Facts) -> dict[str, Any]:
    text = facts.definition.encode("utf-8", "surrogateescape")
    external: dict[str, Any] = {"source": _printable(facts.source)} if facts.source else {}
    if text:
        external["definition"] = {"sha256": hashlib.sha256(text).hexdigest()}
    if facts.arguments:
        external["buildArguments"] = sorted(map(_printable, facts.arguments))
    external["sections"] = sorted(facts.sections)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "rootfs.squashfs", "digest": {"sha256": _NO_DIGEST}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": {},
                "resolvedDependencies": [
                    {"uri": _printable(base.uri), **({"digest": {"sha256": base.digest}} if base.digest else {})}
                    for base in facts.bases
                ],
            },
            "runDetails": {
                "builder": {"id": BUILD_TYPE, "version": {"bollard": bollard.__version__}},
                "metadata": {"startedOn": _time(facts.started), "finishedOn": _NO_TIME},
            },
        },
    }


def _printable(text: str) -> str:
    """Return the text without the surrogates that stand for bytes which are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
