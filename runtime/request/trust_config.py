# SPDX-License-Identifier: BSD-3-Clause
"""The key `trust` of bollard.yaml: read and check a site's policy of which images may run."""

from __future__ import annotations

import difflib
import pwd
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

from bollard.runtime.request import trust_rule, yaml_node
from bollard.runtime.request.trust_rule import Rule
from bollard.runtime.request.yaml_node import Mistake

# Name and value of a line of site.conf.
Pair = tuple[str, str]
Found = Iterator[Union[Pair, Mistake]]

_TOP = ("mode", "keyring", "pem-keys", "roots", "rules")
_RULE = ("name", "from", "refuse", "owner", "digests", "signed-by", "all-signed-by", "without")
_SCHEMES = ("docker", "docker-daemon", "oras", "library", "http", "https")
# Kinds of packages in SBOMs, by package-url's names: those that bollard finds, and others that SBOMs often have.
_KINDS = (
    "deb", "rpm", "apk", "pypi", "conda", "npm", "alpm", "bitnami", "cargo", "composer", "conan", "cran", "gem",
    "generic", "github", "golang", "hackage", "hex", "maven", "nuget", "opam", "pub", "swift",
)  # fmt: skip
_FINGERPRINT = re.compile("[0-9A-F]{40}|[0-9A-F]{64}")
_PEM_KEY = re.compile("SHA256:[A-Za-z0-9+/]{43}")
_DIGEST = re.compile("(?:sha256:)?([0-9a-f]{64})")


def read(name: str, node: Any) -> Found:
    """Yield the lines of site.conf for the policy, and the mistakes in it.

    name: "trust".
    node: its value in PyYAML's tree.
    """
    keys = _Keys(name, node, _TOP)
    yield from keys.mistakes
    mode = keys.word("mode")
    if mode not in (trust_rule.OBSERVE, trust_rule.ENFORCE):
        line = yaml_node.line(keys.found.get("mode", node))
        yield Mistake(line, f'{name}.mode: "{mode}" is neither observe nor enforce', "write `mode: observe`")
        return
    yield "trust", mode
    yield "trust-line", str(yaml_node.line(keys.found["mode"]))
    for key in ("keyring", "pem-keys", "roots"):
        if key in keys.found and not keys.word(key):
            text = f"{name}.{key}: {yaml_node.kind(keys.found[key])} where a file is expected"
            yield Mistake(yaml_node.line(keys.found[key]), text, "write its path, from / on")
        elif keys.word(key):
            path = yaml_node.checked_path(f"{name}.{key}", keys.word(key), yaml_node.line(keys.found[key]))
            yield path if isinstance(path, Mistake) else (f"trust-{key}", path)
    if keys.word("roots") and not keys.word("pem-keys"):
        text = f"{name}.roots: they are the issuers of certificates in pem-keys"
        yield Mistake(yaml_node.line(keys.found["roots"]), text, f"write `pem-keys: FILE` in {name}")
    rules = keys.found.get("rules")
    if rules is None or rules.id != "sequence" or not rules.value:
        text = f"{name}.rules: there is none, so no image could run"
        yield Mistake(yaml_node.line(rules or node), text, "write a list of rules, at least `- from: anywhere`")
        return
    for number, item in enumerate(rules.value):
        made = list(_rule(f"{name}.rules[{number}]", item))
        yield from (one for one in made if isinstance(one, Mistake))
        for rule in made:
            if isinstance(rule, Rule):
                yield "trust-rule", trust_rule.text(rule)
                for key, kind in (("keyring", False), ("pem-keys", True)):
                    named = any(trust_rule.is_pem(one) is kind for one in (*rule.any_of, *rule.all_of))
                    if named and not keys.word(key):
                        text = f"{name}.rules[{number}]: signed-by needs the public keys"
                        yield Mistake(rule.line, text, f"write `{key}: FILE` in {name}")


def values(pairs: Sequence[Pair]) -> dict[str, str | tuple[str, ...]]:
    """Return the values for `site_config.Settings`: a text for each name, and a tuple of all rules."""
    found: dict[str, str | tuple[str, ...]] = {name: value for name, value in pairs if name != "trust-rule"}
    rules = tuple(value for name, value in pairs if name == "trust-rule")
    if any("\nowner=" in rule for rule in rules):
        found["trust-owners"] = "1"  # constants.SITE_TRUST_OWNERS
    return {**found, "trust-rule": rules} if rules else found


