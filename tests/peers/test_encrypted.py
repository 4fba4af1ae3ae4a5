# SPDX-License-Identifier: BSD-3-Clause
"""Encrypted images beside Apptainer: each of the two builds them, each opens the other's.

Each row is a line of bash. BOX stands for the one program, OTHER for the other one. Standard output and exit status have
to be the same. All rows of a program run in one shell.
"""

from __future__ import annotations

import pytest
import rows
from tree import IMAGES, Machine

# ruff: noqa: E501

PREPARE = f"""
set -e
rm -rf ~/e; mkdir -p ~/e; cd ~/e
exec 2>err
openssl genrsa -traditional -out key 2048; openssl rsa -in key -RSAPublicKey_out -out pub
openssl genrsa -traditional -out big 4096; openssl rsa -in big -RSAPublicKey_out -out bigpub
openssl genrsa -traditional -out other 2048
openssl rsa -traditional -aes256 -passout pass:word -in key -out locked
mkdir -p sb/bin sb/etc sb/tmp sb/proc
cp /bin/busybox sb/bin/; for n in sh cat echo id test true; do ln -s busybox sb/bin/$n; done
touch sb/etc/passwd sb/etc/group
echo inside > sb/file
for box in apptainer bollard; do
    APPTAINER_ENCRYPTION_PASSPHRASE='two words' $box build --encrypt $box-phrase.sif sb
    $box build --pem-path pub $box-rsa.sif sb
    APPTAINER_ENCRYPTION_PEM_PATH=bigpub $box build --encrypt $box-big.sif sb
done
# With a signature, which covers the encrypted partition and the key's message.
export APPTAINER_KEYSDIR=$PWD/keys
apptainer key newpair --name Ann --push=false --bit-length 2048 --email a@example.org --comment '' --password '' >/dev/null
for box in apptainer bollard; do cp $box-rsa.sif $box-signed.sif; $box sign -k 0 $box-signed.sif; done
cp {IMAGES}/plain.sif plain.sif
"""

PHRASE = "APPTAINER_ENCRYPTION_PASSPHRASE='two words'"
DATA = 'APPTAINER_ENCRYPTION_PEM_DATA="$(cat key)"'
BY = ("apptainer", "bollard")
ROWS = [
    # Made by either of the two.
    *(f"{PHRASE} BOX exec {by}-phrase.sif cat /file" for by in BY),
    *(f"BOX exec --pem-path key {by}-rsa.sif cat /file" for by in BY),
    *(f"APPTAINER_ENCRYPTION_PEM_PATH=big BOX exec {by}-big.sif cat /file" for by in BY),
    *(f"{DATA} BOX exec {by}-rsa.sif cat /file" for by in BY),
    *(f"echo 'two words' | BOX exec --passphrase {by}-phrase.sif cat /file" for by in BY),
    *(f"{PHRASE} BOX run {by}-phrase.sif echo x" for by in BY),
    *(f"echo 'cat /file' | {PHRASE} BOX shell {by}-phrase.sif" for by in BY),
    *(f"BOX exec --writable-tmpfs --pem-path key {by}-rsa.sif sh -c 'echo new > /file; cat /file'" for by in BY),
    *(f"BOX exec --pem-path key {by}-rsa.sif sh -c 'echo $APPTAINER_ENCRYPTION_PEM_PATH$APPTAINER_ENCRYPTION_PASSPHRASE'" for by in BY),
    *(f"{PHRASE} BOX instance start {by}-phrase.sif enc >/dev/null && BOX exec instance://enc cat /file; BOX instance stop enc" for by in BY),
    *(f"BOX inspect {by}-phrase.sif | grep -c build-arch" for by in BY),
    *(f"APPTAINER_KEYSDIR=keys BOX verify {by}-signed.sif | grep -c Gocryptfs; BOX exec --pem-path key {by}-signed.sif cat /file" for by in BY),
    *(f"BOX sif list {by}-rsa.sif | grep -o 'FS (.*'" for by in BY),
    f"{PHRASE} BOX exec plain.sif echo x",  # a variable is for images that need it
    # The wrong key, or none.
    *(f"APPTAINER_ENCRYPTION_PASSPHRASE=wrong BOX exec {by}-phrase.sif cat /file" for by in BY),
    *(f"BOX exec {by}-phrase.sif cat /file" for by in BY),
    *(f"BOX exec {by}-rsa.sif cat /file" for by in BY),
    *(f"BOX exec --pem-path other {by}-rsa.sif cat /file" for by in BY),
    *(f"BOX exec --pem-path {name} apptainer-rsa.sif cat /file" for name in ("pub", "locked", "none", "sb", "err")),
    *(f"BOX exec --pem-path key {by}-phrase.sif cat /file" for by in BY),
    *(f"{PHRASE} BOX exec {by}-rsa.sif cat /file" for by in BY),
    *(f"rm -rf new; {PHRASE} BOX build --sandbox new {by}-phrase.sif; test -e new" for by in BY),
    # Built by the one, opened by the other.
    f"rm -f x.sif; {PHRASE} BOX build --encrypt x.sif sb && {PHRASE} OTHER exec x.sif cat /file",
    "rm -f x.sif; BOX build --encrypt --pem-path pub x.sif sb && OTHER exec --pem-path key x.sif cat /file",
    "rm -f x.sif; echo typed | BOX build --passphrase x.sif sb >/dev/null && echo typed | OTHER exec --passphrase x.sif cat /file | tail -1",
    f"rm -f x.sif; {PHRASE} BOX build --pem-path pub x.sif sb && OTHER exec --pem-path key x.sif cat /file",
    f"rm -f x.sif; {PHRASE} BOX build x.sif sb && OTHER exec x.sif cat /file",  # a variable alone encrypts nothing
    *(f"rm -f x.sif; BOX build --pem-path {name} x.sif sb; test -e x.sif" for name in ("key", "none", "err")),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(machine: Machine) -> dict[str, list[tuple[str, str]]]:
    """Of each program: (status, standard output) of each row."""
    made = machine.run(PREPARE, timeout=300)
    assert made.returncode == 0, machine.run("cat ~/e/err").stdout.decode()[-2000:]
    found = rows.outcomes(machine, "cd ~/e", ROWS)
    return {box: [(status, plain(text)) for status, text in pairs] for box, pairs in found.items()}


def plain(text: str) -> str:
    """Standard output without Apptainer's prompt, which bollard has on the terminal alone."""
    return text.replace("Enter encryption passphrase: \n", "").replace("Enter encryption passphrase: ", "")


@pytest.mark.parametrize("number", range(len(ROWS)), ids=map(rows.label, ROWS))
def test_same(outcomes: dict[str, list[tuple[str, str]]], number: int) -> None:
    assert outcomes["bollard"][number] == outcomes["apptainer"][number]
