# SPDX-License-Identifier: BSD-3-Clause
"""Keys, hashes and keyrings that must not vouch for an image: weak, revoked or damaged."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from signed_images import Keys, report, write

from bollard.runtime.errors import BollardError
from bollard.runtime.trust import evidence, keyring, pgp, sign, verify


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def own_gpgv(monkeypatch):
    monkeypatch.setattr(evidence, "GPGV", shutil.which("gpgv"))


@pytest.fixture
def img(keys, tmp_path):
    path = write(tmp_path / "img.sif")
    keys.sign(path)
    return path


@pytest.mark.parametrize("digest", ["SHA1", "RIPEMD160"])
def test_a_weak_hash_does_not_count(keys, digest):
    message = keys.clear_sign(b"{}", "good", "--allow-weak-digest-algos", "--digest-algo", digest)
    assert pgp.verify(message, keys.trust().keyrings).reason


@pytest.mark.parametrize(
    ("primary", "subkey", "why"),
    [
        ("rsa1024", "", "its key is RSA with 1024 bits, and 2048 are needed"),
        ("dsa1024", "", "its key is DSA with 1024 bits, and 2048 are needed"),
        ("ed25519", "rsa1024", "its key is RSA with 1024 bits, and 2048 are needed"),
        ("rsa1024", "ed25519", "its key is RSA with 1024 bits, and 2048 are needed"),
        ("ed25519", "rsa2048", ""),
        ("rsa2048", "", ""),
    ],
)
@pytest.mark.parametrize("box", [False, True], ids=["keyring", "keybox"])
def test_short_keys(keys, tmp_path, primary, subkey, why, box):
    """gpgv says that these signatures are good. A short primary key can be broken, and then has any subkey."""
    with pgp.Home(str(tmp_path)) as home:
        home.gpg(["--quick-generate-key", "short", primary, "sign,cert", "never"])
        (public,) = keyring.split(home.gpg(["--export"]))
        if subkey:
            home.gpg(["--quick-add-key", public.fingerprint, subkey, "sign", "never"])
            (public,) = keyring.split(home.gpg(["--export"]))
        message = home.gpg(["--digest-algo", "SHA256", "--clearsign"], b"{}")
        ring = f"{home.path}/pubring.kbx" if box else str(tmp_path / "ring")
        if not box:
            keyring.put(ring, [keys.public["good"], public])
        made = pgp.verify(message, [ring])
    assert made.reason == why
    assert made.fingerprint == ("" if why else public.fingerprint)


def test_a_short_key_signs_nothing(keys, img, tmp_path):
    """Nobody would accept the signature."""
    with pgp.Home(str(tmp_path)) as home:
        home.gpg(["--quick-generate-key", "short", "rsa1024", "sign", "never"])
        (secret,) = keyring.split(home.gpg(["--export-secret-keys"]))
    before = img.read_bytes()
    with pytest.raises(BollardError, match="RSA with 1024 bits, and 2048 are needed"):
        sign.with_pgp(str(img), secret, None, str(keys.folder), (), ())
    assert img.read_bytes() == before


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_revocation_that_was_appended(keys, img, tmp_path, first):
    """`gpg --export KEY >> FILE` puts a second copy of the key behind the one without the revocation."""
    keys.sign(img, "revoked")
    copies = [keys.unrevoked.raw, keys.public["revoked"].raw]
    ring = tmp_path / "ring"
    ring.write_bytes(b"".join(copies if first == "old" else copies[::-1]) + keys.public["good"].raw)
    found = report(img, verify.Trust((str(ring),)))
    assert "has been revoked" in found.reason
    assert verify.signers(found) == {keys.public["good"].fingerprint}


@pytest.mark.parametrize("end", [b"\x00damaged", b"\xb4\x20cut", b"\x99\x01\x0d\x04cut", b"\xc6"])
def test_a_keyring_with_a_damaged_end_vouches_for_nobody(keys, img, tmp_path, end):
    """gpgv may use the keys before the damage, and miss a revocation behind it."""
    keys.sign(img, "good")
    ring = tmp_path / "ring"
    ring.write_bytes(keys.public["good"].raw + end)
    try:
        found = report(img, verify.Trust((str(ring),)))
    except BollardError as error:
        assert "is no keyring" in str(error)
    else:
        assert not verify.signers(found)


def test_a_keybox_of_gnupg(keys, img, tmp_path):
    keys.sign(img, "good")
    home, source = tmp_path / "gnupg", tmp_path / "key"
    home.mkdir(mode=0o700)
    source.write_bytes(keys.public["good"].raw)
    box = tmp_path / "keys.kbx"
    gpg = ["gpg", "--homedir", home, "--batch", "--no-default-keyring", "--keyring", box]
    subprocess.run([*gpg, "--import", source], check=True, capture_output=True)
    assert box.read_bytes()[8:12] == b"KBXf"
    assert verify.signers(report(img, verify.Trust((str(box),)))) == {keys.public["good"].fingerprint}
