# SPDX-License-Identifier: BSD-3-Clause
"""Images are built from a base that has to be signed; keys go to and come from a key server, Debian's sks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from fetcher import Fetcher, words_of

from bollard.runtime.fetch import sources
from bollard.runtime.image import image, sif

_KEY = ("key", "newpair", "--bit-length", "2048", "--password=", "--comment=")
_SKS = ("var/lib/sks", "var/run/sks", "var/spool/sks", "var/log/sks", "dump")


@pytest.fixture
def signed(fetcher: Fetcher, sif_file: bytes) -> tuple[str, str]:
    """base.sif, signed by the first of two keys in the keyring; their fingerprints."""
    (fetcher.path / "base.sif").write_bytes(sif_file)
    shutil.chown(fetcher.path / "base.sif", fetcher.path.stat().st_uid)
    for name in ("one", "two"):
        fetcher.done(*_KEY, "--name", name, "--email", f"{name}@example.org", **env(fetcher))
    fetcher.done("sign", "--keyidx", "0", "base.sif", **env(fetcher))
    first, second = re.findall(r"Fingerprint: *(\w+)", fetcher.done("key", "list", **env(fetcher)))
    return first, second


def env(fetcher: Fetcher, folder: str = "keys") -> dict[str, str]:
    return {"BOLLARD_KEYSDIR": str(fetcher.path / folder)}


def definition(fetcher: Fetcher, fingerprints: str, base: str = "base.sif", agent: str = "localimage") -> None:
    text = f"Bootstrap: {agent}\nFrom: {base}\nFingerprints: {fingerprints}\n"
    (fetcher.path / "img.def").write_text(text)


def test_fingerprints(fetcher: Fetcher, signed: tuple[str, str]) -> None:
    first, second = signed
    definition(fetcher, first)
    fetcher.done("build", "a.sif", "img.def", **env(fetcher))
    assert words_of(fetcher.path / "a.sif") == "one"
    assert "the key is in no keyring" in fetcher.refused("build", "b.sif", "img.def", **env(fetcher, "none"))
    for fingerprints in (second, f"{first}, {second}"):
        definition(fetcher, fingerprints)
        line = fetcher.refused("build", "b.sif", "img.def", **env(fetcher))
        assert line.startswith(f"base.sif: is not signed by {second}, but by {first}"), line
    fetcher.done("sign", "--keyidx", "1", "base.sif", **env(fetcher))
    definition(fetcher, f"{first}, {second.lower()}")
    fetcher.done("build", "b.sif", "img.def", **env(fetcher))


def test_bases_that_do_not_have_the_signature(fetcher: Fetcher, signed: tuple[str, str]) -> None:
    data = bytearray((fetcher.path / "base.sif").read_bytes())
    fd, found = image.open_sif(str(fetcher.path / "base.sif"))
    os.close(fd)
    part = sif.primary(found)
    data[part.offset + part.size // 2] ^= 1
    (fetcher.path / "changed.sif").write_bytes(data)
    (fetcher.path / "folder").mkdir()
    (fetcher.path / "folder/etc").mkdir()
    subprocess.run(["tar", "-C", fetcher.path / "folder", "-cf", fetcher.path / "root.tar", "."], check=True)
    fetcher.done("build", "unsigned.sif", "base.sif")
    for base, why in (
        ("changed.sif", f"object {part.id} was changed after it was signed"),
        ("unsigned.sif", "object group 1 is not signed"),
        ("root.tar", "is no SIF file, so nobody has signed it"),
        ("folder", "is no SIF file, so nobody has signed it"),
    ):
        definition(fetcher, signed[0], base)
        line = fetcher.refused("build", "b.sif", "img.def", **env(fetcher))
        assert why in line and base in line, line
        assert not (fetcher.path / "b.sif").exists()


def test_fingerprints_of_a_fetched_image(fetcher: Fetcher, program: str, signed: tuple[str, str]) -> None:
    first, second = signed
    data = (fetcher.path / "base.sif").read_bytes()
    with servers.library() as library, servers.registry(program, fetcher.path / "registry") as registry:
        library.images["some/where/one:v1"] = data
        registry.put("one", "v1", [servers.entry(data, sources.SIF_LAYERS[0])], [data])
        for agent, base in (("library", "some/where/one:v1"), ("oras", f"{registry.host}/one:v1")):
            more = {**env(fetcher), "BOLLARD_LIBRARY": library.url, "BOLLARD_NOHTTPS": "1"}
            definition(fetcher, first, base, agent)
            fetcher.done("build", "-F", "a.sif", "img.def", **more)
            definition(fetcher, second, base, agent)
            line = fetcher.refused("build", "b.sif", "img.def", **more)
            assert line.startswith(f"{base}: is not signed by {second}"), line


@pytest.fixture
def sks(tmp_path: Path) -> Iterator[str]:
    """The address of a key server."""
    for name in _SKS:
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["sks", "build", "-basedir", tmp_path], capture_output=True, check=False)  # makes an empty database
    port = servers.free_port()
    words = ["sks", "db", "-basedir", str(tmp_path), "-hkp_address", "127.0.0.1", "-hkp_port", str(port), "-stdoutlog"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=tmp_path)
    try:
        servers.until(lambda: b"Applied filters" in (tmp_path / "log").read_bytes())
        yield f"hkp://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_key_server(fetcher: Fetcher, signed: tuple[str, str], sks: str) -> None:
    first, second = signed
    direct = {"no_proxy": "127.0.0.1"}
    fetcher.done("key", "push", "--url", sks, first, **env(fetcher), **direct)
    for text in ("one@example.org", first):
        assert first in fetcher.done("key", "search", "-l", "--url", sks, text, **direct)
    assert fetcher.run("key", "pull", "--url", sks, second, **env(fetcher, "new"), **direct)[0] == 2
    assert fetcher.run("verify", "base.sif", **env(fetcher, "new"))[0] == 255
    out = fetcher.done("verify", "--url", sks, "base.sif", **env(fetcher, "new"), **direct)
    assert out.startswith("[REMOTE]") and first in out
    fetcher.done("key", "pull", "--url", sks, first, **env(fetcher, "new"), **direct)
    assert fetcher.done("verify", "base.sif", **env(fetcher, "new")).startswith("[LOCAL]")
