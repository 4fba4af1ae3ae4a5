# SPDX-License-Identifier: BSD-3-Clause
"""library:// and http://, with a server of the test's own."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Iterator

import pytest
import servers
from fetcher import Fetcher, words_of
from servers import Library

NAME = "some/where/one"


@pytest.fixture
def library(sif_file: bytes) -> Iterator[Library]:
    with servers.library() as found:
        found.images[f"{NAME}:v1"] = sif_file
        yield found


def test_pull(fetcher: Fetcher, library: Library, sif_file: bytes) -> None:
    fetcher.done("pull", "--library", library.url, f"library://{NAME}:v1")
    assert (fetcher.path / "one_v1.sif").read_bytes() == sif_file
    assert library.asked() == [f"/v1/{kind}/{NAME}:v1?arch={servers.ARCH}" for kind in ("images", "imagefile")]
    for form in ("BOLLARD_LIBRARY", "APPTAINER_LIBRARY", "SINGULARITY_LIBRARY"):
        fetcher.done("pull", "-F", "-U", f"library:{NAME}:v1", **{form: library.url})
        assert library.asked() == [f"/v1/images/{NAME}:v1?arch={servers.ARCH}"]
    host = library.url.partition("//")[2]
    fetcher.done("pull", "-F", "--no-https", f"library://{host}/{NAME}:v1")
    assert [path.name for path in fetcher.kept("library")] == [f"sha256.{hashlib.sha256(sif_file).hexdigest()}"]


def test_a_pull_says_who_does_not_vouch(fetcher: Fetcher, library: Library) -> None:
    words = ("pull", "-F", "--library", library.url, f"library://{NAME}:v1")
    line = f"bollard: warning: library://{NAME}:v1: nobody vouches for this image: "
    end = "; --allow-unsigned leaves this line out\n"
    assert fetcher.run(*words)[::2] == (0, f"{line}object group 1 is not signed{end}")
    assert fetcher.run(*words, "-U")[::2] == (0, "")
    assert fetcher.run(*words, APPTAINER_ALLOW_UNSIGNED="1")[::2] == (0, "")
    keys = {"BOLLARD_KEYSDIR": str(fetcher.path / "keys")}
    user = ("--name", "A", "--email", "a@example.org", "--comment", "", "--bit-length", "2048", "--password=")
    fetcher.done("key", "newpair", *user, **keys)
    fetcher.done("sign", "one_v1.sif", **keys)
    library.images[f"{NAME}:v1"] = (fetcher.path / "one_v1.sif").read_bytes()
    assert fetcher.run(*words, **keys)[::2] == (0, "")
    status, _, warning = fetcher.run(*words, BOLLARD_KEYSDIR=str(fetcher.path / "others"))
    assert status == 0 and warning.startswith(line) and "the key is in no keyring" in warning


def test_exec(fetcher: Fetcher, library: Library, sif_file: bytes, installed: str) -> None:
    env = {"PYTHONPATH": installed, "BOLLARD_LIBRARY": library.url}
    for _ in range(2):
        assert fetcher.done("exec", f"library://{NAME}:v1", "cat", "/opt/words", **env) == "one"
    assert library.asked()[1:] == [f"/v1/{kind}/{NAME}:v1?arch={servers.ARCH}" for kind in ("imagefile", "images")]
    pinned = f"library://{NAME}:sha256.{hashlib.sha256(sif_file).hexdigest()}"
    assert fetcher.done("exec", pinned, "cat", "/opt/words", **env) == "one"
    assert library.asked() == []


def test_build(fetcher: Fetcher, library: Library) -> None:
    (fetcher.path / "img.def").write_text(f"Bootstrap: library\nFrom: {NAME}:v1\nLibrary: {library.url}\n")
    fetcher.done("build", "a.sif", "img.def")
    fetcher.done("build", "--library", library.url, "b.sif", f"library://{NAME}:v1")
    assert words_of(fetcher.path / "a.sif") == words_of(fetcher.path / "b.sif") == "one"


def test_a_file_that_lies_elsewhere(fetcher: Fetcher, library: Library, sif_file: bytes) -> None:
    """On another host, which learns of no login."""
    with servers.library() as other:
        other.images[f"{NAME}:v1"] = sif_file
        library.elsewhere = other.url
        fetcher.done("pull", "--library", library.url, f"library://{NAME}:v1")
        assert (fetcher.path / "one_v1.sif").read_bytes() == sif_file
        for _, _, headers in (*library.requests, *other.requests):
            assert not {"authorization", "cookie"} & {name.lower() for name in headers}
    library.elsewhere = "file:///etc/hostname?"
    fetcher.done("cache", "clean", "--force")
    assert "library://" in fetcher.refused("pull", "-F", "--library", library.url, f"library://{NAME}:v1")


def test_mistakes(fetcher: Fetcher, library: Library, sif_file: bytes) -> None:
    def refused(*words: str) -> str:
        return fetcher.refused("pull", *words)

    there = ("--library", library.url, f"library://{NAME}:v1")
    assert refused(f"library://{NAME}:v1").startswith(f"library://{NAME}:v1: no library is named; add --library URL")
    assert "names its library, and so does" in refused("--library", library.url, f"library://host/{NAME}")
    assert "no such image" in refused("--library", library.url, f"library://{NAME}:v9")
    assert "no such image" in refused("--arch", "s390x", *there)
    assert "cannot be reached: Connection refused" in refused("--library", "http://127.0.0.1:1", "library://a/b/c")
    assert "is not a web address" in refused("--library", "file:///etc", "library://a/b/c")
    assert "is not a name in a library" in refused("library://a/b/../c")
    library.hashes[f"{NAME}:v1"] = "sha256." + "0" * 64
    assert "damaged: its SHA-256 is" in refused(*there)
    library.hashes[f"{NAME}:v1"] = "sif.0123"
    assert "gives no SHA-256 for it" in refused(*there)
    library.hashes.clear()
    library.sizes[f"{NAME}:v1"] = len(sif_file) - 1
    assert "more bytes came" in refused(*there)
    library.sizes[f"{NAME}:v1"] = len(sif_file) + 1
    assert f"{len(sif_file)} bytes came" in refused(*there)
    library.sizes.clear()
    library.images[f"{NAME}:v1"] = b"no image at all"
    assert "not a SIF or squashfs image" in refused(*there)
    assert fetcher.kept("library") == []


def test_an_address(fetcher: Fetcher, library: Library, sif_file: bytes, installed: str) -> None:
    uri = f"{library.url}/files/{NAME}:v1"
    fetcher.done("pull", uri)
    assert (fetcher.path / "one:v1").read_bytes() == sif_file
    library.asked()
    assert fetcher.done("exec", uri, "cat", "/opt/words", PYTHONPATH=installed) == "one"
    assert [kind for kind, _, _ in library.requests] == ["HEAD"]
    assert "no such image" in fetcher.refused("pull", f"{uri}x")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("words", [("pull", "a.sif"), ("build", "a.sif"), ("inspect", "--disable-cache")])
def test_who_is_interrupted_leaves_nothing(
    fetcher: Fetcher, library: Library, sif_file: bytes, words: tuple[str, ...], number: int
) -> None:
    uri, env = f"library://{NAME}:v1", {"BOLLARD_LIBRARY": library.url}
    library.stalled.set()
    process = fetcher.start(*words, uri, **env)
    assert library.half_sent.wait(60)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    if number == signal.SIGKILL:
        for left in fetcher.builder.leftovers():  # of inspect, which no one else knows of
            shutil.rmtree(left)
    else:
        fetcher.check()
    assert fetcher.kept("library") == [] and not (fetcher.path / "a.sif").exists()
    library.stalled.clear()
    fetcher.done("pull", "a.sif", uri, **env)
    assert (fetcher.path / "a.sif").read_bytes() == sif_file
