# SPDX-License-Identifier: BSD-3-Clause
"""Make the spec of one container from its options. The rows of options.TABLE say how each option's value is read.

This module runs on the node path.
"""

from __future__ import annotations

# Not the module csv: that imports re, which takes longer than the rest of this module.
from _csv import Error as CsvError
from _csv import reader as csv_reader
from posixpath import normpath

from bollard.runtime import constants
from bollard.runtime.errors import BollardError
from bollard.runtime.request import binds, options, spec_text
from bollard.runtime.request.options import Spec as Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bollard.runtime.request.options import Bind as Bind
    from bollard.runtime.request.options import Row

    # Reads an option's values: (row, values, the user's working directory, the user's home) -> value of the field.
    Reader = Callable[[Row, list[str], str, str], object]

NAMESPACES = ("net", "ipc", "uts", "pid")
_HOST_MAX = 64  # __NEW_UTS_LEN of the kernel


def parse_name(text: str) -> tuple[str, str]:
    """Return name and mode of a container's NAME[:MODE].

    Raises:
        BollardError: the name has another character or is too long, or the mode is unknown.
    """
    name, _, mode = text.partition(":")
    most, marks = constants.NAME_MAX_BYTES, constants.NAME_MARKS
    if not name or len(name) > most or not all(c.isascii() and (c.isalnum() or c in marks) for c in name):
        raise BollardError(f"container name {name!r} is not allowed", f"use up to {most} letters, digits and {marks}")
    if (mode or constants.MODE_AUTO) not in spec_text.MODES:
        raise BollardError(f"container name {text!r}: unknown mode {mode!r}", f"use {', '.join(spec_text.MODES)}")
    return name, mode or constants.MODE_AUTO


def switch(values: list[str]) -> bool:
    """Return whether the last of a switch's values means yes."""
    word = values[-1].lower() if values else ""
    return word != "" and f" {word} " not in constants.NO_WORDS


def _list(row: Row, values: list[str]) -> tuple[str, ...]:
    """Return the words of comma-separated values."""
    words = [word.strip() for value in values for word in value.split(",")]
    if row.pyxis and "" in words:
        raise BollardError(f"{row.slurm} {','.join(values)!r} has nothing beside a comma", binds.EMPTY)
    return tuple(word for word in words if word)


def _typed(row: Row) -> str:
    """Return an option's name in messages: srun's if it has one, which contains the word of `bollard exec`."""
    # --pwd is the one that users know by another word.
    return f"{row.slurm} (--pwd)" if row.name == "pwd" else row.slurm or row.name


def _inside(row: Row, path: str) -> str:
    """Return the directory in the container that an option names. Raises if it is relative or has ".."."""
    if not path.startswith("/"):
        raise BollardError(f"{_typed(row)} {path!r} must begin with /", "name the directory in the container in full")
    if ".." in path.split("/"):
        raise BollardError(f"{_typed(row)} {path!r} has a .. in it", "name the directory in the container in full")
    return path


def _without_dots(path: str) -> str:
    """Return an absolute path without "." and "..", by the text alone (Apptainer's rule for --pwd)."""
    return f"/{normpath(path).lstrip('/')}" if path.startswith("/") else path


