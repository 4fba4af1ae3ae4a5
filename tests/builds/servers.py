# SPDX-License-Identifier: BSD-3-Clause
"""Servers on 127.0.0.1 for the tests: Debian's docker-registry, a container library, and images to put into them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tarballs import tarball

from bollard.runtime.image import sif

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USER, PASSWORD = "alice", "secret"
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
_PATIENCE = 60  # seconds
_DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
ARCH = sif.arch_name(os.uname().machine)


class Registry(NamedTuple):
    host: str  # with its port
    process: subprocess.Popen[bytes]

    def push(self, layout: Path, name: str, *options: str) -> str:
        """Copy the image of an OCI layout into it; the digest of its manifest."""
        argv = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", *options]
        argv += [f"oci:{layout}:latest", f"docker://{self.host}/{name}"]
        subprocess.run(argv, env={**os.environ, **_DIRECT}, check=True)
        index = json.loads((layout / "index.json").read_bytes())
        digest: str = index["manifests"][0]["digest"]
        return digest

    def put(self, name: str, tag: str, layers: list[dict[str, object]], blobs: list[bytes]) -> str:
        """An artifact of these layers, as a client of ORAS pushes it; the digest of its manifest."""
        config = b"{}"
        for data in (config, *blobs):
            place = self._request("POST", f"/v2/{name}/blobs/uploads/", b"").headers["Location"]
            place = place.partition(self.host)[2] or place
            mark = "&" if "?" in place else "?"
            self._request("PUT", f"{place}{mark}digest={digest(data)}", data)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": entry(config, "application/vnd.sylabs.sif.config.v1+json"),
            "layers": layers,
        }
        raw = json.dumps(document).encode()
        self._request("PUT", f"/v2/{name}/manifests/{tag}", raw, OCI_MANIFEST)
        return digest(raw)

    def manifest(self, name: str, tag: str) -> bytes:
        """The manifest of an image, as the registry sends it."""
        where = f"http://{self.host}/v2/{name}/manifests/{tag}"
        request = urllib.request.Request(where, headers={"Accept": OCI_MANIFEST})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_PATIENCE) as answer:
            found: bytes = answer.read()
        return found

    def _request(self, method: str, path: str, data: bytes, kind: str = "application/octet-stream") -> Any:
        request = urllib.request.Request(f"http://{self.host}{path}", data, {"Content-Type": kind}, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return direct.open(request, timeout=_PATIENCE)


def program(top: Path) -> str:
    """Debian's docker-registry, unpacked and not installed: the package would start a registry on this machine."""
    found = shutil.which("docker-registry")
    if found:
        return found
    folder = top / "docker-registry"
    folder.mkdir()
    argv = ["apt-get", "-q", "download", "docker-registry"]
    if subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode:
        subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(argv, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return str(folder / "usr/bin/docker-registry")


@contextlib.contextmanager
def registry(
    program: str, folder: Path, *, login: bool = False, certificate: str = "", deletes: bool = False
) -> Iterator[Registry]:
    folder.mkdir()
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": host},
    }
    if deletes:
        config["storage"]["delete"] = {"enabled": True}
    if login:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if certificate:
        config["http"]["tls"] = {"certificate": f"{certificate}.crt", "key": f"{certificate}.key"}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _listens(host))
        assert process.poll() is None, (folder / "log").read_text()
        yield Registry(host, process)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def _listens(host: str) -> bool:
    address, _, port = host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((address, int(port))) == 0


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def entry(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def layout(path: Path, words: str, base: bytes | None = None, more: dict[str, bytes] | None = None) -> Path:
    """An OCI layout with one image: programs of this machine below, /opt/words, and what `more` has, above."""
    base = programs() if base is None else base
    above = tarball(dict(sorted({"opt/words": words.encode(), **(more or {})}.items())))
    config = {
        "architecture": ARCH,
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "COLOUR=blue"], "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["default"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(base), digest(above)]},
    }
    kind = "application/vnd.oci.image"
    blobs = [json.dumps(config).encode(), gzip.compress(base, mtime=0), gzip.compress(above, mtime=0)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(blobs[0], f"{kind}.config.v1+json"),
        "layers": [entry(data, f"{kind}.layer.v1.tar+gzip") for data in blobs[1:]],
    }
    raw = json.dumps(manifest).encode()
    named = {**entry(raw, OCI_MANIFEST), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (path / "blobs/sha256").mkdir(parents=True)
    for data in (*blobs, raw):
        (path / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return path


def programs() -> bytes:
    """A tar archive of a shell and a few programs, with their libraries."""
    files = {}
    for name in ("sh", "cat", "echo", "env"):
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for needed in (path, *re.findall(r"(/\S+) \(0x", libraries)):
            files[f"bin/{name}" if needed == path else needed.lstrip("/")] = Path(needed).read_bytes()
    return tarball(dict(sorted(files.items())))


class Library(http.server.ThreadingHTTPServer):
    """A container library: `images` has the file of each "path:tag", `hashes` what to tell of it where that is to be
    wrong. Files lie at `elsewhere`, if that is set. While `stalled` is set, only half of a file is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.images: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.elsewhere = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stalled = threading.Event()
        self.goes_on = False  # a stalled file's other half is sent at the end
        self.half_sent = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self) -> list[str]:
        """The paths that were asked for since the last call."""
        found = [path for _, path, _ in self.requests]
        self.requests.clear()
        return found


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Library

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.requests.append((self.command, self.path, dict(self.headers.items())))
        for begin in ("/v1/images/", "/v1/imagefile/", "/files/"):
            data = self.server.images.get(path[len(begin) :])
            if path.startswith(begin) and data is not None and (query == f"arch={ARCH}" or begin == "/files/"):
                self._answer(begin, path[len(begin) :], data)
                return
        self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, begin: str, name: str, data: bytes) -> None:
        if begin == "/v1/images/":
            said = self.server.hashes.get(name, f"sha256.{hashlib.sha256(data).hexdigest()}")
            found = {"hash": said, "size": self.server.sizes.get(name, len(data)), "arch": ARCH}
            self._send(json.dumps({"data": found}).encode(), "application/json")
        elif begin == "/v1/imagefile/" and self.server.elsewhere:
            self.send_response(303)
            self.send_header("Location", f"{self.server.elsewhere}/files/{name}")
            self.end_headers()
        else:
            self._send(data, "application/octet-stream")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.stalled.is_set() and kind == "application/octet-stream":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.server.half_sent.set()
            until(lambda: not self.server.stalled.is_set())
            if self.server.goes_on:
                self.wfile.write(data[len(data) // 2 :])
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


S = TypeVar("S", bound=http.server.HTTPServer)


@contextlib.contextmanager
def serving(server: S, over: Callable[[], None] = lambda: None) -> Iterator[S]:
    """Answer requests in a thread until the end of the block; `over` then lets go of requests that wait."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        over()
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def library() -> Iterator[Library]:
    server = Library()
    with serving(server, server.stalled.clear):
        yield server
