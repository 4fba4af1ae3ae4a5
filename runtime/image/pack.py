# SPDX-License-Identifier: BSD-3-Clause
"""Make a SIF image from a directory tree, with mksquashfs 4.4 or later.

Metadata and the files that every program needs at its start (loader, libc, shell, interpreter) are stored uncompressed.
The other files are compressed with zstd, level 3. Through FUSE, the decompression of whole blocks takes most of the
start time. Time to start `bash` on a fresh mount: 8 to 10 ms. With zstd level 3 for all files it is 22 ms, with gzip
60 ms. The image grows by 8 %.

The source tree is only read. Missing parts of `.singularity.d` and missing standard directories are added as pseudo
files of mksquashfs. Names, modes and behaviour are Apptainer's, so existing images and tools work unchanged.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
import time
from fnmatch import fnmatchcase

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import seal, sif, sif_write
from bollard.runtime.image.layout import DIRECTORIES, EMPTY_FILES, OWN_DIRECTORIES, OWN_LINKS, OWN_SCRIPTS
from bollard.runtime.system import workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final

    from bollard.runtime.image.encryption import Key

_MAX_TEXT: Final = 1 << 20

# Files to store uncompressed, the most valuable first: directory pattern, file patterns. `*` also matches `/`.
_HOT: Final = (
    ("*lib*", ("ld-*.so*", "ld.so*", "libc.so*", "libc-*.so", "libc.musl-*")),
    ("etc", ("ld.so.cache", "passwd", "group", "nsswitch.conf")),
    ("*bin", ("sh", "dash", "bash", "busybox", "coreutils", "env")),
    ("*lib*/locale/C.*", ("*",)),
    ("*lib*", ("libtinfo.so*", "libm.so*", "libm-*.so", "libdl[.-]*", "libpthread[.-]*", "librt[.-]*")),
    ("*lib*", ("libselinux.so*", "libpcre2-8.so*", "libacl.so*", "libattr.so*", "libcap.so*", "libnss_*")),
    ("*lib*", ("libresolv[.-]*", "libgcc_s.so*", "libz.so*", "gconv-modules.cache")),
    ("*bin", ("cat", "date", "echo", "hostname", "id", "ls", "printf", "pwd", "sleep", "true", "uname")),
    ("*bin", ("python3.[0-9]", "python3.[0-9][0-9]")),
    ("*lib*", ("libpython3*.so*", "libexpat.so*", "libstdc++.so*")),
    ("*lib/python3.*/encodings/__pycache__", ("__init__.*", "aliases.*", "utf_8.*", "ascii.*", "latin_1.*")),
    ("*lib/python3.[0-9]*/__pycache__", ("_collections_abc.*", "_sitebuiltins.*", "abc.*", "codecs.*")),
    ("*lib/python3.[0-9]*/__pycache__", ("genericpath.*", "io.*", "os.*", "posixpath.*", "site.*", "stat.*")),
    (
        "*lib*",
        ("libmpi.so*", "libmpich.so*", "libopen-*.so*", "libpmix.so*", "libhwloc.so*", "libevent*.so*"),
    ),
    ("*lib*", ("libucp.so*", "libuct.so*", "libucs.so*", "libucm.so*", "libfabric.so*", "libibverbs.so*")),
)
_HOT_FLOOR: Final = 8 << 20
_HOT_SHARE: Final = 0.10  # of the tree's bytes; keeps the image's growth under 15 %
_HOT_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-/")
_MAX_EXPRESSION: Final = 100_000  # bytes; execve(2) allows 128 KiB for one argument

# e_machine of an ELF header: Go's name if little-endian, Go's name if big-endian.
_ELF_MACHINES: Final = {
    3: ("386", "386"),
    8: ("mipsle", "mips"),
    21: ("ppc64le", "ppc64"),
    22: ("s390x", "s390x"),
    40: ("arm", "arm"),
    62: ("amd64", "amd64"),
    183: ("arm64", "arm64"),
    243: ("riscv64", "riscv64"),
    258: ("loong64", "loong64"),
}


class Entry:
    """A directory, file or link to add to the tree.

    kind: "d" for a directory, "f" for a file, "s" for a symbolic link.
    path: relative to the root of the tree.
    mode: permission bits.
    content: the bytes of a file, or the target of a link.
    """

    __slots__ = ("content", "kind", "mode", "path")

    def __init__(self, kind: str, path: str, mode: int, content: bytes = b"") -> None:
        self.kind = kind
        self.path = path
        self.mode = mode
        self.content = content


def build(
    target: str,
    source: str,
    *,
    records: Sequence[sif_write.Object] = (),
    force: bool = False,
    arguments: Sequence[str] = (),
    program: str = "mksquashfs",
    processors: int = 0,
    key: Key | None = None,
) -> None:
    """Make the SIF image `target` from the tree at `source`.

    target: path of the new image.
    source: directory, the root of the tree.
    records: as in `pack`.
    force: replace an existing target.
    arguments, program, processors: as in `squash`.
    key: as in `pack`.

    If SOURCE_DATE_EPOCH is set, equal trees give equal images. If root builds, the owners of the files are kept;
    otherwise every file in the image belongs to root.

    Raises:
        BollardError: `source` is not a usable tree, the target exists or cannot be written, or mksquashfs fails.
    """
    if not os.path.isdir(source):
        raise BollardError(f"{source}: not a directory", "name the root of a container's file tree")
    _refuse_places(target, source)
    arch = tree_arch(source)
    deffile = _read(source, ".singularity.d/Singularity") or f"bootstrap: localimage\nfrom: {source}\n"
    labels = tree_labels(source, arch)
    # If the tree is an unpacked image, its labels name the first source already, and they are kept.
    labels.setdefault("org.label-schema.usage.singularity.deffile.bootstrap", "localimage")
    labels.setdefault("org.label-schema.usage.singularity.deffile.from", source)
    pack(target, source, arch, labels, deffile, {}, records, force=force, arguments=arguments, program=program,
         processors=processors, key=key)  # fmt: skip


def pack(
    target: str,
    source: str,
    arch: str,
    labels: Mapping[str, str],
    deffile: str,
    documents: Mapping[str, bytes],
    records: Sequence[sif_write.Object] = (),
    *,
    force: bool,
    arguments: Sequence[str] = (),
    progress: bool = False,
    program: str = "mksquashfs",
    processors: int = 0,
    key: Key | None = None,
) -> None:
    """Write the tree at `source` as the SIF image `target`.

    arch: Go's name of the architecture.
    labels: the labels of the image.
    deffile: the text of the definition file.
    documents: further JSON objects for the SIF file, by name.
    records: the SBOM and the provenance statement; they come after all other objects but the partition.
    force: replace an existing target.
    arguments, progress, program, processors: as in `squash`.
    key: encrypt the filesystem for this key, as root of a mount namespace; None for a plain one.
    """
    secret, message = seal.secret_of(key) if key else (b"", b"")
    texts = {sif.METADATA_NAME: inspect_metadata(source, labels, deffile), **documents}
    objects = [sif_write.Object(sif.DEFFILE, "", deffile.encode("utf-8", "surrogateescape"))]
    objects += [sif_write.Object(sif.GENERIC_JSON, name, texts[name]) for name in sorted(texts)]
    objects.append(sif_write.Object(sif.GENERIC, sif.DIGEST_NAME, bytes(sif.DIGEST_SIZE), finish=str.encode))
    objects += records
    if message:
        extra = sif.CRYPTO_PEM.to_bytes(4, "little") + sif.CRYPTO_RSA_OAEP.to_bytes(4, "little")
        objects.append(sif_write.Object(sif.CRYPTO_MESSAGE, "", message, extra))
    fstype = sif.FS_GOCRYPTFS if key else sif.FS_SQUASHFS
    with sif_write.Writer(target, arch, objects, force=force, fstype=fstype) as writer:
        entries = additions(source, labels, deffile)

        def write(path: str, offset: int = 0) -> None:
            squash(
                source, path, offset, entries, arguments=arguments, progress=progress, program=program,
                processors=processors, shown=target,
            )  # fmt: skip

        if key:
            seal.squash(secret, workspace.parent(os.environ), writer.path, writer.offset, write, target)
        else:
            write(writer.path, writer.offset)
        writer.finish()


def squash(
    source: str,
    path: str,
    offset: int,
    entries: list[Entry],
    *,
    arguments: Sequence[str] = (),
    progress: bool = False,
    program: str = "mksquashfs",
    processors: int = 0,
    shown: str = "",
) -> None:
    """Write the tree at `source` and the `entries` as squashfs into a file.

    path: the file to write.
    offset: where in the file the squashfs begins, in bytes; a multiple of 4096.
    entries: what to add to the tree.
    arguments: further arguments of the user's for mksquashfs; they win over those of this function.
    progress: mksquashfs draws its progress bar on stderr.
    program: the mksquashfs program.
    processors: the most CPUs that mksquashfs may use; 0 for all.
    shown: the name of the file in messages; "" for `path`.

    Raises:
        BollardError: mksquashfs is missing or fails, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="bollard-build-") as scratch:
        argv = [program, os.path.abspath(source), os.path.abspath(path)]
        argv += [
            "-noappend",
            *(() if progress else ("-no-progress",)),
            "-exit-on-error",
            "-offset",
            str(offset),
            "-noI",
            "-noId",
            "-noX",
        ]
        if processors:
            argv += ["-processors", str(processors)]
        if os.geteuid() != 0:
            argv.append("-all-root")
        mode = stat.S_IMODE(os.stat(source).st_mode)
        if mode & 0o755 != 0o755:  # a private directory of the user; in the image every user must be able to read it
            argv += ["-root-mode", f"{mode | 0o755:o}"]
        for number, entry in enumerate(entries):
            if entry.kind == "f":
                _write(scratch, str(number), entry.content)
            # mksquashfs runs the command of an "f" entry in a shell: the command holds only a number.
            last = {"d": "", "f": f" cat {number}", "s": f" {entry.content.decode()}"}[entry.kind]
            argv += ["-p", f"{entry.path} {entry.kind} {entry.mode:o} 0 0{last}"]
        hot = hot_files(source)
        if hot:
            # Not -sort: with it mksquashfs 4.5 reads "f" entries from the tree instead of running `cat`.
            expression = " || ".join(f"pathname({name})" for name in hot)
            argv += ["-action", f"uncompressed@({expression})"]
        argv += arguments
        if "-comp" in arguments:
            done = _mksquashfs(argv, scratch, progress)
        else:
            done = _mksquashfs([*argv, "-comp", "zstd", "-Xcompression-level", "3"], scratch, progress)
        if done.returncode and 'Compressor "zstd" is not supported' in done.stderr:
            done = _mksquashfs([*argv, "-comp", "gzip"], scratch, progress)
    if done.returncode:
        raise causes.of_program(
            "mksquashfs", done.returncode, done.stderr, f"{shown or path}: cannot be written", path,
            "check that you can read the tree",
        )  # fmt: skip


