# SPDX-License-Identifier: BSD-3-Clause
"""A registry that does wrong while it sends the layers of an image: one line each time, nothing kept, and the next try
works. What a registry does wrong about manifests is in test_push.py."""

from __future__ import annotations

import gzip
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers
from building import Builder
from fetcher import Fetcher, words_of
from servers import OCI_MANIFEST, serving

INDEX = "application/vnd.oci.image.index.v1+json"
LARGE = 1000  # bytes; the configuration is smaller than the layers


class Fault(NamedTuple):
    """What to do at a request for a layer: a word, or a status with headers; how often."""

    what: str | int
    headers: dict[str, str] = {}
    times: int = 1 << 30


class Stub(http.server.ThreadingHTTPServer):
    """A registry with the image of one OCI layout, by any name and tag."""

    daemon_threads = True

    def __init__(self, layout: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.layout = layout
        self.fault: Fault | None = None
        self.over = threading.Event()
        self.asked: list[str] = []
        self.login = False  # ask for one
        self.logins: set[str] = set()  # those that were sent

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        login = self.headers.get("Authorization", "")
        self.server.logins.add(login)
        if self.server.login and not login:
            return self._send(401, b"{}", {"WWW-Authenticate": 'Basic realm="stub"'})
        if self.path == "/v2/":
            return self._send(200, b"{}")
        kind, name = self.path.split("/")[-2:]
        blobs = self.server.layout / "blobs"
        if kind == "manifests" and not name.startswith("sha256:"):
            name = json.loads((self.server.layout / "index.json").read_bytes())["manifests"][0]["digest"]
        path = blobs / name.replace(":", "/")
        if not path.is_file():
            return self._send(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}')
        data = path.read_bytes()
        fault = self.server.fault
        if kind == "blobs" and fault and fault.times and len(data) > LARGE:
            self.server.fault = fault._replace(times=fault.times - 1)
            return self._wrong(fault, data)
        self._send(200, data, {"Content-Type": OCI_MANIFEST if kind == "manifests" else "application/octet-stream"})

    do_HEAD = do_GET

    def _wrong(self, fault: Fault, data: bytes) -> None:
        half = len(data) // 2
        if isinstance(fault.what, int):
            headers = {name: value.replace("HOST", self.server.host) for name, value in fault.headers.items()}
            self._send(fault.what, b"", headers)
        elif fault.what == "another":
            self._send(200, data[:half] + bytes(len(data) - half))
        elif fault.what == "longer":
            self._send(200, data + b"more")
        elif fault.what == "shorter":
            self._send(200, data[:half])
        else:  # what was promised does not come
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:half])
            self.wfile.flush()
            if fault.what == "stall":
                self.server.over.wait(60)
            self.close_connection = True

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # the client had enough

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stub(layouts: dict[str, Path], builder: Builder) -> Iterator[Stub]:
    server = Stub(layouts["one"])
    with serving(server, server.over.set):
        yield server


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("stall"), "has sent nothing for 2 s; try again, or set BOLLARD_FETCH_TIMEOUT"),
        (Fault("death"), "HOST has ended the connection half-way; try again"),
        (Fault("shorter"), "damaged: HOST sent a layer that does not match its digest; try again"),
        (Fault("longer"), "damaged: HOST sent a layer that does not match its digest; try again"),
        (Fault("another"), "damaged: HOST sent a layer that does not match its digest; try again"),
        (Fault(401), "one that needs a login; check the name; `bollard registry login docker://HOST`"),
        (Fault(403), "HOST does not allow that"),
        (Fault(404), "HOST lacks a layer of it; push it again"),
        (Fault(500), "HOST answers 500 internal server error; try again later"),
        (Fault(307, {"Location": "file:///etc/passwd"}), "HOST redirects to what is no web address"),
        (Fault(307, {"Location": "http://127.0.0.1:1/blob"}), "cannot be reached"),
    ],
    ids=lambda value: str(value.what) if isinstance(value, Fault) else "",
)
def test_layers(fetcher: Fetcher, stub: Stub, fault: Fault, line: str) -> None:
    uri = f"docker://{stub.host}/tiny/one:v1"
    stub.fault = fault
    said = fetcher.refused("pull", "--no-https", "a.sif", uri, BOLLARD_FETCH_TIMEOUT="2")
    assert said.startswith(f"{uri}: ") and line.replace("HOST", stub.host) in said, said
    assert not (fetcher.path / "a.sif").exists() and fetcher.kept("oci-tmp") == []
    stub.fault = None
    stub.over.set()
    fetcher.done("pull", "--no-https", "a.sif", uri)
    assert words_of(fetcher.path / "a.sif") == "one"


Change = Callable[[dict[str, Any], Callable[[bytes], dict[str, Any]]], Any]


def altered(source: Path, target: Path, change: Change) -> Path:
    """A copy of an OCI layout. `change` gets its manifest, and what keeps a blob and returns its entry; it changes the
    manifest or returns another document."""
    shutil.copytree(source, target)
    index = json.loads((target / "index.json").read_bytes())
    manifest = json.loads((target / "blobs" / index["manifests"][0]["digest"].replace(":", "/")).read_bytes())

    def keep(data: bytes, kind: str = OCI_MANIFEST) -> dict[str, Any]:
        (target / "blobs" / servers.digest(data).replace(":", "/")).write_bytes(data)
        return dict(servers.entry(data, kind))

    made = change(manifest, keep)
    index["manifests"] = [keep(json.dumps(manifest if made is None else made).encode())]
    (target / "index.json").write_text(json.dumps(index))
    return target


