# SPDX-License-Identifier: BSD-3-Clause
"""The mount namespace that Slurm made for a job (job_place.c)."""

from __future__ import annotations

import errno
import os

import compiled
import pytest

DECLARATIONS = """
int place_of(unsigned job, int *place, const char *mountinfo);
int open_job_place(unsigned job, int *place);
void path_of(char *text);
"""
MORE = """
void path_of(char *text) { unescape(text); }
int place_of(unsigned job, int *place, const char *mountinfo) { return find_place(job, place, mountinfo); }
"""
LINE = "34 25 0:4 mnt:[4026532562] {} rw - nsfs nsfs rw\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled.load("job_place", tmp_path_factory.mktemp("job_place"), DECLARATIONS, MORE)


@pytest.fixture
def place(library, tmp_path):
    """Calls open_job_place() for job 7 with this text of mountinfo: (rc, descriptor, errno)."""
    ffi, lib = library

    def call(text):
        at = ffi.new("int *")
        (tmp_path / "mounts").write_text(text)
        rc = lib.place_of(7, at, f"{tmp_path}/mounts".encode())
        return rc, at[0], ffi.errno

    return call


@pytest.mark.parametrize("text", ["", LINE.format("/run/8/.ns"), "31 24 0:27 / /run/7/.ns rw - tmpfs none rw\n"])
def test_a_job_without_a_namespace(place, text):
    assert place(text)[:2] == (0, -1)


def test_the_jobs_namespace(place, tmp_path):
    (tmp_path / "a b/7").mkdir(parents=True)
    (tmp_path / "a b/7/.ns").write_text("here")
    there = LINE.format(f"{tmp_path}/a\\040b/7/.ns")
    for text in (there, LINE.format(f"{tmp_path}/none/7/.ns") + there):
        rc, fd, _ = place(text)
        assert rc == 0 and os.read(fd, 9) == b"here"
        os.close(fd)


def test_a_namespace_that_cannot_be_opened(place, tmp_path):
    assert place(LINE.format(f"{tmp_path}/7/.ns")) == (-1, -1, errno.ENOENT)


def test_mounts_that_cannot_be_read(library, tmp_path):
    ffi, lib = library
    at = ffi.new("int *")
    for path, reason in ((tmp_path, errno.EISDIR), (tmp_path / "none", errno.ENOENT)):
        assert lib.place_of(7, at, str(path).encode()) == -1 and (at[0], ffi.errno) == (-1, reason)


def test_a_site_without_these_plugins(library):
    ffi, lib = library
    at = ffi.new("int *")
    assert lib.open_job_place(7, at) == 0 and at[0] == -1


@pytest.mark.parametrize(
    ("text", "path"),
    [("/run/a\\040b", "/run/a b"), ("\\134", "\\"), ("/a\\", "/a\\"), ("/a\\7", "/a\\7"), ("\\08x", "\\08x"), ("", "")],
)
def test_a_path_of_mountinfo(library, text, path):
    ffi, lib = library
    at = ffi.new("char[]", text.encode() + b"\0#####")
    lib.path_of(at)

    assert ffi.string(at).decode() == path
