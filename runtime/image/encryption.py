# SPDX-License-Identifier: BSD-3-Clause
"""Keys of encrypted images, in the form of Apptainer 1.2 and later for users without root.

    the SIF file's primary partition, filesystem 6
      └─ squashfs, not compressed: gocryptfs.conf, and one file
           └─ what gocryptfs shows of that file: the squashfs of the root filesystem

    passphrase    is gocryptfs's password
    RSA key       gocryptfs's password is random; the object "Cryptographic Message" holds it, encrypted with the public
                  key by RSA-OAEP (SHA-256). In PEM form, "MESSAGE": one OCTET STRING of ASN.1

openssl does the cryptography. The keeper runs it too, and there it has no Python packages. Keys reach openssl as
descriptors of memory, never as files or arguments.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error

from bollard.runtime import installed
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.system import openssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from typing import Final
else:
    from bollard.runtime.frozen import record

CONFIG: Final = "gocryptfs.conf"
# Variables that hold a key itself, without their prefixes.
VARIABLES: Final = ("ENCRYPTION_PASSPHRASE", "ENCRYPTION_PEM_DATA")
PASSPHRASE_MAX: Final = 2048  # bytes; gocryptfs reads no more
CONFIG_MAX: Final = 1 << 16  # bytes; it has 354
_KEY_FILE_MAX: Final = 1 << 16
_N_MAX: Final = 1 << 20  # scrypt then takes 1 GiB of memory; gocryptfs writes 1 << 16, which takes 64 MiB
_FLAGS: Final = frozenset(("HKDF", "GCMIV128", "PlaintextNames", "DirIV", "EMENames", "LongNames", "Raw64",
                           "AESSIV", "XChaCha20Poly1305"))  # fmt: skip
_BEGIN: Final = b"-----BEGIN MESSAGE-----"
_END: Final = b"-----END MESSAGE-----"
_OAEP: Final = ("-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256")
_SIZES: Final = (128, 2048)  # bytes of an RSA key that a file may ask for: 1024 to 16384 bits
_LEAST: Final = 256  # bytes of an RSA key for a new image: 2048 bits


@record(frozen=True)
class Key:
    """What a user gives to open or make an encrypted image. Both can be there: the image decides which one is used.

    passphrase: in bytes, b"" for none.
    pem: the content of a PEM file with an RSA key; b"" for none.
    """

    passphrase: bytes = b""
    pem: bytes = b""

    def __bool__(self) -> bool:
        return bool(self.passphrase or self.pem)


# The record's own would show the values in messages of defects.
setattr(Key, "__repr__", lambda self: "Key(...)")  # noqa: B010 - mypy allows no assignment to a method


def read_passphrase(path: str) -> bytes:
    """Return the passphrase in a file, its first line.

    Raises:
        BollardError: the file cannot be read, or its first line is empty or too long.
    """
    return checked(_read(path, "passphrase-file").split(b"\n", 1)[0].rstrip(b"\r"), f"passphrase-file {shown(path)}")


def checked(passphrase: bytes, name: str) -> bytes:
    """Return the passphrase if gocryptfs can take it as a password. `name` says for messages where it is from.

    Raises:
        BollardError: it is empty, is too long or has several lines.
    """
    if not passphrase:
        raise BollardError(f"{name}: the passphrase is empty", "use one of several words")
    if len(passphrase) > PASSPHRASE_MAX or b"\n" in passphrase or b"\0" in passphrase:
        raise BollardError(f"{name}: is no line of at most {PASSPHRASE_MAX} bytes", "use another passphrase")
    return passphrase


def read_pem(path: str) -> bytes:
    """Return the content of a PEM file.

    Raises:
        BollardError: the file cannot be read, or holds no RSA key.
    """
    return checked_pem(_read(path, "pem-path"), f"pem-path {shown(path)}")


def checked_pem(pem: bytes, name: str) -> bytes:
    """Return the PEM text if it can hold an RSA key without a passphrase. `name` says for messages where it is from.

    Raises:
        BollardError: it cannot.
    """
    if b"-----BEGIN ENCRYPTED" in pem or b"Proc-Type: 4,ENCRYPTED" in pem:
        raise BollardError(f"{name}: the key has a passphrase of its own", "remove it: `openssl rsa -in FILE -out NEW`")
    if b"-----BEGIN " not in pem or b" KEY-----" not in pem:
        raise BollardError(f"{name}: holds no key in PEM form", "make one: `openssl genrsa -out rsa.pem 3072`")
    return pem


def _read(path: str, option: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), "rb", buffering=0) as file:
            data = b""
            while len(data) <= _KEY_FILE_MAX and (part := file.read(_KEY_FILE_MAX + 1)):
                data += part
    except OSError as error:
        raise BollardError(
            f"{option} {shown(path)}: cannot be read: {error.strerror}", "name a file that you can read"
        ) from None
    if len(data) > _KEY_FILE_MAX:
        raise BollardError(f"{option} {shown(path)}: has more than {_KEY_FILE_MAX} bytes", "is it a key?")
    return data


def check_kind(name: str, message: bytes, key: Key) -> None:
    """Raise unless a key of the kind that the image needs was given. The parameters are those of `password`.

    Raises:
        BollardError: no key was given, or one of the other kind.
    """
    if not key:
        what, option = ("RSA key", "pem-path") if message else ("passphrase", "passphrase-file")
        raise BollardError(
            f"{name}: is encrypted, and no key was given",
            f"give its {what}: --{option} FILE, with srun --container-{option} FILE",
        )
    if not message and not key.passphrase:
        raise BollardError(f"{name}: is encrypted with a passphrase, not for an RSA key", "give its passphrase")
    if message and not key.pem:
        raise BollardError(f"{name}: is encrypted for an RSA key, not with a passphrase", "give --pem-path FILE")
    if message and b"PUBLIC KEY-----" in key.pem:
        raise BollardError(f"{name}: the given key is a public key; it only makes images", "give the private key")


def password(name: str, message: bytes, key: Key) -> bytes:
    """Return gocryptfs's password of an image.

    name: the image, for messages.
    message: what `sif.wrapped_key` has found in it; b"" for an image with a passphrase.
    key: what the user has given.

    Raises:
        BollardError: no key was given, or one of the other kind, or it does not fit; or openssl is missing.
    """
    check_kind(name, message, key)
    if not message:
        return key.passphrase
    sealed = _octets(name, message)
    status, plain = _openssl(["pkeyutl", "-decrypt", *_OAEP, "-inkey", "{key}"], key.pem, sealed)
    if status or not plain or len(plain) > PASSPHRASE_MAX or b"\n" in plain or b"\0" in plain:
        raise BollardError(
            f"{name}: the given RSA key does not open it", "give the private key of the public key that it was made for"
        )
    return plain


def wrap(secret: bytes, pem: bytes) -> bytes:
    """Return the message in PEM form that holds `secret`, at most 190 bytes, encrypted for a public key.

    Raises:
        BollardError: `pem` is not the public half of an RSA key of 2048 bits or more; or openssl is missing.
    """
    if b"PRIVATE KEY-----" in pem:
        raise BollardError(
            "the given RSA key is a private key; an image is made with the public one",
            "make that: `openssl rsa -in FILE -RSAPublicKey_out -out rsa.pub`",
        )
    if b"-----BEGIN RSA PUBLIC KEY-----" in pem:  # PKCS#1, which pkeyutl of OpenSSL 1.1.1 does not read
        status, pem = _openssl(["rsa", "-RSAPublicKey_in", "-pubout", "-in", "{key}"], pem)
        if status:
            raise BollardError("the given RSA key is damaged", "make it again: `openssl rsa -RSAPublicKey_out`")
    status, sealed = _openssl(["pkeyutl", "-encrypt", *_OAEP, "-pubin", "-inkey", "{key}"], pem, secret)
    if status or not sealed:
        raise BollardError("the given key is no RSA key", "make one: `openssl genrsa -out rsa.pem 3072`")
    if len(sealed) < _LEAST:
        raise BollardError(
            f"an RSA key of {len(sealed) * 8} bits is too short", f"use one of {_LEAST * 8} bits or more"
        )
    text = b64encode(b"\x04\x82" + len(sealed).to_bytes(2, "big") + sealed)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def _octets(name: str, message: bytes) -> bytes:
    """Return the bytes of the OCTET STRING in a message of PEM form."""
    body = message.partition(_BEGIN)[2].partition(_END)[0]
    try:
        der = b64decode(b"".join(body.split()), validate=True)
    except (Error, ValueError):
        der = b""
    many = der[1] - 0x80 if len(der) > 1 and der[1] > 0x80 else 0
    size = int.from_bytes(der[2 : 2 + many], "big") if many else (der[1] if len(der) > 1 else 0)
    octets = der[2 + many :]
    if der[:1] != b"\x04" or many > 2 or len(octets) != size or not _SIZES[0] <= size <= _SIZES[1]:
        raise BollardError(f"{name}: damaged: its encrypted key cannot be read", "copy or build it again")
    return octets


def check_config(name: str, text: bytes) -> None:
    """Check gocryptfs.conf, which comes from the image: gocryptfs takes as much memory as it says.

    Raises:
        BollardError: it is no such file, asks for more than 1 GiB, or for a program.
    """
    import json

    try:
        found = json.loads(text) if len(text) <= CONFIG_MAX else {}
        scrypt, flags = found["ScryptObject"], found["FeatureFlags"]
        numbers = (scrypt["N"], scrypt["R"], scrypt["P"])
        good = all(type(number) is int for number in numbers) and _FLAGS.issuperset(flags) and "PlaintextNames" in flags
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise BollardError(f"{name}: damaged: its {CONFIG} cannot be used", "copy or build it again")
    if not 1 < numbers[0] <= _N_MAX or numbers[1:] != (8, 1):
        raise BollardError(
            f"{name}: its {CONFIG} asks for scrypt with N={numbers[0]}, R={numbers[1]}, P={numbers[2]}",
            f"at most N={_N_MAX}, R=8, P=1 are allowed; build it again",
        )


def _openssl(words: list[str], key: bytes, data: bytes = b"") -> tuple[int, bytes]:
    """Run openssl with the file of memory {key}; return its exit status and its standard output."""
    return openssl.run(program("openssl"), words, data, key=key)[:2]


def program(name: str) -> str:
    """Return the path of openssl or gocryptfs: that of the installation, else the machine's.

    The keeper accepts that of the installation alone (`container.decrypted`).

    Raises:
        BollardError: it is not installed.
    """
    own = {"openssl": installed.OPENSSL, "gocryptfs": installed.GOCRYPTFS}[name]
    for path in (own, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if os.access(path, os.X_OK):
            return path
    raise BollardError(f"the program {name} is missing on this machine", f"install the package {name}")