class _Keys:
    """The keys of a mapping: `found` has their values, `mistakes` what is wrong with their names."""

    def __init__(self, name: str, node: Any, known: tuple[str, ...]) -> None:
        self.name = name
        self.found: dict[str, Any] = {}
        self.mistakes: list[Mistake] = []
        if node.id != "mapping":
            text = f"{name}: {yaml_node.kind(node)} is no set of keys"
            self.mistakes.append(Mistake(yaml_node.line(node), text, f"the keys are {', '.join(known)}"))
            return
        for key, value in node.value:
            word = str(key.value) if key.id == "scalar" else yaml_node.kind(key)
            if word not in known:
                close = difflib.get_close_matches(word, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
                self.mistakes.append(Mistake(yaml_node.line(key), f'{name}: no key is called "{word}"', hint))
            elif word in self.found:
                self.mistakes.append(Mistake(yaml_node.line(key), f"{name}.{word}: it stands here twice", "remove one"))
            else:
                self.found[word] = value

    def word(self, key: str) -> str:
        """Return the text of a key, "" if it is missing or no text."""
        node = self.found.get(key)
        return str(node.value) if node is not None and node.id == "scalar" and not yaml_node.is_null(node) else ""

    def items(self, key: str) -> Iterator[tuple[str, int] | Mistake]:
        """Yield (text, line) for each item of a key whose value is a text or a list of texts."""
        node = self.found.get(key)
        if node is None:
            return
        for item in node.value if node.id == "sequence" else [node]:
            if item.id != "scalar" or yaml_node.is_null(item) or not item.value.isprintable() or not item.value:
                text = f"{self.name}.{key}: {yaml_node.kind(item)} is no text"
                yield Mistake(yaml_node.line(item), text, "write a word, or a list of words")
            else:
                yield str(item.value), yaml_node.line(item)
        if node.id == "sequence" and not node.value:
            text = f"{self.name}.{key}: the list is empty"
            yield Mistake(yaml_node.line(node), text, f"remove {key}, which then requires nothing")


def _rule(name: str, node: Any) -> Iterator[Rule | Mistake]:
    keys = _Keys(name, node, _RULE)
    mistakes = list(keys.mistakes)

    def checked(key: str, check: Callable[[str], Any], what: str, hint: str) -> tuple[Any, ...]:
        good = []
        for item in keys.items(key):
            if isinstance(item, Mistake):
                mistakes.append(item)
                continue
            try:
                good.append(check(item[0]))
            except (ValueError, KeyError):
                mistakes.append(Mistake(item[1], f'{name}.{key}: "{item[0]}" is no {what}', hint))
        return tuple(good)

    whole = "a key has 40 hexadecimal digits, see `gpg --fingerprint`; a PEM key has SHA256: and 43 letters"
    where = "write a directory from / on, docker://HOST/PATH, or anywhere; no patterns"
    rule = Rule(
        line=yaml_node.line(node),
        name=keys.word("name"),
        places=checked("from", _place, "place", where) or (trust_rule.ANYWHERE,),
        refuse=_switch(keys, mistakes),
        owners=checked("owner", _uid, "user of this machine", "write a name or a uid"),
        digests=checked("digests", _digest, "SHA-256", "write what `sha256sum img.sif` prints"),
        any_of=checked("signed-by", _fingerprint, "fingerprint", whole),
        all_of=checked("all-signed-by", _fingerprint, "fingerprint", whole),
        without=checked("without", _package, "package", "write `openssl < 3.0.11` or `pypi/NAME`; no patterns"),
    )
    if rule.refuse and (rule.owners or rule.digests or rule.any_of or rule.all_of or rule.without):
        text = f"{name}: refuse comes with a requirement"
        mistakes.append(Mistake(rule.line, text, "a rule either refuses all images or requires something of them"))
    if "name" in keys.found and (not keys.word("name") or not keys.word("name").isprintable()):
        mistakes.append(Mistake(rule.line, f"{name}.name: it is no word of one line", "write a short name"))
    if "from" not in keys.found and not keys.mistakes:
        mistakes.append(Mistake(rule.line, f"{name}: it has no from", "write `from: anywhere` for all images"))
    yield from mistakes
    if not mistakes:
        yield rule


def _switch(keys: _Keys, mistakes: list[Mistake]) -> bool:
    node = keys.found.get("refuse")
    if node is None:
        return False
    if node.id == "scalar" and node.tag == "tag:yaml.org,2002:bool":
        return str(node.value).lower() in ("yes", "true", "on")
    text = f"{keys.name}.refuse: {yaml_node.kind(node)} is neither yes nor no"
    mistakes.append(Mistake(yaml_node.line(node), text, "write `refuse: yes`"))
    return False


def _place(text: str) -> str:
    if text == trust_rule.ANYWHERE:
        return text
    scheme, colon, rest = text.partition("://")
    if colon:
        if scheme not in _SCHEMES or not rest.strip("/") or any(c.isspace() or c in "*?[" for c in rest):
            raise ValueError(text)  # a sign of a pattern would stand for itself
        return f"{scheme}://{rest.strip('/')}"
    if isinstance(yaml_node.checked_folder("", text, 0), Mistake):
        raise ValueError(text)
    return text


def _package(text: str) -> trust_rule.Package:
    found = trust_rule.package(text)
    if (found.kind and found.kind not in _KINDS) or any(sign in found.name for sign in "*?["):
        raise ValueError(text)  # it would exclude nothing
    return found


def _uid(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid


def _digest(text: str) -> str:
    found = _DIGEST.fullmatch(text.lower())
    if not found:
        raise ValueError(text)
    return found[1]


def _fingerprint(text: str) -> str:
    if trust_rule.is_pem(text) and _PEM_KEY.fullmatch(text):
        return text
    found = re.sub(r"\s+", "", text).upper()
    found = found[2:] if found.startswith("0X") else found
    if not _FINGERPRINT.fullmatch(found):
        raise ValueError(text)
    return found
