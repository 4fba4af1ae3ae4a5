# SPDX-License-Identifier: BSD-3-Clause
"""Images of a registry: pulled, started, built from; what the cache keeps of them. With Debian's docker-registry and
skopeo, on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from building import USER, Builder
from fetcher import Fetcher, words_of
from servers import Registry

SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"


@pytest.fixture(scope="session")
def registry(builder: Builder, program: str, layouts: dict[str, Path]) -> Iterator[Registry]:
    with servers.registry(program, builder.work.parent / "registry") as found:
        found.push(layouts["one"], "tiny/one:v1")
        found.push(layouts["one"], "tiny/one:latest")
        found.push(layouts["two"], "tiny/two:v1")
        yield found


@pytest.fixture
def short_lived(builder: Builder, program: str, layouts: dict[str, Path]) -> Iterator[Registry]:
    """A registry that a test may stop."""
    with servers.registry(program, builder.work.parent / f"registry-{time.monotonic_ns()}") as found:
        found.push(layouts["one"], "tiny/one:v1")
        yield found


def digest_of(layout: Path) -> str:
    found: str = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    return found


def test_pull(fetcher: Fetcher, registry: Registry) -> None:
    assert fetcher.done("pull", "--no-https", f"docker://{registry.host}/tiny/one:v1") == ""
    assert words_of(fetcher.path / "one_v1.sif") == "one"
    assert (fetcher.path / "one_v1.sif").stat().st_mode & 0o777 == 0o755
    assert len(fetcher.kept("oci-tmp")) == 1
    assert fetcher.cache.stat().st_mode & 0o777 == 0o700
    assert "exists already" in fetcher.refused("pull", "--no-https", f"docker://{registry.host}/tiny/one:v1")
    fetcher.done("pull", "-F", "--nohttps", f"docker://{registry.host}/tiny/one:v1")
    fetcher.done("pull", "named.sif", f"docker://{registry.host}/tiny/one", APPTAINER_NOHTTPS="1")
    fetcher.done("pull", "--dir", fetcher.path / "cache", "--no-https", f"docker://{registry.host}/tiny/one")
    assert words_of(fetcher.path / "named.sif") == words_of(fetcher.path / "cache/one_latest.sif") == "one"
    assert len(fetcher.kept("oci-tmp")) == 1


def test_what_is_pulled_has_a_deffile_and_a_runscript(fetcher: Fetcher, registry: Registry) -> None:
    fetcher.done("pull", "--no-https", "a.sif", f"docker://{registry.host}/tiny/one:v1")
    assert fetcher.done("inspect", "--deffile", "a.sif").startswith("bootstrap: docker\n")
    assert "'/bin/echo' 'entry'" in fetcher.done(
        "inspect", "--runscript", "--no-https", f"docker://{registry.host}/tiny/one:v1"
    )


def test_a_name_with_a_digest_needs_no_registry_twice(
    fetcher: Fetcher, short_lived: Registry, layouts: dict[str, Path]
) -> None:
    uri = f"docker://{short_lived.host}/tiny/one:v1@{digest_of(layouts['one'])}"
    fetcher.done("pull", "--no-https", "a.sif", uri)
    short_lived.process.kill()
    short_lived.process.wait()
    fetcher.done("pull", "b.sif", uri)
    assert (fetcher.path / "a.sif").read_bytes() == (fetcher.path / "b.sif").read_bytes()
    for path in fetcher.kept("oci-tmp"):
        path.unlink()
    fetcher.done("pull", "c.sif", uri)  # of layers that are here
    assert words_of(fetcher.path / "c.sif") == "one"
    tagged = f"docker://{short_lived.host}/tiny/one:v1"
    assert f"{short_lived.host} cannot be reached: connection refused" in fetcher.refused("pull", "d.sif", tagged)


def test_an_index_of_images(fetcher: Fetcher, registry: Registry, layouts: dict[str, Path]) -> None:
    """Of several architectures this machine's is taken."""
    kind, here = "application/vnd.oci.image.index.v1+json", digest_of(layouts["one"])
    raw = (layouts["one"] / "blobs" / here.replace(":", "/")).read_bytes()
    other = {"mediaType": servers.OCI_MANIFEST, "digest": here, "size": len(raw)}
    entries = [
        {**other, "platform": {"architecture": "riscv0", "os": "linux"}},
        {**other, "platform": {"architecture": servers.ARCH, "os": "linux"}},
    ]
    document = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    registry._request("PUT", "/v2/tiny/one/manifests/many", document, kind)
    fetcher.done("pull", "--no-https", f"docker://{registry.host}/tiny/one:many")
    fetcher.done("pull", "--no-https", "a.sif", f"docker://{registry.host}/tiny/one@{servers.digest(document)}")
    assert words_of(fetcher.path / "one_many.sif") == words_of(fetcher.path / "a.sif") == "one"
    line = fetcher.refused("pull", "--no-https", "--arch=s390x", "b.sif", f"docker://{registry.host}/tiny/one:many")
    assert f"no image for s390x, only for {', '.join(sorted(('riscv0', servers.ARCH)))}" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--no-https", "docker://HOST/tiny/one:v9"), "docker://HOST/tiny/one:v9: no such image"),
        (("--no-https", "docker://HOST/tiny/nine"), "docker://HOST/tiny/nine: no such image"),
        (("docker://HOST/tiny/one:v1",), "HOST speaks plain HTTP; add --no-https to allow that"),
        (("--no-https", f"docker://HOST/tiny/one@sha256:{'0' * 64}"), "no such image"),
        (("docker://HOST/tiny/one@sha256:12",), "'sha256:12' is not a SHA-256 digest"),
        (("docker://",), "docker://: names no image"),
        (("docker://--help",), "is not the name of an image"),
        (("nonsense://x",), "nonsense images cannot be fetched; known are docker"),
        (("alpine",), "alpine: is not a URI; write docker://alpine"),
        (("/etc/passwd",), "/etc/passwd: is a file of this machine, there is nothing to fetch; use it as the image"),
        (("--dir", "", "docker://HOST/tiny/one:v1"), "--dir: its value is empty"),
        (("--arch", "amd64/v9", "docker://HOST/tiny/one:v1"), "architecture 'amd64/v9': has no such variant"),
        (
            ("--arch", "s390x", "--no-https", "docker://HOST/tiny/one:v1"),
            f"not for s390x; name another image, or --arch {servers.ARCH}",
        ),
    ],
)
def test_what_cannot_be_pulled(fetcher: Fetcher, registry: Registry, words: tuple[str, ...], line: str) -> None:
    found = fetcher.refused("pull", *(word.replace("HOST", registry.host) for word in words))
    assert line.replace("HOST", registry.host) in found


