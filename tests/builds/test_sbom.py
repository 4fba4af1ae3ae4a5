# SPDX-License-Identifier: BSD-3-Clause
"""The SBOM and the provenance statement of a new image, read by SPDX's own tools; databases that rpm has written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest
from building import Builder
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from bollard.runtime.build import packages, rpm_database
from bollard.runtime.image import image_sbom, sif
from bollard.runtime.system.tree import Tree

DPKG = """\
Package: openssl
Status: install ok installed
Architecture: amd64
Version: 3.0.11-1~deb12u2

Package: libssl3
Status: install ok installed
Source: openssl (3.0.11)
Architecture: amd64
Version: 3.0.11-1~deb12u2
Description: two
 lines
 Version: 9

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
DEFINITION = "Bootstrap: localimage\nFrom: sbom-base.sif\n%arguments\nK=secret\n%labels\nA {{ K }}\n"
SPEC = """\
Name: {name}
Version: 1.2
Release: 3
Epoch: 4
Summary: s
License: BSD
BuildArch: noarch
%description
{text}
%files
"""


def made(root: Path) -> Path:
    """A small tree with packages of each kind but rpm."""
    texts = {
        "bin/sh": "#!/bin/true\n",
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "var/lib/dpkg/status": DPKG,
        "lib/apk/db/installed": "P:musl\nV:1.2.5-r0\nA:x86_64\no:musl\n\nP:busybox\nV:1.36.1-r2\nA:x86_64\n",
        "usr/lib/python3/dist-packages/Foo_Bar-1.0.dist-info/METADATA": "Name: Foo.Bar\nVersion: 1.0\n\nName: no\n",
        "opt/conda/conda-meta/zlib-1.3.json": '{"name": "zlib", "version": "1.3", "subdir": "linux-64"}',
        "srv/node_modules/@a/b/package.json": '{"name": "@a/b", "version": "2.0.0"}',
        "srv/package-lock.json": '{"packages": {"": {"version": "1"}, "node_modules/c": {"version": "3.0.0"}}}',
        "srv/src/package.json": '{"name": "not-installed", "version": "1"}',
    }
    for path, text in texts.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def words(root: Path) -> list[str]:
    tree = Tree(str(root))
    try:
        found = packages.of_tree(tree)
    finally:
        tree.close()
    assert found.gaps == ()
    return [f"{p.kind} {p.name} {p.version}" for p in found.packages]


