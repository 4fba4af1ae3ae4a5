# SPDX-License-Identifier: BSD-3-Clause
"""Registries and Docker's daemon, by skopeo: manifests, and blobs into a directory.

skopeo knows logins, mirrors, certificates and proxies as docker and podman do. Where a login comes from, the first
that is there:

    BOLLARD_DOCKER_USERNAME and _PASSWORD, also APPTAINER_, SINGULARITY_ and without a prefix; --docker-login
    --authfile FILE
    docker-config.json in APPTAINER_CONFIGDIR or ~/.apptainer, if it tells of that registry
    skopeo's own files

A password is never an argument, which every user of the machine could read, but in a file of mode 0600.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import policy as policies
from bollard.runtime.fetch import reference
from bollard.runtime.fetch.policy import Policy
from bollard.runtime.fetch.reference import Reference

_MAX_MANIFEST = 8 << 20
_MAX_CONFIG = 1 << 20
_SAYS = re.compile(r'msg="((?:[^"\\]|\\.)*)"')  # skopeo's log line

_MISSING = (
    "manifest unknown", "name unknown", "manifest_unknown", "name_unknown", "not found", "no such image",
    "not known to registry",
)  # fmt: skip
_REFUSED = ("unauthorized", "authentication required", "access denied", "access to the resource is denied", "401")
_AWAY = (
    "connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
    "context deadline exceeded", "temporary failure in name resolution", "server misbehaving",
)  # fmt: skip


class Access(NamedTuple):
    """How to come in: a file of logins, a user's name and password, whether plain HTTP will do; Docker's daemon."""

    authfile: str = ""
    user: str = ""
    password: str = ""
    insecure: bool = False
    daemon: str = ""  # its address, "" for the local one


def manifest(name: Reference, access: Access) -> bytes:
    """The manifest, or index of manifests, as the registry has it: bytes that its digest is of."""
    raw = _run(["inspect", "--raw"], [_address(name)], name, access, "", None)
    if len(raw) > _MAX_MANIFEST:
        raise BollardError(f"{name.uri}: its manifest has over {_MAX_MANIFEST} bytes", "name another image")
    return raw


def copy(name: Reference, digest: str, blobs: str, scratch: str, access: Access, policy: Policy) -> None:
    """Fetch the blobs of the image with that manifest into blobs/sha256, those that are there excepted.

    Raises: BollardError where the policy refuses the image.

    skopeo checks every digest, and writes into `scratch`, on the same filesystem, before it gives a blob its name.
    """
    argv = ["copy", "--quiet", "--dest-oci-accept-uncompressed-layers"]
    argv += ["--dest-shared-blob-dir", blobs]
    if name.scheme in ("docker", "oras"):
        # Not by its tag, which may have moved; the two together are not understood.
        name = Reference(name.uri, name.scheme, f"{reference.repository(name.name)}@{digest}")
    with policies.as_file(policy) as path:
        argv = [f"--policy={path}", *argv]
        _run(argv, [_address(name), "oci:layout:image"], name, access, "src-", scratch, policy)


def _address(name: Reference) -> str:
    if name.scheme == "docker-daemon":
        return f"docker-daemon:{name.name}"
    tagged = reference.repository(name.name) + name.name[name.name.find("@") :] if "@" in name.name else name.name
    return f"docker://{tagged}"


def _run(
    verb: list[str],
    words: list[str],
    name: Reference,
    access: Access,
    prefix: str,
    cwd: str | None,
    policy: Policy | None = None,
) -> bytes:
    if not shutil.which("skopeo"):
        raise BollardError(
            f"{name.uri}: needs the program skopeo", "install the package skopeo, or fetch the image elsewhere"
        )
    options = []
    if access.insecure and name.scheme != "docker-daemon":
        options.append(f"--{prefix}tls-verify=false")
    if access.daemon and name.scheme == "docker-daemon":
        options.append(f"--{prefix}daemon-host={access.daemon}")
    with _logins(name, access) as authfile:
        if authfile:
            options.append(f"--{prefix}authfile={os.path.abspath(authfile)}")
        done = subprocess.run(
            ["skopeo", *verb, *options, *words],
            cwd=cwd,  # a layout's path may have no colon in it, unless it is relative
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        match = _SAYS.search(lines[-1]) if lines else None
        said = match[1].replace('\\"', '"') if match else (lines or ["failed"])[-1]
        raise policy and policies.refused(policy, name, said) or explained(name, said, bool(authfile))
    return done.stdout


@contextlib.contextmanager
def _logins(name: Reference, access: Access) -> Iterator[str]:
    """The file of logins for skopeo, "" where it shall look for its own."""
    if name.scheme == "docker-daemon":
        yield ""
    elif access.user:
        if not reference.registry(name.name):
            raise BollardError(f"{name.uri}: a login needs the registry's name", "write HOST/NAME, or `skopeo login`")
        login = base64.b64encode(f"{access.user}:{access.password}".encode("utf-8", "surrogateescape")).decode()
        with tempfile.NamedTemporaryFile("w", prefix="bollard-login-", suffix=".json") as file:  # 0600
            json.dump({"auths": {reference.registry(name.name): {"auth": login}}}, file)
            file.flush()
            yield file.name
    elif access.authfile:
        if not os.access(access.authfile, os.R_OK):
            raise BollardError(f"--authfile {access.authfile}: cannot be read", "check the path")
        yield access.authfile
    else:
        folder = os.environ.get("APPTAINER_CONFIGDIR") or os.path.expanduser("~/.apptainer")
        path = f"{folder}/docker-config.json"
        yield path if knows(path, reference.registry(name.name)) else ""


def knows(path: str, registry: str) -> bool:
    """Whether the file, docker's config.json or another of its form, has a login for the registry; for the default
    one, "", any login: skopeo knows its names."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX_CONFIG))
        known = {**found.get("auths", {}), **found.get("credHelpers", {})}
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    if found.get("credsStore"):
        return True
    keys = {re.sub(r"^https?://", "", str(key)).partition("/")[0] for key in known}
    return registry in keys if registry else bool(keys)


