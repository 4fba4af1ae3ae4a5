# SPDX-License-Identifier: BSD-3-Clause
"""Images into registries: as a SIF file by oras://, as a container image by docker://; their tags."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from building import Builder
from fetcher import Fetcher, words_of
from servers import Registry

from bollard.runtime.build import oci_layout
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import reference
from bollard.runtime.fetch import registry as registries

DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="module")
def registry(builder: Builder, program: str) -> Iterator[Registry]:
    with servers.registry(program, builder.work.parent / "registry-push", deletes=True) as found:
        yield found


@pytest.fixture
def img(fetcher: Fetcher, sif_file: bytes) -> Path:
    path = fetcher.path / "img.sif"
    path.write_bytes(sif_file)
    return path


def raw(registry: Registry, name: str) -> bytes:
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/{name}"]
    return subprocess.run(argv, env={**os.environ, **DIRECT}, stdout=subprocess.PIPE, check=True).stdout


def config_of(registry: Registry, name: str) -> dict[str, Any]:
    argv = ["skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{registry.host}/{name}"]
    done = subprocess.run(argv, env={**os.environ, **DIRECT}, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestOras:
    def test_there_and_back(self, fetcher: Fetcher, registry: Registry, img: Path) -> None:
        uri = f"oras://{registry.host}/a/img:v1"
        fetcher.done("push", "--no-https", "-D", "for all", "--annotation", "a.b=c", "img.sif", uri)
        manifest = json.loads(raw(registry, "a/img:v1"))
        assert manifest["config"]["digest"] == servers.digest(b"{}")
        assert manifest["config"]["mediaType"] == "application/vnd.sylabs.sif.config.v1+json"
        assert manifest["annotations"] == {"a.b": "c", "org.opencontainers.image.description": "for all"}
        (layer,) = manifest["layers"]
        assert layer["mediaType"] == "application/vnd.sylabs.sif.layer.v1.sif"
        assert layer["annotations"] == {"org.opencontainers.image.title": "img.sif"}
        fetcher.done("pull", "--no-https", "back.sif", uri)
        assert (fetcher.path / "back.sif").read_bytes() == img.read_bytes()

    def test_tags_and_their_end(self, fetcher: Fetcher, registry: Registry, img: Path) -> None:
        base = f"oras://{registry.host}/tags/img"
        fetcher.done("push", "--no-https", "img.sif", f"{base}:v1")
        fetcher.done("tag", "--no-https", f"{base}:v1", "stable")
        assert raw(registry, "tags/img:v1") == raw(registry, "tags/img:stable")
        found = json.loads(fetcher.done("search", "--json", "--no-https", base))
        assert [item["uri"] for item in found] == [f"{base}:stable", f"{base}:v1"]
        assert f"\t{base}:v1\n" in fetcher.done("search", "--no-https", base)
        assert "add --force" in fetcher.refused("delete", "--no-https", f"{base}:v1")
        fetcher.done("delete", "--force", "--no-https", f"{base}:v1")
        assert "no such image" in fetcher.refused("pull", "--no-https", "gone.sif", f"{base}:v1")
        assert "no such image" in fetcher.refused("delete", "--force", "--no-https", f"{base}:v1")

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (("img.sif", "a/b:v1"), "a/b:v1: unsupported transport type; known are oras://, docker://, library://"),
            (("img.sif", "here"), "bad uri here"),
            (("img.sif", "https://HOST/a"), "unsupported transport type"),
            (("none.sif", "oras://HOST/a/b:v1"), "none.sif: no such file"),
            (("plain", "oras://HOST/a/b:v1"), "plain: not a SIF image; check"),
            (("img.sif", f"oras://HOST/a/b@sha256:{'0' * 64}"), "a digest follows from what is pushed; name a tag"),
            (("img.sif", "oras://HOST/A/b:v1"), "oras://HOST/A/b:v1: "),
            (("--library", "x", "img.sif", "oras://HOST/a/b:v1"), "--library: is for library:// alone"),
            (("--annotation", "x", "img.sif", "oras://HOST/a/b:v1"), "--annotation x: is not KEY=VALUE"),
            (("img.sif",), "push takes 2 words, not 1"),
        ],
    )
    def test_what_is_not_pushed(
        self, fetcher: Fetcher, registry: Registry, img: Path, words: tuple[str, ...], line: str
    ) -> None:
        (fetcher.path / "plain").write_text("no image\n")
        found = fetcher.refused("push", "--no-https", *(word.replace("HOST", registry.host) for word in words))
        assert line.replace("HOST", registry.host) in found

    def test_a_registry_that_speaks_plain_http(self, fetcher: Fetcher, registry: Registry, img: Path) -> None:
        line = fetcher.refused("push", "img.sif", f"oras://{registry.host}/a/b:v1")
        assert "speaks plain HTTP; add --no-https" in line


class TestDocker:
    def test_an_image_from_a_registry_stays_what_it_was(self, fetcher: Fetcher, registry: Registry, img: Path) -> None:
        name = f"{registry.host}/b/one:v1"
        fetcher.done("push", "--no-https", "img.sif", f"docker://{name}")
        found = config_of(registry, "b/one:v1")
        assert found["config"]["Entrypoint"] == ["/bin/echo", "entry"] and found["config"]["Cmd"] == ["default"]
        assert "COLOUR=blue" in found["config"]["Env"] and "PATH=/bin" in found["config"]["Env"]
        assert found["architecture"] == servers.ARCH and len(found["rootfs"]["diff_ids"]) == 1
        fetcher.done("pull", "--no-https", "back.sif", f"docker://{name}")
        assert words_of(fetcher.path / "back.sif") == "one"
        assert "'/bin/echo' 'entry'" in fetcher.done("inspect", "--runscript", "back.sif")

    def test_an_image_of_a_definition(self, fetcher: Fetcher, registry: Registry, img: Path, installed: str) -> None:
        """Its environment, labels and runscript work in the image that another program pulls."""
        text = "Bootstrap: localimage\nFrom: img.sif\n\n%environment\nexport COLOUR=green\n"
        text += 'export LONG="$COLOUR two"\n'
        text += '\n%labels\nAuthor me\n\n%runscript\necho "run $COLOUR $@"\n'
        (fetcher.path / "own.def").write_text(text)
        fetcher.done("build", "own.sif", "own.def")
        name = f"{registry.host}/b/own:v1"
        fetcher.done("push", "--no-https", "own.sif", f"docker://{name}")
        found = config_of(registry, "b/own:v1")["config"]
        assert {"COLOUR=green", "LONG=green two", "PATH=/bin"} <= set(found["Env"])
        assert found["Labels"]["Author"] == "me" and found["Entrypoint"] == ["/.singularity.d/oci-run"]
        fetcher.done("pull", "--no-https", "back.sif", f"docker://{name}")
        for image in ("own.sif", "back.sif"):
            status, out, err = fetcher.run("run", image, "x", PYTHONPATH=installed)
            assert (status, out) == (0, "run green x\n"), err
            status, out, err = fetcher.run("exec", image, "sh", "-c", "echo $LONG", PYTHONPATH=installed)
            assert (status, out) == (0, "green two\n"), err

    def test_an_image_of_an_archive_stays_as_it_is(
        self, fetcher: Fetcher, registry: Registry, layouts: dict[str, Path]
    ) -> None:
        fetcher.done("push", "--no-https", f"oci:{layouts['two']}:latest", f"docker://{registry.host}/c/two:v1")
        index = json.loads((layouts["two"] / "index.json").read_bytes())
        assert servers.digest(raw(registry, "c/two:v1")) == index["manifests"][0]["digest"]

    def test_owners_and_modes(self, registry: Registry, builder: Builder, tmp_path: Path) -> None:
        """Where a user unpacks the image all files are the user's; the layer has the owners of the image."""
        from bollard.runtime.image import image

        tree = tmp_path / "tree"
        (tree / "shut").mkdir(parents=True)
        (tree / "shut/file").write_text("x")
        os.link(tree / "shut/file", tree / "same")
        (tree / "to").symlink_to("shut/file")
        (tree / "shut/file").chmod(0o4750)
        if os.geteuid() == 0:
            os.chown(tree / "shut/file", 5, 7)
            os.chown(tree / "to", 8, 9, follow_symlinks=False)
        (tree / "shut").chmod(0o500)
        subprocess.run(["mksquashfs", tree, tmp_path / "i.sqfs", "-quiet", "-no-progress"], check=True, stdout=-3)
        opened = image.open_image(str(tmp_path / "i.sqfs"))
        owners = oci_layout._owners(opened)
        opened.close()
        owner = (5, 7) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        assert owners[b"shut/file"] == owners[b"same"] == owner
        assert set(owners) >= {b"shut/file", b"same", b"to"}


