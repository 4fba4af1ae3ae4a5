# SPDX-License-Identifier: BSD-3-Clause
"""The site's cache: whom it may belong to, what users take from it, and that both caches keep to their limits."""

from __future__ import annotations

import os
import time

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache
from bollard.runtime.request import site


@pytest.fixture
def shared(tmp_path, monkeypatch):
    path = tmp_path / "site"
    (path / "oras").mkdir(parents=True)
    for folder in (path, *path.parents):
        if str(folder).startswith("/tmp/") and os.stat(folder).st_uid == os.geteuid():
            folder.chmod(0o755)
    monkeypatch.setattr(cache.site, "load", lambda prefix: site.Site(cache_shared=str(path)))
    monkeypatch.setattr(cache, "_told", False)
    return path


def place(shared, name="oras/one", text="image"):
    (shared / name).write_text(text)
    (shared / name).chmod(0o644)
    return str(shared / name)


def test_it_is_asked_first(shared, tmp_path):
    path = place(shared)
    with cache.opened({"HOME": str(tmp_path)}) as store:
        assert store.shared == str(shared)
        assert cache.found(store, "oras", "one") == path
        assert cache.found(store, "oras", "two") == store.path("oras", "two")
        assert cache.found(store, "net", "one") == store.path("net", "one"), "no digest names it"


@pytest.mark.parametrize("change", ["write", "link", "parent"])
def test_what_others_can_write_is_not_used(shared, tmp_path, capfd, change):
    path = place(shared)
    if change == "write":
        os.chmod(path, 0o646)
    elif change == "link":
        os.rename(path, f"{path}.real")
        os.symlink(f"{path}.real", path)
    else:
        shared.chmod(0o777)
    with cache.opened({"HOME": str(tmp_path)}) as store:
        assert cache.found(store, "oras", "one") == store.path("oras", "one")
    line = f"bollard: warning: the site's cache {shared} is not used: others may write into {shared}\n"
    assert capfd.readouterr().err == (line if change == "parent" else "")


def test_another_users_directory_above_it(shared, tmp_path, capfd, monkeypatch):
    if os.geteuid():
        pytest.skip("root alone can give a directory away")
    os.chown(shared.parent, 54321, 54321)
    with cache.opened({"HOME": "/root"}) as store:
        assert store.shared == ""
    assert "belongs to another user" in capfd.readouterr().err


def test_who_fills_it(shared, monkeypatch):
    with cache.opened_shared() as store:
        assert store.mode == 0o755 and os.stat(f"{store.root}/blob/sha256").st_mode & 0o777 == 0o755
        assert os.stat(f"{store.root}/tmp").st_mode & 0o777 == 0o700
        assert cache.keep_blob(store, b"x").startswith("sha256:")
    (blob,) = (shared / "blob/sha256").iterdir()
    assert blob.stat().st_mode & 0o777 == 0o644
    shared.chmod(0o777)
    with pytest.raises(BollardError, match="others can write into it"), cache.opened_shared():
        pass
    monkeypatch.setattr(cache.site, "load", lambda prefix: site.Site())
    with pytest.raises(BollardError, match="this site has no shared cache"), cache.opened_shared():
        pass


def test_both_keep_to_their_limits(shared, tmp_path, monkeypatch):
    here = site.Site(cache_shared=str(shared), cache_max=5 << 16, cache_shared_max=5 << 16)
    monkeypatch.setattr(cache.site, "load", lambda prefix: here)
    monkeypatch.setattr(cache.eviction, "wanted_by_jobs", lambda shared: frozenset())
    with cache.opened({"HOME": str(tmp_path)}) as store:
        folders = (f"{store.root}/oras", f"{shared}/oras")
    for folder in folders:
        for number in range(8):
            path = f"{folder}/{number}"
            with open(path, "wb") as file:
                file.write(os.urandom(1 << 16))
            old = time.time() - 86400 * (9 - number)
            os.utime(path, (old, old))
    with cache.opened({"HOME": str(tmp_path)}):
        pass
    with cache.opened_shared():
        pass
    assert [sorted(os.listdir(folder)) for folder in folders] == [["3", "4", "5", "6", "7"]] * 2


def test_nothing_is_removed_while_another_process_fetches(shared, tmp_path, monkeypatch):
    here = site.Site(cache_max=1)
    monkeypatch.setattr(cache.site, "load", lambda prefix: here)
    monkeypatch.setattr(cache.eviction, "wanted_by_jobs", lambda shared: frozenset())
    with cache.opened({"HOME": str(tmp_path)}) as store:
        path = f"{store.root}/blob/sha256/x"
        with open(path, "wb") as file:
            file.write(b"x" * 8192)
        with cache.opened({"HOME": str(tmp_path)}):
            pass
        assert os.path.exists(path)
    assert not os.path.exists(path)
