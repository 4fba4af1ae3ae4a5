# SPDX-License-Identifier: BSD-3-Clause
"""Read binds: SRC[:DST[:FLAGS]] of --bind, and the form of --mount. This module runs on the node path."""

from __future__ import annotations

from _csv import reader as csv_reader  # not the module csv: that imports re, which takes longer than this module

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.options import Bind

# Flags of a Bind.
READ_ONLY = 1
OPTIONAL = 4  # no error if the source or the target is missing
NOEXEC = 32
SHALLOW = 64  # only the source's own mount, not the mounts below it
TMPFS = 128  # an empty directory in memory
UMOUNT = 256  # do not mount anything at the target or below it
# Flags that users can write after SRC:DST, as in mount(8), Apptainer and enroot. 0: accepted, it is always so.
_FLAGS = {
    "ro": READ_ONLY, "noexec": NOEXEC, "bind": SHALLOW, "nofail": OPTIONAL,
    **dict.fromkeys(
        ("rw", "rbind", "exec", "nosuid", "nodev", "slave", "rslave", "private", "rprivate", "atime", "noatime",
         "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "diratime", "nodiratime",
         "sync", "async", "dirsync", "iversion", "noiversion", "mand", "nomand", "loud", "silent", "defaults",
         # Nobody mounts anything in the container, and its mount namespace passes nothing on to the host.
         "shared", "rshared", "unbindable", "runbindable",
         "x-create=auto", "x-create=dir", "x-create=file", "x-detach"),
        0,
    ),
}  # fmt: skip
_NO_FLAGS = {
    "suid": "set-user-id programs gain nothing in a container",
    "dev": "device files are usable below /dev alone",
    "image-src": "what is in an image is not bound; --overlay FILE.sqfs lays a whole squashfs file over the container",
    "id": "what is in an image is not bound",
    "nonested": "APPTAINER_BIND in the container names every bind",
}
# Options of tmpfs(5), and the characters that their values can have besides letters and digits.
_TMPFS_SETTINGS = ("size", "nr_blocks", "nr_inodes", "mode", "huge", "mpol")
_SETTING_MARKS = "%_:-="
PART_MAX = 255  # NAME_MAX of limits.h
EMPTY = "is a variable of the script empty? leave the comma out otherwise"


def absolute(path: str, cwd: str, home: str) -> str:
    """Return `path` as an absolute path. Replaces ~ as a shell does; does not resolve symlinks.

    path  as the user typed it
    cwd   directory for a relative path; "" for one that was removed
    home  value for ~

    Raises:
        BollardError: a relative path has no directory to count from.
    """
    if "://" in path:
        return path  # a URI; image.py handles it
    if path == "~" or path.startswith("~/"):
        path = (home or "~") + path[1:]
    if not path.startswith("/") and not cwd:
        raise BollardError(f"{path}: the current directory does not exist any more", "change to one that does")
    return path if path.startswith("/") else f"{cwd.rstrip('/')}/{path}"


def tidy(path: str) -> str:
    """Return a path without empty components and ".". Keeps "..", which may follow a symlink."""
    if not path.startswith("/") or "://" in path:
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def parse_bind(text: str, cwd: str, home: str, what: str = "bind") -> Bind:
    """Return the bind that SRC[:DST[:FLAGS]] stands for. FLAGS are separated by + or a comma.

    text  as the user typed it; a backslash keeps a colon or comma in a path
    cwd   directory for a relative SRC
    home  value for ~ in SRC
    what  name of the option. For "container-mounts" SRC may be the word tmpfs or umount, as in pyxis.

    Raises:
        BollardError: `text` has another form, an unknown flag, or a DST that is not an absolute path without "..".
    """
    parts = split(text, ":")
    if text[:1].isspace():
        raise BollardError(f"{what} {text!r} begins with a space", "write no space after the comma between two")
    if len(parts) > 3 or not parts[0]:
        raise BollardError(f"{what} {text!r} is not SRC[:DST[:FLAGS]]", r"write a colon in a path as \:")
    if len(parts) > 1 and not parts[-1]:
        raise BollardError(f"{what} {text!r} ends with a colon", "name what follows it, or leave the colon out")
    if len(parts) > 1 and not parts[1]:
        raise BollardError(f"{what} {text!r} has nothing between its colons", "name the place in the container there")
    words = parts[2].replace("+", ",").split(",") if len(parts) == 3 else []
    special = parts[0] if what == "container-mounts" and parts[0] in ("tmpfs", "umount") else ""
    source = "" if special else absolute(parts[0], cwd, home)
    target = parts[1] if len(parts) > 1 else ""
    if special and not target:
        raise BollardError(f"{what} {text!r} names no directory", f"write {special}:DIR")
    if target.startswith("./") and what == "container-mounts":
        target = target[1:]  # enroot counts it from the container's root
    return _bind(what, text, source, target or source, words, special)


