# SPDX-License-Identifier: BSD-3-Clause
"""/etc/bollard/bollard.yaml: the table of its keys, the check of its text, and the text compiled from it.

`site.py` reads the compiled text on each node. This module runs only in `bollard site`. A mistake is reported with its
line number, and nothing is compiled then.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Union

from bollard.runtime.errors import BollardError
from bollard.runtime.request import binds, fabric_config, site, spec_text, trust_config, variables_config, yaml_node
from bollard.runtime.request.yaml_node import Mistake
from bollard.runtime.request.yaml_node import checked_path as _checked_path
from bollard.runtime.request.yaml_node import kind as _kind
from bollard.runtime.request.yaml_node import line as _line
from bollard.runtime.system import private_directory

PATH = "/etc/bollard/bollard.yaml"
# In bytes, far more than a person writes. The limit is needed, as a short YAML text can expand to a very large one.
SIZE_MAX = 1 << 18

Value = Union[bool, str, tuple[str, ...]]


class Key(NamedTuple):
    """One key of bollard.yaml. `kind` is the type of its value, in the words of docs/admins.md."""

    name: str
    kind: str
    default: Value
    help: str
    example: str


IMAGE = "path from / on, or a URI"
SWITCH, GPU, MPI, NUMBER, SIZE, DIRECTORY, DIRECTORIES, BINDS, VARIABLES, TRUST, FABRICS = (
    "yes or no",
    "auto, always or never",
    "auto or slurm",
    "number from 1 to 1000",
    "bytes, or a number with K, M, G or T",
    "directory",
    "list of directories",
    "list of SRC[:DST[:ro|rw]]",
    "names and values",
    "mode, keyring and rules",
    "names with provider, libraries, devices, environment",
)

TABLE: tuple[Key, ...] = (
    Key(
        "mounts",
        BINDS,
        (),
        "shown in every container where they exist on the node; those a user asks for come later and win",
        "[/scratch, /opt/site:/opt/site:ro]",
    ),
    Key("home", SWITCH, True, "whether the home directory is shown when a user says nothing about it", "no"),
    Key("cwd", SWITCH, True, "whether the directory a job is started in is shown", "no"),
    Key("writable", SWITCH, False, "whether a program may write to its container when a user says nothing", "yes"),
    Key(
        "gpu",
        GPU,
        "auto",
        "whether a container gets the host's GPU driver when a user says nothing: where its job can open a GPU; on "
        "every node that has a driver; or not",
        "always",
    ),
    Key(
        "mpi",
        MPI,
        "slurm",
        "what `--mpi` of a step with several tasks is when a user says nothing: `auto` chooses what the image's MPI "
        "library has, among what this Slurm has; `slurm` leaves it to MpiDefault of slurm.conf",
        "auto",
    ),
    Key(
        "host-mpi",
        DIRECTORIES,
        (),
        "where the nodes have the MPI libraries for `--container-mpi=host` and `auto`; without it, where the node's "
        "loader finds them, and in /usr/local, /usr/lib64 and /opt",
        "[/opt/mpich/lib]",
    ),
    Key(
        "fabrics",
        FABRICS,
        (),
        "providers of libfabric that a container gets if its libfabric can load them: docs/mpi.md; a fabric counts on "
        "nodes that have one of its devices",
        "{cxi: {provider: /opt/cray/lib64/libfabric/libcxi-fi.so, devices: [/dev/cxi*]}}",
    ),
    Key("mpirun", SWITCH, True, "whether mpirun and mpiexec of an image start their ranks by srun", "no"),
    Key(
        "idle-containers",
        NUMBER,
        str(site.IDLE_CONTAINERS),
        "how many containers of a job stay on a node for its next steps; the longest idle ends first",
        "2",
    ),
    Key(
        "spool",
        DIRECTORY,
        "",
        "SlurmdSpoolDir, shown in containers of jobs; `%h` and `%n` stand for the node's name; without it, what the "
        "line in plugstack.conf says",
        "/var/spool/slurmd",
    ),
    Key(
        "images-allowed",
        DIRECTORIES,
        (),
        "images and overlays must lie in one of them; without it, anywhere",
        "[/apps/images]",
    ),
    Key(
        "registry",
        SWITCH,
        False,
        "whether `--container=NAME:TAG` means `docker://NAME:TAG` where there is no such file, as under pyxis",
        "yes",
    ),
    Key(
        "image-programs",
        SWITCH,
        True,
        "whether `srun ./img.sif` runs the image's runscript in the container of `--container=img.sif`; without it, "
        "the kernel starts `run-singularity` on the node",
        "no",
    ),
    Key("images-forbidden", DIRECTORIES, (), "no image and no overlay may lie in one of them", "[/tmp, /dev/shm]"),
    Key(
        "layer-max",
        SIZE,
        "",
        "how much one layer of an image, or one archive, may unpack to where a user builds or fetches on this machine; "
        "without it, as much as finds room",
        "200G",
    ),
    Key(
        "python-base",
        IMAGE,
        "",
        "the image to which `bollard build` adds what requirements.txt or a Python script asks for; `--base` wins",
        "/apps/images/python.sif",
    ),
    Key(
        "conda-base",
        IMAGE,
        "",
        "the same for environment.yml: an image with micromamba, mamba or conda",
        "/apps/images/micromamba.sif",
    ),
    Key(
        "cache.shared",
        DIRECTORY,
        "",
        "a cache of images for all users, which only its owner writes; `bollard cache pull --shared` fills it",
        "/apps/bollard-cache",
    ),
    Key(
        "cache.shared-max",
        SIZE,
        "",
        "how much it may hold; what nobody uses goes first, by the time of its last use",
        "2T",
    ),
    Key("cache.max", SIZE, "", "how much each user's own cache may hold, likewise", "100G"),
    Key(
        "flow.scratch",
        DIRECTORY,
        "",
        "where `bollard flow` makes volumes that it removes again; `%u` must be in it, for the user's name; all nodes "
        "share it; without it, the flow's directory in the user's home",
        "/scratch/%u",
    ),
    Key(
        "flow.volumes",
        DIRECTORY,
        "",
        "where it keeps volumes that stay, likewise; without it, `~/.local/share/bollard/volumes`",
        "/project/%u",
    ),
    Key(
        "journal",
        SWITCH,
        False,
        "whether the node's system log gets a line when a container starts and one when it ends, with the job's number",
        "yes",
    ),
    Key(
        "environment",
        VARIABLES,
        (),
        "variables for every container, where neither the job nor the image has them",
        "{OMP_PROC_BIND: close}",
    ),
    Key(
        "trust",
        TRUST,
        (),
        "which images may run: docs/trust.md; without it, all",
        "{mode: observe, rules: [{from: /apps/images, owner: [root]}, {from: anywhere, refuse: yes}]}",
    ),
)

# Directories that each user has for himself.
OF_USERS = ("flow.scratch", "flow.volumes")
_STICKY = "its directories should be root's; one that others may write into needs `chmod +t`"


class Settings(NamedTuple):
    """The content of a bollard.yaml: the values of its keys, and the SHA-256 digest of its text."""

    values: dict[str, Value]
    digest: str


def default_text() -> str:
    """Return the bollard.yaml of a new site: every key with its help, none of them set."""
    lines = ["# What this site decides for all containers. Afterwards: bollard site configure", ""]
    for key in TABLE:
        lines += [f"# {key.help}", f"#{key.name}: {key.example}", ""]
    return "\n".join(lines)


def reference() -> str:
    """Return the table of the keys for docs/admins.md."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key in TABLE:
        words = {True: "yes", False: "no"}
        default = words[key.default] if isinstance(key.default, bool) else key.default or "none"
        rows.append(f"| `{key.name}` | {key.kind.replace('|', chr(92) + '|')} | {default} | {key.help} |")
    return "\n".join(rows)


