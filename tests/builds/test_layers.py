# SPDX-License-Identifier: BSD-3-Clause
"""Layers of strange archives, unpacked by bollard and by umoci, and the two trees compared."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import servers

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import oci
from bollard.runtime.system.tree import Tree

# A case is layers, a layer is members:
#   d/  directory     f=text  file     l->target  symbolic link     h=>target  hard link     p|  fifo
# and behind any of them, after a space, an octal mode. ".wh." members are empty files.
Case = Sequence[Sequence[str]]
LONG = "n" * 200
DEEP = "/".join(["part" * 8] * 12)

CASES: dict[str, Case] = {
    "one file": [["f=x"]],
    "an empty layer": [["f=x"], []],
    "a file over a file": [["f=x"], ["f=other"]],
    "modes": [["a=x 0600", "b=x 4755", "c=x 2755", "d/ 1777", "e/ 0700", "e/f=x 0400", "g/ 0555", "g/h=x 0444"]],
    "a directory's mode from above": [["d/ 0700", "d/a=x"], ["d/ 0755"]],
    "a directory's mode stays": [["d/ 0711", "d/a=x"], ["d/b=x"]],
    "directories that are implied": [["a/b/c/d=x"]],
    "a directory after what is in it": [["a/b=x", "a/ 0711"]],
    "a dot in front": [["./", "./d/", "./d/a=x"], ["./d/.wh.a", "./d/b=x"]],
    "dots inside": [["d/./a=x", "d//b=x"]],
    "a slash in front": [["/d/", "/d/a=x"]],
    "a whiteout": [["a=x", "b=x"], [".wh.a"]],
    "a whiteout of a directory": [["d/", "d/a=x", "d/e/", "d/e/f=x", "g=x"], [".wh.d"]],
    "a whiteout of nothing": [["a=x"], [".wh.b"]],
    "a whiteout below a directory": [["d/", "d/a=x", "d/b=x"], ["d/", "d/.wh.a"]],
    "a whiteout of a link": [["d/", "d/a=x", "l->d"], [".wh.l"]],
    "a whiteout of a dangling link": [["l->nothing"], [".wh.l"]],
    "a whiteout of one name of two": [["a=x", "b=>a"], [".wh.a"]],
    "a whiteout where there is no directory": [["a=x"], ["x/y/.wh.z"]],
    "a whiteout after a file of its layer": [["a=x"], ["a=new", ".wh.a"]],
    "a whiteout after a directory of its layer": [["d/", "d/old=x"], ["d/", "d/again=x", ".wh.d"]],
    "a whiteout after a file in its directory": [["d/", "d/e/", "d/e/f=x"], ["d/e/g=x", "d/.wh.e"]],
    "a whiteout by another name": [["e/", "d->e"], ["d/a=x", "e/.wh.a"]],
    "an opaque mark by another name": [["e/", "e/old=x", "d->e"], ["e/new=x", "d/.wh..wh..opq"]],
    "a whiteout, then a file": [["a=x"], [".wh.a", "a=new"]],
    "a whiteout, then a directory": [["a=x"], [".wh.a", "a/", "a/b=new"]],
    "a whiteout of a directory, then a file": [["d/", "d/a=x"], [".wh.d", "d=new"]],
    "a whiteout of a directory, then that again": [["d/", "d/a=x"], [".wh.d", "d/", "d/b=new"]],
    "a whiteout of a directory, then a file in it": [["d/", "d/a=x"], [".wh.d", "d/b=new"]],
    "whiteouts in two layers": [["a=x", "b=x"], [".wh.a"], [".wh.b", "a=new"]],
    "a file again after its whiteout": [["a=x"], [".wh.a"], ["a=new"]],
    "an opaque directory": [["d/", "d/old=x"], ["d/", "d/.wh..wh..opq", "d/new=x"]],
    "an opaque mark at the end": [["d/", "d/old=x"], ["d/", "d/new=x", "d/.wh..wh..opq"]],
    "an opaque mark in the middle": [["d/", "d/old=x"], ["d/", "d/a=x", "d/.wh..wh..opq", "d/b=x"]],
    "an opaque mark before its directory": [["d/", "d/old=x"], ["d/.wh..wh..opq", "d/", "d/new=x"]],
    "an opaque mark alone": [["d/", "d/old=x", "d/e/", "d/e/f=x"], ["d/.wh..wh..opq"]],
    "an opaque mark in a new directory": [["a=x"], ["d/", "d/.wh..wh..opq", "d/new=x"]],
    "an opaque mark over a tree, last": [
        ["d/", "d/old=x", "d/sub/", "d/sub/old=x"],
        ["d/", "d/new=x", "d/sub/", "d/sub/new=x", "d/.wh..wh..opq"],
    ],
    "an opaque mark over a tree, first": [
        ["d/", "d/old=x", "d/sub/", "d/sub/old=x"],
        ["d/", "d/.wh..wh..opq", "d/new=x", "d/sub/", "d/sub/new=x"],
    ],
    "an opaque mark and a file that is written again": [["d/", "d/a=x", "d/b=x"], ["d/", "d/a=y", "d/.wh..wh..opq"]],
    "an opaque root": [["a=x", "d/", "d/b=x"], [".wh..wh..opq", "new=x"]],
    "an opaque mark in two layers": [["d/", "d/a=x"], ["d/", "d/.wh..wh..opq", "d/b=x"], ["d/", "d/.wh..wh..opq"]],
    "hard links": [["a=x", "b=>a", "d/", "d/c=>a"]],
    "a hard link to a lower layer": [["a=x"], ["b=>a"]],
    "a hard link of a lower layer is replaced": [["a=x", "b=>a"], ["a=new"]],
    "a hard link over a file": [["a=x", "b=y"], ["b=>a"]],
    "a hard link over a directory": [["a=x", "d/", "d/b=y"], ["d=>a"]],
    "a hard link to a dotted name": [["./a=x", "./b=>./a"]],
    "a hard link to a link": [["a=x", "l->a", "m=>l"]],
    "a hard link through a link": [["d/", "d/a=x", "l->d", "b=>l/a"]],
    "a hard link to a new file of a lower name": [["a=x"], ["a=new", "b=>a"]],
    "a directory, a file, a directory": [["d/", "d/a=x"], ["d=file"], ["d/", "d/b=x"]],
    "a file, a directory, a file": [["d=file"], ["d/", "d/b=x"], ["d=file"]],
    "all of them in one layer": [["d/", "d/a=x", "d=file", "d/ 0711", "d/b=x"]],
    "a link over a directory": [["d/", "d/a=x", "e/", "e/b=x"], ["d->e"]],
    "a directory over a link": [["e/", "e/a=x", "d->e"], ["d/", "d/b=x"]],
    "a file over a link": [["a=x", "l->a"], ["l=new"]],
    "a link over a file": [["a=x"], ["a->b"]],
    "a file over a fifo": [["p|"], ["p=x"]],
    "a fifo": [["p| 0620"]],
    "a link as a parent": [["e/", "d->e"], ["d/a=x"]],
    "an absolute link as a parent": [["e/f/", "d->/e/f"], ["d/a=x"]],
    "a link out of the tree as a parent": [["d->/../../e", "e/"], ["d/a=x"]],
    "a link through dots as a parent": [["a/b/", "run/", "a/b/l->../../run"], ["a/b/l/f=x"]],
    "links to links as parents": [["e/", "c->e", "d->c"], ["d/x/y=x"]],
    "a whiteout through a link": [["e/", "e/a=x", "e/b=x", "d->e"], ["d/.wh.a"]],
    "an opaque mark through a link": [["e/", "e/a=x", "d->e"], ["d/.wh..wh..opq", "d/b=x"]],
    "a file twice in one layer": [["a=x 0600", "a=y 0644"]],
    "a directory twice in one layer": [["d/ 0700", "d/a=x", "d/ 0755"]],
    "a link twice in one layer": [["a->b", "a->c"]],
    "long names": [[f"{LONG}=x", f"d/{LONG}/", f"d/{LONG}/f=x", f"l->{LONG}", f"h=>{LONG}"]],
    "a long path": [[f"{DEEP}/f=x", f"l->{DEEP}/f", f"h=>{DEEP}/f"]],
    "names that are not ASCII": [["gr\u00fc\u00dfe/", "gr\u00fc\u00dfe/\u65e5\u672c=x", "l->gr\u00fc\u00dfe"]],
    "names with odd characters": [["a b=x", "c\td=x", "-e=x", "f\\g=x", "*=x"], [".wh.a b", ".wh.*"]],
    "a hard link whose first name is hidden below": [["a=x", "b=>a", "c=>a"], [".wh.a", "d=>b"]],
    "a hard link across layers, then a whiteout": [["a=x"], ["b=>a"], [".wh.a", "c=>b"]],
    "a whiteout of a link that leads up": [["d/e/", "d/e/l->../../f", "f=x"], ["d/e/.wh.l"]],
    "an opaque mark above a whiteout": [["d/e/", "d/e/a=x", "d/e/b=x"], ["d/.wh..wh..opq", "d/e/", "d/e/.wh.a"]],
    "a directory that becomes a link, with files behind": [["d/", "d/a=x", "e/"], [".wh.d", "d->e", "d/b=x"]],
    "a fifo over a directory": [["d/", "d/a=x"], ["d| 0600"]],
    "a sticky directory whose mode changes": [["d/ 1777", "d/a=x 4711"], ["d/ 2755"], ["d/a=y 0600"]],
    "names that begin like a whiteout": [[".wha=x", ".wh=x", "a.wh.b=x"]],
}  # fmt: skip

# Where umoci 0.4 does otherwise: why, the layers, and the modes and names of what is here.
DIFFERENT: dict[str, tuple[str, Case, dict[str, str]]] = {
    "a whiteout of a directory after a file in it": (
        "the directory is a new one, which is implied; umoci gives it the hidden one's mode, but only in this order",
        [["d/ 0700", "d/old=x"], ["d/again=x", ".wh.d"]],
        {"d": "drwxr-xr-x", "d/again": "-rw-r--r--"},
    ),
    "an opaque mark after a file in a directory below": (
        "as above",
        [["d/", "d/old=x", "d/sub/ 0700", "d/sub/old=x"], ["d/", "d/sub/new=x", "d/.wh..wh..opq"]],
        {"d": "drwxr-xr-x", "d/sub": "drwxr-xr-x", "d/sub/new": "-rw-r--r--"},
    ),
    "what aufs keeps for itself": (
        "it is not of the image; umoci unpacks it",
        [["a=x"], [".wh..wh.plnk/", ".wh..wh.plnk/1=x", ".wh..wh.aufs=x"]],
        {"a": "-rw-r--r--"},
    ),
    "a hard link to itself": (
        "GNU tar writes and reads that of a file that is named twice; umoci fails",
        [["a=x", "a=>a"]],
        {"a": "-rw-r--r--"},
    ),
}


def layer(members: Sequence[str], form: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for number, text in enumerate(members):
            text, mode = (text[:-5], int(text[-4:], 8)) if text[-5:-4] == " " and text[-4:].isdigit() else (text, 0)
            member = tarfile.TarInfo()
            member.mtime = 1_700_000_000 + number
            data = b""
            if "=>" in text:
                member.name, _, member.linkname = text.partition("=>")
                member.type = tarfile.LNKTYPE
            elif "->" in text:
                member.name, _, member.linkname = text.partition("->")
                member.type = tarfile.SYMTYPE
            elif text.endswith("/"):
                member.name, member.type = text, tarfile.DIRTYPE
            elif text.endswith("|"):
                member.name, member.type = text[:-1], tarfile.FIFOTYPE
            else:
                member.name, _, content = text.partition("=")
                data = content.encode()
            member.mode = mode or (0o755 if member.isdir() else 0o777 if member.issym() else 0o644)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def layout(path: Path, layers: Sequence[bytes]) -> Path:
    """An OCI layout with one image of these layers."""
    config = {
        "architecture": servers.ARCH, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [servers.digest(data) for data in layers]},
    }  # fmt: skip
    kind = "application/vnd.oci.image"
    blobs = [json.dumps(config).encode(), *(gzip.compress(data, mtime=0) for data in layers)]
    manifest = {
        "schemaVersion": 2, "mediaType": servers.OCI_MANIFEST,
        "config": servers.entry(blobs[0], f"{kind}.config.v1+json"),
        "layers": [servers.entry(data, f"{kind}.layer.v1.tar+gzip") for data in blobs[1:]],
    }  # fmt: skip
    raw = json.dumps(manifest).encode()
    named = {**servers.entry(raw, servers.OCI_MANIFEST), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (path / "blobs/sha256").mkdir(parents=True)
    for data in (*blobs, raw):
        (path / "blobs" / servers.digest(data).replace(":", "/")).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return path


def listed(root: Path) -> dict[str, str]:
    """Each entry below the root: kind, mode, content or target, which other names it has, and a file's time."""
    found: dict[str, str] = {}
    names: dict[int, list[str]] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        if not stat.S_ISDIR(info.st_mode):
            names.setdefault(info.st_ino, []).append(name)
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        what = stat.filemode(info.st_mode)
        if path.is_symlink():
            what = f"l -> {os.readlink(path)}"
        elif stat.S_ISREG(info.st_mode):
            what += f" {path.read_text()!r} {info.st_mtime:.0f}"
        if len(names.get(info.st_ino, ())) > 1:
            what += f" = {', '.join(names[info.st_ino])}"
        found[name] = what
    return found


