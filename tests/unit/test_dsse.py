# SPDX-License-Identifier: BSD-3-Clause
"""Signatures by PEM keys, and certificates."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest
import signed_images
from signed_images import report, write

from bollard.runtime.errors import BollardError
from bollard.runtime.trust import dsse, sign, verify

KINDS = ("ed25519", "ecdsa", "rsa")


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    return folder, signed_images.pem_keys(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_kinds(pem, tmp_path, kind):
    private, public = pem[1][kind]
    path = write(tmp_path / "img.sif")
    sign.with_pem(str(path), dsse.private_key(private), [], [])
    key = dsse.public_key(public)
    found = report(path, verify.Trust(keys=(key,)))
    assert found.reason == "" and found.unsigned == ()
    assert verify.signers(found) == {dsse.key_id(key)}
    others = tuple(dsse.public_key(pem[1][other][1]) for other in KINDS if other != kind)
    assert "not signed by the given key, but by SHA256:" in report(path, verify.Trust(keys=others)).reason
    assert report(path, verify.Trust(keys=(*others, key))).reason == ""
    assert "was made with a PEM key; name it with --key" in report(path, verify.Trust(("/x",))).reason


def envelope(pem, **changes):
    made = json.loads(dsse.sign(b'{"version":1}', dsse.private_key(pem[1]["ecdsa"][0])))
    made.update(changes)
    return made


@pytest.mark.parametrize(
    "change",
    [
        {"payload": base64.b64encode(b'{"version":2}').decode()},
        {"payload": "no base64 !"},
        {"payloadType": "application/vnd.in-toto+json"},
        {"signatures": []},
        {"signatures": [{"keyid": "SHA256:x", "sig": ""}]},
        {"signatures": [{"sig": ""}]},
        {"signatures": {}},
        {"signatures": None},
        {"signatures": [{"keyid": "", "sig": ""}] * 17},
    ],
)
def test_a_changed_envelope_is_refused(pem, change):
    key = dsse.public_key(pem[1]["ecdsa"][1])
    assert dsse.verify(json.dumps(envelope(pem)).encode(), [key]) == (dsse.key_id(key), b'{"version":1}')
    with pytest.raises(ValueError, match="it is not|its envelope has"):
        dsse.verify(json.dumps(envelope(pem, **change)).encode(), [key])


def test_the_key_id_of_another(pem):
    made = envelope(pem)
    other = dsse.public_key(pem[1]["rsa"][1])
    made["signatures"][0]["keyid"] = dsse.key_id(other)
    for key in (other, dsse.public_key(pem[1]["ecdsa"][1])):
        with pytest.raises(ValueError, match="not signed by the given key"):
            dsse.verify(json.dumps(made).encode(), [key])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 100_000, b'"x"', b"null", b"\xff\xfe"])
def test_what_is_no_envelope_is_refused(text):
    with pytest.raises(ValueError, match="it is not an envelope"):
        dsse.verify(text, [])


def test_files_that_are_no_keys(pem, tmp_path):
    private, public = pem[1]["rsa"]
    with pytest.raises(BollardError, match="holds no public key.*it is the private key"):
        dsse.public_key(private)
    with pytest.raises(BollardError, match="holds no private key"):
        dsse.private_key(public)
    with pytest.raises(BollardError, match="No such file"):
        dsse.public_key(str(tmp_path / "none"))
    signed_images.openssl(tmp_path, "genpkey", "-algorithm", "ed448", "-out", "k.pem")
    with pytest.raises(BollardError, match="kind of key is not supported"):
        dsse.private_key(str(tmp_path / "k.pem"))
    signed_images.openssl(tmp_path, "genrsa", "-out", "short.pem", "1024")
    with pytest.raises(BollardError, match="1024 bits is too short"):
        dsse.private_key(str(tmp_path / "short.pem"))


def test_a_private_key_needs_its_passphrase(pem, tmp_path):
    path = str(tmp_path / "k.pem")
    signed_images.openssl(tmp_path, "pkey", "-in", pem[1]["ed25519"][0], "-aes128", "-passout", "pass:x", "-out", path)
    assert dsse.is_encrypted(path) and not dsse.is_encrypted(pem[1]["ed25519"][0])
    assert dsse.key_id(dsse.private_key(path, "x").public_key())
    for word, why in ((None, "has a passphrase"), ("y", "or its passphrase is wrong")):
        with pytest.raises(BollardError, match=why):
            dsse.private_key(path, word)


class Authority:
    """A root, an intermediate and certificates for the ed25519 key."""

    def __init__(self, folder, key):
        self.folder = folder
        self.key = key
        self.issue("root", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign", "", new=True)
        self.issue("between", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign", "root", new=True)

    def issue(self, name, extensions, issuer, days="30", new=False, dates=()):
        key = f"{name}.key" if new else self.key
        if new:
            signed_images.openssl(self.folder, "genpkey", "-algorithm", "ed25519", "-out", key)
        signed_images.openssl(self.folder, "req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", "r")
        (self.folder / "e").write_text(extensions)
        by = ["-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial"] if issuer else ["-signkey", key]
        by += [*(dates or ("-days", days)), "-extfile", "e", "-out", f"{name}.crt"]
        signed_images.openssl(self.folder, "x509", "-req", "-in", "r", *by)
        return str(self.folder / f"{name}.crt")


def expired(made, usage):
    """A certificate of the past: openssl 3.0 takes a negative number of days, later ones take dates alone."""
    try:
        return made.issue("old", usage, "root", "-1")
    except subprocess.CalledProcessError:
        dates = ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"]
        return made.issue("old", usage, "root", dates=dates)


def test_a_certificate_must_be_for_signing_code(pem, tmp_path):
    made = Authority(tmp_path, pem[1]["ed25519"][0])
    root, between = str(tmp_path / "root.crt"), str(tmp_path / "between.crt")
    usage = "keyUsage=digitalSignature\nextendedKeyUsage="
    signing = made.issue("signing", usage + "codeSigning", "root")
    wanted = dsse.key_id(dsse.public_key(pem[1]["ed25519"][1]))
    assert dsse.key_id(dsse.certified_key(signing, roots=root)) == wanted
    assert dsse.certified_key(made.issue("any", "basicConstraints=CA:FALSE", "root"), roots=root)
    below = made.issue("below", usage + "codeSigning", "between")
    assert dsse.certified_key(below, between, root)
    for path, why, more in (
        (signing, "unable to get local issuer", {}),
        (below, "unable to get local issuer", {"roots": root}),
        (below, "unable to get|self.signed", {"intermediates": between}),
        (made.issue("server", usage + "serverAuth", "root"), "not for signing code", {"roots": root}),
        (expired(made, usage + "codeSigning"), "has expired", {"roots": root}),
        (pem[1]["ed25519"][1], "holds no certificate", {"roots": root}),
        (signing, "No such file", {"roots": "/nonexistent"}),
    ):
        with pytest.raises(BollardError, match=why):
            dsse.certified_key(path, **more)


def test_chains_that_do_not_vouch_for_code(pem, tmp_path):
    """Apptainer refuses narrow issuers too; it takes a key whose usage allows no signatures."""
    made = Authority(tmp_path, pem[1]["ed25519"][0])
    root, ca = str(tmp_path / "root.crt"), "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\nextendedKeyUsage="
    for usage, why in (("serverAuth", "one of its issuers is not for signing code"), ("codeSigning", "")):
        between = made.issue("narrow", ca + usage, "root", new=True)
        path = made.issue("below", "extendedKeyUsage=codeSigning", "narrow")
        if not why:
            assert dsse.certified_key(path, between, root)
            continue
        with pytest.raises(BollardError, match=why):
            dsse.certified_key(path, between, root)
    narrow = made.issue("narrowroot", ca + "serverAuth", "", new=True)
    path = made.issue("below", "extendedKeyUsage=codeSigning", "narrowroot")
    with pytest.raises(BollardError, match="one of its issuers is not for signing code"):
        dsse.certified_key(path, roots=narrow)
    path = made.issue("lock", "keyUsage=keyAgreement\nextendedKeyUsage=codeSigning", "root")
    with pytest.raises(BollardError, match="is not for signatures"):
        dsse.certified_key(path, roots=root)


def test_the_certificate_that_is_checked_is_the_one_whose_key_is_used(pem, tmp_path):
    """openssl reads the first block of a file, cryptography the first that is a plain certificate."""
    made = Authority(tmp_path, pem[1]["ed25519"][0])
    root = str(tmp_path / "root.crt")
    good = Path(made.issue("good", "basicConstraints=CA:FALSE", "root")).read_text()
    (tmp_path / "elsewhere").mkdir()
    others = Authority(tmp_path / "elsewhere", pem[1]["ecdsa"][0])
    evil = Path(others.issue("evil", "basicConstraints=CA:FALSE", "root")).read_text()
    both = tmp_path / "both.crt"
    both.write_text(good.replace("CERTIFICATE", "TRUSTED CERTIFICATE") + evil)
    with pytest.raises(BollardError, match="unable to get local issuer|self.signed"):
        dsse.certified_key(str(both), roots=root)


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(BollardError, match="package cryptography is missing.*python3-cryptography"):
        dsse.public_key(os.devnull)
