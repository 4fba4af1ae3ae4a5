# SPDX-License-Identifier: BSD-3-Clause
"""Changing SIF files in place: what it does to the bytes, and that no interruption leaves a file nobody can read.

That Apptainer writes the same bytes is tested in tests/peers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct

import pytest
import sif_files
from hypothesis import given, settings
from hypothesis import strategies as st

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_edit, sif_write
from bollard.runtime.system import linux

OBJECTS = (
    sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
    sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"type":"container"}'),
)
TABLE, SLOT = 4096, 585


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    sif_files.write(tmp_path / "img.sif", OBJECTS, b"hsqs" + b"x" * 5000, "x86_64")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    return str(tmp_path / "img.sif")


def look(path):
    fd, found = image.open_sif(path)
    os.close(fd)
    return found


def content(path, item):
    with open(path, "rb") as file:
        file.seek(item.offset)
        return file.read(item.size)


def add(path, data, datatype=0x4007, extra=b"", **more):
    source = os.memfd_create("object")
    os.write(source, data)
    os.lseek(source, 0, os.SEEK_SET)
    try:
        return sif_edit.add(path, sif_edit.New(datatype, extra, **more), source)
    finally:
        os.close(source)


def partition(parttype, arch=b"02\0"):
    return struct.pack("<ii", 1, parttype) + arch


def number(path, at):
    with open(path, "rb") as file:
        file.seek(at)
        return int.from_bytes(file.read(8), "little", signed=True)


def test_an_object_goes_behind_the_last(path):
    before = look(path)
    end = before.descriptors[-1].offset + before.descriptors[-1].size

    assert add(path, b"hello", group=3, link=2, name="greeting") == 4

    found = look(path)
    new = found.descriptors[-1]
    assert (new.id, new.datatype, new.offset, new.size, new.name) == (4, 0x4007, end, 5, "greeting")
    assert (new.group, new.link) == (3, (2, False))
    assert content(path, new) == b"hello"
    assert [d.raw for d in found.descriptors[:-1]] == [d.raw for d in before.descriptors]
    assert os.path.getsize(path) == end + 5
    assert (number(path, 80), number(path, 120)) == (44, end + 5 - found.header.data_offset)


def test_a_partition_is_aligned(path):
    add(path, b"odd")
    add(path, b"hsqs" * 9, sif.PARTITION, partition(1))
    add(path, b"x", alignment=512)

    odd, new, last = look(path).descriptors[-3:]
    assert new.offset % 4096 == 0
    assert last.offset % 512 == 0
    # The padding in front counts into the third size.
    assert int.from_bytes(new.raw[33:41], "little") == new.offset + new.size - odd.offset - odd.size


def test_no_group(path):
    add(path, b"x", group=0)
    assert look(path).descriptors[-1].raw[9:13] == struct.pack("<I", 0xF0000000)


def test_a_blob_bears_its_digest(path):
    add(path, b"blob", sif.OCI_BLOB)
    assert look(path).descriptors[-1].extra.rstrip(b"\0").decode() == "sha256:" + hashlib.sha256(b"blob").hexdigest()


def test_zeros_become_holes_where_that_is_wanted(path):
    data = b"begin" + bytes(8 << 20) + b"end" + bytes(3 << 20)
    for sparse in (False, True):
        before = os.stat(path).st_blocks
        add(path, data, sparse=sparse)
        grown = (os.stat(path).st_blocks - before) * 512
        assert (grown < 4 << 20) == sparse
        assert content(path, look(path).descriptors[-1]) == data


def test_a_deleted_object_makes_room(path):
    add(path, b"first")
    end = look(path).descriptors[-1].offset

    sif_edit.delete(path, 4)
    assert [d.id for d in look(path).descriptors] == [1, 2, 3]
    assert number(path, 80) == 45
    sif_edit.delete(path, 1)
    assert add(path, b"second") == 1  # the first free slot

    new = look(path).descriptors[0]
    assert (new.id, new.offset, content(path, new)) == (1, end, b"second")
    assert os.path.getsize(path) == end + 6


def test_what_follows_a_shorter_object_is_cut(path):
    add(path, b"long" * 1000)
    sif_edit.delete(path, 4)
    add(path, b"short")
    assert os.path.getsize(path) == look(path).descriptors[-1].offset + 5


def test_the_primary_partition(path):
    add(path, b"hsqs" * 99, sif.PARTITION, partition(1, b"04\0"))

    sif_edit.set_primary(path, 4)
    found = look(path)
    assert (sif.primary(found).id, found.header.arch) == (4, "arm64")
    assert [d.parttype for d in found.descriptors if d.datatype == sif.PARTITION] == [1, 2]
    before = open(path, "rb").read()
    sif_edit.set_primary(path, 4)
    assert open(path, "rb").read() == before
    sif_edit.set_primary(path, 3)
    assert (sif.primary(look(path)).id, look(path).header.arch) == (3, "amd64")

    sif_edit.delete(path, 3)
    assert look(path).header.arch is None
    assert add(path, b"hsqs" * 99, sif.PARTITION, partition(2)) == 3
    assert look(path).header.arch == "amd64"


def test_an_image_without_random_parts_stays_so(path):
    def times():
        return {number(path, at) for at in (64, 72)} | {t for d in look(path).descriptors for t in d.times}

    add(path, b"x", sif.PARTITION, partition(1))
    sif_edit.set_primary(path, 4)
    sif_edit.delete(path, 3)
    assert times() == {sif.NO_TIME}


def test_other_images_tell_when_they_were_changed(tmp_path):
    path = str(tmp_path / "img.sif")
    sif_edit.create(path)
    created = number(path, 64)
    with open(path, "r+b") as file:
        file.seek(64)
        file.write(struct.pack("<qq", created - 100, created - 100))
    add(path, b"x")
    assert (number(path, 64), number(path, 72) >= created) == (created - 100, True)
    assert look(path).descriptors[0].times[0] >= created


def test_a_new_file_is_empty(tmp_path):
    path = str(tmp_path / "img.sif")
    sif_edit.create(path)
    found = look(path)
    assert (found.descriptors, found.header.arch, found.header.total) == ([], None, 48)
    assert os.path.getsize(path) == found.header.data_offset == 32176
    assert add(path, b"x") == 1
    before = open(path, "rb").read()
    with pytest.raises(BollardError, match="exists already"):
        sif_edit.create(path)
    assert open(path, "rb").read() == before
    sif_edit.create(path, force=True)
    assert look(path).descriptors == []


def test_an_old_layout_keeps_it(path):
    """Data at 32768, as images from before 2019 have it."""
    with open(path, "r+b") as file:
        file.seek(112)
        file.write(struct.pack("<q", 32768))
    for slot in (1, 2):
        sif_edit_forget(path, slot)
    add(path, b"x", sif.GENERIC_JSON)
    add(path, b"y")
    assert look(path).header.data_offset == 32768
    assert all(d.offset >= 32768 for d in look(path).descriptors)


def sif_edit_forget(path, number):
    with open(path, "r+b") as file:
        file.seek(TABLE + (number - 1) * SLOT + 4)
        file.write(b"\0")


def refused(path, change):
    before = open(path, "rb").read()
    fds = os.listdir("/proc/self/fd")
    with pytest.raises(BollardError) as caught:
        change()
    assert open(path, "rb").read() == before
    assert os.listdir("/proc/self/fd") == fds
    return str(caught.value).replace(path, "IMAGE")


def test_what_cannot_be(path):
    assert refused(path, lambda: sif_edit.delete(path, 9)) == "IMAGE: no object 9; its objects: 1, 2, 3"
    assert "object 1 is not a system partition" in refused(path, lambda: sif_edit.set_primary(path, 1))
    text = refused(path, lambda: add(path, b"hsqs", sif.PARTITION, partition(2)))
    assert text.startswith("IMAGE: has a primary partition already, object 3; ")
    assert "a name of more than 128 bytes" in refused(path, lambda: add(path, b"", name="x" * 129))


def test_a_full_table(tmp_path):
    path = str(tmp_path / "img.sif")
    sif_edit.create(path)
    for _ in range(48):
        add(path, b"x")
    assert "IMAGE: its table of 48 objects is full; delete one" in refused(path, lambda: add(path, b"y"))


def test_two_at_a_time(path):
    with open(path, "rb+") as other:
        linux.lock_file(other.fileno(), exclusive=True)
        assert "is being changed by another command" in refused(path, lambda: sif_edit.delete(path, 1))
    sif_edit.delete(path, 1)


def test_who_may_only_read_locks_nobody_out(path):
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError):
            linux.lock_file(other.fileno(), exclusive=True)
        with open(path, "rb") as reader:
            linux.lock_file(reader.fileno(), exclusive=False)
        sif_edit.delete(path, 1)


def test_a_file_is_not_added_to_itself(path):
    source = os.open(path, os.O_RDONLY)
    before = os.path.getsize(path)
    with pytest.raises(BollardError, match="cannot be added to itself; add a copy of it"):
        sif_edit.add(path, sif_edit.New(0x4007), source)
    os.close(source)
    assert os.path.getsize(path) == before


def test_a_source_that_fails_leaves_nothing(path, tmp_path):
    source = os.open(tmp_path, os.O_RDONLY)  # reading a directory fails
    assert "cannot be written: Is a directory" in refused(
        path, lambda: sif_edit.add(path, sif_edit.New(0x4007), source)
    )
    os.close(source)


def test_the_digest_of_a_partition_goes_with_it(tmp_path):
    objects = [sif_write.Object(sif.GENERIC, sif.DIGEST_NAME, bytes(sif.DIGEST_SIZE), finish=str.encode)]
    path = str(tmp_path / "img.sif")

    def digest():
        fd, found = image.open_sif(path)
        try:
            return sif.digest(fd, found)
        finally:
            os.close(fd)

    sif_files.write(path, objects, b"hsqs" + b"x" * 5000, "x86_64")
    said = hashlib.sha256(b"hsqs" + b"x" * 5000).hexdigest()
    assert digest() == said
    add(path, b"hsqs" * 99, sif.PARTITION, partition(1))
    sif_edit.set_primary(path, 3)
    assert digest() == ""
    sif_edit.set_primary(path, 2)
    assert digest() == said
    sif_edit.delete(path, 2)
    assert [d.id for d in look(path).descriptors] == [3]
    assert number(path, 80) == 47
    assert add(path, b"other") == 1
    assert add(path, b"hsqs" * 9, sif.PARTITION, partition(2)) == 2
    assert digest() == ""


def interrupted(change, step):
    """Run `change` in a process that dies before its write or truncation number `step`; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(call):
            def run(*args):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(7)
                return call(*args)

            return run

        os.pwrite, os.ftruncate = dying(os.pwrite), dying(os.ftruncate)
        status = 1
        try:
            change()
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 7)
    return code == 7


