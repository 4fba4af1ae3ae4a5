# SPDX-License-Identifier: BSD-3-Clause
"""The part of `bollard site check` about a site's policy of images: what would refuse everything, or protect nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bollard.runtime.errors import BollardError
from bollard.runtime.request import site, trust_rule
from bollard.runtime.request.trust_rule import Policy, Rule
from bollard.runtime.system import owners
from bollard.runtime.trust import keyring, site_keys


def faults(prefix: str) -> Iterator[tuple[bool, str, str]]:
    """Yield (whether it is a failure, what is wrong, what mends it) for the policy that is in force at `prefix`."""
    rules = site.load(prefix).trust
    if rules is None:
        return
    keys = {key for rule in rules.rules for key in (*rule.any_of, *rule.all_of)}
    pem = {key for key in keys if trust_rule.is_pem(key)}
    if pem:
        yield from _pem_keys(rules, pem)
    if keys - pem:
        yield from _keys(rules, keys - pem)
        if not os.access(f"{prefix}/gpgv", os.X_OK):
            yield True, f"{prefix}/gpgv is missing, so no signature counts", "install gpgv, then `bollard site install`"
    for rule in rules.rules:
        uris = [place for place in rule.places if "://" in place]
        if uris and not _is_bound(rule):
            text = f"{rules.file}:{rule.line}: users can put another file into their caches of {uris[0]}"
            yield False, text, "add signed-by or digests to that rule"
        if rule.without and not (rule.any_of or rule.all_of or rule.owners or rule.digests):
            text = f"{rules.file}:{rule.line}: without relies on the SBOM, which the maker of an image can write"
            yield False, text, "add signed-by or owner to that rule"


def _pem_keys(rules: Policy, wanted: set[str]) -> Iterator[tuple[bool, str, str]]:
    for fault in owners.faults([path for path in (rules.pem_keys, rules.roots) if path and os.path.exists(path)]):
        yield True, f"{fault.path}: {fault.text}", fault.fix
    try:
        found, faults = site_keys.read(rules.pem_keys, rules.roots)
    except BollardError as error:
        yield True, error.message, error.hint
        return
    for text in faults:
        yield True, text, "replace it, or add its issuers to `roots`"
    for key in sorted(wanted - {key.id for key in found}):
        yield True, f"{rules.pem_keys} has no key {key} that counts", "add its public key, or its certificate"


def _is_bound(rule: Rule) -> bool:
    return bool(rule.refuse or rule.digests or rule.any_of or rule.all_of)


def _keys(rules: Policy, wanted: set[str]) -> Iterator[tuple[bool, str, str]]:
    if not os.path.exists(rules.keyring):
        yield True, f"{rules.keyring} is missing, so no signature counts", "gpg --export KEY... > that file"
        return
    for fault in owners.faults([rules.keyring]):
        yield True, f"{fault.path}: {fault.text}", fault.fix
    try:
        there = {key.fingerprint: keyring.shortness(key.raw) for key in keyring.read(rules.keyring)}
    except BollardError as error:
        yield True, error.message, error.hint
        return
    except (ValueError, IndexError) as error:
        yield True, f"{rules.keyring}: is damaged: {error}", "gpg --export KEY... > that file"
        return
    for key, short in sorted(there.items()):
        if short and key in wanted:
            yield True, f"{rules.keyring}: the key {key} is {short}, so its signatures do not count", "use another key"
    for key in sorted(wanted - set(there)):
        yield True, f"{rules.keyring} lacks the key {key}", f"add what `gpg --export {key}` prints"
