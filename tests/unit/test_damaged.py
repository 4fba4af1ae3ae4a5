# SPDX-License-Identifier: BSD-3-Clause
"""Each class of damaged or foreign image, as a user meets it: `bollard exec` prints one line, which says what is wrong
and what to do."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest
import sif_files
from test_main import command, refused

from bollard.runtime.image import sif, sif_edit, sif_write

OTHER = "s390x"
HERE = sif.arch_name(os.uname().machine)
AGAIN = "; copy or build it again"
TABLE, SLOT, DATA = 4096, 585, 32176


@pytest.fixture(scope="module")
def squashfs(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    (tree / "etc").mkdir()
    path = tree.parent / "damaged.sqfs"
    subprocess.run(["mksquashfs", str(tree), str(path), "-quiet", "-noappend"], stdout=subprocess.DEVNULL, check=True)
    return path.read_bytes()


@pytest.fixture
def whole(tmp_path, squashfs):
    """A SIF file of a definition file and the partition, object 2, at 32768."""
    objects = [sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n")]
    sif_files.write(tmp_path / "img.sif", objects, squashfs, HERE)
    return tmp_path / "img.sif"


def put(offset, data):
    def change(path):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    return change


def field(number, at, data):
    return put(TABLE + (number - 1) * SLOT + at, data)


def cut(size):
    return lambda path: os.truncate(path, size)


def number(value):
    return struct.pack("<q", value)


def add(extra):
    def change(path):
        source = os.memfd_create("object")
        os.write(source, b"x")
        os.lseek(source, 0, os.SEEK_SET)
        sif_edit.add(str(path), sif_edit.New(sif.PARTITION, extra), source)
        os.close(source)

    return change


CASES = {
    "empty": (cut(0), "is empty (0 bytes)" + AGAIN),
    "cut in the magic": (cut(36), 'not a SIF or squashfs image (first bytes: "#!/u"); it was a SIF file' + AGAIN),
    "cut in the header": (cut(100), "truncated: 100 bytes, 128 expected" + AGAIN),
    "cut in the table": (cut(9000), f"truncated: 9000 bytes, {DATA} expected" + AGAIN),
    "cut in the data": (cut(32770), "truncated: 32770 bytes, 36864 expected" + AGAIN),
    "other magic": (
        put(32, b"SIF_MAGIX\0"),
        'not a SIF or squashfs image (first bytes: "#!/u"); it was a SIF file' + AGAIN,
    ),
    "other version": (put(42, b"99\0"), "SIF version '99' is not supported; only version 01 is; build the image again"),
    "no table": (put(88, number(0)), "damaged: it claims 0 descriptors, 1 to 4096 are allowed" + AGAIN),
    "a huge table": (
        put(88, number(1 << 60)),
        f"damaged: it claims {1 << 60} descriptors, 1 to 4096 are allowed" + AGAIN,
    ),
    "an odd table": (put(104, number(28079)), "damaged: 48 descriptors cannot fill 28079 bytes" + AGAIN),
    "a table on the header": (put(96, number(64)), "damaged: its descriptor table overlaps the header" + AGAIN),
    "data on the table": (put(112, number(5000)), "damaged: its data overlaps the descriptor table" + AGAIN),
    "an object on the table": (
        field(1, 17, number(4096)),
        "damaged: object 1 overlaps the header or has a negative size" + AGAIN,
    ),
    "an object on another": (field(1, 17, number(33000)), "damaged: objects 2 and 1 overlap" + AGAIN),
    "an object beyond the end": (
        field(2, 17, number(1 << 40)),
        f"truncated: 36864 bytes, {(1 << 40) + 4096} expected" + AGAIN,
    ),
    "a huge object": (field(2, 25, number(1 << 50)), f"truncated: 36864 bytes, {(1 << 50) + 32768} expected" + AGAIN),
    "two of one number": (field(2, 5, b"\1"), "damaged: object number 1 is used twice or zero" + AGAIN),
    "no partition": (
        lambda path: sif_edit.delete(str(path), 2),
        "no primary system partition; this SIF holds no container; check the file name",
    ),
    "two primary partitions": (
        lambda path: (add(struct.pack("<ii", 1, 1) + b"02\0")(path), field(3, 205, b"\2")(path)),
        "damaged: it has 2 primary system partitions" + AGAIN,
    ),
    "another machine's": (
        field(2, 209, sif.arch_code(OTHER)),
        f"built for {OTHER}, this node is {HERE}; build or pull it for {HERE}",
    ),
    "LUKS": (
        field(2, 201, b"\5"),
        "is encrypted with LUKS, which only root can open; let its author build it as a user, with `bollard build "
        "--encrypt` or Apptainer 1.2 and later",
    ),
    "gocryptfs": (
        field(2, 201, b"\6"),
        "is encrypted, and no key was given; give its passphrase: --passphrase-file FILE, with srun "
        "--container-passphrase-file FILE",
    ),
    "ext3": (field(2, 201, b"\2"), "its filesystem is ext3; only squashfs is supported; build it again as a SIF"),
    "a filesystem of the future": (
        field(2, 201, b"\x63"),
        "its filesystem is number 99; only squashfs is supported; build it again as a SIF",
    ),
    "an overlay of the future": (
        add(struct.pack("<ii", 99, 4) + b"02\0"),
        "its overlay, object 3, has the filesystem number 99, neither squashfs nor ext3; "
        "take it out with `bollard sif del 3 img.sif`",
    ),
    "OCI-SIF": (field(2, 0, b"\x0a"), "damaged: its root index does not match its digest; copy or pull it again"),
    "no squashfs": (
        put(32768, b"nope"),
        'damaged: no squashfs in its system partition (found "nope")' + AGAIN,
    ),
    "squashfs 3": (put(32768 + 28, b"\3\0"), "squashfs version 3.0 is not supported; build it again"),
    "squashfs of another compressor": (
        put(32768 + 20, b"\x09\0"),
        "squashfs compression number 9 is not supported; build it again with zstd or gzip",
    ),
    "squashfs of odd blocks": (
        put(32768 + 12, b"\1"),
        "damaged: its squashfs superblock contradicts itself" + AGAIN,
    ),
    "squashfs longer than its partition": (
        put(32768 + 40, number(1 << 30)),
        f"truncated: 4096 bytes, {1 << 30} expected" + AGAIN,
    ),
    "squashfs with tables outside": (
        put(32768 + 64, number(1 << 30)),
        "damaged: its squashfs superblock contradicts itself" + AGAIN,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line(whole, name):
    change, text = CASES[name]
    change(whole)
    assert refused("exec", "img.sif", "true", cwd=whole.parent) == f"img.sif: {text}"


@pytest.mark.parametrize("name", ["another machine's", "LUKS", "gocryptfs", "no squashfs", "no partition", "ext3"])
def test_what_cannot_be_started_can_be_looked_at(whole, name):
    CASES[name][0](whole)
    for argv in (["sif", "list", "img.sif"], ["sif", "header", "img.sif"], ["sif", "dump", "1", "img.sif"]):
        assert command(*argv, cwd=whole.parent).returncode == 0
