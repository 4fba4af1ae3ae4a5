# SPDX-License-Identifier: BSD-3-Clause
"""sign, verify and key beside Apptainer: what one of the two has signed, or kept in a keyring, is put before both.

Each row is a line of bash that runs in a directory with what PREPARE makes. BOX stands for the one program, OTHER for
the other one. Standard output and exit status have to be the same. All rows of a program run in one shell.
"""

from __future__ import annotations

import re

import pytest
import rows
from tree import IMAGES, Machine

# ruff: noqa: E501

_KEY = "--bit-length 2048 --email {0}@example.org --comment '{1}' --password ''"
PREPARE = f"""
set -e
rm -rf ~/w; mkdir -p ~/w; cd ~/w
exec 2>err
I={IMAGES}
# Keys: of Apptainer in ka, of bollard in kb, all of them in all; PEM keys and certificates.
apptainer key newpair --keysdir ka --name Ann --push=false {_KEY.format("ann", "one")} >/dev/null
apptainer key newpair --keysdir ka --name Ada --push=false {_KEY.format("ada", "")} >/dev/null
bollard key newpair --keysdir kb --name Bob {_KEY.format("bob", "")} >/dev/null
echo hush > pass
bollard key newpair --keysdir kb --name Ben -b 2048 -E ben@example.org -C two --passphrase-file pass >/dev/null
mkdir all; cat ka/pgp-public kb/pgp-public > all/pgp-public; cat ka/pgp-secret kb/pgp-secret > all/pgp-secret
chmod 700 ka kb all; chmod 600 all/*
openssl genpkey -algorithm ed25519 -out ed.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.pem
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem
for k in ed ec p384 rsa; do openssl pkey -in $k.pem -pubout -out $k.pub; done
ca='basicConstraints=critical,CA:TRUE\\nkeyUsage=keyCertSign\\n' code='extendedKeyUsage=codeSigning\\n'
certificate() {{ # NAME KEY ISSUER EXTENSIONS TIMES
    printf "$4" > ext; openssl req -new -key $2 -subj /CN=$1 -out req
    if [ $3 = - ]; then by="-signkey $2"; else by="-CA $3.crt -CAkey $3.key -CAcreateserial"; fi
    openssl x509 -req -in req $by $5 -extfile ext -out $1.crt
}}
for k in root between; do openssl genpkey -algorithm ed25519 -out $k.key; done
certificate root root.key - "$ca" "-days 30"
certificate between between.key root "$ca" "-days 30"
certificate code ed.pem root "$code" "-days 30"
certificate any ed.pem root 'basicConstraints=CA:FALSE\\n' '-days 30'
certificate server ed.pem root 'extendedKeyUsage=serverAuth\\n' '-days 30'
certificate old ed.pem root "$code" "-not_before 20200101000000Z -not_after 20200201000000Z"
certificate below ed.pem between "$code" "-days 30"
# Images.
for k in ed ec p384 rsa; do
    cp $I/plain.sif a-$k.sif; apptainer sign --key $k.pem a-$k.sif
    cp $I/plain.sif b-$k.sif; bollard sign --key $k.pem b-$k.sif
done
cp $I/plain.sif none.sif
cp $I/plain.sif a.sif; APPTAINER_KEYSDIR=ka apptainer sign -k 0 a.sif
cp $I/plain.sif b.sif; APPTAINER_KEYSDIR=kb bollard sign -k 0 b.sif
cp $I/plain.sif phrase.sif; APPTAINER_KEYSDIR=kb bollard sign -k 1 --passphrase-file pass phrase.sif
cp a.sif two.sif; APPTAINER_KEYSDIR=kb bollard sign -k 0 two.sif
cp b.sif owt.sif; APPTAINER_KEYSDIR=ka apptainer sign -k 1 owt.sif
cp a.sif mixed.sif; bollard sign --key ed.pem mixed.sif
cp $I/plain.sif part.sif; APPTAINER_KEYSDIR=kb bollard sign -k 0 -i 2 part.sif
cp $I/plain.sif groups.sif; bollard sif add --datatype 6 --groupid 2 groups.sif pass
cp groups.sif half.sif; APPTAINER_KEYSDIR=ka apptainer sign -k 0 -g 1 half.sif
APPTAINER_KEYSDIR=kb bollard sign -k 0 groups.sif
cp b.sif changed.sif; printf x | dd of=changed.sif bs=1 seek=40000 conv=notrunc
cp a.sif head.sif; printf x | dd of=head.sif bs=1 seek=50 conv=notrunc
cp b.sif stray.sif; bollard sif add --datatype 6 stray.sif pass
cp b.sif more.sif; bollard sif add --datatype 6 --groupid 1 more.sif pass
cp b.sif less.sif; bollard sif del 2 less.sif
(echo 0 | APPTAINER_KEYSDIR=ka apptainer key export -a ann.asc; echo 0 | APPTAINER_KEYSDIR=ka apptainer key export ann
 echo 0 | APPTAINER_KEYSDIR=ka apptainer key export -s -a anns.asc
 echo 0 | APPTAINER_KEYSDIR=kb bollard key export -a bob.asc; echo 0 | APPTAINER_KEYSDIR=kb bollard key export bob
 echo 0 | APPTAINER_KEYSDIR=kb bollard key export -s -a bobs.asc) >/dev/null
FP=$(APPTAINER_KEYSDIR=ka apptainer key list | sed -n 's/.*Fingerprint: *//p' | head -1)
echo "FP=$FP"
"""



