# SPDX-License-Identifier: BSD-3-Clause
"""Read the metadata of an image: labels, scripts, definition file, apps, with the keys of Apptainer's `inspect`.

A SIF file has it as one JSON object. For other images, and SIF files without this object, it is read from
`.singularity.d` and `/scif`: directly in a directory; with unsquashfs from a squashfs; if unsquashfs is missing, in a
container of the image. No program of the image is executed.

    attributes   {"apps": {name: {...}}, "environment": {path: text}, "labels": {...}, "runscript": text, ...}
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import tempfile
from fnmatch import fnmatchcase

from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, layout, oci_config, oci_sif, sif
from bollard.runtime.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    Attributes = dict[str, Any]

# In the order in which Apptainer writes them.
TEXTS: Final = ("runscript", "test", "helpfile", "deffile", "startscript")
APP_TEXTS: Final = ("runscript", "startscript", "test", "helpfile")
MAPS: Final = ("environment", "labels")

_FILES: Final = {
    "runscript": "runscript",
    "startscript": "startscript",
    "test": "test",
    "helpfile": "runscript.help",
    "deffile": "Singularity",
    "labels": "labels.json",
}
_OWN: Final = ".singularity.d"
_APPS: Final = "scif/apps"
_FILE_MAX: Final = 1 << 20
_ENTRIES_MAX: Final = 1000  # entries of a directory


def read(path: str) -> tuple[Attributes, bool]:
    """Return the attributes of the image at `path`, and whether they come from a SIF file's JSON object.

    Raises:
        BollardError: the image cannot be opened or is damaged, or a file in it is too large.
    """
    if not os.path.isdir(path):
        found = _of_sif(path)
        if found and found[1]:
            return found
        attributes = _of_file(path)
        if found:
            attributes.update(found[0])
        return attributes, False
    opened = image.open_image(path)
    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return read_tree(root), False
    finally:
        os.close(root)
        opened.close()


def _of_sif(path: str) -> tuple[Attributes, bool] | None:
    """Return the attributes in a SIF file's objects, and whether they are complete; None if it is not a SIF file.

    Without the JSON object only the definition file is found.
    """
    opened = _opened_sif(path)
    if not opened:
        return None
    fd, found = opened
    try:
        if sif.is_oci(found):
            return _of_oci(oci_sif.read(fd, found)), True
        whole = parsed(sif.metadata(fd, found) or b"")
        if whole is not None:
            return whole, True
        for item in found.descriptors:
            if item.datatype == sif.DEFFILE and item.size <= _FILE_MAX:
                deffile = sif.pread(fd, item.size, item.offset, found.name)
                return {"deffile": deffile.decode("utf-8", "replace")}, False
        return {}, False
    finally:
        os.close(fd)


def _of_oci(contents: oci_sif.Contents) -> Attributes:
    """Return the attributes of an OCI-SIF image: those that its container has, from the image's configuration."""
    files = {f"/.singularity.d/{path}": text for path, text in oci_config.scripts(contents.config).items()}
    files = {**{f"/{path}": text for path, text in layout.OWN_SCRIPTS.items()}, **files}
    found: Attributes = {name: files.get(f"/{_OWN}/{_FILES[name]}", "").rstrip("\n") for name in TEXTS}
    found["labels"] = oci_config.labels(contents.config)
    found["environment"] = {
        path: files[path].rstrip("\n") for path in sorted(files) if fnmatchcase(path, f"/{_OWN}/env/10-docker*.sh")
    }
    return {**found, "apps": {}}


def _opened_sif(path: str) -> tuple[int, sif.Sif] | None:
    opened = None
    try:
        opened = open(path, "rb")
        first = opened.read(42)
    except OSError:
        first = b""  # open_image, which is called later, gives a better error
    finally:
        if opened:
            opened.close()
    return image.open_sif(path) if sif.is_sif(first) else None


def parsed(text: bytes) -> Attributes | None:
    """Return the attributes in the JSON text of a SIF file; None if it has another form.

    In this case the caller reads the files in the image.
    """
    try:
        given = json.loads(text)["data"]["attributes"]
        apps = given.get("apps") or {}
        return {**_checked(given, TEXTS), "apps": {name: _checked(app, APP_TEXTS) for name, app in apps.items()}}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None  # the caller reads the files in the image instead


def _checked(given: Attributes, texts: tuple[str, ...]) -> Attributes:
    found: Attributes = {}
    for name in texts:
        value = given.get(name) or ""
        if not isinstance(value, str):
            raise TypeError(name)
        found[name] = value
    for name in MAPS:
        pairs = (given.get(name) or {}).items()
        if not all(isinstance(value, str) for _, value in pairs):
            raise TypeError(name)
        found[name] = dict(pairs)
    return found


