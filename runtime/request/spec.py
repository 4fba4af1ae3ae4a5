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
    once         a word of this client's own, where the container must be its step's alone
    pty          under srun --pty with --contain: 1
    multi-prog   under srun --multi-prog: 2, for srun puts the launcher before each program itself
    verbose      when the client began, in ns since 1970; last, and cut off on the node: it makes no other container

Runs on the node path: no import but errors.
"""

from __future__ import annotations

# Not the module csv: that imports re, which takes longer than everything else here.
from _csv import Error as CsvError
from _csv import reader as csv_reader

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # source, destination, sum of the flags below; for a tmpfs the source is its mount options
    Bind = tuple[str, str, int]

# The PATH of a program in a container where nothing else sets one: Apptainer's.
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a mount is to be; plan.py has more, for its own.
READ_ONLY = 1
OPTIONAL = 4  # no error where the source, or a place for it, is missing
NOEXEC = 32
SHALLOW = 64  # the source's own mount alone, not those below it
TMPFS = 128  # an empty directory in memory
UMOUNT = 256  # take away what would be mounted there

# Words after SRC:DST: that users of mount(8), Apptainer and enroot know. What is so anyway is 0.
_FLAGS = {
    "ro": READ_ONLY, "noexec": NOEXEC, "bind": SHALLOW, "nofail": OPTIONAL,
    **dict.fromkeys(
        ("rw", "rbind", "exec", "nosuid", "nodev", "slave", "rslave", "private", "rprivate", "atime", "noatime",
         "relatime", "diratime", "nodiratime", "x-create=auto", "x-create=dir", "x-create=file", "x-detach", "silent"),
        0,
    ),
}  # fmt: skip
_NO_FLAGS = {
    "suid": "set-user-id programs gain nothing in a container",
    "dev": "device files are usable below /dev alone",
    "shared": "mounts made in a container stay in it",
    "rshared": "mounts made in a container stay in it",
    "unbindable": "mounts made in a container stay in it",
    "image-src": "what is in an image is not bound; --overlay FILE.sqfs lays a whole squashfs file over the container",
    "id": "what is in an image is not bound",
    "nonested": "APPTAINER_BIND in the container names every bind",
}
# tmpfs(5), and the marks that their values have beside letters and digits.
_TMPFS_SETTINGS = ("size", "nr_blocks", "nr_inodes", "mode", "huge", "mpol")
_SETTING_MARKS = "%_:-="

NAME_MODES = ("auto", "create", "exec", "no_exec")
NAMESPACES = ("net", "ipc", "uts", "pid")
_NAME_MAX = 64
_NAME_MARKS = "_.-"
_HOST_MAX = 64  # the kernel's


class Spec:
    """What one container is to be. Paths are absolute; nothing was looked up on any disk."""

    image: str = ""  # "" only for a container that another step has named
    asked: str = ""  # the words the user typed
    cwd: str = "/"
    home: str = ""  # where it appears in the container; "" for no home
    home_source: str = ""  # "" for an empty one of the container's own
    user_home: str = ""  # the value of HOME where no home is shown
    binds: tuple[Bind, ...] = ()
    env: tuple[tuple[bytes, bytes], ...] = ()
    keep_env: tuple[bytes, ...] = ()
    cleanenv: bool = False
    no_env: tuple[bytes, ...] = ()
    no_mount: tuple[str, ...] = ()
    contain: bool = False
    workdir: str = ""
    scratch: tuple[str, ...] = ()
    pwd: str = ""
    writable_tmpfs: bool = False
    writable: bool = False
    overlays: tuple[tuple[str, bool], ...] = ()  # path, read-only
    fakeroot: bool = False
    entrypoint: bool = False
    entrypoint_log: bool = False
    name: str = ""
    name_mode: str = "auto"
    save: str = ""
    unshare: tuple[str, ...] = ()
    hostname: str = ""
    app: str = ""  # one of the image's apps, /scif/apps/NAME
    dns: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()  # nv, rocm
    pty: bool = False  # slurmstepd makes a terminal for the task
    console: str = ""  # the terminal of `bollard exec`, on the host
    no_umask: bool = False
    no_eval: bool = False
    no_slurm: bool = False
    no_mpirun: bool = False
    options: bytes = b""  # spec text of the options alone, for another container like this one
    verbose: bool = False

    def __init__(self, image: str = "", **fields: object) -> None:
        self.image = image
        for field in fields:
            if not hasattr(Spec, field):
                raise TypeError(f"a spec has no field {field}")
        self.__dict__.update(fields)
        self.asked = self.asked or self.image


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


def _tidy(path: str) -> str:
    """A path without parts that mean nothing; a ".." stays, for it may follow a link."""
    if not path.startswith("/") or "://" in path:
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def parse_bind(text: str, cwd: str, home: str, what: str = "bind") -> Bind:
    """One SRC[:DST[:FLAGS]], with + or , between flags; a backslash keeps a colon or comma in a path.

    SRC may be the word tmpfs or umount where `what` is "container-mounts" (pyxis's rule).
    """
    parts = _split(text, ":")
    if len(parts) > 3 or not parts[0]:
        raise BollardError(f"{what} {text!r} is not SRC[:DST[:FLAGS]]", r"write a colon in a path as \:")
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
    flags = {"tmpfs": TMPFS, "umount": UMOUNT}.get(special, 0)
    settings = []
    for word in words:
        name, _, setting = word.partition("=")
        if name == "dev" and is_device(source):
            continue
        if name in _NO_FLAGS:
            raise BollardError(f"{what} {text!r}: {name!r} is not supported: {_NO_FLAGS[name]}", "leave it out")
        if special == "tmpfs" and name in _TMPFS_SETTINGS and _is_setting(setting):
            settings.append(word)
        elif word in _FLAGS:
            flags |= _FLAGS[word]
        elif word:
            raise BollardError(f"{what} {text!r}: unknown flag {word!r}", "use ro, rw, noexec or nofail")
    return ",".join(settings) if special else source, target, flags


def _is_setting(value: str) -> bool:
    return bool(value) and all(c.isascii() and (c.isalnum() or c in _SETTING_MARKS) for c in value)


def is_device(path: str) -> bool:
    """Whether a path of the host names /dev, or something in it."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return path.startswith("/") and parts[:1] == ["dev"] and ".." not in parts


def parse_binds(text: str, cwd: str, home: str, what: str = "bind") -> tuple[Bind, ...]:
    """Several, with commas between them."""
    return tuple(parse_bind(part, cwd, home, what) for part in _split(text, ",", keep_escapes=True) if part)


def parse_mount(text: str, cwd: str, home: str) -> Bind:
    """One type=bind,src=SRC,dst=DST[,ro], where double quotes keep a comma (docker's and Apptainer's --mount)."""
    rows = list(csv_reader([text]))
    keys: dict[str, str] = {}
    for word in rows[0] if rows else []:
        key, _, value = word.strip().partition("=")
        keys[{"src": "source", "dst": "destination", "target": "destination", "readonly": "ro"}.get(key, key)] = value
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


def parse_name(text: str) -> tuple[str, str]:
    """NAME[:MODE] of a container."""
    name, _, mode = text.partition(":")
    if not name or len(name) > _NAME_MAX or not all(c.isascii() and (c.isalnum() or c in _NAME_MARKS) for c in name):
        raise BollardError(
            f"container name {name!r} is not allowed", f"use up to {_NAME_MAX} letters, digits and {_NAME_MARKS}"
        )
    if (mode or "auto") not in NAME_MODES:
        raise BollardError(f"container name {text!r}: unknown mode {mode!r}", f"use {', '.join(NAME_MODES)}")
    return name, mode or "auto"


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
    return bool(values) and values[-1].lower() not in ("", "0", "n", "no", "false", "off", "info", "warning", "error")


def _list(values: list[str]) -> tuple[str, ...]:
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def _unshare(given: dict[str, list[str]], words: tuple[str, ...], everything: bool) -> tuple[str, ...]:
    for word in words:
        if word not in NAMESPACES[:3]:
            raise BollardError(f"unshare {word!r}: not a namespace to unshare", "use net, ipc or uts")
    asked = set(words) | {name for name in NAMESPACES if switch(given.get(name, []))}
    if everything:
        asked |= {"ipc"} if given.get("pid", [""])[-1] == "0" else {"pid", "ipc"}
    if given.get("hostname", [""])[-1]:
        asked.add("uts")
    if given.get("network", [""])[-1]:
        asked.add("net")
    return tuple(name for name in NAMESPACES if name in asked)


def _inside(option: str, path: str) -> str:
    """A directory in the container that an option names."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise BollardError(f"{option} {path!r} must begin with /", "name the directory in the container in full")
    return path


def _app(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise BollardError(f"app {name!r} is not the name of an app", "see `bollard inspect --list-apps IMAGE`")
    return name


def _overlay(text: str, cwd: str, home: str) -> tuple[str, bool]:
    path, _, mode = text.rpartition(":") if text.endswith((":ro", ":rw")) else (text, "", "")
    return absolute(path, cwd, home), mode == "ro"


def _assignments(text: str) -> list[tuple[bytes, bytes]]:
    """One NAME=VALUE, or several with commas between, where double quotes keep a comma (Apptainer's --env)."""
    pairs = [text]
    if text.startswith('"') or ("," in text and text.count("=") > 1):
        try:
            pairs = next(csv_reader([text], strict=True))
        except CsvError:
            pass  # a line break or a quote in a value: one pair
    found = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BollardError(f"env {pair!r} is not NAME=VALUE", "give the name, an equals sign and the value")
        found.append((name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")))
    return found


def one_assignment(text: str) -> str:
    """NAME=VALUE so that `_assignments` takes it for one, whatever commas are in the value."""
    return '"' + text.replace('"', '""') + '"' if "," in text and text.count("=") > 1 else text


def _hostname(name: str) -> str:
    letters = name.replace("-", "").replace(".", "")
    wrong = name.strip("-.") != name or not (letters.isalnum() and letters.isascii()) or len(name) > _HOST_MAX
    if name and wrong:
        raise BollardError(
            f"hostname {name!r} is not a name of a host", f"use letters, digits, - and ., up to {_HOST_MAX}"
        )
    return name


def _names(option: str, words: tuple[str, ...]) -> tuple[bytes, ...]:
    for word in words:
        if "=" in word:
            raise BollardError(f"{option} {word!r} is not a name", "give the variable's name alone")
    return tuple(word.encode("utf-8", "surrogateescape") for word in words)


def _servers(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if not word.strip("0123456789abcdefABCDEF.:") == "" or not set(word) & set(".:"):
            raise BollardError(f"dns {word!r} is not an IP address", "name the servers by their addresses")
    return words


def _homes(given: dict[str, list[str]], cwd: str, host_home: str, contain: bool) -> tuple[str, str]:
    """(source, target) of the home; no source for an empty one of the container's own."""
    source = target = host_home if host_home.startswith("/") and host_home.strip("/") else ""
    asked = given.get("home", [""])[-1]
    if asked.strip("/"):
        source, target, _ = parse_bind(source + asked if asked.startswith(":") else asked, cwd, host_home)
    elif asked:
        source = target = ""  # "/" is nobody's home
    elif contain:
        source = ""
    if target and not asked and switch(given.get("fakeroot", [])):
        target = "/root"  # Apptainer's rule
    return ("", "") if switch(given.get("no-home", [])) else (source, target)


def _binds(given: dict[str, list[str]], cwd: str, home: str) -> tuple[Bind, ...]:
    binds: tuple[Bind, ...] = ()
    for value in given.get("bind", []):
        binds += parse_binds(value, cwd, home)
    for value in given.get("mounts", []):
        binds += parse_binds(value, cwd, home, "container-mounts")
    for value in given.get("mount", []):
        binds += tuple(parse_mount(line, cwd, home) for line in value.split("\n") if line.strip())
    return binds


def make(values: list[tuple[str, str]]) -> Spec:
    """The spec of (name, value) pairs; BollardError for one that cannot be meant."""
    given: dict[str, list[str]] = {}
    for name, value in values:
        given.setdefault(name, []).append(value)

    def last(name: str) -> str:
        return given.get(name, [""])[-1]

    def on(name: str) -> bool:
        return switch(given.get(name, []))

    cwd = last("cwd") or "/"
    host_home = last("userhome")
    name, mode = parse_name(last("name")) if last("name") else ("", "auto")
    if not last("image") and (not name or mode == "create"):
        raise BollardError("no image named", "use --container=IMAGE")
    compat = on("compat")
    contain_all = compat or on("containall")
    contain = contain_all or on("contain")
    source, target = _homes(given, cwd, host_home, contain)
    if last("network") not in ("", "none"):
        raise BollardError(f"network {last('network')!r} needs root", "use --network=none, or no --net")
    if on("writable") and (on("writable-tmpfs") or last("overlay")):
        raise BollardError("writable does not go with writable-tmpfs or an overlay", "choose one of them")
    made = Spec(
        image=_tidy(absolute(last("image"), cwd, host_home)) if last("image") else "",
        asked=last("asked") or last("image") or name,
        cwd=cwd,
        home=target,
        home_source=source,
        user_home=host_home,
        binds=_binds(given, cwd, host_home),
        env=tuple(pair for value in given.get("env", []) for pair in _assignments(value)),
        keep_env=_names("container-env", _list(given.get("keep-env", []))),
        no_env=_names("no-env", _list(given.get("no-env", []))),
        cleanenv=contain_all or on("cleanenv"),
        no_mount=_list(given.get("no-mount", [])),
        contain=contain,
        workdir=absolute(last("workdir"), cwd, host_home) if last("workdir") else "",
        scratch=tuple(_inside("scratch", path) for path in _list(given.get("scratch", []))),
        pwd=_inside("pwd", last("pwd")) if last("pwd") else "",
        writable_tmpfs=compat or on("writable-tmpfs"),
        writable=on("writable"),
        overlays=tuple(_overlay(word, cwd, host_home) for word in _list(given.get("overlay", []))),
        fakeroot=on("fakeroot"),
        entrypoint=on("entrypoint"),
        entrypoint_log=on("entrypoint-log"),
        name=name,
        name_mode=mode,
        save=absolute(last("save"), cwd, host_home) if last("save") else "",
        unshare=_unshare(given, _list(given.get("unshare", [])), contain_all),
        hostname=_hostname(last("hostname")),
        dns=_servers(_list(given.get("dns", []))),
        cards=tuple(name for name in ("nv", "rocm") if on(name)),
        pty=on("pty"),
        no_umask=compat or on("no-umask"),
        no_eval=compat or on("no-eval"),
        app=_app(last("app")),
        no_slurm=on("no-slurm"),
        no_mpirun=on("no-mpirun"),
        verbose=on("verbose"),
    )
    made.options = _options(values, made)
    return made


def is_of_one_step(asked: Spec) -> bool:
    """Whether the container must be its step's alone: tasks can leave something in it that another step would find.

    A container with a name is shared on purpose. A writable overlay can be open in one container only.
    """
    if asked.name or any(not read_only for _, read_only in asked.overlays):
        return False
    own_files = asked.writable_tmpfs or asked.contain or (asked.scratch and not asked.workdir)
    own_files = own_files or any(flags & TMPFS for _, _, flags in asked.binds)
    return bool(own_files or asked.unshare or asked.entrypoint)


# Keys that name a container rather than describe it; and those whose paths are given as they were resolved.
_NOT_OPTIONS = frozenset(("image", "asked", "cwd", "userhome", "id", "once", "pty", "multi-prog", "verbose", "save"))
_WITH_PATHS = frozenset(("bind", "mounts", "mount", "home", "workdir", "overlay"))


def _options(values: list[tuple[str, str]], made: Spec) -> bytes:
    """The options among `values` as spec text that means the same in any directory."""
    found = [(name, value) for name, value in values if name not in _NOT_OPTIONS and name not in _WITH_PATHS]
    names = {name for name, _ in values}
    if made.binds:
        found.append(("mounts", ",".join(_bind_words(bind) for bind in made.binds)))
    if "home" in names and made.home:
        found.append(("home", f"{_escaped(made.home_source)}:{_escaped(made.home)}"))
    if made.workdir:
        found.append(("workdir", made.workdir))
    found += [("overlay", path + (":ro" if read_only else "")) for path, read_only in made.overlays]
    return text(found) if found else b""


def _bind_words(bind: Bind) -> str:
    """What parse_bind makes this of, as --container-mounts has it."""
    source, target, flags = bind
    if flags & (TMPFS | UMOUNT):
        words = [word for word in source.split(",") if word]
        source = "tmpfs" if flags & TMPFS else "umount"
    else:
        words, source = [], _escaped(source)
    words += [word for word, flag in _FLAGS.items() if flag & flags]
    return ":".join([source, _escaped(target), "+".join(words)] if words else [source, _escaped(target)])


def _escaped(path: str) -> str:
    return "".join("\\" + c if c in ":,\\" else c for c in path)
