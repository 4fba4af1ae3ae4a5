# SPDX-License-Identifier: BSD-3-Clause
"""`bollard key`, `sign` and `verify`: keyring files, output, statuses; tests/peers compares them with Apptainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_images import Keys, pem_keys, read, report, write
from test_main import command

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif
from bollard.runtime.trust import keyring, pgp, sign


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = Keys(tmp_path_factory.mktemp("keys"))
    keyring.put(str(made.folder / "pgp-secret"), [made.secret["good"], made.secret["other"]])
    return made


def run(keys, *words, status=0, **environ):
    done = command(*words, **{"BOLLARD_KEYSDIR": str(getattr(keys, "folder", keys)), **environ})
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_fingerprints_lengths_and_users_are_those_of_gpg(keys):
    for name, key in keys.public.items():
        assert key.user == f"{name} <{name}@example.org>" and key.bits == 263 and not key.secret
        assert keys.secret[name].secret and keys.secret[name].fingerprint == key.fingerprint
    with pgp.Home(str(keys.folder)) as home:
        for kind, bits in (("rsa2048", 2048), ("nistp256", 515), ("dsa2048", 2048), ("brainpoolP384r1", 771)):
            home.gpg(["--quick-generate-key", f"{kind} (x) <a@b>", kind, "sign,cert", "never"])
            told = home.gpg(["--with-colons", "--list-keys", kind]).decode()
            (made,) = keyring.split(home.gpg(["--export", kind]))
            assert f"fpr:::::::::{made.fingerprint}:" in told and made.bits == bits
            (secret,) = keyring.split(home.gpg(["--export-secret-keys", kind]))
            assert secret.fingerprint == made.fingerprint and not sign.is_protected(secret)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_keyring_or_refused(data):
    try:
        keyring.split_named(data, "x")
    except BollardError as error:
        assert str(error).startswith("x: is no keyring")


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_keyring_that_is_cut_off(keys, tmp_path, cut):
    raw = keys.public["good"].raw
    (tmp_path / "ring").write_bytes(raw[:cut])
    try:
        found = keyring.read(str(tmp_path / "ring"))
    except BollardError:
        return
    assert [key.raw for key in found] in ([], [raw[:cut]])


def test_armor_is_read_in_all_forms(keys):
    for key in (keys.public["good"], keys.secret["good"]):
        text = keyring.armored(key.raw, key.secret)
        assert keyring.dearmored(text.encode(), "x") == key.raw
        assert keyring.dearmored(("before\n" + text.replace("\n", "\r\n") + "behind").encode(), "x") == key.raw
        assert keyring.dearmored(text.replace("BLOCK-----\n", "BLOCK-----\nVersion: x\n", 1).encode(), "x") == key.raw
        assert keyring.dearmored(key.raw, "x") == key.raw
    with pgp.Home(str(keys.folder)) as home:  # with a checksum
        home.gpg(["--import"], keys.public["good"].raw)
        told = home.gpg(["--export", "--armor"])
    assert keyring.dearmored(told, "x") == keys.public["good"].raw
    assert keyring.armored(keys.public["good"].raw, secret=False) == told.decode()


def test_a_keyring_file_is_the_users_alone(keys, tmp_path):
    path = tmp_path / "new" / "pgp-public"
    good, other = keys.public["good"], keys.public["other"]
    keyring.put(str(path), [good])
    keyring.put(str(path), [other, good])
    assert path.read_bytes() == good.raw + other.raw
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["pgp-public"]
    for text in (good.fingerprint[-8:], good.fingerprint[-16:], good.fingerprint[:-1], ""):
        assert keyring.find(keyring.read(str(path)), text) is None
        assert not keyring.remove(str(path), text)
    assert keyring.find(keyring.read(str(path)), "0x" + good.fingerprint.lower()) == good
    assert keyring.remove(str(path), good.fingerprint) and path.read_bytes() == other.raw


def test_no_writer_loses_the_key_of_another(keys, tmp_path):
    path = str(tmp_path / "ring")
    some = list(keys.public.values())
    threads = [threading.Thread(target=keyring.put, args=(path, [key])) for key in some]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.fingerprint for key in keyring.read(path)} == {key.fingerprint for key in some}


def test_the_directory_of_keyrings():
    assert keyring.directory({"HOME": "/h"}) == "/h/.apptainer/keys"
    assert keyring.directory({"HOME": "/h", "APPTAINER_KEYSDIR": "/k"}) == "/k"
    assert keyring.directory({"BOLLARD_KEYSDIR": "/b", "APPTAINER_KEYSDIR": "/k"}) == "/b"
    assert keyring.directory({"APPTAINER_CONFIGDIR": "/c"}) == "/c/keys"
    assert keyring.directory({"APPTAINER_KEYSDIR": "/k"}, "/given") == "/given"


def test_list_export_import_remove(keys, tmp_path):
    good = keys.public["good"].fingerprint
    assert "0)  User:              good () <good@example.org>\n" in run(keys, "key", "list")
    assert run(keys, "key", "list", "--secret").count("Fingerprint:") == 2
    # The numbers are read from standard input, which is closed here.
    assert "is not the number of a key" in run(keys, "key", "export", str(tmp_path / "x"), status=10)
    (tmp_path / "good.asc").write_text(keyring.armored(keys.public["good"].raw, secret=False))
    (tmp_path / "secret.asc").write_text(keyring.armored(keys.secret["good"].raw, secret=True))
    new = tmp_path / "ring"
    assert "successfully added to the public keyring" in run(new, "key", "import", str(tmp_path / "good.asc"))
    assert "is in the public keyring already" in run(new, "key", "import", str(tmp_path / "good.asc"), status=2)
    assert "to the private keyring" in run(new, "key", "import", str(tmp_path / "secret.asc"))
    assert "short key id" in run(new, "key", "remove", good[-16:], status=255)
    assert run(new, "key", "remove", good.lower()) == ""
    assert "no public key" in run(new, "key", "remove", good, status=255)
    assert run(new, "key", "remove", "--both", good) == ""
    assert keyring.read(str(new / "pgp-secret")) == [] == keyring.read(str(new / "pgp-public"))
    assert "successfully added to the public" in run(new, "key", "import", str(tmp_path / "secret.asc"))
    assert "holds no PGP key" in run(new, "key", "import", "/etc/passwd", status=2)
    assert "no such file" in run(new, "key", "import", "/nonexistent", status=2)


def test_a_revocation_by_import(keys, tmp_path):
    (tmp_path / "r").write_bytes(keys.public["revoked"].raw)
    keyring.put(str(tmp_path / "pgp-public"), [keys.unrevoked])
    run(tmp_path, "key", "import", str(tmp_path / "r"))
    (found,) = keyring.read(str(tmp_path / "pgp-public"))
    assert len(found.raw) > len(keys.unrevoked.raw)
    (tmp_path / "u").write_bytes(keys.unrevoked.raw)
    assert "already" in run(tmp_path, "key", "import", str(tmp_path / "u"), status=2)  # takes nothing away


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--password", "secret"], "every user of this machine can read it"),
        (["--bit-length", "1024"], "is not from 2048"),
        (["--name", "a<b"], "holds a character"),
        (["--name", "a\nb"], "holds a character"),
        (["--passphrase-file", "/nonexistent"], "cannot be read"),
        ([], "there is no terminal"),
    ],
)
def test_no_new_key(tmp_path, words, why):
    words = ["key", "newpair", "--name", "N", "--email", "e@x", "--comment", "", *words]
    assert why in run(tmp_path, *words, status=2)
    assert not list(tmp_path.iterdir())


def test_a_new_key_and_its_secrets(tmp_path):
    """Neither the passphrase nor a secret key is in a command line or environment of any process meanwhile."""
    (tmp_path / "pass").write_text("hush-hush-4711\n")
    seen: set[str] = set()
    over = threading.Event()

    def look():
        while not over.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "environ"):
                    try:
                        with open(f"/proc/{pid}/{name}", "rb") as file:
                            text = file.read()
                    except OSError:
                        continue
                    if b"hush-hush" in text:
                        seen.add(text.decode(errors="replace"))
                    if b"gpg" in text:
                        seen.add("gpg")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        more = ("--passphrase-file", str(tmp_path / "pass"))
        run(tmp_path, "key", "newpair", "-N", "Al", "-E", "al@x", "-C", "test", "-b", "2048", *more)
        img = write(tmp_path / "img.sif")
        assert "no terminal" in run(tmp_path, "sign", str(img), status=255)
        (tmp_path / "wrong").write_text("x\n")
        assert "passphrase of the key is wrong" in run(
            tmp_path, "sign", str(img), "--passphrase-file", str(tmp_path / "wrong"), status=255
        )
        run(tmp_path, "sign", str(img), *more)
        assert "Al (test) <al@x>" in run(tmp_path, "verify", str(img))
    finally:
        over.set()
        watcher.join()
    assert seen == {"gpg"}
    (secret,) = keyring.read(str(tmp_path / "pgp-secret"))
    assert sign.is_protected(secret) and secret.bits == 2048
    assert [tag for tag, _, _ in keyring.packets(secret.raw)] == [5, 13, 2, 7, 2]
    assert (tmp_path / "pgp-secret").stat().st_mode & 0o777 == 0o600


def test_verify_says_who_and_what(keys, tmp_path):
    img = write(tmp_path / "img.sif")
    assert "is not signed" in run(keys, "verify", str(img), status=255)
    run(keys, "sign", "--keyidx", "0", str(img))
    assert read(img).descriptors[-1].datatype == sif.SIGNATURE
    out = run(keys, "verify", str(img))
    assert out.splitlines()[1] == f"[LOCAL]            Fingerprint: {keys.public['good'].fingerprint}"
    found = json.loads(run(keys, "verify", "--json", str(img)))
    assert found["Signatures"] == 1 and all(entry["Signer"]["DataCheck"] for entry in found["SignerKeys"])
    done = command("verify", "--sif-id", "2", str(img), BOLLARD_KEYSDIR=str(keys.folder))
    assert done.returncode == 0 and "not verified: object 1 (Def.FILE), 3 (FS)" in done.stderr
    data = bytearray(img.read_bytes())
    data[read(img).descriptors[2].offset + 100] ^= 1
    img.write_bytes(data)
    done = command("verify", "--json", str(img), BOLLARD_KEYSDIR=str(keys.folder))
    assert done.returncode == 255 and done.stderr.count("\n") == 1 and "object 3 was changed" in done.stderr
    assert json.loads(done.stdout)["SignerKeys"][2]["Signer"]["DataCheck"] is False


def test_what_is_refused(keys, tmp_path):
    img = str(write(tmp_path / "img.sif"))
    assert "do not protect" in run(keys, "verify", "--legacy-insecure", img, status=255)
    assert "no server is asked" in run(keys, "verify", "--ocsp-verify", img, status=255)
    assert "is about --certificate" in run(keys, "verify", "--certificate-roots", "x", img, status=255)
    assert "name two keys" in run(keys, "verify", "--key", "x", "--certificate", "y", img, status=255)
    assert "name two keys" in run(keys, "sign", "--key", "x", "--keyidx", "0", img, status=255)
    assert "is no fingerprint" in run(keys, "sign", "--gpg-key", "ABCD1234", img, status=255)
    assert "no such key" in run(keys, "sign", "--keyidx", "9", img, status=255)
    assert "is not a number" in run(keys, "sign", "--sif-id", "x", img, status=255)
    assert "takes one image" in run(keys, "sign", status=255)
    assert "holds no key" in run(tmp_path / "none", "sign", img, status=255)
    assert not [item for item in read(img).descriptors if item.datatype == sif.SIGNATURE]


def test_pem_by_the_command(tmp_path):
    img = str(write(tmp_path / "img.sif"))
    private, public = pem_keys(tmp_path)["ecdsa"]
    run(tmp_path, "sign", img, BOLLARD_SIGN_KEY=private)
    out = run(tmp_path, "verify", "--key", public, img)
    assert out.startswith("Objects verified:") and "name it with --key" in run(tmp_path, "verify", img, status=255)
    found = json.loads(run(tmp_path, "verify", "--json", img, BOLLARD_VERIFY_KEY=public))
    assert found["SignerKeys"][0]["Signer"]["Name"] == "unknown"


def test_own_gpg(keys, tmp_path):
    """With the user's GnuPG and its agent."""
    img = write(tmp_path / "img.sif")
    with pgp.Home(str(keys.folder)) as home:
        home.gpg(["--import"], keys.secret["other"].raw)
        other = keys.public["other"].fingerprint
        run(keys, "sign", "--gpg-key", other, str(img), GNUPGHOME=home.path, PATH=os.environ["PATH"])
        assert "does not sign" in run(
            keys, "sign", "--gpg-key", "0" * 40, str(img), status=255, GNUPGHOME=home.path, PATH=os.environ["PATH"]
        ).splitlines()[-1]
    assert report(img, keys.trust()).verdicts[0].fingerprint == other


def test_the_agent_ends_when_bollard_is_killed(tmp_path):
    code = (
        "import sys, time; from bollard.runtime.trust import pgp\n"
        "home = pgp.Home(sys.argv[1]).__enter__(); print(home.path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        path = process.stdout.readline().strip()
        assert _agents(path)
        process.kill()
    deadline = 200
    while _agents(path) and deadline:
        deadline -= 1
        threading.Event().wait(0.1)
    assert not _agents(path)


def _agents(path):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if path.encode() in text and b"gpg-agent" in text:
            found.append(pid)
    return found


def test_programs_that_are_missing(keys, monkeypatch, tmp_path):
    monkeypatch.setattr(pgp, "_PLACES", ())
    with pytest.raises(BollardError, match="program gpgv is missing on this machine; install the package gpgv"):
        pgp.verify(b"x", (keys.ring,))
    with pytest.raises(BollardError, match="install the package gpg-agent"), pgp.Home(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())
