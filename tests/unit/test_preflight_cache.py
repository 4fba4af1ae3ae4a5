# SPDX-License-Identifier: BSD-3-Clause
"""The cache of verdicts, as the runtime writes it and as srun's plugin reads it (verdict.c): no other user's counts."""

from __future__ import annotations

import os

import compiled
import pytest

from bollard.runtime.preflight import client, verdict

TEXT = f"{verdict.HEAD}\nuse any pmi2\nbad any pmix apart MPICH\x1b[31m 4\nprogram - app\n"


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The line of an image's verdict, as srun's plugin reads it; None without a verdict."""
    declared = "char *cached_verdict(const char *); char *verdict_line(const char *, const char *); void free(void *);"
    ffi, lib = compiled.load("verdict", tmp_path_factory.mktemp("verdict"), declared)

    def call(image, begin):
        text = lib.cached_verdict(os.fsencode(image))
        if not text:
            return None
        found = lib.verdict_line(text, begin)
        try:
            return ffi.string(found)
        finally:
            lib.free(found)
            lib.free(text)

    return call


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "img"
    path.write_bytes(b"x")
    return path


@pytest.fixture
def place(tmp_path, monkeypatch, image):
    """The place of the verdict on the image, with one that is ours."""
    info = image.stat()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    identity = client.identity((info.st_ino, info.st_size, info.st_mtime_ns), str(image))
    found = verdict.place(identity, os.environ)
    verdict.keep(found, TEXT)
    return found


def test_the_verdict_that_is_ours(line, place, image):
    assert verdict.cached(place) == TEXT
    assert line(image, b"use any ") == b"pmi2"
    assert line(image, b"bad any pmix ") == b"apart MPICH?[31m 4"  # no byte that a terminal obeys


def by_mode_of_directory(folder, name):
    os.chmod(folder, 0o770)


def by_mode_of_file(folder, name):
    os.chmod(f"{folder}/{name}", 0o662)


def by_another_owner(folder, name):
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(f"{folder}/{name}", 12345, -1)


def by_another_owner_of_directory(folder, name):
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    os.chown(folder, 12345, -1)


def by_link_for_file(folder, name):
    os.rename(f"{folder}/{name}", f"{folder}/other")
    os.symlink("other", f"{folder}/{name}")


def by_link_for_directory(folder, name):
    os.rename(folder, f"{folder}.other")
    os.symlink(f"{folder}.other", folder)


def by_fifo(folder, name):
    os.unlink(f"{folder}/{name}")
    os.mkfifo(f"{folder}/{name}", 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        *(by_mode_of_directory, by_mode_of_file, by_another_owner, by_another_owner_of_directory),
        *(by_link_for_file, by_link_for_directory, by_fifo),
    ],
)
def test_what_others_may_have_written_is_not_read(line, place, image, spoil):
    spoil(*os.path.split(place))
    assert verdict.cached(place) == ""
    assert line(image, b"bad any pmix ") is None


@pytest.mark.parametrize("spoil", [by_mode_of_directory, by_another_owner_of_directory, by_link_for_directory])
def test_nothing_is_written_where_others_may_write(place, spoil):
    folder, name = os.path.split(place)
    spoil(folder, name)
    verdict.keep(place, f"{verdict.HEAD}\n")
    with open(place) as file:
        assert file.read() == TEXT
    assert os.listdir(folder) == [name]


def test_a_link_in_the_place_of_a_verdict_is_replaced_and_not_followed(place, tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.unlink(place)
    os.symlink(tmp_path / "precious", place)
    verdict.keep(place, TEXT)
    assert (tmp_path / "precious").read_text() == "mine" and verdict.cached(place) == TEXT
    assert os.stat(place).st_mode & 0o777 == 0o600 and os.listdir(os.path.dirname(place)) == [os.path.basename(place)]


def test_only_verdicts_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(verdict, "_FILES_MAX", 2)
    for name in ("notes", "1.2.3.txt"):
        (tmp_path / name).write_text("mine")
    for number in range(9):
        verdict.keep(f"{tmp_path}/{number}.0.0", TEXT)
    assert {"notes", "1.2.3.txt"} < set(os.listdir(tmp_path)) and len(os.listdir(tmp_path)) <= 4