def additions(source: str, labels: Mapping[str, str], deffile: str) -> list[Entry]:
    """Return the entries that the tree at `source` lacks, parents before children.

    An existing `.singularity.d` is not changed.

    source: the root of the tree.
    labels: the labels for `labels.json`.
    deffile: the text for `.singularity.d/Singularity`.
    """
    found = [Entry("d", path, mode) for path, mode in DIRECTORIES if not _present(source, path)]
    found += [Entry("f", path, 0o644) for path in EMPTY_FILES if not _present(source, path)]
    if _present(source, ".singularity.d"):
        return found
    text = json.dumps(labels, indent="\t", sort_keys=True) + "\n"
    found += [Entry("d", path, 0o755) for path in OWN_DIRECTORIES]
    found += [Entry("f", path, 0o755, script.encode()) for path, script in OWN_SCRIPTS.items()]
    found.append(Entry("f", ".singularity.d/Singularity", 0o644, deffile.encode("utf-8", "surrogateescape")))
    found.append(Entry("f", ".singularity.d/labels.json", 0o644, text.encode()))
    for path, link in OWN_LINKS.items():
        if not _present(source, path):
            found.append(Entry("s", path, 0o777, link.encode()))
    return found


def inspect_metadata(source: str, labels: Mapping[str, str], deffile: str) -> bytes:
    """Return the bytes of `inspect-metadata.json`, in Apptainer's schema.

    source: the root of the tree. If it has no `.singularity.d`, the default scripts are described.
    labels: the labels of the image.
    deffile: the text of the definition file.
    """
    own = _present(source, ".singularity.d")

    def text(name: str) -> str:
        path = f".singularity.d/{name}"
        return (_read(source, path) if own else OWN_SCRIPTS.get(path, "")).rstrip("\n")

    names = ["90-environment.sh"]
    if own:
        place = os.path.join(source, ".singularity.d/env")
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    # Only the scripts of users and of the source image, 10 to 91: 01-base and 94 to 99 are the same in every image.
    # Trailing newlines are removed, as Apptainer does.
    shown = [n for n in names if n.endswith(".sh") and n[:2].isdigit() and 10 <= int(n[:2]) <= 91]
    attributes: dict[str, object] = {
        "apps": _apps(source),
        "deffile": deffile.rstrip("\n"),
        "environment": {f"/.singularity.d/env/{name}": text(f"env/{name}") for name in shown},
        "helpfile": text("runscript.help"),
        "labels": dict(sorted(labels.items())),
        "runscript": text("runscript"),
        "startscript": text("startscript"),
        "test": text("test"),
    }
    document = {
        "data": {"attributes": {name: value for name, value in attributes.items() if value}},
        "type": "container",
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _apps(source: str) -> dict[str, object]:
    """Return the metadata of each SCIF app of the tree, as `inspect` shows it."""
    place = os.path.join(source, "scif/apps")
    linked = os.path.islink(place) or os.path.islink(os.path.dirname(place))
    names = sorted(os.listdir(place)) if os.path.isdir(place) and not linked else []
    found: dict[str, object] = {}
    for name in names:
        inside = f"scif/apps/{name}/scif"

        def text(file: str, inside: str = inside) -> str:
            return _read(source, f"{inside}/{file}").rstrip("\n")

        try:
            labels = json.loads(text("labels.json") or "{}")
        except ValueError:
            raise BollardError(f"{source}/{inside}/labels.json: not JSON", "repair or remove it") from None
        environment = text("env/90-environment.sh")
        attributes: dict[str, object] = {
            "environment": {f"/{inside}/env/90-environment.sh": environment} if environment else {},
            "labels": labels if isinstance(labels, dict) else {},
            "runscript": text("runscript"),
            "startscript": text("startscript"),
            "test": text("test"),
            "helpfile": text("runscript.help"),
        }
        found[name] = {key: value for key, value in attributes.items() if value}
    return found


def hot_files(source: str) -> list[str]:
    """Return the paths of the files to store uncompressed, the most valuable first.

    Together they have at most 8 MiB or 10 % of the tree's size, whichever is more.
    """
    ranked: list[tuple[int, str, int]] = []
    total = 0
    for place, name, size in _regular_files(source):
        total += size
        path = f"{place}/{name}" if place else name
        for rank, (places, names) in enumerate(_HOT):
            if fnmatchcase(place, places) and any(fnmatchcase(name, pattern) for pattern in names):
                if _HOT_CHARACTERS.issuperset(path):
                    ranked.append((rank, path, size))
                break
    budget = max(_HOT_FLOOR, int(total * _HOT_SHARE))
    length = _MAX_EXPRESSION
    chosen = []
    for _, path, size in sorted(ranked):
        cost = len(f"pathname({path}) || ")
        if size <= budget and cost <= length:
            chosen.append(path)
            budget -= size
            length -= cost
    return chosen


def tree_arch(source: str) -> str:
    """Return the architecture of a tree as Go names it ("amd64").

    It is that of /bin/sh, else of the first program in the tree, else of this machine.
    """
    shell = _resolve(source, "bin/sh")
    arch = _elf_arch(shell) if shell else ""
    if arch:
        return arch
    for place, name, _ in _regular_files(source):
        path = os.path.join(source, place, name)
        if os.access(path, os.X_OK):
            arch = _elf_arch(path)
            if arch:
                return arch
    return sif.arch_name(os.uname().machine)


def _mksquashfs(argv: list[str], directory: str, progress: bool) -> subprocess.CompletedProcess[str]:
    passed = ("PATH", "SOURCE_DATE_EPOCH", "TMPDIR")
    environment = {name: os.environ[name] for name in passed if name in os.environ}
    environment["LC_ALL"] = "C"
    try:
        return subprocess.run(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=2 if progress else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
        )
    except FileNotFoundError:
        raise BollardError("mksquashfs: no such program", "install the package squashfs-tools") from None


def _write(directory: str, name: str, data: bytes) -> None:
    try:
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)
    except OSError as error:
        causes.movable(directory, "TMPDIR")
        raise causes.of(error, f"{directory}: cannot be written", directory) from None


