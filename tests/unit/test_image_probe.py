# SPDX-License-Identifier: BSD-3-Clause
"""The client's glance at an image (image_probe.c): yes for whole images, and never where the long look says no to a
file that was cut, is of another kind or is for another machine."""

from __future__ import annotations

import os
import struct

import compiled
import pytest
import sif_files
from hypothesis import given, settings
from hypothesis import strategies as st

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif, sif_write
from bollard.runtime.image.image import open_image

MACHINE = os.uname().machine
# The others have no code in image_probe.c: there the client takes the long look at each SIF file.
KNOWN = MACHINE in ("x86_64", "aarch64")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    _, lib = compiled.load(
        "image_probe", tmp_path_factory.mktemp("plain"), "int probe_image(const char *path, char st[1024]);"
    )

    def call(path):
        before = os.listdir("/proc/self/fd")
        answer = lib.probe_image(os.fsencode(path), b"\0" * 1024)
        assert os.listdir("/proc/self/fd") == before
        return bool(answer)

    return call


def accepted(path):
    try:
        open_image(str(path), MACHINE).close()
    except BollardError:
        return False
    return True


def superblock(used=4096, version=(4, 0), magic=b"hsqs"):
    return struct.pack(
        "<4sIIIIHHHHHHQQQQQQQQ",
        *(magic, 1, 0, 131072, 0, 6, 17, 0, 1, *version),
        *(0, used, 95, 2**64 - 1, 95, 95, 95, 2**64 - 1),
    )


def squashfs(size=4096, **fields):
    return superblock(**fields).ljust(size, b"\0")[:size]


def sif_bytes(folder, arch=MACHINE):
    path = folder / "made.sif"
    objects = [sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b"{}")]
    sif_files.write(path, objects, squashfs(), arch, force=True)
    return path.read_bytes()


def test_whole_images_pass(plain, tmp_path):
    path = tmp_path / "img"
    path.write_bytes(squashfs())
    assert plain(path) and accepted(path)
    path.write_bytes(squashfs(size=4096 + 500))  # padded
    assert plain(path) and accepted(path)
    path.write_bytes(sif_bytes(tmp_path))
    assert plain(path) is KNOWN and accepted(path)
    (tmp_path / "link").symlink_to("img")
    assert plain(tmp_path / "link") is KNOWN


@pytest.mark.parametrize("fstype", [sif.FS_LUKS, sif.FS_GOCRYPTFS])
def test_an_encrypted_image_is_for_the_full_check(plain, tmp_path, fstype):
    """It needs a key: without the full check the job would be queued, and fail."""
    made = bytearray(sif_bytes(tmp_path))
    path = tmp_path / "img"
    at = made.index(sif.PARTITION.to_bytes(4, "little"), sif.TABLE_OFFSET)
    made[at + 201] = fstype
    path.write_bytes(made)
    assert not plain(path)
    made[at + 4] = 0  # an unused slot
    path.write_bytes(made)
    assert plain(path) is KNOWN


@pytest.mark.parametrize("size", [0, 1, 4, 95, 96, 127, 128, 4095])
def test_short_squashfs_files(plain, tmp_path, size):
    path = tmp_path / "img"
    path.write_bytes(squashfs(size=size))
    assert not plain(path)


@pytest.mark.parametrize("size", [0, 41, 42, 48, 127, 128, 4096, 4096 + 585, 32767, 32768, 36863])
def test_short_sif_files(plain, tmp_path, size):
    path = tmp_path / "img"
    whole = sif_bytes(tmp_path)
    assert len(whole) == 36864
    path.write_bytes(whole[:size])
    assert not plain(path)
    assert not accepted(path)


def test_what_is_no_regular_file(plain, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", tmp_path / "dangling", tmp_path / "loop"):
        assert not plain(path)
    for path in ("", "/dev/null", "/dev/zero", "~/img.sif", "docker://alpine"):
        assert not plain(path)


@pytest.mark.parametrize("arch", ["386", "amd64", "arm", "arm64", "ppc64le", "s390x", "riscv64", "unknown"])
def test_only_this_machines_architecture_passes(plain, tmp_path, arch):
    path = tmp_path / "img"
    path.write_bytes(sif_bytes(tmp_path, arch))
    assert plain(path) is (KNOWN and arch == sif.arch_name(MACHINE))
    assert accepted(path) or not plain(path)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 100), (127, 100), (128, 0), (4096, -1), (-1, 100), (1 << 62, 1 << 62), ((1 << 63) - 1, 1), (32768, 1 << 40)],
)
def test_a_data_range_that_cannot_be(plain, tmp_path, offset, length):
    raw = bytearray(sif_bytes(tmp_path))
    raw[112:128] = struct.pack("<qq", offset, length)
    path = tmp_path / "img"
    path.write_bytes(raw)
    assert not plain(path)


VERSIONS = st.sampled_from([(4, 0), (3, 1), (4, 1), (0, 4), (0, 0)])
USED = st.one_of(st.integers(0, 5000), st.sampled_from([4096, 1 << 31, 1 << 63, (1 << 64) - 1]))


@settings(deadline=None)
@given(
    size=st.integers(0, 5000),
    used=USED,
    version=VERSIONS,
    magic=st.sampled_from([b"hsqs", b"hsqt", b"sqsh", b"\0\0\0\0"]),
)
def test_a_yes_to_a_squashfs_is_a_yes_of_the_long_look(plain, tmp_path_factory, size, used, version, magic):
    path = tmp_path_factory.getbasetemp() / "plain.sqfs"
    path.write_bytes(squashfs(size=size, used=used, version=version, magic=magic))
    if plain(path):
        assert accepted(path)


@settings(deadline=None)
@given(data=st.data())
def test_a_yes_to_a_sif_is_a_yes_of_the_long_look(plain, tmp_path_factory, data):
    """Over what happens to whole files: cut, prolonged, or a byte of the front (up to the architecture) changed."""
    folder = tmp_path_factory.getbasetemp()
    raw = bytearray(sif_bytes(folder, data.draw(st.sampled_from(["amd64", "arm64", "386", "s390x", "unknown"]))))
    for at in data.draw(st.lists(st.integers(0, 47), max_size=2)):
        raw[at] = data.draw(st.integers(0, 255))
    size = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw) + 1000)))
    path = folder / "plain.sif"
    path.write_bytes(bytes(raw).ljust(size, b"\0")[:size])
    if plain(path):
        assert accepted(path)


@settings(deadline=None)
@given(raw=st.binary(min_size=0, max_size=300), front=st.sampled_from([b"", b"hsqs", bytes(32) + sif.MAGIC]))
def test_any_bytes_are_no_image(plain, tmp_path_factory, raw, front):
    path = tmp_path_factory.getbasetemp() / "plain.any"
    path.write_bytes(front + raw)
    if plain(path):
        assert accepted(path)
