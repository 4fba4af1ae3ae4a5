# SPDX-License-Identifier: BSD-3-Clause
"""The host's policy for fetching images, containers-policy.json(5). This module finds it; skopeo enforces it.

The policy is `~/.config/containers/policy.json`, else `/etc/containers/policy.json`. Without a policy skopeo refuses to
work. If the host has none, skopeo gets a policy that accepts every image.

skopeo fetches an image by the digest of its manifest. A rule for the tag, or for the digest of an index, does not match
this digest. So skopeo gets a copy of the policy in which such a rule is repeated for the digest of the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache, reference
from bollard.runtime.fetch.cache import Store
from bollard.runtime.fetch.reference import Reference

_MAX_BYTES = 1 << 20
_SYSTEM = "/etc/containers/policy.json"
_USER = ".config/containers/policy.json"  # below $HOME
# The beginning of skopeo's message, before the reason. It holds the name of the temporary policy file.
_BEFORE_REASON = re.compile(r'^.*policy(?: in "[^"]*")?: ')
_PERMISSIVE = b'{"default":[{"type":"insecureAcceptAnything"}]}'


class Policy(NamedTuple):
    """The policy for one image.

    file  the path of the host's policy; "" for none
    text  what skopeo gets
    keys  a hash of the keys and certificates that the policy names
    """

    file: str
    text: bytes
    keys: str = ""

    def mark(self, name: Reference, digest: str) -> bytes:
        """Return the text that the cache keeps after this policy has accepted the image with the digest."""
        own = hashlib.sha256(self.text + self.keys.encode()).hexdigest()
        repository = reference.repository(name.name)
        return f"accepted {own} {name.scheme} {repository} {digest}".encode()


PERMISSIVE = Policy("", _PERMISSIVE)


def of_host(name: Reference, digest: str, environ: Mapping[str, str]) -> Policy:
    """Return the policy for an image.

    name: the reference of the image.
    digest: the digest of its manifest, "sha256:HEX".
    environ: environment variables; HOME is used.

    Raises:
        BollardError: the policy cannot be read, or has a rule that may be for the same image under another name.
    """
    path = host_file(environ)
    if not path:
        return PERMISSIVE
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unusable(path, error.strerror or "cannot be read") from None
    if len(text) > _MAX_BYTES:
        raise _unusable(path, f"has over {_MAX_BYTES} bytes")
    given = text if name.scheme == "docker-daemon" else _for_digest(text, path, name, digest)
    return Policy(path, given, _hash_of_files(text))


def _hash_of_files(text: bytes) -> str:
    """Return a hash of the content of each file that the policy names; it changes when a key is replaced or removed."""
    found = hashlib.sha256()
    try:
        left = [json.loads(text)]
    except (ValueError, RecursionError):
        return ""  # skopeo says what is wrong with it
    while left:
        item = left.pop()
        if isinstance(item, (dict, list)):
            left += item.values() if isinstance(item, dict) else item
        elif isinstance(item, str) and item.startswith("/") and os.path.isfile(item):
            with contextlib.suppress(OSError), open(item, "rb") as file:  # skopeo cannot read it either, and refuses
                found.update(hashlib.sha256(file.read(_MAX_BYTES)).digest())
    return found.hexdigest()


def host_file(environ: Mapping[str, str], system: str = _SYSTEM) -> str:
    """Return the path of the policy that skopeo would use; "" if the host has none."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return next((path for path in (os.path.join(home, _USER), system) if os.path.lexists(path)), "")


def is_accepted(policy: Policy, name: Reference, digest: str, store: Store) -> bool:
    """Return whether this policy has accepted the image before. If the host has no policy, every image is accepted.

    policy: from `of_host`.
    name: the reference of the image.
    digest: the digest of its manifest, "sha256:HEX".
    store: the opened cache.
    """
    if not policy.file:
        return True
    mark = policy.mark(name, digest)
    return cache.blob(store, f"sha256:{hashlib.sha256(mark).hexdigest()}", len(mark) + 1) == mark


def accept(policy: Policy, name: Reference, digest: str, store: Store) -> None:
    """Record in the cache that this policy has accepted the image; parameters as in `is_accepted`."""
    if policy.file:
        cache.keep_blob(store, policy.mark(name, digest))


@contextlib.contextmanager
def as_file(policy: Policy) -> Iterator[str]:
    """Yield the path of a file in memory with the policy's text, for a program that inherits its descriptor."""
    with in_memory("bollard-policy", policy.text) as path:
        yield path


@contextlib.contextmanager
def in_memory(name: str, data: bytes) -> Iterator[str]:
    """Yield the path of a file in memory: one that is killed leaves nothing on a disk.

    The path is /proc/self/fd/N, so it is valid in programs that inherit the descriptor.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def refused(policy: Policy, name: Reference, said: str) -> BollardError | None:
    """Return the error for a message of skopeo; None if the message is not about the policy.

    policy: the policy that skopeo was given.
    name: the reference of the image.
    said: skopeo's message.
    """
    text = said.lower()
    if "error loading trust policy" in text or "invalid policy" in text:
        return _unusable(policy.file, _BEFORE_REASON.sub("", said))
    if "rejected by policy" not in text and "source image rejected" not in text:
        return None
    reason = "" if "rejected by policy" in text else f": {said.partition('rejected: ')[2] or said}"
    return BollardError(
        f"{name.uri}: refused by the policy in {policy.file or 'use'}{reason}",
        "use an image that the policy accepts, or ask who maintains that file",
    )


def _for_digest(text: bytes, path: str, name: Reference, digest: str) -> bytes:
    """Return the policy, with the rules for the image's tag and index copied to the digest that is fetched."""
    try:
        found = json.loads(text, object_pairs_hook=_object)
        scopes = found.get("transports", {}).get("docker", {})
        rules = {str(scope): rule for scope, rule in scopes.items() if isinstance(rule, list)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _unusable(path, str(error)) from None
    repository, _, pinned = name.name.partition("@")
    repository = reference.repository(repository)
    tag = name.name.partition("@")[0][len(repository) + 1 :] or ("" if pinned else "latest")
    wanted = {mark + word for mark, word in ((":", tag), ("@", pinned)) if word} - {f"@{digest}"}
    for scope in rules:
        if any(scope.endswith(word) and _is_alias(scope[: -len(word)], repository) for word in (*wanted, f"@{digest}")):
            raise BollardError(
                f"{name.uri}: the policy in {path} has a rule for {scope}, which may be the same image",
                "write the name as the policy has it",
            )
    matching = [rules[repository + word] for word in sorted(wanted) if repository + word in rules]
    if not matching:
        return text
    target = f"{repository}@{digest}"
    scopes[target] = [item for rule in (*matching, rules.get(target, [])) for item in rule]
    return json.dumps(found).encode()


def _is_alias(scope: str, repository: str) -> bool:
    """Return whether two different names may be the same repository.

    One name may omit the registry, name the registry's domain, or omit `library/`.
    """
    if scope == repository:
        return False
    host = reference.registry(repository)
    path = repository[len(host) + 1 :] if host else repository
    above, _, below = scope.partition("/")
    return below in (path, f"library/{path}") and (not host or host == above or host.endswith(f".{above}"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _unusable(path: str, reason: str) -> BollardError:
    return BollardError(f"{path}: is not a usable policy: {reason}", "repair it; see containers-policy.json(5)")
