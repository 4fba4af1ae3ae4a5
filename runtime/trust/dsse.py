# SPDX-License-Identifier: BSD-3-Clause
"""Signatures by PEM keys: DSSE envelopes. The package `cryptography` is imported here and nowhere else.

    {"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":BASE64,"signatures":[{"keyid":K,"sig":BASE64}]}

The signature is about the bytes "DSSEv1 LENGTH TYPE LENGTH PAYLOAD". K is OpenSSH's SHA-256 fingerprint of the public
key. Apptainer accepts no signature with another K.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.trust import site_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

PAYLOAD_TYPE: Final = "application/vnd.sylabs.sif-metadata+json"
_MAX_FILE: Final = 1 << 20
_PACKAGE: Final = "install the package python3-cryptography, or `pip install cryptography`"


def _library() -> Any:
    """Return the parts of `cryptography` that are needed.

    Raises:
        BollardError: it is not installed.
    """
    try:
        return _parts()
    except ImportError:  # to start fast, the installed command runs without the system's packages
        import site

        site.main()
    try:
        return _parts()
    except ImportError:
        raise BollardError("the Python package cryptography is missing on this machine", _PACKAGE) from None


def _parts() -> Any:
    from types import SimpleNamespace

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    return SimpleNamespace(hashes=hashes, serialization=serialization, ec=ec, ed25519=ed25519, padding=padding, rsa=rsa)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise BollardError(f"{shown(path)}: cannot be read: {error.strerror}", "check the file name") from None
    if len(data) > _MAX_FILE:
        raise BollardError(f"{shown(path)}: has more than {_MAX_FILE} bytes", "is it a key?")
    return data


def private_key(path: str, passphrase: str | None = None) -> Any:
    """Return the private key in a PEM file: RSA, ECDSA or ed25519.

    path: the file.
    passphrase: of the key; None for none.

    Raises:
        BollardError: it cannot be read, is no such key, or is encrypted with another passphrase.
    """
    library = _library()
    data = _read(path)
    try:
        key = library.serialization.load_pem_private_key(
            data, None if passphrase is None else passphrase.encode("utf-8")
        )
    except TypeError:
        why = "has a passphrase" if passphrase is None else "has no passphrase"
        cure = "give it with --passphrase-file" if passphrase is None else "leave the passphrase out"
        raise BollardError(f"{shown(path)}: {why}", cure) from None
    except Exception:  # cryptography raises ValueError, UnsupportedAlgorithm and exceptions of Rust
        raise BollardError(f"{shown(path)}: holds no private key in PEM form", "or its passphrase is wrong") from None
    _check(
        key, path, (library.rsa.RSAPrivateKey, library.ec.EllipticCurvePrivateKey, library.ed25519.Ed25519PrivateKey)
    )
    return key


def is_encrypted(path: str) -> bool:
    """Return whether the PEM file holds a private key with a passphrase.

    Raises:
        BollardError: it cannot be read.
    """
    data = _read(path)
    return b"ENCRYPTED PRIVATE KEY-----" in data or b"Proc-Type: 4,ENCRYPTED" in data


def public_key(path: str) -> Any:
    """Return the public key in a PEM file: RSA, ECDSA or ed25519.

    Raises:
        BollardError: it cannot be read, or is no such key.
    """
    library = _library()
    data = _read(path)
    try:
        key = library.serialization.load_pem_public_key(data)
    except Exception:  # cryptography raises ValueError, UnsupportedAlgorithm and exceptions of Rust
        private = b"PRIVATE KEY-----" in data
        hint = "it is the private key; make the other by `openssl pkey -pubout`" if private else "check the file name"
        raise BollardError(f"{shown(path)}: holds no public key in PEM form", hint) from None
    _check(key, path, (library.rsa.RSAPublicKey, library.ec.EllipticCurvePublicKey, library.ed25519.Ed25519PublicKey))
    return key


def _check(key: Any, path: str, kinds: tuple[type, ...]) -> None:
    if not isinstance(key, kinds):
        raise BollardError(f"{shown(path)}: its kind of key is not supported", "use RSA, ECDSA or ed25519")
    size = getattr(key, "key_size", 0)
    if "RSA" in type(key).__name__ and size < 2048:
        raise BollardError(f"{shown(path)}: an RSA key of {size} bits is too short", "use 2048 bits or more")


def key_id(key: Any) -> str:
    """Return OpenSSH's fingerprint of a public key, "SHA256:...".

    Raises:
        BollardError: `cryptography` is not installed, or lacks the curve of the key.
    """
    import base64
    import hashlib

    serialization = _library().serialization
    try:
        line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except Exception:  # an elliptic curve that OpenSSH does not know
        raise BollardError("the curve of this key is not supported", "use P-256, P-384, P-521 or ed25519") from None
    wire = base64.b64decode(line.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip("=")


def to_sign(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the bytes that a signature of an envelope covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: Any) -> bytes:
    """Return the envelope of `payload`, signed with the private key `key`.

    Raises:
        BollardError: `cryptography` is not installed, or lacks the curve of the key.
    """
    import base64
    import json

    library = _library()
    message = to_sign(payload)
    if isinstance(key, library.rsa.RSAPrivateKey):
        made = key.sign(message, library.padding.PKCS1v15(), library.hashes.SHA256())
    elif isinstance(key, library.ec.EllipticCurvePrivateKey):
        made = key.sign(message, library.ec.ECDSA(library.hashes.SHA256()))
    else:
        made = key.sign(message)
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(made).decode()}],
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def verify(envelope: bytes, keys: Sequence[Any]) -> tuple[str, bytes]:
    """Return the id of the key that signed an envelope, and the signed bytes.

    envelope: the bytes of the signature object.
    keys: the trusted public keys; those of a site (`site_keys`) need no `cryptography`.

    Raises:
        ValueError: it is no envelope, or none of the keys has signed it; the message says which.
        BollardError: `cryptography` is not installed.
    """
    import base64
    import binascii
    import json

    try:
        document = json.loads(envelope)
        if document["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("it is not an envelope of a SIF file")
        payload = base64.b64decode(document["payload"], validate=True)
        entries = [
            (str(entry["keyid"]), base64.b64decode(entry["sig"], validate=True)) for entry in document["signatures"]
        ]
    except (binascii.Error, KeyError, TypeError, RecursionError, json.JSONDecodeError):
        raise ValueError("it is not an envelope of DSSE") from None
    if len(entries) > 16:
        raise ValueError(f"its envelope has {len(entries)} signatures, 16 are allowed")
    for key in keys:
        site = key if isinstance(key, site_keys.SiteKey) else None
        wanted = site.id if site else key_id(key)
        for name, made in entries:
            if name != wanted:
                continue
            if site.is_signer(made, to_sign(payload)) if site else is_valid(key, made, to_sign(payload)):
                return wanted, payload
    said = ", ".join(shown(name[:60]) for name, _ in entries[:3]) or "no key"
    raise ValueError(f"it is not signed by the given key, but by {said}")


def is_valid(key: Any, made: bytes, message: bytes) -> bool:
    """Return whether `made` is a signature of `message` by the private key to the public key `key`.

    Raises:
        BollardError: the package `cryptography` is not installed.
    """
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        if isinstance(key, library.rsa.RSAPublicKey):
            key.verify(made, message, library.padding.PKCS1v15(), library.hashes.SHA256())
        elif isinstance(key, library.ec.EllipticCurvePublicKey):
            key.verify(made, message, library.ec.ECDSA(library.hashes.SHA256()))
        else:
            key.verify(made, message)
    except InvalidSignature:
        return False
    return True


def certified_key(certificate: str, intermediates: str = "", roots: str = "") -> Any:
    """Return the public key of a certificate, after its chain of issuers was checked by openssl.

    certificate: a PEM file with the certificate of the signer.
    intermediates: a PEM file with certificates between it and a root; "" for none.
    roots: a PEM file with trusted roots; "" for those of this machine.

    Raises:
        BollardError: the chain does not end at a root, a certificate has expired or is not for signing code, a file
            cannot be read, or a program is missing.
    """
    library = _library()
    from cryptography import x509

    data = _read(certificate)
    try:
        leaf = x509.load_pem_x509_certificate(data)
        key = leaf.public_key()
    except Exception:  # cryptography raises ValueError, UnsupportedAlgorithm and exceptions of Rust
        raise BollardError(f"{shown(certificate)}: holds no certificate in PEM form", "check the file name") from None
    _check_chain(certificate, leaf.public_bytes(library.serialization.Encoding.PEM), intermediates, roots)
    _check(
        key,
        certificate,
        (library.rsa.RSAPublicKey, library.ec.EllipticCurvePublicKey, library.ed25519.Ed25519PublicKey),
    )
    return key


def _check_chain(certificate: str, leaf: bytes, intermediates: str, roots: str) -> None:
    """Raise unless openssl finds the chain of `leaf` good.

    openssl does not read the file again: of several certificates it can take another one than cryptography does.

    certificate: the path of the file, for messages.
    leaf: the certificate whose key is used, in PEM form.
    intermediates, roots: as for `certified_key`.
    """
    from bollard.runtime.system import openssl
    from bollard.runtime.trust import chain, pgp

    program = pgp.program("openssl", "openssl")

    def run(words: list[str], **files: bytes) -> tuple[int, bytes]:
        status, out, said = openssl.run(program, words, **files)
        return status, out + said

    others = _read(intermediates) if intermediates else b""
    why = chain.fault(run, leaf, others, _read(roots) if roots else None)
    if why.startswith(": "):
        missing = "unable to get" in why or "self" in why
        cure = "name its issuers with --certificate-intermediates and --certificate-roots"
        raise BollardError(f"{shown(certificate)}{why}", cure if missing else "ask its owner for another certificate")
    if why:
        raise BollardError(f"{shown(certificate)}: this certificate{why}", "its key usage is for something else")
