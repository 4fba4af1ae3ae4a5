# SPDX-License-Identifier: BSD-3-Clause
"""Logins to registries: docker's config.json and credential helpers, shared with docker, skopeo and Apptainer.

    {"auths": {REGISTRY: {"auth": base64 of USER:PASSWORD}}, "credHelpers": {REGISTRY: NAME}, "credsStore": NAME}

The program docker-credential-NAME keeps the logins of its registries: `get`, `store` and `erase` read standard input.
A password is passed in files of mode 0600 and through pipes only: never as an argument, never as a variable.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bollard.runtime import causes
from bollard.runtime.errors import BollardError

_MAX_BYTES = 1 << 20
_PATIENCE = 60  # seconds that a credential helper may take; it can ask its user
_HELPER = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
# Docker Hub has an old name as its key. For skopeo and docker the names are one registry.
HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = (HUB, "index.docker.io", "registry-1.docker.io")
TOKEN_USER = "<token>"  # the user name with which helpers return an identity token  # noqa: S105


class Login(NamedTuple):
    """A login: user name and password, or an identity token in the place of both."""

    user: str
    password: str
    token: str = ""

    def entry(self) -> dict[str, str]:
        """Return the login as a value of `auths`."""
        if self.token:
            return {"identitytoken": self.token}
        text = f"{self.user}:{self.password}".encode("utf-8", "surrogateescape")
        return {"auth": base64.b64encode(text).decode()}


def directory(environ: Mapping[str, str]) -> str:
    """Return the directory with Apptainer's files of this user: that of APPTAINER_CONFIGDIR, or ~/.apptainer."""
    asked = environ.get("APPTAINER_CONFIGDIR") or environ.get("SINGULARITY_CONFIGDIR")
    return asked or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".apptainer")


def file(environ: Mapping[str, str]) -> str:
    """Return the file in which a login is kept: Apptainer's, or docker's if only that one can exist.

    This is Apptainer's rule. Only with APPTAINER_CONFIGDIR its second choice is in that directory too.
    """
    own = os.path.join(directory(environ), "docker-config.json")
    if os.path.lexists(own):
        return own
    asked = environ.get("APPTAINER_CONFIGDIR") or environ.get("SINGULARITY_CONFIGDIR")
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(asked or os.path.join(home, ".docker"), "config.json")


def key(registry: str) -> str:
    """Return the key of a registry in `auths`."""
    return _HUB_KEY if registry in _HUB_NAMES else registry


def _host(name: str) -> str:
    """Return the registry that a key means: the key without its scheme and path."""
    host = re.sub(r"^https?://", "", name).partition("/")[0]
    return HUB if host in _HUB_NAMES else host


def listed(path: str) -> list[str]:
    """Return the registries that a file has a login for, or a helper, sorted.

    Raises:
        BollardError: the file cannot be read, or has another form.
    """
    found = _read(path)
    return sorted({_host(name) for name in (*_part(found, "auths"), *_part(found, "credHelpers"))})


def knows(path: str, registry: str) -> bool:
    """Return whether the file has a login, or a helper, for the registry; any for "", the default registry.

    A file that cannot be read has none: skopeo's own files are used then.
    """
    try:
        found = _read(path)
    except BollardError:
        return False  # skopeo's own files are used then, and it says what they lack
    hosts = {_host(name) for name in (*_part(found, "auths"), *_part(found, "credHelpers"))}
    return bool(_text(found, "credsStore")) or (_host(registry) in hosts if registry else bool(hosts))


def of(path: str, registry: str) -> Login | None:
    """Return the login of a registry; None if the file has none.

    Raises:
        BollardError: the file or its helper cannot be used.
    """
    found = _read(path)
    helper = _helper(found, registry)
    if helper:
        return _get(helper, key(registry))
    for name, value in _part(found, "auths").items():
        if _host(name) == _host(registry) and isinstance(value, dict):
            return _login(value, path, name)
    return None


def by_helper(path: str, registry: str) -> bool:
    """Return whether a helper keeps the login of the registry.

    Raises:
        BollardError: the file cannot be read, or has another form.
    """
    return bool(_helper(_read(path), registry))


def store(path: str, registry: str, login: Login) -> None:
    """Write a login into the file, mode 0600, or hand it to the helper that the file names for the registry.

    path: the file; it is made if it does not exist.
    registry: host of the registry, with its port.
    login: the login.

    Raises:
        BollardError: the file is not in docker's form or cannot be written, or the helper fails.
    """
    with _changing(path) as found:
        helper = _helper(found, registry)
        auths = found.setdefault("auths", {})
        if helper:
            said = {"ServerURL": key(registry), "Username": login.user, "Secret": login.password}
            _ask(helper, "store", json.dumps(said).encode())
            auths.setdefault(key(registry), {})  # as docker does: so that `list` knows of it
            return
        for name in [name for name in auths if _host(name) == _host(registry)]:
            del auths[name]
        auths[key(registry)] = login.entry()


