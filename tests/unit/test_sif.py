# SPDX-License-Identifier: BSD-3-Clause
"""SIF: the bytes of the documented layout, round trips, and every kind of damage."""

from __future__ import annotations

import os
import struct

import pytest
import sif_files
from hypothesis import given, settings
from hypothesis import strategies as st

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif, sif_write

HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
TABLE = 4096
DATA = TABLE + 48 * 585
OBJECTS = (
    sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
    sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"type":"container"}'),
)
PARTITION_AT = 32768
PARTITION = b"hsqs" + bytes(range(256)) * 40


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    return make(tmp_path / "img.sif")


def make(path, **options):
    sif_files.write(path, OBJECTS, PARTITION, "x86_64", **options)
    return path


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        found = sif.read(fd, os.fstat(fd).st_size, "img.sif")
        return found, sif.primary(found), sif.metadata(fd, found)
    finally:
        os.close(fd)


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def slot(number, field):
    """Offset in the file of a descriptor's field, by its offset in the descriptor."""
    return TABLE + number * 585 + field


def refused(path):
    with pytest.raises(BollardError) as caught:
        read(path)
    assert str(caught.value).startswith("img.sif: ")
    assert caught.value.hint
    return str(caught.value)


def test_header_has_the_documented_bytes(image):
    raw = image.read_bytes()
    assert HEADER.unpack(raw[:128]) == (
        b"#!/usr/bin/env run-singularity\n\0",
        b"SIF_MAGIC\0",
        b"01\0",
        b"02\0",
        bytes(16),
        -62135596800,
        -62135596800,
        45,
        48,
        TABLE,
        48 * 585,
        DATA,
        PARTITION_AT + len(PARTITION) - DATA,
    )
    assert raw[128:TABLE] == bytes(TABLE - 128)
    assert raw[TABLE + 3 * 585 : DATA] == bytes(45 * 585)


def test_descriptors_have_the_documented_bytes(image):
    raw = image.read_bytes()
    never = -62135596800
    group = 0xF0000001
    json_at = DATA + len(OBJECTS[0].data)
    end = json_at + len(OBJECTS[1].data)
    rows = (
        (0x4001, True, 1, group, 0, DATA, 19, 19, never, never, 0, 0, b"", b""),
        (0x4006, True, 2, group, 0, json_at, 20, 20, never, never, 0, 0, b"inspect-metadata.json", b""),
        (
            *(0x4004, True, 3, group, 0, PARTITION_AT, len(PARTITION), PARTITION_AT - end + len(PARTITION)),
            *(never, never, 0, 0, b"", struct.pack("<ii3s", 1, 2, b"02\0")),
        ),
    )
    for number, row in enumerate(rows):
        found = DESCRIPTOR.unpack(raw[TABLE + number * 585 : TABLE + (number + 1) * 585])
        assert found[:12] == row[:12]
        assert found[12] == row[12].ljust(128, b"\0")
        assert found[13] == row[13].ljust(384, b"\0")
    assert raw[PARTITION_AT:] == PARTITION


def test_round_trip(image):
    found, part, text = read(image)
    assert [d.datatype for d in found.descriptors] == [sif.DEFFILE, sif.GENERIC_JSON, sif.PARTITION]
    assert [d.id for d in found.descriptors] == [1, 2, 3]
    assert (part.offset % 4096, part.size, part.fstype, part.parttype) == (0, len(PARTITION), 1, 2)
    assert (part.arch, found.header.arch, found.header.total) == ("amd64", "amd64", 48)
    assert text == OBJECTS[1].data


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_an_image_is_a_program_as_private_as_the_user_wishes(tmp_path, mask, mode):
    before = os.umask(mask)
    path = make(tmp_path / "img.sif")
    os.umask(before)
    assert path.stat().st_mode & 0o7777 == mode
    assert os.listdir(tmp_path) == ["img.sif"]


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "img.sif").mkdir()
    with pytest.raises(BollardError, match="cannot be written: Is a directory"):
        make(tmp_path / "img.sif", force=True)
    assert os.listdir(tmp_path) == ["img.sif"]