def unpacked(place: Path, case: Case, form: int) -> tuple[dict[str, str], dict[str, str]]:
    """The trees that bollard and umoci make of a case."""
    image = layout(place / "layout", [layer(members, form) for members in case])
    done = umoci(place, image)
    assert done.returncode == 0, done.stderr
    return ours_of(place, image), listed(place / "theirs/rootfs")


def ours_of(place: Path, image: Path) -> dict[str, str]:
    (place / "ours").mkdir()
    tree = Tree(str(place / "ours"))
    try:
        oci.unpack(oci.fetch("oci", f"{image}:latest", ""), tree, "image")
    finally:
        tree.close()
    return listed(place / "ours")


def umoci(place: Path, image: Path) -> subprocess.CompletedProcess[str]:
    argv = ["umoci", "unpack", "--rootless", "--image", f"{image}:latest", str(place / "theirs")]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", CASES)
def test_umoci_makes_the_same_of_it(tmp_path: Path, name: str) -> None:
    ours, theirs = unpacked(tmp_path, CASES[name], tarfile.PAX_FORMAT)
    assert ours == theirs


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("a long", "long", "names", "hard"))])
def test_in_the_format_of_gnu_tar(tmp_path: Path, name: str) -> None:
    ours, theirs = unpacked(tmp_path, CASES[name], tarfile.GNU_FORMAT)
    assert ours == theirs


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_umoci_makes_something_else(tmp_path: Path, name: str) -> None:
    _, case, expected = DIFFERENT[name]
    image = layout(tmp_path / "layout", [layer(members, tarfile.PAX_FORMAT) for members in case])
    assert {path: what[:10] for path, what in ours_of(tmp_path, image).items()} == expected
    done = umoci(tmp_path, image)
    assert done.returncode or listed(tmp_path / "theirs/rootfs") != listed(tmp_path / "ours")


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh..."])
def test_a_whiteout_of_no_name(tmp_path: Path, name: str) -> None:
    image = layout(tmp_path / "layout", [layer(["d/", "d/a=x"], tarfile.PAX_FORMAT), layer([name], tarfile.PAX_FORMAT)])
    with pytest.raises(BollardError, match="layer 2 of 2: damaged: .* is a whiteout of no name"):
        ours_of(tmp_path, image)
    assert (tmp_path / "ours/d/a").exists()