def _blob(layout: Path, entry: dict[str, Any]) -> bytes:
    name: str = entry["digest"]
    return (layout / "blobs" / name.replace(":", "/")).read_bytes()


def _schema_1(manifest: dict[str, Any], keep: Any) -> dict[str, Any]:
    return {"schemaVersion": 1, "name": "tiny/one", "tag": "v1", "architecture": "amd64", "fsLayers": [], "history": []}


def _other_machine(manifest: dict[str, Any], keep: Any) -> dict[str, Any]:
    entry = keep(json.dumps(manifest).encode()) | {"platform": {"architecture": "s390x", "os": "linux"}}
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}


def _foreign(manifest: dict[str, Any], keep: Any) -> None:
    manifest["layers"][1]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    manifest["layers"][1]["urls"] = ["http://127.0.0.1:1/layer"]
    manifest["layers"][1]["digest"] = f"sha256:{'5' * 64}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_schema_1, "format of before 2016"),
        (_other_machine, f"no image for {servers.ARCH}, only for s390x; name another image, or --arch"),
        (_foreign, "layer 2 is not in the registry, but at ['http://127.0.0.1:1/layer']"),
        (lambda manifest, keep: manifest.update(layers=[]), "has no layers, so no files; name another image"),
        (lambda manifest, keep: manifest["layers"][1].update(digest=f"sha256:{'A' * 64}"), "is no SHA-256 digest"),
        (lambda manifest, keep: manifest.update(mediaType=INDEX), "says that it is an index, and lists no images"),
    ],
)
def test_documents(fetcher: Fetcher, stub: Stub, layouts: dict[str, Path], change: Change, line: str) -> None:
    uri = f"docker://{stub.host}/tiny/one:v1"
    stub.layout = altered(layouts["one"], fetcher.path / "layout", change)
    said = fetcher.refused("pull", "--no-https", "a.sif", uri)
    assert said.startswith(f"{uri}: ") and line in said, said
    assert not (fetcher.path / "a.sif").exists() and fetcher.kept("oci-tmp") == []


def _twice(manifest: dict[str, Any], keep: Any) -> None:
    manifest["layers"].append(manifest["layers"][1])


def test_documents_that_are_right(fetcher: Fetcher, stub: Stub, layouts: dict[str, Path]) -> None:
    """A layer that is listed twice, a layer in zstd, an answer that says nothing of its type."""
    uri = f"docker://{stub.host}/tiny/one:v1"

    def zstd(manifest: dict[str, Any], keep: Any) -> None:
        data = gzip.decompress(_blob(layouts["one"], manifest["layers"][1]))
        made = subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
        manifest["layers"][1] = keep(made, "application/vnd.oci.image.layer.v1.tar+zstd")

    for number, change in enumerate((_twice, zstd)):
        stub.layout = altered(layouts["one"], fetcher.path / f"layout-{number}", change)
        fetcher.done("pull", "-F", "--no-https", "a.sif", uri)
        assert words_of(fetcher.path / "a.sif") == "one"


def test_a_pause_that_is_asked_for_is_made(fetcher: Fetcher, stub: Stub) -> None:
    stub.fault = Fault(429, {"Retry-After": "1"}, 2)
    fetcher.done("pull", "--no-https", "a.sif", f"docker://{stub.host}/tiny/one:v1")
    assert words_of(fetcher.path / "a.sif") == "one"


def test_too_many_requests(fetcher: Fetcher, stub: Stub) -> None:
    stub.fault = Fault(429, {"Retry-After": "0"})
    uri = f"docker://{stub.host}/tiny/one:v1"
    said = fetcher.refused("pull", "--no-https", "a.sif", uri, BOLLARD_FETCH_TIMEOUT="20")
    assert said == f"{uri}: {stub.host} takes no more requests (429); try again in a few minutes"


def test_a_redirect_is_followed(fetcher: Fetcher, stub: Stub, layouts: dict[str, Path]) -> None:
    """Layers often lie on another server than the registry. It does not get the login."""
    with serving(Stub(layouts["one"])) as other:
        digest = json.loads((layouts["one"] / "index.json").read_bytes())["manifests"][0]["digest"]
        manifest = json.loads((layouts["one"] / "blobs" / digest.replace(":", "/")).read_bytes())
        layer = manifest["layers"][0]["digest"]
        where = other.host.replace("127.0.0.1", "localhost")
        stub.fault = Fault(307, {"Location": f"http://{where}/v2/x/blobs/{layer}"}, 1)
        stub.login = True
        login = {"BOLLARD_DOCKER_USERNAME": "alice", "BOLLARD_DOCKER_PASSWORD": "secret"}
        fetcher.done("pull", "--no-https", "a.sif", f"docker://{stub.host}/tiny/one:v1", **login)
        assert words_of(fetcher.path / "a.sif") == "one"
        assert any(one.startswith("Basic ") for one in stub.logins) and other.logins == {""}
