# SPDX-License-Identifier: BSD-3-Clause
"""Key servers: search, fetch and publish PGP keys, by the protocol HKP.

    GET  BASE/pks/lookup?op=get&options=mr&exact=on&search=0xFINGERPRINT     an armored key
    GET  BASE/pks/lookup?op=index&options=mr&fingerprint=on&search=TEXT      lines "pub:...", "uid:..."
    POST BASE/pks/add                                                        keytext=ARMORED

Anybody may publish a key under any name. So a key that a server sends is used only if it has the full fingerprint that
was asked for, and it is trusted only after the user has added it to a keyring.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import remote, web
from bollard.runtime.trust import keyring
from bollard.runtime.trust.keyring import Key

MAX_ANSWER = 8 << 20
MAX_FOUND = 100
_SILENCE = 20  # seconds without a byte
_DEADLINE = 60  # seconds for a whole answer
_SCHEMES = {"hkp": "http", "hkps": "https", "http": "http", "https": "https"}
_PORT = 11371  # of hkp://


class Found(NamedTuple):
    """A key that a server lists: nothing of it is checked.

    fingerprint: as the server gives it, perhaps only a part of it.
    algorithm: the number of OpenPGP, or "".
    bits: the length of the key, or "".
    created, expires: seconds since 1970, 0 for unknown or never.
    flags: r revoked, d disabled, e expired.
    users: the user ids.
    """

    fingerprint: str
    algorithm: str
    bits: str
    created: int
    expires: int
    flags: str
    users: tuple[str, ...]


def bases(url: str, environ: Mapping[str, str]) -> list[str]:
    """Return the addresses of the key servers to ask, in this order; [] if none is named.

    `url`, else BOLLARD_KEYSERVER, else those of the endpoint that is in use in remote.yaml. Without that file no server
    is asked.

    Raises:
        BollardError: one is no address of a key server, or remote.yaml cannot be used.
    """
    url = url or environ.get("BOLLARD_KEYSERVER", "")
    if url:
        return [_address(url)]
    config = remote.of_user(remote.file(environ))
    if not config.active:
        return []
    return [_address(server.uri) for server in remote.keyservers(remote.get(config)) if not server.skip]


def base(url: str, environ: Mapping[str, str]) -> str:
    """Return the address of the first key server, to search and to publish, as in Apptainer.

    Raises:
        BollardError: none is named, or the first is no address of a key server.
    """
    found = bases(url, environ)
    if not found:
        raise BollardError(
            "no key server is named", "add --url URL, set BOLLARD_KEYSERVER, or use an endpoint: `bollard remote add`"
        )
    return found[0]


def _address(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if not colon or scheme.lower() not in _SCHEMES or not host or not url.isprintable() or " " in url:
        raise BollardError(f"{shown(url)}: is no address of a key server", "write https://HOST or hkp://HOST")
    if scheme.lower() == "hkp" and ":" not in host.rpartition("]")[2]:
        host += f":{_PORT}"
    return f"{_SCHEMES[scheme.lower()]}://{host}{slash}{path}".rstrip("/")


def fetch(server: str, fingerprint: str) -> Key:
    """Return the public key with this fingerprint.

    server: the address, from `base`.
    fingerprint: in full, 40 hexadecimal digits.

    Raises:
        BollardError: the server does not have it, sends another key, or does not answer.
    """
    wanted = fingerprint.upper()
    query = {"op": "get", "options": "mr", "exact": "on", "search": f"0x{wanted}"}
    data = _ask(f"{server}/pks/lookup?{urlencode(query)}", server, f"has no key {wanted}")
    keys = keyring.split_named(keyring.dearmored(data, server), server)
    found = keyring.find(keys, wanted)
    if found is None or found.secret:
        raise BollardError(f"{server}: sent another key than {wanted}", "do not use it")
    return found


def fetch_from(servers: Sequence[str], fingerprint: str) -> Key:
    """Return the key from the first of the servers that has it.

    Raises:
        BollardError: none has it; the message is that of the last one.
    """
    for server in servers[:-1]:
        try:
            return fetch(server, fingerprint)
        except BollardError:
            pass  # the next one may have it
    return fetch(servers[-1], fingerprint)


def search(server: str, text: str) -> list[Found]:
    """Return the keys that the server finds for a name, an address or a fingerprint; at most 100.

    server: the address, from `base`.
    text: what to look for.

    Raises:
        BollardError: the server finds nothing, or does not answer as the protocol says.
    """
    query = {"op": "index", "options": "mr", "fingerprint": "on", "search": text}
    data = _ask(f"{server}/pks/lookup?{urlencode(query, quote_via=quote)}", server, f"has no key for {shown(text)!r}")
    return parse_index(data.decode("utf-8", "replace"), server)


def parse_index(text: str, server: str = "the key server") -> list[Found]:
    """Return the keys of a machine readable index.

    text: lines with colons between the fields; others are left out.
    server: its name for messages.

    Raises:
        BollardError: there is no line of a key.
    """
    found: list[Found] = []
    for line in text.splitlines():
        fields = [unquote(field) for field in line.split(":")]
        if fields[0] == "pub" and len(fields) >= 2 and len(found) < MAX_FOUND:
            fields += [""] * (7 - len(fields))
            found.append(
                Found(fields[1].upper(), fields[2], fields[3], _time(fields[4]), _time(fields[5]), fields[6], ())
            )
        elif fields[0] == "pub":
            break
        elif fields[0] == "uid" and len(fields) >= 2 and found:
            found[-1] = found[-1]._replace(users=(*found[-1].users, fields[1]))
    if not found:
        raise BollardError(f"{server}: the answer lists no keys", "check its address")
    return found


def _time(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def publish(server: str, key: Key) -> None:
    """Send a public key to the server.

    server: the address, from `base`.
    key: the public key.

    Raises:
        BollardError: the server refuses it, or does not answer.
    """
    assert not key.secret
    body = urlencode({"keytext": keyring.armored(key.raw, secret=False)}).encode()
    _ask(f"{server}/pks/add", server, "knows no /pks/add", body)


def _ask(url: str, server: str, missing: str, body: bytes | None = None) -> bytes:
    """Return the body of the answer, within a minute and 8 MiB; `missing` is said for 404."""
    headers = {"User-Agent": "bollard"}
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    end = time.monotonic() + _DEADLINE
    parts, total = [], 0
    try:
        with web.opener().open(urllib.request.Request(url, body, headers), timeout=_SILENCE) as answer:
            while data := answer.read1(1 << 16):
                parts.append(data)
                total += len(data)
                if total > MAX_ANSWER:
                    raise BollardError(f"{server}: sends more than {MAX_ANSWER} bytes", "is it a key server?")
                if time.monotonic() > end:
                    raise BollardError(f"{server}: is not done after {_DEADLINE} s", "try again later")
            if answer.length:  # what Content-Length promised and did not come
                raise BollardError(f"{server}: the answer ended {answer.length} bytes too early", "try again")
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(server, error, missing) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _away(server, error) from None
    return b"".join(parts)


def _refused(server: str, error: urllib.error.HTTPError, missing: str) -> BollardError:
    if error.code in (404, 410):
        return BollardError(f"{server}: {missing}", "check the fingerprint, or ask another server")
    if error.code in (401, 403):
        return BollardError(f"{server}: wants a login ({error.code})", "use another key server")
    if error.code == 429:
        wait = error.headers.get("Retry-After", "")
        when = f"in {wait} s" if wait.isascii() and wait.isdigit() else "later"
        return BollardError(f"{server}: has had too many questions (429)", f"try again {when}")
    return BollardError(f"{server}: answers {error.code} {shown(str(error.reason))[:80]}", "try again later")


def _away(server: str, error: Any) -> BollardError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        text = getattr(reason, "verify_message", "") or reason.reason or "TLS fails"
        return BollardError(f"{server}: is not trusted: {text}", "check its address")
    text = getattr(reason, "strerror", "") or str(reason) or type(reason).__name__
    return BollardError(f"{server}: cannot be reached: {shown(text)}", "check its address and the network")