@pytest.fixture(scope="session")
def closed(builder: Builder, program: str, layouts: dict[str, Path]) -> Iterator[Registry]:
    """A registry that wants a login."""
    with servers.registry(program, builder.work.parent / "closed", login=True) as found:
        found.push(layouts["one"], "tiny/one:v1", f"--dest-creds={servers.USER}:{servers.PASSWORD}")
        yield found


class TestLogin:
    def logins(self, path: Path, host: str, password: str) -> Path:
        """A file as `skopeo login` writes it."""
        argv = ["skopeo", "login", "--tls-verify=false", f"--authfile={path}", "--username", servers.USER]
        if password == servers.PASSWORD:
            subprocess.run([*argv, "--password", password, host], stdout=subprocess.DEVNULL, check=True)
        path.chmod(0o644)
        return path

    def test_without_one(self, fetcher: Fetcher, closed: Registry) -> None:
        line = fetcher.refused("pull", "--no-https", f"docker://{closed.host}/tiny/one:v1")
        assert "no such image, or one that needs a login; check the name; `bollard registry login docker://" in line

    def test_from_variables(self, fetcher: Fetcher, closed: Registry) -> None:
        uri = f"docker://{closed.host}/tiny/one:v1"
        for number, prefix in enumerate(("BOLLARD_", "APPTAINER_", "SINGULARITY_", "")):
            env = {f"{prefix}DOCKER_USERNAME": servers.USER, f"{prefix}DOCKER_PASSWORD": servers.PASSWORD}
            fetcher.done("pull", "--no-https", f"{number}.sif", uri, **env)
        env = {"BOLLARD_DOCKER_USERNAME": servers.USER, "BOLLARD_DOCKER_PASSWORD": "wrong"}
        line = fetcher.refused("pull", "--no-https", "x.sif", uri, **env)
        assert f"{closed.host} refuses your login; check name and password" in line
        assert not list(Path("/tmp").glob("bollard-login-*"))

    def test_from_files(self, fetcher: Fetcher, closed: Registry) -> None:
        uri = f"docker://{closed.host}/tiny/one:v1"
        path = self.logins(fetcher.path / "logins.json", closed.host, servers.PASSWORD)
        fetcher.done("pull", "--no-https", f"--authfile={path}", "a.sif", uri)
        line = fetcher.refused("pull", "--no-https", "--authfile=nowhere", "b.sif", uri)
        assert line == "--authfile nowhere: cannot be read; check the path"
        (fetcher.path / ".apptainer").mkdir()
        shutil.copy(path, fetcher.path / ".apptainer/docker-config.json")
        fetcher.done("pull", "--no-https", "b.sif", uri)
        (fetcher.path / ".apptainer").rename(fetcher.path / "elsewhere")
        fetcher.done("pull", "--no-https", "c.sif", uri, APPTAINER_CONFIGDIR=str(fetcher.path / "elsewhere"))
        (fetcher.path / ".docker").mkdir()
        shutil.copy(path, fetcher.path / ".docker/config.json")
        fetcher.done("pull", "--no-https", "d.sif", uri)  # by skopeo itself

    def test_asked_for_without_a_terminal(self, fetcher: Fetcher, closed: Registry) -> None:
        line = fetcher.refused("pull", "--no-https", "--docker-login", f"docker://{closed.host}/tiny/one:v1")
        assert "needs a terminal" in line