def complaints(path: str = PATH) -> list[str]:
    """Return one line for each mistake in the file `path`.

    Raises:
        BollardError: the file cannot be read, or PyYAML is not installed.
    """
    data = _data(path)
    return [f"{path}:{line}: {text}; {hint}" for line, text, hint in (read(data)[1] if data else [])]


def load(path: str = PATH) -> Settings:
    """Return the settings in the file `path`; no settings if the file does not exist.

    Raises:
        BollardError: the file cannot be read or has a mistake; the message names the first one.
    """
    data = _data(path)
    if data is None:
        return Settings({}, "")
    values, mistakes = read(data)
    if mistakes:
        first, more = mistakes[0], len(mistakes) - 1
        rest = f" (and {more} more below it)" if more else ""
        raise BollardError(f"{path}:{first.line}: {first.text}", first.hint + rest)
    for name in OF_USERS:
        wrong = private_directory.pattern_fault(str(values.get(name, "")))
        if wrong:
            raise BollardError(f"{path}: {name}: users could exchange each other's directories: {wrong}", _STICKY)
    if "trust" in values:
        values["trust-file"] = path  # for messages
    return Settings(values, hashlib.sha256(data).hexdigest())


def _data(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "it should be root's, and readable by all") from None


def compiled(settings: Settings, prefix: str) -> bytes:
    """Return the text that `site.parse` reads.

    settings  the content of bollard.yaml
    prefix    the path by which Slurm's configuration names the installation

    Raises:
        BollardError: a value cannot be written in the compiled form.
    """
    lines = ["# Compiled by `bollard site configure`; what is changed here is lost."]
    lines.append(f"prefix={spec_text.quote(prefix)}")
    if settings.digest:
        lines.append(f"digest={settings.digest}")
    for name, value in settings.values.items():
        if isinstance(value, bool):
            lines.append(f"{name}={int(value)}")
        else:
            lines += [f"{name}={spec_text.quote(item)}" for item in ((value,) if isinstance(value, str) else value)]
    data = ("\n".join(lines) + "\n").encode("ascii") + site.END
    site.parse(data)
    return data


