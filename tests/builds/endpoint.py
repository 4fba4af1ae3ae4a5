# SPDX-License-Identifier: BSD-3-Clause
"""An endpoint as remote.yaml names one: discovery, tokens, a library that takes pushes, and a store for its files.

`faults` has what to do wrong at a request whose path begins so: a status with headers, or a word:
"stall" sends half and waits, "die" ends the connection, "short" sends less than it says, "bytes" sends another file.
A fault is used up after `times` requests."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from servers import ARCH, serving, until

TOKEN = "good-token" * 30  # Apptainer takes none of under 200 characters  # noqa: S105
PASSWORD = "registry-password"  # noqa: S105


class Fault(NamedTuple):
    what: str | int
    headers: dict[str, str] = {}
    times: int = 1 << 30


class Endpoint(http.server.ThreadingHTTPServer):
    """`objects` has entities, collections, containers and images by their ids, `tags` the image of each path:arch:tag,
    `files` the bytes by the image's id."""

    def __init__(self, version: str, part: int = 0, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.version, self.part = version, part
        self.objects: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, str, str]] = []  # method, path, Authorization
        self.over = threading.Event()

    @property
    def host(self) -> str:
        address, port = self.server_address[:2]
        return str(address) if port == 80 else f"{address!s}:{port}"

    def paths(self) -> list[str]:
        """Method and path of each request since the last call."""
        found = [f"{method} {path}" for method, path, _ in self.requests]
        self.requests.clear()
        return found

    def add(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        number = f"{len(self.objects):024x}"
        self.objects[number] = {**data, "id": number, "kind": kind}
        return self.objects[number]

    def named(self, kind: str, path: str, arch: str = "") -> dict[str, Any] | None:
        if kind == "images":
            path, _, tag = path.partition(":")
            number = self.tags.get(f"{path}:{arch}:{tag}")
            for item in self.objects.values():
                if item["kind"] == kind and (item["id"] == number or item["hash"] == tag and self.path(item) == path):
                    return item
            return None
        return next((item for item in self.objects.values() if item["kind"] == kind and self.path(item) == path), None)

    def path(self, item: dict[str, Any]) -> str:
        above = {"collections": "entity", "containers": "collection", "images": "container"}.get(item["kind"])
        if not above:
            return str(item["name"])
        place = self.path(self.objects[item[above]])
        return place if item["kind"] == "images" else f"{place}/{item['name']}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
        length = int(self.headers.get("Content-Length", "0"))
        fault = self._fault(parts.path)
        if fault and fault.what == "die":
            self.rfile.read(length // 2)
            self.connection.close()
            self.close_connection = True
            return
        if fault and fault.what == "stall" and length:
            self.rfile.read(length // 2)
            until(self.server.over.is_set)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault and isinstance(fault.what, int):
            self._json(fault.what, {"error": {"code": fault.what, "message": "as the test wants"}}, fault.headers)
            return
        path = unquote(parts.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if path.startswith("/store/"):
            self._store(path[len("/store/") :], body, fault)
        elif path == "/assets/config/config.prod.json":
            url = f"http://{self.server.host}"
            self._json(200, {f"{name}API": {"uri": url} for name in ("library", "token", "keystore")})
        elif path == "/version":
            self._json(200, {"data": {"version": "v1", "apiVersion": self.server.version}})
        elif path == "/v1/imagefile" or path.startswith("/v1/imagefile/") and self.command == "GET":
            found = self.server.named("images", path[len("/v1/imagefile/") :], query.get("arch", ""))
            self._bytes(self.server.files[found["id"]] if found else None, fault)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and self.command != "GET":
            self._json(401, {"error": {"code": 401, "message": "unauthorized"}})
        elif path in ("/v1/token-status", "/v1/rbac/users/current"):
            good = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self._json(200 if good else 404, {"username": "alice", "oidc_user_meta": {"secret": PASSWORD}})
        else:
            self._library(path.strip("/").split("/"), query, json.loads(body) if body[:1] == b"{" else {}, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any

    def _fault(self, path: str) -> Fault | None:
        for begin, fault in self.server.faults.items():
            method, _, place = begin.rpartition(" ")
            if path.startswith(place) and method in ("", self.command):
                if fault.times <= 0:
                    return None
                self.server.faults[begin] = fault._replace(times=fault.times - 1)
                return fault
        return None

    def _library(self, words: list[str], query: dict[str, str], data: dict[str, Any], body: bytes) -> None:
        version, kind, *rest = words
        server = self.server
        if kind == "search":
            images = [item for item in server.objects.values() if item["kind"] == "images"]
            found = []
            for item in images:
                names = dict(zip(("entityName", "collectionName", "containerName"), server.path(item).split("/")))
                tags = [key.rpartition(":")[2] for key, number in server.tags.items() if number == item["id"]]
                found.append({**item, **names, "tags": tags})
            self._json(200, {"data": {"image": [item for item in found if query["value"] in item["containerName"]]}})
        elif kind in ("entities", "collections", "containers", "images") and self.command == "POST":
            made = server.add(kind, data)
            self._json(200, {"data": made})
        elif kind in ("entities", "collections", "containers", "images"):
            there = server.named(kind, "/".join(rest), query.get("arch", ""))
            if there is None:
                self._json(404, {"error": {"code": 404, "message": "Not found"}})
            elif self.command == "DELETE":
                del server.objects[there["id"]]
                self._json(200, {"data": {}})
            else:
                self._json(200, {"data": there})
        elif kind == "tags" and self.command == "GET":
            self._json(200, {"data": {}})  # Apptainer asks which tags it replaces, for its log
        elif kind == "tags":
            box = server.path(server.objects[rest[0]])
            server.tags[f"{box}:{data.get('Arch', ARCH)}:{data['Tag']}"] = data["ImageID"]
            self._json(200, {"data": {}})
        elif kind == "imagefile":
            self._upload(version, rest, data, body)
        else:
            self._json(404, {"error": {"code": 404, "message": "Not found"}})

    def _upload(self, version: str, words: list[str], data: dict[str, Any], body: bytes) -> None:
        server, number, verb = self.server, words[0], words[1] if len(words) > 1 else ""
        store = f"http://{server.host}/store/{number}"
        if version == "v1":
            self._keep(number, body)
            self._json(200, {"data": {}})
        elif verb == "_multipart" and self.command == "POST":
            if not server.part:
                self._json(404, {"error": {"code": 404, "message": "Not found"}})
                return
            count = -(-data["filesize"] // server.part)
            server.parts[number] = {}
            self._json(200, {"data": {"uploadID": "u1", "totalParts": count, "partSize": server.part}})
        elif verb == "_multipart":
            url = f"{store}?part={data['partNumber']}&sum={data['sha256sum']}"
            self._json(200, {"data": {"presignedURL": url}})
        elif verb == "_multipart_abort":
            server.parts.pop(number, None)
            self._json(200, {"data": {}})
        elif verb in ("_multipart_complete", "_complete"):
            if verb == "_multipart_complete":
                parts = server.parts.pop(number)
                assert [part["partNumber"] for part in data["completedParts"]] == sorted(parts)
                self._keep(number, b"".join(parts[at] for at in sorted(parts)))
            quota = {"quotaUsage": len(server.files[number]), "quotaTotal": 1 << 30}
            self._json(200, {"data": {"quota": quota, "containerUrl": "library/alice/tools/app"}})
        else:
            self._json(200, {"data": {"uploadURL": f"{store}?X-Amz-SignedHeaders=host%3Bx-amz-content-sha256"}})

    def _keep(self, number: str, data: bytes) -> None:
        item = self.server.objects[number]
        assert item["hash"] == f"sha256.{hashlib.sha256(data).hexdigest()}"
        item.update(uploaded=True, size=len(data))
        self.server.files[number] = data

    def _store(self, name: str, body: bytes, fault: Fault | None) -> None:
        number, _, _ = name.partition("?")
        query = parse_qs(urlsplit(self.path).query)
        assert not self.headers.get("Authorization"), "a token was sent to the store"
        assert self.headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
        if "part" in query:
            self.server.parts[number][int(query["part"][0])] = body
        else:
            self._keep(number, body)
        self._json(200, {}, {"ETag": "tag"})

    def _bytes(self, data: bytes | None, fault: Fault | None) -> None:
        if data is None:
            self._json(404, {"error": {"code": 404, "message": "Not found"}})
            return
        wrong = {"bytes": bytes(len(data)), "short": data[:-9]}
        sent = wrong.get(str(fault.what), data[: len(data) // 2]) if fault else data
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(sent)
            self.wfile.flush()
            if fault and fault.what == "stall":
                until(self.server.over.is_set)
        if len(sent) != len(data):
            self.close_connection = True

    def _json(self, status: int, data: object, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def endpoint(
    version: str = "2.0.0-alpha.2", part: int = 0, address: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[Endpoint]:
    server = Endpoint(version, part, address)
    with serving(server, server.over.set):
        yield server
