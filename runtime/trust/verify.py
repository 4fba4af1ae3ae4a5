# SPDX-License-Identifier: BSD-3-Clause
"""Verify the signatures of an image: one verdict for each signature, and what no signature covers.

Whoever decides by these verdicts reads the image through the same descriptor that was verified.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError
from bollard.runtime.trust import pgp, signature
from bollard.runtime.trust.signature import Digests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from dataclasses import dataclass as record
    from typing import Any

    from bollard.runtime.image.sif import Descriptor, Sif
    from bollard.runtime.trust.signature import Comparison, Signature
else:
    from bollard.runtime.frozen import record


@record(frozen=True)
class Trust:
    """Whose signatures count.

    keyrings: paths of files with public PGP keys, as pgp-public is one.
    keys: public keys of PEM files or certificates, from `dsse.public_key` and `dsse.certified_key`.
    gpgv: the path of gpgv, "" for that of the machine.
    """

    keyrings: tuple[str, ...] = ()
    keys: tuple[Any, ...] = ()
    gpgv: str = ""


@record(frozen=True)
class Verdict:
    """What one signature is worth.

    signature: the number of the signature object.
    group: the object group that it is about.
    kind: "pgp", "dsse" or "legacy".
    fingerprint: of the signer: a full PGP fingerprint in upper case, or "SHA256:..." of a PEM key. It is set only if
        the signature itself is valid.
    claimed: the fingerprint that the descriptor names, unchecked; for messages alone.
    name: the user id of a PGP key, or "".
    covered: the numbers of the objects that are as they were signed.
    changed: the numbers of the objects that differ from what was signed.
    uncovered: the numbers of the asked objects that the signature does not name.
    reason: why the signature does not count for all asked objects; "" if it does.
    unknown: the signer's PGP key is in none of the keyrings.
    mismatched: it was not looked at, because `Trust` has no keys of its kind.
    """

    signature: int
    group: int
    kind: str
    fingerprint: str
    claimed: str
    name: str
    covered: tuple[int, ...]
    changed: tuple[int, ...]
    uncovered: tuple[int, ...]
    reason: str
    unknown: bool = False
    mismatched: bool = False

    @property
    def good(self) -> bool:
        """Whether the signature is valid, by a trusted key, and about every asked object as it is now."""
        return not self.reason


@record(frozen=True)
class Report:
    """What the signatures of an image are worth.

    verdicts: one for each signature, in the order of groups.
    objects: the numbers of the objects that were asked about.
    unsigned: the numbers of the asked objects that no good signature covers.
    reason: why the image, or the asked part of it, does not count as signed; "" if it does. Every signature has to be
        good, as in Apptainer.
    absent: the asked groups that have no signature at all.
    before: how many verdicts come before the first such group; none if an object is in no group.
    """

    verdicts: tuple[Verdict, ...]
    objects: tuple[int, ...]
    unsigned: tuple[int, ...]
    reason: str
    absent: tuple[int, ...] = ()
    before: int = 0


def verify(fd: int, found: Sif, trust: Trust, *, groups: Iterable[int] = (), objects: Iterable[int] = ()) -> Report:
    """Verify the signatures of an image.

    fd: the open image; its descriptors are `found`.
    trust: whose signatures count.
    groups, objects: only these object groups and objects, by number; neither for the whole image.

    Raises:
        BollardError: there is no such group or object, the image cannot be read, or a program is missing.
    """
    digests = Digests(fd, found)
    groups, objects = tuple(groups), tuple(objects)
    if not groups and not objects:
        groups = tuple(signature.groups(found))
    tasks: list[tuple[int, list[Descriptor], tuple[int, ...]]] = []
    for group in groups:
        tasks.append((group, signature.members(found, group), ()))
    for number in objects:
        group = group_of(found, number)
        tasks.append((group, signature.members(found, group), (number,)))
    reason = "" if tasks else "it has no objects to sign"
    stray = signature.strays(found)
    if stray:
        reason = f"object {stray[0]} is in no group, so no signature can cover it"
    verdicts: list[Verdict] = []
    asked: dict[int, None] = {}
    absent: list[int] = []
    before = -1 if not stray else 0
    known: dict[bytes, Any] = {}
    for group, members, only in tasks:
        asked.update(dict.fromkeys(only or [item.id for item in members]))
        here = [judge(digests, members, item, trust, only, known) for item in signature.signatures(fd, found, group)]
        if not here:
            absent.append(group)
            before = len(verdicts) if before < 0 else before
            reason = reason or f"object group {group} is not signed"
        reason = reason or next((verdict.reason for verdict in here if verdict.reason), "")
        verdicts += here
    covered = {number for verdict in verdicts if verdict.good for number in verdict.covered}
    unsigned = tuple(number for number in asked if number not in covered)
    before = len(verdicts) if before < 0 else before
    return Report(tuple(verdicts), tuple(asked), unsigned, reason, tuple(absent), before)


def group_of(found: Sif, number: int) -> int:
    """Return the object group of object `number`.

    Raises:
        BollardError: there is no such object, or it is in no group.
    """
    for item in found.descriptors:
        if item.id == number:
            if not item.group:
                raise BollardError(f"{found.name}: object {number} is in no group", "a signature is about a group")
            return item.group
    there = ", ".join(str(item.id) for item in found.descriptors) or "none"
    raise BollardError(f"{found.name}: no object {number}", f"its objects: {there}")


def judge(
    digests: Digests,
    members: Sequence[Descriptor],
    item: Signature,
    trust: Trust,
    only: Sequence[int] = (),
    known: dict[bytes, Any] | None = None,
) -> Verdict:
    """Return what one signature is worth.

    digests: of the image.
    members: all objects of the group that the signature is about.
    item: the signature.
    trust: whose signatures count.
    only: judge by these objects alone, by number; none for the whole group, which then has to match exactly.
    known: what gpgv has said of messages before; filled here.

    Raises:
        BollardError: gpgv or openssl cannot be used, or the image cannot be read.
    """
    wanted = tuple(only) or tuple(member.id for member in members)
    signer, name, text, reason, unknown = _signer(item, trust, {} if known is None else known)
    compared: Comparison | None = None
    if not reason:
        try:
            compared = signature.compare(digests, [m for m in members if m.id in wanted] if only else members,
                                         signature.parse(text), min(m.id for m in members))  # fmt: skip
        except ValueError as error:
            reason = f"signature object {item.id} is not valid: {error}"
    if compared is not None:
        reason = _difference(compared, item.id, bool(only))
    return Verdict(
        item.id,
        item.group,
        item.kind,
        signer,
        item.entity,
        name,
        compared.covered if compared and compared.header else (),
        compared.changed if compared else (),
        compared.unsigned if compared else wanted,
        reason,
        unknown,
        item.kind == "legacy" or not (trust.keys if item.kind == "dsse" else trust.keyrings),
    )


def _signer(item: Signature, trust: Trust, known: dict[bytes, Any]) -> tuple[str, str, bytes, str, bool]:
    """Return signer, name, signed text, reason and whether the key is unknown, of a signature."""
    if item.kind == "legacy":
        return (
            "",
            "",
            b"",
            f"signature object {item.id} is of the form before 2020, which does not protect the image",
            False,
        )
    if item.kind == "dsse":
        from bollard.runtime.trust import dsse

        if not trust.keys:
            return "", "", b"", f"signature object {item.id} was made with a PEM key; name it with --key", False
        try:
            signer, text = dsse.verify(item.data, trust.keys)
        except ValueError as error:
            return "", "", b"", f"signature object {item.id} is not valid: {error}", False
        return signer, "", text, "", False
    if not trust.keyrings:
        return "", "", b"", f"signature object {item.id} was made with a PGP key; verify it without --key", False
    found = known.get(item.data)
    if found is None:
        found = known[item.data] = pgp.verify(item.data, trust.keyrings, trust.gpgv)
    whose = f" (key {item.entity})" if item.entity else ""
    if found.reason:
        reason = f"signature object {item.id} is not valid: {found.reason}{whose}"
        return "", found.name, b"", reason, found.unknown
    if found.fingerprint != item.entity:
        reason = (
            f"signature object {item.id} names the key {item.entity or 'of nobody'}, but {found.fingerprint} made it"
        )
        return "", found.name, b"", reason, False
    return found.fingerprint, found.name, found.text, "", False


def _difference(compared: Comparison, number: int, partial: bool) -> str:
    """Return why an image is not what a signature says, "" if it is."""
    if not compared.header:
        return f"the header of the image is not the one that signature object {number} is about"
    if compared.unsigned:
        return f"object {compared.unsigned[0]} is not signed by signature object {number}"
    if compared.missing and not partial:
        return f"an object that signature object {number} is about is missing"
    if compared.changed:
        return f"object {compared.changed[0]} was changed after it was signed"
    return ""


def signers(report: Report) -> frozenset[str]:
    """Return the fingerprints of those who signed every asked object: the good verdicts of each group agree on them."""
    by: dict[int, set[str]] = {number: set() for number in report.objects}
    for verdict in report.verdicts:
        for number in verdict.covered if verdict.good else ():
            by.setdefault(number, set()).add(verdict.fingerprint)
    sets = [by[number] for number in report.objects]
    return frozenset(set.intersection(*sets)) if sets else frozenset()


def cure(report: Report) -> str:
    """Return what the user can do about the reason of a report; "" if there is none."""
    failed = next((verdict for verdict in report.verdicts if verdict.reason == report.reason), None)
    if failed is None or failed.mismatched:
        return "ask its author to sign it" if report.absent else ""
    if failed.unknown and failed.claimed:
        return "if you trust its owner, add the key with `bollard key import` or `bollard key pull`"
    return "do not use it, and ask its author"


def default_trust(environ: Mapping[str, str]) -> Trust:
    """Return the trust in the PGP keys of the user's and of this machine's keyring.

    Raises:
        BollardError: this user has no home directory.
    """
    from bollard.runtime.trust import keyring

    return Trust(keyrings=keyring.public_keyrings(environ))


def require(fd: int, found: Sif, trust: Trust, fingerprints: Sequence[str]) -> None:
    """Check that all of an image is signed by each of these keys.

    fd: the open image; its descriptors are `found`.
    trust: the keyrings with their keys.
    fingerprints: full PGP fingerprints, 40 hexadecimal digits.

    Raises:
        BollardError: it is not.
    """
    report = verify(fd, found, trust)
    if report.reason:
        raise BollardError(f"{found.name}: {report.reason}", cure(report))
    there = signers(report)
    for fingerprint in fingerprints:
        if fingerprint.upper() not in there:
            said = ", ".join(sorted(there)) or "nobody"
            raise BollardError(f"{found.name}: is not signed by {fingerprint}, but by {said}", "do not use it")
