# SPDX-License-Identifier: BSD-3-Clause
"""Fetch files from web servers. The size is limited, and the file is hashed while it is read.

No login is ever sent, so a redirect cannot leak one.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from bollard.runtime import causes
from bollard.runtime.errors import BollardError

MAX_FILE = 1 << 40
_MAX_JSON = 1 << 20
_READ_SIZE = 1 << 20
_TIMEOUT = 60  # seconds without a byte


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


def opener() -> urllib.request.OpenerDirector:
    """Return what opens addresses of web servers alone, and follows no redirect to one that is not encrypted."""
    made = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
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
        return ""


def document(url: str, what: str) -> dict[str, Any]:
    """Fetch a JSON object; `what` is the image's name for messages.

    Raises:
        BollardError: the request fails, or the answer is not a JSON object of at most 1 MiB.
    """
    with _open(url, what) as answer:
        try:
            data = answer.read(_MAX_JSON + 1)
            found = json.loads(data) if len(data) <= _MAX_JSON else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise BollardError(f"{what}: the answer is not a JSON object of at most {_MAX_JSON} bytes", "check the address")
    return found


def save(url: str, path: str, what: str, size: int = 0) -> str:
    """Write the content of a URL to the new file `path`; return its SHA-256 in hexadecimal digits.

    what: the image's name for messages.
    size: the exact size in bytes; 0 if unknown.

    Raises:
        BollardError: the request or a write fails, or the size differs from `size` or from Content-Length.
    """
    total, digest = 0, hashlib.sha256()
    with _open(url, what) as answer, open(path, "xb") as file:
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
            try:
                file.write(data)
            except OSError as error:
                raise causes.of(error, f"{what}: cannot be kept", path) from None
    if total > limit or size and total != size:
        much = "more" if total > limit else f"{total}"
        raise BollardError(f"{what}: {much} bytes came, {limit} expected", "try again")
    return digest.hexdigest()


def _open(url: str, what: str, method: str = "GET") -> Any:
    """Send the request; return the answer, an http.client.HTTPResponse."""
    try:
        return opener().open(
            urllib.request.Request(url, method=method, headers={"User-Agent": "bollard"}), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise BollardError(f"{what}: no such image", "check its name and its tag") from None
        if error.code in (401, 403):
            raise BollardError(
                f"{what}: the server wants a login ({error.code})", "fetch the file by other means"
            ) from None
        raise BollardError(f"{what}: the server answers {error.code} {error.reason}", "try again later") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _away(what, error) from None


def _away(what: str, error: Exception) -> BollardError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        text = getattr(reason, "verify_message", "") or reason.reason or "TLS fails"
        return BollardError(f"{what}: the server is not trusted: {text}", "check its address, or use --no-https")
    text = getattr(reason, "strerror", "") or str(reason) or type(reason).__name__
    return BollardError(f"{what}: the server cannot be reached: {text}", "check its name and the network")
