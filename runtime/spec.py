# SPDX-License-Identifier: BSD-3-Clause
"""The spec: what was asked of one container, as plain data, and its text form.

The text travels from the client to the nodes in one environment variable: `name=value` parted by spaces,
where %XX stands for a byte that is a space, a percent sign, a control character or not ASCII. The keys are the
rows of `options.TABLE` and:

    image        absolute path as the container was asked for
    asked        the words the user typed, for messages
    cwd          the directory the tasks start in
    userhome     $HOME of the client
    id           inode.size.mtime of the image file, so that a rebuilt image is another container
    multi-prog   1 under srun --multi-prog
    verbose      when the client began, in ns since 1970; last, and cut off on the node: it makes no other container

Runs on the node path: no import but errors.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # source, destination, read-only
    Bind = tuple[str, str, bool]


class Spec:
    """What one container is to be. Paths are absolute; nothing was looked up on any disk."""

    __slots__ = (
        "asked", "binds", "cleanenv", "cwd", "env", "home", "home_source", "image", "no_mpirun", "no_slurm", "options",
        "pwd", "verbose",
    )  # fmt: skip

    def __init__(
        self,
        image: str,
        asked: str = "",
        cwd: str = "/",
        home: str = "",
        home_source: str = "",
        binds: tuple[Bind, ...] = (),
        env: tuple[tuple[bytes, bytes], ...] = (),
        cleanenv: bool = False,
        pwd: str = "",
        verbose: bool = False,
        no_slurm: bool = False,
        no_mpirun: bool = False,
        options: bytes = b"",
    ) -> None:
        self.image = image
        self.asked = asked or image
        self.cwd = cwd
        self.home = home  # where it appears in the container; "" for no home
        self.home_source = home_source or home
        self.binds = binds
        self.env = env
        self.cleanenv = cleanenv
        self.pwd = pwd
        self.verbose = verbose
        self.no_slurm = no_slurm
        self.no_mpirun = no_mpirun
        self.options = options  # spec text of the options alone, for another container like this one


def quote(text: str) -> str:
    """One value as spec text."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte != 0x25 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def unquote(text: str) -> str:
    """The opposite of `quote`; ValueError for a % without two hexadecimal digits."""
    first, *rest = text.split("%")
    data = first.encode("ascii")
    for part in rest:
        if len(part) < 2:
            raise ValueError("a % without two digits")
        data += bytes.fromhex(part[:2]) + part[2:].encode("ascii")
    if b"\0" in data:
        raise ValueError("a NUL byte")
    return data.decode("utf-8", "surrogateescape")


def pairs(text: bytes) -> list[tuple[str, str]]:
    """The (name, value) pairs of a spec text, in its order."""
    try:
        split = [pair.partition("=") for pair in text.decode("ascii").split(" ") if pair]
        return [(name, unquote(value)) for name, _, value in split]
    except (ValueError, UnicodeError) as error:
        raise BollardError(
            f"the container's spec cannot be read ({error})", "was SLURM_BOLLARD_SPEC changed by hand?"
        ) from None


def text(values: list[tuple[str, str]]) -> bytes:
    """The opposite of `pairs`."""
    return " ".join(f"{name}={quote(value)}" for name, value in values).encode("ascii")


def absolute(path: str, cwd: str, home: str) -> str:
    """`path` with ~ and relative parts resolved as a shell would have, symlinks left alone."""
    if "://" in path:
        return path  # not a path: image.py says what to do instead
    if path == "~" or path.startswith("~/"):
        path = (home or "~") + path[1:]
    return path if path.startswith("/") else f"{cwd.rstrip('/')}/{path}"


def parse_bind(text: str, cwd: str, home: str) -> Bind:
    """One SRC[:DST[:ro|rw]]; a backslash keeps a colon or comma in a path."""
    parts = _split(text, ":")
    if len(parts) > 3 or not parts[0]:
        raise BollardError(f"bind {text!r} is not SRC[:DST[:ro|rw]]", r"write a colon in a path as \:")
    mode = parts[2] if len(parts) == 3 else "rw"
    if mode not in ("ro", "rw"):
        raise BollardError(f"bind {text!r}: {mode!r} is neither ro nor rw", "use SRC:DST:ro or SRC:DST:rw")
    source = absolute(parts[0], cwd, home)
    target = parts[1] if len(parts) > 1 and parts[1] else source
    if not target.startswith("/"):
        raise BollardError(f"bind {text!r}: {target!r} must begin with /", "name the place in the container in full")
    if not target.strip("/"):
        raise BollardError(f"bind {text!r}: the container's root cannot be replaced", "name a directory below it")
    if ".." in target.split("/"):
        raise BollardError(f"bind {text!r}: {target!r} has a .. in it", "name the place in the container in full")
    return source, target, mode == "ro"


