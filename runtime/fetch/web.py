# SPDX-License-Identifier: BSD-3-Clause
"""Requests to web servers: fetch files, and speak with libraries and endpoints.

The size of an answer is limited, and a file is hashed while it is read or sent. A token is sent to the server that was
named, and to no other: a redirect does not take it along. A server that asks to wait (429, 503) is asked again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bollard.runtime import causes, progress
from bollard.runtime.errors import BollardError, shown

MAX_FILE = 1 << 40
TIMEOUT_FORM = "BOLLARD_FETCH_TIMEOUT"
_MAX_JSON = 1 << 20
_MAX_DOCUMENT = 4 << 20
_MAX_REASON = 200
_READ_SIZE = 1 << 20
_TRIES = 5
_LONGEST_WAIT = 60  # seconds between two tries


class Answer(NamedTuple):
    """The status of an answer and its JSON object, {} for an answer without one."""

    status: int
    data: dict[str, Any]


class Got(NamedTuple):
    """The status of an answer, its headers by names in lower case, and its content."""

    status: int
    headers: dict[str, str]
    data: bytes


class Body(NamedTuple):
    """A part of a file to send: its path, the offset and the size of the part in bytes, and more headers."""

    path: str
    offset: int
    size: int
    headers: dict[str, str] = {}


def timeout() -> float:
    """Return how many seconds a server may be silent: BOLLARD_FETCH_TIMEOUT, or 60.

    Raises:
        BollardError: the variable is not a number from 1 to 3600.
    """
    text = os.environ.get(TIMEOUT_FORM, "") or "60"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 3600:
        raise BollardError(f"{TIMEOUT_FORM}={text}: is not a number from 1 to 3600", "give seconds")
    return float(text)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but refuse one from https: to a URL that is not encrypted."""

    def redirect_request(self, request: Any, answer: Any, code: int, text: str, headers: Any, url: str) -> Any:
        if request.type == "https" and not url.lower().startswith("https:"):
            raise urllib.error.URLError(f"it redirects to {url}, which is not encrypted")
        return super().redirect_request(request, answer, code, text, headers, url)


# Without urllib's handlers for ftp: and file:, so that a redirect cannot use them.
_HANDLERS = (
    urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler, _Redirects, urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)  # fmt: skip


