# SPDX-License-Identifier: BSD-3-Clause
"""The cache: where it lies, whose it must be, what of it is found, removed, and left by who was killed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading

import pytest

from bollard.runtime.cli import cache as cli_cache
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/h/.cache/bollard"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/bollard"),
        ({"XDG_CACHE_HOME": "x"}, "/h/.cache/bollard"),
        ({"XDG_CACHE_HOME": "/x", "SINGULARITY_CACHEDIR": "/s"}, "/s/bollard"),
        ({"SINGULARITY_CACHEDIR": "/s", "APPTAINER_CACHEDIR": "/a/"}, "/a/bollard"),
        ({"APPTAINER_CACHEDIR": "/a", "BOLLARD_CACHEDIR": "/b"}, "/b/bollard"),
        ({"BOLLARD_CACHEDIR": ""}, "/h/.cache/bollard"),
    ],
)
def test_where_it_lies(environ, path):
    assert cache.directory({"HOME": "/h", **environ}) == path


def test_a_relative_place_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache.directory({"BOLLARD_CACHEDIR": "x"}) == f"{tmp_path}/x/bollard"


@pytest.fixture
def environ(tmp_path):
    return {"BOLLARD_CACHEDIR": str(tmp_path), "BOLLARD_TMPDIR": str(tmp_path)}


def kept(store, kind, name, data=b"x"):
    with cache.making(store, kind, name, pytest.fail) as place:
        with open(f"{place}/made", "wb") as file:
            file.write(data)
        return cache.keep(store, f"{place}/made", kind, name)


def test_it_is_its_users_alone(environ, tmp_path):
    with cache.opened(environ) as store:
        assert store.root == f"{tmp_path}/bollard"
        assert os.stat(store.root).st_mode & 0o777 == 0o700
    os.chmod(store.root, 0o755)
    with cache.opened(environ):
        assert os.stat(store.root).st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702):
        os.chmod(store.root, mode)
        with pytest.raises(BollardError, match="others may write into it"), cache.opened(environ):
            pass


def test_a_link_to_ones_own_directory_will_do(environ, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bollard").symlink_to("elsewhere")
    with cache.opened(environ) as store:
        assert store.root == f"{tmp_path}/elsewhere"


def test_links_below_it_will_not(environ, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "bollard").mkdir(mode=0o700)
    (tmp_path / "bollard/blob").symlink_to(tmp_path / "victim")
    with pytest.raises(BollardError, match="blob: is not a directory"), cache.opened(environ):
        pass
    assert not list((tmp_path / "victim").iterdir())


def test_no_cache_is_a_directory_that_goes(environ, tmp_path):
    with cache.opened(environ, disabled=True) as store:
        kept(store, "oras", "a")
        assert os.path.dirname(store.root) == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_found_and_removed(environ):
    assert cache.entries(environ) == []
    with cache.opened(environ) as store:
        path = kept(store, "oras", "a", b"xyz")
        digest = cache.keep_blob(store, b"blob")
        os.utime(path, (1, 1))
    found = cache.entries(environ)
    assert [(entry.kind, entry.name, entry.size) for entry in found] == [
        ("blob", digest.partition(":")[2], 4),
        ("oras", "a", 3),
    ]
    assert cache.entries(environ, ("oras",)) == found[1:] == cache.older(found, 1)
    assert cache.older(found, 0) == cache.older(found, -1) == found
    cache.remove(environ, found[1:], pytest.fail)
    assert cache.entries(environ) == found[:1]


def test_nothing_is_made_by_cleaning(environ, tmp_path):
    cache.remove(environ, [], pytest.fail)
    assert not list(tmp_path.iterdir())


def test_cleaning_waits_for_who_fetches(environ):
    began, told = threading.Event(), threading.Event()

    def clean():
        began.set()
        cache.remove(environ, cache.entries(environ), told.set)

    with cache.opened(environ) as store:
        path = kept(store, "oras", "a")
        cleaner = threading.Thread(target=clean)
        cleaner.start()
        assert told.wait(60)
        assert os.path.exists(path)
    cleaner.join(60)
    assert not os.path.exists(path)


def test_what_a_killed_process_left_goes_when_nobody_is_there(environ):
    with cache.opened(environ) as store:
        left = f"{store.root}/tmp/fetch-x"
        os.mkdir(left)
        with cache.opened(environ):
            assert os.path.exists(left)
    with cache.opened(environ):
        assert not os.path.exists(left)


def test_one_makes_and_the_other_waits(environ):
    waits = threading.Event()
    order = []

    def second():
        with cache.making(store, "oras", "a", waits.set):
            order.append("second")

    with cache.opened(environ) as store:
        with cache.making(store, "oras", "a", pytest.fail):
            other = threading.Thread(target=second)
            other.start()
            assert waits.wait(60)
            order.append("first")
        other.join(60)
    assert order == ["first", "second"]


def test_a_filesystem_without_locks(environ, monkeypatch):
    def no_locks(fd, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with cache.opened(environ) as store:
        kept(store, "oras", "a")
    cache.remove(environ, cache.entries(environ), pytest.fail)
    assert cache.entries(environ) == []


def test_a_damaged_blob_is_not_used(environ):
    with cache.opened(environ) as store:
        digest = cache.keep_blob(store, b"data")
        assert digest == f"sha256:{hashlib.sha256(b'data').hexdigest()}"
        assert cache.is_intact(store, digest)
        assert cache.blob(store, digest, 100) == b"data"
        path = store.path("blob", digest.replace(":", "/"))
        with open(path, "wb") as file:
            file.write(b"DATA")
        assert cache.blob(store, digest, 100) is None
        assert not cache.is_intact(store, digest)
        assert not os.path.exists(path)
        assert not cache.is_intact(store, digest)
        assert cache.blob(store, digest, 100) is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("", 1)])
def test_cleaning_removes_nothing_without_yes(environ, monkeypatch, capsys, answer, left):
    with cache.opened(environ) as store:
        kept(store, "oras", "a", b"xyz")
    monkeypatch.setenv("BOLLARD_CACHEDIR", environ["BOLLARD_CACHEDIR"])
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert cli_cache.run("clean", [], []) == 0
    assert f"This removes 1 file(s) of 0.00 KiB from {environ['BOLLARD_CACHEDIR']}/bollard." in capsys.readouterr().out
    assert len(cache.entries(environ)) == left


def test_types_of_entries_by_apptainers_names():
    assert cli_cache.types([]) == cli_cache.types(["all"]) == cli_cache.types(["oras,all"]) == cache.TYPES
    assert cli_cache.types(["oci, blobs", "oras"]) == ("oci-tmp", "oras", "blob")
    with pytest.raises(BollardError, match="--type shub: no such type"):
        cli_cache.types(["shub"])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0.00 KiB"), (1536, "1.50 KiB"), (1 << 20, "1.00 MiB"), (1 << 30, "1.00 GiB"), (5 << 40, "5.00 TiB")],
)
def test_a_size_has_a_unit(number, text):
    assert cli_cache.size(number) == text


def test_the_lines_of_cache_list():
    found = [cache.Entry("oras", "a" * 64, "/p", 1536, 0.0)]
    assert cli_cache.lines(found, cache.TYPES, verbose=False) == [
        "There are 1 container file(s) using 1.50 KiB and 0 oci blob file(s) using 0.00 KiB of space",
        "Total space used: 1.50 KiB",
    ]
    assert cli_cache.lines([], ("blob",), verbose=False)[0] == "There are 0 oci blob file(s) using 0.00 KiB of space"
    words = cli_cache.lines(found, cache.TYPES, verbose=True)[1].split()
    assert (words[0], words[3:]) == ("a" * 22, ["1.50", "KiB", "oras"])


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 12345), (0o755, 12345)])
@pytest.mark.skipif(os.getuid() != 0, reason="root gives directories away")
def test_nobody_else_may_exchange_it(tmp_path, mode, owner):
    """Who owns a directory above it, sticky or not, can rename it, and put one of his in its place."""
    place = tmp_path / "shared/deeper"
    place.mkdir(parents=True)
    (tmp_path / "shared").chmod(mode)
    os.chown(tmp_path / "shared", owner, 0)
    with pytest.raises(BollardError, match="exchange it"), cache.opened({"BOLLARD_CACHEDIR": str(place)}):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="root gives directories away")
def test_what_lies_above_the_home_is_not_the_caches_affair(tmp_path, monkeypatch):
    (tmp_path / "department/home").mkdir(parents=True)
    os.chown(tmp_path / "department", 12345, 0)
    monkeypatch.setenv("HOME", str(tmp_path / "department/home"))
    with cache.opened({"HOME": str(tmp_path / "department/home")}) as store:
        assert store.root == f"{tmp_path}/department/home/.cache/bollard"
    (tmp_path / "shared").mkdir(mode=0o1777)
    (tmp_path / "shared").chmod(0o1777)
    with cache.opened({"BOLLARD_CACHEDIR": str(tmp_path / "shared")}):
        pass