def erase(path: str, registry: str) -> bool:
    """Remove the login of a registry from the file, or from its helper; return whether there was one.

    Raises:
        BollardError: as `store`.
    """
    if not os.path.lexists(path):
        return False
    with _changing(path) as found:
        helper = _helper(found, registry)
        auths = found.setdefault("auths", {})
        names = [name for name in auths if _host(name) == _host(registry)]
        for name in names:
            del auths[name]
        if not helper or not _get(helper, key(registry)):
            return bool(names)
        _ask(helper, "erase", key(registry).encode())
        return True


def _helper(found: dict[str, Any], registry: str) -> str:
    for name, helper in _part(found, "credHelpers").items():
        if _host(name) == _host(registry) and isinstance(helper, str):
            return helper
    return _text(found, "credsStore")


def _get(helper: str, server: str) -> Login | None:
    answer = _ask(helper, "get", server.encode(), missing=True)
    if answer is None:
        return None
    try:
        said = json.loads(answer)
        user, secret = str(said["Username"]), str(said["Secret"])
    except (ValueError, KeyError, TypeError):
        raise BollardError(f"docker-credential-{helper}: its answer is not a login", "see what it prints") from None
    return Login("", "", secret) if user == TOKEN_USER else Login(user, secret)


def _ask(helper: str, verb: str, said: bytes, *, missing: bool = False) -> bytes | None:
    """Run a credential helper; return what it prints, or None if it has no login and `missing` is set."""
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise BollardError(f"credential helper {helper!r}: is not a name", "correct credHelpers or credsStore")
    try:
        done = subprocess.run([program, verb], input=said, capture_output=True, check=False, timeout=_PATIENCE)
    except FileNotFoundError:
        raise BollardError(f"{program}: is not installed", "install it, or remove it from docker's config") from None
    except subprocess.TimeoutExpired:
        raise BollardError(f"{program} {verb}: no answer for {_PATIENCE} s", "is its store locked?") from None
    except OSError as error:
        raise BollardError(f"{program}: {error.strerror}", "it must be a program that you may start") from None
    if done.returncode == 0:
        return done.stdout
    # Helpers print their reason to stdout. It never holds the secret, which they have only read.
    text = (done.stdout or done.stderr).decode("utf-8", "replace").strip().split("\n")[0]
    if missing and "not found" in text.lower():
        return None
    raise BollardError(f"{program} {verb}: {text or f'status {done.returncode}'}", "is its store usable?")


def _login(entry: dict[str, Any], path: str, name: str) -> Login | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Login("", "", token)
    if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        return Login(entry["username"], entry["password"])
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        return None
    try:
        text = base64.b64decode(auth, validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        text = ""  # refused below
    user, colon, password = text.partition(":")
    if not colon:
        raise BollardError(f"{path}: the login for {name} is damaged", f"`bollard registry login {name}` again")
    return Login(user, password.rstrip("\0"))


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _text(found: dict[str, Any], name: str) -> str:
    text = found.get(name)
    return text if isinstance(text, str) else ""


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "it should be yours, mode 0600") from None
    if not text.strip():
        return {}
    try:
        found = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        found = None  # refused below
    parts = [found.get(name, {}) for name in ("auths", "credHelpers")] if isinstance(found, dict) else [None]
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in parts):
        raise BollardError(f"{path}: is not in the form of docker's config.json", "repair it, or move it away")
    return found


@contextlib.contextmanager
def _changing(path: str) -> Iterator[dict[str, Any]]:
    """Yield the content of the file for changes, and write it if they change anything."""
    with rewriting(path):
        found = _read(path)
        before = json.dumps(found, sort_keys=True)
        yield found
        if json.dumps(found, sort_keys=True) != before:
            replace(path, json.dumps(found, indent="\t").encode() + b"\n")


@contextlib.contextmanager
def rewriting(path: str) -> Iterator[None]:
    """Hold a lock on the directory of a file of the user's, which is made with mode 0700, while the file is changed.

    Raises:
        BollardError: the directory cannot be made or opened.
    """
    folder = os.path.dirname(os.path.realpath(path))
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise causes.of(error, f"{path}: cannot be written", folder) from None
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks: the file is still replaced as a whole
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a new file and rename it to `path`; a link is followed.

    path: the file.
    data: its new content.
    mode: its permission bits.

    Raises:
        BollardError: it cannot be written.
    """
    path = os.path.realpath(path)
    made = ""
    try:
        fd, made = tempfile.mkstemp(prefix=".bollard-", dir=os.path.dirname(path))
        with open(fd, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fchmod(opened.fileno(), mode)
            os.fsync(opened.fileno())
        os.replace(made, path)
        made = ""
    except OSError as error:
        raise causes.of(error, f"{path}: cannot be written", path) from None
    finally:
        if made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