def test_a_certificate_that_nobody_trusts(fetcher: Fetcher, program: str, builder: Builder) -> None:
    folder = builder.work.parent / "certificate"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}.key", "-out", f"{folder}.crt"]
    subprocess.run(argv, capture_output=True, check=True)
    with servers.registry(program, builder.work.parent / "tls", certificate=str(folder)) as found:
        line = fetcher.refused("pull", f"docker://{found.host}/tiny/one:v1")
        assert f"{found.host} is not trusted" in line
        assert f"/etc/containers/certs.d/{found.host}, or add --no-https" in line
        assert "no such image" in fetcher.refused("pull", "--no-https", f"docker://{found.host}/tiny/one:v1")


class TestStart:
    """exec, run and the rest with a URI."""

    def test_exec(self, fetcher: Fetcher, short_lived: Registry, layouts: dict[str, Path], installed: str) -> None:
        uri = f"docker://{short_lived.host}/tiny/one@{digest_of(layouts['one'])}"
        script = "cat /opt/words; echo; echo $BOLLARD_IMAGE $APPTAINER_NAME $COLOUR"
        digest = digest_of(layouts["one"]).partition(":")[2]
        said = f"one\n{uri} {digest} blue\n"
        assert fetcher.done("exec", "--no-https", uri, "sh", "-c", script, PYTHONPATH=installed) == said
        short_lived.process.kill()
        short_lived.process.wait()
        assert fetcher.done("exec", uri, "sh", "-c", script, PYTHONPATH=installed) == said
        assert fetcher.done("run", uri, PYTHONPATH=installed) == "entry default\n"
        assert fetcher.done("shell", uri, "-c", "echo in", PYTHONPATH=installed) == "in\n"
        assert fetcher.done("test", uri, PYTHONPATH=installed) == ""
        plan = json.loads(fetcher.done("plan", "--json", uri, PYTHONPATH=installed))
        assert (plan["spec"]["asked"], Path(plan["image"]["path"]).name) == (uri, digest)
        status, _, err = fetcher.run("exec", uri, "no-such-program", PYTHONPATH=installed)
        assert (status, err.count("\n")) == (255, 1)

    def test_without_a_cache(self, fetcher: Fetcher, registry: Registry, installed: str) -> None:
        uri = f"docker://{registry.host}/tiny/one:v1"
        words = ("--no-https", uri, "cat", "/opt/words")
        assert fetcher.done("exec", "--disable-cache", *words, PYTHONPATH=installed) == "one"
        assert fetcher.done("exec", *words, PYTHONPATH=installed, APPTAINER_DISABLE_CACHE="true") == "one"
        said = fetcher.done("inspect", "--disable-cache", "--no-https", "--deffile", uri)
        assert said.startswith("bootstrap: docker")
        assert not fetcher.cache.exists()

    def test_an_instance(self, fetcher: Fetcher, registry: Registry, installed: str) -> None:
        name = f"test{time.monotonic_ns()}"
        env = {"PYTHONPATH": installed, "BOLLARD_CONFIGDIR": str(fetcher.path / "config")}
        status, _, err = fetcher.run(
            "instance", "start", "--no-https", f"docker://{registry.host}/tiny/one:v1", name, **env
        )
        assert status == 0, err
        try:
            assert fetcher.done("exec", f"instance://{name}", "cat", "/opt/words", **env) == "one"
        finally:
            fetcher.run("instance", "stop", name, **env)

    def test_mistakes(self, fetcher: Fetcher, registry: Registry, installed: str) -> None:
        line = fetcher.refused("exec", "--no-https", f"docker://{registry.host}/tiny/one:v9", "true")
        assert "no such image" in line
        assert "docker://x: is not a file, and is not fetched here" in fetcher.refused("sif", "list", "docker://x")


