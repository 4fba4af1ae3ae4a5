# SPDX-License-Identifier: BSD-3-Clause
"""Public keys and certificates of a site, for its policy: decided by openssl, also on the node.

The node has no package `cryptography`, and the keeper starts no program that a user could trace. So it runs the
installation's copy of openssl, as it runs that of gpgv. A certificate counts as its key while openssl finds its issuers
good. The roots are the site's alone, never those of the machine.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode

from bollard.runtime import installed
from bollard.runtime.errors import BollardError
from bollard.runtime.system import openssl
from bollard.runtime.trust import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_FILE_MAX: Final = 1 << 20
_KEY: Final = b"PUBLIC KEY"
# The identifiers of kinds of keys and of curves in DER (RFC 8410, RFC 3279, RFC 5480).
_ED25519: Final = bytes.fromhex("06032b6570")
_RSA: Final = bytes.fromhex("06092a864886f70d010101")
_EC: Final = bytes.fromhex("06072a8648ce3d0201")
_CURVES: Final = {
    bytes.fromhex("06082a8648ce3d030107"): b"nistp256",
    bytes.fromhex("06052b81040022"): b"nistp384",
    bytes.fromhex("06052b81040023"): b"nistp521",
}
_RSA_LEAST: Final = 2048  # bits


class SiteKey:
    """A public key of the site: `id` is OpenSSH's fingerprint, "SHA256:...", which signatures name."""

    __slots__ = ("_ed25519", "_pem", "id")

    def __init__(self, pem: bytes) -> None:
        """Take a key in PEM form, "PUBLIC KEY".

        Raises:
            ValueError: it is neither RSA with 2048 bits or more, nor ECDSA on a curve of NIST, nor ed25519.
        """
        body = pem.partition(b"-----\n")[2].partition(b"-----END")[0]
        wire = _wire(b64decode(b"".join(body.split()), validate=True))
        self.id = key_id(wire)
        self._pem = pem
        self._ed25519 = wire[4:].startswith(b"ssh-ed25519")

    def is_signer(self, made: bytes, message: bytes) -> bool:
        """Return whether `made` is this key's signature of `message`.

        Raises:
            BollardError: openssl is missing or too old for this kind of key.
        """
        if not self._ed25519:
            status, _ = _openssl(
                ["dgst", "-sha256", "-verify", "{key}", "-signature", "{made}"], message, key=self._pem, made=made
            )
            return status == 0
        if not can_ed25519():
            raise BollardError(
                f"openssl on {os.uname().nodename} cannot verify ed25519 signatures", "use openssl 3.0, or an RSA key"
            )
        words = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "{key}", "-sigfile", "{made}", "-in", "{message}"]
        status, _ = _openssl(words, key=self._pem, made=made, message=message)
        return status == 0


def read(path: str, roots: str) -> tuple[list[SiteKey], list[str]]:
    """Return the keys in a file of the site that count, and why others do not.

    path: a file with public keys and certificates in PEM form.
    roots: a file with the roots of the certificates; "" for none, and then no certificate counts.

    Raises:
        BollardError: the file is missing, or openssl is.
    """
    text = _content(path)
    keys, faults = [], []
    for kind, block in chain.blocks(text):
        try:
            if kind == _KEY:
                keys.append(SiteKey(block))
            elif kind == chain.CERTIFICATE:
                key = _certified(block, text, roots)
                keys += [SiteKey(key)] if key else []
            else:
                raise ValueError(f"a {kind.decode('ascii', 'replace')} is neither a public key nor a certificate")
        except ValueError as error:
            faults.append(f"{path}: {error}")
    return keys, faults


def key_id(wire: bytes) -> str:
    """Return OpenSSH's fingerprint of a key in the form of its protocol."""
    from hashlib import sha256

    return "SHA256:" + b64encode(sha256(wire).digest()).decode().rstrip("=")


def can_ed25519() -> bool:
    """Return whether openssl signs and verifies whole messages with pkeyutl: OpenSSL 3.0 and later.

    Raises:
        BollardError: the installation's openssl is missing, or does not end.
    """
    return b"OpenSSL 1" not in _openssl(["version"])[1]


def _certified(block: bytes, others: bytes, roots: str) -> bytes:
    """Return the key of a certificate in PEM form; b"" for one that only issues others.

    Raises:
        ValueError: its chain is not good, or it is for something else.
    """
    if not roots:
        raise ValueError("a certificate, and the policy names no roots")
    why = chain.fault(_openssl, block, others, _content(roots))
    if why and not why.startswith(":") and chain.is_issuer(_openssl, block):
        return b""
    if why:
        raise ValueError(f"a certificate{why}")
    status, key = _openssl(["x509", "-noout", "-pubkey", "-in", "{leaf}"], leaf=block)
    if status:
        raise ValueError("a certificate has no usable key")
    return key


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise BollardError(
            f"the site's keys in {path} cannot be read on {os.uname().nodename}: {error.strerror}",
            "tell the site's administrator",
        ) from None
    if len(text) > _FILE_MAX:
        raise BollardError(f"{path}: has more than {_FILE_MAX} bytes", "tell the site's administrator")
    return text


def _wire(der: bytes) -> bytes:
    """Return a public key (SubjectPublicKeyInfo, RFC 5280) in the form of SSH's protocol (RFC 4253, 5656, 8709)."""
    inside = _parts(_parts(der)[0][1])
    if len(inside) != 2 or inside[1][0] != 0x03 or inside[1][1][:1] != b"\0":
        raise ValueError("a public key in no known form")
    algorithm, bits = inside[0][1], inside[1][1][1:]
    if algorithm == _ED25519 and len(bits) == 32:
        return _string(b"ssh-ed25519") + _string(bits)
    if algorithm.startswith(_RSA):
        modulus, exponent = (number for _, number in _parts(_parts(bits)[0][1])[:2])
        if int.from_bytes(modulus, "big").bit_length() < _RSA_LEAST:
            raise ValueError(f"an RSA key with less than {_RSA_LEAST} bits")
        return _string(b"ssh-rsa") + _string(exponent) + _string(modulus)
    curve = _CURVES.get(algorithm[len(_EC) :]) if algorithm.startswith(_EC) else None
    if curve is None:
        raise ValueError("a public key that is neither RSA, ECDSA on a curve of NIST, nor ed25519")
    return _string(b"ecdsa-sha2-" + curve) + _string(curve) + _string(bits)


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """Return (tag, content) of each element in DER. Raises ValueError if the lengths do not fit."""
    found = []
    while der:
        many = der[1] - 0x80 if len(der) > 1 and der[1] > 0x80 else 0
        size = int.from_bytes(der[2 : 2 + many], "big") if many else der[1] if len(der) > 1 else -1
        start = 2 + many
        if many > 4 or size < 0 or start + size > len(der):
            raise ValueError("a public key in no known form")
        found.append((der[0], der[start : start + size]))
        der = der[start + size :]
    if not found:
        raise ValueError("a public key in no known form")
    return found


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _openssl(words: list[str], data: bytes = b"", **files: bytes) -> tuple[int, bytes]:
    """Run the installation's openssl; return its exit status, and its standard output and error. See `openssl.run`.

    Raises:
        BollardError: it is missing, or does not end.
    """
    if not os.access(installed.OPENSSL, os.X_OK):
        raise BollardError(
            f"{installed.OPENSSL} is missing on {os.uname().nodename}",
            "the site's administrator installs openssl, then bollard again",
        )
    status, out, said = openssl.run(installed.OPENSSL, words, data, **files)
    return status, out + said
