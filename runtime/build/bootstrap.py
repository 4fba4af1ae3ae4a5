# SPDX-License-Identifier: BSD-3-Clause
"""Fill the tree of a build: one function per bootstrap agent of a definition file's header.

Each function fills an empty tree and completes `.singularity.d`. The agents debootstrap, dnf and yum run programs of
the host; the error for a missing program has a hint. Images of registries and libraries are fetched before (`fetch`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bollard.runtime import causes
from bollard.runtime.build import build_root, image_files
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import layer, oci, sources
from bollard.runtime.image import image, oci_config, oci_sif, sif
from bollard.runtime.system.tree import Tree
from bollard.runtime.trust import pgp, verify

_DEBIAN_ARCHES = {
    "386": "i386", "arm": "armhf", "ppc64le": "ppc64el", "mipsle": "mipsel", "mips64le": "mips64el",
}  # fmt: skip
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PACKAGES = re.compile(r"[0-9A-Za-z@][0-9A-Za-z@.+:_/*-]*")
_UNSUPPORTED = {
    "shub": "Singularity Hub has closed; use another source",
    "busybox": "use docker or localimage",
    "arch": "use docker or localimage",
    "zypper": "use docker or localimage",
    "buildkit": "build it with BuildKit to an oci-archive and use that",
    "dockerfile": "name the Dockerfile itself: `bollard build TARGET Dockerfile`",
}
# Header keys that protect the user in Apptainer and have no effect here. They are refused.
# key -> (agents, "" for all; the reason; the hint).
_UNENFORCED = {
    "productpgp": ("", "the key of a product's packages is not used", "remove that line"),
    "setopt": ("yum dnf", "options are not passed to dnf or yum", "remove that line, and set the option in %post"),
    "modules": ("yum dnf", "no module is enabled", "remove that line, and use `dnf module enable` in %post"),
}  # fmt: skip
_SIGNED = ("localimage", "library", "oras")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}")
_TAR_MAGIC = ((257, b"ustar"), (0, b"\x1f\x8b"), (0, b"\x28\xb5\x2f\xfd"), (0, b"\xfd7zXZ"), (0, b"BZh"))


class Source(NamedTuple):
    """The input of a bootstrap agent.

    header: the header of the definition file, keys in lower case.
    tree: the empty tree to fill.
    scratch: a private directory.
    cwd: the directory for relative paths.
    say: shows the current step to the user.
    fetched: the layers or the image that were fetched for this build.
    """

    header: Mapping[str, str]
    tree: Tree
    scratch: str
    cwd: str
    say: Callable[[str], None]
    fetched: sources.Source = sources.Source()

    def key(self, name: str) -> str:
        """Return the value of a required header key.

        Raises:
            BollardError: the header does not have this key.
        """
        value = self.header.get(name, "")
        if not value:
            raise BollardError(f"Bootstrap: {self.header['bootstrap']} needs {name.capitalize()}", f"add `{name}: ...`")
        return value


def fill(source: Source) -> dict[str, bytes]:
    """Fill the tree; return JSON documents about its source, by name.

    Raises:
        BollardError: the bootstrap agent is not supported, or it fails.
    """
    agent = source.header["bootstrap"].lower()
    if agent in oci.TRANSPORTS:
        return _oci(source, agent)
    if agent in _AGENTS:
        return _AGENTS[agent](source) or {}
    hint = _UNSUPPORTED.get(agent, "known are " + ", ".join(sorted((*_AGENTS, *oci.TRANSPORTS))))
    raise BollardError(f"Bootstrap: {agent} is not supported", hint)


def is_agent(name: str) -> bool:
    """Return whether this is the name of a bootstrap agent, of a supported or an unsupported one."""
    return name in _AGENTS or name in _UNSUPPORTED or name in oci.TRANSPORTS


def check(header: Mapping[str, str]) -> None:
    """Refuse a header that cannot work, before the build makes any file.

    Raises:
        BollardError: the agent is not supported, a key has no effect here, or GPG is set for yum or dnf.
    """
    agent = header["bootstrap"].lower()
    if agent not in _AGENTS and agent not in oci.TRANSPORTS:
        fill(Source(header, None, "", "", print))  # type: ignore[arg-type]  # only to raise
    if "fingerprints" in header:
        if agent not in _SIGNED:
            raise BollardError(
                f"{_shown('fingerprints', header)}: signatures of images are not verified with Bootstrap: {agent}",
                f"only those of SIF files are, with {', '.join(_SIGNED)}; or pin the image by its digest",
            )
        fingerprints(header)
        pgp.program("gpgv", "gpgv")
    for key, (agents, why, cure) in _UNENFORCED.items():
        if key in header and (not agents or agent in agents.split()):
            raise BollardError(f"{_shown(key, header)}: {why} with Bootstrap: {agent}", cure)
    if agent in ("yum", "dnf") and os.environ.get("GPG"):
        raise BollardError(
            f"GPG={ascii(os.environ['GPG'])[1:-1]}: {agent} would not check its packages against that key",
            "unset GPG to build without the check",
        )


def _shown(key: str, header: Mapping[str, str]) -> str:
    value = header[key] if header[key].isprintable() else ascii(header[key])[1:-1]
    return f"{key.capitalize()}: {value[:60]}".rstrip(": ")


def fingerprints(header: Mapping[str, str]) -> list[str]:
    """Return the fingerprints of the keys that must have signed the base image; none if the header names none.

    Raises:
        BollardError: one is not a full fingerprint, or the header has `Fingerprints` without a value.
    """
    if "fingerprints" not in header:
        return []
    found = header["fingerprints"].replace(",", " ").split()
    for text in found:
        if not _FINGERPRINT.fullmatch(text):
            raise BollardError(
                f"Fingerprints: {image.shown(text)[:60]}: is not a full fingerprint", "write its 40 hexadecimal digits"
            )
    if not found:
        raise BollardError("Fingerprints: names no key", "write the full fingerprint of its signer, or remove it")
    return found


def _check_signers(source: Source, opened: image.Image, name: str) -> None:
    """Raise unless all keys of `Fingerprints` have signed the opened image. It is unpacked from the same descriptor."""
    wanted = fingerprints(source.header)
    if not wanted:
        return
    if opened.kind == image.DIRECTORY or not opened.is_sif:
        raise _unsigned(name)
    found = sif.read(opened.fd, os.fstat(opened.fd).st_size, name)
    verify.require(opened.fd, found, verify.default_trust(os.environ), wanted)


def _unsigned(name: str) -> BollardError:
    return BollardError(f"Fingerprints: {name} is no SIF file, so nobody has signed it", "name a signed SIF file")


def is_tarball(path: str) -> bool:
    """Return whether the file looks like a tar archive, compressed or not; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            first = file.read(512)
    except OSError:
        return False  # who opens it as an image says what is wrong
    return is_archive(first)