def _refuse_places(target: str, source: str) -> None:
    root = os.path.realpath(source)
    place = os.path.realpath(os.path.dirname(target) or ".")
    if os.path.commonpath((root, place)) == root:
        raise BollardError(f"{target}: lies inside {source}", "write the image to another directory")
    for name in ("proc", "sys"):
        if os.path.ismount(os.path.join(root, name)):
            raise BollardError(f"{source}: has {name} mounted", "unmount it, or build from a copy of the tree")


def tree_labels(source: str, arch: str) -> dict[str, str]:
    """Return the labels of the tree together with those of the label schema, which replace equal names.

    Raises:
        BollardError: the tree's `labels.json` is not a JSON object.
    """
    labels: dict[str, str] = {}
    text = _read(source, ".singularity.d/labels.json")
    if text:
        try:
            own = json.loads(text)
        except ValueError:
            own = None
        if not isinstance(own, dict):
            raise BollardError(f"{source}/.singularity.d/labels.json: not a JSON object", "repair or remove it")
        labels.update((str(name), str(value)) for name, value in own.items())
    labels.update(schema_labels(arch))
    return labels


def schema_labels(arch: str) -> dict[str, str]:
    """Return the labels that every build sets; `arch` is Go's name of the architecture.

    Raises:
        BollardError: SOURCE_DATE_EPOCH is set and is not a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        date = time.gmtime(int(epoch) if epoch is not None else None)
    except (ValueError, OverflowError, OSError):
        raise BollardError(f"SOURCE_DATE_EPOCH={epoch}: not a time", "set it to seconds since 1970") from None
    day = time.strftime("%A_{}_%B_%Y", date).format(date.tm_mday)
    return {
        "org.label-schema.build-arch": arch,
        "org.label-schema.build-date": f"{day}_{date.tm_hour}:{date.tm_min}:{date.tm_sec}_UTC",
        "org.label-schema.schema-version": "1.0",
    }


def _regular_files(source: str) -> Iterator[tuple[str, str, int]]:
    """Yield every regular file in a fixed order: directory relative to `source`, name, size in bytes."""
    for directory, below, names in os.walk(source):
        below.sort()
        place = os.path.relpath(directory, source)
        for name in sorted(names):
            info = os.lstat(os.path.join(directory, name))
            if info.st_mode & 0o170000 == 0o100000:
                yield ("" if place == "." else place), name, info.st_size


def _present(source: str, path: str) -> bool:
    """Return whether the tree has `path`, or cannot take it because a parent of `path` is not a directory."""
    place = source
    for part in path.split("/"):
        if place != source and (os.path.islink(place) or not os.path.isdir(place)):
            return True
        place = os.path.join(place, part)
        if not os.path.lexists(place):
            return False
    return True


def _read(source: str, path: str) -> str:
    """Return the text of a file of the tree, "" if the file does not exist."""
    full = _resolve(source, path)
    if full is None:
        return ""
    with open(full, "rb") as file:
        data = file.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise BollardError(f"{full}: more than {_MAX_TEXT} bytes", "such a text does not belong in an image")
    return data.decode("utf-8", "backslashreplace")


def _resolve(source: str, path: str) -> str | None:
    """Return the path on the host of the regular file `path` of the tree; links are resolved inside the tree."""
    parts = path.split("/")
    place: list[str] = []
    for _ in range(100):
        if not parts:
            full = os.path.join(source, *place)
            return full if os.path.isfile(full) else None
        part = parts.pop(0)
        if part == "..":
            place = place[:-1]
        elif part not in ("", "."):
            full = os.path.join(source, *place, part)
            if os.path.islink(full):
                link = os.readlink(full)
                if link.startswith("/"):
                    place = []
                parts = link.split("/") + parts
            else:
                place.append(part)
    return None


def _elf_arch(path: str) -> str:
    """Return Go's name of an ELF file's architecture, "" for any other file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(20)
    except OSError:
        return ""  # mksquashfs reads the same file, and fails with its name
    if len(raw) < 20 or raw[:4] != b"\x7fELF":
        return ""
    little = raw[5] == 1
    names = _ELF_MACHINES.get(int.from_bytes(raw[18:20], "little" if little else "big"))
    if names is None:
        return ""
    name = names[0 if little else 1]
    # EI_CLASS 2 is ELFCLASS64: MIPS has the same machine number for 32 and 64 bits.
    return name.replace("mips", "mips64") if name.startswith("mips") and raw[4] == 2 else name