def opener(*, direct: bool = False, context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """Return what opens addresses of web servers alone, and follows no redirect to one that is not encrypted.

    direct: use no proxy.
    context: for TLS; None for the certificates of this machine.
    """
    made = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        if handler is urllib.request.HTTPSHandler:
            made.add_handler(handler(context=context))
        elif not (direct and handler is urllib.request.ProxyHandler):
            made.add_handler(handler())
    return made


def date(url: str, what: str) -> str:
    """Return the Last-Modified of the file; "" if the server does not give it, or after an error.

    Errors are ignored here: `save` will report them.
    """
    try:
        with _open(url, what, "HEAD") as answer:
            return str(answer.headers.get("Last-Modified", ""))
    except BollardError:
        return ""  # `save` fetches it next, and reports the error


def document(url: str, what: str, token: str = "") -> dict[str, Any]:
    """Fetch a JSON object.

    url: its address.
    what: name of the image or the server, for messages.
    token: sent as a login; "" for none.

    Raises:
        BollardError: the request fails, or the answer is not a JSON object of at most 1 MiB.
    """
    with _open(url, what, token=token) as answer:
        found = _object(answer)
    if found is None:
        raise BollardError(f"{what}: the answer is not a JSON object of at most {_MAX_JSON} bytes", "check the address")
    return found


def call(
    method: str, url: str, what: str, token: str = "", data: object = None, allowed: tuple[int, ...] = ()
) -> Answer:
    """Send a request with a JSON body to an API; return the answer.

    method: GET, POST, PUT or DELETE.
    url: the address.
    what: name of the image, for messages.
    token: sent as a login; "" for none.
    data: sent as JSON; None for nothing.
    allowed: statuses of 400 and above that are no error.

    Raises:
        BollardError: the request fails.
    """
    body = None if data is None else json.dumps(data).encode()
    with _open(url, what, method, token, body, allowed) as answer:
        return Answer(answer.status, _object(answer) or {})


def get(url: str, what: str, headers: Mapping[str, str], context: ssl.SSLContext) -> Got:
    """Fetch a small document, and return it whatever its status is. A redirect does not take the headers along.

    url: its address.
    what: name of the image, for messages.
    headers: of the request.
    context: for TLS.

    Raises:
        BollardError: the server cannot be reached, or sends more than 4 MiB.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "bollard", "Accept-Encoding": "identity"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    try:
        try:
            answer = opener(context=context).open(request, timeout=timeout())
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            data = answer.read(_MAX_DOCUMENT + 1)
            found = {name.lower(): value for name, value in answer.headers.items()}
            status = answer.status or 0
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _away(what, error) from None
    if len(data) > _MAX_DOCUMENT:
        raise BollardError(f"{what}: the server sends over {_MAX_DOCUMENT} bytes", "ask who runs it")
    return Got(status, found, data)


def send(url: str, what: str, body: Body, method: str = "PUT", token: str = "") -> dict[str, str]:
    """Send a part of a file; return the headers of the answer, with names in lower case.

    url: the address.
    what: name of the image, for messages.
    body: the part of the file.
    method: PUT or POST.
    token: sent as a login; "" for none.

    Raises:
        BollardError: the request fails, or the file cannot be read.
    """
    with _open(url, what, method, token, body) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}


def save(url: str, path: str, what: str, size: int = 0, token: str = "") -> str:
    """Write the content of a URL to the new file `path`; return its SHA-256 in hexadecimal digits.

    url: the address.
    path: the path of the file.
    what: the image's name for messages.
    size: the exact size in bytes; 0 if unknown.
    token: sent as a login; "" for none.

    Raises:
        BollardError: the request or a write fails, or the size differs from `size` or from Content-Length.
    """
    with _open(url, what, token=token) as answer:
        if answer.status != 200:  # 206 is a part that nobody asked for; 202 and 204 are no file
            text = f"{what}: the server answers {answer.status} {shown(str(answer.reason))[:_MAX_REASON]}".rstrip()
            raise BollardError(f"{text}, and not with the whole file", "ask who runs the server")
        coding = answer.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            text = f"{what}: the server sends the file in another coding, {shown(coding)[:_MAX_REASON]}"
            raise BollardError(text, "fetch it by `curl --compressed`, and name the file")
        return _kept(answer, path, what, size)


def _kept(answer: Any, path: str, what: str, size: int) -> str:
    """Write an answer into the new file `path`; return its SHA-256. Parameters and errors are those of `save`."""
    total, digest = 0, hashlib.sha256()
    with open(path, "xb") as file:
        size = size or (answer.length or 0)  # Content-Length, where it is one
        limit = min(size or MAX_FILE, MAX_FILE)
        while total <= limit:
            try:
                data = answer.read(_READ_SIZE)
            except (OSError, http.client.HTTPException) as error:
                raise _away(what, error) from None
            if not data:
                break
            total += len(data)
            digest.update(data)
            progress.moved(total, size)
            try:
                file.write(data)
            except OSError as error:
                raise causes.of(error, f"{what}: cannot be kept", path) from None
    if total > limit or size and total != size:
        much = "more" if total > limit else f"{total}"
        raise BollardError(f"{what}: {much} bytes came, {limit} expected", "try again")
    return digest.hexdigest()


def _open(
    url: str,
    what: str,
    method: str = "GET",
    token: str = "",
    body: bytes | Body | None = None,
    allowed: tuple[int, ...] = (),
) -> Any:
    """Send the request, again after a pause if the server asks for one; return the answer, an HTTPResponse."""
    for left in range(_TRIES - 1, -1, -1):
        try:
            return _once(url, method, token, body)
        except urllib.error.HTTPError as error:
            if error.code in allowed:
                return error
            with error:
                pause = _pause(error, _TRIES - 1 - left)
                if not left or pause is None:
                    raise _refused(what, error, bool(token)) from None
            progress.say(f"{what}: the server asks to wait {pause:.0f} s")
            time.sleep(pause)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _away(what, error) from None
    raise AssertionError("unreachable")


def _once(url: str, method: str, token: str, body: bytes | Body | None) -> Any:
    data: Any = _parts(body) if isinstance(body, Body) else body
    request = urllib.request.Request(url, data, {"User-Agent": "bollard", "Accept-Encoding": "identity"}, method=method)
    if isinstance(body, Body):
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Content-Length", str(body.size))
        for name, value in body.headers.items():
            request.add_header(name, value)
    elif body is not None:
        request.add_header("Content-Type", "application/json")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return opener().open(request, timeout=timeout())


def _parts(body: Body) -> Iterator[bytes]:
    with open(body.path, "rb") as file:
        file.seek(body.offset)
        left = body.size
        while left > 0 and (data := file.read(min(left, _READ_SIZE))):
            left -= len(data)
            yield data


def _pause(error: urllib.error.HTTPError, tried: int) -> float | None:
    """Return how many seconds to wait before the next try; None if another try is useless."""
    if error.code not in (429, 503):
        return None
    said = error.headers.get("Retry-After", "") or str(1 << tried)
    if not said.isascii() or not said.isdigit() or int(said) > _LONGEST_WAIT:
        return None if said.isdigit() else float(1 << tried)
    return float(said)


def _object(answer: Any) -> dict[str, Any] | None:
    """Return the JSON object of an answer; None if it has none."""
    try:
        data = answer.read(_MAX_JSON + 1)
        found = json.loads(data) if len(data) <= _MAX_JSON else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        found = None  # no object: the caller says that this is no answer of a library
    return found if isinstance(found, dict) else None


def _refused(what: str, error: urllib.error.HTTPError, with_token: bool) -> BollardError:
    """Return the error for an answer of status 400 or above, with the reason that a library's JSON gives."""
    said = (_object(error) or {}).get("error")
    text = str(said.get("message", "")) if isinstance(said, dict) else ""
    reason = shown(text or str(error.reason))[:_MAX_REASON]
    if error.code in (404, 410):
        return BollardError(f"{what}: no such image", "check its name and its tag")
    if error.code in (401, 403) and with_token:
        return BollardError(
            f"{what}: the server refuses your token ({error.code} {reason})",
            "`bollard remote login`, or ask for the right",
        )
    if error.code in (401, 403):
        return BollardError(f"{what}: the server wants a login ({error.code})", "`bollard remote login`, for a library")
    if error.code == 429:
        wait = error.headers.get("Retry-After", "")
        when = f"{wait} s" if wait.isascii() and wait.isdigit() else "a few minutes"
        return BollardError(f"{what}: the server takes no more requests (429)", f"try again in {when}")
    place = error.headers.get("Location", "")
    if 300 <= error.code < 400 and place:  # one that urllib does not follow
        to = shown(place)[:_MAX_REASON]
        text = f"to {to}, which is no web address"
        if "infinite loop" in str(error.reason):
            text = f"too often, last to {to}"
        elif urllib.parse.urlsplit(urllib.parse.urljoin(error.url or "", place)).scheme in ("http", "https"):
            text = f"what is sent ({error.code}) to {to}; bollard sends it nowhere else"
        return BollardError(f"{what}: the server redirects {text}", "check the address")
    return BollardError(f"{what}: the server answers {error.code} {reason}", "try again later")


def _away(what: str, error: Exception) -> BollardError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        text = getattr(reason, "verify_message", "") or reason.reason or "TLS fails"
        return BollardError(f"{what}: the server is not trusted: {text}", "check its address, or use --no-https")
    if isinstance(reason, TimeoutError):  # socket.timeout is another class before Python 3.10
        return _silent(what)
    if isinstance(reason, (ConnectionResetError, BrokenPipeError, http.client.HTTPException)):
        return BollardError(f"{what}: the server has ended the connection", "try again; may files be of this size?")
    text = getattr(reason, "strerror", "") or str(reason) or type(reason).__name__
    if "timed out" in text:
        return _silent(what)
    return BollardError(f"{what}: the server cannot be reached: {text}", "check its name and the network")


def _silent(what: str) -> BollardError:
    text = f"{what}: the server has sent nothing for {timeout():.0f} s"
    return BollardError(text, f"try again, or set {TIMEOUT_FORM}")