def is_archive(first: bytes) -> bool:
    """Return whether a file looks like a tar archive, compressed or not. `first` are its first 512 bytes."""
    return any(first[at : at + len(magic)] == magic for at, magic in _TAR_MAGIC)


def _scratch(source: Source) -> None:
    image_files.base(source.tree, overwrite=True)


def _localimage(source: Source) -> dict[str, bytes]:
    name = source.key("from")
    path = os.path.expanduser(name)
    return _image_at(source, path if path.startswith("/") else os.path.join(source.cwd, path), name)


def _image_at(source: Source, path: str, name: str) -> dict[str, bytes]:
    """Fill the tree from the image or archive at `path`; `name` is its name for messages."""
    if os.path.isdir(path) and oci.transport(path) == "oci-archive":
        if "fingerprints" in source.header:
            raise _unsigned(name)
        return _container_image(source, oci.fetch("oci", path, source.scratch), name)
    if os.path.isfile(path) and is_tarball(path):
        if "fingerprints" in source.header:
            raise _unsigned(name)
        with open(path, "rb") as file:
            layer.apply(file, source.tree, name, layer=False)
        kind = oci.transport(source.tree.path)
        if kind:
            return _container_image(source, oci.from_folder(kind, _aside(source), "", name), name)
        names = source.tree.names("/")
        if not image.is_root(names):
            shown = ", ".join(map(image.shown, names[:4])) + (", ..." if names[4:] else "")
            raise BollardError(
                f"{name}: is not the archive of a root filesystem; in it: {shown or 'nothing'}",
                "name an image, an archive of docker or OCI, or a tar archive of a container's /",
            )
    else:
        opened = image.open_image(path, os.uname().machine)
        try:
            _check_signers(source, opened, name)
            if opened.oci:
                return _oci_sif(source, opened.oci, opened, name)
            if opened.kind == image.DIRECTORY:
                _copy_directory(opened.fd, source.tree, name)
            else:
                _unsquash(opened, source.tree, name)
        finally:
            opened.close()
    image_files.base(source.tree, overwrite=False)
    return {}


