# SPDX-License-Identifier: BSD-3-Clause
"""`bollard build` of what is no definition file: images, archives, pipes, and hostile ones of each."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest
from building import USER, Builder
from fetcher import Fetcher, words_of
from small_trees import labels, owned, write
from tarballs import tarball

# Whoever builds owns the pipe, as in a shell of his own.
_PIPED = 'piped() {{ chown {} "${{!#}}"; exec "$@"; }}; piped "$@" {}'


class TestPipes:
    def builder(self, builder: Builder, place: Path, source: str) -> Builder:
        owner = USER if os.geteuid() == 0 else os.getuid()
        return builder._replace(work=place, prefix=("bash", "-c", _PIPED.format(owner, source), "bash"))

    @pytest.mark.parametrize("source", ["<(cat img.def)", "/dev/stdin < img.def", "/dev/stdin < <(cat img.def)"])
    def test_a_definition(self, builder: Builder, place: Path, source: str) -> None:
        write(place, "Bootstrap: scratch\n%labels\n    Colour green\n")
        owned(place)
        piped = self.builder(builder, place, source)
        status, _, err = piped.run("build", "--sandbox", "box", PYTHONPATH=str(place.parent.parent / "lib"))
        assert status == 0, err
        assert labels(place / "box")["Colour"] == "green"

    def test_what_is_none(self, builder: Builder, place: Path) -> None:
        (place / "tree.tar").write_bytes(tarball({"etc/name": b"x"}))
        owned(place)
        piped = self.builder(builder, place, "<(cat tree.tar)")
        status, _, err = piped.run("build", "--sandbox", "box", PYTHONPATH=str(place.parent.parent / "lib"))
        assert status == 255 and "an image or archive comes from a pipe; write it to a file first" in err


class TestArchives:
    """Without a scheme: taken for what they are, or refused."""

    def packed(self, place: Path, layouts: dict[str, Path], scheme: str, name: str) -> Path:
        path = place / f"{scheme}.tar"
        argv = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layouts['one']}:latest"]
        subprocess.run([*argv, f"{scheme}:{path}:{name}"], check=True)
        owned(place)
        return path

    def check(self, builder: Builder, place: Path, source: object, target: str) -> None:
        builder.build(place / target, source)
        assert words_of(place / target) == "one"
        assert "'/bin/echo' 'entry'" in builder.run("inspect", "--runscript", place / target)[1]

    @pytest.mark.parametrize("scheme", ["docker-archive", "oci-archive"])
    def test_of_images(self, builder: Builder, place: Path, layouts: dict[str, Path], scheme: str) -> None:
        name = "localhost:5000/me/app:2.0"
        path = self.packed(place, layouts, scheme, name)
        self.check(builder, place, path, "a.sif")
        self.check(builder, place, f"{scheme}:{path}:{name}", "b.sif")
        (place / "packed.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        self.check(builder, place, place / "packed.tar.gz", "c.sif")
        self.check(builder, place, write(place, f"Bootstrap: localimage\nFrom: {path}\n"), "d.sif")
        line = builder.refused(place / "x.sif", f"{scheme}:{path}:localhost:5000/me/app:9")
        assert "no image of that name" in line and name in line

    def test_a_layout(self, builder: Builder, place: Path, layouts: dict[str, Path]) -> None:
        self.check(builder, place, layouts["one"], "a.sif")
        self.check(builder, place, write(place, f"Bootstrap: localimage\nFrom: {layouts['one']}\n"), "b.sif")

    def test_what_is_no_root(self, builder: Builder, place: Path) -> None:
        (place / "data.tar").write_bytes(tarball({"data/a": b"x", "notes": b"x"}))
        (place / "json.tar").write_bytes(tarball({"manifest.json": b"{}", "notes": b"x"}))
        (place / "empty.tar").write_bytes(bytes(10240))
        (place / "data").mkdir()
        (place / "data/a").touch()
        (place / "empty").mkdir()
        owned(place)
        for name, words in (
            ("data.tar", "is not the archive of a root filesystem; in it: data, notes"),
            ("json.tar", "is not the archive of a root filesystem; in it: manifest.json, notes"),
            ("data", "is a directory, but not the root of a container"),
            ("empty", "is an empty directory"),
        ):
            assert words in builder.refused(place / "img.sif", place / name)
            assert words in builder.refused("--sandbox", place / "box", place / name)


def test_an_image_of_singularity_2(
    builder: Builder, sandbox: Path, place: Path, fetcher: Fetcher, installed: str
) -> None:
    subprocess.run(["mksquashfs", sandbox, place / "raw.sqfs", "-quiet", "-no-progress", "-comp", "gzip"], check=True)
    data = (place / "raw.sqfs").read_bytes()
    (place / "old.simg").write_bytes(b"#!/usr/bin/env run-singularity\n" + data)
    owned(place)
    builder.build(place / "new.sif", place / "old.simg")
    builder.build("--sandbox", place / "other", place / "new.sif")
    assert (place / "other/made").read_text() == "one\n"
    for name in ("old.simg", "new.sif"):
        assert fetcher.done("exec", place / name, "cat", "/made", PYTHONPATH=installed) == "one\n"


class TestHostileImages:
    """What an image holds must not lead a build to the machine it runs on."""

    def start(self, place: Path) -> Path:
        victim = place / "victim"
        victim.mkdir()
        (victim / "file").write_text("mine")
        return victim

    def check(self, victim: Path) -> None:
        assert [path.name for path in victim.iterdir()] == ["file"]
        assert (victim / "file").read_text() == "mine"

    def test_links_where_a_build_writes(self, builder: Builder, place: Path, shell: str) -> None:
        victim = self.start(place)
        links = {"opt": str(victim), "etc/hosts": f"{victim}/file", "scif": str(victim), "up": "../" * 20 + str(victim)}
        (place / "evil.tar").write_bytes(tarball({"etc/name": b"x"}, {".singularity.d": str(victim), **links}))
        owned(place)
        write(place, "x", "file")
        text = f"Bootstrap: localimage\nFrom: {place}/evil.tar\n%files\n    {place}/file /opt/file\n"
        text += f"    {place}/file /up/file\n    {place}/file /etc/hosts\n%appinstall a\n    true\n"
        text += "%files\n" + shell.partition("%files\n")[2]
        status, _, err = builder.run("build", "--section=files", "--sandbox", place / "box", write(place, text))
        assert status == 0, err
        self.check(victim)
        # Inside the tree, where the links lead from the tree's root.
        assert (place / "box" / str(victim).lstrip("/") / "file").read_text() == "x"
        assert (place / "box" / str(victim).lstrip("/") / "apps/a/scif/labels.json").exists()
        assert builder.leftovers() == []

    def test_archives_that_climb(self, builder: Builder, place: Path) -> None:
        victim = self.start(place)
        for number, (files, links) in enumerate(
            (
                ({"../../../../../../../../../.." + str(victim / "file"): b"bad"}, {}),
                ({str(victim / "new"): b"bad"}, {}),
                ({"a": b"x"}, {"link": str(victim)}),
            )
        ):
            raw = tarball(files, links)
            if links:  # a file through a link of the same archive
                raw = tarball({}, links).rstrip(b"\0").ljust(512, b"\0") + tarball({"link/new": b"bad"})
            (place / "climb.tar").write_bytes(raw)
            owned(place)
            builder.run("build", "--sandbox", place / f"box{number}", place / "climb.tar")
            self.check(victim)
            assert builder.leftovers() == []

    def test_a_damaged_archive(self, builder: Builder, place: Path) -> None:
        (place / "half.tar").write_bytes(tarball({"big": b"x" * 100_000})[:50_000])
        assert "damaged" in builder.refused(place / "img.sif", place / "half.tar")

    def test_a_damaged_image(self, builder: Builder, sandbox: Path, place: Path) -> None:
        builder.build(place / "one.sif", sandbox)
        raw = bytearray((place / "one.sif").read_bytes())
        end = len(raw.rstrip(b"\0"))  # mksquashfs fills the last 4096 bytes up
        raw[end - 3000 : end] = bytes(3000)
        (place / "bad.sif").write_bytes(raw)
        line = builder.refused("--sandbox", place / "other", place / "bad.sif")
        assert "bad.sif" in line
        assert not (place / "other").exists()
