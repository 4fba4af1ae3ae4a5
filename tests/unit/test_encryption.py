# SPDX-License-Identifier: BSD-3-Clause
"""Keys of encrypted images: files, messages, and what is refused before gocryptfs starts."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import sif_files

from bollard.runtime.cli import encryption_key
from bollard.runtime.errors import BollardError
from bollard.runtime.image import encryption, image, seal, sif, sif_write
from bollard.runtime.image.encryption import Key
from bollard.runtime.request import spec

SCRYPT = {"Salt": "x", "N": 65536, "R": 8, "P": 1, "KeyLen": 32}
CONF = {
    "EncryptedKey": "x",
    "ScryptObject": SCRYPT,
    "Version": 2,
    "FeatureFlags": ["HKDF", "GCMIV128", "PlaintextNames"],
}


def openssl(*words):
    return subprocess.run(["openssl", *words], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """PEM texts by name: the forms that openssl writes, and keys that do not fit."""
    folder = tmp_path_factory.mktemp("pem")
    rsa, other, short = (str(folder / name) for name in ("rsa", "other", "short"))
    for path, bits in ((rsa, "2048"), (other, "2048"), (short, "1024")):
        openssl("genrsa", "-traditional", "-out", path, bits)
    return {
        "private": openssl("rsa", "-traditional", "-in", rsa),
        "pkcs8": openssl("pkcs8", "-topk8", "-nocrypt", "-in", rsa),
        "pkcs1 public": openssl("rsa", "-in", rsa, "-RSAPublicKey_out"),
        "public": openssl("rsa", "-in", rsa, "-pubout"),
        "other": openssl("rsa", "-traditional", "-in", other),
        "short": openssl("rsa", "-in", short, "-pubout"),
        "locked": openssl("rsa", "-traditional", "-aes256", "-passout", "pass:word", "-in", rsa),
        "ed25519": openssl("pkey", "-pubout", "-in", _ed25519(folder)),
    }


def _ed25519(folder):
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(folder / "ed"))
    return str(folder / "ed")


@pytest.mark.parametrize("private", ["private", "pkcs8"])
@pytest.mark.parametrize("public", ["pkcs1 public", "public"])
def test_a_wrapped_key_comes_back(pem, public, private):
    message = encryption.wrap(b"a" * 64, pem[public])
    assert message.startswith(b"-----BEGIN MESSAGE-----\n") and message.endswith(b"\n-----END MESSAGE-----\n")
    assert max(map(len, message.splitlines())) == 64
    assert encryption.password("img", message, Key(pem=pem[private])) == b"a" * 64


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("private", "the given RSA key is a private key"),
        ("short", "an RSA key of 1024 bits is too short; use one of 2048 bits or more"),
        ("ed25519", "the given key is no RSA key"),
    ],
)
def test_keys_that_make_no_image(pem, name, text):
    with pytest.raises(BollardError) as caught:
        encryption.wrap(b"secret", pem[name])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Key(), "img: is encrypted, and no key was given; give its RSA key: --pem-path FILE"),
        (Key(passphrase=b"x"), "img: is encrypted for an RSA key, not with a passphrase; give --pem-path FILE"),
        ("other", "img: the given RSA key does not open it"),
        ("public", "img: the given key is a public key; it only makes images; give the private key"),
        ("pkcs1 public", "img: the given key is a public key"),
    ],
)
def test_keys_that_open_no_image(pem, given, text):
    message = encryption.wrap(b"secret", pem["public"])
    with pytest.raises(BollardError) as caught:
        encryption.password("img", message, Key(pem=pem[given]) if isinstance(given, str) else given)
    assert text in str(caught.value)


def test_an_image_with_a_passphrase(pem):
    assert encryption.password("img", b"", Key(b"words", pem["private"])) == b"words"
    for key, text in ((Key(), "give its passphrase: --passphrase-file FILE"), (Key(pem=b"x"), "not for an RSA key")):
        with pytest.raises(BollardError, match=text):
            encryption.password("img", b"", key)


@pytest.mark.parametrize("cut", [b"", b"MESSAGE", b"-----BEGIN MESSAGE-----\n!\n-----END MESSAGE-----\n"])
def test_messages_that_nobody_made(pem, cut):
    whole = encryption.wrap(b"secret", pem["public"])
    for message in (cut or whole[:100], whole.replace(b"BIIB", b"BIIC", 1), b"-----BEGIN MESSAGE-----\nBAA=\n"):
        with pytest.raises(BollardError, match="img: damaged: its encrypted key cannot be read"):
            encryption.password("img", message, Key(pem=pem["private"]))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, ""),
        ({"ScryptObject": {**SCRYPT, "N": 1 << 30}}, "asks for scrypt with N=1073741824"),
        ({"ScryptObject": {**SCRYPT, "N": 0}}, "asks for scrypt with N=0"),
        ({"ScryptObject": {**SCRYPT, "P": 64}}, "P=64"),
        ({"ScryptObject": {**SCRYPT, "N": "65536"}}, "damaged: its gocryptfs.conf cannot be used"),
        ({"FeatureFlags": ["PlaintextNames", "FIDO2"]}, "damaged: its gocryptfs.conf"),  # it would start a program
        ({"FeatureFlags": ["HKDF", "GCMIV128"]}, "damaged: its gocryptfs.conf"),
        ({"FeatureFlags": None}, "damaged: its gocryptfs.conf"),
    ],
)
def test_the_image_does_not_choose_what_gocryptfs_does(changed, text):
    document = json.dumps({**CONF, **changed}).encode()
    if not text:
        encryption.check_config("img", document)
        return
    with pytest.raises(BollardError) as caught:
        encryption.check_config("img", document)
    assert text in str(caught.value)


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"[" * 60000, b" " * 70000 + json.dumps(CONF).encode()])
def test_a_config_of_another_form(document):
    with pytest.raises(BollardError, match="damaged: its gocryptfs.conf cannot be used"):
        encryption.check_config("img", document)


def test_files_of_keys(tmp_path, pem):
    path = tmp_path / "key"
    path.write_bytes(b"some words\r\nmore\n")
    assert encryption.read_passphrase(str(path)) == b"some words"
    path.write_bytes(pem["private"])
    assert encryption.read_pem(str(path)) == pem["private"]
    for text, read, why in (
        (b"\nx", encryption.read_passphrase, "the passphrase is empty"),
        (b"x" * 2049, encryption.read_passphrase, "is no line of at most 2048 bytes"),
        (b"a\0b\n", encryption.read_passphrase, "is no line of at most 2048 bytes"),
        (b"x" * 70000, encryption.read_passphrase, "has more than 65536 bytes"),
        (b"words\n", encryption.read_pem, "holds no key in PEM form"),
        (pem["locked"], encryption.read_pem, "the key has a passphrase of its own"),
    ):
        path.write_bytes(text)
        with pytest.raises(BollardError, match=why):
            read(str(path))
    for gone in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(BollardError, match="cannot be read"):
            encryption.read_pem(gone)


def test_a_key_is_never_shown():
    assert "words" not in f"{Key(b'words')} {Key(b'words')!r}"


def test_an_rsa_key_gives_a_random_password(pem):
    assert seal.secret_of(Key(b"words")) == (b"words", b"")
    secret, message = seal.secret_of(Key(b"words", pem["public"]))  # as in Apptainer, the RSA key counts
    assert len(secret) == 64 and secret != seal.secret_of(Key(pem=pem["public"]))[0]
    assert encryption.password("img", message, Key(pem=pem["private"])) == secret


@pytest.fixture
def sealed(tmp_path):
    """An image with a partition of gocryptfs, whose content is nothing, and a message for a key."""
    extra = sif.CRYPTO_PEM.to_bytes(4, "little") + sif.CRYPTO_RSA_OAEP.to_bytes(4, "little")
    objects = [sif_write.Object(sif.CRYPTO_MESSAGE, "", b"message", extra)]
    path = tmp_path / "img.sif"
    sif_files.write(path, objects, SQUASHFS, os.uname().machine)
    raw = bytearray(path.read_bytes())
    raw[sif.TABLE_OFFSET + sif.DESCRIPTOR_SIZE + 201] = sif.FS_GOCRYPTFS
    path.write_bytes(raw)
    return path


SQUASHFS = (
    b"hsqs" + (1).to_bytes(4, "little") + bytes(4) + (131072).to_bytes(4, "little") + bytes(4)
    + b"\1\0\x11\0\0\0\1\0\4\0\0\0" + bytes(8) + (4096).to_bytes(8, "little") + (200).to_bytes(8, "little")
    + b"\xff" * 8 + (200).to_bytes(8, "little") * 3 + b"\xff" * 8
).ljust(4096, b"\0")  # fmt: skip


def test_an_image_says_what_key_it_needs(sealed):
    with pytest.raises(BollardError, match="is encrypted; its files can be read in a container alone"):
        image.open_image(str(sealed))
    opened = image.open_image(str(sealed), encrypted=True)
    assert opened.encrypted and opened.wrapped_key() == b"message"
    asked = spec.make([("image", str(sealed))])
    with pytest.raises(BollardError, match="no key was given; give its RSA key"):
        encryption_key.of_image(opened, asked, [])
    opened.close()


def test_a_key_for_an_image_that_needs_none(tmp_path):
    path = tmp_path / "plain.sqfs"
    path.write_bytes(SQUASHFS)
    asked = spec.make([("image", str(path)), ("pem-path", "/k")])
    opened = image.open_image(str(path))
    with pytest.raises(BollardError, match="is not encrypted, so --pem-path has no effect; leave it out"):
        encryption_key.of_image(opened, asked, [("pem-path", "/k")])
    # A variable is for all images of a script, so it counts where an image needs it.
    assert encryption_key.of_image(image.open_image(str(path)), asked, []) == []


def test_a_build_needs_more_than_a_variable(monkeypatch, capfd, tmp_path):
    (tmp_path / "pass").write_text("some words\n")
    monkeypatch.setenv("APPTAINER_ENCRYPTION_PASSPHRASE_FILE", str(tmp_path / "pass"))
    assert encryption_key.for_build([]) is None
    assert "--encrypt was not given: the image is not encrypted" in capfd.readouterr().err
    assert encryption_key.for_build([("encrypt", "1")]) == Key(b"some words")
    monkeypatch.delenv("APPTAINER_ENCRYPTION_PASSPHRASE_FILE")
    with pytest.raises(BollardError, match="--encrypt: no key was given"):
        encryption_key.for_build([("encrypt", "1")])


def test_no_key_passes_through_slurm(monkeypatch):
    encryption_key.refuse_on_slurm([("pem-path", "k")])
    with pytest.raises(BollardError, match="--on-slurm: --passphrase would pass through Slurm"):
        encryption_key.refuse_on_slurm([("passphrase", "1")])
    monkeypatch.setenv("SINGULARITY_ENCRYPTION_PASSPHRASE", "x")
    with pytest.raises(BollardError, match="ENCRYPTION_PASSPHRASE would pass through Slurm"):
        encryption_key.refuse_on_slurm([("encrypt", "1")])


def test_descriptors_stay_closed(pem):
    before = os.listdir("/proc/self/fd")
    encryption.wrap(b"secret", pem["public"])
    assert os.listdir("/proc/self/fd") == before
