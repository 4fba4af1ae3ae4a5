# SPDX-License-Identifier: BSD-3-Clause
"""`bollard key ...`: the keyrings of PGP keys in ~/.apptainer/keys, with Apptainer's options, output and statuses."""

from __future__ import annotations

import os
import re
import sys
import time

from bollard.runtime import causes
from bollard.runtime.cli.passphrase import passphrase
from bollard.runtime.errors import BollardError, shown
from bollard.runtime.trust import keyring, pgp
from bollard.runtime.trust.keyring import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

_USER: Final = re.compile(r"(.*?)(?: \(([^()]*)\))?(?: ?<([^<>]*)>)?")
# Apptainer's exit statuses of commands that fail.
_STATUS: Final = {"newpair": 2, "search": 2, "pull": 2, "push": 2, "import": 2, "export": 10}
_ALGORITHMS: Final = {"1": "RSA", "16": "Elgamal", "17": "DSA", "18": "ECDH", "19": "ECDSA", "22": "EdDSA"}


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard key VERB`; return the exit status.

    name: the command, "key list" for example.
    given: the parsed options, name and value.
    words: the arguments.

    Raises:
        BollardError: an option or a keyring cannot be used; with Apptainer's exit status.
    """
    verb = name.partition(" ")[2]
    what = _WORDS[verb]
    if len(words) != (1 if what else 0):
        wanted = f"one word, {what}" if what else "no words"
        raise BollardError(
            f"key {verb} takes {wanted}, not {len(words)}", f"write `bollard key {verb} {what}`".rstrip()
        )
    asked = dict(given)
    if asked.get("global", "0") == "1" and "keysdir" in asked:
        raise BollardError("--global and --keysdir name two keyrings", "give one of them")
    try:
        _VERBS[verb](asked, *words)
    except BollardError as error:
        raise BollardError(error.message, error.hint, _STATUS.get(verb, error.code)) from None
    return 0


def _ring(asked: dict[str, str], secret: bool = False) -> str:
    """Return the path of the keyring that the options name."""
    if asked.get("global", "0") == "1":
        if secret:
            raise BollardError("--global: this machine's keyring has no private keys", "leave --secret out")
        return keyring.GLOBAL
    return os.path.join(
        keyring.directory(os.environ, asked.get("keysdir", "")), keyring.SECRET if secret else keyring.PUBLIC
    )


def _on(asked: dict[str, str], option: str) -> bool:
    return asked.get(option, "0") == "1"


def _list(asked: dict[str, str]) -> None:
    secret = _on(asked, "secret")
    path = _ring(asked, secret)
    print(f"{'Private' if secret else 'Public'} key listing ({shown(path)}):\n")
    sys.stdout.write(listing(keyring.read(path)))


def listing(keys: Sequence[Key]) -> str:
    """Return the text of `bollard key list` for these keys."""
    return "".join(
        f"{number})  User:              {user(key)}\n"
        f"    Creation time:     {_date(key.created)}\n"
        f"    Fingerprint:       {key.fingerprint}\n"
        f"    Length (in bits):  {key.bits}\n\n"
        for number, key in enumerate(keys)
    )


def user(key: Key) -> str:
    """Return the user id in the form NAME (COMMENT) <ADDRESS>, with empty parentheses for no comment, as Apptainer."""
    found = _USER.fullmatch(key.user)
    if not found:
        return shown(key.user)
    return shown(f"{found[1]} ({found[2] or ''}) <{found[3] or ''}>")


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(seconds))


def choose(keys: Sequence[Key], kind: str) -> Key:
    """Show the keys, and return the one whose number is read from standard input. `kind` is "public" or "private".

    Raises:
        BollardError: there are no keys, or the answer is not the number of one.
    """
    if not keys:
        raise BollardError("the keyring is empty", "see `bollard key list`")
    sys.stdout.write(listing(keys))
    print(f"Enter # of {kind} key to use : ", end="", flush=True)
    answer = sys.stdin.readline().strip()
    if not (answer.isascii() and answer.isdigit() and int(answer) < len(keys)):
        raise BollardError(f"{shown(answer)!r} is not the number of a key", "see `bollard key list`")
    return keys[int(answer)]


def _remove(asked: dict[str, str], fingerprint: str) -> None:
    both = _on(asked, "both")
    secret = both or _on(asked, "secret")
    public = both or not secret or _on(asked, "public")
    wanted = _full(fingerprint)
    # A list: both are tried.
    removed = [keyring.remove(_ring(asked, kind), wanted) for kind, on in ((False, public), (True, secret)) if on]
    if not any(removed):
        kinds = " or ".join(word for word, on in (("public", public), ("private", secret)) if on)
        raise BollardError(f"{wanted}: no {kinds} key has this fingerprint", "see `bollard key list`")


def _full(text: str) -> str:
    """Return a full fingerprint in upper case.

    Raises:
        BollardError: it is not one.
    """
    digits = text.upper().removeprefix("0X").replace(" ", "")
    if len(digits) != 40 or not set(digits) <= set("0123456789ABCDEF"):
        raise BollardError(
            f"{shown(text)}: is not a full fingerprint", "give its 40 digits: a short key id can belong to several keys"
        )
    return digits


def _export(asked: dict[str, str], path: str) -> None:
    secret = _on(asked, "secret")
    key = choose(keyring.read(_ring(asked, secret)), "private" if secret else "public")
    raw = keyring.armored(key.raw, secret).encode() if _on(asked, "armor") else key.raw
    try:
        if secret and os.path.lexists(path):  # its mode, and where it leads, are not those of a secret
            raise BollardError(f"{shown(path)}: exists already", "a private key gets a file of its own; name a new one")
        flags = os.O_EXCL if secret else os.O_TRUNC
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags | os.O_CLOEXEC, 0o600 if secret else 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
    except OSError as error:
        raise causes.of(error, f"{shown(path)}: cannot be written", path) from None
    kind = "Private" if secret else "Public"
    print(f"{kind} key with fingerprint {key.fingerprint} correctly exported to file: {shown(path)}")


def _import(asked: dict[str, str], path: str) -> None:
    if not os.path.exists(path):
        raise BollardError(f"{shown(path)}: no such file", "check the file name")
    if _on(asked, "new-password"):
        raise BollardError("--new-password is not supported", "set one with `gpg --change-passphrase`, then export it")
    keys = keyring.split_named(keyring.dearmored(keyring.read_bytes(path), path), path)
    if not keys:
        raise BollardError(f"{shown(path)}: holds no PGP key of version 4", "export one with `gpg --export --armor`")
    public = [key for key in keys if not key.secret]
    secret = [key for key in keys if key.secret]
    if secret:
        there = keyring.read(_ring(asked))
        public += [key for key in _public_of(secret) if keyring.find(there, key.fingerprint) is None]
        _add(_ring(asked, secret=True), secret, "private")
    _add(_ring(asked), public, "public")


def _add(path: str, keys: Sequence[Key], kind: str) -> None:
    """Add keys to a keyring. A public key that is there already is joined with the new one, revocations included.

    Raises:
        BollardError: a key is there already, and the new one adds nothing to it.
    """
    there = keyring.read(path)
    for key in keys:
        old = keyring.find(there, key.fingerprint)
        joined = key if old is None or key.secret else _joined(old, key)
        if old is not None and (key.secret or joined.raw == old.raw):
            raise BollardError(f"{key.fingerprint}: is in the {kind} keyring already", "nothing is to be done")
        keyring.put(path, [joined])
        print(f"Key with fingerprint {key.fingerprint} successfully added to the {kind} keyring")


def _place() -> str:
    from bollard.runtime.system import workspace

    return workspace.parent(os.environ)


def _joined(old: Key, new: Key) -> Key:
    """Return the key with all user ids, signatures and revocations of both; `old` if `new` adds nothing."""
    packets = {raw for _, _, raw in keyring.packets(old.raw)}
    if all(raw in packets for _, _, raw in keyring.packets(new.raw)):
        return old
    with pgp.Home(_place()) as home:
        home.gpg(["--import-options", "keep-ownertrust", "--import"], old.raw + new.raw)
        return _only(home.gpg(["--export", new.fingerprint]), new.fingerprint)


def _only(data: bytes, fingerprint: str) -> Key:
    found = keyring.find(keyring.split_named(data, "gpg's answer"), fingerprint)
    if found is None:
        raise BollardError(f"gpg does not accept the key {fingerprint}", "export it again, with its self-signatures")
    return found


def _public_of(secret: Sequence[Key]) -> list[Key]:
    with pgp.Home(_place()) as home:
        home.gpg(["--import"], b"".join(key.raw for key in secret))
        data = home.gpg(["--export"])
    return [_only(data, key.fingerprint) for key in secret]


def _newpair(asked: dict[str, str]) -> None:
    if asked.get("password"):
        raise BollardError(
            "--password: every user of this machine can read it from the command line",
            "use --passphrase-file FILE, or leave it out and type it",
        )
    bits = asked.get("bit-length", "4096")
    if not (bits.isascii() and bits.isdigit() and 2048 <= int(bits) <= 8192):
        raise BollardError(f"--bit-length {shown(bits)}: is not from 2048 to 8192", "4096 is a good choice")
    if int(bits) > 4096:
        raise BollardError(f"--bit-length {bits}: gpg makes keys of at most 4096 bits", "4096 is a good choice")
    name = _answer(asked, "name", "Enter your name (e.g., John Doe) : ")
    address = _answer(asked, "email", "Enter your email address (e.g., john.doe@example.com) : ")
    comment = _answer(asked, "comment", "Enter optional comment (e.g., development keys) : ")
    if not name or not address:
        raise BollardError("a key needs a name and an email address", "give --name and --email")
    identity = f"{name} ({comment}) <{address}>" if comment else f"{name} <{address}>"
    phrase = _new_passphrase(asked)
    print("Generating Entity and OpenPGP Key Pair... ", end="", flush=True)
    with pgp.Home(_place(), lasting=True) as home:
        home.gpg(["--quick-generate-key", identity, f"rsa{bits}", "sign,cert", "never"], b"", phrase)
        public = keyring.split_named(home.gpg(["--export"]), "gpg's answer")[0]
        home.gpg(["--quick-add-key", public.fingerprint, f"rsa{bits}", "encr", "never"], b"", phrase)
        public = _only(home.gpg(["--export"]), public.fingerprint)
        secret = _only(home.gpg(["--export-secret-keys"], b"", phrase), public.fingerprint)
    keyring.put(_ring(asked, secret=True), [secret])
    keyring.put(_ring(asked), [public])
    print("done")
    if _on(asked, "push"):
        _publish(asked, public)


def _answer(asked: dict[str, str], option: str, question: str) -> str:
    if option not in asked:
        print(question, end="", flush=True)
        asked[option] = sys.stdin.readline()
    text = asked[option].strip()
    if not text.isprintable() or set(text) & set("<>()"):
        raise BollardError(f"--{option} {shown(text)}: holds a character that a user id cannot have", "leave out <>()")
    return text


def _new_passphrase(asked: dict[str, str]) -> str:
    """Return the passphrase of a new key; "" for none, which only --password= or --passphrase-file can ask for."""
    if "passphrase-file" in asked:
        return passphrase(asked, "")
    if "password" in asked:
        return ""
    first = passphrase(asked, "Enter a passphrase : ")
    if first != passphrase(asked, "Retype your passphrase : "):
        raise BollardError("the two passphrases differ", "start again")
    if not first:
        raise BollardError("a key without a passphrase is usable by whoever reads its file", "add --password= for that")
    return first


def _push(asked: dict[str, str], fingerprint: str) -> None:
    path = _ring(asked)
    digits = fingerprint.upper().removeprefix("0X")
    found = [key for key in keyring.read(path) if len(digits) in (16, 40) and key.fingerprint.endswith(digits)]
    if len(digits) not in (16, 40):
        raise BollardError(f"{shown(fingerprint)}: is neither a key id nor a fingerprint", "give 16 or 40 digits")
    if len(found) != 1:
        raise BollardError(f"{shown(path)}: holds {len(found) or 'no'} key {shown(fingerprint)}", "give all 40 digits")
    _publish(asked, found[0])


def _publish(asked: dict[str, str], key: Key) -> None:
    from bollard.runtime.fetch import keyserver

    server = keyserver.base(asked.get("url", ""), os.environ)
    keyserver.publish(server, key)
    print(f"public key `{key.fingerprint}' pushed to server successfully")


