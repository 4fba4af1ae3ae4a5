# SPDX-License-Identifier: BSD-3-Clause
"""Opening images: what is accepted, and what the message says of everything else."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

import pytest
import sif_files
from hypothesis import given, settings
from hypothesis import strategies as st

from bollard.runtime.container import fuse
from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif, sif_edit, sif_write
from bollard.runtime.image.image import DIRECTORY, SQUASHFS, open_image, open_sif

NODE_MODULES = {
    "bollard",
    "bollard.runtime",
    "bollard.runtime.errors",
    "bollard.runtime.image",
    "bollard.runtime.image.image",
    "bollard.runtime.image.sif",
}


def superblock(used=4096, compression=6, version=(4, 0), block=131072, log=17, tables=200):
    """A squashfs superblock: 96 bytes that claim a filesystem of `used` bytes."""
    return struct.pack(
        "<4sIIIIHHHHHHQQQQQQQQ",
        *(b"hsqs", 1, 0, block, 0, compression, log, 0, 1, *version),
        *(0, used, tables, 2**64 - 1, tables, tables, tables, 2**64 - 1),
    )


def squashfs(path, size=4096, **fields):
    path.write_bytes(superblock(**fields).ljust(size, b"\0"))
    return str(path)


def make_sif(path, content=None, arch="x86_64"):
    objects = [sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b"{}")]
    sif_files.write(path, objects, content if content is not None else superblock().ljust(4096, b"\0"), arch)
    return str(path)


def refused(path, machine="x86_64"):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BollardError) as caught:
        open_image(str(path), machine)
    assert os.listdir("/proc/self/fd") == before
    assert caught.value.hint
    assert caught.value.code == 255
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "IMAGE", 1)


def test_what_is_read_of_a_sif_file(tmp_path):
    path = make_sif(tmp_path / "img.sif")
    image = open_image(path, "x86_64")
    info = os.stat(path)
    assert (image.kind, image.offset % 4096, image.size) == (SQUASHFS, 0, 4096)
    assert (image.arch, image.compression, image.path) == ("amd64", "zstd", path)
    assert image.identity == (info.st_ino, info.st_size, info.st_mtime_ns)
    assert image.metadata() == b"{}"
    assert not os.get_inheritable(image.fd)
    image.close()


def test_bare_squashfs(tmp_path):
    image = open_image(squashfs(tmp_path / "img.sqfs", compression=1), "x86_64")
    assert (image.kind, image.offset, image.size, image.arch) == (SQUASHFS, 0, 4096, None)
    assert image.compression == "gzip"
    assert image.metadata() is None
    image.close()


def test_directory(tmp_path):
    (tmp_path / "usr").mkdir()
    image = open_image(str(tmp_path), "x86_64")
    assert (image.kind, image.offset, image.size, image.compression, image.arch) == (
        DIRECTORY,
        0,
        0,
        "",
        None,
    )
    assert image.metadata() is None
    image.close()


def test_the_checked_file_stays_open_when_its_name_is_reused(tmp_path):
    path = squashfs(tmp_path / "img.sqfs")
    image = open_image(path)
    os.rename(squashfs(tmp_path / "other", size=8192), path)
    assert os.fstat(image.fd).st_size == 4096
    image.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#!/bin/sh\n", 'IMAGE: not a SIF or squashfs image (first bytes: "#!/b"); is it a script?'),
        (b"\x7fELF" + bytes(60), r'(first bytes: "\x7fELF"); is it a program?'),
        (b"\x1f\x8b\x08\0", "is it a gzip archive?"),
        (b"\x28\xb5\x2f\xfd", "is it a zstd archive?"),
        (bytes(257) + b"ustar\0", "is it a docker or OCI archive?"),
        (bytes(1080) + b"\x53\xef", "is it an ext3 image?"),
        (b"#!/usr/bin/env run-singularity\n".ljust(1111, b"\0") + b"\x53\xef", "ext3 image of Singularity 2?"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "is it a web page?"),
        (b"Bootstrap: docker\n", "is it a definition file?"),
        (b'"', r'(first bytes: "\""); check the file name'),
        (bytes(5000), "it begins with zeros"),
        (b"", "IMAGE: is empty (0 bytes); copy or build it again"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "img").write_bytes(content)
    assert words in refused(tmp_path / "img")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"used": 5000}, "IMAGE: truncated: 4096 bytes, 5000 expected; copy or build it again"),
        ({"size": 95}, "truncated: 95 bytes, 96 expected"),
        ({"version": (3, 1)}, "squashfs version 3.1 is not supported"),
        ({"compression": 0}, "squashfs compression number 0 is not supported"),
        ({"compression": 9}, "squashfs compression number 9 is not supported"),
        ({"block": 4000}, "superblock contradicts itself"),
        ({"block": 1 << 21, "log": 21}, "superblock contradicts itself"),
        ({"log": 60000}, "superblock contradicts itself"),
        ({"tables": 4096}, "superblock contradicts itself"),
    ],
)
def test_a_damaged_squashfs_is_refused(tmp_path, fields, words):
    path = tmp_path / "img.sqfs"
    size = fields.pop("size", 4096)
    path.write_bytes(superblock(**fields).ljust(4096, b"\0")[:size])
    assert words in refused(path)


def test_sif_whose_partition_is_no_squashfs(tmp_path):
    path = make_sif(tmp_path / "img.sif", b"nothing".ljust(4096))
    assert 'no squashfs in its system partition (found "noth")' in refused(path)


def test_sif_whose_squashfs_is_longer_than_its_partition(tmp_path):
    path = make_sif(tmp_path / "img.sif", superblock(used=4097).ljust(4096, b"\0"))
    assert "truncated: 4096 bytes, 4097 expected" in refused(path)


def test_an_image_of_another_architecture_is_refused(tmp_path):
    path = make_sif(tmp_path / "img.sif", arch="aarch64")
    text = refused(path, "x86_64")
    assert text == "IMAGE: built for arm64, this node is amd64; build or pull it for amd64"
    open_image(path, "").close()


@pytest.mark.parametrize(("arch", "machine"), [("386", "x86_64"), ("arm", "aarch64"), ("sparc", "x86_64")])
def test_an_architecture_that_this_machine_may_run_is_opened(tmp_path, arch, machine):
    open_image(make_sif(tmp_path / "img.sif", arch=arch), machine).close()


@pytest.mark.parametrize(
    "uri", ["docker://alpine", "oras://host/name:tag", "https://host/img.sif", "oci-archive:x.tar"]
)
def test_a_uri_is_refused_with_the_pull_command(uri):
    assert refused(uri).startswith(f"IMAGE: is not a file, and is not fetched here; run `bollard pull {uri}`, and name")


def test_a_colon_in_a_path(tmp_path):
    (tmp_path / "a:b").mkdir()
    open_image(squashfs(tmp_path / "a:b" / "v1:2.sqfs")).close()


def test_a_missing_image_is_named_with_its_missing_directory(tmp_path):
    assert refused(tmp_path / "no.sif") == f"IMAGE: no such file; check the name with `ls {tmp_path}`"
    assert f"the directory {tmp_path}/no does not exist on this machine" in refused(tmp_path / "no" / "way" / "x.sif")


def test_a_broken_link_is_told_from_a_loop(tmp_path):
    (tmp_path / "img.sif").symlink_to("elsewhere.sif")
    assert "is a symbolic link to elsewhere.sif, which does not exist" in refused(tmp_path / "img.sif")
    (tmp_path / "loop").symlink_to("loop")
    assert "form a loop" in refused(tmp_path / "loop")


def test_a_file_as_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "a part of this path is not a directory" in refused(tmp_path / "file" / "img.sif")


def test_names_that_are_no_paths():
    with pytest.raises(BollardError, match="no image named"):
        open_image("")
    with pytest.raises(BollardError, match="NUL byte"):
        open_image("a\0b")


def test_a_name_with_control_characters_stays_one_line(tmp_path):
    with pytest.raises(BollardError) as caught:
        open_image(f"{tmp_path}/a\nb\udcff")
    assert str(caught.value).startswith(f"{tmp_path}/a\\nb\\udcff: no such file")


def test_a_pipe_a_device_or_a_socket_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "IMAGE: is a pipe" in refused(tmp_path / "pipe")
    assert "IMAGE: is a character device" in refused("/dev/null")
    os.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "IMAGE: is a socket" in refused("socket")


def test_a_directory_without_a_root_filesystem_is_refused(tmp_path):
    assert "is an empty directory" in refused(tmp_path)
    (tmp_path / "config.json").touch()
    (tmp_path / "rootfs").mkdir()
    assert refused(tmp_path) == f"IMAGE: is an OCI bundle; name the directory {tmp_path}/rootfs"
    (tmp_path / "rootfs" / "oci-layout").touch()
    (tmp_path / "rootfs" / "index.json").touch()
    assert "is an OCI layout" in refused(tmp_path / "rootfs")


def as_nobody(path, call="open_image(sys.argv[1])"):
    """What the message is for a user without privileges, whoever runs the tests."""
    code = (
        "import os, sys\n"
        "from bollard.runtime.image.image import open_image, open_sif\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try: {call}\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


def test_permission_denied_names_the_place(tmp_path):
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o755)
    (tmp_path / "closed").mkdir()
    path = squashfs(tmp_path / "closed" / "img.sif")
    os.chmod(path, 0)
    text = as_nobody(path)
    assert f"{path}: permission denied: it belongs to " in text
    assert text.endswith(f"mode 0000; its owner can allow you to read it with `chmod a+r {path}`")
    (tmp_path / "closed").chmod(0)
    text = as_nobody(path)
    assert f"permission denied: directory {tmp_path}/closed belongs to " in text
    assert text.endswith(f"mode 0000; its owner can allow you to search it with `chmod a+x {tmp_path}/closed`")
    (tmp_path / "closed").chmod(0o755)


def test_imports_of_the_node_path():
    code = "import sys, os; a = set(sys.modules); import bollard.runtime.image; print(*set(sys.modules) - a)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    assert set(done.stdout.split()) - {"__future__"} <= NODE_MODULES


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200), front=st.sampled_from([b"", b"hsqs", superblock()[:40], superblock()]))
def test_any_file_is_opened_or_refused_readably(tmp_path_factory, raw, front):
    path = tmp_path_factory.getbasetemp() / "fuzz.sif"
    path.write_bytes(front + raw)
    try:
        open_image(str(path), "x86_64").close()
    except BollardError as error:
        assert str(error).startswith(f"{path}: ")


def open_sif_refused(path, writable=False):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BollardError) as caught:
        open_sif(str(path), writable)
    assert os.listdir("/proc/self/fd") == before
    return str(caught.value).replace(str(path), "IMAGE")


def test_a_sif_file_whatever_it_holds(tmp_path):
    for path in (make_sif(tmp_path / "1.sif", b"no squashfs", "s390x"), make_sif(tmp_path / "2.sif", superblock())):
        fd, found = open_sif(path)
        assert (len(found.descriptors), os.get_inheritable(fd)) == (2, False)
        os.close(fd)
    assert "not a SIF image; it is squashfs without SIF" in open_sif_refused(squashfs(tmp_path / "a.sqfs"))
    assert "IMAGE: is a directory; name a SIF file" in open_sif_refused(tmp_path)
    assert "IMAGE: is a directory" in open_sif_refused(tmp_path, True)
    assert "IMAGE: no such file" in open_sif_refused(tmp_path / "no.sif")
    (tmp_path / "zeros").write_bytes(bytes(5000))
    assert "IMAGE: not a SIF image; it begins with zeros" in open_sif_refused(tmp_path / "zeros")


def test_a_sif_file_that_may_not_be_changed(tmp_path):
    for place in (tmp_path, *list(tmp_path.parents)[:2]):
        place.chmod(0o755)
    path = make_sif(tmp_path / "img.sif")
    os.chmod(path, 0o444)
    assert as_nobody(path, "open_sif(sys.argv[1], True)") == (
        f"{path}: you may read it, but not change it; copy it to a place of your own"
    )


def test_the_overlays_of_a_sif(tmp_path):
    path = make_sif(tmp_path / "img.sif")
    image = open_image(path)
    assert image.overlays == []
    image.close()
    source = os.memfd_create("overlay")
    for fstype in (2, 9):
        sif_edit.add(path, sif_edit.New(sif.PARTITION, struct.pack("<ii", fstype, 4) + b"02\0"), source)
        if fstype == 2:
            image = open_image(path)
            assert [item.fstype for item in image.overlays] == [2]
            image.close()
    os.close(source)
    assert "IMAGE: its overlay, object 4, has the filesystem number 9, neither" in refused(path)


def test_a_compression_that_this_squashfuse_lacks_is_no_damage():
    said = "Squashfs image uses lzma compression, this version supports only zlib."
    assert why(said).startswith("a.sif: cannot be read on this machine (Squashfs image uses")


def test_only_what_the_server_says_of_the_image_is_damage():
    assert why("Something went wrong trying to read the squashfs image.").startswith("a.sif: damaged: ")
    assert "Too many open files" not in why("Can't open squashfs image: Too many open files")
    assert "damaged" not in why("Can't open squashfs image: Too many open files")
    assert "a.sif: the file server" in why("") and "exit status 1;" in why("")


def why(said):
    """What a user reads when a file server that wrote `said` has ended with status 1."""
    words = os.memfd_create("words")
    os.write(words, said.encode())
    pid = os.fork()
    if pid == 0:
        os._exit(1)
    try:
        return str(fuse.failed("a.sif", words, pid, words, 0))
    finally:
        os.close(words)


@pytest.mark.parametrize(
    "line",
    [
        b"#!/usr/bin/env run-singularity\n",
        b"#! /usr/bin/env run-singularity",
        b"#! /usr/bin/env run-singularity\n",
        b"#!/opt/singularity/2.6/bin/run-singularity\n",
    ],
)
def test_an_image_of_singularity_2(tmp_path, line):
    (tmp_path / "old.simg").write_bytes(line + superblock().ljust(4096, b"\0"))
    opened = open_image(str(tmp_path / "old.simg"), "x86_64")
    assert (opened.kind, opened.offset, opened.size, opened.arch) == (SQUASHFS, len(line), 4096, None)
    opened.close()
    (tmp_path / "old.simg").write_bytes(line + superblock().ljust(4095, b"\0"))
    assert "truncated" in refused(tmp_path / "old.simg")


@pytest.mark.parametrize("name", ["ubuntu:24.04", "docker.io/library/ubuntu:24.04"])
def test_a_name_of_a_registry_is_no_file(tmp_path, name):
    with pytest.raises(BollardError, match="begins with docker://"):
        open_image(str(tmp_path / name))
