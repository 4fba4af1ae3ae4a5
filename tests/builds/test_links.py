# SPDX-License-Identifier: BSD-3-Clause
"""Images with relative links through "..": the same container every time, whatever the machine does beside it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from building import USER, Builder
from disturbance import renames
from fetcher import Fetcher
from linked import KINDS, ZONE, base, one_tmp, tmp_below_var
from servers import layout, programs

STARTS = 20
FILES = 15_000
LOOK = "ls /run/munge /srv/data/x; cat /etc/localtime /etc/resolv.conf"


@pytest.fixture(scope="module")
def linked(builder: Builder) -> Path:
    """A directory with an image of each kind, and what is bound into them."""
    place = builder.work / "linked"
    for kind, links in KINDS.items():
        links(base(place / kind))
    (place / "host").mkdir()
    (place / "host/sock").write_text("")
    if os.geteuid() == 0:
        for path in (place, *place.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
    for kind in KINDS:
        builder.build(place / f"{kind}.sif", place / kind)
    return place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [".sif", ""])
def test_every_start_beside_renames_has_its_mounts(
    fetcher: Fetcher, installed: str, linked: Path, kind: str, form: str
) -> None:
    host = linked / "host"
    words = ["exec", "--bind", f"{host}:/var/run/munge", "--bind", f"{host}:/data/x", f"{linked}/{kind}{form}"]
    here = "".join(Path(path).read_text(errors="replace") for path in ("/etc/localtime", "/etc/resolv.conf"))
    wanted = (0, f"/run/munge:\nsock\n\n/srv/data/x:\nsock\n{here}", "")
    with renames():
        for _ in range(STARTS if form else STARTS // 4):
            assert fetcher.run(*words, "sh", "-c", LOOK, PYTHONPATH=installed) == wanted


def test_a_layer_through_a_link_is_unpacked_beside_renames(builder: Builder, fetcher: Fetcher, tmp_path: Path) -> None:
    below = io.BytesIO(programs())
    with tarfile.open(fileobj=below, mode="a") as tar:
        for name, link in (("run", ""), ("var", ""), ("var/run", "../run")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = (tarfile.SYMTYPE if link else tarfile.DIRTYPE), link, 0o755
            tar.addfile(member)
    more = {f"var/run/many/{number}": b"" for number in range(FILES)}
    folder = layout(tmp_path / "layout", "one", below.getvalue(), more)
    packed = fetcher.path / "packed.tar"
    with tarfile.open(packed, "w") as tar:
        for path in folder.iterdir():
            tar.add(path, path.name)
    with renames():
        builder.build("--sandbox", fetcher.path / "box", f"oci-archive:{packed}")
    assert len(os.listdir(fetcher.path / "box/run/many")) == FILES
    assert builder.leftovers() == []


def test_a_mount_that_is_left_out_is_told(fetcher: Fetcher, installed: str, linked: Path) -> None:
    words = [
        "exec",
        "--home",
        "/nowhere:/home/me",
        "--bind",
        f"{linked}/host:/etc",
        f"{linked}/systemd.sif",
        "ls",
        "/etc",
    ]
    status, out, err = fetcher.run(*words, PYTHONPATH=installed)
    node = os.uname().nodename
    places = [f"/etc/{name} (No such file or directory)" for name in ("passwd", "group", "resolv.conf")]
    assert (status, out) == (0, "sock\n")
    assert err.splitlines() == [
        f"bollard: {node}: /nowhere: No such file or directory; the container starts without it",
        f"bollard: {node}: no place in the container for {', '.join(places)}; it starts without",
    ]


@pytest.mark.parametrize("kind", ["red-hat", "winding"])
@pytest.mark.parametrize("more", [[], ["--writable-tmpfs"], ["--writable"]])
def test_the_zone_that_localtime_leads_to_is_the_images(
    fetcher: Fetcher, installed: str, linked: Path, kind: str, more: list[str]
) -> None:
    image = linked / (kind if more == ["--writable"] else f"{kind}.sif")
    status, out, err = fetcher.run(
        "exec", *more, image, "sh", "-c", f"cat {ZONE}; cat /etc/localtime", PYTHONPATH=installed
    )
    assert (status, err) == (0, "")
    assert out == "the image's\n" + Path("/etc/localtime").read_text(errors="replace")
    assert os.readlink(linked / kind / "etc/localtime").endswith("zoneinfo/Etc/UTC")


@pytest.mark.parametrize("more", [["--writable-tmpfs"], ["--writable"], ["--overlay", "LAYER"]])
def test_what_etc_resolv_conf_leads_to_is_made_in_a_writable_root(
    fetcher: Fetcher, installed: str, linked: Path, more: list[str]
) -> None:
    layer = fetcher.path / "layer"
    layer.mkdir()
    layer.chmod(0o777)
    image = linked / ("systemd" if more == ["--writable"] else "systemd.sif")
    words = [str(layer) if word == "LAYER" else word for word in more]
    answer = fetcher.run("exec", *words, image, "cat", "/etc/resolv.conf", PYTHONPATH=installed)
    assert answer == (0, Path("/etc/resolv.conf").read_text(), "")
    assert list((layer / "upper").glob("*")) == [] or more != ["--overlay", "LAYER"]  # the user's layer stays clean


@pytest.mark.parametrize("links", [one_tmp, tmp_below_var])
@pytest.mark.parametrize("more", [[], ["--writable-tmpfs"]])
def test_a_tmp_that_is_a_link_to_the_other(
    builder: Builder, fetcher: Fetcher, installed: str, links: Callable[[Path], None], more: list[str]
) -> None:
    """Both are the host's /tmp, and so is the current directory in it."""
    place = base(fetcher.path / "tree")
    links(place)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(place)], check=os.geteuid() == 0)
    builder.build(fetcher.path / "i.sif", place)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bollard-test-tmp-") as here:
        os.chmod(here, 0o777)
        there = fetcher._replace(path=Path(here))
        script = f"pwd; touch made; ls /var/tmp/{os.path.basename(here)}"
        answer = there.run("exec", *more, fetcher.path / "i.sif", "sh", "-c", script, PYTHONPATH=installed)
        assert answer == (0, f"{here}\nmade\n", "")
        assert os.listdir(here) == ["made"]


