# SPDX-License-Identifier: BSD-3-Clause
"""Secrets: files of the user alone, in ~/.config/bollard/secrets.

A secret that a job's variable names is the text of its file. The file is mounted into the job's container, and the
shell of the container sets the variable. A secret with the login of a server is YAML with the keys of KEYS.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import urllib.parse
from collections.abc import Mapping

from bollard.runtime.errors import BollardError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MAX_BYTES = 1 << 16
KEYS = ("username", "password", "token", "access-key", "secret-key", "session-token", "region", "endpoint")
ENCRYPTED = "use https://, sftp:// or webdav://, or leave the secret out"


def name_of(text: str) -> str:
    """Return the name in secret://user/NAME.

    Raises:
        BollardError: the text is not such an address, or it names a secret of a group.
    """
    scope, _, name = text.removeprefix("secret://").partition("/")
    if not text.startswith("secret://") or not _NAME.fullmatch(name):
        raise BollardError(f'"{text}" is not a secret', "write secret://user/NAME")
    if scope != "user":
        raise BollardError(f"secret://{scope} is not supported: a secret is one user's", f"write secret://user/{name}")
    return name


def path(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of a secret, after a check that nobody else can read it.

    Raises:
        BollardError: the file is missing, or others can read it.
    """
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    found = os.path.join(base, "bollard/secrets", name)
    try:
        info = os.stat(found, follow_symlinks=False)
    except OSError:
        raise BollardError(
            f"secret {name}: {found} does not exist", f"make it: install -m 600 /dev/stdin {found}"
        ) from None
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid():
        raise BollardError(f"secret {name}: {found} is not a file of yours", "make it again")
    if info.st_mode & 0o077:
        raise BollardError(f"secret {name}: others can use {found}", f"chmod 600 {found}")
    if not 0 < info.st_size <= _MAX_BYTES:
        raise BollardError(f"secret {name}: {found} has {info.st_size} bytes", f"it may have 1 to {_MAX_BYTES}")
    return found


def login(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the keys and values of a secret with a login.

    Raises:
        BollardError: the file is not YAML, or has a key that is not known. The message holds nothing of its text.
    """
    import yaml

    found = path(name, environ)
    with open(found, encoding="utf-8") as file:
        try:
            data = yaml.load(file, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader makes texts alone
        except (yaml.YAMLError, UnicodeDecodeError):
            data = None
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise BollardError(
            f"secret {name}: {found} has no keys", f"write lines such as password: ...; known are {', '.join(KEYS)}"
        )
    unknown = sorted(set(map(str, data)) - set(KEYS) - {"kind"})
    if unknown:
        raise BollardError(f"secret {name}: {len(unknown)} of its keys are not known", f"known are {', '.join(KEYS)}")
    return {str(key): value for key, value in data.items()}


def unencrypted(address: str) -> str:
    """Return why a login sent to this address could be read on the way; "" if it could not.

    An address of the node itself is allowed: nothing leaves the node. So a server behind an SSH tunnel can be used.
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in ("http", "ftp"):
        return ""
    try:
        host = urllib.parse.urlsplit(address).hostname or ""
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return ""
    except ValueError:
        pass  # a name, or no address at all: it is not this node's
    return f"{scheme} would send the secret unencrypted"


def refuse_unencrypted(uri: str, login: Mapping[str, str]) -> None:
    """Raise if a login would be sent unencrypted to another machine.

    Raises:
        BollardError: the address, or the secret's endpoint, begins with http:// or ftp://.
    """
    for address in (uri, login.get("endpoint", "")) if login else ():
        why = unencrypted(address)
        if why:
            raise BollardError(f"{address}: {why}", ENCRYPTED)
