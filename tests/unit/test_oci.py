# SPDX-License-Identifier: BSD-3-Clause
"""Layers and manifests of an image's maker who means ill: refused in words, and what they leave can be removed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile

import pytest

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import layer as layers
from bollard.runtime.fetch import oci
from bollard.runtime.system import tree


def layer(*members):
    """A tar archive of (name, type, link)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o755
            archive.addfile(member)
    data.seek(0)
    return data


def unpacked(tmp_path, *members):
    (tmp_path / "root").mkdir(exist_ok=True)
    place = tree.Tree(str(tmp_path / "root"))
    try:
        layers.apply(layer(*members), place, "image")
    finally:
        place.close()


@pytest.mark.parametrize(
    "members",
    [
        [("/".join("a" * 1900), tarfile.DIRTYPE, "")],
        [("l", tarfile.SYMTYPE, "/".join("a" * 1900)), ("l/x", tarfile.DIRTYPE, "")],
        [("h", tarfile.LNKTYPE, "nothing")],
        [("h", tarfile.LNKTYPE, "../../../etc/passwd")],
        [("n" * 300, tarfile.REGTYPE, "")],
        [("a", tarfile.SYMTYPE, "a"), ("a/x", tarfile.REGTYPE, "")],
    ],
)
def test_a_layer_with_an_impossible_member_is_refused(tmp_path, members):
    with pytest.raises(BollardError, match="^image: "):
        unpacked(tmp_path, *members)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("before", [b"", tarfile.TarInfo("first").tobuf()])
def test_a_header_that_would_fill_the_memory_is_refused(tmp_path, kind, before):
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 30
    place = tree.Tree(str(tmp_path))
    try:
        with pytest.raises(BollardError, match=f"^image: damaged: a header of {1 << 30} bytes"):
            layers.apply(io.BytesIO(before + header.tobuf(tarfile.USTAR_FORMAT)), place, "image")
    finally:
        place.close()


def test_a_tree_deeper_than_python_goes_can_be_removed(tmp_path):
    """Links let each layer go on where the last one ended."""
    deep = "/".join("d" * 200)
    members = [(deep, tarfile.DIRTYPE, "")]
    for number in range(1, 12):
        before = f"l{number - 1}" if number > 1 else deep
        members += [(f"l{number}", tarfile.SYMTYPE, before), (f"l{number}/{deep}", tarfile.DIRTYPE, "")]
        members += [(f"l{number}", tarfile.SYMTYPE, f"{before}/{deep}")]
    unpacked(tmp_path, *members)
    unpacked(tmp_path, ("kept", tarfile.REGTYPE, ""), (".wh.d", tarfile.REGTYPE, ""))
    assert not (tmp_path / "root/d").exists() and (tmp_path / "root/kept").exists()


def test_a_removal_follows_no_link_and_minds_no_mode(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").touch()
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/link").symlink_to(tmp_path / "victim")
    (tmp_path / "a/b/file").touch()
    (tmp_path / "a/b/c").chmod(0)
    (tmp_path / "a/b").chmod(0)
    above = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    tree.remove_at(above, "a")
    tree.remove_at(above, "nothing")
    os.close(above)
    assert sorted(os.listdir(tmp_path)) == ["victim"] and (tmp_path / "victim/file").exists()


@pytest.mark.parametrize("annotations", [["tag"], "tag", 5])
def test_annotations_that_are_none(tmp_path, annotations):
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"annotations": annotations, "digest": "x"}]}))
    with pytest.raises(BollardError, match="no image of that name"):
        oci.fetch("oci", f"{tmp_path}:tag", "")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "../../etc/passwd", "/etc/passwd"])
def test_an_archive_that_lacks_a_file_it_names_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        data = json.dumps([{"Config": name, "Layers": []}]).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(BollardError, match="which it does not hold"):
        oci.fetch("docker-archive", str(tmp_path / "image.tar"), str(tmp_path / "scratch"))


NAMES = [
    ("a.tar", "a.tar", ""),
    ("a.tar:1.0", "a.tar", "1.0"),
    ("a.tar:host.test/me/app:1.0", "a.tar", "host.test/me/app:1.0"),
    ("a.tar:localhost:5000/me/app:2.0", "a.tar", "localhost:5000/me/app:2.0"),
    ("a:b.tar", "a:b.tar", ""),
    ("a:b.tar:localhost:5000/app", "a:b.tar", "localhost:5000/app"),
]