def test_equal_input_gives_equal_images(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "other").mkdir()
    first, second = make(tmp_path / "img.sif"), make(tmp_path / "other" / "img.sif")
    assert first.read_bytes() == second.read_bytes()


def test_images_have_their_own_uuid_and_time(tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first, second = (HEADER.unpack(make(tmp_path / name).read_bytes()[:128]) for name in ("1.sif", "2.sif"))
    identity, created, modified = first[4:7]
    assert identity != second[4]
    assert identity[6] >> 4 == 4
    assert created == modified > 1_700_000_000


def test_an_image_without_metadata(tmp_path):
    sif_files.write(tmp_path / "img.sif", (), PARTITION, "sparc")
    found, primary, text = read(tmp_path / "img.sif")
    assert text is None
    assert primary.arch is None
    assert found.header.arch is None


def test_old_layout_is_read_where_the_header_says(image):
    raw = bytearray(image.read_bytes())
    moved = 2 << 20
    raw[PARTITION_AT:PARTITION_AT] = bytes(moved)
    raw[112:120] = struct.pack("<q", 32768)
    for number, at in ((0, 32768), (1, 32800), (2, PARTITION_AT + moved)):
        raw[slot(number, 17) : slot(number, 25)] = struct.pack("<q", at)
    raw[32800:32820] = OBJECTS[1].data
    image.write_bytes(raw)
    _, part, text = read(image)
    assert part.offset == PARTITION_AT + moved
    assert text == OBJECTS[1].data


@pytest.mark.parametrize("size", [42, 45, 127, 128, TABLE, TABLE + 584, DATA - 1, DATA, DATA + 30, 32768, 40000])
def test_a_truncated_file_is_refused_with_its_size(image, size):
    os.truncate(image, size)
    text = refused(image)
    assert f"truncated: {size} bytes" in text
    assert "copy or build it again" in text


def test_one_missing_byte(image):
    size = image.stat().st_size
    os.truncate(image, size - 1)
    assert f"truncated: {size - 1} bytes, {size} expected" in refused(image)


@pytest.mark.parametrize(
    ("offset", "data", "words"),
    [
        (32, b"SIF_MAGIX\0", "not a SIF image"),
        (42, b"02\0", "SIF version '02' is not supported"),
        (88, struct.pack("<q", 0), "claims 0 descriptors"),
        (88, struct.pack("<q", -1), "claims -1 descriptors"),
        (88, struct.pack("<q", 1 << 40), "1 to 4096 are allowed"),
        (88, struct.pack("<q", 47), "47 descriptors cannot fill 28080 bytes"),
        (96, struct.pack("<q", 64), "overlaps the header"),
        (96, struct.pack("<q", -4096), "overlaps the header"),
        (96, struct.pack("<q", 1 << 62), "overlaps the descriptor table"),
        (104, struct.pack("<q", 1 << 40), "cannot fill"),
        (112, struct.pack("<q", 4096), "overlaps the descriptor table"),
        (slot(2, 17), struct.pack("<q", 100), "object 3 overlaps the header"),
        (slot(2, 17), struct.pack("<q", -1), "object 3 overlaps the header"),
        (slot(2, 17), struct.pack("<q", (1 << 63) - 1), "truncated"),
        (slot(2, 25), struct.pack("<q", -1), "negative size"),
        (slot(2, 25), struct.pack("<q", 1 << 50), "truncated"),
        (slot(2, 5), struct.pack("<I", 1), "object number 1 is used twice"),
        (slot(2, 5), struct.pack("<I", 0), "object number 0 is used twice or zero"),
        (slot(2, 4), b"\0", "no primary system partition"),
        (slot(1, 17), struct.pack("<q", PARTITION_AT), "objects 2 and 3 overlap"),
        (slot(1, 25), struct.pack("<q", 5000), "objects 2 and 3 overlap"),
        (slot(2, 0), struct.pack("<i", 0x4007), "no primary system partition"),
        (slot(2, 0), struct.pack("<i", 0x400A), "is an OCI-SIF image"),
        (slot(2, 205), struct.pack("<i", 3), "no primary system partition"),
        (slot(2, 201), struct.pack("<i", 2), "its filesystem is ext3"),
        (slot(2, 201), struct.pack("<i", 5), "encrypted with LUKS"),
        (slot(2, 201), struct.pack("<i", 6), "in a container alone"),
        (slot(2, 201), struct.pack("<i", 99), "its filesystem is number 99"),
        (slot(0, 0), struct.pack("<i", 0x4004) + b"\1", None),
    ],
)
def test_a_damaged_field_is_refused_by_name(image, offset, data, words):
    patch(image, offset, data)
    if words is None:
        assert read(image)[1].id == 3
    else:
        assert words in refused(image)


def add_partition(image, number, fstype, parttype, group, size=100):
    """One more object: a partition behind the last."""
    at = 1 << 20
    extra = struct.pack("<ii3s", fstype, parttype, b"02\0")
    row = (0x4004, True, number, 0xF0000000 | group, 0, at + number * size, size, size, 0, 0, 0, 0, b"", extra)
    patch(image, slot(number - 1, 0), DESCRIPTOR.pack(*row))
    if image.stat().st_size < at + (number + 1) * size:
        os.truncate(image, at + (number + 1) * size)


def test_data_and_overlay_partitions_stand_beside_the_primary_one(image):
    for number, row in enumerate([(1, 3, 1), (2, 3, 2), (4, 3, 0), (2, 4, 1), (1, 4, 1), (2, 4, 2), (6, 4, 2)], 4):
        add_partition(image, number, *row)
    found, part, _ = read(image)
    assert part.id == 3
    assert [d.id for d in found.descriptors] == list(range(1, 11))
    # As in Apptainer, those of another group are laid over something else.
    assert [(d.id, d.fstype) for d in sif.overlays(found)] == [(7, sif.FS_EXT3), (8, sif.FS_SQUASHFS)]


def test_overlays_of_an_image_without_groups(image):
    for number in range(3):
        patch(image, slot(number, 9), struct.pack("<I", 0xF0000000))
    add_partition(image, 4, 2, 4, 3)
    assert [d.id for d in sif.overlays(read(image)[0])] == [4]


@pytest.mark.parametrize(
    ("fstype", "name"), [(3, "archive"), (4, "raw"), (5, "LUKS"), (6, "gocryptfs"), (77, "number 77")]
)
def test_an_overlay_that_nobody_can_mount(image, fstype, name):
    add_partition(image, 4, fstype, 4, 1)
    with pytest.raises(BollardError) as caught:
        sif.overlays(read(image)[0])
    assert str(caught.value) == (
        f"img.sif: its overlay, object 4, has the filesystem {name}, neither squashfs nor ext3; "
        "take it out with `bollard sif del 4 img.sif`"
    )


def test_groups_links_and_times(image):
    patch(image, slot(1, 9), struct.pack("<II", 0xF0000000, 0xF0000001))
    patch(image, slot(2, 9), struct.pack("<II", 0xF0000007, 1))
    patch(image, slot(2, 41), struct.pack("<qq", 5, 6))
    one, two, three = read(image)[0].descriptors
    assert (one.group, one.link, one.slot) == (1, (0, False), 0)
    assert (two.group, two.link, two.slot) == (0, (1, True), 1)
    assert (three.group, three.link, three.slot) == (7, (1, False), 2)
    assert (one.times, three.times) == ((sif.NO_TIME, sif.NO_TIME), (5, 6))


def test_two_primary_partitions(image):
    raw = image.read_bytes()
    patch(image, slot(3, 0), raw[slot(2, 0) : slot(3, 0)])
    patch(image, slot(3, 5), struct.pack("<I", 4))
    patch(image, slot(3, 25), struct.pack("<q", 0))
    assert "2 primary system partitions" in refused(image)


def test_metadata_is_bounded(image):
    os.truncate(image, sif.MAX_METADATA + (1 << 20))
    patch(image, slot(1, 17), struct.pack("<qq", 65536, sif.MAX_METADATA + 1))
    assert "its metadata has" in refused(image)


def test_a_file_that_shrinks_while_it_is_read(image):
    fd = os.open(image, os.O_RDONLY)
    size = image.stat().st_size
    os.truncate(image, 5000)
    with pytest.raises(BollardError, match="truncated"):
        sif.read(fd, size, "img.sif")
    os.close(fd)


def test_a_read_error_names_the_image(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BollardError, match=r"img\.sif: cannot be read at byte 0"):
        sif.pread(fd, 1, 0, "img.sif")
    os.close(fd)


def test_an_existing_target_is_kept(image):
    before = image.read_bytes()
    with pytest.raises(BollardError, match="exists already"):
        make(image)
    assert image.read_bytes() == before


def test_force_replaces(image):
    patch(image, 0, b"damaged")
    assert read(make(image, force=True))[1].id == 3


def test_a_target_made_meanwhile_is_kept(tmp_path):
    target = tmp_path / "img.sif"
    with (
        pytest.raises(BollardError, match="exists already"),
        sif_write.Writer(str(target), "amd64", OBJECTS) as writer,
    ):
        with open(writer.path, "r+b") as file:
            file.seek(writer.offset)
            file.write(PARTITION)
        target.write_text("mine")
        writer.finish()
    assert target.read_text() == "mine"
    assert os.listdir(tmp_path) == ["img.sif"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    """Who may write to the directory can exchange the file; another file of the writer's stays as it is."""
    other = tmp_path / "other"
    other.write_bytes(b"x" * 200_000)
    mode = other.stat().st_mode
    folder = tmp_path / "shared"
    folder.mkdir()
    with sif_write.Writer(str(folder / "img.sif"), "amd64", OBJECTS) as writer:
        (name,) = folder.iterdir()
        name.unlink()
        name.symlink_to(other)
        with open(writer.path, "r+b") as file:
            file.seek(writer.offset)
            file.write(PARTITION)
        writer.finish()
    assert (other.read_bytes(), other.stat().st_mode) == (b"x" * 200_000, mode)


def test_failure_leaves_nothing(tmp_path):
    with (
        pytest.raises(BollardError, match="filesystem was not written"),
        sif_write.Writer(str(tmp_path / "img.sif"), "amd64", OBJECTS) as writer,
    ):
        writer.finish()
    assert os.listdir(tmp_path) == []


def test_an_unwritable_place_is_named(tmp_path):
    with pytest.raises(BollardError, match="cannot be written: No such file or directory"):
        sif_write.Writer(str(tmp_path / "missing" / "img.sif"), "amd64")


def test_limits_of_the_writer():
    with pytest.raises(ValueError, match="47 objects"):
        sif_write.Writer("img.sif", "amd64", OBJECTS * 24)


@pytest.mark.parametrize(
    ("machine", "name", "code"),
    [
        ("x86_64", "amd64", b"02\0"),
        ("aarch64", "arm64", b"04\0"),
        ("amd64", "amd64", b"02\0"),
        ("sparc", "sparc", b"00\0"),
    ],
)
def test_names_and_codes_of_architectures(machine, name, code):
    assert sif.arch_name(machine) == name
    assert sif.arch_code(machine) == code


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return make(tmp_path_factory.mktemp("fuzz") / "img.sif").read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_readable_error(valid, data):
    raw = bytearray(valid)
    places = st.one_of(st.integers(0, 127), st.integers(TABLE, TABLE + 3 * 585), st.integers(0, len(raw) - 1))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(places)
        new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)])))
        raw[at : at + len(new)] = new
    del raw[data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw)))) :]
    check_bytes(bytes(raw))


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=300))
def test_any_bytes_are_a_readable_error(raw):
    check_bytes(raw)
    check_bytes((bytes(32) + sif.MAGIC + sif.VERSION + raw).ljust(200, b"\0"))


def check_bytes(raw):
    fd = os.memfd_create("image")
    try:
        os.write(fd, raw)
        found = sif.read(fd, len(raw), "img.sif")
        part = sif.primary(found)
        assert 128 <= part.offset <= part.offset + part.size <= len(raw)
        text = sif.metadata(fd, found)
        assert text is None or len(text) <= len(raw)
    except BollardError as error:
        assert str(error).startswith("img.sif: ")
        assert "\n" not in str(error)
    finally:
        os.close(fd)
