# SPDX-License-Identifier: BSD-3-Clause
"""Move data into a volume and out of it. This runs on a node, in the batch job VOLUME.in or VOLUME.out.

http, https and file are read here; s3, sftp, ftp and webdav are left to rclone, which gets the login from its
environment. A file has its name when it is whole and its digest is right.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bollard.runtime.errors import BollardError, shown
from bollard.runtime.fetch import web
from bollard.runtime.flow import copying, folder, known_hosts, secret, volume

_READ = 1 << 20
_PAUSE_MAX = 30  # seconds between attempts


def run(path: Path, name: str) -> None:
    """Make the transfers of one batch job.

    path: the flow's directory.
    name: VOLUME.in or VOLUME.out.

    Raises:
        BollardError: a transfer has failed as often as it may.
    """
    plan = folder.plan(path)
    todo = plan.get("moves", {}).get(name)
    if todo is None:
        raise BollardError(f"{name}: is no transfer of {path.name}")
    volume.make(todo["volume"], path)
    for move in todo["moves"]:
        for attempt in range(1, move["attempts"] + 1):
            begun = time.monotonic()
            try:
                with _limited(move["timeout"]):
                    _once(move, todo["volume"], name.endswith(".in"), plan.get("texts", {}))
                print(f"{shown(move['uri'])}: {time.monotonic() - begun:.1f} s", flush=True)
                break
            except BollardError as error:
                if attempt == move["attempts"]:
                    raise
                print(f"bollard: attempt {attempt} of {move['attempts']}: {error}", file=sys.stderr, flush=True)
                time.sleep(min(2**attempt, _PAUSE_MAX))


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise after so many seconds."""

    def late(number: int, frame: object) -> None:
        raise BollardError(f"it took longer than {seconds} s", "raise policy.timeout.execute of the transfer")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _once(move: Mapping[str, Any], top: str, inwards: bool, texts: Mapping[str, str]) -> None:
    uri, scheme = move["uri"], move["uri"].partition("://")[0]
    login = secret.login(move["secret"], os.environ) if move["secret"] else {}
    secret.refuse_unencrypted(uri, login)
    inner = _inside(top, move["path"])
    if not inwards and not os.path.exists(inner):
        raise BollardError(f"{move['path']}: is not in the volume", "the jobs before have not made it")
    if not inwards and move["digest"] and os.path.isfile(inner):
        _compare(uri, _sha256(inner), move["digest"])
    if scheme not in ("http", "https", "file"):
        _rclone(move, inner, inwards, login)
        return
    if not inwards:
        target = urllib.parse.unquote(uri.removeprefix("file://"))
        into = target.endswith("/") and not os.path.isdir(inner)
        _copy(inner, target + os.path.basename(inner) if into else target, uri, "")
        return
    target = f"{inner}/{os.path.basename(urllib.parse.urlsplit(uri).path)}" if move["path"].endswith("/") else inner
    if scheme != "file":
        _download(uri, target, login, move["digest"])
    elif uri.startswith("file:///"):
        _copy(urllib.parse.unquote(uri.removeprefix("file://")), target, uri, move["digest"])
    else:
        data = texts[uri.removeprefix("file://")].encode("utf-8", "surrogateescape")
        _compare(uri, hashlib.sha256(data).hexdigest(), move["digest"])
        with _new(target) as file:
            file.write(data)


def _inside(top: str, path: str) -> str:
    """Return the path in the volume; a link that a job made must not lead out of it.

    Raises:
        BollardError: it leads out.
    """
    found = os.path.realpath(f"{top}/{path}")
    top = os.path.realpath(top)
    if found != top and not found.startswith(top + "/"):
        raise BollardError(f"{path}: a link leads out of the volume", "take the link away")
    return found


@contextlib.contextmanager
def _new(target: str, mode: int = -1) -> Iterator[BinaryIO]:
    """Yield a new file, which gets the name `target` and its mode afterwards; -1: the mode of the umask."""
    try:
        with copying.folder(os.path.dirname(target)) as above:
            mode = copying.usual_mode() if mode < 0 else mode
            with copying.new_file(above, os.path.basename(target), mode) as file:
                yield file
    except OSError as error:
        raise BollardError(f"{target}: {error.strerror}", "make room, or choose another volume") from None


def _compare(uri: str, found: str, wanted: str) -> None:
    if wanted and found != wanted.removeprefix("sha256:"):
        raise BollardError(
            f"{uri}: its digest is sha256:{found}, not {wanted}", "the file has changed, or the flow is wrong"
        )


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return _sha256_of(file)


def _sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while data := file.read(_READ):
        digest.update(data)
    return digest.hexdigest()


def _copy(source: str, target: str, uri: str, digest: str) -> None:
    if os.path.isdir(source):
        if digest:
            raise BollardError(f"{uri}: is a directory, which has no digest", "leave `digest` out")
        try:
            copying.directory(source, target)
        except OSError as error:
            raise BollardError(f"{uri}: cannot be copied: {error.filename or source}: {error.strerror}", "") from None
        return
    try:
        with open(source, "rb") as file, _new(target, os.fstat(file.fileno()).st_mode & 0o777) as made:
            shutil.copyfileobj(file, made, _READ)
            if digest:
                made.seek(0)
                _compare(uri, _sha256_of(made), digest)
    except OSError as error:
        raise BollardError(f"{source}: {error.strerror}", "name a file that the node sees") from None


