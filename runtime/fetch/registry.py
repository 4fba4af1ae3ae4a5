# SPDX-License-Identifier: BSD-3-Clause
"""Registries and Docker's daemon, through skopeo: read manifests, copy images from and to them, list and delete tags.

skopeo handles mirrors, certificates and proxies as docker and podman do. It asks again where a registry says 429. The
first of these logins that exists is used:

    BOLLARD_DOCKER_USERNAME and _PASSWORD, also with APPTAINER_, SINGULARITY_ or no prefix; --docker-login
    --authfile FILE
    docker-config.json in APPTAINER_CONFIGDIR or ~/.apptainer, if it has a login for that registry
    docker's config.json, if a credential helper keeps the login
    skopeo's own files

A password is passed in a file in memory, never as an argument: every user of the machine can read arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from errno import EDQUOT, ENOSPC, EROFS
from typing import NamedTuple

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import logins, oci, reference, web
from bollard.runtime.fetch import skopeo_policy as policies
from bollard.runtime.fetch.logins import Login
from bollard.runtime.fetch.reference import Reference
from bollard.runtime.fetch.skopeo_policy import Policy
from bollard.runtime.system import linux, processes

_MAX_MANIFEST = 8 << 20
_IN_MEMORY = "=/proc/self/fd/"
_WATCH = 0.5  # seconds between two looks at skopeo
_SAYS = re.compile(r'msg="((?:[^"\\]|\\.)*)"')  # skopeo's log line

_STATUS = re.compile(r"\b([45]\d\d) \(([a-z ]+)\)")  # "500 (Internal Server Error)"

_MISSING = (
    "manifest unknown", "name unknown", "manifest_unknown", "name_unknown", "not found", "no such image",
    "not known to registry", "image may not exist",
)  # fmt: skip
_BUSY = ("toomanyrequests", "too many requests")
_DENIED = ("unsupported", "method not allowed", "denied:", "403 forbidden", "403 (forbidden)", "statuscode: 403")
_REFUSED = (
    "unauthorized", "authentication required", "access denied", "access to the resource is denied", "401 unauthorized",
    "401 (unauthorized)", "invalid username/password",
)  # fmt: skip
_AWAY = (
    "connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
    "context deadline exceeded", "temporary failure in name resolution", "server misbehaving",
)  # fmt: skip


class Access(NamedTuple):
    """How to access a registry.

    authfile: the path of a file with logins; "" for none.
    user, password: a login; "" for none.
    insecure: allow plain HTTP and certificates that are not trusted.
    daemon: the address of Docker's daemon.
    """

    authfile: str = ""
    user: str = ""
    password: str = ""
    insecure: bool = False
    daemon: str = ""  # its address, "" for the local one


def manifest(name: Reference, access: Access) -> bytes:
    """Return the manifest, or the index of manifests, as the registry sends it. Its digest is that of these bytes.

    Raises:
        BollardError: skopeo is missing or fails, or the manifest has over 8 MiB.
    """
    raw = _run(["inspect", "--raw"], [_address(name)], name, access, "", None)
    if len(raw) > _MAX_MANIFEST:
        raise BollardError(f"{name.uri}: its manifest has over {_MAX_MANIFEST} bytes", "name another image")
    return raw


def copy(
    name: Reference,
    digest: str,
    blobs: str,
    scratch: str,
    access: Access,
    policy: Policy,
    watch: Callable[[], None] | None = None,
) -> None:
    """Fetch the missing blobs of an image into the directory `blobs`/sha256.

    name: the reference of the image.
    digest: the digest of its manifest, "sha256:HEX".
    blobs: the directory for the blobs.
    scratch: an empty directory on the same filesystem. skopeo writes and checks each blob there before the rename.
    access: how to access the registry.
    policy: the policy that skopeo enforces.
    watch: called again and again meanwhile.

    Raises:
        BollardError: the policy refuses the image, or skopeo is missing or fails.
    """
    # Signatures are verified by the policy. A layout cannot hold them: skopeo would refuse to copy them there.
    argv = ["copy", "--quiet", "--remove-signatures", "--dest-oci-accept-uncompressed-layers"]
    argv += ["--dest-shared-blob-dir", blobs]
    if name.scheme in ("docker", "oras"):
        # By the digest and not by the tag, which may name another image by now. skopeo refuses both together.
        name = Reference(name.uri, name.scheme, f"{reference.repository(name.name)}@{digest}")
    with policies.as_file(policy) as path:
        argv = [f"--policy={path}", *argv]
        _run(argv, [_address(name), "oci:layout:image"], name, access, "src-", scratch, policy, watch=watch)


def push(name: Reference, layout: str, access: Access) -> None:
    """Copy the image of an OCI layout into a registry, and ask for its manifest: the registry must have kept it.

    name: the reference in the registry, docker:// or oras://.
    layout: the directory of the layout, which has one image, tagged "image".
    access: how to access the registry.

    Raises:
        BollardError: skopeo is missing or fails, or the registry refuses the image.
    """
    # The host's policy is about images from registries. This one comes from a file of the user's.
    with policies.as_file(policies.PERMISSIVE) as path:
        argv = [f"--policy={path}", "copy", "--quiet"]
        _run(argv, ["oci:.:image", _address(name)], name, access, "dest-", layout, writes=True)
    if _config_of(manifest(name, access)) != _config_of(_own_manifest(layout)):
        raise BollardError(f"{name.uri}: the registry has not kept what was pushed", "ask who runs it; push it again")


def _own_manifest(layout: str) -> bytes:
    with open(f"{layout}/index.json", "rb") as file:
        digest = json.load(file)["manifests"][0]["digest"]
    with open(f"{layout}/blobs/{digest.replace(':', '/')}", "rb") as file:
        return file.read()


def _config_of(manifest: bytes) -> str:
    """Return the digest of the configuration, which stays when skopeo compresses layers; "" for no manifest."""
    try:
        return str(json.loads(manifest)["config"]["digest"])
    except (ValueError, KeyError, TypeError):
        return ""  # no manifest: it equals no other one, and the push is said to have failed


def push_archive(source: Reference, name: Reference, access: Access) -> None:
    """Copy the image of an archive or of an OCI layout into a registry, as it is, if the host's policy accepts it.

    source: the reference of the archive: oci:, oci-archive:, docker-archive:.
    name: the reference in the registry.
    access: how to access the registry.

    Raises:
        BollardError: as `push`, or the policy refuses the image.
    """
    path, tag = oci.split(source.scheme, source.name)
    folder, base = os.path.split(os.path.abspath(path))
    if ":" in base:
        raise BollardError(f"{source.uri}: skopeo takes no colon in a file name", "rename it")
    policy = policies.of_host(source._replace(scheme="docker-daemon"), "", os.environ)
    with policies.as_file(policy) as file:
        argv = [f"--policy={file}", "copy", "--quiet", "--all"]
        words = [f"{source.scheme}:{base}{':' + tag if tag else ''}", _address(name)]
        _run(argv, words, name, access, "dest-", folder, policy, writes=True)


def tags(name: Reference, access: Access) -> list[str]:
    """Return the tags of a repository, as the registry sorts them. Raises BollardError as `manifest`."""
    try:
        found = json.loads(_run(["list-tags"], [f"docker://{reference.repository(name.name)}"], name, access, "", None))
        return [str(tag) for tag in found.get("Tags") or []]
    except (ValueError, AttributeError):
        raise BollardError(f"{name.uri}: the registry's list of tags is not one", "try again") from None


def tag(name: Reference, other: str, access: Access) -> None:
    """Give an image of a registry another tag; its blobs stay where they are.

    name: the image.
    other: the new tag.
    access: how to access the registry.

    Raises:
        BollardError: there is no such image, or the registry refuses the tag.
    """
    target = f"docker://{reference.repository(name.name)}:{other}"
    with policies.as_file(policies.PERMISSIVE) as path:
        # Signatures are about the digest, which stays: where they lie cannot always be written to.
        argv = [f"--policy={path}", "copy", "--quiet", "--all", "--remove-signatures"]
        _run(argv, [_address(name), target], name, access, "src- dest-", None, writes=True)


def delete(name: Reference, access: Access) -> None:
    """Delete the image that a name means from its registry, and with it all tags of the same image.

    Raises:
        BollardError: there is no such image, or the registry does not allow it.
    """
    _run(["delete"], [_address(name)], name, access, "", None, writes=True)


def verify_login(registry: str, login: Login, access: Access) -> None:
    """Ask a registry whether the login is valid.

    registry: host of the registry, with its port.
    login: user name and password.
    access: whether plain HTTP is allowed.

    Raises:
        BollardError: the login is not valid, or skopeo is missing or fails.
    """
    name = Reference(registry, "docker", f"{registry}/login")
    with tempfile.TemporaryDirectory(prefix="bollard-login-") as place:  # 0700
        options = [f"--authfile={place}/auth.json", f"--username={login.user}", "--password-stdin"]
        options += ["--tls-verify=false"] if access.insecure else []
        secret = login.password.encode("utf-8", "surrogateescape")
        done = _finished(["skopeo", "login", *options, registry], None, name, secret)
    if done.returncode:
        said = _last_line(done.stderr)
        raise explained(name, said, True, writes=True)


def login(name: Reference, access: Access) -> Login | None:
    """Return the login that skopeo would use for a registry; None for none, or for an identity token.

    Raises:
        BollardError: a file with logins, or a credential helper, cannot be used.
    """
    host = reference.registry(name.name) or logins.HUB
    with _logins(name, access) as path:
        places = [path] if path else [*_own_files(os.environ), logins.file(os.environ)]
        found = (logins.of(place, host) for place in places if os.path.exists(place))
        return next((one for one in found if one and not one.token), None)


def _own_files(environ: Mapping[str, str]) -> list[str]:
    """Return the paths of skopeo's own files with logins, containers-auth.json(5)."""
    given = environ.get("REGISTRY_AUTH_FILE")
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    return [given] if given else [f"{runtime}/containers/auth.json", f"{runtime}/auth.json"]


