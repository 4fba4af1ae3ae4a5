# SPDX-License-Identifier: BSD-3-Clause
"""What a signature in a SIF file covers: digests of the header, the descriptors and the objects of one group.

The signed text is a JSON document, as apptainer/sif (pkg/integrity) writes it:

    {"version":1,"header":{"digest":"sha256:H"},
     "objects":[{"relativeId":N,"descriptorDigest":"sha256:D","objectDigest":"sha256:O"},...]}

    H  launch script, magic, version and id of the header
    D  the descriptor without offset, size with padding, time of change and group; the number of the object is
       relative to the smallest number in the group
    O  the bytes of the object

Not covered: the header's architecture, times and counters; where an object lies in the file; bytes between objects.
A signature object belongs to no group; its link names the group that it is about.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from dataclasses import dataclass as record
    from typing import Any, Final

    from bollard.runtime.image.sif import Descriptor, Sif
else:
    from bollard.runtime.frozen import record

# A signature of 4096 objects has 1 MiB.
MAX_SIGNATURE: Final = 4 << 20
# The numbers of the hashes in a signature's descriptor. The two BLAKE2 hashes have numbers, and nobody uses them.
HASH_NUMBERS: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
# The hashes that may stand in the signed text, by Go's names, and Python's names for them.
HASHES: Final = {
    "sha224": "sha224",
    "sha256": "sha256",
    "sha384": "sha384",
    "sha512": "sha512",
    "sha512_224": "sha512_224",
    "sha512_256": "sha512_256",
}
_BLOCK: Final = 1 << 20
_HEX: Final = frozenset("0123456789abcdef")
PGP_BEGIN: Final = b"-----BEGIN PGP SIGNED MESSAGE-----"
_LEGACY: Final = b"SIFHASH:"


@record(frozen=True)
class Signature:
    """A signature object of an image, as it is in the file; nothing of it is checked.

    id: the number of the object.
    group: the group that it is about; 0 if it names an object or nothing, as signatures from before 2020 do.
    kind: "pgp", "dsse", or "legacy" for the form from before 2020, which does not cover descriptors.
    entity: the signer's PGP fingerprint that the descriptor names, 40 hexadecimal digits; "" for none.
    data: the bytes of the object.
    """

    id: int
    group: int
    kind: str
    entity: str
    data: bytes


@record(frozen=True)
class Metadata:
    """The signed text, parsed.

    header: the digest of the header, "sha256:HEX".
    objects: {relative number: (digest of the descriptor, digest of the object)}.
    """

    header: str
    objects: dict[int, tuple[str, str]]


def signatures(fd: int, found: Sif, group: int) -> list[Signature]:
    """Return the signatures about an object group, in table order.

    fd: the SIF file.
    found: its table.
    group: the number of the object group.

    Raises:
        BollardError: a signature has more than 4 MiB, or the file cannot be read.
    """
    return [_read(fd, found, item) for item in found.descriptors if is_about(item, group)]


def is_about(item: Descriptor, group: int) -> bool:
    """Return whether the object is a signature about object group `group`."""
    return item.datatype == sif.SIGNATURE and item.link == (group, True)


def _read(fd: int, found: Sif, item: Descriptor) -> Signature:
    if item.size > MAX_SIGNATURE:
        raise BollardError(
            f"{found.name}: damaged: signature object {item.id} has {item.size} bytes, {MAX_SIGNATURE} are allowed",
            "copy the image again",
        )
    data = sif.pread(fd, item.size, item.offset, found.name)
    entity = item.extra[4:24].hex().upper() if any(item.extra[4:24]) else ""
    number, is_group = item.link
    if not data.startswith(PGP_BEGIN):
        kind = "dsse"
    elif _LEGACY in data.partition(b"\n\n")[2][:64]:
        kind = "legacy"
    else:
        kind = "pgp"
    return Signature(item.id, number if is_group else 0, kind, entity, data)


def groups(found: Sif) -> list[int]:
    """Return the numbers of the object groups, in order."""
    return sorted({item.group for item in found.descriptors if item.group and item.datatype != sif.SIGNATURE})


def members(found: Sif, group: int) -> list[Descriptor]:
    """Return the objects of a group by number. Signatures are not members of the group that they are about.

    Raises:
        BollardError: there is no such group.
    """
    inside = [item for item in found.descriptors if item.group == group and group]
    if not inside:
        there = ", ".join(map(str, groups(found))) or "none"
        raise BollardError(f"{found.name}: no object group {group}", f"its groups: {there}")
    return sorted(inside, key=lambda item: item.id)


def strays(found: Sif) -> list[int]:
    """Return the numbers of the objects in no group. No signature can cover them; signatures are not counted."""
    return [item.id for item in found.descriptors if not item.group and item.datatype != sif.SIGNATURE]


class Digests:
    """Digests of one image. Each object is read once for each hash, however many signatures there are."""

    def __init__(self, fd: int, found: Sif) -> None:
        self._fd = fd
        self._found = found
        self._known: dict[tuple[str, int], str] = {}

    def header(self, name: str) -> str:
        """Return the digest of the covered part of the header. `name` is a key of HASHES.

        Raises:
            BollardError: this machine's OpenSSL lacks the hash.
        """
        raw = self._found.header.raw
        return _digest(name, raw[:45] + raw[48:64])

    def descriptor(self, name: str, item: Descriptor, first: int) -> str:
        """Return the digest of the covered part of a descriptor.

        name: a key of HASHES.
        item: the descriptor.
        first: the smallest number of an object in its group.

        Raises:
            BollardError: this machine's OpenSSL lacks the hash.
        """
        raw = item.raw
        relative = (item.id - first).to_bytes(4, "little")
        covered = (raw[:5], relative, raw[13:17], raw[25:33], raw[41:49], raw[57:])
        return _digest(name, b"".join(covered))

    def data(self, name: str, item: Descriptor) -> str:
        """Return the digest of the bytes of an object. `name` is a key of HASHES.

        Raises:
            BollardError: the file cannot be read, or it has become shorter.
        """
        key = (name, item.id)
        if key not in self._known:
            digest = _hash(name)
            at, end = item.offset, item.offset + item.size
            while at < end:
                block = sif.pread(self._fd, min(end - at, _BLOCK), at, self._found.name)
                digest.update(block)
                at += len(block)
            self._known[key] = f"{name}:{digest.hexdigest()}"
        return self._known[key]


def _hash(name: str, data: bytes = b"") -> Any:
    import hashlib

    try:
        return hashlib.new(HASHES[name], data)
    except ValueError:  # OpenSSL in FIPS mode, or without SHA-512/224
        raise BollardError(
            f"this machine's OpenSSL has no hash {name}", "verify the image on another machine"
        ) from None


def _digest(name: str, data: bytes) -> str:
    return f"{name}:{_hash(name, data).hexdigest()}"


def text(digests: Digests, group: Sequence[Descriptor], chosen: Iterable[int] = ()) -> bytes:
    """Return the text to sign, with SHA-256.

    digests: of the image.
    group: all objects of the group.
    chosen: the numbers of the objects to sign; none for all of the group.
    """
    import json

    wanted = frozenset(chosen) or {item.id for item in group}
    first = min(item.id for item in group)
    objects = [
        {
            "relativeId": item.id - first,
            "descriptorDigest": digests.descriptor("sha256", item, first),
            "objectDigest": digests.data("sha256", item),
        }
        for item in sorted(group, key=lambda item: item.id)
        if item.id in wanted
    ]
    document = {"version": 1, "header": {"digest": digests.header("sha256")}, "objects": objects}
    return json.dumps(document, separators=(",", ":")).encode()


def parse(signed: bytes) -> Metadata:
    """Return the content of a signed text.

    Raises:
        ValueError: it is not such a document; the message says why.
    """
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("it names something twice")
        return found

    try:
        document = json.loads(signed, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(document, dict) or document.get("version") != 1:
        raise ValueError("it is not signed metadata of version 1")
    header, entries = document.get("header"), document.get("objects")
    if not isinstance(header, dict) or not isinstance(entries, list) or len(entries) > sif.MAX_DESCRIPTORS:
        raise ValueError("it lacks the header or the objects")
    objects: dict[int, tuple[str, str]] = {}
    for entry in entries:
        relative = entry.get("relativeId") if isinstance(entry, dict) else None
        if not isinstance(relative, int) or isinstance(relative, bool) or relative < 0 or relative in objects:
            raise ValueError("an object has no number, or that of another")
        objects[relative] = (_checked(entry.get("descriptorDigest")), _checked(entry.get("objectDigest")))
    return Metadata(_checked(header.get("digest")), objects)


def _checked(value: object) -> str:
    """Return a digest in the form HASH:HEX, or raise ValueError."""
    import hashlib

    name, colon, digits = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not colon or name not in HASHES:
        raise ValueError(f"it has a digest of an unknown kind, {name[:20]!r}")
    size = int(name[-3:]) // 4 if name != "sha512" else hashlib.sha512().digest_size * 2
    if len(digits) != size or not set(digits) <= _HEX:
        raise ValueError("a digest in it has the wrong form")
    return f"{name}:{digits}"


@record(frozen=True)
class Comparison:
    """How an image compares with a signed text.

    covered: the numbers of the objects that are as they were signed.
    changed: the numbers of the objects that are not.
    unsigned: the numbers of the objects of the group that the text does not name.
    missing: how many objects the text names that are not in the group.
    header: whether the header is as it was signed.
    """

    covered: tuple[int, ...]
    changed: tuple[int, ...]
    unsigned: tuple[int, ...]
    missing: int
    header: bool


def compare(digests: Digests, group: Sequence[Descriptor], signed: Metadata, first: int) -> Comparison:
    """Compare objects of one group with a signed text.

    digests: of the image.
    group: the objects to compare.
    signed: the signed text.
    first: the smallest number of an object in the group.
    """
    covered, changed, unsigned = [], [], []
    for item in group:
        want = signed.objects.get(item.id - first)
        if want is None:
            unsigned.append(item.id)
        elif all(
            (
                digests.descriptor(want[0].partition(":")[0], item, first) == want[0],
                digests.data(want[1].partition(":")[0], item) == want[1],
            )
        ):
            covered.append(item.id)
        else:
            changed.append(item.id)
    missing = len(signed.objects.keys() - {item.id - first for item in group})
    header = digests.header(signed.header.partition(":")[0]) == signed.header
    return Comparison(tuple(covered), tuple(changed), tuple(unsigned), missing, header)