def test_an_image_says_what_is_in_it_and_how_it_was_made(builder: Builder) -> None:
    root = made(builder.work / "sbom-tree")
    (builder.work / "sbom.def").write_text(DEFINITION)
    builder.build("--no-sbom", "sbom-base.sif", root)
    builder.build("--build-arg", "K=hidden", "sbom.sif", "sbom.def")
    status, text, err = builder.run("inspect", "--sbom", "sbom.sif")
    assert status == 0, err
    path = builder.work.parent / "sbom.spdx.json"
    path.write_text(text)
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    locators = {ref.locator for package in document.packages for ref in package.external_references}
    assert locators == {
        "pkg:deb/debian/openssl@3.0.11-1~deb12u2?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl",
        "pkg:apk/debian/musl@1.2.5-r0?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/busybox@1.36.1-r2?arch=x86_64&distro=debian-12",
        "pkg:pypi/foo-bar@1.0",
        "pkg:conda/zlib@1.3?subdir=linux-64",
        "pkg:npm/%40a/b@2.0.0",
        "pkg:npm/c@3.0.0",
    }
    status, out, _ = builder.run("sbom", "--find", "OpenSSL", "sbom.sif")
    rows = [line.split() for line in out.splitlines()]
    assert (status, rows) == (
        0, [["deb", "libssl3", "3.0.11-1~deb12u2", "openssl"], ["deb", "openssl", "3.0.11-1~deb12u2"]]
    )  # fmt: skip
    assert builder.run("sbom", "--find", "log4j", "sbom.sif")[:2] == (1, "")
    assert "libssl3" in builder.run("sbom", str(root))[1]
    status, out, err = builder.run("sbom", "--json", "sbom.sif", "sbom-base.sif", "sbom.sif")
    assert status == 255 and "sbom-base.sif: has no SBOM" in err and len(json.loads(out)) == 2

    statement = json.loads(builder.run("inspect", "--provenance", "sbom.sif")[1])
    said = statement["predicate"]["buildDefinition"]
    opened, found = os.open(builder.work / "sbom.sif", os.O_RDONLY), None
    with open(opened, "rb") as file:
        found = sif.read(opened, os.fstat(opened).st_size)
        part, deffile = sif.primary(found), found.descriptors[0]
        whole = file.read()
    body, text_of = (whole[item.offset : item.offset + item.size] for item in (part, deffile))
    assert statement["subject"][0]["digest"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert said["externalParameters"]["definition"]["sha256"] == hashlib.sha256(text_of).hexdigest()
    assert said["externalParameters"]["buildArguments"] == ["K"]
    base = hashlib.sha256((builder.work / "sbom-base.sif").read_bytes()).hexdigest()
    assert said["resolvedDependencies"] == [{"uri": "localimage:sbom-base.sif", "digest": {"sha256": base}}]
    assert {item.group for item in found.descriptors} == {1}, "a signature of the group covers all"


def test_equal_trees_have_equal_records(builder: Builder) -> None:
    root = made(builder.work / "equal-tree")
    texts = []
    for name in ("one.sif", "two.sif"):
        builder.build(name, root, SOURCE_DATE_EPOCH="1700000000")
        texts.append((builder.work / name).read_bytes())
    assert texts[0] == texts[1]
    assert b'"created":"2023-11-14T22:13:20Z"' in texts[0] and b'"finishedOn":"2023-11-14T22:13:20Z"' in texts[0]


def test_a_database_that_cannot_be_read_is_told(builder: Builder) -> None:
    root = made(builder.work / "damaged-tree")
    (root / "var/lib/rpm").mkdir(parents=True)
    (root / "var/lib/rpm/rpmdb.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    os.mkfifo(root / "usr/lib/python3/x.egg-info")
    said = builder.build("damaged.sif", root)
    assert "warning: the SBOM lacks packages: /var/lib/rpm/rpmdb.sqlite: SQLite:" in said
    status, out, err = builder.run("sbom", "damaged.sif")
    assert status == 0 and "openssl" in out and "damaged.sif: its SBOM lacks packages: /var/lib/rpm/rpmdb" in err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Databases in which rpm has installed two packages, one with a description of 100 000 bytes; by form."""
    top = tmp_path_factory.mktemp("rpm")
    for name, text in (("small", "x"), ("large", "word " * 20_000)):
        (top / f"{name}.spec").write_text(SPEC.format(name=name, text=text))
        run("rpmbuild", "-bb", "--define", f"_topdir {top}", top / f"{name}.spec")
    files = sorted(top.glob("RPMS/*/*.rpm"))
    (top / "sqlite").mkdir()
    run("rpm", "--dbpath", top / "sqlite", "-i", "--justdb", "--nodeps", *files)
    found = {"sqlite": top / "sqlite/rpmdb.sqlite"}
    # rpm 4.17 and later cannot write Berkeley DB: its own tool loads the same headers.
    lines = ["VERSION=3", "format=bytevalue", "type=hash", "h_nelem=2", "db_pagesize=4096", "HEADER=END"]
    with sqlite3.connect(found["sqlite"]) as opened:
        blobs = [blob for (blob,) in opened.execute("SELECT blob FROM Packages")]
    for number, blob in enumerate([b"\2\0\0\0", *blobs]):
        lines += [f" {number.to_bytes(4, 'little').hex()}", f" {blob.hex()}"]
    found["bdb"] = top / "Packages"
    found["ndb"] = top / "Packages.db"  # Debian's rpm is built without it
    found["ndb"].write_bytes(ndb(blobs))
    run(shutil.which("db5.3_load") or "db_load", found["bdb"], text="\n".join([*lines, "DATA=END", ""]))
    return found


def ndb(blobs: list[bytes]) -> bytes:
    """The headers in rpm's own format: one page of slots, then the blobs at multiples of 16 bytes."""
    slots, data = [struct.pack("<4s7I", b"RpmP", 0, 1, 1, len(blobs) + 1, 0, 0, 0)], b""
    for number, blob in enumerate(blobs, 1):
        size = -(-(16 + len(blob) + 12) // 16)
        slots.append(struct.pack("<4sIII", b"Slot", number, (4096 + len(data)) // 16, size))
        data += (struct.pack("<4sIII", b"BlbS", number, 1, len(blob)) + blob).ljust(size * 16, b"\0")
    slots.append(struct.pack("<4sIII", b"Slot", 0, 0, 0))  # a slot that was freed
    return b"".join(slots).ljust(4096, b"\0") + data


def run(*words: object, text: str = "") -> None:
    done = subprocess.run(list(map(str, words)), input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", ["sqlite", "ndb", "bdb"])
def test_the_databases_of_rpm(form: str, installed: dict[str, Path], tmp_path: Path) -> None:
    data = installed[form].read_bytes()
    found = sorted(rpm_database.packages(data))
    assert found == [(name, "1.2", "3", "4", "noarch", f"{name}-1.2-3.src.rpm") for name in ("large", "small")]
    place = tmp_path / "usr/lib/sysimage/rpm" / installed[form].name
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    assert words(tmp_path) == ["rpm large 4:1.2-3", "rpm small 4:1.2-3"]


@pytest.mark.parametrize("form", ["sqlite", "ndb", "bdb"])
def test_a_damaged_database_of_rpm_is_an_error_or_shorter(form: str, installed: dict[str, Path]) -> None:
    data = installed[form].read_bytes()
    for at in range(0, len(data), max(1, len(data) // 300)):
        for changed in (data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :], data[:at]):
            try:
                assert len(list(rpm_database.packages(changed))) <= 2
            except rpm_database.Damaged:
                pass


def test_a_view_in_the_place_of_rpms_table_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpm_database, "STEPS_MAX", 3_000_000)
    with sqlite3.connect(tmp_path / "rpmdb.sqlite") as opened:
        opened.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT x'00' AS blob FROM n WHERE i < 0"
        )
    with pytest.raises(rpm_database.Damaged, match="interrupted"):
        list(rpm_database.packages((tmp_path / "rpmdb.sqlite").read_bytes()))


def test_what_is_read_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    (tmp_path / "etc/secret").write_text("Package: secret\nVersion: 1\n")
    status = tmp_path / "var/lib/dpkg/status"
    status.unlink()
    status.symlink_to("/etc/secret")  # resolved in the tree
    assert "deb secret 1" in words(tmp_path)
    monkeypatch.setattr(packages, "PACKAGES_MAX", 3)
    tree = Tree(str(tmp_path))
    found = packages.of_tree(tree)
    tree.close()
    assert len(found.packages) == 3 and "over 3 packages" in found.gaps[0]


def test_an_sbom_of_another_form_is_refused() -> None:
    for text in (b"", b"[]", b'{"creationInfo": {}, "packages": [3]}', b"{" * 100_000):
        with pytest.raises(Exception, match=r"a\.sif: its SBOM is not an SPDX document in JSON"):
            image_sbom.parse(text, "a.sif")
