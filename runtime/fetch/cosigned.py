# SPDX-License-Identifier: BSD-3-Clause
"""Images of registries that cosign has signed with a plain key: find the signatures, and verify the digest.

cosign keeps the signatures of the manifest sha256:HEX in the image's own repository:

    sha256-HEX.sig   an image whose layers are documents of simple signing
    sha256-HEX       an index of what refers to it, where the registry has no list of referrers: cosign 3's bundles

A registry that has a list of referrers is asked for it if no signature at these tags is good.

What is verified is the digest that the registry gives now; it is returned, so that the same image is fetched later.
"""

from __future__ import annotations

import hashlib
import tempfile
from typing import Any

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import oci, reference, referrers, registry, skopeo_policy
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.registry import Access
from bollard.runtime.trust import cosign

_SIGNATURES_MAX = 64
# The largest sum of the sizes in one manifest of signatures: skopeo fetches all of its layers, whatever they are.
_FETCHED_MAX = 8 << 20  # bytes


def verified(name: Reference, key: Any, access: Access) -> tuple[Reference, int]:
    """Return the image's name with the digest that the key has signed, and how many signatures of the key there are.

    name: the reference, docker:// or oras://.
    key: the public key (trust.dsse).
    access: how to access the registry.

    Raises:
        BollardError: the registry does not have the image, it has no signature, or none by this key.
    """
    raw = registry.manifest(name, access)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    pinned = reference.digest(name)
    if pinned and digest != pinned:
        raise BollardError(f"{name.uri}: the registry sent another manifest, {digest}", "do not use it")
    faults = [*_simple(name, key, digest, access), *_bundles(name, key, digest, access)]
    unread = ""
    if "" not in faults:
        try:
            faults += _of(referrers.listed(name, digest, access), name, key, digest, access)
        except BollardError as error:
            unread = error.message.removeprefix(f"{name.uri}: ")
    if not faults:
        why = f"; {unread}" if unread else ""
        raise BollardError(f"{name.uri}: has no signature of cosign for {digest}{why}", "do not trust it")
    if "" not in faults:
        told = ", ".join([*sorted(set(faults)), *([unread] if unread else [])])
        raise BollardError(
            f"{name.uri}: none of {len(faults)} signatures is good: {told}", "check the key; do not trust the image"
        )
    return Reference(reference.with_digest(name, digest.partition(":")[2]), name.scheme,
                     f"{reference.repository(name.name)}@{digest}"), faults.count("")  # fmt: skip


def _simple(name: Reference, key: Any, digest: str, access: Access) -> list[str]:
    """Return the fault of each document of simple signing, "" for a good one."""
    found = _tagged(name, f"{digest.replace(':', '-')}.sig", access)
    if found is None:
        return []
    where, document = found
    signed = []
    for layer in _layers(document, cosign.SIMPLE_SIGNING):
        notes = layer.get("annotations")
        signature = notes.get(cosign.SIGNATURE) if isinstance(notes, dict) else None
        if isinstance(signature, str):
            signed.append((layer, signature))
    texts = _documents(where, document, [layer for layer, _ in signed], access)
    return [
        cosign.fault_of_simple(text, signature, key, digest) or _fault_of_place(text, name)
        for text, (_, signature) in zip(texts, signed)
    ]


def _fault_of_place(text: bytes, name: Reference) -> str:
    """Return what is wrong with the repository that a good document names; "" if it is the one that was asked for.

    Who can write to a repository can copy an image and its signature there from another one.
    """
    said = cosign.repository_of(text)
    about, wanted = registry.full_repository(said), registry.full_repository(name.name)
    if said and about == wanted:
        return ""
    return f"it is about {shown(about) if said else 'no repository'}, not {wanted}"


def _bundles(name: Reference, key: Any, digest: str, access: Access) -> list[str]:
    """Return the fault of each bundle, "" for a good one."""
    found = _tagged(name, digest.replace(":", "-"), access)
    if found is None:
        return []
    listed = found[1].get("manifests")
    entries = [entry for entry in (listed if isinstance(listed, list) else []) if isinstance(entry, dict)]
    return _of(entries, name, key, digest, access)


