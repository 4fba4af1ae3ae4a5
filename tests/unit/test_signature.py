# SPDX-License-Identifier: BSD-3-Clause
"""Signatures of SIF files: what they cover, and every way to fool the one who verifies them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import re
import shutil
import time

import pytest
import signed_images
from signed_images import Keys, read, report, write

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_edit, sif_write
from bollard.runtime.request import trust_rule
from bollard.runtime.trust import evidence, keyring, pgp, sign, signature, verify


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def master(keys, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("image") / "img.sif")
    keys.sign(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def own_gpgv(monkeypatch):
    monkeypatch.setattr(evidence, "GPGV", shutil.which("gpgv"))


@pytest.fixture
def img(master, tmp_path):
    path = tmp_path / "img.sif"
    path.write_bytes(master)
    return path


def add(path, datatype=sif.GENERIC, data=b"more", **more):
    fd = os.memfd_create("data")
    os.write(fd, data)
    os.lseek(fd, 0, 0)
    try:
        return sif_edit.add(str(path), sif_edit.New(datatype, **more), fd)
    finally:
        os.close(fd)


def resigned(path, keys, change, name="good"):
    """Put a signature of a changed text in the place of the image's own."""
    fd, found = image.open_sif(str(path))
    group = signature.members(found, 1)
    text = change(signature.text(signature.Digests(fd, found), group))
    os.close(fd)
    old = [item.id for item in found.descriptors if item.datatype == sif.SIGNATURE]
    for number in old:
        sif_edit.delete(str(path), number)
    sign.add(str(path), [(1, keys.clear_sign(text, name).rstrip(b"\n"), "SHA256")], keys.public[name].fingerprint)


def test_a_signed_image(keys, img):
    found = report(img, keys.trust())
    (verdict,) = found.verdicts
    assert found.reason == "" and found.unsigned == () and found.objects == verdict.covered != ()
    assert verdict.good and verdict.kind == "pgp" and verdict.name == "good <good@example.org>"
    assert verdict.fingerprint == keys.public["good"].fingerprint
    assert verify.signers(found) == {verdict.fingerprint}
    assert report(img, keys.trust("good")).reason == ""


def test_an_unsigned_group_is_named(keys, tmp_path):
    assert report(write(tmp_path / "img.sif"), keys.trust()).reason == "object group 1 is not signed"


def test_a_signature_of_an_unknown_key_does_not_count(keys, img):
    found = report(img, keys.trust("other"))
    assert "the key is in no keyring" in found.reason and found.verdicts[0].unknown
    assert verify.signers(found) == frozenset()
    assert "the key is in no keyring" in report(img, verify.Trust(("/nonexistent/ring",))).reason
    assert "made with a PGP key" in report(img, verify.Trust(keys=(object(),))).reason


@pytest.mark.parametrize(("name", "why"), [("expired", "has expired"), ("revoked", "has been revoked")])
def test_expired_and_revoked_keys(keys, img, monkeypatch, name, why):
    if name == "expired":  # signed while the key was valid
        real = pgp.Home.gpg
        monkeypatch.setattr(
            pgp.Home, "gpg", lambda self, words, *rest: real(self, [*signed_images.LONG_AGO, *words], *rest)
        )
    keys.sign(img, name)
    monkeypatch.undo()
    found = report(img, keys.trust())
    assert why in found.reason and not found.verdicts[1].good and found.verdicts[1].fingerprint == ""
    assert verify.signers(found) == {keys.public["good"].fingerprint}


def test_all_signers_must_be_known(keys, img):
    keys.sign(img, "other")
    both = {keys.public[name].fingerprint for name in ("good", "other")}
    found = report(img, keys.trust())
    assert found.reason == "" and verify.signers(found) == both
    some = report(img, keys.trust("good"))
    assert "no keyring" in some.reason and verify.signers(some) == {keys.public["good"].fingerprint}


def test_a_signature_of_one_object_is_not_one_of_the_group(keys, tmp_path):
    path = write(tmp_path / "img.sif")
    keys.sign(path, objects=[2])
    assert report(path, keys.trust(), objects=[2]).reason == ""
    assert "object 1 is not signed" in report(path, keys.trust()).reason
    assert "object 1 is not signed" in report(path, keys.trust(), objects=[1]).reason
    with pytest.raises(BollardError, match="no object 9; its objects: 1, 2"):
        report(path, keys.trust(), objects=[9])
    with pytest.raises(BollardError, match="no object group 9; its groups: 1"):
        report(path, keys.trust(), groups=[9])


