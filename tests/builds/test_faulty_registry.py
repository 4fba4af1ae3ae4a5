# SPDX-License-Identifier: BSD-3-Clause
"""A registry that does wrong while it sends the layers of an image: one line each time, nothing kept, and the next try
works. What a registry does wrong about manifests is in test_push.py."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from building import Builder
from fetcher import Fetcher, words_of
from servers import OCI_MANIFEST, serving

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

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
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
    """Layers often lie on another server than the registry."""
    with serving(Stub(layouts["one"])) as other:
        digest = json.loads((layouts["one"] / "index.json").read_bytes())["manifests"][0]["digest"]
        manifest = json.loads((layouts["one"] / "blobs" / digest.replace(":", "/")).read_bytes())
        layer = manifest["layers"][0]["digest"]
        stub.fault = Fault(307, {"Location": f"http://{other.host}/v2/x/blobs/{layer}"}, 1)
        fetcher.done("pull", "--no-https", "a.sif", f"docker://{stub.host}/tiny/one:v1")
        assert words_of(fetcher.path / "a.sif") == "one"