@pytest.mark.parametrize("agent", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize(("given", "path", "name"), NAMES)
def test_a_path_and_the_name_of_an_image(tmp_path, agent, given, path, name):
    for file in ("a.tar", "a:b.tar"):
        (tmp_path / file).touch()
    assert oci.split(agent, f"{tmp_path}/{given}") == (f"{tmp_path}/{path}", name)


@pytest.mark.parametrize(
    ("given", "words"), [("b.tar:1.0", "no such file or directory"), ("a.tar:", "names no image"), ("", "no such file")]
)
def test_names_that_are_none(tmp_path, given, words):
    (tmp_path / "a.tar").touch()
    with pytest.raises(BollardError, match=words):
        oci.split("oci-archive", f"{tmp_path}/{given}" if given else "")


def test_the_names_in_an_archive_are_told(tmp_path):
    entries = [{"annotations": {"org.opencontainers.image.ref.name": f"v{n}"}, "digest": f"x{n}"} for n in (1, 2)]
    (tmp_path / "index.json").write_text(json.dumps({"manifests": entries}))
    for tag, words in (
        ("", "2 images of that name; add :TAG to name one of v1, v2"),
        (":v9", "no image of that name; it has v1, v2"),
    ):
        with pytest.raises(BollardError, match=words):
            oci.fetch("oci", f"{tmp_path}{tag}", "")
    entries = [{"annotations": {"org.opencontainers.image.ref.name": f"v{n}"}, "digest": f"x{n}"} for n in range(11)]
    (tmp_path / "index.json").write_text(json.dumps({"manifests": entries}))
    with pytest.raises(BollardError, match="v6, v7 and 3 more$"):
        oci.fetch("oci", str(tmp_path), "")


def packed(program, data):
    done = subprocess.run([program, "-c"], input=data, stdout=subprocess.PIPE, check=True)
    return done.stdout


PACKERS = [name for name in ("zstd", "xz", "bzip2", "gzip") if shutil.which(name)]


@pytest.mark.parametrize("program", PACKERS)
def test_a_packed_layer_is_not_kept_unpacked(tmp_path, program):
    """A few kilobytes that unpack to much: no file grows beyond what the layer's own files have."""
    data = packed(program, layer(("a", tarfile.DIRTYPE, "")).getvalue() + bytes(64 << 20))
    assert len(data) < 1 << 17
    place = tree.Tree(str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        layers.apply(io.BytesIO(data), place, "image", "sha256:" + hashlib.sha256(data).hexdigest())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        place.close()
    assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize("program", [name for name in PACKERS if name != "gzip"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:20] + b"\0" * 40 + data[60:]]
)
def test_a_damaged_packed_layer_is_refused(tmp_path, program, damage):
    members = [(f"file-{os.urandom(20).hex()}", tarfile.REGTYPE, "") for _ in range(200)]
    data = damage(packed(program, layer(*members).getvalue()))
    place = tree.Tree(str(tmp_path))
    try:
        with pytest.raises(BollardError, match=f"^image: damaged: {program} cannot unpack it; fetch it again"):
            layers.apply(io.BytesIO(data), place, "image")
    finally:
        place.close()


@pytest.mark.parametrize("movable", [True, False])
def test_a_file_that_finds_no_room(tmp_path, monkeypatch, movable):
    """The message names the file and its size, and what moves the workspace. Nothing moves a sandbox."""
    monkeypatch.setattr(causes, "_movable", {str(tmp_path): "BOLLARD_TMPDIR"} if movable else {})
    cure = "set BOLLARD_TMPDIR" if movable else "free some"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("huge")
        member.size = 1 << 60
        archive.addfile(member)
    place = tree.Tree(str(tmp_path))
    try:
        with pytest.raises(BollardError, match=f"huge has 1152921504606846976 bytes, and there is room for .*{cure}"):
            layers.apply(io.BytesIO(data.getvalue()), place, "image")
    finally:
        place.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "fits"), [(0, True), (1 << 20, True), (1000, False)])
def test_the_sites_limit(tmp_path, monkeypatch, limit, fits):
    (tmp_path / "site.conf").write_text(f"layer-max={limit}\n")
    monkeypatch.setattr(layers, "PREFIX", str(tmp_path))
    if fits:
        unpacked(tmp_path, ("a", tarfile.DIRTYPE, ""), ("b", tarfile.DIRTYPE, ""))
    else:
        with pytest.raises(BollardError, match="^image: unpacks to more than 1000 bytes, this site's layer-max"):
            unpacked(tmp_path, ("a", tarfile.DIRTYPE, ""), ("b", tarfile.DIRTYPE, ""))


def many_files():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("a", "b", "c"):
            member = tarfile.TarInfo(name)
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))
    return file.getvalue()


@pytest.mark.parametrize("size", [100, 600, 1536 + 88, 1536 + 511, 1536 + 512 + 10])
def test_a_cut_layer_is_refused(tmp_path, size):
    """In a header or in a file; the image would silently lack what follows."""
    place = tree.Tree(str(tmp_path))
    with pytest.raises(BollardError, match="^x: damaged: "):
        layers.apply(io.BytesIO(many_files()[:size]), place, "x")
    place.close()


@pytest.mark.parametrize("at", [1536, 1536 + 148, 3072 + 257])
def test_a_layer_with_a_damaged_header_is_refused(tmp_path, at):
    data = bytearray(many_files())
    data[at] ^= 1
    place = tree.Tree(str(tmp_path))
    with pytest.raises(BollardError, match="^x: damaged: "):
        layers.apply(io.BytesIO(bytes(data)), place, "x")
    place.close()


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024) + b"anything behind the end"])
def test_an_archive_may_end_with_zeros_bytes_or_nothing(tmp_path, end):
    place = tree.Tree(str(tmp_path))
    layers.apply(io.BytesIO(many_files()[: 3 * 1536] + end), place, "x")
    place.close()
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_layer_has_the_digest_of_all_its_bytes_or_is_refused(tmp_path):
    """Those after the end of the archive count too: a registry names the digest of the whole file."""
    data = many_files()[: 3 * 1536] + bytes(1024) + b"anything behind the end"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    place = tree.Tree(str(tmp_path))
    layers.apply(io.BytesIO(data), place, "x", digest)
    for other in (data[:-1] + b"!", data + b"!", data[:-1]):
        with pytest.raises(BollardError, match=f"^x: does not match its digest {digest}"):
            layers.apply(io.BytesIO(other), place, "x", digest)
    place.close()


def test_a_layer_has_256_directories_below_each_other_at_most(tmp_path):
    deepest = "/".join("a" * 256)
    unpacked(tmp_path, (deepest, tarfile.DIRTYPE, ""))
    assert (tmp_path / "root" / deepest).is_dir()
    with pytest.raises(BollardError, match="^image: damaged: a path of 257 parts, over 256"):
        unpacked(tmp_path, (f"{deepest}/a", tarfile.DIRTYPE, ""))