def test_there_are_enough() -> None:
    assert len(CASES) + len(DIFFERENT) >= 60


def strange(seed: int) -> list[list[str]]:
    """Random layers of few names, so that they meet."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e/b", "d"]
    case: list[list[str]] = []
    for number in range(chance.randint(2, 4)):
        members: list[str] = []
        for name in chance.sample(names, chance.randint(1, 6)):
            above, _, last = name.rpartition("/")
            if number and chance.random() < 0.3:
                members.insert(0, f"{above}/.wh.{last}".lstrip("/"))
            else:
                mode = chance.choice(["0644", "0600", "0755"])
                if name == "d":
                    members.insert(0, f"d/ {chance.choice(['0700', '0755'])}")
                else:
                    members.append(f"{name}={number} {mode}")
        if number and chance.random() < 0.4:
            place = chance.randint(0, len(members))
            members.insert(place, "d/.wh..wh..opq")
        case.append(members)
    return case


@pytest.mark.parametrize("seed", range(24))
def test_random_layers(tmp_path: Path, seed: int) -> None:
    case = strange(seed)
    ours, theirs = unpacked(tmp_path, case, tarfile.PAX_FORMAT)
    assert ours == theirs, case


def test_umoci_is_here() -> None:
    assert shutil.which("umoci"), "install the package umoci, as `make build-test` does"