def explained(name: Reference, said: str, tried: bool = False) -> BollardError:
    """What skopeo said in one line, with what to do; `tried` tells that there was a login."""
    server = reference.registry(name.name)
    host = server or "the default registry"
    text = said.lower()

    def has(*words: str) -> bool:
        return any(word in text for word in words)

    if name.scheme == "docker-daemon":
        if has("no such image", "not found"):
            return BollardError(f"{name.uri}: no such image", "see `docker images`")
        return BollardError(f"{name.uri}: {said}", "does docker run there, and may you use it?")
    if has("server gave http response to https client"):
        return BollardError(f"{name.uri}: {host} speaks plain HTTP", "add --no-https to allow that")
    if has("x509", "certificate", "tls:"):
        reason = said.rpartition("x509: ")[2] or said
        return BollardError(
            f"{name.uri}: {host} is not trusted: {reason}",
            f"put its authority's certificate into /etc/containers/certs.d/{server or 'HOST'}, or add --no-https",
        )
    if has(*_AWAY):
        reason = next(word for word in _AWAY if word in text)
        return BollardError(f"{name.uri}: {host} cannot be reached: {reason}", "check its name and the network")
    if has(*_REFUSED):
        if tried:
            return BollardError(f"{name.uri}: {host} refuses your login", "check name and password, and what you may")
        return BollardError(
            f"{name.uri}: no such image, or one that needs a login",
            f"check the name; `skopeo login {server}`, or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
        )
    if has(*_MISSING):
        return BollardError(f"{name.uri}: no such image", "check its name and its tag")
    return BollardError(f"{name.uri}: skopeo: {said}", "check the name, the login and the network")
