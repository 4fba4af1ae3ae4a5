# SPDX-License-Identifier: BSD-3-Clause
"""Write an OCI layout of one image, from which skopeo pushes it.

artifact    the SIF file as it is, for oras://: one layer, as Apptainer pushes it
container   the tree of the image as one layer with a configuration, for docker:// and programs that run containers

PLACE/oci-layout, index.json, blobs/sha256/HEX     the image has the name "image"
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bollard.runtime import causes
from bollard.runtime.constants import DEFAULT_PATH
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache
from bollard.runtime.image import image, layout, oci_config, sif
from bollard.runtime.shell import interpreter
from bollard.runtime.shell.words import Unsupported

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_ANNOTATION = "org.opencontainers.image"
# A puller replaces the scripts of `.singularity.d`, but leaves files that it does not know.
_RUN, _RUNSCRIPT = ".singularity.d/oci-run", ".singularity.d/oci-runscript"
_FIRST = "/.singularity.d/env/01-base.sh"
# unsquashfs -lln: mode, owner, size or device number, date, time, path.
_LISTED = re.compile(rb"([-dlcbps])([-rwxsStT]{9}) (\d+)/(\d+) +(?:\d+,? *)+ \d{4}-\d\d-\d\d \d\d:\d\d (.*)")


class Made(NamedTuple):
    """What was written: the digest of the manifest, "sha256:HEX", and lines for the user about what was left out."""

    digest: str
    warnings: tuple[str, ...] = ()


def artifact(path: str, place: str, annotations: Mapping[str, str]) -> Made:
    """Write the layout of a SIF file for oras://. The file is linked, not copied.

    path: the SIF file.
    place: an empty directory.
    annotations: more annotations of the manifest.

    Raises:
        BollardError: `path` is not a SIF file, or cannot be read.
    """
    fd, _ = image.open_sif(path)
    try:
        size, digest = os.fstat(fd).st_size, cache.sha256(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    os.makedirs(f"{place}/blobs/sha256")
    os.symlink(os.path.realpath(path), f"{place}/blobs/sha256/{digest}")
    title = {f"{_ANNOTATION}.title": os.path.basename(path)}
    layer = {"mediaType": SIF_LAYER, "digest": f"sha256:{digest}", "size": size, "annotations": title}
    return Made(_finish(place, b"{}", SIF_CONFIG, layer, annotations))


def container(path: str, place: str, attributes: Mapping[str, Any], annotations: Mapping[str, str]) -> Made:
    """Write the layout of an image for programs that run OCI images. The owners of its files are kept.

    path: a SIF file or a squashfs file.
    place: an empty directory with room for the unpacked image, twice.
    attributes: the image's metadata, as `local.metadata` reads it.
    annotations: more annotations of the manifest.

    Raises:
        BollardError: the image cannot be read or unpacked, or `place` is full.
    """
    opened = image.open_image(path)
    try:
        if opened.kind == image.DIRECTORY:
            raise BollardError(f"{image.shown(path)}: is a directory", "make it a SIF file first: `bollard build`")
        if opened.oci:
            raise BollardError(f"{image.shown(path)}: is an OCI-SIF image", "push it as a file, to oras://")
        base = _base_config(path)
        entry, files = _entry(attributes, base)
        env, warnings = _environment(attributes, base)
        config: dict[str, Any] = {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_epoch())),
            "architecture": (opened.arch or sif.arch_name(os.uname().machine)).partition("/")[0],
            "os": "linux",
            "config": {**base, **entry, "Env": env, "Labels": dict(attributes.get("labels") or {})},
        }
        os.makedirs(f"{place}/blobs/sha256")
        try:
            _unsquash(opened, f"{place}/tree")
            digest, size = _write_layer(f"{place}/tree", _owners(opened), files, place)
        except OSError as error:
            raise causes.of(error, f"{image.shown(path)}: cannot be unpacked", place) from None
    finally:
        opened.close()
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config["history"] = [{"created": config["created"], "created_by": "bollard push"}]
    layer = {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}
    data = json.dumps(config, sort_keys=True).encode("utf-8", "surrogatepass")
    return Made(_finish(place, data, _CONFIG, layer, annotations), warnings)


def _finish(place: str, config: bytes, kind: str, layer: dict[str, Any], annotations: Mapping[str, str]) -> str:
    """Write configuration, manifest and index; return the digest of the manifest."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": kind, **_blob(place, config)},
        "layers": [layer],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    found = _blob(place, json.dumps(manifest).encode("utf-8", "surrogatepass"))
    named = {"mediaType": MANIFEST, **found, "annotations": {f"{_ANNOTATION}.ref.name": "image"}}
    with open(f"{place}/oci-layout", "w", encoding="ascii") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')
    with open(f"{place}/index.json", "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [named]}, file)
    return str(found["digest"])


def _blob(place: str, data: bytes) -> dict[str, Any]:
    name = hashlib.sha256(data).hexdigest()
    with open(f"{place}/blobs/sha256/{name}", "wb") as file:
        file.write(data)
    return {"digest": f"sha256:{name}", "size": len(data)}


def _epoch() -> float:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(text) if text.isascii() and text.isdigit() else time.time()


def _base_config(path: str) -> dict[str, Any]:
    """Return the OCI configuration that a SIF file has kept from its first source; {} if it has none."""
    with open(path, "rb") as file:
        if not sif.is_sif(file.read(42)):
            return {}
    fd, found = image.open_sif(path)
    try:
        for item in found.descriptors:
            if item.datatype == sif.GENERIC_JSON and item.name == "oci-config.json" and item.size <= sif.MAX_METADATA:
                config = json.loads(sif.pread(fd, item.size, item.offset, found.name))
                return config if isinstance(config, dict) else {}
    except (ValueError, RecursionError):
        raise BollardError(f"{image.shown(path)}: its oci-config.json is damaged", "build it again") from None
    finally:
        os.close(fd)
    return {}


def _entry(attributes: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return Entrypoint and Cmd of the configuration, and the files that they need: the image's runscript.

    An image that was made from an OCI image, without a runscript of its own, keeps that image's.
    """
    runscript, deffile = str(attributes.get("runscript") or ""), str(attributes.get("deffile") or "")
    own = any(line.split()[:1] == ["%runscript"] for line in deffile.splitlines())
    unchanged = runscript.rstrip("\n") == oci_config.scripts(dict(base))["runscript"].rstrip("\n") if base else False
    if base and (unchanged or not own):
        return {}, {}
    if runscript.rstrip("\n") in ("", layout.RUNSCRIPT.rstrip("\n")):
        return {"Entrypoint": None, "Cmd": ["/bin/sh"]}, {}
    text = runscript if runscript.endswith("\n") else runscript + "\n"
    start = layout.OWN_SCRIPTS[".singularity.d/actions/run"].replace("/.singularity.d/runscript", f"/{_RUNSCRIPT}")
    files = {_RUN: start.encode(), _RUNSCRIPT: text.encode("utf-8", "surrogateescape")}
    return {"Entrypoint": [f"/{_RUN}"], "Cmd": None}, files


def _environment(attributes: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """Return Env of the configuration, which the image's environment scripts set, and lines about what it lacks."""
    values: dict[bytes, bytes] = {}
    exported: set[bytes] = set()
    for item in base.get("Env") or []:
        name, _, value = str(item).partition("=")
        values[name.encode("utf-8", "surrogateescape")] = value.encode("utf-8", "surrogateescape")
    exported.update(values)
    if b"PATH" not in values:
        values[b"PATH"] = DEFAULT_PATH.encode()
        exported.add(b"PATH")
    warnings = []
    for name, text in sorted((attributes.get("environment") or {}).items()):
        if name == _FIRST:
            continue
        before = dict(values), set(exported)
        try:
            interpreter.evaluate(text.encode("utf-8", "surrogateescape"), values, exported)
        except Unsupported:
            values, exported = before
            warnings.append(f"{name} needs a shell: only the runscript of the pushed image has its variables")
    found = [
        f"{name.decode('utf-8', 'replace')}={values[name].decode('utf-8', 'replace')}"
        for name in sorted(exported) if name in values and name != b"LD_LIBRARY_PATH"
        or name == b"LD_LIBRARY_PATH" and values.get(name) not in (None, b"/.singularity.d/libs")
    ]  # fmt: skip
    return found, tuple(warnings)


def _unsquash(opened: image.Image, tree: str) -> None:
    argv = ["-no-progress", "-no-xattrs", "-dest", tree]
    _unsquashfs(opened, [*argv, "-offset", str(opened.offset)], tree)


def _unsquashfs(opened: image.Image, options: list[str], place: str) -> bytes:
    name = image.shown(opened.path)
    try:
        done = subprocess.run(
            ["unsquashfs", *options, f"/proc/self/fd/{opened.fd}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            pass_fds=(opened.fd,),
            check=False,
        )
    except FileNotFoundError:
        raise BollardError("unsquashfs: no such program", "install the package squashfs-tools") from None
    said = done.stderr.decode("utf-8", "replace")
    # 2: a file was left out; a user cannot make devices, which `_write_layer` makes from the list of files.
    if done.returncode and not (done.returncode == 2 and _only_devices(said)):
        raise causes.of_program(
            "unsquashfs", done.returncode, said, f"{name}: cannot be unpacked", os.path.dirname(place), "is it damaged?"
        )
    return done.stdout


def _only_devices(said: str) -> bool:
    lines = [line for line in said.splitlines() if line.strip()]
    return all("superuser" in line or "not superuser" in line for line in lines)


def _owners(opened: image.Image) -> dict[bytes, tuple[int, int]]:
    """Return owner and group of each file that does not belong to root. A user who unpacks them owns all of them."""
    said = _unsquashfs(opened, ["-lln", "-dest", "", "-offset", str(opened.offset)], "/")
    found = {}
    for line in said.splitlines():
        match = _LISTED.fullmatch(line)
        if match and (match[3], match[4]) != (b"0", b"0"):
            path = match[5].partition(b" -> ")[0] if match[1] == b"l" else match[5]
            found[path.strip(b"/")] = int(match[3]), int(match[4])
    return found


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: Any) -> None:
        self.file, self.sum, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        self.size += len(data)
        self.file.write(data)
        return len(data)


def _write_layer(
    tree: str, owners: Mapping[bytes, tuple[int, int]], files: Mapping[str, bytes], place: str
) -> tuple[str, int]:
    """Write the tree as a tar archive into the layout; return its SHA-256 and its size in bytes.

    tree: the unpacked image, a directory of this user's.
    owners: owner and group of the files that do not belong to root.
    files: more files, path and content.
    place: the layout.
    """
    with open(f"{place}/layer", "wb") as opened:
        target = _Hashed(opened)
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, dereference=False) as tar:  # type: ignore[call-overload]
            for path, name in _walk(tree):
                info = tar.gettarinfo(path, name)
                if info is None:
                    continue  # a socket: no archive can have one
                info.uid, info.gid = owners.get(os.fsencode(name), (0, 0))
                info.uname = info.gname = ""
                if info.isreg() and not info.islnk():
                    with _readable(path) as data:
                        tar.addfile(info, data)
                else:
                    tar.addfile(info)
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(text), 0o755, int(_epoch())
                tar.addfile(info, io.BytesIO(text))
        opened.flush()
    digest = target.sum.hexdigest()
    os.rename(f"{place}/layer", f"{place}/blobs/sha256/{digest}")
    return digest, target.size


def _walk(tree: str) -> Iterator[tuple[str, str]]:
    """Yield (path, name in the archive) of everything below the tree, sorted, parents first."""
    left = [(tree, "")]
    while left:
        folder, prefix = left.pop()
        mode = os.lstat(folder).st_mode
        if mode & 0o700 != 0o700:
            os.chmod(folder, stat.S_IMODE(mode) | 0o700)  # its entry in the archive has been written with its mode
        found = sorted(os.listdir(folder))
        for name in found:
            path = f"{folder}/{name}"
            yield path, f"{prefix}{name}"
            if stat.S_ISDIR(os.lstat(path).st_mode):
                left.append((path, f"{prefix}{name}/"))


@contextlib.contextmanager
def _readable(path: str) -> Iterator[Any]:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except PermissionError:
        os.chmod(path, 0o600)  # its entry has its mode; the tree is temporary
        file = open(path, "rb")  # noqa: SIM115
    with file:
        yield file