class TestBuild:
    def test_from_a_registry(self, fetcher: Fetcher, registry: Registry) -> None:
        text = f"Bootstrap: docker\nFrom: one:v1\nRegistry: {registry.host}\nNamespace: tiny\n%post\n    echo > /made\n"
        (fetcher.path / "img.def").write_text(text)
        fetcher.done("build", "--no-https", "a.sif", "img.def")
        fetcher.done("build", "--no-https", "--disable-cache", "b.sif", f"docker://{registry.host}/tiny/two:v1")
        assert [words_of(fetcher.path / name) for name in ("a.sif", "b.sif")] == ["one", "two"]
        assert fetcher.kept("blob") and not fetcher.kept("oci-tmp")
        assert "no such image" in fetcher.refused("build", "c.sif", "--no-https", f"docker://{registry.host}/tiny/x")

    def test_from_an_artifact(self, fetcher: Fetcher, registry: Registry, sif_file: bytes) -> None:
        registry.put("sif/built", "v1", [servers.entry(sif_file, SIF_LAYER)], [sif_file])
        text = f"Bootstrap: oras\nFrom: {registry.host}/sif/built:v1\n%labels\n    Colour red\n"
        (fetcher.path / "img.def").write_text(text)
        fetcher.done("build", "--no-https", "a.sif", "img.def")
        assert words_of(fetcher.path / "a.sif") == "one"
        assert '"Colour": "red"' in fetcher.done("inspect", "--json", "a.sif")


def test_the_daemon_that_is_named_is_asked(fetcher: Fetcher) -> None:
    """Where nobody listens: another daemon's image is not taken for it."""
    address = f"127.0.0.1:{servers.free_port()}"
    words = ("pull", "a.sif", "docker-daemon:tiny/one:v1")
    lines = [
        fetcher.refused(*words, "--docker-host", f"tcp://{address}"),
        fetcher.refused(*words, APPTAINER_DOCKER_HOST=f"tcp://{address}"),
        fetcher.refused(*words, DOCKER_HOST=f"tcp://{address}"),
    ]
    assert all(address in line for line in lines), lines


@pytest.mark.parametrize("scheme", ["oci", "oci-archive", "docker-archive"])
def test_an_archive(fetcher: Fetcher, layouts: dict[str, Path], scheme: str, installed: str) -> None:
    layout = f"oci:{layouts['two']}:latest"
    target = f"{scheme}:{fetcher.path}/archive" + (":two:v1" if scheme == "docker-archive" else ":v1")
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", layout, target], check=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(fetcher.path)], check=True)
    fetcher.done("pull", f"{scheme}:archive")
    assert words_of(fetcher.path / "archive_latest.sif") == "two"
    for _ in range(2):
        assert fetcher.done("exec", target, "cat", "/opt/words", PYTHONPATH=installed) == "two"
    assert len(fetcher.kept("oci-tmp")) == 2  # with its tag, and without
    assert "no such file or directory" in fetcher.refused("exec", f"{scheme}:nothing", "true", PYTHONPATH=installed)