def read(data: bytes) -> tuple[dict[str, Value], list[Mistake]]:
    """Return the values in the text of a bollard.yaml, and all mistakes in it, sorted by line.

    Raises:
        BollardError: PyYAML is not installed.
    """
    if len(data) > SIZE_MAX:
        return {}, [Mistake(1, f"the file has {len(data)} bytes, over {SIZE_MAX}", "is it what it should be?")]
    try:
        import yaml
    except ImportError:
        raise BollardError(
            "PyYAML is not installed, so bollard.yaml cannot be read",
            "install it (Debian: python3-yaml, EL: python3-pyyaml)",
        ) from None
    try:
        top = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return {}, [Mistake(line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return {}, [Mistake(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}", _YAML_HINT)]
    except (yaml.YAMLError, RecursionError) as error:
        return {}, [Mistake(1, f"not YAML: {' '.join(str(error).split())}", _YAML_HINT)]
    if top is None:
        return {}, []
    if not isinstance(top, yaml.MappingNode):
        return {}, [Mistake(_line(top), f"the file is {_kind(top)}", "write one `key: value` a line")]
    values: dict[str, Value] = {}
    mistakes: list[Mistake] = []
    known = {key.name: key for key in TABLE}
    seen: dict[str, int] = {}
    for name_node, node in top.value:
        name = str(name_node.value) if name_node.id == "scalar" else _kind(name_node)
        if name not in known:
            mistakes.append(Mistake(_line(name_node), f'no key is called "{name}"', _suggestion(name, known)))
            continue
        if name in seen:
            hint = "put both into one"
            mistakes.append(Mistake(_line(name_node), f"{name}: it stands in line {seen[name]} already", hint))
            continue
        seen[name] = _line(name_node)
        found = list(_READERS[known[name].kind](name, node))
        mistakes += [item for item in found if isinstance(item, Mistake)]
        items = tuple(item for item in found if not isinstance(item, Mistake))
        if known[name].kind == TRUST:
            values.update(trust_config.values([item for item in items if isinstance(item, tuple)]))
        elif known[name].kind in (SWITCH, GPU, MPI, NUMBER, SIZE, DIRECTORY, IMAGE):
            values.update((name, item) for item in items)
        elif items:
            values[name] = tuple(str(item) for item in items)
    return values, sorted(mistakes)


_YAML_HINT = "look at the indentation, the quotes and the brackets there"


def _suggestion(name: str, known: dict[str, Key]) -> str:
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"


def _switch(name: str, node: Any) -> Iterator[bool | Mistake]:
    if node.id == "scalar" and node.tag == "tag:yaml.org,2002:bool":
        yield node.value.lower() in ("yes", "true", "on")
    else:
        yield Mistake(_line(node), f"{name}: {_kind(node)} is neither yes nor no", f"write `{name}: yes` or no")


def _gpu(name: str, node: Any) -> Iterator[str | Mistake]:
    yield _one_of(GPU, name, node)


def _mpi(name: str, node: Any) -> Iterator[str | Mistake]:
    yield _one_of(MPI, name, node)


def _one_of(words: str, name: str, node: Any) -> str | Mistake:
    text = str(node.value) if node.id == "scalar" else ""
    if text in words.replace(",", "").replace(" or", "").split():
        return text
    return Mistake(_line(node), f"{name}: {_kind(node)} is not {words}", f"write `{name}: auto`")


def _size(name: str, node: Any) -> Iterator[str | Mistake]:
    text = node.value if node.id == "scalar" else ""
    found = re.fullmatch("([1-9][0-9]{0,14})([KMGT]?)", text)
    if found:
        yield str(int(found[1]) << 10 * " KMGT".index(found[2] or " "))
    else:
        yield Mistake(_line(node), f"{name}: {_kind(node)} is no size", f"write `{name}: 200G`, or a number of bytes")


def _number(name: str, node: Any) -> Iterator[str | Mistake]:
    text = str(node.value) if node.id == "scalar" else ""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 1000:
        yield str(int(text))
    else:
        yield Mistake(_line(node), f"{name}: {_kind(node)} is no {NUMBER}", f"write `{name}: {site.IDLE_CONTAINERS}`")


def _image(name: str, node: Any) -> Iterator[str | Mistake]:
    text = node.value if node.id == "scalar" else ""
    if text.isprintable() and (text.startswith("/") or re.match("[a-z-]+:.", text)):
        yield text
    else:
        yield Mistake(_line(node), f"{name}: {_kind(node)} is no {IMAGE}", f"write `{name}: /apps/images/IMAGE.sif`")


def _directory(name: str, node: Any) -> Iterator[str | Mistake]:
    if node.id != "scalar" or yaml_node.is_null(node):
        found = "nothing" if node.id == "scalar" else _kind(node)
        yield Mistake(_line(node), f"{name}: {found} where a directory is expected", "write its path, from / on")
        return
    path = _checked_path(name, node.value, _line(node))
    if name in OF_USERS and "%u" not in node.value and isinstance(path, str):
        text = f'{name}: "{path}" would be one directory for all users'
        yield Mistake(_line(node), text, f"write {path.rstrip('/')}/%u: %u stands for the user's name")
        return
    yield path


def _items(name: str, node: Any) -> Iterator[tuple[str, Any, Mistake | None]]:
    """Yield (name for messages, node, mistake or None) for each item of a list."""
    if yaml_node.is_null(node):
        return
    if node.id != "sequence":
        yield name, node, Mistake(_line(node), f"{name}: {_kind(node)} is no list", "begin each item with `- `")
        return
    for number, item in enumerate(node.value):
        what = f"{name}[{number}]"
        wrong = None
        if item.id != "scalar" or not item.value:
            found = "nothing" if item.id == "scalar" else _kind(item)
            wrong = Mistake(_line(item), f"{what}: {found} where a path is expected", "quote what holds a colon")
        yield what, item, wrong


def _directories(name: str, node: Any) -> Iterator[str | Mistake]:
    for what, item, wrong in _items(name, node):
        yield wrong or yaml_node.checked_folder(what, item.value, _line(item))


def _binds(name: str, node: Any) -> Iterator[str | Mistake]:
    for what, item, wrong in _items(name, node):
        if wrong:
            yield wrong
            continue
        checked = _checked_path(what, item.value, _line(item))
        if isinstance(checked, Mistake):
            yield checked
            continue
        try:
            binds.parse_bind(checked, "/", "")
        except BollardError as error:
            yield Mistake(_line(item), f"{what}: {error.message}", error.hint)
        else:
            yield checked


_READERS: dict[str, Any] = {
    SWITCH: _switch,
    GPU: _gpu,
    MPI: _mpi,
    NUMBER: _number,
    SIZE: _size,
    DIRECTORY: _directory,
    IMAGE: _image,
    DIRECTORIES: _directories,
    BINDS: _binds,
    VARIABLES: variables_config.read,
    FABRICS: fabric_config.read,
    TRUST: trust_config.read,
}
