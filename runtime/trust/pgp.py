# SPDX-License-Identifier: BSD-3-Clause
"""PGP: signatures are verified by gpgv, and made by gpg in a private directory. No cryptography is done here.

gpgv ends with status 0 for the signature of a revoked key, and it accepts several signatures in one message. So its
status lines decide, not its exit status: exactly one signature, no line of a failure, one full fingerprint.
gpgv is run from fixed directories with an environment of its own: what a user sets cannot replace it.
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from dataclasses import dataclass as record
    from types import TracebackType
    from typing import Any, Final
else:
    from bollard.runtime.frozen import record

_PLACES: Final = ("/usr/bin", "/bin", "/usr/local/bin")
# The environment of gpgv and gpg.
_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin:/usr/local/bin"}
_TIMEOUT: Final = 60  # seconds for one run of gpgv; it takes milliseconds
_MAKING: Final = 600  # seconds for a key of 4096 bits on a slow machine
# OpenPGP's numbers of the hashes that a signature may use, RFC 9580 section 9.5; not MD5, SHA-1 and RIPEMD-160.
_HASHES: Final = {"8": "SHA256", "9": "SHA384", "10": "SHA512", "11": "SHA224"}
# gpg cuts longer lines of a clear-signed text. The signed text is one line.
MAX_TEXT: Final = 19_000
_SIGNING: Final = ("--personal-digest-preferences", "SHA256 SHA384 SHA512")
# How many bytes are hashed for one guess of a passphrase: the most that OpenPGP knows, and the least of gpg-agent.
_LASTING: Final = 65_011_712
_PASSING: Final = 65_536
_PREFIX: Final = "[GNUPG:] "
_FAILURES: Final = {
    "BADSIG": "the signature does not match the signed text",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key has been revoked",
}


@record(frozen=True)
class Checked:
    """What gpgv says about a clear-signed message.

    fingerprint: of the signer's primary key, 40 or 64 hexadecimal digits in upper case; "" without a valid signature.
    name: the user id of the key, or "".
    text: the signed text; empty without a valid signature.
    reason: why the signature does not count; "" if it does.
    unknown: the key is in none of the keyrings.
    maker: the fingerprint of the key or subkey that made the signature; "" without a valid signature.
    """

    fingerprint: str
    name: str
    text: bytes
    reason: str
    unknown: bool = False
    maker: str = ""


def program(name: str, package: str) -> str:
    """Return the path of a program of GnuPG.

    Raises:
        BollardError: it is not installed; the hint names the package.
    """
    for place in _PLACES:
        if os.access(f"{place}/{name}", os.X_OK):
            return f"{place}/{name}"
    raise BollardError(f"the program {name} is missing on this machine", f"install the package {package}")


def verify(message: bytes, keyrings: Sequence[str], gpgv: str = "") -> Checked:
    """Verify a clear-signed message with the keys in `keyrings`, absolute paths of files.

    Files that do not exist are left out. Each keyring, and each copy of the signer's key in it, is asked by itself:
    gpgv takes the first copy of a key, and a revocation counts in whichever copy it is. gpgv takes short keys too; here
    they do not count.

    message: the message.
    keyrings: absolute paths.
    gpgv: the path of the program, for a process whose programs no user may trace; "" for that of the machine.

    Raises:
        BollardError: gpgv is missing or does not end, or the keyring of the signer's key is damaged.
    """
    rings = [path for path in keyrings if os.path.isfile(path) and os.path.getsize(path)]
    if not rings:
        return Checked("", "", b"", "the key is in no keyring", True)
    own, gpgv = bool(gpgv), gpgv or program("gpgv", "gpgv")
    found = []
    for path in rings:
        first = _verify(message, path, gpgv, own)
        copies = _copies(path, first.fingerprint) if first.fingerprint else []
        checked = [first, *(_verify(message, "", gpgv, own, raw) for raw in copies[1:])]  # gpgv has used the first
        found += [_long_enough(one, copies) for one in checked]
    revoked = [one for one in found if one.reason == _FAILURES["REVKEYSIG"]]
    good = [one for one in found if not one.reason]
    known = [one for one in found if not one.unknown]
    return [*revoked, *good, *known, *found][0]


def _copies(path: str, fingerprint: str) -> list[bytes]:
    """Return the packets of each copy of a key in a keyring, in order.

    Raises:
        BollardError: the keyring cannot be read, or is damaged: a revocation in it could be missed.
    """
    from bollard.runtime.trust import keyring

    return [key.raw for key in keyring.read(path) if key.fingerprint == fingerprint]


def _long_enough(found: Checked, copies: Sequence[bytes]) -> Checked:
    """Return what gpgv has said, refused if the key or the subkey that signed is too short.

    A short primary key vouches for no subkey either. Keys of version 6 are not looked at: these cannot be short.

    found: what gpgv has said.
    copies: the packets of the signer's key.
    """
    from bollard.runtime.trust import keyring

    if found.reason or len(found.fingerprint) != 40:
        return found
    try:
        short = keyring.shortness(b"".join(copies), (found.fingerprint, found.maker))
    except (ValueError, IndexError):
        return Checked("", found.name, b"", "its key cannot be read")
    return Checked("", found.name, b"", f"its key is {short}") if short else found


def _verify(message: bytes, keyring: str, gpgv: str, own: bool, raw: bytes = b"") -> Checked:
    """Return what gpgv says with one keyring.

    message: the message.
    keyring: the path of the keyring; "" for a keyring that is `raw`.
    gpgv: the path of the program.
    own: it is the installation's copy, which must not get this process's capabilities.
    raw: the packets of one key.

    Raises:
        BollardError: gpgv does not end.
    """
    import subprocess

    argv = [gpgv, "--homedir", "/nonexistent", "--status-fd", "2", "--log-file", "/dev/null"]
    fd = os.memfd_create("keyring", os.MFD_CLOEXEC) if raw else -1
    argv += ["--keyring", f"/dev/fd/{fd}" if raw else os.path.abspath(keyring)]
    try:
        if raw:
            os.write(fd, raw)
        done = subprocess.run(
            [*argv, "--output", "-"],
            input=message,
            capture_output=True,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=(fd,) if raw else (),
            timeout=_TIMEOUT,
            check=False,
            # As uid 0 of a user namespace gpgv would get this process's capabilities.
            preexec_fn=linux.be_no_root if own and os.getuid() == 0 else None,
        )
    except subprocess.TimeoutExpired:
        raise BollardError(f"gpgv gave no answer in {_TIMEOUT} s", "try again") from None
    finally:
        if raw:
            os.close(fd)
    return _judge(done.stderr.decode("utf-8", "replace"), done.stdout, done.returncode)


def _judge(status: str, text: bytes, code: int) -> Checked:
    """Return what the status lines of gpgv mean.

    status: the lines, each "[GNUPG:] WORD ...".
    text: the signed text as gpgv wrote it.
    code: its exit status.
    """
    # Not splitlines(): a user id can hold other separators of lines, which gpgv prints as they are.
    lines = [line[len(_PREFIX) :].split(" ") for line in status.split("\n") if line.startswith(_PREFIX)]
    lines = [words for words in lines if words]
    by = {words[0]: words for words in lines}
    names = [words[0] for words in lines]
    name = _user(by.get("GOODSIG", next((by[word] for word in _FAILURES if word in by), [])))
    for word, reason in _FAILURES.items():
        if word in by:
            return Checked("", name, b"", reason)
    if "NO_PUBKEY" in by:
        return Checked("", "", b"", "the key is in no keyring", True)
    if names.count("VALIDSIG") != 1 or names.count("GOODSIG") != 1 or names.count("NEWSIG") != 1:
        return Checked("", "", b"", "it is not one valid PGP signature")
    if names.count("PLAINTEXT") != 1 or "ERRSIG" in by or "FAILURE" in by or "NODATA" in by or code != 0:
        return Checked("", "", b"", "it is not one valid PGP signature")
    valid = by["VALIDSIG"]
    if len(valid) < 11 or valid[8] not in _HASHES:
        return Checked("", name, b"", "it uses a hash that is too weak")
    if valid[9] not in ("00", "01") or not _is_fingerprint(valid[10]):
        return Checked("", name, b"", "it is not the signature of a text")
    return Checked(valid[10], name, text.removesuffix(b"\n"), "", maker=valid[1])


def _user(words: list[str]) -> str:
    """Return the user id of a status line. gpgv escapes control characters in it as %XX."""
    return " ".join(words[2:])


def _is_fingerprint(text: str) -> bool:
    return len(text) in (40, 64) and set(text) <= set("0123456789ABCDEF")


class Home:
    """A private directory of gpg with an agent. A context manager: the agent ends and the directory goes with it.

    The agent also ends when this process is killed: it watches `cat`, which reads from a pipe of this process.
    """

    def __init__(self, place: str, *, lasting: bool = False) -> None:
        """Prepare for a directory in `place`.

        place: a directory. The names of sockets are limited to 107 bytes: /tmp is used instead of a long one.
        lasting: passphrases are set here that protect a key afterwards; guessing one is made slow.
        """
        self._place = place if len(place) < 60 else "/tmp"
        self._count = _LASTING if lasting else _PASSING
        self.path = ""
        self._agent: Any = None

    def __enter__(self) -> Home:
        import subprocess
        import tempfile

        agent = program("gpg-agent", "gpg-agent")
        program("gpg", "gpg")
        try:
            self.path = tempfile.mkdtemp(prefix=".bollard-gpg-", dir=self._place)
        except OSError as error:
            raise BollardError(
                f"{self._place}: cannot be written: {error.strerror}", "set BOLLARD_TMPDIR to a directory of yours"
            ) from None
        try:
            with open(f"{self.path}/gpg-agent.conf", "w", encoding="ascii") as file:
                file.write(f"s2k-count {self._count}\n")  # else the agent measures this machine for seconds
            self._agent = subprocess.Popen(
                [agent, "--homedir", self.path, "--quiet", "--log-file", "/dev/null", "--daemon", "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**_ENVIRONMENT, "GNUPGHOME": self.path},
                cwd="/",
            )
            self._agent.stdin.write(b"ready\n")
            self._agent.stdin.flush()
            if not self._agent.stdout.readline():
                raise BollardError("gpg-agent does not start", "see `gpg-agent --daemon true`")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import shutil
        import subprocess

        env = {**_ENVIRONMENT, "GNUPGHOME": self.path}
        if self._agent is not None:
            # An installation without gpgconf: the agent then ends a few seconds after `cat`.
            if any(os.access(f"{place}/gpgconf", os.X_OK) for place in _PLACES):
                for order in (["--kill", "gpg-agent"], ["--remove-socketdir"]):
                    subprocess.run(["gpgconf", *order], env=env, capture_output=True, check=False, timeout=_TIMEOUT)
            self._agent.stdin.close()
            self._agent.stdout.close()
            self._agent.wait()
        shutil.rmtree(self.path, ignore_errors=True)  # its sockets can vanish meanwhile, as the agent removes them

    def gpg(self, options: Sequence[str], data: bytes = b"", passphrase: str | None = None) -> bytes:
        """Run gpg; return its standard output.

        options: of gpg; none of them a secret.
        data: its standard input.
        passphrase: of a secret key, given through a pipe; None for a key that has none.

        Raises:
            BollardError: gpg fails; the message is its last line.
        """
        import subprocess

        read, write = os.pipe()
        try:
            os.write(write, (passphrase or "").encode() + b"\n")
        finally:
            os.close(write)
        argv = ["gpg", "--homedir", self.path, "--batch", "--no-tty", "--yes", "--quiet", "--no-options"]
        argv += ["--trust-model", "always", "--no-auto-check-trustdb", "--no-comments", "--no-emit-version"]
        argv += ["--pinentry-mode", "loopback", "--passphrase-fd", str(read), "--status-fd", "2"]
        try:
            done = subprocess.run(
                [*argv, *options],
                input=data,
                capture_output=True,
                env={**_ENVIRONMENT, "GNUPGHOME": self.path},
                cwd="/",
                pass_fds=(read,),
                timeout=_MAKING,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BollardError(f"gpg did not end in {_MAKING} s", "try again") from None
        finally:
            os.close(read)
        if done.returncode != 0:
            raise _failed(done.stderr.decode("utf-8", "replace"))
        return done.stdout


def _failed(told: str) -> BollardError:
    lines = [line for line in told.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith(_PREFIX)]
    if "Bad passphrase" in told or "No passphrase given" in told or "BAD_PASSPHRASE" in told:
        return BollardError("the passphrase of the key is wrong", "give it again")
    said = (plain or lines or ["no message"])[-1].removeprefix("gpg: ")
    return BollardError(f"gpg: {said}", "check the key with `bollard key list --secret`")


def clear_sign(home: Home, text: bytes, fingerprint: str, passphrase: str | None) -> bytes:
    """Return the clear-signed message of `text`, without a newline at its end.

    home: has the secret key.
    text: one line without its newline.
    fingerprint: of the primary key, which signs.
    passphrase: of the key; None for none.

    Raises:
        BollardError: gpg fails, or the text is longer than gpg takes.
    """
    _check_length(text)
    return home.gpg([*_SIGNING, "--local-user", f"{fingerprint}!", "--clearsign"], text, passphrase).rstrip(b"\n")


def clear_sign_by_agent(text: bytes, fingerprint: str) -> bytes:
    """Return the same by the user's own gpg and agent, with their settings and smart cards.

    Raises:
        BollardError: gpg fails, or the text is longer than gpg takes.
    """
    import subprocess

    _check_length(text)
    argv = [program("gpg", "gpg"), "--yes", "--no-comments", "--no-emit-version", *_SIGNING]
    done = subprocess.run(
        [*argv, "--local-user", f"{fingerprint}!", "--clearsign"], input=text, stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise BollardError(f"gpg does not sign with the key {fingerprint}", "see `gpg --list-secret-keys`")
    return done.stdout.rstrip(b"\n")


def _check_length(text: bytes) -> None:
    if len(text) > MAX_TEXT:
        raise BollardError(
            f"the group has too many objects: its {len(text)} bytes to sign are more than gpg takes in one line",
            "sign it with a PEM key: --key FILE",
        )


def hash_of(message: bytes) -> str:
    """Return the hash that a clear-signed message names: SHA256, SHA384, SHA512, or "" for another one."""
    for line in message[:200].split(b"\n\n")[0].splitlines():
        if line.startswith(b"Hash: "):
            name = line[6:].strip().decode("ascii", "replace")
            return name if name in ("SHA256", "SHA384", "SHA512") else ""
    return ""