def test_each_group_must_be_signed(keys, img):
    number = add(img, group=2)
    assert report(img, keys.trust()).reason == "object group 2 is not signed"
    found = report(img, keys.trust(), groups=[1])
    assert found.reason == "" and number not in found.objects
    keys.sign(img, groups=[2])
    found = report(img, keys.trust())
    assert found.reason == "" and number in found.objects


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("datatype", [sif.PARTITION, sif.GENERIC])
def test_an_object_added_later(keys, img, group, datatype):
    extra = b"\2\0\0\0\4\0\0\0" + b"02\0"  # an ext3 overlay
    number = add(img, datatype, extra=extra if datatype == sif.PARTITION else b"", group=group)
    found = report(img, keys.trust())
    assert found.reason and f"object {number} is" in found.reason
    assert verify.signers(report(img, keys.trust(), groups=[1])) == (
        frozenset() if group else {keys.public["good"].fingerprint}
    )


def test_an_object_taken_away(keys, img):
    sif_edit.delete(str(img), 2)
    assert "that signature object" in report(img, keys.trust()).reason


def test_swapped_objects_are_not_what_was_signed(keys, tmp_path):
    two = (sif_write.Object(sif.GENERIC, "a", b"one"), sif_write.Object(sif.GENERIC, "b", b"two"))
    img = write(tmp_path / "img.sif", objects=two)
    keys.sign(img)
    found = read(img)
    first, second = (sif_edit.find(found, number) for number in (1, 2))
    data = bytearray(img.read_bytes())
    for item, other in ((first, second), (second, first)):
        at = found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
        data[at + 17 : at + 25] = other.raw[17:25]  # the offset, which is not signed
    img.write_bytes(data)
    assert "was changed" in report(img, keys.trust()).reason


def test_a_signature_of_another_image(keys, img, tmp_path):
    other = write(tmp_path / "other.sif", partition=b"hsqs" + bytes(5000))
    item = next(item for item in read(img).descriptors if item.datatype == sif.SIGNATURE)
    data = img.read_bytes()[item.offset : item.offset + item.size]
    sign.add(str(other), [(1, data, "SHA256")], keys.public["good"].fingerprint)
    found = report(other, keys.trust())
    assert "header of the image is not the one" in found.reason
    assert verify.signers(found) == frozenset()


def test_a_signature_for_another_group(keys, img):
    add(img, group=2)
    item = next(item for item in read(img).descriptors if item.datatype == sif.SIGNATURE)
    data = img.read_bytes()[item.offset : item.offset + item.size]
    sign.add(str(img), [(2, data, "SHA256")], keys.public["good"].fingerprint)
    assert report(img, keys.trust(), groups=[2]).reason