def _download(uri: str, target: str, login: Mapping[str, str], digest: str) -> None:
    request = urllib.request.Request(uri, headers={"User-Agent": "bollard"})
    if login.get("token"):
        request.add_unredirected_header("Authorization", f"Bearer {login['token']}")
    elif login.get("username"):
        pair = f"{login['username']}:{login.get('password', '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    hasher, total = hashlib.sha256(), 0
    with _new(target) as file:
        try:
            # A login without encryption goes to this node alone (secret.py), so not to a proxy.
            direct = bool(login) and uri.startswith("http:")
            with web.opener(direct=direct).open(request, timeout=web.timeout()) as answer:
                expected = answer.length
                while data := answer.read(_READ):
                    total += len(data)
                    hasher.update(data)
                    file.write(data)
        except urllib.error.HTTPError as error:
            raise BollardError(
                f"{uri}: the server answers {error.code} {error.reason}", "check the address and the secret"
            ) from None
        except urllib.error.URLError as error:
            raise BollardError(f"{uri}: {error.reason}", "check the address") from None
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            raise BollardError(
                f"{uri}: {error or type(error).__name__}", "the server does not answer as it should"
            ) from None
        if expected is not None and total != expected:
            raise BollardError(f"{uri}: {total} bytes came, {expected} expected", "try again")
        _compare(uri, hasher.hexdigest(), digest)


def _rclone(move: Mapping[str, Any], inner: str, inwards: bool, login: Mapping[str, str]) -> None:
    far, environ = remote(move["uri"], login)
    whole = move["path"].endswith("/") or (not inwards and os.path.isdir(inner))
    words = ["rclone", "copy" if whole else "copyto", "--config=", "--retries=1", "--contimeout=30s", "--timeout=60s"]
    if inwards:
        os.makedirs(inner if whole else os.path.dirname(inner), exist_ok=True)
    near = f"{inner}.part-{os.getpid()}" if inwards and not whole else inner
    try:
        for name in ("password",):
            if name in environ:
                environ[f"RCLONE_{environ.pop('scheme')}_PASS"] = _obscured(environ.pop(name))
        environ.pop("scheme", None)
        with known_hosts.listed() if far.startswith(":sftp:") else contextlib.nullcontext("") as hosts:
            # Not as a variable, which rclone before 1.54 would ignore, and trust every server.
            words += [f"--sftp-known-hosts-file={hosts}"] if hosts else []
            words += ["--", far, near] if inwards else ["--", near, far]
            done = subprocess.run(
                words, env={**_base(), **environ}, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                errors="replace", check=False,
            )  # fmt: skip
        if done.returncode:
            raise _refused(move["uri"], done.stderr)
        if inwards and not whole:
            if not os.path.isfile(near):
                raise BollardError(f"{move['uri']}: is not there", "check the address")
            _compare(move["uri"], _sha256(near), move["digest"])
            os.replace(near, inner)
    except FileNotFoundError:
        raise BollardError("the program rclone is not on this node", "install it on all nodes") from None
    finally:
        if near != inner:
            shutil.rmtree(near, ignore_errors=True)
            with contextlib.suppress(OSError):  # it has its name, or never came
                os.unlink(near)


def _refused(uri: str, said: str) -> BollardError:
    """Return the error for what rclone wrote."""
    if "unknown flag: --sftp-known-hosts-file" in said:
        return BollardError(
            f"{uri}: rclone on this node does not verify sftp servers", "install rclone 1.54 or newer on all nodes"
        )
    if "knownhosts:" in said:
        why = said[said.index("knownhosts:") :].splitlines()[0].removeprefix("knownhosts: ")
        return BollardError(
            f"{uri}: the server's host key is not trusted: {why}",
            f"compare its key, and add it to {known_hosts.FILES[0]}: ssh-keyscan prints all its keys",
        )
    lines = said.strip().splitlines() or ["rclone failed"]
    return BollardError(f"{uri}: {lines[-1].partition(': ')[2] or lines[-1]}", "check the address and the secret")


def _base() -> dict[str, str]:
    # Only the secret decides about the login. And Debian's rclone 1.60 fails where AWS_CA_BUNDLE is set.
    return {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}


def _obscured(password: str) -> str:
    """Return a password as rclone wants it. It passes through a pipe."""
    return subprocess.run(
        ["rclone", "obscure", "-"], input=password, capture_output=True, text=True, check=True
    ).stdout.strip()


def remote(uri: str, login: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return rclone's name for an address, and the variables that it needs; `scheme`, `password` are for the caller.

    uri: s3://BUCKET/KEY, or sftp://, ftp://, webdav:// with a host and a path.
    login: the keys of the secret.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        names = {
            "access-key": "ACCESS_KEY_ID", "secret-key": "SECRET_ACCESS_KEY", "session-token": "SESSION_TOKEN",
            "region": "REGION", "endpoint": "ENDPOINT",
        }  # fmt: skip
        environ = {f"RCLONE_S3_{variable}": login[key] for key, variable in names.items() if key in login}
        environ["RCLONE_S3_PROVIDER"] = "Other" if "endpoint" in login else "AWS"
        environ["RCLONE_S3_NO_CHECK_BUCKET"] = "true"
        return f":s3:{rest}", environ
    host, _, path = rest.partition("/")
    kind = scheme.upper()
    environ = {"scheme": kind}
    if scheme == "webdav":
        environ["RCLONE_WEBDAV_URL"] = login.get("endpoint") or f"https://{host}"
    else:
        name, _, port = host.partition(":")
        environ[f"RCLONE_{kind}_HOST"] = name
        if port:
            environ[f"RCLONE_{kind}_PORT"] = port
    if "username" in login:
        environ[f"RCLONE_{kind}_USER"] = login["username"]
    if "password" in login:
        environ["password"] = login["password"]
    return f":{scheme}:{path}", environ
