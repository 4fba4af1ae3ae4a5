# SPDX-License-Identifier: BSD-3-Clause
"""library://: the protocol of container libraries.

    GET BASE/v1/images/PATH:TAG?arch=ARCH        {"data": {"hash": "sha256.HEX", "size": BYTES, ...}}
    GET BASE/v1/imagefile/PATH:TAG?arch=ARCH     the file, through a redirect to its place
    POST BASE/v1/{entities,collections,containers,images}, BASE/v2/imagefile/ID, BASE/v2/tags/ID     a push
    DELETE BASE/v1/images/PATH:TAG?arch=ARCH     GET BASE/v1/search?value=TEXT&arch=ARCH

The library is the host in the name, or the one of --library or its environment variables, or of `Library:` in a
definition file; else that of the active endpoint in Apptainer's remote.yaml. The endpoint's token is sent to its own
library alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from bollard.runtime import progress
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import reference, remote, web
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.web import Body

_HASH = re.compile(r"sha256\.([0-9a-f]{64})")
_PART_FLOOR = 64 << 20  # bytes; larger files are sent in parts, where the library can take parts
_READ_SIZE = 1 << 20
_MOST_PARTS = 10_000


class Place(NamedTuple):
    """A library: its address, and the token that is sent to it, "" for none."""

    url: str
    token: str = ""


class Image(NamedTuple):
    """An image in a library: digest in hexadecimal digits, size in bytes (0 for unknown), URL of the file."""

    digest: str
    size: int
    url: str


def pinned(name: Reference) -> str:
    """Return the digest, in hexadecimal digits, if the tag of the name is a digest; else "".

    Raises:
        BollardError: the name is not a name in a library.
    """
    found = _HASH.fullmatch(reference.library_path(name).tag)
    return found[1] if found else ""


def place(
    host: str, library: str, environ: Mapping[str, str], what: str, insecure: bool = False, *, login: bool = False
) -> Place:
    """Return the library to use.

    host: the host in the image's name, "" for none.
    library: the URL or host that an option or a variable names, "" for none.
    environ: environment variables, which say where remote.yaml is.
    what: the image's name, for messages.
    insecure: use plain HTTP for a host that the name holds.
    login: ask the active endpoint whether the library is its own, to send its token there.

    Raises:
        BollardError: no library is named, or two are, or root allows another one only.
    """
    if host and library:
        raise BollardError(f"{what}: names its library, and so does --library {library}", "name it once")
    base = f"{'http' if insecure else 'https'}://{host}" if host else library
    base = base if "://" in base or not base else f"https://{base}"
    if base and not base.startswith(("http://", "https://")):
        raise BollardError(f"library {base}: is not a web address", "write https://HOST")
    config = remote.of_user(remote.file(environ))
    endpoint = config.remotes.get(config.active)
    if endpoint and endpoint.uri == remote.DEFAULT_URI and not endpoint.exclusive:
        endpoint = None
    if endpoint and (endpoint.exclusive or not base):
        own = remote.service(endpoint, "library")
        if base and not remote.same(base, own):
            text = f"{what}: root allows the library of remote {config.active} alone"
            raise BollardError(text, "leave the library out")
        return Place(own.rstrip("/"), endpoint.token)
    if not base:
        raise BollardError(
            f"{what}: no library is named",
            "add --library URL, set BOLLARD_LIBRARY, or write library://HOST/ENTITY/COLLECTION/CONTAINER; "
            "`bollard remote add` keeps one",
        )
    if login and endpoint and endpoint.token and _is_of(endpoint, base):
        return Place(base.rstrip("/"), endpoint.token)
    return Place(base.rstrip("/"))


def _is_of(endpoint: remote.Endpoint, base: str) -> bool:
    """Return whether a library is the endpoint's own, so that its token may be sent there."""
    try:
        return remote.same(base, remote.service(endpoint, "library"))
    except BollardError:
        return False  # an endpoint that does not answer gets no token sent


def look_up(name: Reference, library: str, arch: str, insecure: bool = False) -> tuple[Image, str]:
    """Ask a library for an image; return it, and the token to fetch it with.

    name: the reference, library://...
    library: the URL or host of the library; "" if the name holds the host.
    arch: Go's name of the architecture.
    insecure: use plain HTTP for a host that the name holds.

    Raises:
        BollardError: no library is named, or two are; the library is not a web address; it gives no SHA-256.
    """
    host, path, tag = reference.library_path(name)
    base, token = place(host, library, os.environ, name.uri, insecure)
    where = f"{quote(path)}:{tag}?{urlencode({'arch': arch})}"
    data = _data(web.document(f"{base}/v1/images/{where}", name.uri, token))
    said = _HASH.fullmatch(str(data.get("hash", "")))
    if not said:
        raise BollardError(
            f"{name.uri}: the library gives no SHA-256 for it", "an image is not used without one; name another"
        )
    size = data.get("size")
    size = size if isinstance(size, int) and 0 < size <= web.MAX_FILE else 0
    return Image(said[1], size, f"{base}/v1/imagefile/{where}"), token


