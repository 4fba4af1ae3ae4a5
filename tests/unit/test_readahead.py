# SPDX-License-Identifier: BSD-3-Clause
"""Reading ahead: which files, never out of the image, never for ever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bollard.runtime.container import readahead


@pytest.fixture
def root(tmp_path):
    image = tmp_path / "image"
    (image / "usr/bin").mkdir(parents=True)
    (image / "usr/bin/prog").write_bytes(b"x" * 300_000)
    (tmp_path / "secret").write_text("the host's")
    fd = os.open(image, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def amounts(monkeypatch):
    """What each read gives."""
    sizes = []
    read = os.read

    def counted(fd, size):
        data = read(fd, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(os, "read", counted)
    return sizes


@pytest.mark.parametrize(
    ("program", "paths"),
    [
        ("", ()),
        ("prog", tuple(f"{folder}/prog" for folder in readahead.FOLDERS)),
        ("./prog", ()),
        ("dir/prog", ()),
        ("../prog", ()),
        ("/opt/prog", ("/opt/prog",)),
    ],
)
def test_where_a_program_may_be(program, paths):
    assert readahead._candidates(program) == paths


def test_a_file_is_read_to_its_end(root, amounts):
    assert readahead._read(root, "/usr/bin/prog")
    assert sum(amounts) == 300_000


def test_a_large_file_is_not(root, amounts, tmp_path):
    os.truncate(tmp_path / "image/usr/bin/prog", 10 * readahead.SIZE_MAX)
    assert readahead._read(root, "/usr/bin/prog")
    assert sum(amounts) == readahead.SIZE_MAX


def test_what_is_no_file(root, tmp_path):
    os.mkfifo(tmp_path / "image/usr/bin/pipe")
    readahead._read(root, "/usr/bin/pipe")  # does not wait for a writer
    writer = os.open(tmp_path / "image/usr/bin/pipe", os.O_RDWR)
    assert not readahead._read(root, "/usr/bin/pipe")  # nor for what it writes
    os.close(writer)
    assert not readahead._read(root, "/usr/bin")
    assert not readahead._read(root, "/missing")
    assert not readahead._read(root, "/usr/bin/prog/x")


def test_links_stay_inside(root, tmp_path, amounts):
    bin_folder = tmp_path / "image/usr/bin"
    (bin_folder / "near").symlink_to("prog")
    (bin_folder / "absolute").symlink_to("/usr/bin/prog")
    for name in ("near", "absolute"):
        assert readahead._read(root, f"/usr/bin/{name}")
    amounts.clear()
    (bin_folder / "up").symlink_to("../../../secret")
    (bin_folder / "away").symlink_to(tmp_path / "secret")
    (bin_folder / "loop").symlink_to("loop")
    for name in ("up", "away", "loop"):
        assert not readahead._read(root, f"/usr/bin/{name}")
    assert amounts == []


@pytest.mark.parametrize("program", ["prog", "missing", "", "/usr/bin/prog"])
def test_the_reader_ends_by_itself(tmp_path, root, program):
    code = (
        "import os, sys; from bollard.runtime.container import readahead; "
        "readahead.start(os.open(sys.argv[1], os.O_PATH), sys.argv[2]); print(os.wait()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "image", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
