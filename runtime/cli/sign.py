# SPDX-License-Identifier: BSD-3-Clause
"""`bollard sign` and `bollard verify`, with Apptainer's options, output and exit statuses."""

from __future__ import annotations

import json
import os
import sys

from bollard.runtime.cli import key as cli_key
from bollard.runtime.cli.inspect import GO_ESCAPES
from bollard.runtime.cli.passphrase import passphrase
from bollard.runtime.cli.sif import type_name
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.image import image
from bollard.runtime.request.options import setting
from bollard.runtime.trust import verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from bollard.runtime.image.sif import Descriptor, Sif
    from bollard.runtime.trust.keyring import Key
    from bollard.runtime.trust.verify import Report, Trust, Verdict

_LAST: Final = (1 << 32) - 1


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard sign` or `bollard verify`; return the exit status.

    name: "sign" or "verify".
    given: the parsed options, name and value.
    words: the arguments; exactly one, the path of the image.

    Raises:
        BollardError: an option or the image cannot be used, or the image does not verify.
    """
    if len(words) != 1:
        raise BollardError(f"{name} takes one image, not {len(words)}", f"write `bollard {name} IMAGE`")
    groups = _numbers("group-id", given)
    objects = _numbers("sif-id", given)
    if name == "verify" and words[0].startswith(("docker://", "oras://")):
        _verify_in_registry(words[0], given)
    elif name == "sign":
        _sign(words[0], dict(given), groups, objects)
    else:
        _verify(words[0], dict(given), groups, objects)
    return 0


def _numbers(option: str, given: list[tuple[str, str]]) -> list[int]:
    texts = [value for name, value in given if name == option]
    for text in texts:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= _LAST):
            raise BollardError(f"--{option} {text!r} is not a number", "see `bollard sif list IMAGE`")
    return [int(text) for text in texts[-1:] if int(text)]  # 0 is Apptainer's "not given"


def _sign(path: str, asked: dict[str, str], groups: list[int], objects: list[int]) -> None:
    from bollard.runtime.system import workspace
    from bollard.runtime.trust import sign

    pem = asked.get("key", "") or ("" if {"keyidx", "gpg-key"} & asked.keys() else setting(os.environ, "SIGN_KEY"))
    ways = [f"--{option}" for option in ("key", "keyidx", "gpg-key") if option in asked]
    if len(ways) > 1:
        raise BollardError(f"{' and '.join(ways)} name two keys", "give one of them")
    if pem:
        from bollard.runtime.trust import dsse

        phrase = passphrase(asked, f"Passphrase of {shown(pem)}: ") if dsse.is_encrypted(pem) else None
        sign.with_pem(path, dsse.private_key(pem, phrase), groups, objects)
    elif "gpg-key" in asked:
        digits = asked["gpg-key"].upper().removeprefix("0X")
        if len(digits) != 40 or not set(digits) <= set("0123456789ABCDEF"):
            raise BollardError(f"--gpg-key {shown(asked['gpg-key'])}: is no fingerprint", "give its 40 digits in full")
        sign.with_own_gpg(path, digits, groups, objects)
    else:
        key = _secret_key(asked)
        phrase = passphrase(asked, f"Passphrase of {shown(key.user)}: ") if sign.is_protected(key) else None
        sign.with_pgp(path, key, phrase, workspace.parent(os.environ), groups, objects)


def _secret_key(asked: dict[str, str]) -> Key:
    """Return the secret key to sign with: that of --keyidx, or the only one, or the one that the user chooses."""
    from bollard.runtime.trust import keyring

    path = os.path.join(keyring.directory(os.environ), keyring.SECRET)
    keys = keyring.read(path)
    if not keys:
        raise BollardError(f"{shown(path)}: holds no key", "make one with `bollard key newpair`")
    if "keyidx" in asked:
        text = asked["keyidx"]
        if not (text.isascii() and text.isdigit() and int(text) < len(keys)):
            raise BollardError(f"--keyidx {shown(text)}: no such key", "see `bollard key list --secret`")
        return keys[int(text)]
    return keys[0] if len(keys) == 1 else cli_key.choose(keys, "private")


def _verify(path: str, asked: dict[str, str], groups: list[int], objects: list[int]) -> None:
    if asked.get("legacy-insecure", "0") == "1":
        raise BollardError(
            "--legacy-insecure is not supported: signatures from before 2020 do not protect the image",
            "let its author sign it again",
        )
    if asked.get("ocsp-verify", setting(os.environ, "VERIFY_OCSP") or "0").lower() in ("1", "true"):
        raise BollardError(
            "--ocsp-verify is not supported: no server is asked whether a certificate was revoked",
            "leave it out, and use certificates of a short life",
        )
    trust = _trust(asked)
    fd, found = image.open_sif(path)
    try:
        report = verify.verify(fd, found, trust, groups=groups, objects=objects)
        remote: frozenset[str] = frozenset()
        if any(verdict.unknown for verdict in report.verdicts) and _may_ask(asked):
            report, remote = _with_server(fd, found, trust, report, asked, groups, objects)
    finally:
        os.close(fd)
    shown_ones = _until_failure(report)
    if asked.get("json", "0") == "1":
        print(json_text(found, shown_ones, remote))
    else:
        sys.stdout.write("".join(line + "\n" for line in lines(found, shown_ones, remote)))
    sys.stdout.flush()
    if report.reason:
        raise BollardError(f"{found.name}: {report.reason}", verify.cure(report))
    for fingerprint in sorted(remote):
        print(f"bollard: the key {fingerprint} came from a key server, where anybody can put one", file=sys.stderr)
    left = [item for item in found.descriptors if item.id not in report.objects and not _is_signature(item)]
    if left:
        said = ", ".join(f"{item.id} ({type_name(item)})" for item in left[:8]) + (", ..." if left[8:] else "")
        print(f"bollard: {found.name}: not verified: object {said}", file=sys.stderr)


def _verify_in_registry(uri: str, given: list[tuple[str, str]]) -> None:
    """Verify cosign's signature of an image in a registry, and print the image's name with the digest."""
    from bollard.runtime.fetch import cosigned, reference, sources
    from bollard.runtime.trust import dsse

    asked = dict(given)
    other = sorted(asked.keys() - {"key", "json", "authfile", "docker-login", "no-https"})
    if other:
        raise BollardError(f"--{other[0]}: is about SIF files, not images of registries", "leave it out")
    pem = asked.get("key", "") or setting(os.environ, "VERIFY_KEY")
    if not pem:
        raise BollardError(f"{shown(uri)}: by which key?", "add --key FILE, which cosign calls cosign.pub")
    key = dsse.public_key(pem)
    name = reference.parse(uri)
    settings = sources.with_login(name, sources.settings(given, os.environ))
    found, count = cosigned.verified(name, key, settings.access)
    if asked.get("json", "0") == "1":
        print(json.dumps({"image": found.uri, "key": dsse.key_id(key), "signatures": count}, indent=2))
    else:
        print(f"{found.uri}\nis signed with the key {dsse.key_id(key)}")


def _is_signature(item: Descriptor) -> bool:
    from bollard.runtime.image import sif

    return item.datatype == sif.SIGNATURE


def _trust(asked: dict[str, str]) -> Trust:
    """Return whose signatures count: the key of --key, that of --certificate, or the keyrings."""
    certificate = asked.get("certificate", "") or setting(os.environ, "VERIFY_CERTIFICATE")
    pem = asked.get("key", "") or setting(os.environ, "VERIFY_KEY")
    if "key" in asked and "certificate" in asked:
        raise BollardError("--key and --certificate name two keys", "give one of them")
    if certificate and "key" not in asked:
        from bollard.runtime.trust import dsse

        intermediates = asked.get("certificate-intermediates", "") or setting(os.environ, "VERIFY_INTERMEDIATES")
        roots = asked.get("certificate-roots", "") or setting(os.environ, "VERIFY_ROOTS")
        return verify.Trust(keys=(dsse.certified_key(certificate, intermediates, roots),))
    for option in ("certificate-intermediates", "certificate-roots"):
        if option in asked:
            raise BollardError(f"--{option} is about --certificate", "add --certificate FILE")
    if pem:
        from bollard.runtime.trust import dsse

        return verify.Trust(keys=(dsse.public_key(pem),))
    return verify.default_trust(os.environ)


def _may_ask(asked: dict[str, str]) -> bool:
    """Return whether key servers may be asked: --local is not set."""
    return asked.get("local", "0") != "1"


def _with_server(
    fd: int, found: Sif, trust: Trust, report: Report, asked: dict[str, str], groups: list[int], objects: list[int]
) -> tuple[Report, frozenset[str]]:
    """Fetch unknown keys by their full fingerprints, and verify again; return the report and their fingerprints."""
    import tempfile

    from bollard.runtime.fetch import keyserver

    try:
        servers = keyserver.bases(asked.get("url", ""), os.environ)
    except BollardError as error:
        if asked.get("url"):
            raise
        print(f"bollard: {error}", file=sys.stderr)  # the report then says that the key is unknown
        servers = []
    if not servers:
        return report, frozenset()
    names = {verdict.claimed for verdict in report.verdicts if verdict.unknown and verdict.claimed}
    fetched: list[Key] = []
    for name in sorted(names):
        try:
            fetched.append(keyserver.fetch_from(servers, name))
        except BollardError as error:
            print(f"bollard: {error}", file=sys.stderr)  # the report then says that the key is unknown
    with tempfile.NamedTemporaryFile(prefix="bollard-keys-") as file:
        file.write(b"".join(key.raw for key in fetched))
        file.flush()
        wider = verify.Trust((*trust.keyrings, file.name), trust.keys)
        again = verify.verify(fd, found, wider, groups=groups, objects=objects)
    return again, frozenset(key.fingerprint for key in fetched)


def _until_failure(report: Report) -> list[Verdict]:
    """Return the verdicts to show: as in Apptainer, those up to the first failure."""
    found: list[Verdict] = []
    for verdict in report.verdicts[: report.before]:
        if verdict.mismatched:
            break
        found.append(verdict)
        if not verdict.good:
            break
    return found


def lines(found: Sif, verdicts: list[Verdict], remote: frozenset[str]) -> list[str]:
    """Return the lines of `bollard verify`.

    found: the image.
    verdicts: those to show.
    remote: fingerprints of keys that came from a key server.
    """
    by = {item.id: item for item in found.descriptors}
    shown_lines: list[str] = []
    for verdict in verdicts:
        if verdict.kind == "pgp" and verdict.fingerprint:
            place = "[REMOTE]" if verdict.fingerprint in remote else "[LOCAL]"
            shown_lines.append(f"{place:<18} Signing entity: {shown(verdict.name)}")
            shown_lines.append(f"{place:<18} Fingerprint: {verdict.fingerprint}")
        if verdict.covered and (verdict.good or verdict.changed):  # not of a group that has other objects
            shown_lines += ["Objects verified:", "ID  |GROUP   |LINK    |TYPE", "-" * 48]
            shown_lines += [_row(by[number]) for number in verdict.covered]
    return shown_lines


def _row(item: Descriptor) -> str:
    number, is_group = item.link
    link = f"{number} ({'G' if is_group else ''})".replace(" ()", "") if number else "NONE"
    return f"{item.id:<4}|{item.group or 'NONE':<8}|{link:<8}|{type_name(item)}"


def json_text(found: Sif, verdicts: list[Verdict], remote: frozenset[str]) -> str:
    """Return the JSON text of `bollard verify --json`. The parameters are those of `lines`."""
    by = {item.id: item for item in found.descriptors}
    signers: list[dict[str, Any]] = []
    for verdict in verdicts:
        is_pgp = verdict.kind == "pgp"
        for number in sorted((*verdict.covered, *verdict.changed)) if verdict.good or verdict.changed else ():
            signer = {
                "Partition": type_name(by[number]),
                "Name": verdict.name if is_pgp else "unknown",
                "Fingerprint": verdict.fingerprint.lower() if is_pgp else "",
                "KeyLocal": is_pgp and verdict.fingerprint not in remote,
                "KeyCheck": is_pgp,
                "DataCheck": number in verdict.covered,
            }
            signers.append({"Signer": signer})
    document = {"Signatures": len(verdicts), "SignerKeys": signers or None}
    return json.dumps(document, indent=2, ensure_ascii=False).translate(GO_ESCAPES)
