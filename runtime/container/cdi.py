# SPDX-License-Identifier: BSD-3-Clause
"""Devices by their CDI names, as mounts and variables: reads the CDI specs on this node.

A spec (Container Device Interface, CNCF, versions 0.3 to 1.1) is a file that a device's maker writes for a node, for
example with `nvidia-ctk cdi generate`. It lists device files, mounts, variables and hooks.

    JSON    is read with the standard library
    YAML    is read with PyYAML, which the installation has a copy of if it was there at install

Hooks are programs, and are never executed. This module does what two of them do, from their arguments:

    create-symlinks   a link to a library of the spec: the library is bound at the link's place too
    update-ldcache    the libraries in a directory are found by their sonames: they are bound to LIBRARIES too

Everything is mounted with the user's rights, as a bind of the user's would be. Sizes and numbers are bounded. This
module is imported only for a container with such devices.
"""

from __future__ import annotations

import os

from bollard.runtime.container import elf
from bollard.runtime.errors import BollardError
from bollard.runtime.request.binds import is_device
from bollard.runtime.request.plan_records import BIND, CAN_LOAD, LIBRARIES, OMIT, TMPFS, Gpus, Mount, tidy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# A later one wins: what a service wrote at boot over what an administrator wrote.
FOLDERS = ("/etc/cdi", "/var/run/cdi")
FILES_MAX = 100
SIZE_MAX = 1 << 20  # bytes of one spec
EDITS_MAX = 4096  # entries of one list
_NAMES_SHOWN = 12

_DONE = ("create-symlinks", "update-ldcache")
# Hooks of NVIDIA's with nothing to do. driver_libraries.py looks for compatible libraries in every image. Directories
# have their modes from the host. /proc/driver/nvidia/params is for programs that make device files, as root.
_NOTHING = ("enable-cuda-compat", "chmod", "update-nvidia-params", "disable-device-node-modification")
_REFUSED = ("intelRdt", "netDevices")


