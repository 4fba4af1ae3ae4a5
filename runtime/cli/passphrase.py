# SPDX-License-Identifier: BSD-3-Clause
"""Passphrases of keys: from a file, or typed on the terminal; never from the command line or the environment."""

from __future__ import annotations

from bollard.runtime.errors import BollardError, shown


def passphrase(asked: dict[str, str], prompt: str) -> str:
    """Return a passphrase: the first line of --passphrase-file, or what is typed on the terminal.

    Raises:
        BollardError: the file cannot be read, or there is no terminal.
    """
    path = asked.get("passphrase-file", "")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                return file.readline(4096).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", "") or "it is not text in UTF-8"
            raise BollardError(f"{shown(path)}: cannot be read: {why}", "name a file with one line") from None
    import getpass
    import warnings

    try:
        with open("/dev/tty", "rb"):
            pass
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # no echo of the passphrase
            return getpass.getpass(prompt)
    except (OSError, EOFError, getpass.GetPassWarning):
        raise BollardError("the key has a passphrase, and there is no terminal", "add --passphrase-file FILE") from None
