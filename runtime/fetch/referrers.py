# SPDX-License-Identifier: BSD-3-Clause
"""The list of what refers to an image of a registry: GET /v2/NAME/referrers/DIGEST (OCI distribution-spec 1.1).

skopeo does not ask for it. This module asks the registry that the image's name has, with the logins that skopeo gets.
It knows no mirrors. A password goes to the registry, and to a token server that the registry names, which must be
encrypted unless the registry itself is not.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import urllib.parse
from typing import Any, NamedTuple

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import logins, registry, web
from bollard.runtime.fetch.logins import Login
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.registry import Access

_INDEX = "application/vnd.oci.image.index.v1+json"
_PAGES = 8
_HUB_SERVER = "registry-1.docker.io"
_CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')


class _Server(NamedTuple):
    """A registry: its address, how to speak with it, the login; `what` is the image's name for messages."""

    url: str
    context: ssl.SSLContext
    login: Login | None
    what: str


def listed(name: Reference, digest: str, access: Access) -> list[dict[str, Any]]:
    """Return the descriptors of the manifests that refer to an image; none if the registry has no such list.

    name: the image.
    digest: of its manifest, "sha256:HEX".
    access: how to access the registry.

    Raises:
        BollardError: the registry cannot be reached or refuses, or its answer is not an index.
    """
    host, _, path = registry.full_repository(name.name).partition("/")
    url = f"https://{_HUB_SERVER if host == logins.HUB else host}/v2/{path}/referrers/{digest}"
    server = _Server(url, _context(host, access), registry.login(name, access), name.uri)
    authorization, found = "", list[dict[str, Any]]()
    for number in range(_PAGES):
        got, authorization, server = _asked(server, authorization, access)
        if got.status == 404 and not number:
            return []
        if got.status >= 300:
            raise BollardError(f"{name.uri}: its list of referrers: {host} answers {got.status}", "try again later")
        found += _entries(got.data, name)
        match = _NEXT.search(got.headers.get("link", ""))
        if not match:
            break
        following = urllib.parse.urljoin(server.url, match[1])
        if urllib.parse.urlsplit(following)[:2] != urllib.parse.urlsplit(server.url)[:2]:
            raise BollardError(
                f"{name.uri}: its list of referrers goes on elsewhere, at {shown(following)[:200]}", "do not trust it"
            )
        server = server._replace(url=following)
    return found


def _entries(data: bytes, name: Reference) -> list[dict[str, Any]]:
    try:
        document = json.loads(data)
        entries = document["manifests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise BollardError(f"{name.uri}: its list of referrers is not an index", "ask who runs the registry")
    return [entry for entry in entries if isinstance(entry, dict)]


def _asked(server: _Server, authorization: str, access: Access) -> tuple[web.Got, str, _Server]:
    """Ask for one page; return the answer, the authorization that it took, and the server as it can be spoken with."""
    try:
        got = _get(server, authorization)
    except BollardError:
        if not access.insecure or not server.url.startswith("https:"):
            raise
        server = server._replace(url=f"http{server.url[5:]}")  # as skopeo does with --tls-verify=false
        got = _get(server, authorization)
    if got.status == 401:
        authorization = _authorized(server, got.headers.get("www-authenticate", ""))
        got = _get(server, authorization)
    if got.status in (401, 403):
        raise BollardError(f"{server.what}: its list of referrers needs a login", "`bollard registry login`")
    return got, authorization, server


def _get(server: _Server, authorization: str, url: str = "") -> web.Got:
    headers = {"Accept": _INDEX, **({"Authorization": authorization} if authorization else {})}
    return web.get(url or server.url, server.what, headers, server.context)


def _authorized(server: _Server, challenge: str) -> str:
    """Return the value of Authorization that a challenge asks for (RFC 7235; docs of distribution, "token").

    Raises:
        BollardError: it is of another kind, or its token server must not get the login.
    """
    kind, _, rest = challenge.partition(" ")
    basic = ""
    if server.login and not server.login.token:
        pair = f"{server.login.user}:{server.login.password}".encode("utf-8", "surrogateescape")
        basic = f"Basic {base64.b64encode(pair).decode()}"
    if kind.lower() == "basic":
        return basic
    asked = dict(_PARAMETER.findall(rest))
    realm = asked.get("realm", "")
    scheme = urllib.parse.urlsplit(realm).scheme
    if kind.lower() != "bearer" or scheme not in ("http", "https"):
        text = f"{server.what}: its list of referrers wants a login of an unknown kind, {shown(challenge)[:100]}"
        raise BollardError(text, "ask who runs the registry")
    if scheme == "http" and server.url.startswith("https:"):
        raise BollardError(f"{server.what}: the registry's token server is not encrypted", "ask who runs the registry")
    query = urllib.parse.urlencode({key: asked[key] for key in ("service", "scope") if key in asked})
    got = _get(server, basic, f"{realm}{'&' if '?' in realm else '?'}{query}")
    try:
        document = json.loads(got.data) if got.status == 200 else {}
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise BollardError(f"{server.what}: the registry's token server gives no token", "`bollard registry login`")
    return f"Bearer {token}"


def _context(host: str, access: Access) -> ssl.SSLContext:
    """Return the context for TLS, with the certificates that this machine has for the registry (containers-certs.d)."""
    context = ssl.create_default_context()
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    own = os.path.join(os.environ.get("HOME") or os.path.expanduser("~"), ".config/containers/certs.d")
    for folder in (own, *_CERTIFICATES):
        place = f"{folder}/{host}"
        names = sorted(os.listdir(place)) if os.path.isdir(place) and os.access(place, os.R_OK | os.X_OK) else []
        for file in names:
            if file.endswith(".crt"):
                context.load_verify_locations(f"{place}/{file}")
    return context