class Spec:
    """One file: its path, and its content with the types that this module relies on."""

    __slots__ = ("content", "kind", "path")

    def __init__(self, path: str, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content
        self.kind = str(content.get("kind", ""))

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return {name: edits} of the devices.

        Raises:
            BollardError: an entry has no name, or has another form than CDI's.
        """
        found = {}
        for device in _list(self, self.content, "devices"):
            if not isinstance(device, dict):
                raise _faulty(self, "devices: an entry has no name")
            found[str(device.get("name", ""))] = _edits(self, device)
        return found


def find(names: tuple[str, ...], folders: tuple[str, ...], own_dev: bool) -> Gpus:
    """Return the mounts and variables of devices.

    names    CDI names: nvidia.com/gpu=0
    folders  directories with specs; () for FOLDERS
    own_dev  the container has its own /dev

    Raises:
        BollardError: a device is unknown, a spec cannot be read, or it asks for something that a container cannot have.
    """
    devices: dict[str, tuple[Spec, dict[str, Any]]] = {}
    twice: dict[str, tuple[str, str]] = {}
    for spec in read(folders or FOLDERS):
        for name, edits in spec.devices().items():
            full = f"{spec.kind}={name}"
            before = devices[full][0].path if full in devices else ""
            if os.path.dirname(before) == os.path.dirname(spec.path):
                twice[full] = (before, spec.path)
            devices[full] = (spec, edits)
    for name in names:
        if name not in devices:
            raise BollardError(f"no device {name} on {os.uname().nodename}", _those_here(devices, folders or FOLDERS))
        if name in twice:
            raise BollardError(f"device {name}: is in {' and in '.join(twice[name])}", "one of them should go")
    chosen = [devices[name] for name in names]
    of_all = [(spec, _edits(spec, spec.content)) for spec in dict.fromkeys(spec for spec, _ in chosen)]
    return _made(chosen + of_all, own_dev)


def _those_here(devices: dict[str, Any], folders: tuple[str, ...]) -> str:
    if not devices:
        return f"{' and '.join(folders)} have no specs: on a node with a GPU, `nvidia-ctk cdi generate` writes one"
    more = len(devices) - _NAMES_SHOWN
    return f"there are {', '.join(list(devices)[:_NAMES_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def read(folders: tuple[str, ...]) -> list[Spec]:
    """Return the specs in directories, in their order; a directory that does not exist has none.

    Raises:
        BollardError: a file is too large, or is not a spec.
    """
    found = []
    for folder in folders:
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith((".json", ".yaml", ".yml")))
        except FileNotFoundError:
            continue  # most nodes have one of the two directories, or none
        except OSError as error:
            raise BollardError(f"{folder}: {error.strerror}", "its CDI specs should be readable by all") from None
        if len(names) > FILES_MAX:
            raise BollardError(f"{folder} has {len(names)} CDI specs, over {FILES_MAX}", "remove those of no device")
        found += [Spec(path, _content(path)) for path in (f"{folder}/{name}" for name in names)]
    return found


def _content(path: str) -> dict[str, Any]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            data = file.read(SIZE_MAX + 1) or b""
    except OSError as error:
        raise BollardError(f"{path}: {error.strerror}", "a CDI spec should be readable by all") from None
    if len(data) > SIZE_MAX:
        raise BollardError(f"{path}: a CDI spec of more than {SIZE_MAX} bytes", "split it")
    try:
        content = _parsed(data, path.endswith(".json"))
    except ImportError:
        raise BollardError(
            f"{path}: is YAML, and this installation has no PyYAML",
            "write the spec as JSON (nvidia-ctk cdi generate --format=json), or install PyYAML and then bollard again",
        ) from None
    except (ValueError, RecursionError) as error:
        raise BollardError(f"{path}: cannot be read: {' '.join(str(error).split())}", "write the spec again") from None
    if not isinstance(content, dict) or "cdiVersion" not in content or "/" not in str(content.get("kind", "")):
        raise BollardError(f"{path}: is not a CDI spec: it needs cdiVersion and kind", "write the spec again")
    return content


def _parsed(data: bytes, is_json: bool) -> Any:
    if is_json:
        import json

        return json.loads(data)
    import yaml

    try:
        return yaml.load(data, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(error) from None


def _faulty(spec: Spec, what: str) -> BollardError:
    return BollardError(f"{spec.path}: {what}", "the spec is its maker's or the administrator's to mend")


def _list(spec: Spec, where: dict[str, Any], name: str) -> list[Any]:
    """Return the list `name` of a part of a spec; [] if there is none."""
    found = where.get(name) or []
    if not isinstance(found, list) or len(found) > EDITS_MAX:
        raise _faulty(spec, f"{name} is no list, or has more than {EDITS_MAX} entries")
    return found


def _edits(spec: Spec, where: dict[str, Any]) -> dict[str, Any]:
    found = where.get("containerEdits") or {}
    if not isinstance(found, dict):
        raise _faulty(spec, "containerEdits has no names")
    for name in _REFUSED:
        if found.get(name):
            raise _faulty(spec, f"{name} needs root, which a container has not")
    return found


def _entries(spec: Spec, edits: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    for entry in _list(spec, edits, name):
        if not isinstance(entry, dict):
            raise _faulty(spec, f"{name}: an entry has no names")
        yield entry


def _path(spec: Spec, entry: dict[str, Any], name: str) -> str:
    path = entry.get(name)
    if not isinstance(path, str) or path[:1] != "/" or ".." in path.split("/") or "\0" in path or not path.strip("/"):
        raise _faulty(spec, f"{name} {path!r} is no path that begins with /, without ..")
    return tidy(path)


def _made(edits: list[tuple[Spec, dict[str, Any]]], own_dev: bool) -> Gpus:
    mounts: dict[str, Mount] = {}
    variables: dict[bytes, bytes] = {}
    links: list[tuple[str, str]] = []
    folders: set[str] = set()
    warnings: dict[str, None] = {}
    groups = set(os.getgroups()) | {os.getgid()}
    for spec, part in edits:
        for word in _list(spec, part, "env"):
            name, equals, value = str(word).partition("=")
            if not name or not equals or "\0" in value:
                raise _faulty(spec, f"env {word!r} is not NAME=VALUE")
            variables[os.fsencode(name)] = os.fsencode(value)
        for entry in _entries(spec, part, "deviceNodes"):
            target = _path(spec, entry, "path")
            source = _path(spec, entry, "hostPath") if entry.get("hostPath") else target
            if not os.path.exists(source):
                raise BollardError(f"device {source}: is not on {os.uname().nodename}", f"{spec.path} names it")
            if own_dev or source != target or not target.startswith("/dev/"):
                mounts[target] = Mount(BIND, source, target, devices=is_device(source))
        for entry in _entries(spec, part, "mounts"):
            mount = _mount(spec, entry)
            mounts.setdefault(mount.target, mount)
        for gid in _list(spec, part, "additionalGids"):
            if gid not in groups:
                warnings[f"{spec.path}: you are not in group {gid}, which it asks for"] = None
        for entry in _entries(spec, part, "hooks"):
            warnings.update(_hook(spec, entry, links, folders))
    found = [*mounts.values(), *_linked(mounts, links)]
    return Gpus(
        (*found, *_known_by_soname(found, folders)),
        variables=tuple(variables.items()),
        warnings=tuple(warnings),
    )


def _mount(spec: Spec, entry: dict[str, Any]) -> Mount:
    target, options = _path(spec, entry, "containerPath"), set(map(str, _list(spec, entry, "options")))
    if entry.get("type") == "tmpfs":
        return Mount(TMPFS, "mode=0755", target, noexec="noexec" in options)
    source = _path(spec, entry, "hostPath")
    only = CAN_LOAD if ".so" in os.path.basename(target) else ""
    return Mount(BIND, source, target, read_only="ro" in options, noexec="noexec" in options, only=only)


def _hook(spec: Spec, entry: dict[str, Any], links: list[tuple[str, str]], folders: set[str]) -> dict[str, None]:
    """Add what a hook asks for to `links` and `folders`. Returns a line for the user if it is left out."""
    words = [str(word) for word in _list(spec, entry, "args")]
    name = next((word for word in words if word in (*_DONE, *_NOTHING)), "")
    values = [after for word, after in zip(words, words[1:]) if word in ("--link", "--folder")]
    values += [word.partition("=")[2] for word in words if word.startswith(("--link=", "--folder="))]
    if name == "create-symlinks":
        links += [(text.partition("::")[0], tidy(text.partition("::")[2])) for text in values if "::" in text]
    elif name == "update-ldcache":
        folders |= {tidy(text) for text in values}
    elif not name:
        return {f"{spec.path}: its hook {entry.get('path')} is not run: hooks are programs of the host": None}
    return {}


def _linked(mounts: dict[str, Mount], links: list[tuple[str, str]]) -> list[Mount]:
    """Return binds in the place of links to what `mounts` has. A link to something else is one within the image."""
    paths = {place: os.path.normpath(os.path.join(os.path.dirname(place), text)) for text, place in links}
    found = []
    for place in paths:
        target = place
        for _ in paths:  # a link can lead to a link
            target = paths.get(target, target)
        if target in mounts and place not in mounts and place.startswith("/"):
            found.append(_again(mounts[target], place))
    return found


def _known_by_soname(mounts: list[Mount], folders: set[str]) -> list[Mount]:
    """Return binds of the libraries in `folders` under their sonames in LIBRARIES, where every loader looks."""
    found: dict[str, Mount] = {}
    for mount in mounts:
        folder, _, name = mount.target.rpartition("/")
        if folder not in folders or ".so" not in name or mount.kind != BIND:
            continue
        try:
            fd = os.open(mount.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # the bind of the same file reports it
        try:
            soname = elf.Library(fd).soname()
        finally:
            os.close(fd)
        if soname and "/" not in soname:
            found.setdefault(soname, _again(mount, f"{LIBRARIES}/{soname}"))
    return list(found.values())


def _again(mount: Mount, target: str) -> Mount:
    """Return the same bind at another place, which is left out if the image has no room for it there."""
    return Mount(
        BIND, mount.source, target, mount.read_only, mount.noexec, if_missing=OMIT, only=mount.only or CAN_LOAD
    )