class TestArtifact:
    """oras://"""

    @pytest.mark.parametrize("kind", [SIF_LAYER, "appliciation/vnd.sylabs.sif.layer.tar"])
    def test_pull(self, fetcher: Fetcher, registry: Registry, sif_file: bytes, kind: str, installed: str) -> None:
        digest = registry.put("sif/one", "v1", [servers.entry(sif_file, kind)], [sif_file])
        fetcher.done("pull", "--no-https", f"oras://{registry.host}/sif/one:v1")
        assert (fetcher.path / "one_v1.sif").read_bytes() == sif_file
        assert [path.name for path in fetcher.kept("oras")] == [hashlib.sha256(sif_file).hexdigest()]
        uri = f"oras://{registry.host}/sif/one@{digest}"
        assert fetcher.done("exec", uri, "cat", "/opt/words", PYTHONPATH=installed) == "one"

    def test_what_is_none(self, fetcher: Fetcher, registry: Registry, sif_file: bytes) -> None:
        def refused(name: str, layers: list[dict[str, object]], data: bytes) -> str:
            registry.put(name, "v1", layers, [data])
            return fetcher.refused("pull", "--no-https", f"oras://{registry.host}/{name}:v1")

        one = servers.entry(sif_file, SIF_LAYER)
        assert "has 2 layers; a SIF file is a single one" in refused("sif/two", [one, one], sif_file)
        wrong = {**one, "mediaType": "text/plain"}
        assert "is not a SIF file, but text/plain" in refused("sif/text", [wrong], sif_file)
        wrong = {**one, "size": len(sif_file) + 1}
        assert f"{len(sif_file)} bytes came, {len(sif_file) + 1} expected" in refused("sif/size", [wrong], sif_file)
        text = b"no image at all"
        assert "not a SIF or squashfs image" in refused("sif/rubbish", [servers.entry(text, SIF_LAYER)], text)
        line = fetcher.refused("pull", "--no-https", f"oras://{registry.host}/tiny/one:v1")
        assert f"use docker://{registry.host}/tiny/one:v1" in line
        assert fetcher.kept("oras") == []


