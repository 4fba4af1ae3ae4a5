# SPDX-License-Identifier: BSD-3-Clause
"""What is decided before anything is mounted: which targets an image lacks, and where they can be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bollard.runtime.container import covers, mounts
from bollard.runtime.errors import BollardError
from bollard.runtime.request import plan_records


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    for folder in ("home", "var/spool", "etc", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/hosts").write_text("")
    (tmp_path / "scratch").symlink_to("var")
    (tmp_path / "outside").symlink_to("../../../../../../etc")
    (tmp_path / "loop").symlink_to("loop")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def place(target: str, only: str = "", directory: bool = True) -> mounts.Place:
    return mounts.Place(
        plan_records.Mount(plan_records.BIND, "/src", target, only=only), os.open("/dev/null", os.O_RDONLY), directory
    )


@pytest.mark.parametrize(
    ("path", "parent", "rest"),
    [
        ("/home/alice", "/home", ["alice"]),
        ("/var/spool/slurmd/x", "/var/spool", ["slurmd", "x"]),
        ("/data", "/", ["data"]),
        ("/data/set/1", "/", ["data", "set", "1"]),
        ("/scratch/me", "/scratch", ["me"]),
        ("/etc/hosts/x", "/etc", ["hosts", "x"]),
        ("/loop/x", "/", ["loop", "x"]),
    ],
)
def test_a_missing_target_begins_at_its_deepest_directory(root: int, path: str, parent: str, rest: list[str]) -> None:
    assert covers.deepest(root, path) == (parent, rest)


def test_links_of_the_image_stay_inside_it(root: int) -> None:
    assert covers.exists(root, "/outside/hosts")  # the image's own /etc
    assert not covers.exists(root, "/outside/passwd")


def test_a_file_that_cannot_be_copied_leaves_nothing_behind(root: int, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("127.0.0.1 localhost\n")
    (tmp_path / "etc/resolv.conf").mkdir()

    def copied(target: str) -> str:
        tree = os.open(tmp_path / "source", os.O_RDONLY)
        return mounts._copy(
            root, mounts.Place(plan_records.Mount(plan_records.BIND, "/src", target, copied=True), tree, False)
        )

    assert [copied("/etc/resolv.conf") for _ in range(2)] == ["Is a directory"] * 2
    assert copied("/etc/hosts") == ""
    assert (tmp_path / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert sorted(os.listdir(tmp_path / "etc")) == ["hosts", "resolv.conf"]


def test_only_what_is_missing_and_not_inside_another_bind_is_made(root: int) -> None:
    places = [place("/etc/hosts", directory=False), place("/home/alice"), place("/home/alice/data"), place("/new")]

    assert mounts._missing(root, places) == {"/home": [(["alice"], True)], "/": [(["new"], True)]}


def test_files_for_slurm_follow_only_an_image_that_has_slurm(root: int, tmp_path: Path) -> None:
    report = mounts.Report()
    over = [
        place("/etc/hosts", plan_records.HAS_TARGET),
        place("/etc/passwd", plan_records.HAS_TARGET),
        place("/x", plan_records.HAS_SLURM),
    ]
    assert [found.mount.target for found in mounts._wanted(root, over, report)] == ["/etc/hosts"]
    assert report.left_out == ["/etc/passwd: no /etc/passwd in the image", "/x: no /etc/slurm in the image"]

    (tmp_path / "etc/slurm").mkdir()
    assert [found.mount.target for found in mounts._wanted(root, [place("/x", plan_records.HAS_SLURM)], report)] == [
        "/x"
    ]
    assert len(report.left_out) == 2


@pytest.mark.parametrize(
    ("mount", "left_out", "warnings"),
    [
        (
            plan_records.Mount(plan_records.BIND, "/nope/a", "/a", if_missing=plan_records.OMIT),
            ["/a: /nope/a: No such file or directory"],
            0,
        ),
        (
            plan_records.Mount(plan_records.BIND, "/nope/a", "/a", if_missing=plan_records.WARN),
            ["/a: /nope/a: No such file or directory"],
            1,
        ),
    ],
)
def test_a_source_that_is_missing_is_told(
    mount: plan_records.Mount, left_out: list[str], warnings: int, tmp_path: Path
) -> None:
    report = mounts.Report()
    assert mounts.clone_sources((mount,), {}, str(tmp_path), -1, report) == []
    assert (report.left_out, len(report.warnings)) == (left_out, warnings)
    assert report.lines() == ["left out: /a: /nope/a: No such file or directory"]


def test_a_source_that_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BollardError, match="bind /nope/a: No such file or directory"):
        mounts.clone_sources(
            (plan_records.Mount(plan_records.BIND, "/nope/a", "/a"),), {}, str(tmp_path), -1, mounts.Report()
        )


def test_a_link_of_the_image_leads_nowhere_on_the_host(tmp_path: Path) -> None:
    session, image, host = (tmp_path / name for name in ("session", "image", "host"))
    for folder in (session, image, image / "usr", host):
        folder.mkdir()
    (image / "file").write_text("")
    (image / "bin").symlink_to("usr/bin")
    (image / "scratch").symlink_to(host)
    (image / "data").symlink_to("/nonexistent/data")
    shadows = covers.Shadows(str(session))
    wanted = [(["scratch", "u", "authorized_keys"], False), (["data"], True), (["new", "er"], True)]

    made = Path(shadows.mirror(str(image), wanted))
    assert os.listdir(host) == []
    assert (made / "scratch/u/authorized_keys").is_file()
    for name in ("scratch", "data", "new/er", "usr"):
        assert (made / name).is_dir() and not (made / name).is_symlink()
    assert os.readlink(made / "bin") == "usr/bin"
    assert sorted(shadows.made) == ["file", "usr"]


def test_a_place_inside_a_later_bind_needs_a_mount_point_of_its_own(root: int) -> None:
    inner_first = [place("/x/y"), place("/x")]

    assert mounts._missing(root, inner_first) == {"/": [(["x", "y"], True), (["x"], True)]}
    assert mounts._missing(root, inner_first[::-1]) == {"/": [(["x"], True)]}


@pytest.mark.parametrize(
    ("link", "place"),
    [
        ("../run/systemd/resolve/stub.conf", "/run/systemd/resolve/stub.conf"),
        ("/run/resolv.conf", "/run/resolv.conf"),
        ("../../../../../../x/y", "/x/y"),
        ("/../../x", "/x"),
        ("../scratch/spool/../new", "/var/new"),
        ("more", "/etc/more"),
        ("hosts", "/etc/link"),
        ("nothing/../../../x", "/etc/link"),
        ("../loop", "/etc/link"),
    ],
)
def test_what_a_link_to_nothing_leads_to(root: int, tmp_path: Path, link: str, place: str) -> None:
    (tmp_path / "etc/link").symlink_to(link)
    assert covers.behind(root, "/etc/link") == place
    (tmp_path / "etc/second").symlink_to("/etc/../etc/link")
    assert covers.behind(root, "/etc/second") == (place if place != "/etc/link" else "/etc/second")
