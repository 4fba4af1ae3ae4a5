# SPDX-License-Identifier: BSD-3-Clause
"""Add signatures to an image: one object for each signed group."""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_edit
from bollard.runtime.trust import dsse, keyring, pgp, signature, verify
from bollard.runtime.trust.keyring import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bollard.runtime.image.sif import Sif

    # The text to sign -> the data of the signature object, and its hash by the name in HASH_NUMBERS.
    Signer = Callable[[bytes], tuple[bytes, str]]


def texts(fd: int, found: Sif, groups: Sequence[int], objects: Sequence[int]) -> list[tuple[int, bytes]]:
    """Return (group, text to sign) for each signature to make.

    fd: the open image; its descriptors are `found`.
    groups, objects: only these, by number; neither for all groups.

    Raises:
        BollardError: there is no such group or object, or nothing to sign.
    """
    digests = signature.Digests(fd, found)
    wanted = list(groups) if groups or objects else signature.groups(found)
    if not wanted and not objects:
        raise BollardError(f"{found.name}: has no objects to sign", "see `bollard sif list`")
    made = [(group, signature.text(digests, signature.members(found, group))) for group in wanted]
    by: dict[int, list[int]] = {}
    for number in objects:
        by.setdefault(verify.group_of(found, number), []).append(number)
    for group, numbers in by.items():
        made.append((group, signature.text(digests, signature.members(found, group), numbers)))
    return made


def add(path: str, made: Sequence[tuple[int, bytes, str]], entity: str) -> None:
    """Write signatures into the image at `path`.

    path: the SIF file.
    made: (group, data, hash) of each signature.
    entity: the fingerprint of the PGP key, 40 hexadecimal digits; "" for a PEM key.

    Raises:
        BollardError: the image cannot be changed.
    """
    numbers = {name: number for number, name in signature.HASH_NUMBERS.items()}
    for group, data, name in made:
        extra = numbers[name.lower()].to_bytes(4, "little") + bytes.fromhex(entity)
        new = sif_edit.New(sif.SIGNATURE, extra, group=0, link=group | sif.GROUP_BIT)
        source = os.memfd_create("signature", os.MFD_CLOEXEC)
        try:
            os.write(source, data)
            os.lseek(source, 0, os.SEEK_SET)
            sif_edit.add(path, new, source)
        finally:
            os.close(source)


def _apply(path: str, entity: str, groups: Sequence[int], objects: Sequence[int], sign_all: Any) -> None:
    """Read the image, let `sign_all` sign all texts, then write all signatures."""
    fd, found = image.open_sif(path)
    try:
        todo = texts(fd, found, groups, objects)
    finally:
        os.close(fd)
    signed = sign_all([text for _, text in todo])
    add(path, [(group, *pair) for (group, _), pair in zip(todo, signed)], entity)


def with_pem(path: str, key: Any, groups: Sequence[int], objects: Sequence[int]) -> None:
    """Sign the image at `path` with a private key of `dsse.private_key`.

    path: the SIF file.
    key: the private key.
    groups, objects: only these, by number; neither for all groups.

    Raises:
        BollardError: the image has no such objects, is damaged or locked, or cannot be written.
    """
    _apply(path, "", groups, objects, lambda todo: [(dsse.sign(text, key), "SHA256") for text in todo])


def with_pgp(
    path: str, key: Key, passphrase: str | None, place: str, groups: Sequence[int], objects: Sequence[int]
) -> None:
    """Sign the image at `path` with a secret key of a keyring.

    path: the SIF file.
    key: the secret key.
    passphrase: of the key; None for none.
    place: where to make gpg's private directory.
    groups, objects: only these, by number; neither for all groups.

    Raises:
        BollardError: the key is too short, gpg fails, or the image has no such objects, is damaged or locked.
    """
    short = keyring.shortness(key.raw)
    if short:
        raise BollardError(f"the key {key.fingerprint} is {short}", "make another one with `bollard key newpair`")

    def sign_all(todo: list[bytes]) -> list[tuple[bytes, str]]:
        with pgp.Home(place) as home:
            home.gpg(["--import"], key.raw)
            return [_named(pgp.clear_sign(home, text, key.fingerprint, passphrase)) for text in todo]

    _apply(path, key.fingerprint, groups, objects, sign_all)


def with_own_gpg(path: str, fingerprint: str, groups: Sequence[int], objects: Sequence[int]) -> None:
    """Sign the image at `path` with a key of the user's own GnuPG; its agent asks for the passphrase.

    path: the SIF file.
    fingerprint: of the primary key, in full.
    groups, objects: only these, by number; neither for all groups.

    Raises:
        BollardError: gpg fails, or the image has no such objects, is damaged or locked, or cannot be written.
    """
    _apply(
        path, fingerprint, groups, objects,
        lambda todo: [_named(pgp.clear_sign_by_agent(text, fingerprint)) for text in todo],
    )  # fmt: skip


def _named(message: bytes) -> tuple[bytes, str]:
    name = pgp.hash_of(message)
    if not name:
        raise BollardError("gpg used a hash that a SIF file cannot name", "set `digest-algo SHA256` in gpg.conf")
    return message, name


def is_protected(key: Key) -> bool:
    """Return whether a secret key has a passphrase: its first packet names a cipher (RFC 9580 section 5.5.3)."""
    _, body, _ = next(keyring.packets(key.raw))
    public = keyring.public_part(body)
    return body[len(public) : len(public) + 1] not in (b"\0", b"")
