# SPDX-License-Identifier: BSD-3-Clause
"""Decide by the site's rules (`request.trust_rule`) whether an image may run. Pure functions of a policy and evidence.

    for the rules in their order: the first one that names the image's place decides
        refuse ─► owner ─► digests ─► signed-by, all-signed-by ─► without       the first that does not hold refuses
    no rule names the place ─► refused

The cheap requirements come first: digests and signatures read the whole file.
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.request import site, trust_rule
from bollard.runtime.system import identity
from bollard.runtime.trust import versions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as record
    from typing import Final

    from bollard.runtime.image.image_sbom import Listed, Sbom
    from bollard.runtime.request.trust_rule import Package, Policy, Rule
else:
    from bollard.runtime.frozen import record


_UNKNOWN: Final = "it lies in another mount namespace, or was unmounted while it was opened"


_OF_REGISTRIES: Final = ("docker", "oras")
# Docker Hub has several names, and is where a name without a registry leads.
_HUB: Final = "docker.io"
_HUB_NAMES: Final = (_HUB, "index.docker.io", "registry-1.docker.io")


@record(frozen=True)
class Evidence:
    """What is known about an opened image, layer or directory.

    name: what the user typed, for messages and for rules about URIs.
    path: the path of the opened file, without links; "" if it lies on no mount of this process.
    owner: returns the uid of its owner, and its mode, of which the bits of group and others count.
    digest: returns the SHA-256 of the file; "" for a directory.
    signers: returns the fingerprints of the keys whose valid signatures cover the whole image.
    sbom: returns the SBOM in the image; None if it has none.

    The functions raise BollardError if that cannot be found out. The error refuses the image.
    """

    name: str
    path: str
    owner: Callable[[], tuple[int, int]]
    digest: Callable[[], str]
    signers: Callable[[], frozenset[str]]
    sbom: Callable[[], Sbom | None]


@record(frozen=True)
class Verdict:
    """The decision about one image.

    allowed: the policy allows it.
    rule: the rule that decided; None if none names the place.
    why: what does not hold; "" if allowed.
    cure: what would satisfy the rule; "" if allowed.
    signers: the fingerprints of valid signatures, if the rule asks for them.
    """

    allowed: bool
    rule: Rule | None
    why: str = ""
    cure: str = ""
    signers: tuple[str, ...] = ()

    def label(self) -> str:
        """Return the name of the rule and its line in bollard.yaml, "none" without a rule."""
        if self.rule is None:
            return "none"
        return f"{self.rule.name or 'rule'}@{self.rule.line}"


def decide(policy: Policy, found: Evidence) -> Verdict:
    """Return the decision of the policy about an image."""
    for rule in policy.rules:
        if any(names_place(place, found) for place in rule.places):
            return _by_rule(rule, policy, found)
        if not found.path and any(place.startswith("/") for place in rule.places):
            return Verdict(False, rule, _UNKNOWN, _elsewhere(policy, None))
    return Verdict(False, None, "no rule names the place where it is", _elsewhere(policy, None))


def names_place(place: str, found: Evidence) -> bool:
    """Return whether a place of a rule is that of the image.

    A directory is compared by component. A URI is compared with what the user typed, also by component: the rule
    `docker://host/lab` names docker://host/lab/img:1 and not docker://host/labour/img, and the rule `docker://host` not
    docker://host:5000/img, which another user of that machine may serve.
    """
    if place == trust_rule.ANYWHERE:
        return True
    if place.startswith("/"):
        return site.lies_in(found.path, place)
    if not image.is_uri(found.name):
        return False
    name = _fetched(found.name)
    for wanted in _forms(place):
        rest = name[len(wanted) :]
        if not name.startswith(wanted):
            continue
        # A tag or a digest; with a slash behind it, it is a port or an account.
        if rest[:1] in ("", "/") or (rest[0] in ":@" and "/" not in rest and not name.startswith("http")):
            return True
    return False


def _forms(place: str) -> list[str]:
    """Return what the URI of a rule names, as `_fetched` writes names.

    One word can be a registry, an account of Docker Hub, or an image of it.
    """
    scheme, _, word = place.partition("://")
    first, slash, rest = word.partition("/")
    of_hub = first.lower() in _HUB_NAMES
    if scheme not in _OF_REGISTRIES or (rest if of_hub else word).count("/"):
        return [_fetched(place)]
    if of_hub:
        return [f"{scheme}://{_HUB}/{rest}", _fetched(place)] if slash else [f"{scheme}://{_HUB}"]
    return [f"{scheme}://{word.lower()}", f"{scheme}://{_HUB}/{word}", _fetched(place)]


def _fetched(uri: str) -> str:
    """Return a URI in one form for each place that it is fetched from: users can write the same place in many ways."""
    scheme, _, rest = uri.partition(":")
    scheme = scheme.lower() if scheme != "dockerd" else "docker-daemon"
    rest = rest.lstrip("/")
    if scheme == "docker" and "#" in rest:  # enroot's form: [USER@]REGISTRY#NAME
        host, _, name = rest.partition("#")
        rest = f"{host.rpartition('@')[2]}/{name}"
    if "%" in rest:
        from urllib.parse import unquote

        rest = unquote(rest)
    first, slash, path = rest.partition("/")
    if scheme in _OF_REGISTRIES and (not slash or not ("." in first or ":" in first or first == "localhost")):
        first, slash, path = _HUB, "/", rest  # a name without a registry
    if scheme.startswith("http"):
        first = first.rpartition("@")[2].lower()
    elif slash and ("." in first or ":" in first):
        first = first.lower()
    if slash and not {".", "..", ""}.isdisjoint(path.split("/")):
        path = os.path.normpath(f"/{path}").lstrip("/")
    if scheme in _OF_REGISTRIES and first in _HUB_NAMES:
        first, path = _HUB, path if "/" in path else f"library/{path}"
    return f"{scheme}://{first}{slash}{path}"


def _by_rule(rule: Rule, policy: Policy, found: Evidence) -> Verdict:
    if rule.refuse:
        return Verdict(False, rule, "it allows no image from there", _elsewhere(policy, rule))
    signers: tuple[str, ...] = ()
    try:
        for check in (_owner, _digest):
            why, cure = check(rule, found)
            if why:
                return Verdict(False, rule, why, cure)
        if rule.any_of or rule.all_of:
            signers = tuple(sorted(found.signers()))
            why = _signatures(rule, signers)
            if why:
                return Verdict(False, rule, why, _sign(rule), signers)
        why, cure = _packages(rule, found)
    except BollardError as error:
        why, cure = error.message, error.hint
    except OSError as error:  # a program or a file cannot be read: the policy must not end an observed job
        why, cure = f"it cannot be looked at: {error}", "tell the site's administrator"
    return Verdict(not why, rule, why, cure, signers)


def _owner(rule: Rule, found: Evidence) -> tuple[str, str]:
    if not rule.owners:
        return "", ""
    wanted = " or ".join(map(identity.user_name, rule.owners))
    owner, mode = found.owner()
    if owner not in rule.owners:
        return f"it belongs to {identity.user_name(owner)}, not to {wanted}", f"use a file that belongs to {wanted}"
    if mode & 0o022:
        return "others than its owner may write to it", f"its owner can change that: `chmod go-w {found.path}`"
    return "", ""


def _digest(rule: Rule, found: Evidence) -> tuple[str, str]:
    if not rule.digests:
        return "", ""
    digest = found.digest()
    if digest in rule.digests:
        return "", ""
    if not digest:
        return "a directory has no digest", "build a SIF file of it, and ask the administrator to add its SHA-256"
    return f"its SHA-256 {digest} is not listed", "use the listed file, or ask the administrator to add this one"


def _signatures(rule: Rule, signers: tuple[str, ...]) -> str:
    """Return why the signers do not satisfy the rule; "" if they do."""
    missing = [key for key in rule.all_of if key not in signers]
    if missing:
        return f"it is not signed by {' and '.join(missing)}"
    if rule.any_of and not any(key in signers for key in rule.any_of):
        return f"it is not signed by {' or '.join(rule.any_of)}"
    return ""


def _sign(rule: Rule) -> str:
    keys = " and ".join(rule.all_of) or " or ".join(rule.any_of)
    return f"use an image that is signed by {keys}; `bollard verify` shows who has signed"


def _packages(rule: Rule, found: Evidence) -> tuple[str, str]:
    if not rule.without:
        return "", ""
    whole = found.sbom()
    if whole is None:
        return "it has no SBOM, so its packages are not known", "`bollard build` makes an image that has one"
    if whole.gaps:
        return f"its SBOM lacks packages: {whole.gaps}", "build the image again, and see the warnings"
    for package in whole.packages:
        for unwanted in rule.without:
            if _is(unwanted, package):
                has = f"it has {package.kind}/{package.name} {package.version}"
                return f"{has}, which `{trust_rule.shown(unwanted)}` excludes", "update that package and build it again"
    return "", ""


def _is(unwanted: Package, package: Listed) -> bool:
    """Return whether a package, or the source package that it was built from, is the unwanted one."""
    kind, version = package.kind, package.version
    names = (_normal(kind, package.name), _normal(kind, _source(package)))
    if _normal(kind, unwanted.name) not in names or unwanted.kind not in ("", kind):
        return False
    epoch, colon, rest = version.partition(":")
    if colon and epoch.isdigit() and ":" not in unwanted.version:  # a rule without an epoch is about each epoch
        version = rest
    return versions.fulfils(kind, version, unwanted.operator, unwanted.version)


def _source(package: Listed) -> str:
    name = package.upstream
    return name.rsplit("-", 2)[0] if name.endswith(".src.rpm") else name  # NAME-VERSION-RELEASE.src.rpm


def _normal(kind: str, name: str) -> str:
    """Return a name as its package manager compares it. For Python, that is PEP 503."""
    if kind != "pypi":
        return name
    return "-".join(word for word in name.lower().replace("_", "-").replace(".", "-").split("-") if word)


def _elsewhere(policy: Policy, refusing: Rule | None) -> str:
    """Return the places from which images may run, as far as rules before `refusing` and after it allow some."""
    places = [place for rule in policy.rules if not rule.refuse and rule is not refusing for place in rule.places]
    shown = [place for place in dict.fromkeys(places) if place != trust_rule.ANYWHERE]
    return f"use an image from {' or '.join(shown[:4])}" if shown else "ask the site's administrator"


class Refused(BollardError):
    """The policy is enforced and refuses an image. `trusted` is the verdict for the job's record."""

    trusted: list[tuple[str, str]]


def refusal(policy: Policy, verdict: Verdict, name: str) -> Refused:
    """Return the error for an image that the policy refuses: which rule, where it stands, what would satisfy it.

    policy: the policy.
    verdict: its verdict about the image.
    name: the image as the user named it.
    """
    if verdict.rule is None:
        return Refused(f"{name}: refused by this site ({policy.file}:{policy.line}): {verdict.why}", verdict.cure)
    called = f'rule "{verdict.rule.name}"' if verdict.rule.name else "the rule"
    where = f"{called} in {policy.file}:{verdict.rule.line}"
    return Refused(f"{name}: refused by this site, by {where}: {verdict.why}", verdict.cure)