def parse_binds(text: str, cwd: str, home: str) -> tuple[Bind, ...]:
    """Several, with commas between them."""
    return tuple(parse_bind(part, cwd, home) for part in _split(text, ",", keep_escapes=True) if part)


def bind_text(binds: tuple[Bind, ...]) -> str:
    """Binds as APPTAINER_BIND shows them in the container: their targets (Apptainer 1.4)."""
    return ",".join(target for _, target, _ in binds)


def _split(text: str, mark: str, keep_escapes: bool = False) -> list[str]:
    parts, part, escaped = [], "", False
    for c in text:
        if escaped:
            part += ("\\" if keep_escapes or c not in ":,\\" else "") + c
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == mark:
            parts.append(part)
            part = ""
        else:
            part += c
    return [*parts, part + ("\\" if escaped else "")]


def switch(values: list[str]) -> bool:
    """Whether the last of a switch's values means yes."""
    return bool(values) and values[-1].lower() not in ("", "0", "no", "false", "off", "info", "warning", "error")


def make(values: list[tuple[str, str]]) -> Spec:
    """The spec of (name, value) pairs; BollardError for one that cannot be meant."""
    given: dict[str, list[str]] = {}
    for name, value in values:
        given.setdefault(name, []).append(value)

    def last(name: str) -> str:
        return given.get(name, [""])[-1]

    cwd = last("cwd") or "/"
    host_home = last("userhome")
    if not last("image"):
        raise BollardError("no image named", "use --container=IMAGE")
    source = target = host_home if host_home.startswith("/") and host_home.strip("/") else ""
    if last("home").strip("/"):
        asked = last("home")
        source, target, _ = parse_bind(source + asked if asked.startswith(":") else asked, cwd, host_home)
    elif last("home"):
        source = target = ""  # "/" is nobody's home
    if switch(given.get("no-home", [])):
        source = target = ""
    if last("pwd") and not last("pwd").startswith("/"):
        raise BollardError(f"pwd {last('pwd')!r} must begin with /", "name the directory in the container in full")
    env = []
    for pair in given.get("env", []):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BollardError(f"env {pair!r} is not NAME=VALUE", "give the name, an equals sign and the value")
        env.append((name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")))
    binds: tuple[Bind, ...] = ()
    for value in given.get("bind", []):
        binds += parse_binds(value, cwd, host_home)
    return Spec(
        image=absolute(last("image"), cwd, host_home),
        asked=last("asked"),
        cwd=cwd,
        home=target,
        home_source=source,
        binds=binds,
        env=tuple(env),
        cleanenv=switch(given.get("cleanenv", [])),
        pwd=last("pwd"),
        verbose=switch(given.get("verbose", [])),
        no_slurm=switch(given.get("no-slurm", [])),
        no_mpirun=switch(given.get("no-mpirun", [])),
        options=_options(values, binds, source, target),
    )


# Keys that say which container, and not what it is to be like.
_NOT_OPTIONS = ("image", "asked", "cwd", "userhome", "id", "multi-prog", "verbose")


def _options(values: list[tuple[str, str]], binds: tuple[Bind, ...], source: str, target: str) -> bytes:
    """The options of `values` as spec text that means the same in any directory."""
    found = [(name, value) for name, value in values if name not in (*_NOT_OPTIONS, "bind", "home")]
    for bind_source, bind_target, read_only in binds:
        pair = f"{_escaped(bind_source)}:{_escaped(bind_target)}"
        found.append(("bind", f"{pair}:{'ro' if read_only else 'rw'}"))
    if any(name == "home" and value.strip("/") for name, value in values) and target:
        found.append(("home", f"{_escaped(source)}:{_escaped(target)}"))
    return text(found) if found else b""


def _escaped(path: str) -> str:
    return "".join("\\" + c if c in ":,\\" else c for c in path)