def _pull(asked: dict[str, str], fingerprint: str) -> None:
    from bollard.runtime.fetch import keyserver

    path, wanted = _ring(asked), _full(fingerprint)
    keyserver.base(asked.get("url", ""), os.environ)  # raises if none is named
    key = keyserver.fetch_from(keyserver.bases(asked.get("url", ""), os.environ), wanted)
    old = keyring.find(keyring.read(path), wanted)
    keyring.put(path, [key if old is None else _joined(old, key)])
    print(f"1 key(s) added to keyring of trust {shown(path)}")


def _search(asked: dict[str, str], text: str) -> None:
    from bollard.runtime.fetch import keyserver

    server = keyserver.base(asked.get("url", ""), os.environ)
    digits = text.upper().removeprefix("0X")
    if len(digits) in (8, 16, 40) and set(digits) <= set("0123456789ABCDEF"):
        text = f"0x{digits}"
    found = keyserver.search(server, text)
    print(f"Showing {len(found)} results\n")
    print(
        "KEY ID    BITS  NAME/EMAIL" if not _on(asked, "long-list") else "FINGERPRINT  ALGORITHM  BITS  CREATION DATE"
    )
    for key in found:
        flags = {"r": "revoked", "d": "disabled", "e": "expired"}
        state = "".join(f" [{flags[flag]}]" for flag in key.flags if flag in flags)
        users = [shown(name) for name in key.users] or [""]
        if _on(asked, "long-list"):
            kind = _ALGORITHMS.get(key.algorithm, shown(key.algorithm))
            print(f"{shown(key.fingerprint)}  {kind}  {shown(key.bits)}  {_date(key.created)}{state}")
            print("".join(f"    {name}\n" for name in users), end="")
        else:
            print(f"{shown(key.fingerprint[-8:]):<9} {shown(key.bits):<5} {users[0]}{state}")
            print("".join(f"{'':<16}{name}\n" for name in users[1:]), end="")


_WORDS: Final = {
    "newpair": "", "list": "", "search": "TEXT", "pull": "FINGERPRINT", "push": "FINGERPRINT", "import": "FILE",
    "export": "FILE", "remove": "FINGERPRINT",
}  # fmt: skip
_VERBS: Final[dict[str, Callable[..., None]]] = {
    "newpair": _newpair, "list": _list, "search": _search, "pull": _pull, "push": _push, "import": _import,
    "export": _export, "remove": _remove,
}  # fmt: skip
