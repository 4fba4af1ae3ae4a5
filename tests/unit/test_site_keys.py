# SPDX-License-Identifier: BSD-3-Clause
"""PEM keys and certificates in a site's policy: which count, and whose signature an image has."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import test_image
from sif_files import write
from signed_images import OBJECTS, PARTITION

from bollard.runtime import installed
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif
from bollard.runtime.request import trust_rule
from bollard.runtime.trust import dsse, evidence, sign, site_keys

KINDS = {
    "ed25519": ("-algorithm", "ed25519"),
    "p256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "rsa": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


def openssl(*words, data=b""):
    return subprocess.run(["openssl", *map(str, words)], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keys (NAME.pem, NAME.pub), and certificates of the key ed25519 by their names."""
    place = tmp_path_factory.mktemp("site")
    short = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
    for name, words in {**KINDS, "root": KINDS["p256"], "short": short}.items():
        openssl("genpkey", *words, "-out", place / f"{name}.pem")
        openssl("pkey", "-in", place / f"{name}.pem", "-pubout", "-out", place / f"{name}.pub")
    (place / "ca").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
    request(place, "root", "root")
    words = ("x509", "-req", "-in", place / "req", "-days", "30", "-extfile", place / "ca")
    openssl(*words, "-signkey", place / "root.pem", "-out", place / "root.crt")
    for name, text, days in (
        ("code", "extendedKeyUsage=codeSigning\n", "30"),
        ("any", "basicConstraints=CA:FALSE\n", "30"),
        ("server", "extendedKeyUsage=serverAuth\n", "30"),
        ("old", "extendedKeyUsage=codeSigning\n", "-1"),
    ):
        request(place, name, "ed25519")
        (place / "ext").write_text(text)
        words = ("x509", "-req", "-in", place / "req", "-days", days, "-extfile", place / "ext", "-set_serial", "7")
        openssl(*words, "-CA", place / "root.crt", "-CAkey", place / "root.pem", "-out", place / f"{name}.crt")
    ca, code = (place / "ca").read_text(), "extendedKeyUsage=codeSigning\n"
    openssl("genpkey", *KINDS["p256"], "-out", place / "between.pem")
    for name, key, text, issuer in (
        ("issuer", "between", ca, "root"),
        ("web", "between", f"{ca}extendedKeyUsage=serverAuth\n", "root"),
        ("small", "short", ca, "root"),
        ("of-issuer", "ed25519", code, "issuer"),
        ("of-web", "ed25519", code, "web"),
        ("of-small", "ed25519", code, "small"),
        ("sha1", "ed25519", code, "root"),
        ("lock", "ed25519", f"{code}keyUsage=keyEncipherment\n", "root"),
    ):
        request(place, name, key)
        (place / "ext").write_text(text)
        words = ("x509", "-req", "-in", place / "req", "-days", "30", "-extfile", place / "ext", "-set_serial", "8")
        own = {"web": "between", "issuer": "between", "small": "short"}.get(issuer, issuer)
        words += ("-CA", place / f"{issuer}.crt", "-CAkey", place / f"{own}.pem", "-out", place / f"{name}.crt")
        openssl(*words, "-sha1" if name == "sha1" else "-sha256")
    return place


def request(place, name, key):
    openssl("req", "-new", "-key", place / f"{key}.pem", "-subj", f"/CN={name}", "-out", place / "req")


@pytest.fixture(autouse=True)
def own_openssl(monkeypatch):
    monkeypatch.setattr(installed, "OPENSSL", shutil.which("openssl"))


@pytest.fixture(scope="module")
def img(tmp_path_factory, folder):
    """Returns a function that signs a copy of an image with PEM keys; it returns the path."""
    place = tmp_path_factory.mktemp("images")

    def make(*keys):
        path = place / ("-".join(keys) + ".sif")
        write(path, OBJECTS, PARTITION, "x86_64", force=True)
        for key in keys:
            sign.with_pem(str(path), dsse.private_key(str(folder / f"{key}.pem")), (), ())
        return path

    return make


def signers(path, keys, roots=""):
    rules = trust_rule.Policy("enforce", "bollard.yaml", 1, "", (), str(keys), str(roots))
    fd, found = image.open_sif(str(path))
    try:
        return evidence.signers_of(fd, found, rules)
    finally:
        os.close(fd)


def ids(folder, *names):
    return {dsse.key_id(dsse.public_key(str(folder / f"{name}.pub"))) for name in names}


def together(folder, *names):
    path = folder / "keys"
    path.write_bytes(b"# a comment\n" + b"".join((folder / name).read_bytes() for name in names))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key(folder, img, kind):
    keys = together(folder, "ed25519.pub", "p256.pub", "p384.pub", "rsa.pub")
    assert {key.id for key in site_keys.read(str(keys), "")[0]} == ids(folder, *KINDS)  # as `cryptography` names them
    assert signers(img(kind), keys) == ids(folder, kind)
    changed = bytearray(img(kind).read_bytes())
    changed[-100] ^= 1
    (folder / "changed.sif").write_bytes(changed)
    assert signers(folder / "changed.sif", keys) == frozenset()


