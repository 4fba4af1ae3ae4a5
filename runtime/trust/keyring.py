# SPDX-License-Identifier: BSD-3-Clause
"""Keyring files: `pgp-public` and `pgp-secret` in ~/.apptainer/keys, as Apptainer reads and writes them.

A keyring is a row of OpenPGP packets. Each key begins with a primary key packet (tag 6, or 5 for a secret key). This
module finds the borders of packets and the fields that `bollard key list` shows. It decides nothing about trust.
"""

from __future__ import annotations

import os

from bollard.runtime import causes
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.request.options import setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from dataclasses import dataclass as record
    from typing import Final
else:
    from bollard.runtime.frozen import record

PUBLIC: Final = "pgp-public"
SECRET: Final = "pgp-secret"
GLOBAL: Final = "/etc/apptainer/global-pgp-public"
MAX_KEYRING: Final = 64 << 20
_SECRET_TAG: Final = 5
_PUBLIC_TAG: Final = 6
_USER_TAG: Final = 13
_SUBKEY_TAGS: Final = (7, 14)
_KEYBOX: Final = b"KBXf"  # in the first record of the file, behind its length, type, version and flags
# Numbers of RSA and DSA, RFC 9580 section 9.1.
_FACTORED: Final = {1: "RSA", 2: "RSA", 3: "RSA", 17: "DSA"}
_BITS_LEAST: Final = 2048
_ELLIPTIC: Final = (18, 19, 22)  # ECDH, ECDSA, EdDSA: the number begins after the curve's id


@record(frozen=True)
class Key:
    """One key of a keyring: a primary key with its user ids, signatures and subkeys.

    fingerprint: of the primary key, 40 hexadecimal digits in upper case.
    user: its first user id, or "".
    created: seconds since 1970.
    bits: the length of the key.
    secret: it has a secret part.
    raw: all its packets.
    """

    fingerprint: str
    user: str
    created: int
    bits: int
    secret: bool
    raw: bytes


def directory(environ: Mapping[str, str], given: str = "") -> str:
    """Return the directory of the user's keyrings: `given`, or KEYSDIR, or `keys` in the configuration directory.

    Raises:
        BollardError: this user has no home directory.
    """
    found = given or setting(environ, "KEYSDIR") or setting(environ, "SYPGPDIR")
    if found:
        return found
    configuration = setting(environ, "CONFIGDIR") or os.path.join(_home(environ), ".apptainer")
    return f"{configuration}/keys"