class Upload(NamedTuple):
    """What is pushed: the SIF file, its architecture (Go's name), a description, "" for none."""

    path: str
    arch: str
    description: str = ""


class Kept(NamedTuple):
    """What a library says after a push: its page of the container, bytes in use and allowed; "" and 0 for unknown."""

    url: str = ""
    used: int = 0
    quota: int = 0


def push(name: Reference, upload: Upload, where: Place) -> Kept:
    """Push a SIF file into a library: make what is missing of its path, send the file, set the tags.

    name: the reference, library://[HOST/]ENTITY/COLLECTION/CONTAINER[:TAG,...].
    upload: the file.
    where: the library, with a token.

    Raises:
        BollardError: the library refuses the push or does not answer, or the file cannot be read.
    """
    path, tags = reference.library_path(name).path, reference.library_tags(name)
    parts = path.strip("/").split("/")
    if len(parts) != 3:
        raise BollardError(f"{name.uri}: is no place for an image", "write library://ENTITY/COLLECTION/CONTAINER:TAG")
    size, sha256, md5 = _sums(upload.path)
    client = _Client(where, name.uri)
    entity = client.made("v1/entities", parts[0], {"name": parts[0], "description": "No description"})
    wanted = {"name": parts[1], "description": "No description", "entity": entity["id"]}
    collection = client.made("v1/collections", "/".join(parts[:2]), wanted)
    wanted = {"name": parts[2], "description": "No description", "collection": collection["id"]}
    box = client.made("v1/containers", "/".join(parts), wanted)
    wanted = {"hash": f"sha256.{sha256}", "description": upload.description, "container": box["id"]}
    query = urlencode({"arch": upload.arch})
    image = client.made("v1/images", f"{'/'.join(parts)}:sha256.{sha256}", wanted, query)
    kept = Kept()
    modern = client.version()
    if not image.get("uploaded"):
        progress.say(f"sending {name.uri}")
        kept = client.upload(str(image["id"]), upload.path, (size, sha256, md5), modern >= (2, 0, 0, 1))
    for tag in tags:
        if modern >= (2, 0, 0, 2):
            said = {"Arch": upload.arch, "Tag": tag, "ImageID": image["id"]}
            client.ask("POST", f"v2/tags/{quote(str(box['id']), safe='')}", said)
        else:
            said = {"Tag": tag, "ImageID": image["id"]}
            client.ask("POST", f"v1/tags/{quote(str(box['id']), safe='')}", said)
    return kept


def delete(name: Reference, arch: str, where: Place) -> None:
    """Delete an image from a library.

    name: the reference of the image.
    arch: Go's name of the architecture.
    where: the library.

    Raises:
        BollardError: the image is not there, or the library refuses.
    """
    _, path, tag = reference.library_path(name)
    query = urlencode({"arch": arch})
    web.call("DELETE", f"{where.url}/v1/images/{quote(path)}:{tag}?{query}", name.uri, where.token)


def search(text: str, arch: str, signed: bool, where: Place) -> list[dict[str, Any]]:
    """Return the images of a library that match, as the library describes them.

    text: what to search for, at least 3 characters.
    arch: Go's name of the architecture.
    signed: only signed images.
    where: the library.

    Raises:
        BollardError: `text` is too short, or the request fails.
    """
    if len(text) < 3:
        raise BollardError(f"bad query '{text}'", "you must search for at least 3 characters")
    query = urlencode({"value": text, "arch": arch, **({"signed": "true"} if signed else {})})
    images = _data(web.document(f"{where.url}/v1/search?{query}", "library", where.token)).get("image") or []
    return [item for item in images if isinstance(item, dict)] if isinstance(images, list) else []