@pytest.mark.parametrize("what", ["add", "reuse", "delete"])
def test_an_interrupted_change_was_made_or_not(path, what):
    add(path, b"third" * 100)
    if what == "reuse":
        sif_edit.delete(path, 2)
    whole = open(path, "rb").read()
    change = (lambda: sif_edit.delete(path, 4)) if what == "delete" else (lambda: add(path, b"new" * 1000, name="new"))
    before = {d.id: (d.name, content(path, d)) for d in look(path).descriptors}
    change()
    after = {d.id: (d.name, content(path, d)) for d in look(path).descriptors}
    assert before != after
    seen = set()
    for step in range(100):
        with open(path, "wb") as file:
            file.write(whole)
        came = interrupted(change, step)
        now = {d.id: (d.name, content(path, d)) for d in look(path).descriptors}
        assert now in (before, after)
        assert sif.primary(look(path)).id == 3
        seen.add(now == after)
        if not came:
            break
        add(path, b"again")  # and it can be changed further
        assert content(path, look(path).descriptors[-1]) in (b"again", before[max(before)][1], b"new" * 1000)
    assert seen == {True, False}
    assert not came


def test_an_interrupted_choice_of_the_primary_is_completed_by_the_next(path):
    add(path, b"hsqs" * 99, sif.PARTITION, partition(1, b"04\0"))
    whole = open(path, "rb").read()
    for step in range(100):
        with open(path, "wb") as file:
            file.write(whole)
        came = interrupted(lambda: sif_edit.set_primary(path, 4), step)
        kinds = [d.parttype for d in look(path).descriptors if d.datatype == sif.PARTITION]
        assert kinds in ([2, 1], [1, 1], [1, 2])  # never two
        sif_edit.set_primary(path, 4)
        assert sif.primary(look(path)).id == 4
        if not came:
            break
    assert not came


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("fuzz") / "img.sif")
    sif_files.write(path, OBJECTS, b"hsqs" + b"x" * 5000, "x86_64")
    add(path, b"hsqs", sif.PARTITION, partition(1))
    return path, open(path, "rb").read()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_changed_readably(valid, data):
    path, whole = valid
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(32, 127), st.integers(TABLE, TABLE + 5 * SLOT)))
        new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), b"\1", b"\0"])))
        raw[at : at + len(new)] = new
    with open(path, "wb") as file:
        file.write(raw)
    changes = (
        lambda: add(path, b"new", sif.PARTITION, partition(data.draw(st.sampled_from([1, 2, 4])))),
        lambda: sif_edit.delete(path, data.draw(st.integers(1, 5))),
        lambda: sif_edit.set_primary(path, data.draw(st.integers(3, 5))),
    )
    for change in data.draw(st.lists(st.sampled_from(changes), max_size=4)):
        before = open(path, "rb").read()
        try:
            change()
        except BollardError as error:
            assert str(error).startswith(path) and "\n" not in str(error)
            assert open(path, "rb").read() == before
        else:
            look(path)  # what was readable stays so
    assert os.path.getsize(path) < 1 << 20
