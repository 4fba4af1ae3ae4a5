# SPDX-License-Identifier: BSD-3-Clause
"""The commands `bollard remote ...`, on Apptainer's remote.yaml, with Apptainer's options and output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from bollard.runtime.cli import registry
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import logins, remote, web
from bollard.runtime.fetch.remote import Config, Endpoint
from bollard.runtime.request import command_line, spec
from bollard.runtime.request.options import setting
from bollard.runtime.system import rootless

_WORDS = {
    "list": (0, 0), "use": (1, 1), "add": (2, 2), "remove": (1, 1), "login": (0, 1), "logout": (0, 1), "status": (0, 1),
    "get-login-password": (0, 0), "add-keyserver": (1, 2), "remove-keyserver": (1, 2),
}  # fmt: skip
_MAX_TOKEN = 1 << 16


def run(verb: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard remote VERB`; return the exit status.

    verb: a key of _WORDS.
    given: the options, name and value.
    words: the arguments.

    Raises:
        BollardError: the arguments are invalid, a file cannot be read or changed, or an endpoint does not answer.
    """
    command_line.refuse_empty(given)
    asked = dict(given)
    least, most = _WORDS[verb]
    if not least <= len(words) <= most:
        number = str(most) if least == most else f"{least} or {most}"
        hint = f"see `bollard remote {verb} --help`"
        raise BollardError(f"remote {verb} takes {number} words, not {len(words)}", hint)
    with rootless.ending_by_signals():
        return _RUN[verb](asked, words)


def _place(asked: dict[str, str]) -> tuple[str, bool]:
    """Return the file to change, and whether it is the system's."""
    of_system = asked.get("global", "0") == "1" or asked.get("exclusive", "0") == "1"
    if of_system and os.geteuid() != 0:
        raise BollardError(f"{remote.SYSTEM}: only root changes it", "leave --global and --exclusive out")
    return (remote.SYSTEM if of_system else asked.get("config") or remote.file(os.environ)), of_system


def _change(path: str, of_system: bool, change: Callable[[Config], Config], *, with_system: bool = True) -> None:
    """Replace a remote.yaml by a changed one.

    path: the file.
    of_system: it is the system's: all may read it.
    change: returns the new configuration.
    with_system: of a user's file, change the endpoints of the system too.
    """
    with logins.rewriting(path):
        before = remote.load(path) if of_system or not with_system else remote.of_user(path)
        logins.replace(path, remote.render(change(before)), 0o644 if of_system else 0o600)


def _list(asked: dict[str, str], words: list[str]) -> int:
    config = remote.of_user(asked.get("config") or remote.file(os.environ))
    if asked.get("json", "0") == "1":
        found = [
            {"name": name, "uri": item.uri, "active": name == config.active, "global": item.system,
             "exclusive": item.exclusive, "secure": not item.insecure, "login": bool(item.token)}
            for name, item in sorted(config.remotes.items())
        ]  # fmt: skip
        print(json.dumps(found, indent=2))
        return 0
    rows: list[tuple[str, ...]] = [("NAME", "URI", "DEFAULT?", "GLOBAL?", "EXCLUSIVE?", "SECURE?")]
    for name, item in sorted(config.remotes.items()):
        marks = ("✓" if mark else "" for mark in (name == config.active, item.system, item.exclusive))
        rows.append((shown(name), shown(item.uri), *marks, "✗!" if item.insecure else "✓"))
    sys.stdout.write("\n" + _table(rows))
    return 0


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    return "".join(
        "".join(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths)) + row[-1] + "\n" for row in rows
    )


def _use(asked: dict[str, str], words: list[str]) -> int:
    path, of_system = _place(asked)
    exclusive = asked.get("exclusive", "0") == "1"
    _change(path, of_system, lambda found: remote.used(found, words[0], of_system=of_system, exclusive=exclusive))
    return 0


def _add(asked: dict[str, str], words: list[str]) -> int:
    name, uri = words
    insecure = asked.get("insecure", "0") == "1" or spec.switch([setting(os.environ, "ADD_INSECURE")])
    if uri.startswith("http://") and not insecure:
        raise BollardError(f"{shown(uri)}: http URI requires --insecure", "add it, or write https://")
    parts = urlsplit(uri if "://" in uri else f"//{uri}")
    host = f"{parts.netloc}{parts.path}".rstrip("/")
    if not name.strip() or not host or not (name + host).isprintable():
        raise BollardError(f"{shown(name)} {shown(uri)}: is not a name and an address", "write NAME cloud.example.org")
    path, of_system = _place(asked)
    made = Endpoint(host, system=of_system, insecure=insecure and not uri.startswith("https://"))

    def change(found: Config) -> Config:
        found = remote.added(found, name, made)
        return found if asked.get("no-default", "0") == "1" else remote.used(found, name, of_system=of_system)

    _change(path, of_system, change, with_system=False)
    # The system's file can be read by all, so it gets no token.
    if not of_system and asked.get("no-login", "0") != "1":
        _login(asked, [name])
    return 0


def _remove(asked: dict[str, str], words: list[str]) -> int:
    path, of_system = _place(asked)
    change = lambda found: remote.removed(found, words[0], of_system=of_system)  # noqa: E731
    _change(path, of_system, change, with_system=False)
    return 0