A, B, ALL = "APPTAINER_KEYSDIR=ka BOX", "APPTAINER_KEYSDIR=kb BOX", "APPTAINER_KEYSDIR=all BOX"
COPY = "rm -f x.sif; cp none.sif x.sif"
ROWS = [
    # Signed by either of the two, with a key of either of the two.
    f"{A} verify a.sif", f"{B} verify b.sif", f"{B} verify phrase.sif", f"{ALL} verify two.sif", f"{ALL} verify owt.sif",
    f"{A} verify -l two.sif", f"{B} verify -l two.sif", f"{A} verify --local b.sif",
    f"{ALL} verify mixed.sif", f"{ALL} verify --key ed.pub mixed.sif",
    f"{A} verify --json a.sif", f"{ALL} verify -j two.sif", f"{A} verify --json --local b.sif",
    f"{A} verify none.sif", f"{A} verify no-such.sif", f"{A} verify pass", f"{A} verify --json none.sif",
    # Parts.
    f"{A} verify --all a.sif", f"{A} verify -a --json a.sif", f"{A} verify --group-id 1 a.sif", f"{A} verify -g 9 a.sif",
    f"{A} verify --sif-id 2 a.sif", f"{A} verify -i 9 a.sif", f"{A} verify -g 1 -i 2 a.sif", f"{A} verify -i 4 a.sif",
    f"{B} verify part.sif", f"{B} verify -i 2 part.sif", f"{B} verify -i 1 part.sif", f"{B} verify -i 2 --json part.sif",
    f"{B} verify groups.sif", f"{B} verify -g 2 groups.sif", f"{B} verify -i 4 groups.sif", f"{B} verify --json groups.sif",
    f"{A} verify half.sif", f"{A} verify -g 1 half.sif", f"{A} verify -g 2 half.sif",
    # Changed afterwards.
    f"{B} verify changed.sif", f"{B} verify --json changed.sif", f"{B} verify -i 1 changed.sif", f"{A} verify head.sif",
    f"{B} verify stray.sif", f"{B} verify -g 1 stray.sif", f"{B} verify -i 1 stray.sif", f"{B} verify -i 5 stray.sif", f"{B} verify more.sif", f"{B} verify -i 2 more.sif",
    f"{B} verify less.sif", f"{B} verify -i 1 less.sif",
    # PEM keys and certificates.
    *(f"BOX verify --key {kind}.pub {by}-{kind}.sif" for kind in ("ed", "ec", "p384", "rsa") for by in "ab"),
    "BOX verify --json --key ed.pub b-ed.sif", "BOX verify --key ec.pub a-ed.sif", "BOX verify --key ed.pem a-ed.sif",
    "BOX verify --key no-such a-ed.sif", f"{A} verify a-ed.sif", f"{A} verify --key ed.pub a.sif",
    "APPTAINER_VERIFY_KEY=ed.pub BOX verify b-ed.sif",
    *(f"BOX verify --certificate {name}.crt --certificate-roots root.crt b-ed.sif"
      for name in ("code", "any", "server", "old", "below", "no-such")),
    "BOX verify --certificate below.crt --certificate-intermediates between.crt --certificate-roots root.crt a-ed.sif",
    "BOX verify --certificate code.crt a-ed.sif", "BOX verify --certificate code.crt --certificate-roots root.crt a-ec.sif",
    # Signed by the one, verified by the other.
    *(f"{COPY}; APPTAINER_KEYSDIR=all BOX sign -k {number} {more} x.sif && APPTAINER_KEYSDIR=all OTHER verify x.sif"
      for number in (0, 2) for more in ("", "--group-id 1")),
    *(f"{COPY}; BOX sign --key {kind}.pem x.sif && OTHER verify --key {kind}.pub x.sif" for kind in ("ed", "ec", "rsa")),
    f"{COPY}; APPTAINER_KEYSDIR=all BOX sign -k 1 -i 3 x.sif; APPTAINER_KEYSDIR=all OTHER verify -i 3 x.sif",
    f"{COPY}; APPTAINER_SIGN_KEY=ed.pem BOX sign x.sif; OTHER verify --key ed.pub x.sif",
    *(f"{COPY}; APPTAINER_KEYSDIR=all BOX sign {more} x.sif; bollard sif list x.sif | sed 's/[0-9]*-[0-9]*//'"
      for more in ("-k 9", "-k 0 -g 9", "-k 0 -i 99", "--key ed.pub", "--key no-such", "-k 0", "-k 0 -i 2")),
    f"{COPY}; APPTAINER_KEYSDIR=nowhere BOX sign x.sif",
    # Keyrings of the one, read by the other.
    *(f"BOX key list -d {ring} {more}" for ring in ("ka", "kb", "all") for more in ("", "--secret")),
    "BOX key list --global",
    *(f"rm -rf new; BOX key import -d $PWD/new {name}; OTHER key list -d new; OTHER key list -d new -s"
      for name in ("ann.asc", "ann", "anns.asc", "bob.asc", "bob", "bobs.asc", "pass", "no-such", "ka/pgp-public")),
    "rm -rf new; BOX key import -d $PWD/new ann.asc; BOX key import -d $PWD/new ann.asc; OTHER key list -d new",
    "rm -rf new; cp -a all new; BOX key remove -d $PWD/new $FP; OTHER key list -d new; OTHER key list -d new -s",
    "rm -rf new; cp -a all new; BOX key remove -s -d $PWD/new $FP; OTHER key list -d new; OTHER key list -d new -s",
    "rm -rf new; cp -a all new; BOX key remove -b -d $PWD/new $FP; OTHER key list -d new; OTHER key list -d new -s",
    "BOX key remove -d $PWD/all ${FP:32}", "BOX key remove -b -d $PWD/kb $FP",
    "echo 1 | BOX key export -d all -a out.asc; OTHER key import -d $PWD/new2 out.asc; rm -rf new2 out.asc",
    "echo 9 | BOX key export -d all out", "echo x | BOX key export -d all out", "echo 0 | BOX key export -d nowhere out",
    "BOX key pull --url http://127.0.0.1:9 ABCD", "BOX key pull --url http://127.0.0.1:9 $FP",
    "BOX key search --url http://127.0.0.1:9 ann", "BOX key push -d all --url http://127.0.0.1:9 $FP",
    "BOX key push -d all ABCD",
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(machine: Machine) -> dict[str, list[tuple[str, str]]]:
    """Of each program: (status, standard output) of each row."""
    made = machine.run(PREPARE, timeout=300)
    assert made.returncode == 0, machine.run("cat ~/w/err; bash --version").stdout.decode()[-2000:]
    found = rows.outcomes(machine, "\n".join(("cd ~/w", made.stdout.decode().strip())), ROWS)
    return {box: [(status, plain(text)) for status, text in pairs] for box, pairs in found.items()}


def plain(text: str) -> str:
    """Standard output without what differs on purpose: the error, which bollard has on standard error."""
    text = re.sub(r"\x1b\[\d*m", "", text)
    return re.sub(r"\nError encountered during signature verification: .*\n", "", text)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=map(rows.label, ROWS))
def test_same(outcomes: dict[str, list[tuple[str, str]]], number: int) -> None:
    assert outcomes["bollard"][number] == outcomes["apptainer"][number]
