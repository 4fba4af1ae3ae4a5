# SPDX-License-Identifier: BSD-3-Clause
"""`bollard sif`: what it prints, and the one line of what it refuses. tests/peers compares both with Apptainer."""

from __future__ import annotations

import struct

import pytest
import sif_files
from test_main import command, refused

from bollard.runtime.image import sif, sif_write

OBJECTS = (
    sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
    sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"type":"container"}'),
)
PARTITION = b"hsqs" + bytes(5000)


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    sif_files.write(tmp_path / "img.sif", OBJECTS, PARTITION, "x86_64")
    (tmp_path / "file").write_text("content")
    return tmp_path / "img.sif"


def done(image, *argv):
    found = command("sif", *argv, cwd=image.parent)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def test_list(image):
    for options in (
        ["--datatype", "5", "--signhash", "5", "--signentity", "0A" * 20, "--groupid", "0"],
        ["--datatype=4", "--parttype=4", "--partfs=2", "--partarch=4", "--groupid=1"],
        ["--datatype", "9", "--sbomformat", "github"],
        ["--datatype", "8", "--link", "3"],
        ["--datatype", "11"],
    ):
        assert done(image, "add", "img.sif", "file", *options) == ""
    with open(image, "r+b") as file:  # a link to a group, a type of the future
        file.seek(4096 + 3 * 585 + 13)
        file.write(struct.pack("<I", 0xF0000001))
        file.seek(4096 + 7 * 585)
        file.write(struct.pack("<I", 0x4FFF))
    lines = done(image, "list", "img.sif").splitlines()
    assert lines[0] == lines[2] == "-" * 78
    assert lines[1] == "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE"
    assert [line.rpartition("|")[2] for line in lines[3:]] == [
        "Def.FILE",
        "JSON.Generic",
        "FS (Squashfs/*System/amd64)",
        "Signature (BLAKE2b-256)",
        "FS (Ext3/Overlay/arm64)",
        "SBOM (github-json)",
        "Cryptographic Message (Unknown/Unknown)",
        "Unknown",
    ]
    assert lines[5] == "3    |1       |NONE    |32768-37772               |FS (Squashfs/*System/amd64)"
    assert lines[6] == "4    |NONE    |1   (G) |37772-37779               |Signature (BLAKE2b-256)"
    assert lines[9].startswith("7    |NONE    |3       |")


def test_header(image):
    assert done(image, "header", "img.sif").splitlines() == [
        "Launch Script:        #!/usr/bin/env run-singularity",
        "Version:              01",
        "Primary Architecture: amd64",
        "Descriptors Free:     45",
        "Descriptors Total:    48",
        "Descriptors Offset:   4096",
        "Descriptors Size:     27 KiB",
        "Data Offset:          32176",
        "Data Size:            5 KiB",
    ]
    with open(image, "r+b") as file:
        file.seek(48)
        file.write(bytes(range(16)) + struct.pack("<qq", 1700000000, 1 << 62))
    lines = done(image, "header", "img.sif").splitlines()
    assert lines[3] == "ID:                   00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert lines[4] == "Created At:           2023-11-14 22:13:20 +0000 UTC"
    assert lines[5] == f"Modified At:          {1 << 62} seconds after 1970"


def test_info(image):
    assert done(image, "info", "3", "img.sif").splitlines() == [
        "  Data Type:        FS",
        "  ID:               3",
        "  Group ID:         1",
        "  Linked ID:        NONE",
        "  Offset:           32768",
        "  Size:             5004",
        "  Filesystem Type:  Squashfs",
        "  Partition Type:   *System",
        "  Architecture:     amd64",
    ]
    assert "  Name:       inspect-metadata.json\n" in done(image, "info", "2", "img.sif")
    entity = "433FE984155206BD962725E20E8713472A879943"
    done(image, "add", "--datatype", "5", "--signhash", "1", "--signentity", entity, "img.sif", "file")
    assert f"  Hash Type:  SHA-256\n  Entity:     {entity}\n" in done(image, "info", "4", "img.sif")
    done(image, "add", "--datatype", "10", "img.sif", "file")
    assert "  Digest:     sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73\n" in done(
        image, "info", "5", "img.sif"
    )


def test_dump_new_del_setprim(image):
    assert done(image, "dump", "1", "img.sif") == "bootstrap: scratch\n"
    done(image, "new", "new.sif")
    assert len(done(image, "list", "new.sif").splitlines()) == 3
    done(image, "del", "1", "img.sif")
    assert "no object 1" in refused("sif", "dump", "1", "img.sif", cwd=image.parent)
    done(image, "add", "img.sif", "file", *["--datatype", "4", "--parttype", "1", "--partfs", "1", "--partarch", "2"])
    done(image, "setprim", "1", "img.sif")
    assert "(Squashfs/*System/amd64)" in done(image, "list", "img.sif").splitlines()[3]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("list", "sif list takes IMAGE, not 0 words; write `bollard sif list IMAGE`"),
        ("info img.sif", "sif info takes ID and IMAGE, not 1 words; write `bollard sif info ID IMAGE`"),
        ("info x img.sif", "ID 'x' is not a number from 0 to 4294967295; see `bollard sif list IMAGE`"),
        ("info -- -1 img.sif", "ID '-1' is not a number from 0 to 4294967295; see `bollard sif list IMAGE`"),
        ("dump 9 img.sif", "img.sif: no object 9; its objects: 1, 2, 3"),
        ("list file", "file: not a SIF image; check the file name"),
        ("list .", ".: is a directory; name a SIF file"),
        ("list no.sif", "no.sif: no such file; check the name with `ls "),
        ("list docker://x", "docker://x: is not a file, and is not fetched here; run `bollard pull docker://x`, and "),
        ("new img.sif", "img.sif: exists already; remove it, choose another name, or use --force"),
        ("new no/img.sif", "no/img.sif: cannot be written: No such file or directory; "),
        ("add img.sif file", "--datatype is missing; give a number from 1 to 11; see `bollard sif add --help`"),
        ("add img.sif file --datatype 12", "--datatype 12 is not known; give a number from 1 to 11; see "),
        ("add img.sif no --datatype 1", "no: cannot be read: No such file or directory; check the file name"),
        ("add img.sif file --datatype 4", "--partfs is missing; give a number from 1 to 6; see "),
        ("add img.sif file --datatype 4 --partfs 9", "--partfs 9 is not known; give a number from 1 to 6"),
        ("add img.sif file --datatype 5 --signentity 0a", "--signentity '0a' is not a fingerprint; give its 40 "),
        ("add img.sif file --datatype 9", "--sbomformat '' is not known; one of cyclonedx-json, "),
        ("add img.sif file --datatype 1 --groupid 4026531840", "--groupid '4026531840' is not a number from 0 to "),
        ("frobnicate img.sif", "sif frobnicate: no such command; see `bollard sif --help`"),
    ],
)
def test_a_mistake_is_one_line(image, argv, text):
    before = image.read_bytes()
    assert refused("sif", *argv.split(), cwd=image.parent).startswith(text)
    assert image.read_bytes() == before


def test_the_commands_of_sif(image):
    for argv in (["sif"], ["sif", "--help"], ["sif", "help"]):
        found = command(*argv)
        assert found.returncode == 0
        assert found.stdout.startswith("usage: bollard sif COMMAND ...\n\n  sif list ")
    assert command("sif", "add", "--help").stdout.startswith("usage: bollard sif add [OPTION...] IMAGE FILE\n")
