# SPDX-License-Identifier: BSD-3-Clause
"""A site's policy of which images may run, as data: the rules of `trust` in bollard.yaml.

`trust_config` reads them from bollard.yaml and checks them. In site.conf each rule is one text, lines of name=value;
`text` writes it and `parse` reads it. This module runs on the node path.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from typing import Final
else:
    from bollard.runtime.frozen import record

OBSERVE: Final = "observe"
ENFORCE: Final = "enforce"
ANYWHERE: Final = "anywhere"
# Longest first: "<=" begins with "<".
OPERATORS: Final = ("<=", ">=", "<", ">", "=")


@record(frozen=True)
class Package:
    """Packages that an image must not have.

    kind: the package manager, or the first part of a purl's type; "" for each.
    name: the name of the package.
    operator: one of OPERATORS, "" for each version.
    version: what the version is compared with.
    """

    kind: str
    name: str
    operator: str = ""
    version: str = ""


@record(frozen=True)
class Rule:
    """One rule. It decides on the images at its places; all its requirements must hold.

    line: where it begins in bollard.yaml.
    name: its name for messages, or "".
    places: directories, beginnings of URIs, or ANYWHERE.
    refuse: allow no image.
    owners: uids of which one must own the file, with nobody else able to write to it; () for no requirement.
    digests: SHA-256 digests of files, of which one must match; () for no requirement.
    any_of: names of keys (fingerprints, or "SHA256:..." of a PEM key) of which one must have signed.
    all_of: names of keys that must all have signed.
    without: packages that the image must not have.
    """

    line: int
    name: str = ""
    places: tuple[str, ...] = (ANYWHERE,)
    refuse: bool = False
    owners: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    without: tuple[Package, ...] = ()


@record(frozen=True)
class Policy:
    """The policy of a site.

    mode: OBSERVE or ENFORCE.
    file: the path of bollard.yaml, for messages.
    line: where `trust` begins in it.
    keyring: the path of the file with the public PGP keys, "" for none.
    pem_keys: the path of the file with public keys and certificates in PEM form, "" for none.
    roots: the path of the file with the roots of these certificates, "" for none.
    rules: the first rule that names the place of an image decides.
    """

    mode: str
    file: str
    line: int
    keyring: str
    rules: tuple[Rule, ...]
    pem_keys: str = ""
    roots: str = ""


def is_pem(key: str) -> bool:
    """Return whether the name of a key is that of a key in PEM form, and not a PGP fingerprint."""
    return key.startswith("SHA256:")


def text(rule: Rule) -> str:
    """Return the rule as lines of name=value."""
    lines = [f"line={rule.line}"]
    lines += [f"name={rule.name}"] if rule.name else []
    lines += [f"from={place}" for place in rule.places]
    lines += ["refuse=1"] if rule.refuse else []
    lines += [f"owner={owner}" for owner in rule.owners]
    lines += [f"digest={digest}" for digest in rule.digests]
    lines += [f"any={key}" for key in rule.any_of]
    lines += [f"all={key}" for key in rule.all_of]
    lines += [f"without={shown(package)}" for package in rule.without]
    return "\n".join(lines)


def parse(lines: str) -> Rule:
    """Return the rule of a text that `text` has made.

    Raises:
        ValueError: the text has another form. An unknown name is not ignored: it could restrict the rule.
    """
    given: dict[str, list[str]] = {name: [] for name in _NAMES}
    for line in lines.split("\n"):
        name, _, value = line.partition("=")
        if name not in given:
            raise ValueError(f"trust-rule has {name}=")
        given[name].append(value)
    return Rule(
        line=int(given["line"][0]),
        name="".join(given["name"]),
        places=tuple(given["from"]),
        refuse=bool(given["refuse"]),
        owners=tuple([int(value) for value in given["owner"]]),
        digests=tuple(given["digest"]),
        any_of=tuple(given["any"]),
        all_of=tuple(given["all"]),
        without=tuple([package(value) for value in given["without"]]),
    )


_NAMES: Final = ("line", "name", "from", "refuse", "owner", "digest", "any", "all", "without")


def policy(given: dict[str, list[str]]) -> Policy | None:
    """Return the policy in the lines of site.conf, by name; None if the site has none.

    Raises:
        BollardError: the lines were not made by `site_config.compiled`.
    """
    if "trust" not in given:
        return None
    try:
        mode = given["trust"][-1]
        if mode not in (OBSERVE, ENFORCE):
            raise ValueError(f"trust={mode}")
        return Policy(
            mode,
            given.get("trust-file", ["bollard.yaml"])[-1],
            int(given["trust-line"][-1]),
            given.get("trust-keyring", [""])[-1],
            tuple([parse(lines) for lines in given.get("trust-rule", [])]),
            given.get("trust-pem-keys", [""])[-1],
            given.get("trust-roots", [""])[-1],
        )
    except (KeyError, IndexError, ValueError) as error:
        raise BollardError(
            f"the site's policy of images cannot be read ({error})",
            "the site's administrator should run `bollard site configure` again",
        ) from None


def package(words: str) -> Package:
    """Return the package of a text such as `openssl < 3.0.11` or `pypi/jinja2`.

    Raises:
        ValueError: the text has another form.
    """
    for operator in OPERATORS:
        name, found, version = words.partition(operator)
        if found:
            break
    else:
        name, operator, version = words, "", ""
    name, version = name.strip(), version.strip()
    if name.startswith("@"):  # a scope of npm
        kind = ""
    else:
        kind, slash, rest = name.partition("/")
        kind, name = (kind, rest) if slash else ("", name)
    wrong = not name or bool(operator) != bool(version) or any(c in " \t\n<>=" for c in name + version + kind)
    if wrong:
        raise ValueError(f"{words!r} is no package")
    return Package(kind, name, operator, version)


def shown(unwanted: Package) -> str:
    """Return the package as `package` reads it."""
    kind = f"{unwanted.kind}/" if unwanted.kind else ""
    return f"{kind}{unwanted.name}" + (f" {unwanted.operator} {unwanted.version}" if unwanted.operator else "")