class _Client(NamedTuple):
    where: Place
    what: str

    def ask(self, method: str, path: str, data: object = None, allowed: tuple[int, ...] = ()) -> web.Answer:
        return web.call(method, f"{self.where.url}/{path}", self.what, self.where.token, data, allowed)

    def made(self, kind: str, path: str, wanted: dict[str, Any], query: str = "") -> dict[str, Any]:
        """Return the library's object at `path`; make it if it is missing."""
        answer = self.ask("GET", f"{kind}/{quote(path)}{'?' + query if query else ''}", allowed=(404,))
        found = _data(answer.data) if answer.status != 404 else _data(self.ask("POST", kind, wanted).data)
        if not found.get("id"):
            raise BollardError(f"{self.what}: the library's answer has no id", "is it a container library?")
        return found

    def version(self) -> tuple[int, ...]:
        """Return the version of the library's protocol, (2, 0, 0, 2) for 2.0.0-alpha.2; (0,) if it tells none."""
        answer = self.ask("GET", "version", allowed=(404, 405, 501))
        said = _data(answer.data).get("apiVersion")
        found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:-alpha\.(\d+))?.*", str(said or ""))
        return (*map(int, found.groups()[:3]), int(found[4] or 1 << 20)) if found else (0,)

    def upload(self, number: str, path: str, sums: tuple[int, str, str], modern: bool) -> Kept:
        size, sha256, md5 = sums
        place = f"v2/imagefile/{quote(number, safe='')}"
        if not modern:
            url = f"{self.where.url}/v1/imagefile/{quote(number, safe='')}"
            web.send(url, self.what, Body(path, 0, size), "POST", self.where.token)
            return Kept()
        if size > _PART_FLOOR:
            answer = self.ask("POST", f"{place}/_multipart", {"filesize": size}, allowed=(404,))
            if answer.status != 404:
                return self.in_parts(place, path, size, _data(answer.data))
        said = _data(self.ask("POST", place, {"filesize": size, "sha256sum": sha256, "md5sum": md5}).data)
        url = self.signed(said.get("uploadURL"))
        headers = {"x-amz-content-sha256": sha256} if "x-amz-content-sha256" in url.lower() else {}
        web.send(url, self.what, Body(path, 0, size, headers))
        return _kept(self.ask("PUT", f"{place}/_complete", {}).data)

    def in_parts(self, place: str, path: str, size: int, said: dict[str, Any]) -> Kept:
        step, count, name = said.get("partSize"), said.get("totalParts"), said.get("uploadID")
        if not isinstance(step, int) or not isinstance(count, int):
            step = count = 0
        if not 0 < count <= _MOST_PARTS or not (count - 1) * step < size <= count * step:
            raise BollardError(f"{self.what}: the library wants {count} parts of {step} bytes", "ask who runs it")
        options = said.get("options")
        summed = not isinstance(options, dict) or options.get("s3compliant", "true") in ("", "true")
        done = []
        try:
            for number in range(1, count + 1):
                at = (number - 1) * step
                length = min(step, size - at)
                sha256 = _sums(path, at, length)[1] if summed else ""
                wanted = {"partSize": length, "uploadID": name, "partNumber": number, "sha256sum": sha256}
                url = self.signed(_data(self.ask("PUT", f"{place}/_multipart", wanted).data).get("presignedURL"))
                headers = {"x-amz-content-sha256": sha256} if summed else {}
                etag = web.send(url, self.what, Body(path, at, length, headers)).get("etag", "")
                done.append({"partNumber": number, "token": etag})
        except BollardError:
            try:
                self.ask("PUT", f"{place}/_multipart_abort", {"uploadID": name})
            except BollardError:
                pass  # the first error is the one to tell; the library removes unfinished uploads itself
            raise
        wanted = {"uploadID": name, "completedParts": done}
        return _kept(self.ask("PUT", f"{place}/_multipart_complete", wanted).data)

    def signed(self, url: object) -> str:
        """Return the address of a store that the library has named; raise if it is not encrypted and the library is."""
        text = str(url or "")
        schemes = ("https",) if self.where.url.startswith("https:") else ("http", "https")
        if urlsplit(text).scheme not in schemes:
            raise BollardError(f"{self.what}: the library gives no usable address to send it to", "ask who runs it")
        return text


def _data(answer: dict[str, Any]) -> dict[str, Any]:
    found = answer.get("data")
    return found if isinstance(found, dict) else {}


def _kept(answer: dict[str, Any]) -> Kept:
    found = _data(answer)
    quota = found.get("quota")
    numbers = [quota.get(name) for name in ("quotaUsage", "quotaTotal")] if isinstance(quota, dict) else [0, 0]
    used, total = (number if isinstance(number, int) else 0 for number in numbers)
    return Kept(str(found.get("containerUrl") or ""), used, total)


def _sums(path: str, offset: int = 0, length: int = -1) -> tuple[int, str, str]:
    """Return size, SHA-256 and MD5 of a file or of a part of it. Stores of libraries compare the MD5."""
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.new("md5", usedforsecurity=False)
    with open(path, "rb") as file:
        file.seek(offset)
        while data := file.read(_READ_SIZE if length < 0 else min(_READ_SIZE, length - size)):
            size += len(data)
            sha256.update(data)
            md5.update(data)
    return size, sha256.hexdigest(), md5.hexdigest()