def _app(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise BollardError(f"app {name!r} is not the name of an app", "see `bollard inspect --list-apps IMAGE`")
    return name


def _overlay(text: str, cwd: str, home: str) -> tuple[str, bool]:
    path, _, mode = text.rpartition(":") if text.endswith((":ro", ":rw")) else (text, "", "")
    return binds.absolute(path, cwd, home), mode == "ro"


def _assignments(text: str) -> list[tuple[bytes, bytes]]:
    """Return the pairs of one NAME=VALUE, or of several with commas between; double quotes keep a comma (Apptainer)."""
    pairs = [text]
    if text.startswith('"') or ("," in text and text.count("=") > 1):
        try:
            pairs = next(csv_reader([text], strict=True))
        except CsvError:
            pass  # a line break or a quote in a value: one pair
    found = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()  # "A=1, B=2"
        if not equals or not name:
            raise BollardError(f"env {pair!r} is not NAME=VALUE", "give the name, an equals sign and the value")
        found.append((name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")))
    return found


def one_assignment(text: str) -> str:
    """Return NAME=VALUE, quoted if needed, so that `_assignments` reads it as one pair."""
    return '"' + text.replace('"', '""') + '"' if "," in text and text.count("=") > 1 else text


def _hostname(name: str) -> str:
    letters = name.replace("-", "").replace(".", "")
    wrong = name.strip("-.") != name or not (letters.isalnum() and letters.isascii()) or len(name) > _HOST_MAX
    if name and wrong:
        raise BollardError(
            f"hostname {name!r} is not a name of a host", f"use letters, digits, - and ., up to {_HOST_MAX}"
        )
    return name


def _names(row: Row, values: list[str], cwd: str, home: str) -> tuple[bytes, ...]:
    words = _list(row, values)
    for word in words:
        if "=" in word:
            raise BollardError(f"{_typed(row)} {word!r} is not a name", "give the variable's name alone")
        if word.split() != [word]:
            raise BollardError(f"{_typed(row)} {word!r} has a space in it", "write commas between names")
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)


def _servers(row: Row, values: list[str], cwd: str, home: str) -> tuple[str, ...]:
    words = _list(row, values)
    for word in words:
        if not word.strip("0123456789abcdefABCDEF.:") == "" or not set(word) & set(".:"):
            raise BollardError(f"dns {word!r} is not an IP address", "name the servers by their addresses")
    return words


def _unshare(row: Row, values: list[str], cwd: str, home: str) -> tuple[str, ...]:
    words = _list(row, values)
    for word in words:
        if word not in NAMESPACES[:3]:
            raise BollardError(f"{_typed(row)} {word!r}: not a namespace to unshare", "use net, ipc or uts")
    return words


def _network(row: Row, values: list[str], cwd: str, home: str) -> tuple[str, ...]:
    if values[-1] not in ("", "none"):
        raise BollardError(f"network {values[-1]!r} needs root", "use --network=none, or no --net")
    return ("net",) if values[-1] else ()


def _binds(row: Row, values: list[str], cwd: str, home: str) -> tuple[Bind, ...]:
    what = row.slurm or row.name
    return tuple(bind for value in values for bind in binds.parse_binds(value, cwd, home, what))


def _mounts(row: Row, values: list[str], cwd: str, home: str) -> tuple[Bind, ...]:
    lines = [line for value in values for line in value.split("\n") if line.strip()]
    return tuple(binds.parse_mount(line, cwd, home) for line in lines)


def _path(row: Row, values: list[str], cwd: str, home: str) -> str:
    return binds.absolute(values[-1], cwd, home) if values[-1] else ""


def _gpu(row: Row, values: list[str], cwd: str, home: str) -> tuple[str, ...]:
    return (row.name,) if switch(values) else (f"no-{row.name}",)


def _devices(row: Row, values: list[str], cwd: str, home: str) -> tuple[str, ...]:
    """Return CDI names. VENDOR/CLASS= counts for all names of one value: nvidia.com/gpu=0,1."""
    found = []
    for value in values:
        kind = ""
        for word in _list(row, [value]):
            if word.startswith("/"):
                raise BollardError(f"device {word!r} is no CDI name", f"a file of /dev needs --bind {word} at most")
            head, equals, name = word.rpartition("=")
            kind = head if equals else kind
            vendor, slash, of_class = kind.partition("/")
            if not (vendor and slash and of_class and name) or "/" in of_class or "=" in kind:
                raise BollardError(f"device {word!r} is not VENDOR/CLASS=NAME", "write nvidia.com/gpu=0, for example")
            found.append(f"{kind}={name}")
    return tuple(dict.fromkeys(found))


def _mpi(row: Row, values: list[str], cwd: str, home: str) -> str:
    if values[-1] not in ("image", "host", "auto"):
        raise BollardError(f"container-mpi {values[-1]!r} is not known", "use image, host or auto")
    return values[-1]


# The reader of each kind of row.
KINDS: dict[str, Reader] = {
    "switch": lambda row, values, cwd, home: switch(values),
    "gpu": _gpu,
    "devices": _devices,
    "mpi": _mpi,
    "paths": lambda row, values, cwd, home: tuple(binds.absolute(word, cwd, home) for word in _list(row, values)),
    "namespace": lambda row, values, cwd, home: (row.name,) if switch(values) else (),
    "unshare": _unshare,
    "network": _network,
    "image": lambda row, values, cwd, home: binds.tidy(_path(row, values, cwd, home)),
    "path": _path,
    "directory": lambda row, values, cwd, home: _inside(row, _without_dots(values[-1])) if values[-1] else "",
    "directories": lambda row, values, cwd, home: tuple(_inside(row, word) for word in _list(row, values)),
    "overlays": lambda row, values, cwd, home: tuple(_overlay(word, cwd, home) for word in _list(row, values)),
    "binds": _binds,
    "mounts": _mounts,
    "size": lambda row, values, cwd, home: binds.parse_size(f"--{_typed(row)}", values[-1]),
    "words": lambda row, values, cwd, home: _list(row, values),
    "names": _names,
    "assignments": lambda row, values, cwd, home: tuple(pair for value in values for pair in _assignments(value)),
    "app": lambda row, values, cwd, home: _app(values[-1]),
    "hostname": lambda row, values, cwd, home: _hostname(values[-1]),
    "servers": _servers,
}


def _homes(given: dict[str, list[str]], cwd: str, host_home: str, contain: bool) -> tuple[str, str]:
    """Return (source, target) of the home; the source is "" for an empty home of the container's own.

    With --no-home the target of --home is still the home, as in Apptainer, but nothing is mounted there.
    """
    source = target = host_home if host_home.startswith("/") and host_home.strip("/") else ""
    asked = given.get("home", [""])[-1]
    if asked.strip("/"):
        source, target, _ = binds.parse_bind(source + asked if asked.startswith(":") else asked, cwd, host_home)
    elif asked:
        source = target = ""  # "/" cannot be a home
    elif contain:
        source = ""
    if target and not asked and switch(given.get("fakeroot", [])):
        target = "/root"  # Apptainer's rule
    return ("", "") if switch(given.get("no-home", [])) and not asked.strip("/") else (source, target)


def _fields(given: dict[str, list[str]], cwd: str, home: str) -> dict[str, Any]:
    """Return the values of the spec's fields that rows of the table fill."""
    fields: dict[str, Any] = {}
    for row in options.TABLE:
        if row.name not in given:
            continue
        if (row.pyxis or row.name in ("device", "home")) and row.argument and "" in given[row.name]:
            raise BollardError(f"--{_typed(row)} has no value", "give one, or leave the option out")
        if row.field:
            found = KINDS[row.kind](row, given[row.name], cwd, home)
            fields[row.field] = fields[row.field] + found if isinstance(found, tuple) and row.field in fields else found
    return fields


def make(values: list[tuple[str, str]]) -> Spec:
    """Return the spec of (name, value) pairs.

    Raises:
        BollardError: an option is unknown, a value is not valid, or two options contradict each other.
    """
    given: dict[str, list[str]] = {}
    for name, value in values:
        given.setdefault(name, []).append(value)
    unknown = given.keys() - options.ROWS.keys() - {*spec_text.FIXED, *spec_text.IN_HEADER}
    if unknown:
        raise BollardError(f"{min(unknown)!r} is no option of a container", "see `bollard exec --help`")

    def last(name: str) -> str:
        return given.get(name, [""])[-1]

    cwd, home = given.get("cwd", ["/"])[-1], last("userhome")
    fields = _fields(given, cwd, home)
    compat = switch(given.get("compat", []))
    contain_all = compat or switch(given.get("containall", []))
    unshare = set(fields.get("unshare", ()))
    if fields.get("hostname"):
        unshare.add("uts")
    if contain_all:
        fields.update(contain=True, cleanenv=True)
        unshare |= {"ipc"} if last("pid") == "0" else {"pid", "ipc"}
    if compat:
        fields.update(no_umask=True, no_eval=True, writable_tmpfs=True)
    if fields.get("writable") and (switch(given.get("writable-tmpfs", [])) or fields.get("overlays")):
        raise BollardError("writable does not go with writable-tmpfs or an overlay", "choose one of them")
    if "name" in given:
        fields["name"], fields["name_mode"] = parse_name(last("name"))
    if not fields.get("image") and fields.get("name_mode", constants.MODE_CREATE) == constants.MODE_CREATE:
        raise BollardError("no image named", "use --container=IMAGE")
    fields["home_source"], fields["home"] = _homes(given, cwd, home, fields.get("contain", False))
    if fields["home"] and switch(given.get("no-home", [])) and "home" not in fields.get("no_mount", ()):
        fields["no_mount"] = (*fields.get("no_mount", ()), "home")
    fields.update(cwd=cwd or "/", user_home=home, unshare=tuple(name for name in NAMESPACES if name in unshare))
    fields["pty"] = switch(given.get("pty", []))
    fields["source"] = last("source")
    fields["asked"] = last("asked") or last("image") or fields["name"]
    return Spec(**fields, options=_options(given, fields))


def is_of_one_step(asked: Spec) -> bool:
    """Return whether only one step may use the container, because its tasks could leave something in it.

    A container with a name is shared on purpose. A writable overlay can be open in only one container, so steps share
    that container.
    """
    if asked.name or any(not read_only for _, read_only in asked.overlays):
        return False
    if any(row.alone and getattr(asked, row.field) for row in options.TABLE):
        return True
    return bool(asked.scratch and not asked.workdir) or any(flags & binds.TMPFS for _, _, flags in asked.binds)


def _options(given: dict[str, list[str]], fields: dict[str, Any]) -> bytes:
    """Return the given options as spec text, with absolute paths: it means the same in every directory."""
    found = []
    for row in options.TABLE:
        if row.name in given and row.alike and row.kind not in ("binds", "mounts", "path", "paths", "overlays", "home"):
            found += [(row.name, value) for value in given[row.name][0 if row.name in options.JOINED else -1 :]]
    if fields.get("binds"):
        found.append(("mounts", ",".join(binds.bind_words(bind) for bind in fields["binds"])))
    if "home" in given and fields["home"]:
        found.append(("home", f"{binds.escaped(fields['home_source'])}:{binds.escaped(fields['home'])}"))
    for name in ("workdir", "pem_path", "passphrase_file"):
        if fields.get(name):
            found.append((name.replace("_", "-"), fields[name]))
    found += [("cdi-dirs", path) for path in fields.get("cdi_dirs", ())]
    found += [("overlay", path + (":ro" if read_only else "")) for path, read_only in fields.get("overlays", ())]
    return spec_text.text(found)