def test_the_name_of_another_key(keys, img):
    """The descriptor names a key whose last digits are those of a trusted one."""
    trusted = keys.public["good"].fingerprint
    for entity in (trusted, "0" * 32 + trusted[-8:], trusted[:-1] + ("0" if trusted[-1] != "0" else "1"), ""):
        path = write(img.parent / "other.sif")
        fd, found = image.open_sif(str(path))
        text = signature.text(signature.Digests(fd, found), signature.members(found, 1))
        os.close(fd)
        sign.add(str(path), [(1, keys.clear_sign(text, "other").rstrip(b"\n"), "SHA256")], entity)
        found = report(path, keys.trust())
        assert "names the key" in found.reason and found.verdicts[0].fingerprint == "", entity
        assert verify.signers(found) == frozenset()


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two keys with one short id, the last 32 bits of their fingerprints: {name: (public, secret)}.

    The time of creation is part of a fingerprint, so a few hundred thousand hashes find such a pair.
    """
    folder = tmp_path_factory.mktemp("twins")
    begin = 1_600_000_000
    with pgp.Home(str(folder)) as home:
        for name in ("one", "two"):
            home.gpg(["--quick-generate-key", f"{name} <x@example.org>", "ed25519", "sign,cert", "never"])
        lines = home.gpg(["--with-colons", "--with-keygrip", "--list-keys"]).decode().splitlines()
        grips = [line.split(":")[9] for line in lines if line.startswith("grp")]
        first, second = (short_ids(key.raw, begin) for key in keyring.split(home.gpg(["--export"])))
        by = {short: created for created, short in first}
        pairs = next((by[short], other) for other, short in second if short in by)
        for name, grip, created in zip(("one", "two"), grips, pairs):
            made = time.strftime("%Y%m%dT%H%M%S", time.gmtime(created))
            words = f"Key-Type: EDDSA\nKey-Grip: {grip}\nKey-Usage: sign\nCreation-Date: {made}\n%no-protection\n"
            home.gpg(["--generate-key"], f"{words}Name-Real: twin-{name}\n%commit\n".encode())
        public, secret = (keyring.split(home.gpg([option, "twin-"])) for option in ("--export", "--export-secret-keys"))
    return {key.user.removeprefix("twin-"): (key, other) for key, other in zip(public, secret)}


def short_ids(raw, begin):
    """(Time, short id) of a key for a quarter of a million seconds of creation."""
    _, body, _ = next(keyring.packets(raw))
    head, tail = b"\x99" + len(body).to_bytes(2, "big") + body[:1], body[5:]
    for created in range(begin, begin + 250_000):
        yield created, hashlib.sha1(head + created.to_bytes(4, "big") + tail).digest()[-4:]


def test_another_key_with_the_same_short_id(twins, keys, tmp_path):
    (one, _), (two, secret) = twins["one"], twins["two"]
    assert one.fingerprint[-8:] == two.fingerprint[-8:] and one.fingerprint != two.fingerprint
    ring, both = str(tmp_path / "one"), str(tmp_path / "both")
    keyring.put(ring, [one])
    keyring.put(both, [one, two])
    img = write(tmp_path / "img.sif")
    sign.with_pgp(str(img), secret, None, str(keys.folder), (), ())
    found = report(img, verify.Trust((ring,)))
    assert "the key is in no keyring" in found.reason and verify.signers(found) == frozenset()
    found = report(img, verify.Trust((both,)))
    assert found.reason == "" and verify.signers(found) == {two.fingerprint}
    rule = trust_rule.Rule(1, any_of=(one.fingerprint,))
    fd, sif_file = image.open_sif(str(img))
    try:
        with pytest.raises(BollardError, match=f"is not signed by {one.fingerprint}, but by {two.fingerprint}"):
            verify.require(fd, sif_file, verify.Trust((both,)), [one.fingerprint])
        for trusted in (ring, both):
            policy = trust_rule.Policy("enforce", "bollard.yaml", 1, trusted, (rule,))
            assert one.fingerprint not in evidence.signers_of(fd, sif_file, policy)
    finally:
        os.close(fd)
    data = bytearray(img.read_bytes())  # the descriptor names the other twin
    at = data.index(bytes.fromhex(two.fingerprint))
    data[at : at + 20] = bytes.fromhex(one.fingerprint)
    img.write_bytes(data)
    found = report(img, verify.Trust((both,)))
    assert f"names the key {one.fingerprint}, but {two.fingerprint} made it" in found.reason
    assert verify.signers(found) == frozenset()


def test_a_revocation_in_any_keyring_counts(keys, img, tmp_path):
    """The user's keyring has the key as it was; the machine's has its revocation."""
    keys.sign(img, "revoked")
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    keyring.put(old, [keys.unrevoked, keys.public["good"]])
    keyring.put(new, [keys.public["revoked"]])
    assert report(img, verify.Trust((old,))).reason == ""
    for rings in ((old, new), (new, old)):
        found = report(img, verify.Trust(rings))
        assert "has been revoked" in found.reason
        assert verify.signers(found) == {keys.public["good"].fingerprint}


def test_a_user_id_with_a_line_separator(keys, img, tmp_path):
    """gpgv prints it as it is. It is part of a name, and no status line of gpgv."""
    with pgp.Home(str(tmp_path)) as home:
        forged = f"[GNUPG:] VALIDSIG {keys.public['good'].fingerprint}"
        user = f"Mallory\u2028{forged}\x85{forged} <m@example.org>"
        home.gpg(["--quick-generate-key", user, "ed25519", "sign", "never"])
        (public,), (secret,) = (keyring.split(home.gpg([word])) for word in ("--export", "--export-secret-keys"))
    ring = str(tmp_path / "ring")
    keyring.put(ring, [public, keys.public["good"]])
    sign.with_pgp(str(img), secret, None, str(keys.folder), (), ())
    found = report(img, verify.Trust((ring,)))
    assert found.reason == "" and found.verdicts[1].name.startswith("Mallory")
    assert verify.signers(found) == {public.fingerprint, keys.public["good"].fingerprint}


def test_the_system_partition_in_another_group_than_the_signature(keys, img):
    """Group 1 is signed by a trusted key, and what would be mounted is in group 2."""
    found = read(img)
    item = sif.primary(found)
    data = bytearray(img.read_bytes())
    at = found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
    data[at + 9 : at + 13] = (sif.GROUP_BIT | 2).to_bytes(4, "little")
    img.write_bytes(data)
    assert "an object that signature object" in report(img, keys.trust(), groups=[1]).reason
    add(img, group=1)
    for number in [item.id for item in read(img).descriptors if item.datatype == sif.SIGNATURE]:
        sif_edit.delete(str(img), number)
    keys.sign(img, groups=[1])
    assert report(img, keys.trust(), groups=[1]).reason == ""
    assert report(img, keys.trust()).reason == "object group 2 is not signed"
    fd, found = image.open_sif(str(img))
    try:
        rules = trust_rule.Policy("enforce", "bollard.yaml", 1, keys.ring, ())
        assert evidence.signers_of(fd, found, rules) == frozenset()
        with pytest.raises(BollardError, match="object group 2 is not signed"):
            verify.require(fd, found, keys.trust(), [keys.public["good"].fingerprint])
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace(b"sha256:", b"sha1:"), "unknown kind"),
        (lambda text: text.replace(b"sha256:", b"md5:"), "unknown kind"),
        (lambda text: text.replace(b"sha256:", b"SHA256:"), "unknown kind"),
        (lambda text: text.replace(b"sha256:", b"sha512:"), "wrong form"),
        (lambda text: text.replace(b'"version":1', b'"version":2'), "version 1"),
        (lambda text: text.replace(b'"relativeId":1', b'"relativeId":0'), "that of another"),
        (lambda text: text.replace(b'"relativeId":1', b'"relativeId":true'), "has no number"),
        (lambda text: text.replace(b'"relativeId":1', b'"relativeId":1.0'), "has no number"),
        (lambda text: text.replace(b'"relativeId":1', b'"relativeId":-1'), "has no number"),
        (lambda text: text.replace(b'"relativeId":1', b'"relativeId":40'), "object 2 is not signed"),
        (lambda text: text.replace(b'{"version":1,', b'{"version":1,"version":1,'), "twice"),
        (lambda text: text.replace(b'"objects"', b'"object"'), "lacks"),
        (lambda text: b"[]", "version 1"),
        (lambda text: b"[" * 9000, "too deep|valid"),
        (lambda text: b"no JSON", "not valid"),
        (lambda text: b"SIFHASH:\n" + b"0" * 96, "form before 2020"),
        (lambda text: text + b"\n" + text, "not valid"),
    ],
)
def test_other_texts_by_a_trusted_key(keys, img, change, why):
    resigned(img, keys, change)
    found = report(img, keys.trust())
    assert re.search(why, found.reason) and verify.signers(found) == frozenset()


def test_more_than_one_message(keys, img):
    """Text before, behind and a second message: gpgv would verify one of them."""
    item = next(item for item in read(img).descriptors if item.datatype == sif.SIGNATURE)
    data = img.read_bytes()[item.offset : item.offset + item.size]
    other = keys.clear_sign(b"{}", "other")
    more = data.replace(b"\n-----BEGIN PGP SIGN", b"\n- x\n-----BEGIN PGP SIGN")
    for message in (data + b"\n" + other, other + data + b"\n", data + b"\n" + data, more):
        made = pgp.verify(message, keys.trust().keyrings)
        assert made.reason and not made.fingerprint


def covered_places(path):
    """The ranges of bytes that are signed, from the description of the format."""
    found = read(path)
    ranges = [(0, 45), (48, 64)]
    for item in found.descriptors:
        if item.datatype == sif.SIGNATURE:
            continue
        at = found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
        ranges += [(at + a, at + b) for a, b in ((0, 9), (13, 17), (25, 33), (41, 49), (57, 585))]
        ranges.append((item.offset, item.offset + item.size))
    return ranges


def contents(found, data):
    return [
        (item.id, item.group, item.link, item.name, item.extra, data[item.offset : item.offset + item.size])
        for item in found.descriptors
        if item.datatype != sif.SIGNATURE
    ]


@pytest.fixture
def gpgv_once(monkeypatch):
    """gpgv runs once for each distinct signature: thousands of images differ elsewhere."""
    monkeypatch.setattr(pgp, "verify", functools.cache(pgp.verify))


@pytest.mark.usefixtures("gpgv_once")
def test_a_flipped_byte_anywhere(keys, img, master):
    """2 000 places: refused, or outside of what is signed, and then every object is what it was."""
    chance = random.Random(20200101)
    places = covered_places(img)
    before = contents(read(img), master)
    trust = keys.trust("good")
    accepted = 0
    end = max(stop for _, stop in places)
    for _ in range(2000):
        # Most of the file is an empty table: half of the places are in what is signed, or in the signature.
        start, stop = chance.choice([*places, (end, len(master))]) if chance.random() < 0.5 else (0, len(master))
        at = chance.randrange(start, stop)
        changed = bytearray(master)
        changed[at] ^= 1 << chance.randrange(8)
        img.write_bytes(changed)
        signed = any(start <= at < stop for start, stop in places)
        try:
            reason = report(img, trust).reason
        except BollardError as error:
            assert "\n" not in str(error)
            continue
        if reason:
            continue
        accepted += 1
        assert not signed, f"byte {at} is signed, and its change was accepted"
        assert contents(read(img), bytes(changed)) == before, f"byte {at}"
    assert 100 < accepted < 1500


@pytest.mark.usefixtures("gpgv_once")
def test_every_bit_of_a_descriptor(keys, img, master):
    """What is accepted leaves the object as it was."""
    found = read(img)
    before, trust = contents(found, master), keys.trust("good")
    item = found.descriptors[1]
    at = found.header.table_offset + item.slot * sif.DESCRIPTOR_SIZE
    for bit in range(8 * 73):
        changed = bytearray(master)
        changed[at + bit // 8] ^= 1 << bit % 8
        img.write_bytes(changed)
        try:
            if report(img, trust).reason:
                continue
        except BollardError:
            continue
        assert contents(read(img), bytes(changed)) == before, bit


def test_the_text_is_that_of_apptainer(img):
    """Keys in Apptainer's order, without spaces."""
    fd, found = image.open_sif(str(img))
    text = signature.text(signature.Digests(fd, found), signature.members(found, 1), [2])
    os.close(fd)
    document = json.loads(text)
    assert json.dumps(document, separators=(",", ":")).encode() == text
    assert list(document) == ["version", "header", "objects"]
    assert [entry["relativeId"] for entry in document["objects"]] == [1]


def test_a_text_that_gpg_would_cut(keys):
    with pytest.raises(BollardError, match="too many objects"):
        pgp.clear_sign(pgp.Home("/tmp"), b"x" * 20_000, "", None)


def test_nothing_is_left_of_gpg(keys, img, tmp_path):
    seen = []

    class Home(pgp.Home):
        def __exit__(self, *error):
            seen.append(self.path)
            super().__exit__(*error)

    with pytest.raises(ValueError, match="x"), Home(str(tmp_path)) as home:
        assert os.stat(home.path).st_mode & 0o777 == 0o700
        raise ValueError("x")
    assert seen and not os.path.exists(seen[0])
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and seen[0] in _command(pid)]


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def test_require_wants_all_fingerprints(keys, img):
    fd, found = image.open_sif(str(img))
    good, other = (keys.public[name].fingerprint for name in ("good", "other"))
    try:
        verify.require(fd, found, keys.trust(), [good, good.lower()])
        with pytest.raises(BollardError, match=f"is not signed by {other}, but by {good}"):
            verify.require(fd, found, keys.trust(), [good, other])
        with pytest.raises(BollardError, match="no keyring"):
            verify.require(fd, found, keys.trust("other"), [good])
    finally:
        os.close(fd)