def _home(environ: Mapping[str, str]) -> str:
    if environ.get("HOME"):
        return environ["HOME"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise BollardError("this user has no home directory", "set HOME or BOLLARD_KEYSDIR") from None


def public_keyrings(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths of the keyrings that `verify` trusts: the user's, and the one of this machine.

    Raises:
        BollardError: this user has no home directory.
    """
    return (os.path.join(directory(environ), PUBLIC), GLOBAL)


def packets(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (tag, body, whole packet) of each OpenPGP packet.

    Raises:
        ValueError: the data does not consist of whole packets.
    """
    at = 0
    while at < len(data):
        start, first = at, data[at]
        if not first & 0x80:
            raise ValueError(f"no packet at byte {at}")
        if first & 0x40:  # RFC 9580 section 4.2.1
            tag, at = first & 0x3F, at + 1
            length, at = _length(data, at)
        else:  # section 4.2.2
            tag, kind, at = first >> 2 & 0xF, first & 3, at + 1
            if kind == 3:
                raise ValueError(f"a packet of unknown length at byte {start}")
            width = 1 << kind
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        end = at + length
        if end > len(data):
            raise ValueError(f"a packet that is cut off at byte {start}")
        yield tag, data[at:end], data[start:end]
        at = end


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at] if at < len(data) else 255
    if first < 192:
        return first, at + 1
    if first < 224 and at + 1 < len(data):
        return (first - 192 << 8) + data[at + 1] + 192, at + 2
    if first == 255 and at + 4 < len(data):
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError(f"a packet without a length at byte {at}")


def split(data: bytes) -> list[Key]:
    """Return the keys in the bytes of a keyring.

    Keys of other versions than 4 are left out: Apptainer knows no other ones.

    Raises:
        ValueError: the data does not consist of whole packets.
    """
    rows: list[list[tuple[int, bytes, bytes]]] = []
    for packet in packets(data):
        if packet[0] in (_PUBLIC_TAG, _SECRET_TAG):
            rows.append([])
        if rows:
            rows[-1].append(packet)
    return [_key(row) for row in rows if row[0][1][:1] == b"\x04" and len(row[0][1]) > 8]


def _key(row: list[tuple[int, bytes, bytes]]) -> Key:
    tag, body, _ = row[0]
    public = public_part(body)
    users = [body for tag, body, _ in row if tag == _USER_TAG]
    return Key(
        _fingerprint(public),
        users[0].decode("utf-8", "replace") if users else "",
        int.from_bytes(body[1:5], "big"),
        _bits(public),
        tag == _SECRET_TAG,
        b"".join(raw for _, _, raw in row),
    )


def public_part(body: bytes) -> bytes:
    """Return the part of a key packet of version 4 that a public key has: RFC 9580 section 5.5.5."""
    algorithm, at = body[5], 6
    if algorithm in _ELLIPTIC:
        at += 1 + body[at] + 2 + _octets(body, at + 1 + body[at])
        if algorithm == 18:
            at += 1 + body[at] if at < len(body) else 0
    elif algorithm in (1, 2, 3, 16, 17):
        for _ in range({16: 3, 17: 4}.get(algorithm, 2)):
            at += 2 + _octets(body, at)
    else:
        at += {25: 32, 26: 56, 27: 32, 28: 57}.get(algorithm, len(body))
    return body[:at]


def algorithms(raw: bytes) -> dict[str, tuple[int, int]]:
    """Return {fingerprint: (OpenPGP's number of its algorithm, its length in bits)} of a key and its subkeys.

    Raises:
        ValueError, IndexError: the packets are damaged.
    """
    found = {}
    for tag, body, _ in packets(raw):
        if tag in (_PUBLIC_TAG, _SECRET_TAG, *_SUBKEY_TAGS) and body[:1] == b"\x04":
            public = public_part(body)
            found[_fingerprint(public)] = public[5], _bits(public)
    return found


def shortness(raw: bytes, names: Iterable[str] = ()) -> str:
    """Return "RSA with N bits, and 2048 are needed" for a key that is too short, "" for one that is long enough.

    Such a key can be broken. gpg, gpgv and Apptainer take it. Keys on elliptic curves are long enough.

    raw: the packets of one key.
    names: the fingerprints of those of its keys that matter; none for the primary key.

    Raises:
        ValueError, IndexError: the packets are damaged, or lack one of those keys.
    """
    known = algorithms(raw)
    for name in names or list(known)[:1]:
        if name not in known:
            raise ValueError(f"the key {name} is missing")
        algorithm, bits = known[name]
        if algorithm in _FACTORED and bits < _BITS_LEAST:
            return f"{_FACTORED[algorithm]} with {bits} bits, and {_BITS_LEAST} are needed"
    return ""


def of_keybox(data: bytes) -> bytes:
    """Return the packets of the keys in a keybox, GnuPG's own file of public keys (kbx/keybox-blob.c).

    Raises:
        ValueError: the records are not whole.
    """
    at, rows = 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        record = data[at : at + size]
        if size < 5 or len(record) < size:
            raise ValueError(f"a record that is cut off at byte {at}")
        if record[4] == 2:  # an OpenPGP key; 0 is an empty record, 1 the first one, 3 a certificate
            start, length = int.from_bytes(record[8:12], "big"), int.from_bytes(record[12:16], "big")
            if start + length > size:
                raise ValueError(f"a record with a key outside of it at byte {at}")
            rows.append(record[start : start + length])
        at += size
    return b"".join(rows)


def _octets(body: bytes, at: int) -> int:
    """Return the length in bytes of the number at `at`, without the two bytes that say it in bits."""
    return (int.from_bytes(body[at : at + 2], "big") + 7) // 8


def _bits(public: bytes) -> int:
    """Return the length of a key in bits, as Apptainer shows it."""
    algorithm = public[5]
    if algorithm in _ELLIPTIC:
        at = 7 + public[6]
        return int.from_bytes(public[at : at + 2], "big")
    if algorithm in (25, 26, 27, 28):
        return {25: 256, 26: 448, 27: 256, 28: 456}[algorithm]
    return int.from_bytes(public[6:8], "big")


def _fingerprint(public: bytes) -> str:
    """Return the fingerprint of a key of version 4. It is a name; the signatures themselves do not use this SHA-1."""
    import hashlib

    framed = b"\x99" + len(public).to_bytes(2, "big") + public
    return hashlib.new("sha1", framed, usedforsecurity=False).hexdigest().upper()


def read(path: str) -> list[Key]:
    """Return the keys of the keyring file `path`; none if it does not exist.

    Raises:
        BollardError: it cannot be read, is larger than 64 MiB, or is no keyring.
    """
    return split_named(read_bytes(path), path)


def read_bytes(path: str) -> bytes:
    """Return the bytes of a keyring file; none if it does not exist.

    Raises:
        BollardError: it cannot be read, or is larger than 64 MiB.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEYRING + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BollardError(f"{shown(path)}: cannot be read: {error.strerror}", "check its permissions") from None
    if len(data) > MAX_KEYRING:
        raise BollardError(f"{shown(path)}: has more than {MAX_KEYRING} bytes", "is it a keyring?")
    return data


def split_named(data: bytes, name: str) -> list[Key]:
    """Return the keys in `data`, also of a keybox; `name` is the file's name for messages.

    Raises:
        BollardError: the data is no keyring.
    """
    try:
        return split(of_keybox(data) if data[8:12] == _KEYBOX else data)
    except (ValueError, IndexError) as error:
        raise BollardError(f"{shown(name)}: is no keyring: {error}", "check the file name") from None


def dearmored(data: bytes, name: str) -> bytes:
    """Return the packets of an exported key, with or without ASCII armor; `name` is its name for messages.

    Raises:
        BollardError: it is neither armored nor binary key material, or its armor is damaged.
    """
    import base64
    import binascii

    if data[:1] and data[0] & 0x80:
        return data
    _, begin, rest = data.replace(b"\r\n", b"\n").partition(b"-----BEGIN PGP ")
    kind, dashes, rest = rest.partition(b" KEY BLOCK-----\n")
    block, end, _ = rest.partition(b"\n-----END PGP ")
    if not begin or not dashes or not end or kind not in (b"PUBLIC", b"PRIVATE"):
        raise BollardError(f"{shown(name)}: holds no PGP key", "export one with `gpg --export --armor`")
    _, blank, body = (b"\n" + block).partition(b"\n\n")
    lines = [line for line in body.split(b"\n") if not line.startswith(b"=")]  # "=" begins the checksum
    try:
        if not blank:
            raise binascii.Error("no blank line after its headers")
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error as error:
        raise BollardError(f"{shown(name)}: its armor is damaged: {error}", "export it again") from None


def armored(raw: bytes, secret: bool) -> str:
    """Return packets as text with ASCII armor. `secret` chooses the words of the first and the last line.

    The text ends with a checksum, which RFC 9580 calls optional: SKS key servers take no key without one.
    """
    import base64

    kind = "PRIVATE" if secret else "PUBLIC"
    text = base64.b64encode(raw).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    lines.append("=" + base64.b64encode(_checksum(raw)).decode())
    return "\n".join([f"-----BEGIN PGP {kind} KEY BLOCK-----", "", *lines, f"-----END PGP {kind} KEY BLOCK-----", ""])


def _checksum(data: bytes) -> bytes:
    """Return the CRC-24 of RFC 4880, section 6.1."""
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
    return value.to_bytes(3, "big")


def find(keys: Sequence[Key], fingerprint: str) -> Key | None:
    """Return the key with this fingerprint, in full; None if there is none. A short key id finds nothing."""
    wanted = fingerprint.upper().removeprefix("0X")
    return next((key for key in keys if key.fingerprint == wanted), None)


def put(path: str, new: Sequence[Key]) -> None:
    """Write keys into a keyring file: those with a known fingerprint are replaced, others are added at the end.

    Raises:
        BollardError: the file cannot be read or written.
    """

    def change(keys: list[Key]) -> list[Key]:
        by = {key.fingerprint: key for key in new}
        kept = [by.pop(key.fingerprint, key) for key in keys]
        return kept + list(by.values())

    _change(path, change)


def remove(path: str, fingerprint: str) -> bool:
    """Remove the key with this fingerprint, in full; return whether it was there.

    Raises:
        BollardError: the file cannot be read or written.
    """
    found = find(read(path), fingerprint)
    if found is None:
        return False
    _change(path, lambda keys: [key for key in keys if key.fingerprint != found.fingerprint])
    return True


def _change(path: str, change: object) -> None:
    """Replace the keyring file by a changed one, in one step; other commands of the user wait meanwhile."""
    import fcntl
    import tempfile

    assert callable(change)
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                pass  # a filesystem without locks; the file is still replaced as a whole
            data = b"".join(key.raw for key in change(read(path)))
            fd, made = tempfile.mkstemp(prefix=".bollard-key-", dir=folder)  # mode 0600, as Apptainer demands
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    if path == GLOBAL:
                        os.fchmod(file.fileno(), 0o644)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(made, path)
            except BaseException:
                os.unlink(made)
                raise
        finally:
            os.close(lock)
    except OSError as error:
        raise causes.of(error, f"{shown(path)}: cannot be written", folder) from None