def full_repository(name: str) -> str:
    """Return an image's name without tag and digest, and always with its registry: one form for each repository."""
    path = reference.repository(name)
    host = reference.registry(path)
    path = path[len(host) + 1 :] if host else path
    if host and logins.key(host) != logins.key(logins.HUB):
        return f"{host}/{path}"
    return f"{logins.HUB}/{path if '/' in path else f'library/{path}'}"


def _address(name: Reference) -> str:
    if name.scheme == "docker-daemon":
        return f"docker-daemon:{name.name}"
    tagged = reference.repository(name.name) + name.name[name.name.find("@") :] if "@" in name.name else name.name
    return f"docker://{tagged}"


def _run(
    verb: list[str],
    words: list[str],
    name: Reference,
    access: Access,
    prefixes: str,
    cwd: str | None,
    policy: Policy | None = None,
    *,
    writes: bool = False,
    watch: Callable[[], None] | None = None,
) -> bytes:
    options = []
    with _logins(name, access) as authfile:
        for prefix in prefixes.split(" "):
            if access.insecure and name.scheme != "docker-daemon":
                options.append(f"--{prefix}tls-verify=false")
            if access.daemon and name.scheme == "docker-daemon":
                options.append(f"--{prefix}daemon-host={access.daemon}")
            if authfile:
                options.append(f"--{prefix}authfile={os.path.abspath(authfile)}")
        # The path of a layout is relative: skopeo would split an absolute path at a colon.
        done = _finished(["skopeo", *verb, *options, *words], cwd, name, watch=watch)
    if done.returncode:
        said = _last_line(done.stderr)
        for number in (ENOSPC, EDQUOT, EROFS):
            if cwd and os.strerror(number).lower() in said.lower():
                raise causes.of(OSError(number, said), f"{name.uri}: cannot be kept", cwd)
        if said.startswith("fatal error: ") and causes.told(done.stderr.decode("utf-8", "replace")):
            raise causes.of_program("skopeo", done.returncode, done.stderr.decode("utf-8", "replace"), name.uri)
        raise policy and policies.refused(policy, name, said) or explained(name, said, bool(authfile), writes=writes)
    return done.stdout