def _bind(what: str, text: str, source: str, target: str, words: list[str], special: str = "") -> Bind:
    if not target.startswith("/"):
        raise BollardError(f"{what} {text!r}: {target!r} must begin with /", "name the place in the container in full")
    if not target.strip("/"):
        raise BollardError(f"{what} {text!r}: the container's root cannot be replaced", "name a directory below it")
    if ".." in target.split("/"):
        raise BollardError(f"{what} {text!r}: {target!r} has a .. in it", "name the place in the container in full")
    if any(len(part.encode("utf-8", "surrogateescape")) > PART_MAX for part in target.split("/")):
        raise BollardError(
            f"{what} {text!r}: a name in its target is longer than {PART_MAX} bytes", "choose a shorter one"
        )
    flags = {"tmpfs": TMPFS, "umount": UMOUNT}.get(special, 0)
    settings = []
    for word in words:
        name, _, setting = word.partition("=")
        if name == "dev" and is_device(source):
            continue
        if name in _NO_FLAGS:
            raise BollardError(f"{what} {text!r}: {name!r} is not supported: {_NO_FLAGS[name]}", "leave it out")
        if special == "tmpfs" and name == "size":
            settings.append("size=" + parse_size(f"{what} {text!r}: size", setting))
        elif special == "tmpfs" and name in _TMPFS_SETTINGS and _is_setting(setting):
            settings.append(word)
        elif word in _FLAGS:
            flags |= _FLAGS[word]
        elif word:
            raise BollardError(f"{what} {text!r}: unknown flag {word!r}", "use ro, rw, noexec or nofail")
    return ",".join(settings) if special else source, target, flags


def _is_setting(value: str) -> bool:
    return bool(value) and all(c.isascii() and (c.isalnum() or c in _SETTING_MARKS) for c in value)


def is_device(path: str) -> bool:
    """Return whether a path of the host is /dev or is in it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return path.startswith("/") and parts[:1] == ["dev"] and ".." not in parts


def parse_binds(text: str, cwd: str, home: str, what: str = "bind") -> tuple[Bind, ...]:
    """Return the binds of several SRC[:DST[:FLAGS]], separated by commas. Parameters as in `parse_bind`.

    Spaces around each of them do not count, as in Apptainer. In --container-mounts they do, as in pyxis.

    Raises:
        BollardError: one of them is not valid, or is empty in --container-mounts.
    """
    parts = split(text, ",", keep_escapes=True)
    if what != "container-mounts":  # which is also the form in which the spec travels
        parts = [part.strip() for part in parts]
    elif "" in parts:
        raise BollardError(f"{what} {text!r} has nothing beside a comma", EMPTY)
    for before, part in zip(parts, parts[1:]):
        if part in _FLAGS and len(split(before, ":")) == 3:
            raise BollardError(f"{what} {text!r}: {part!r} is a flag of the mount before it", "write + between flags")
    return tuple(parse_bind(part, cwd, home, what) for part in parts if part)


def parse_mount(text: str, cwd: str, home: str) -> Bind:
    """Return the bind of one type=bind,src=SRC,dst=DST[,ro] (--mount of docker and Apptainer).

    text  the words of the user; double quotes keep a comma in a value
    cwd   directory for a relative SRC
    home  value for ~ in SRC

    Raises:
        BollardError: a key is unknown, repeated or missing, or the type is not bind.
    """
    rows = list(csv_reader([text]))
    keys: dict[str, str] = {}
    for word in rows[0] if rows else []:
        key, _, value = word.strip().partition("=")
        key = {"src": "source", "dst": "destination", "target": "destination", "readonly": "ro"}.get(key, key)
        if key in keys:
            raise BollardError(f"mount {text!r}: {key} stands twice", "write a --mount of its own for each")
        keys[key] = value
    unknown = sorted(set(keys) - {"type", "source", "destination", "ro", "bind-propagation"})
    if unknown and unknown[0] in _NO_FLAGS:
        raise BollardError(f"mount {text!r}: {unknown[0]!r} is not supported: {_NO_FLAGS[unknown[0]]}", "leave it out")
    if unknown:
        raise BollardError(f"mount {text!r}: unknown key {unknown[0]!r}", "use type, src, dst and ro")
    if keys.get("type", "bind") != "bind":
        raise BollardError(f"mount {text!r}: type {keys['type']!r} is not supported", "use type=bind")
    if not keys.get("source") or not keys.get("destination"):
        raise BollardError(f"mount {text!r} lacks src or dst", "write type=bind,src=SRC,dst=DST")
    words = ["ro"] if "ro" in keys and keys["ro"].lower() not in ("0", "false") else []
    return _bind("mount", text, absolute(keys["source"], cwd, home), keys["destination"], words)


def bind_text(binds: tuple[Bind, ...]) -> str:
    """Return the value of APPTAINER_BIND in the container: the targets of `binds` (Apptainer 1.4)."""
    return ",".join(target for _, target, _ in binds)


def split(text: str, mark: str, keep_escapes: bool = False) -> list[str]:
    r"""Return the parts of `text` between marks. A backslash keeps a mark in a part.

    text          the words of the user
    mark          the character between two parts
    keep_escapes  leave the backslashes in the parts
    """
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


def bind_words(bind: Bind) -> str:
    """Return the words from which parse_bind makes `bind`, in the form of --container-mounts."""
    source, target, flags = bind
    if flags & (TMPFS | UMOUNT):
        words = [word for word in source.split(",") if word]
        source = "tmpfs" if flags & TMPFS else "umount"
    else:
        words, source = [], escaped(source)
    words += [word for word, flag in _FLAGS.items() if flag & flags]
    return ":".join([source, escaped(target), "+".join(words)] if words else [source, escaped(target)])


def escaped(path: str) -> str:
    """Return `path` with a backslash before each mark of a bind."""
    return "".join("\\" + c if c in ":,\\" else c for c in path)


def parse_size(what: str, text: str) -> str:
    """Return a size as tmpfs(5) takes it: a number of bytes, with k, m or g after it, or a percentage of the memory.

    `what` names the option, for messages.

    Raises:
        BollardError: `text` has another form, or the size is 0, which means "no limit" to tmpfs.
    """
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in ("k", "m", "g", "%") else (text, "")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 16 and number.strip("0")):
        raise BollardError(f"{what} {text!r} is not a size", "write a number of bytes with k, m or g: 64m, 2g")
    return number + unit