def test_a_large_image_is_not_copied(fetcher: Fetcher, registry: Registry, img: Path) -> None:
    """The SIF file is read where it lies: no second copy of it in the directory for temporary files."""
    with open(img, "ab") as file:
        file.truncate(img.stat().st_size + (1 << 20))
    before = hashlib.sha256(img.read_bytes()).hexdigest()
    limit = ["prlimit", f"--fsize={64 << 10}"]
    builder = fetcher.builder._replace(prefix=tuple(limit))
    status, _, err = Fetcher(fetcher.path, builder).run("push", "--no-https", img, f"oras://{registry.host}/a/large:v1")
    assert status == 0, err
    assert json.loads(raw(registry, "a/large:v1"))["layers"][0]["digest"] == f"sha256:{before}"


class Silent:
    """A registry that answers each request with the same bytes, or with none and never."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.peers: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                self.peers.append(peer)
                if self.answer:
                    peer.recv(65536)
                    peer.sendall(self.answer)
                    peer.close()


def answer(status: str, body: str = "", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *more, "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b"", "has sent nothing for 2 s; try again, or set BOLLARD_FETCH_TIMEOUT"),
        (answer("401 Unauthorized", "", 'WWW-Authenticate: Basic realm="x"'), "wants a login; `bollard registry login"),
        (answer("403 Forbidden", '{"errors":[{"code":"DENIED","message":"no"}]}'), "does not allow that"),
        (answer("500 Internal Server Error"), "500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", ""),
        (b"nonsense\r\n\r\n", ""),
    ],
)
def test_a_registry_that_does_wrong(
    tmp_path: Path, sif_file: bytes, monkeypatch: pytest.MonkeyPatch, said: bytes, line: str
) -> None:
    """A push and a pull end with one line, in time."""
    for name, value in {**DIRECT, "BOLLARD_FETCH_TIMEOUT": "2", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "img.sif").write_bytes(sif_file)
    wrong = Silent(said)
    target = reference.parse(f"oras://{wrong.host}/a/b:v1")
    (tmp_path / "layout").mkdir()
    oci_layout.artifact(str(tmp_path / "img.sif"), str(tmp_path / "layout"), {})
    access = registries.Access(insecure=True)
    with pytest.raises(BollardError) as pushed:
        registries.push(target, str(tmp_path / "layout"), access)
    with pytest.raises(BollardError) as pulled:
        registries.manifest(target, access)
    wrong.listener.close()
    assert line in str(pushed.value) and "\n" not in str(pushed.value) + str(pulled.value)
    assert str(pulled.value).startswith(f"{target.uri}: ") and str(pushed.value).startswith(f"{target.uri}: ")