class TestCache:
    def test_list_and_clean(self, fetcher: Fetcher, registry: Registry, sif_file: bytes) -> None:
        assert fetcher.done("cache", "list").startswith("There are 0 container file(s) using 0.00 KiB and 0 oci blob")
        assert not fetcher.cache.exists()
        registry.put("sif/kept", "v1", [servers.entry(sif_file, SIF_LAYER)], [sif_file])
        fetcher.done("pull", "--no-https", "a.sif", f"docker://{registry.host}/tiny/one:v1")
        fetcher.done("pull", "--no-https", "b.sif", f"oras://{registry.host}/sif/kept:v1")
        lines = fetcher.done("cache", "list", "-v").splitlines()
        assert lines[0].split() == ["NAME", "DATE", "CREATED", "SIZE", "TYPE"]
        assert sorted({line.split()[-1] for line in lines[1:-3]}) == ["blob", "oci-tmp", "oras"]
        assert lines[-2].startswith("There are 2 container file(s) using")
        found = json.loads(fetcher.done("cache", "list", "--json", "--type=oras"))
        assert [(item["kind"], item["size"]) for item in found] == [("oras", len(sif_file))]
        assert "there is no terminal; add --force" in fetcher.refused("cache", "clean")
        assert "no such type; known are" in fetcher.refused("cache", "clean", "--type=nonsense", "-f")
        assert "oras" in fetcher.done("cache", "clean", "--dry-run", "--type", "oras")
        fetcher.done("cache", "clean", "--force", "--days", "1")
        assert len(fetcher.kept("oras")) == 1
        os.utime(fetcher.kept("oras")[0], (1, 1))
        fetcher.done("cache", "clean", "-f", "-D", "1", "-T", "library,oras")
        assert fetcher.kept("oras") == [] and len(fetcher.kept("oci-tmp")) == 1
        fetcher.done("cache", "clean", "--force")
        assert fetcher.kept("oci-tmp") == fetcher.kept("blob") == []

    def test_a_damaged_blob_is_fetched_again(self, fetcher: Fetcher, registry: Registry) -> None:
        uri = f"docker://{registry.host}/tiny/one:v1"
        fetcher.done("pull", "--no-https", "a.sif", uri)
        good = {path: path.read_bytes() for path in fetcher.kept("blob")}
        for path in fetcher.kept("oci-tmp"):
            path.unlink()
        for path, data in good.items():
            path.write_bytes(bytes(len(data)))
        fetcher.done("pull", "--no-https", "b.sif", uri)
        assert words_of(fetcher.path / "b.sif") == "one"
        assert {path: path.read_bytes() for path in fetcher.kept("blob")} == good

    def test_a_damaged_image_is_made_again(self, fetcher: Fetcher, registry: Registry, installed: str) -> None:
        uri = f"docker://{registry.host}/tiny/one:v1"
        fetcher.done("pull", "--no-https", "a.sif", uri)
        (kept,) = fetcher.kept("oci-tmp")
        data = bytearray(kept.read_bytes())
        kept.write_bytes(data[: len(data) // 2])
        assert fetcher.done("exec", "--no-https", uri, "cat", "/opt/words", PYTHONPATH=installed) == "one"
        data = bytearray(kept.read_bytes())
        data[-3000] ^= 1  # which its header does not tell
        kept.write_bytes(data)
        fetcher.done("pull", "--no-https", "b.sif", uri)
        assert words_of(fetcher.path / "b.sif") == "one"

    def test_a_directory_that_others_may_write_into(self, fetcher: Fetcher, registry: Registry) -> None:
        words = ("pull", "--no-https", f"docker://{registry.host}/tiny/one:v1")
        fetcher.done("cache", "list")
        fetcher.cache.mkdir(parents=True)
        fetcher.cache.chmod(0o777)
        if os.geteuid() == 0:
            os.chown(fetcher.cache, USER, USER)
        assert "others may write into it" in fetcher.refused(*words)
        fetcher.cache.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(fetcher.cache, 0, 0)
            assert "belongs to another user" in fetcher.refused(*words)
            os.chown(fetcher.cache, USER, USER)
        (fetcher.cache / "oci-tmp").symlink_to("/tmp")
        assert "oci-tmp: is not a directory" in fetcher.refused(*words)

    def test_two_at_once(self, fetcher: Fetcher, registry: Registry) -> None:
        """Of one image, and of another that shares a layer with it."""
        names = ("tiny/one:v1", "tiny/one:v1", "tiny/two:v1", "tiny/one:latest")
        running = [
            fetcher.start("pull", "--no-https", f"{number}.sif", f"docker://{registry.host}/{name}")
            for number, name in enumerate(names)
        ]
        for process in running:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
        fetcher.check()
        assert [words_of(fetcher.path / f"{number}.sif") for number in range(4)] == ["one", "one", "two", "one"]
        assert len(fetcher.kept("oci-tmp")) == 2
        for path in fetcher.kept("blob"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_a_sandbox_of_a_pull(fetcher: Fetcher, registry: Registry) -> None:
    fetcher.done("pull", "--no-https", "--sandbox", "box", f"docker://{registry.host}/tiny/one:v1")
    assert (fetcher.path / "box/.singularity.d/runscript").exists()
    assert "exists" in fetcher.refused("pull", "--no-https", "-s", "box", f"docker://{registry.host}/tiny/one:v1")
    fetcher.done("pull", "--no-https", "-s", "--force", "box", f"docker://{registry.host}/tiny/one:v1")


def test_builds_for_an_architecture(fetcher: Fetcher, registry: Registry) -> None:
    uri = f"docker://{registry.host}/tiny/one:v1"
    fetcher.done("build", "--no-https", "--arch", servers.ARCH, "--sandbox", "box", uri)
    assert "not for s390x" in fetcher.refused("build", "--no-https", "--arch", "s390x", "b.sif", uri)
    line = fetcher.refused("pull", "--no-https", "--arch=arm", "--arch-variant=v9", "b.sif", uri)
    assert "architecture 'arm/v9': has no such variant" in line


def test_the_architecture_of_an_archive(fetcher: Fetcher, layouts: dict[str, Path]) -> None:
    """An image of another architecture than the one that was asked for is never taken."""
    source = f"oci:{layouts['one']}"
    fetcher.done("build", "--arch", servers.ARCH, "--sandbox", "box", source)
    for words in (["--arch", "s390x"], ["--arch", "arm", "--arch-variant", "v7"]):
        assert f"is for {servers.ARCH}, not for {words[1]}" in fetcher.refused("build", *words, "a.sif", source)
        assert f"not for {words[1]}" in fetcher.refused("pull", *words, "b.sif", source)