def _oci_sif(source: Source, contents: oci_sif.Contents, opened: image.Image, name: str) -> dict[str, bytes]:
    """Fill the tree from an OCI-SIF image with one layer."""
    if len(contents.layers) > 1 or contents.writable:
        layers = len(contents.layers) + (contents.writable is not None)
        raise BollardError(
            f"{name}: is an OCI-SIF image with {layers} layers, and only one layer can be converted",
            "run it as it is, or build from docker://NAME",
        )
    _unsquash(opened, source.tree, name)
    return _configured(source, contents.config)


def _aside(source: Source) -> str:
    """Move the content of the tree to a directory in `scratch`; return its path."""
    folder = f"{source.scratch}/archive"
    os.mkdir(folder)
    for name in source.tree.names("/"):
        os.rename(f"{source.tree.path}/{name}", f"{folder}/{name}")
    return folder


def _copy_directory(fd: int, tree: Tree, name: str) -> None:
    """Copy the content of a sandbox into the tree; hard links, times and modes are kept."""
    argv = ["cp", "-a", "--reflink=auto", "--", f"/proc/self/fd/{fd}/.", f"{tree.path}/"]
    _run(argv, "cp", (fd,), f"{name}: cannot be copied", tree.path, "check that you can read all of it")


def _unsquash(opened: image.Image, tree: Tree, name: str) -> None:
    argv = ["unsquashfs", "-no-progress", "-force", "-dest", tree.path, "-offset", str(opened.offset)]
    doing, hint = f"{name}: cannot be unpacked", "is it damaged? copy or build it again"
    _run([*argv, f"/proc/self/fd/{opened.fd}"], "unsquashfs", (opened.fd,), doing, tree.path, hint)


def _oci(source: Source, agent: str) -> dict[str, bytes]:
    name = source.key("from")
    folder = f"{source.scratch}/oci"
    layers = source.fetched.layers
    if layers is None:
        os.mkdir(folder)
        path = name if name.startswith("/") else os.path.join(source.cwd, name)
        layers = oci.fetch(agent, path, folder, source.fetched.arch)
    found = _container_image(source, layers, name)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _container_image(source: Source, layers: oci.Layers, name: str) -> dict[str, bytes]:
    """Unpack the layers into the tree, and turn the configuration into scripts and labels."""
    source.say(f"unpacking {len(layers.paths)} layers")
    oci.unpack(layers, source.tree, name)
    return _configured(source, layers.config)


def _configured(source: Source, config: dict[str, Any]) -> dict[str, bytes]:
    """Write the scripts and labels of an image's configuration into the tree."""
    image_files.base(source.tree, overwrite=True)
    for file, text in oci_config.scripts(config).items():
        source.tree.write(f"/.singularity.d/{file}", text.encode("utf-8", "surrogateescape"), 0o755)
    labels = json.dumps(oci_config.labels(config), indent="\t", sort_keys=True)
    source.tree.write("/.singularity.d/labels.json", labels.encode())
    return {"oci-config.json": json.dumps(config, separators=(",", ":")).encode()}


def _fetched_image(source: Source) -> dict[str, bytes]:
    """Fill the tree from the fetched SIF file of oras:// or library://."""
    return _image_at(source, source.fetched.path, source.key("from"))