def _of(entries: list[dict[str, Any]], name: Reference, key: Any, digest: str, access: Access) -> list[str]:
    """Return the fault of each bundle in the manifests that refer to an image, "" for a good one.

    entries: the descriptors of these manifests.
    name, key, digest, access: as for `_bundles`.
    """
    faults = []
    for entry in entries[:_SIGNATURES_MAX]:
        # Not by the artifactType in the index: cosign 3.1 writes there that the configuration is empty.
        other = oci.digests({"layers": [entry]}, name.uri)[0]
        where = _at(name, f"@{other}")
        document = _object(registry.manifest(where, access), other, name)
        texts = _documents(where, document, _layers(document, cosign.BUNDLE), access)
        faults += [cosign.fault_of_bundle(text, key, digest) for text in texts]
    return faults


def _tagged(name: Reference, tag: str, access: Access) -> tuple[Reference, dict[str, Any]] | None:
    """Return a manifest of the image's repository and its name with a digest; None if there is no such tag."""
    try:
        raw = registry.manifest(_at(name, f":{tag}"), access)
    except BollardError as error:
        if ": no such image" in error.message:
            return None
        raise
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return _at(name, f"@{digest}"), _object(raw, digest, name)


def _at(name: Reference, end: str) -> Reference:
    return Reference(name.uri, name.scheme, f"{reference.repository(name.name)}{end}")


def _layers(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    listed = document.get("layers")
    found = [item for item in (listed if isinstance(listed, list) else []) if isinstance(item, dict)]
    return [item for item in found if str(item.get("mediaType")).startswith(kind)][:_SIGNATURES_MAX]


def _documents(where: Reference, document: dict[str, Any], layers: list[dict[str, Any]], access: Access) -> list[bytes]:
    """Return the contents of some layers of a manifest, which is copied once. Each is compared with its digest.

    where: the name of the manifest with its digest.
    document: the manifest.
    layers: those of its layers that are documents.
    access: how to access the registry.

    Raises:
        BollardError: a document or all that the manifest names is too large, or is not what its digest says.
    """
    if not layers:
        return []
    for layer in layers:
        size = layer.get("size")
        if not isinstance(size, int) or not 0 < size <= cosign.DOCUMENT_MAX:
            raise BollardError(f"{where.uri}: a signature of {shown(str(size))[:20]} bytes", "do not trust the image")
    _refuse_large(where, document)
    data = []
    with tempfile.TemporaryDirectory(prefix="bollard-cosign-") as place:
        # The host's policy is about images. These are documents, and only a good signature of them counts.
        digest = reference.digest(where)
        registry.copy(where, digest, f"{place}/blobs", place, access, skopeo_policy.PERMISSIVE)
        for layer in layers:
            wanted = oci.digests({"layers": [layer]}, where.uri)[0]
            with open(f"{place}/blobs/{wanted.replace(':', '/')}", "rb") as file:
                data.append(file.read(cosign.DOCUMENT_MAX + 1))
            if f"sha256:{hashlib.sha256(data[-1]).hexdigest()}" != wanted:
                raise BollardError(f"{where.uri}: a signature does not match its digest", "do not trust the image")
    return data


def _refuse_large(where: Reference, document: dict[str, Any]) -> None:
    """Refuse a manifest of signatures whose blobs have no size, or more bytes in all than signatures need."""
    listed = document.get("layers")
    blobs = [*(listed if isinstance(listed, list) else []), document.get("config")]
    sizes = [blob.get("size") if isinstance(blob, dict) else None for blob in blobs]
    known = [size for size in sizes if isinstance(size, int) and size >= 0]
    if len(known) != len(sizes) or sum(known) > _FETCHED_MAX:
        raise BollardError(
            f"{where.uri}: the manifest of its signatures names more than {_FETCHED_MAX} bytes, or no size",
            "do not trust the image",
        )


def _object(raw: bytes, digest: str, name: Reference) -> dict[str, Any]:
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
        raise BollardError(f"{name.uri}: the registry sent another manifest than {digest}", "do not trust the image")
    found = oci.json_object(raw)
    if found is None:
        raise BollardError(f"{name.uri}: a manifest of its signatures is not a JSON object", "do not trust the image")
    return found