def test_several_signers_and_other_keys(folder, img):
    path = img("rsa", "p256")
    assert signers(path, together(folder, "rsa.pub", "p256.pub")) == ids(folder, "rsa", "p256")
    assert signers(path, together(folder, "rsa.pub")) == ids(folder, "rsa")
    assert signers(path, together(folder, "ed25519.pub")) == frozenset()


def test_a_key_id_without_the_key_is_nothing(folder, img):
    """The envelope names another key than the one that made it."""
    path = img("rsa")
    theirs, ours = (ids(folder, name).pop().encode() for name in ("rsa", "p256"))
    path.write_bytes(path.read_bytes().replace(theirs, ours))
    assert signers(path, together(folder, "rsa.pub", "p256.pub")) == frozenset()


def test_a_table_that_changes_after_the_image_was_opened(folder):
    """The partition that is mounted is the one that was opened, so the signature has to be about that one."""
    path = folder / "twice.sif"
    squashfs = test_image.superblock() + bytes(4000)
    write(path, OBJECTS, squashfs, "x86_64", force=True)
    sign.with_pem(str(path), dsse.private_key(str(folder / "rsa.pem")), (), ())
    good = path.read_bytes() + bytes(-path.stat().st_size % 4096) + squashfs[:-1] + b"x"
    fd, found = image.open_sif(str(path))
    os.close(fd)
    item = sif.primary(found)
    evil, at = bytearray(good), found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
    evil[at + 17 : at + 25] = (len(good) - item.size).to_bytes(8, "little")
    rule = trust_rule.Rule(1, any_of=tuple(ids(folder, "rsa")))
    rules = trust_rule.Policy("enforce", "bollard.yaml", 1, "", (rule,), str(together(folder, "rsa.pub")))
    for first, allowed in ((good, True), (evil, False)):
        path.write_bytes(first)
        opened = image.open_image(str(path))
        try:
            path.write_bytes(good)
            if allowed:
                assert evidence.check_image(rules, opened, "twice.sif").signers == tuple(ids(folder, "rsa"))
                continue
            with pytest.raises(BollardError, match="it is not signed by"):
                evidence.check_image(rules, opened, "twice.sif")
        finally:
            opened.close()


@pytest.mark.parametrize("name", ["code", "any"])
def test_a_certificate_counts_as_its_key(folder, img, name):
    assert signers(img("ed25519"), together(folder, f"{name}.crt"), folder / "root.crt") == ids(folder, "ed25519")


def test_an_issuer_between_is_no_signer_and_no_fault(folder, img):
    keys = together(folder, "of-issuer.crt", "issuer.crt")
    found, faults = site_keys.read(str(keys), str(folder / "root.crt"))
    assert {key.id for key in found} == ids(folder, "ed25519") and faults == []
    assert signers(img("ed25519"), keys, folder / "root.crt") == ids(folder, "ed25519")


@pytest.mark.parametrize(
    ("names", "roots", "why"),
    [
        (["server.crt"], "root.crt", "a certificate is not for signing code"),
        (["old.crt"], "root.crt", "a certificate: certificate has expired"),
        (["code.crt"], "code.crt", "a certificate: unable to get "),
        (["code.crt", "root.crt"], "any.crt", "a certificate: "),  # a root in the file of keys is no root
        (["of-web.crt", "web.crt"], "root.crt", "a certificate: one of its issuers is not for signing code"),
        (["of-small.crt", "small.crt"], "root.crt", "a certificate: CA certificate key too weak"),
        (["sha1.crt"], "root.crt", "a certificate: CA signature digest algorithm too weak"),
        (["lock.crt"], "root.crt", "a certificate is not for signatures"),
        (["code.crt"], "", "a certificate, and the policy names no roots"),
        (["short.pub"], "", "an RSA key with less than 2048 bits"),
        (["rsa.pem"], "", "a PRIVATE KEY is neither a public key nor a certificate"),
    ],
)
def test_what_does_not_count(folder, img, names, roots, why):
    keys = together(folder, *names)
    found, faults = site_keys.read(str(keys), str(folder / roots) if roots else "")
    assert found == [] and why in faults[0], faults
    assert signers(img("ed25519"), keys, folder / roots if roots else "") == frozenset()


def test_what_is_missing_refuses(folder, img, monkeypatch):
    with pytest.raises(BollardError, match="the site's keys in /none cannot be read on .*: No such file"):
        signers(img("rsa"), "/none")
    monkeypatch.setattr(installed, "OPENSSL", "/none")
    with pytest.raises(BollardError, match="/none is missing on .*; the site's administrator installs openssl"):
        signers(img("rsa"), together(folder, "rsa.pub"))


def test_keys_in_no_known_form():
    for der in (b"", b"\x30\x00", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", b"\x30" * 50):
        with pytest.raises(ValueError, match="a public key in no known form"):
            site_keys._wire(der)