def read_tree(root: int) -> Attributes:
    """Return the attributes of the file tree at the file descriptor `root`; links are resolved inside the tree.

    Raises:
        BollardError: a file or a directory is too large, or cannot be read.
    """
    found = _read_section(root, _OWN, (*TEXTS, "labels"), ("10-docker*.sh", "9*-environment.sh"))
    found["apps"] = {}
    for name in _names(root, _APPS):
        place = f"{_APPS}/{name}/scif"
        if _open(root, place, os.O_DIRECTORY, close=True) is not None:
            found["apps"][name] = _read_section(root, place, (*APP_TEXTS, "labels"), ("9*-environment.sh",))
    return found


def _read_section(root: int, place: str, texts: tuple[str, ...], scripts: tuple[str, ...]) -> Attributes:
    found: Attributes = {name: _text(root, f"{place}/{_FILES[name]}").rstrip("\n") for name in texts}
    found["labels"] = _labels(found["labels"])
    found["environment"] = {}
    names = _names(root, f"{place}/env")
    for pattern in scripts:
        for name in names:
            if fnmatchcase(name, pattern):
                path = f"{place}/env/{name}"
                found["environment"]["/" + path] = _text(root, path).rstrip("\n")
    return found


def _labels(text: str) -> dict[str, str]:
    try:
        given = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {"(labels.json)": "cannot be read: it is not JSON"}
    pairs = given.items() if isinstance(given, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, str)}


def _names(root: int, place: str) -> list[str]:
    """Return the names in a directory of the tree, sorted; [] if it does not exist."""
    fd = _open(root, place, os.O_DIRECTORY)
    if fd is None:
        return []
    try:
        names = sorted(name for name in os.listdir(fd) if not name.startswith("."))
    finally:
        os.close(fd)
    if len(names) > _ENTRIES_MAX:
        raise BollardError(f"/{place} in the image has {len(names)} entries", f"at most {_ENTRIES_MAX} are allowed")
    return names


def _text(root: int, place: str) -> str:
    fd = _open(root, place)
    if fd is None:
        return ""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return ""
        if info.st_size > _FILE_MAX:
            raise BollardError(f"/{place} in the image has {info.st_size} bytes", f"at most {_FILE_MAX} are allowed")
        return os.read(fd, _FILE_MAX).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _open(root: int, place: str, more: int = 0, close: bool = False) -> int | None:
    try:
        fd = linux.open_in_root(root, "/" + place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | more)
    except OSError as error:
        if not linux.is_missing(error) and error.errno != errno.ENXIO:  # ENXIO: a socket or a device
            raise BollardError(f"/{place} in the image: {error.strerror}", "check its permissions") from None
        return None
    if close:
        os.close(fd)
    return fd


def _of_file(path: str) -> Attributes:
    """Return the attributes of a squashfs, bare or in a SIF file."""
    opened = image.open_image(path)
    try:
        with tempfile.TemporaryDirectory(prefix="bollard-inspect-") as scratch:
            tree = os.path.join(scratch, "root")
            if not _unsquash(opened, tree):
                return _through_container(path)
            if not os.path.isdir(tree):
                return {}
            root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return read_tree(root)
            finally:
                os.close(root)
    finally:
        opened.close()


def _unsquash(opened: image.Image, tree: str) -> bool:
    """Unpack the files with metadata to `tree`; return False if unsquashfs is not installed."""
    wanted = [f"{_OWN}/{name}" for name in (*_FILES.values(), "env")]
    wanted += [f"{_APPS}/*/scif/{name}" for name in (*_FILES.values(), "env")]
    command = ["unsquashfs", "-no-progress", "-no-xattrs", "-d", tree, "-o", str(opened.offset)]
    try:
        done = subprocess.run(
            [*command, f"/proc/self/fd/{opened.fd}", *wanted],
            pass_fds=(opened.fd,),
            preexec_fn=_small_files_only,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
        )
    except FileNotFoundError:
        return False
    name = image.shown(opened.path)
    if done.returncode == -signal.SIGXFSZ:
        raise BollardError(f"{name}: a text in its {_OWN} has more than {_FILE_MAX} bytes", "is it what it should be?")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["unsquashfs gave no reason"]
        reason = lines[-1].replace("FATAL ERROR:", "").strip()
        raise BollardError(f"{name}: damaged: its filesystem cannot be read ({reason})", "copy or build it again")
    return True


def _small_files_only() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_MAX, _FILE_MAX))


def _through_container(path: str) -> Attributes:
    """Return the attributes, read in a container of the image. A child makes the container and reports them."""
    from bollard.runtime.causes import one_line
    from bollard.runtime.container import keeper
    from bollard.runtime.container.clock import Clock
    from bollard.runtime.local import execution
    from bollard.runtime.request import site, spec

    asked = spec.Spec(os.path.abspath(path), asked=path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            execution.new_user_namespace(False)
            keeper.enter(asked, Clock(), site.Site())
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            answer: Attributes = {"attributes": read_tree(root)}
        except BaseException as error:
            answer = {"error": one_line(error)}
        with open(writer, "wb") as file:
            file.write(json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    if not text:
        raise BollardError(f"{image.shown(path)}: could not be looked at", "install the package squashfs-tools")
    found: Attributes = json.loads(text)
    if "error" in found:
        raise BollardError(found["error"])
    attributes: Attributes = found["attributes"]
    return attributes