def test_the_users_own_tmp_covers_the_hosts(builder: Builder, fetcher: Fetcher, installed: str, linked: Path) -> None:
    """What the user binds or asks for in the place of a default mount counts, also through a link."""
    image = base(fetcher.path / "tree")
    one_tmp(image)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(image)], check=os.geteuid() == 0)
    host = f"{linked}/host"
    with tempfile.NamedTemporaryFile(dir="/tmp") as file:
        for words, seen in (
            (["--bind", f"{host}:/tmp"], True),
            (["--bind", f"{host}:/var/tmp"], True),
            (["--scratch", "/tmp"], False),
            (["--home", f"{host}:/tmp"], True),
        ):
            answer = fetcher.run("exec", "--pwd", "/", *words, image, "ls", "/tmp", PYTHONPATH=installed)
            status, out, err = answer
            assert (status, err) == (0, ""), words
            assert ("sock" in out, os.path.basename(file.name) in out) == (seen, False), words


def test_an_inner_bind_is_seen_whatever_the_order(fetcher: Fetcher, installed: str, linked: Path) -> None:
    """By options, by the variable, by both; and through links: /data/x is /srv/data/x."""
    (fetcher.path / "outer/dir").mkdir(parents=True)
    (fetcher.path / "outer/data/x").mkdir(parents=True)
    (fetcher.path / "outer/more").symlink_to("../var/../srv/data")  # of the image too
    outer, inner, image = fetcher.path / "outer", linked / "host", linked / "winding.sif"
    for words, variable, seen in (
        (["--bind", f"{inner}:/canary/dir", "--bind", f"{outer}:/canary"], "", "/canary/dir"),
        (["--bind", f"{outer}:/canary", "--bind", f"{inner}:/canary/dir"], "", "/canary/dir"),
        (["--bind", f"{inner}:/canary/dir,{outer}:/canary"], "", "/canary/dir"),
        (["--mount", f"type=bind,src={inner},dst=/canary/dir", "--bind", f"{outer}:/canary"], "", "/canary/dir"),
        ([], f"{inner}:/canary/dir,{outer}:/canary", "/canary/dir"),
        (["--bind", f"{inner}:/canary/dir"], f"{outer}:/canary", "/canary/dir"),
        (["--bind", f"{outer}:/canary"], f"{inner}:/canary/dir", "/canary/dir"),
        (["--bind", f"{inner}:/data/x", "--bind", f"{outer}:/srv"], "", "/data/x"),
    ):
        answer = fetcher.run("exec", *words, image, "ls", seen, PYTHONPATH=installed, APPTAINER_BIND=variable)
        assert answer == (0, "sock\n", ""), (words, variable)
