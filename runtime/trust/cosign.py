# SPDX-License-Identifier: BSD-3-Clause
"""What cosign signs with a plain key: the digest of an image's manifest, in one of two documents.

    simple signing    {"critical": {"image": {"docker-manifest-digest": D}, "identity":
                      {"docker-reference": REPOSITORY}, "type": ...}}; the signature is beside it
    bundle (cosign 3) a DSSE envelope with an in-toto statement about D

Certificates and transparency logs are not read: the signature by the key alone counts.
"""

from __future__ import annotations

import base64
import binascii
import json

from bollard.runtime.trust import dsse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"  # an annotation of the layer with the document
BUNDLE: Final = "application/vnd.dev.sigstore.bundle"  # how the media type begins; a version follows
DOCUMENT_MAX: Final = 1 << 20  # bytes
_TYPE: Final = "cosign container image signature"
_IN_TOTO: Final = "application/vnd.in-toto+json"
_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"


def fault_of_simple(payload: bytes, signature: str, key: Any, digest: str) -> str:
    """Return what is wrong with a document of simple signing; "" if the key has signed the digest.

    payload: the document.
    signature: the signature in base64.
    key: the public key.
    digest: of the image's manifest, "sha256:HEX".

    Raises:
        BollardError: the package `cryptography` is not installed.
    """
    try:
        made = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return "its signature is not base64"
    if not dsse.is_valid(key, made, payload):
        return "another key has signed it"
    try:
        critical = json.loads(payload)["critical"]
        kind, signed = critical["type"], critical["image"]["docker-manifest-digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it is no document of simple signing"
    if kind != _TYPE:
        return "it is not a signature of an image"
    return "" if signed == digest else "it is about another image"


def repository_of(payload: bytes) -> str:
    """Return the repository that a good document of simple signing is about, as its signer wrote it; "" for none."""
    try:
        found = json.loads(payload)["critical"]["identity"]["docker-reference"]
    except (KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def fault_of_bundle(text: bytes, key: Any, digest: str) -> str:
    """Return what is wrong with a bundle of cosign 3; "" if the key has signed the digest. As `fault_of_simple`.

    Raises:
        BollardError: the package `cryptography` is not installed.
    """
    try:
        envelope = json.loads(text)["dsseEnvelope"]
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(item["sig"], validate=True) for item in envelope["signatures"]]
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        return "it is no bundle with an envelope"
    if kind != _IN_TOTO or len(signatures) != 1:
        return "it is no bundle of one signature"
    if not dsse.is_valid(key, signatures[0], dsse.to_sign(payload, kind)):
        return "another key has signed it"
    try:
        statement = json.loads(payload)
        predicate = statement["predicateType"]
        digests = [f"sha256:{subject['digest']['sha256']}" for subject in statement["subject"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it is no statement of in-toto"
    if predicate != _PREDICATE:
        return "it is an attestation, not a signature of the image"
    return "" if digests == [digest] else "it is about another image"
