# SPDX-License-Identifier: BSD-3-Clause
"""The cache of the host's loader, read as ldconfig reads it: this machine's, and one in each format that glibc has."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from bollard.runtime.container import loader_cache

MACHINE = os.uname().machine
LDCONFIG = "/sbin/ldconfig"
# As `ldconfig -p` names the libraries of this machine.
KIND = {"x86_64": "(libc6,x86-64", "aarch64": "(libc6,AArch64"}.get(MACHINE, "(libc6")


def listed(cache):
    """What ldconfig itself reads in the file `cache`."""
    done = subprocess.run([LDCONFIG, "-p", "-C", cache], capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        left, arrow, path = line.strip().partition(" => ")
        name, _, kind = left.partition(" ")
        if arrow and kind.startswith(KIND):
            found.setdefault(name, path)
    return found


@pytest.fixture(scope="module", params=["new", "old", "compat"])
def cache(request, tmp_path_factory):
    """A cache of this machine's libraries in one format."""
    path = tmp_path_factory.mktemp("cache") / request.param
    conf = path.with_suffix(".conf")
    conf.write_text(f"/usr/lib/{MACHINE}-linux-gnu\n/usr/lib64\n")
    subprocess.run([LDCONFIG, "-X", "-c", request.param, "-C", path, "-f", conf], check=True, capture_output=True)
    return path


def test_each_format(cache):
    found = loader_cache.libraries(cache.read_bytes(), MACHINE)

    assert found == listed(cache)
    assert found["libc.so.6"].startswith("/")


def test_this_machines_own():
    assert loader_cache.read(MACHINE) == listed(loader_cache.PATH)


def test_no_cache_no_libraries(monkeypatch, tmp_path):
    monkeypatch.setattr(loader_cache, "PATH", str(tmp_path / "missing"))
    assert loader_cache.read(MACHINE) == {}

    monkeypatch.setattr(loader_cache, "PATH", str(tmp_path / "large"))
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", loader_cache.SIZE_MAX + 1)
    with pytest.raises(ValueError, match="more than"):
        loader_cache.read(MACHINE)


@pytest.mark.parametrize("data", [b"", b"ld.so-1.7.0", b"glibc-ld.so.cache1.1" + b"\xff" * 28, b"\x7fELF", b"a" * 64])
def test_what_is_no_cache(data):
    with pytest.raises(ValueError):
        loader_cache.libraries(data, MACHINE)


def test_damage_is_told_or_harmless(cache):
    """Never another exception than ValueError, and never a long look at a small file."""
    whole = cache.read_bytes()
    random.seed(1)
    for _ in range(300):
        data = bytearray(whole[: random.choice((len(whole), random.randrange(len(whole))))])
        for _ in range(random.randrange(4)):
            if data:
                data[random.randrange(min(len(data), 256))] = random.randrange(256)
        try:
            loader_cache.libraries(bytes(data), MACHINE)
        except ValueError:
            pass
