# SPDX-License-Identifier: BSD-3-Clause
"""Keys and signed images for tests: real keys, made once by gpg and openssl."""

from __future__ import annotations

import os
import subprocess

import sif_files

from bollard.runtime.image import image, sif, sif_write
from bollard.runtime.trust import keyring, pgp, sign, verify

OBJECTS = (
    sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
    sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"data":{"attributes":{}},"type":"container"}'),
)
PARTITION = b"hsqs" + bytes(range(256)) * 12
GEN = ("--quick-generate-key", "{} <{}@example.org>", "ed25519", "sign,cert")
LONG_AGO = ("--faked-system-time", "20200101T000000!")


class Keys:
    """Public and secret keys by name: good, other, expired, revoked."""

    def __init__(self, folder):
        self.folder = folder
        self.public = {}
        self.secret = {}
        with pgp.Home(str(folder)) as home:
            for name, options, until in (
                ("good", (), "never"), ("other", (), "never"), ("expired", LONG_AGO, "2d"), ("revoked", (), "never"),
            ):  # fmt: skip
                words = [word.format(name, name) for word in GEN]
                home.gpg([*options, *words, until])
            for key in keyring.split(home.gpg(["--export"])):
                self.public[key.user.split()[0]] = key
            for key in keyring.split(home.gpg(["--export-secret-keys"])):
                self.secret[key.user.split()[0]] = key
            revoked = self.public["revoked"].fingerprint
            self.unrevoked = self.public["revoked"]
            with open(f"{home.path}/openpgp-revocs.d/{revoked}.rev", encoding="ascii") as file:
                home.gpg(["--import"], file.read().replace("\n:---", "\n---").encode())
            self.public["revoked"] = keyring.split(home.gpg(["--export", revoked]))[0]
        self.ring = str(folder / "pgp-public")
        keyring.put(self.ring, list(self.public.values()))

    def trust(self, *names):
        """Trust in the keys of these names; in all without one."""
        if not names:
            return verify.Trust((self.ring,))
        ring = f"{self.ring}-{'-'.join(names)}"
        keyring.put(ring, [self.public[name] for name in names])
        return verify.Trust((ring,))

    def sign(self, path, name="good", groups=(), objects=()):
        sign.with_pgp(str(path), self.secret[name], None, str(self.folder), groups, objects)

    def clear_sign(self, text, name="good", *options):
        with pgp.Home(str(self.folder)) as home:
            home.gpg(["--import"], self.secret[name].raw)
            return home.gpg([*options, "--local-user", self.public[name].fingerprint + "!", "--clearsign"], text)


def write(path, objects=OBJECTS, partition=PARTITION):
    sif_files.write(path, objects, partition, "x86_64", force=True)
    return path


def report(path, trust, **chosen):
    fd, found = image.open_sif(str(path))
    try:
        return verify.verify(fd, found, trust, **chosen)
    finally:
        os.close(fd)


def read(path):
    fd, found = image.open_sif(str(path))
    os.close(fd)
    return found


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def pem_keys(folder):
    """Make PEM keys of the three kinds; return {kind: (private, public)}."""
    kinds = {
        "ed25519": ["-algorithm", "ed25519"],
        "ecdsa": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    }
    made = {}
    for kind, options in kinds.items():
        openssl(folder, "genpkey", *options, "-out", f"{kind}.pem")
        openssl(folder, "pkey", "-in", f"{kind}.pem", "-pubout", "-out", f"{kind}.pub")
        made[kind] = (str(folder / f"{kind}.pem"), str(folder / f"{kind}.pub"))
    return made
