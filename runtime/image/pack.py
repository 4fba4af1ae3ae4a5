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

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import seal, sif, sif_write, source_tree
from bollard.runtime.image.layout import DIRECTORIES, EMPTY_FILES, OWN_DIRECTORIES, OWN_LINKS, OWN_SCRIPTS
from bollard.runtime.system import workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bollard.runtime.image.encryption import Key

# For mksquashfs, which else takes up to a quarter of the machine's memory for its queues, and is not faster for it. The
# size of the file is the same. -mem in --mksquashfs-args wins.
_MEMORY = "128M"


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
    arch = source_tree.tree_arch(source)
    deffile = source_tree.read(source, ".singularity.d/Singularity") or f"bootstrap: localimage\nfrom: {source}\n"
    labels = source_tree.tree_labels(source, arch)
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

    Raises:
        BollardError: a text of the tree is too long, the key cannot be used, or the image cannot be written.
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

        def write(path: str, offset: int = 0, fd: int = -1) -> None:
            squash(
                source, path, offset, entries, arguments=arguments, progress=progress, program=program,
                processors=processors, shown=target, fd=fd,
            )  # fmt: skip

        if key:
            seal.squash(secret, workspace.parent(os.environ), writer.fd, writer.offset, write, target)
        else:
            write(writer.path, writer.offset, writer.fd)
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
    fd: int = -1,
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
    fd: the descriptor that `path` names, as /proc/self/fd/N; -1 for an ordinary path.

    Raises:
        BollardError: mksquashfs is missing or fails, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="bollard-build-") as scratch:
        for number, entry in enumerate(entries):
            if entry.kind == "f":
                _write(scratch, str(number), entry.content)
        argv = [program, os.path.abspath(source), os.path.abspath(path), "-offset", str(offset)]
        argv += [] if progress else ["-no-progress"]
        argv += ["-processors", str(processors)] if processors else []
        argv += _tree_arguments(source, entries)
        argv += arguments
        if "-comp" in arguments:
            done = _mksquashfs(argv, scratch, progress, fd)
        else:
            done = _mksquashfs([*argv, "-comp", "zstd", "-Xcompression-level", "3"], scratch, progress, fd)
        if done.returncode and 'Compressor "zstd" is not supported' in done.stderr:
            done = _mksquashfs([*argv, "-comp", "gzip"], scratch, progress, fd)
    if done.returncode:
        raise causes.of_program(
            "mksquashfs", done.returncode, done.stderr, f"{shown or path}: cannot be written", shown or path,
            "check that you can read the tree",
        )  # fmt: skip


def _tree_arguments(source: str, entries: list[Entry]) -> list[str]:
    """Return mksquashfs's arguments for the tree at `source` and the `entries`, which are files named by number."""
    argv = ["-noappend", "-mem", _MEMORY, "-exit-on-error", "-noI", "-noId", "-noX"]
    if os.geteuid() != 0:
        argv.append("-all-root")
    mode = stat.S_IMODE(os.stat(source).st_mode)
    if mode & 0o755 != 0o755:  # a private directory of the user; in the image every user must be able to read it
        argv += ["-root-mode", f"{mode | 0o755:o}"]
    for number, entry in enumerate(entries):
        # mksquashfs runs the command of an "f" entry in a shell: the command holds only a number.
        last = {"d": "", "f": f" cat {number}", "s": f" {entry.content.decode()}"}[entry.kind]
        argv += ["-p", f"{entry.path} {entry.kind} {entry.mode:o} 0 0{last}"]
    hot = source_tree.hot_files(source)
    if hot:
        # Not -sort: with it mksquashfs 4.5 reads "f" entries from the tree instead of running `cat`.
        expression = " || ".join(f"pathname({name})" for name in hot)
        argv += ["-action", f"uncompressed@({expression})"]
    return argv


def additions(source: str, labels: Mapping[str, str], deffile: str) -> list[Entry]:
    """Return the entries that the tree at `source` lacks, parents before children.

    An existing `.singularity.d` is not changed.

    source: the root of the tree.
    labels: the labels for `labels.json`.
    deffile: the text for `.singularity.d/Singularity`.
    """
    found = [Entry("d", path, mode) for path, mode in DIRECTORIES if not source_tree.present(source, path)]
    found += [Entry("f", path, 0o644) for path in EMPTY_FILES if not source_tree.present(source, path)]
    if source_tree.present(source, ".singularity.d"):
        return found
    text = json.dumps(labels, indent="\t", sort_keys=True) + "\n"
    found += [Entry("d", path, 0o755) for path in OWN_DIRECTORIES]
    found += [Entry("f", path, 0o755, script.encode()) for path, script in OWN_SCRIPTS.items()]
    found.append(Entry("f", ".singularity.d/Singularity", 0o644, deffile.encode("utf-8", "surrogateescape")))
    found.append(Entry("f", ".singularity.d/labels.json", 0o644, text.encode()))
    for path, link in OWN_LINKS.items():
        if not source_tree.present(source, path):
            found.append(Entry("s", path, 0o777, link.encode()))
    return found


def inspect_metadata(source: str, labels: Mapping[str, str], deffile: str) -> bytes:
    """Return the bytes of `inspect-metadata.json`, in Apptainer's schema.

    source: the root of the tree. If it has no `.singularity.d`, the default scripts are described.
    labels: the labels of the image.
    deffile: the text of the definition file.

    Raises:
        BollardError: a text of the tree is too long.
    """
    own = source_tree.present(source, ".singularity.d")

    def text(name: str) -> str:
        path = f".singularity.d/{name}"
        return (source_tree.read(source, path) if own else OWN_SCRIPTS.get(path, "")).rstrip("\n")

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
            return source_tree.read(source, f"{inside}/{file}").rstrip("\n")

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


def _mksquashfs(argv: list[str], directory: str, progress: bool, fd: int) -> subprocess.CompletedProcess[str]:
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
            pass_fds=(fd,) if fd >= 0 else (),
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
