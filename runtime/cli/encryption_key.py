# SPDX-License-Identifier: BSD-3-Clause
"""The key of an encrypted image, for `bollard exec`, `run`, `shell`, `test`, `instance start` and `build`.

A passphrase in an environment variable would stay in /proc/PID/environ of this process and of those that it starts. So
the command starts itself again without that variable; the value passes in a file of memory.
"""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.runtime.image import encryption
from bollard.runtime.request.options import PREFIXES, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from bollard.runtime.image.encryption import Key
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec

OPTIONS: Final = ("passphrase", "passphrase-file", "pem-path")
_PASSPHRASE, _PEM = encryption.VARIABLES
# The number of the descriptor that has the two values, with a NUL between.
_PASSED: Final = "BOLLARD_ENCRYPTION_FD"
_VALUE_MAX: Final = 1 << 17  # bytes of one environment variable; execve(2)


def of_image(opened: Image, asked: Spec, given: list[tuple[str, str]]) -> list[Key]:
    """Return the key for an image, [] if it is not encrypted. Closes the image.

    The list is the only reference to the key: who has opened the image takes it out, and no frame keeps it.

    opened: the image.
    asked: the spec of the container.
    given: the options of the command, name and value.

    Raises:
        BollardError: no key of the right kind was given, it cannot be read, or the image is not encrypted.
    """
    names = [name for name, _ in given if name in OPTIONS]
    if not opened.encrypted:
        if names:
            raise BollardError(f"{asked.asked}: is not encrypted, so --{names[0]} has no effect", "leave it out")
        opened.close()
        return []
    from_variables = _from_variables()
    passphrase = _typed() if "passphrase" in names else b""
    if not passphrase and asked.passphrase_file:
        passphrase = encryption.read_passphrase(asked.passphrase_file)
    pem = encryption.read_pem(asked.pem_path) if asked.pem_path else from_variables.pem
    key = encryption.Key(passphrase or from_variables.passphrase, pem)
    encryption.check_kind(asked.asked, opened.wrapped_key(), key)
    opened.close()
    return [key]


def for_build(given: list[tuple[str, str]]) -> Key | None:
    """Return the key to encrypt a new image for, None for an image that is not encrypted.

    As in Apptainer, --passphrase and --pem-path mean --encrypt. A variable alone does not, and gets a line.

    Raises:
        BollardError: there is no key, or it cannot be read.
    """
    options = dict(given)
    names = [name for name in (*OPTIONS, "encrypt") if name in options and options[name] != "0"]
    files = {name: setting(os.environ, name) for name in ("ENCRYPTION_PASSPHRASE_FILE", "ENCRYPTION_PEM_PATH")}
    if not names:
        if any(files.values()) or setting(os.environ, _PASSPHRASE, _PEM):
            os.write(2, b"bollard: a key for encryption is in the environment, but --encrypt was not given: "
                        b"the image is not encrypted\n")  # fmt: skip
        return None
    from_variables = _from_variables()
    passphrase_file = options.get("passphrase-file") or files["ENCRYPTION_PASSPHRASE_FILE"]
    pem_path = options.get("pem-path") or files["ENCRYPTION_PEM_PATH"]
    passphrase = _typed() if "passphrase" in names else b""
    if not passphrase and passphrase_file:
        passphrase = encryption.read_passphrase(passphrase_file)
    pem = encryption.read_pem(pem_path) if pem_path else from_variables.pem
    key = encryption.Key(passphrase or from_variables.passphrase, pem)
    if not key:
        raise BollardError(
            "--encrypt: no key was given", "give --passphrase, --passphrase-file FILE, or --pem-path FILE, a public key"
        )
    return key


def refuse_on_slurm(given: list[tuple[str, str]]) -> None:
    """Raise if a build in a job step would get its key from the terminal or from a variable, which Slurm would carry.

    Raises:
        BollardError: it names the ways that work.
    """
    names = {name for name, value in given if value != "0"}
    typed = "passphrase" in names
    variable = next((name for name in (_PASSPHRASE, _PEM) if setting(os.environ, name)), "")
    if typed or (variable and names.intersection((*OPTIONS, "encrypt"))):
        what = "--passphrase" if typed else f"variable {PREFIXES[1]}{variable}"
        raise BollardError(f"--on-slurm: {what} would pass through Slurm", "use --passphrase-file or --pem-path")


def _from_variables() -> Key:
    """Return the key in environment variables. The first call with such a variable starts this command again."""
    if _PASSED in os.environ:
        fd = int(os.environ.pop(_PASSED))
        data = os.pread(fd, 2 * _VALUE_MAX, 0)
        os.close(fd)
        passphrase, _, pem = data.partition(b"\0")
        return encryption.Key(
            encryption.checked(passphrase, f"variable {_PASSPHRASE}") if passphrase else b"",
            encryption.checked_pem(pem, f"variable {_PEM}") if pem else b"",
        )
    values = [os.fsencode(setting(os.environ, name)) for name in (_PASSPHRASE, _PEM)]
    if not any(values):
        return encryption.Key()
    fd = os.memfd_create("key", 0)
    os.write(fd, b"\0".join(values))
    secret = {prefix + name for prefix in PREFIXES for name in (_PASSPHRASE, _PEM)}
    environ = {name: value for name, value in os.environ.items() if name not in secret}
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")[:-1]
    os.execve("/proc/self/exe", words, {**environ, _PASSED: str(fd)})


def _typed() -> bytes:
    """Return the passphrase that is typed on the terminal, or is the first line of standard input, as in Apptainer."""
    prompt = "Enter encryption passphrase: "
    if os.isatty(0):
        import getpass

        return encryption.checked(os.fsencode(getpass.getpass(prompt)), "--passphrase")
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n") and len(line) <= encryption.PASSPHRASE_MAX:
        line += byte  # byte by byte: the rest of the input is the program's
    return encryption.checked(line, "--passphrase")