def _debootstrap(source: Source) -> None:
    suite = source.key("osversion")
    if not _SUITE.fullmatch(suite):
        raise BollardError(f"OSVersion: {suite!r} is no release of Debian or Ubuntu", "write a name such as bookworm")
    mirror = source.header.get("mirrorurl", "") or _host_mirror(suite)
    include = ",".join(["apt", *_packages(source, "include", os.environ.get("INCLUDE", ""))])
    arch = sif.arch_name(os.uname().machine)
    arch = _DEBIAN_ARCHES.get(arch, arch)
    target = source.tree.path
    if shutil.which("debootstrap", path=_path()):
        argv = ["debootstrap", "--variant=minbase", f"--include={include}", f"--arch={arch}", suite, target]
        name = "debootstrap"
    elif shutil.which("mmdebstrap", path=_path()):
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={include}", f"--arch={arch}"]
        argv += ["--skip=check/empty,chroot/mount/dev", suite, target]
        name = "mmdebstrap"
    else:
        raise BollardError("Bootstrap: debootstrap needs that program", "install the package debootstrap")
    argv += [mirror] if mirror else []
    source.say(f"{name} {suite}")
    os.mkdir(f"{target}/dev", 0o755)
    os.chmod(target, 0o755)
    log = f"{source.scratch}/debootstrap.log"
    with open(log, "wb") as file:

        def work() -> None:
            build_root.mount_devices(f"{target}/dev", links=name == "mmdebstrap")
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            env = {**os.environ, "PATH": _path(), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
            os.execvpe(argv[0], argv, env)

        status = build_root.in_namespaces(work)
    if status:
        details = f"{target}/debootstrap/debootstrap.log"
        log = details if os.path.exists(details) and os.path.getsize(details) else log
        raise BollardError(f"{name} {suite} failed: {_last_line(log)}", "check OSVersion, MirrorURL and the network")
    for left in source.tree.names("/dev"):
        source.tree.remove(f"/dev/{left}")
    source.tree.remove("/debootstrap")
    for left in source.tree.names("/var/cache/apt/archives"):
        if left.endswith(".deb"):
            source.tree.remove(f"/var/cache/apt/archives/{left}")
    image_files.base(source.tree, overwrite=True)


def _host_mirror(suite: str) -> str:
    """Return the mirror from which this machine's apt gets the suite; "" to use debootstrap's default."""
    try:
        done = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(CODENAME) $(SUITE) $(RELEASE) $(REPO_URI)"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""  # no apt on this machine: debootstrap knows a mirror itself
    first = ""
    for line in done.stdout.splitlines():
        words = line.split()
        if suite in words[:-1]:
            return words[-1]
        if not first and words and words[-1].rstrip("/").endswith("/debian"):
            first = words[-1]
    return first


def _yum(source: Source) -> None:
    program = next((name for name in ("dnf", "yum") if shutil.which(name, path=_path())), "")
    if not program:
        raise BollardError(
            f"Bootstrap: {source.header['bootstrap']} needs the program dnf or yum", "install one, or use docker"
        )
    version = source.header.get("osversion", "")
    urls = [source.key("mirrorurl"), source.header.get("updateurl", "")]
    if any("%{osversion}" in url.lower() for url in urls) and not version:
        source.key("osversion")
    text = f"[main]\ncachedir={source.scratch}/cache\nkeepcache=0\nlogfile=/dev/null\n"
    text += "obsoletes=1\ngpgcheck=0\nplugins=1\nreposdir=/nonexistent\n"
    for name, url in zip(("base", "updates"), urls):
        if url:
            url = re.sub(r"%\{OSVERSION\}", version, url, flags=re.IGNORECASE)
            text += f"\n[{name}]\nname={name}\nbaseurl={url}\nenabled=1\ngpgcheck=0\n"
    path = f"{source.scratch}/yum.conf"
    with open(path, "w", encoding="utf-8") as config:
        config.write(text)
    packages = _packages(source, "include", os.environ.get("INCLUDE", "")) or ["coreutils", "bash"]
    argv = [program, f"--config={path}", f"--installroot={source.tree.path}", "-y", "--nogpgcheck"]
    argv += [f"--releasever={version}"] if version else []
    source.say(f"{program} install {' '.join(packages)}")
    os.mkdir(f"{source.tree.path}/dev", 0o755)
    log = f"{source.scratch}/yum.log"
    with open(log, "wb") as file:

        def work() -> None:
            build_root.mount_devices(f"{source.tree.path}/dev")
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.execvpe(program, [*argv, "install", *packages], {**os.environ, "PATH": _path()})

        status = build_root.in_namespaces(work)
    if status:
        raise BollardError(f"{program} failed: {_last_line(log)}", "check MirrorURL, OSVersion and the network")
    image_files.base(source.tree, overwrite=True)


def _packages(source: Source, key: str, more: str) -> list[str]:
    """Return the package names of a header key and of `more`; a word that could be an option is refused."""
    words = (source.header.get(key, "") + " " + more).replace(",", " ").split()
    for word in words:
        if not _PACKAGES.fullmatch(word):
            raise BollardError(f"Include: {word!r} is no name of a package", "write names with spaces between them")
    return words


def _path() -> str:
    """Return PATH with the directories of the administrator's programs added."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


def _run(argv: list[str], name: str, fds: tuple[int, ...], doing: str, place: str, hint: str) -> None:
    """Run a program of the host that writes into `place`; `doing` and `hint` are passed to `causes.of_program`."""
    env = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, pass_fds=fds,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise BollardError(f"{name}: no such program", f"install the package that has {name}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")
        raise causes.of_program(name, done.returncode, said, doing, place, hint)


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


_AGENTS: dict[str, Callable[[Source], dict[str, bytes] | None]] = {
    "localimage": _localimage,
    "scratch": _scratch,
    "debootstrap": _debootstrap,
    "yum": _yum,
    "dnf": _yum,
    "oras": _fetched_image,
    "library": _fetched_image,
}