def _finished(
    argv: list[str],
    cwd: str | None,
    name: Reference,
    given: bytes | None = None,
    watch: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run skopeo; end it when it neither reads nor writes for a time, because it waits for a silent server for ever."""
    if not shutil.which("skopeo"):
        raise BollardError(
            f"{name.uri}: needs the program skopeo", "install the package skopeo, or fetch the image elsewhere"
        )
    # A pause that a server asks for with 429 is silent too; skopeo waits a minute at most.
    parent = os.getpid()
    patience = web.timeout() + 30 if not os.environ.get(web.TIMEOUT_FORM) else web.timeout()
    with subprocess.Popen(
        argv,
        cwd=cwd,
        # The files in memory that its options name.
        pass_fds=[int(word.rpartition("/")[2]) for word in argv if _IN_MEMORY in word],
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: _prepare(parent),
    ) as process:
        try:
            moved, at = "", time.monotonic()
            while True:
                try:
                    out, err = process.communicate(given, _WATCH)
                    return subprocess.CompletedProcess(argv, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    given = None
                if watch:
                    watch()
                now = _traffic(process.pid)
                if now != moved:
                    moved, at = now, time.monotonic()
                if now and time.monotonic() - at > patience:
                    server = reference.registry(name.name) or "the default registry"
                    raise BollardError(
                        f"{name.uri}: {server} has sent nothing for {patience:.0f} s",
                        f"try again, or set {web.TIMEOUT_FORM} to more seconds",
                    )
        except BaseException:
            process.kill()
            raise


def _traffic(pid: int) -> str:
    """Return how many bytes a process has read and written; "" where the kernel does not count them."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return file.read(1 << 12).partition(b"syscr")[0].decode()
    except OSError:
        return ""  # a kernel without the accounting, or the process has ended: there is nothing to watch


def _prepare(parent: int) -> None:
    """Let this process end with its parent: who is killed leaves nothing that goes on writing into the cache.

    It leaves no core, as its memory holds a password.
    """
    linux.die_with_parent(signal.SIGKILL, parent)
    processes.leave_no_core()


def _last_line(text: bytes) -> str:
    """Return skopeo's message: the last line, or what its log line says; of a crash, the line that says why."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    crash = next((line for line in lines if line.startswith(("fatal error: ", "panic: "))), "")  # traces follow in Go
    if crash:
        return crash
    match = _SAYS.search(lines[-1]) if lines else None
    return match[1].replace('\\"', '"') if match else (lines or ["failed"])[-1]


@contextlib.contextmanager
def _logins(name: Reference, access: Access) -> Iterator[str]:
    """Yield the path of the file with logins for skopeo; "" to use skopeo's own files."""
    registry = reference.registry(name.name)
    with contextlib.ExitStack() as stack:
        if name.scheme == "docker-daemon":
            yield ""
        elif access.user:
            if not registry:
                raise BollardError(
                    f"{name.uri}: a login needs the registry's name", "write HOST/NAME, or `bollard registry login`"
                )
            yield stack.enter_context(_as_file(registry, Login(access.user, access.password)))
        elif access.authfile:
            if not os.access(access.authfile, os.R_OK):
                raise BollardError(f"--authfile {access.authfile}: cannot be read", "check the path")
            yield stack.enter_context(_resolved(access.authfile, registry))
        else:
            own = os.path.join(logins.directory(os.environ), "docker-config.json")
            if logins.knows(own, registry):
                yield stack.enter_context(_resolved(own, registry))
                return
            # Of docker's file skopeo uses the logins and `credHelpers`, but not `credsStore`.
            path = logins.file(os.environ)
            helped = path != own and logins.knows(path, registry) and logins.by_helper(path, registry or logins.HUB)
            yield stack.enter_context(_resolved(path, registry)) if helped else ""


@contextlib.contextmanager
def _resolved(path: str, registry: str) -> Iterator[str]:
    """Yield a file that skopeo can use: `path` itself, or one with the login that a credential helper has."""
    registry = registry or logins.HUB
    if not logins.by_helper(path, registry):
        yield path
        return
    login = logins.of(path, registry)
    with _as_file(registry, login) if login else contextlib.nullcontext("") as made:
        yield made


@contextlib.contextmanager
def _as_file(registry: str, login: Login) -> Iterator[str]:
    data = json.dumps({"auths": {logins.key(registry): login.entry()}}).encode()
    with policies.in_memory("bollard-login", data) as path:
        yield path


def _transfer(uri: str, host: str, said: str) -> BollardError | None:
    """Return the error for a message of skopeo about a transfer that began; None for another message.

    uri: the image, for the message.
    host: the registry.
    said: skopeo's message.
    """
    text = said.lower()
    status = _STATUS.search(text)
    if "digest did not match" in text:
        return BollardError(f"{uri}: damaged: {host} sent a layer that does not match its digest", "try again")
    if "unexpected eof" in text or "connection reset" in text:
        return BollardError(f"{uri}: {host} has ended the connection half-way", "try again")
    if status and status[1].startswith("5"):
        return BollardError(f"{uri}: {host} answers {status[1]} {status[2]}", "try again later")
    if "unsupported protocol scheme" in text:
        return BollardError(f"{uri}: {host} redirects to what is no web address", "ask who runs the registry")
    if status and status[1] == "404" and "reading blob" in text:
        return BollardError(f"{uri}: {host} lacks a layer of it", "push it again, or ask who runs the registry")
    return None


def explained(name: Reference, said: str, tried: bool = False, *, writes: bool = False) -> BollardError:
    """Return the error for a message of skopeo, with a hint.

    name: the reference of the image.
    said: skopeo's message.
    tried: a login was used.
    writes: the registry was to be changed.
    """
    server = reference.registry(name.name)
    host = server or "the default registry"
    text = said.lower()

    def has(*words: str) -> bool:
        return any(word in text for word in words)

    if name.scheme == "docker-daemon":
        if has("no such image", "not found"):
            return BollardError(f"{name.uri}: no such image", "see `docker images`")
        return BollardError(f"{name.uri}: {said}", "does docker run there, and may you use it?")
    if has("server gave http response to https client"):
        return BollardError(f"{name.uri}: {host} speaks plain HTTP", "add --no-https to allow that")
    if has("x509", "certificate", "tls:"):
        reason = said.rpartition("x509: ")[2] or said
        return BollardError(
            f"{name.uri}: {host} is not trusted: {reason}",
            f"put its authority's certificate into /etc/containers/certs.d/{server or 'HOST'}, or add --no-https",
        )
    if has(*_BUSY):
        return BollardError(f"{name.uri}: {host} takes no more requests (429)", "try again in a few minutes")
    if has(*_AWAY):
        reason = next(word for word in _AWAY if word in text)
        return BollardError(f"{name.uri}: {host} cannot be reached: {reason}", "check its name and the network")
    broken = _transfer(name.uri, host, said)
    if broken:
        return broken
    if has(*_REFUSED):
        if tried:
            return BollardError(f"{name.uri}: {host} refuses your login", "check name and password, and what you may")
        if writes:
            return BollardError(f"{name.uri}: {host} wants a login", f"`bollard registry login docker://{host}`")
        return BollardError(
            f"{name.uri}: no such image, or one that needs a login",
            f"check the name; `bollard registry login docker://{server or logins.HUB}`, "
            "or set BOLLARD_DOCKER_USERNAME and BOLLARD_DOCKER_PASSWORD",
        )
    if has(*_DENIED):
        return BollardError(f"{name.uri}: {host} does not allow that: {said}", "ask who runs the registry")
    if has(*_MISSING):
        return BollardError(f"{name.uri}: no such image", "check its name and its tag")
    return BollardError(f"{name.uri}: skopeo: {said}", "check the name, the login and the network")