def _login(asked: dict[str, str], words: list[str]) -> int:
    path, name = asked.get("config") or remote.file(os.environ), words[0] if words else ""
    found = remote.of_user(path)
    if name not in found.remotes and name.startswith(("docker://", "oras://")):
        print("bollard: `remote login` of a registry is `registry login` now", file=sys.stderr)
        registry.log_in(name, {**asked, **({"no-https": "1"} if asked.get("insecure", "0") == "1" else {})})
        return 0
    endpoint = remote.get(found, name)
    if "tokenfile" in asked and "password" not in asked:
        token = _token_of(asked["tokenfile"])
    else:
        if asked.get("password-stdin", "0") != "1" and "password" not in asked and sys.stderr.isatty():
            print(f"Generate an access token at {endpoint.url}/auth/tokens, and paste it here.", file=sys.stderr)
        token = registry.secret(asked, "Access Token: ")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BollardError("that is no token: it has a space, or a character that tokens do not have", "copy it again")
    remote.verify_token(endpoint, token)
    _change(path, False, lambda config: remote.with_token(config, name, token))
    return 0


def _token_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_TOKEN).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise BollardError(f"--tokenfile {path}: {reason}", "name a file that holds the token alone") from None
    if not text:
        raise BollardError(f"--tokenfile {path}: is empty", "name a file that holds the token")
    return text


def _logout(asked: dict[str, str], words: list[str]) -> int:
    path, name = asked.get("config") or remote.file(os.environ), words[0] if words else ""
    if name not in remote.of_user(path).remotes and name.startswith(("docker://", "oras://")):
        registry.log_out(name, {})
        return 0
    _change(path, False, lambda found: remote.with_token(found, name, ""))
    return 0


def _status(asked: dict[str, str], words: list[str]) -> int:
    endpoint = remote.get(remote.of_user(asked.get("config") or remote.file(os.environ)), words[0] if words else "")
    rows: list[tuple[str, ...]] = [("SERVICE", "STATUS", "VERSION", "URI")]
    for name, uri in sorted(remote.services(endpoint).items()):
        try:
            answer = web.document(f"{uri}/version", uri).get("data")
            version = str(answer.get("version", "")) if isinstance(answer, dict) else ""
            rows.append((name.title(), "OK", shown(version), shown(uri)))
        except BollardError:
            rows.append((name.title(), "N/A", "", shown(uri)))  # the row says it
    sys.stdout.write(_table(rows))
    _tell_user(endpoint)
    if not endpoint.token:
        print("\nNo authentication token set (logged out).")
        return 0
    try:
        remote.verify_token(endpoint, endpoint.token)
    except BollardError:
        print("\nAuthentication token is invalid (please login again).", flush=True)
        raise
    print("\nValid authentication token set (logged in).")
    return 0


def _tell_user(endpoint: Endpoint) -> None:
    """Print whose token it is, if the library tells."""
    try:
        url = f"{remote.service(endpoint, 'library')}/v1/rbac/users/current"
        found = web.document(url, f"remote {endpoint.uri}", endpoint.token)
    except BollardError:
        return  # the library has no users, or the token is not valid: the next line says that
    if found.get("username"):
        print(f"\nLogged in as: {shown(str(found['username']))} <{shown(str(found.get('email') or ''))}>\n")


def _password(asked: dict[str, str], words: list[str]) -> int:
    endpoint = remote.get(remote.of_user(asked.get("config") or remote.file(os.environ)))
    if not endpoint.token:
        raise BollardError("no authentication token, log in with `bollard remote login`")
    library = remote.service(endpoint, "library")
    found = web.document(f"{library}/v1/rbac/users/current", f"remote {endpoint.uri}", endpoint.token)
    meta = found.get("oidc_user_meta")
    secret = meta.get("secret") if isinstance(meta, dict) else ""
    if not isinstance(secret, str) or not secret:
        raise BollardError(f"remote {endpoint.uri}: no token was received from service", "has it a registry?")
    print(secret)
    return 0


def _keyserver(asked: dict[str, str], words: list[str], *, add: bool) -> int:
    if os.geteuid() != 0:
        raise BollardError("unable to modify keyserver configuration: not root user", "ask root")
    name, uri = (words[0], words[1]) if len(words) == 2 else ("", words[0])
    order = asked.get("order", "")
    if order and (not order.isascii() or not order.isdigit() or int(order) == 0):
        raise BollardError(f"--order {order}: order must be > 0", "give its place, from 1")
    insecure = asked.get("insecure", "0") == "1"

    def change(found: Config) -> Config:
        if add:
            return remote.with_keyserver(found, name, uri, int(order or 0), insecure)
        return remote.without_keyserver(found, name, uri)

    _change(asked.get("config") or remote.SYSTEM, True, change)
    return 0


_RUN: dict[str, Callable[[dict[str, str], list[str]], int]] = {
    "list": _list,
    "use": _use,
    "add": _add,
    "remove": _remove,
    "login": _login,
    "logout": _logout,
    "status": _status,
    "get-login-password": _password,
    "add-keyserver": lambda asked, words: _keyserver(asked, words, add=True),
    "remove-keyserver": lambda asked, words: _keyserver(asked, words, add=False),
}
