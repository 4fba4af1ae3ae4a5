# SPDX-License-Identifier: BSD-3-Clause
"""`bollard build` on small trees, without a network: targets, sources, options, failures, and hostile images."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from building import USER, Builder
from fetcher import Fetcher, words_of
from test_definitions import tarball

from bollard.runtime.image import image

PROGRAMS = ("sh", "cat", "chmod", "echo", "id", "ln", "ls", "mkdir", "rm", "sleep", "touch")


@pytest.fixture(scope="session")
def shell() -> str:
    """%files of a tree in which a shell runs: programs of this machine and their libraries."""
    lines, libraries = [], set()
    for name in PROGRAMS:
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path
        lines.append(f"    {path} /bin/{name}")
        for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True).stdout):
            libraries.add(library)
    return "\n".join(["Bootstrap: scratch", "%files", *lines, *(f"    {name}" for name in sorted(libraries)), ""])


@pytest.fixture
def place(builder: Builder) -> Path:
    """An empty directory for one test, in which the builds run."""
    path = builder.work / f"case-{time.monotonic_ns()}"
    path.mkdir()
    owned(path)
    return path


def owned(path: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(path)], check=True)


def write(place: Path, text: str, name: str = "img.def") -> Path:
    path = place / name
    path.write_text(text)
    return path


@pytest.fixture
def sandbox(builder: Builder, place: Path, shell: str) -> Path:
    text = shell + "%post\n    echo one > /made\n%labels\n    Colour blue\n%help\n    first\n"
    builder.build("--sandbox", place / "box", write(place, text))
    return place / "box"


def labels(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((path / ".singularity.d/labels.json").read_text())
    return found


def test_a_sandbox(builder: Builder, sandbox: Path) -> None:
    assert (sandbox / "made").read_text() == "one\n"
    assert labels(sandbox)["Colour"] == "blue"
    assert os.readlink(sandbox / ".run") == ".singularity.d/actions/run"
    assert not (sandbox / ".post.script").exists()
    if os.geteuid() == 0:
        assert (sandbox / "made").stat().st_uid == USER
    assert builder.leftovers() == []


def test_an_existing_target_is_kept(builder: Builder, sandbox: Path, place: Path) -> None:
    assert "exists already" in builder.refused("--sandbox", sandbox, place / "img.def")
    assert "is a directory" in builder.refused("--force", sandbox, place / "img.def")
    (place / "mine").mkdir()
    assert "is no sandbox" in builder.refused("--sandbox", "--force", place / "mine", place / "img.def")
    (place / "img.sif").write_text("mine")
    assert "exists already" in builder.refused(place / "img.sif", place / "img.def")
    assert (place / "img.sif").read_text() == "mine"


@pytest.mark.parametrize("name", ["img.def", "other.def", "Dockerfile", "requirements.txt", "tool.py"])
def test_force_replaces_no_recipe(builder: Builder, place: Path, name: str) -> None:
    """The two words were exchanged, or one was written twice."""
    write(place, "Bootstrap: scratch\n")
    text = (place / "img.def").read_text()
    (place / name).write_text(text)
    assert "is not replaced; write TARGET, then SOURCE" in builder.refused("--force", place / name, place / "img.def")
    assert (place / name).read_text() == text


def test_force_replaces_a_sandbox(builder: Builder, sandbox: Path, place: Path) -> None:
    (sandbox / "old").write_text("x")
    builder.build("-F", "-s", sandbox, place / "img.def")
    assert not (sandbox / "old").exists()
    assert (sandbox / "made").exists()
    assert builder.leftovers() == []


def test_update_goes_on_with_the_sandbox(builder: Builder, sandbox: Path, place: Path) -> None:
    more = "Bootstrap: docker\nFrom: nothing\n%post\n    cat /made\n    echo two > /more\n"
    more += "%labels\n    Colour red\n    Size 2\n"
    assert "one" in builder.build("--update", sandbox, write(place, more, "more.def"))
    assert (sandbox / "more").read_text() == "two\n"
    found = labels(sandbox)
    assert (found["Colour"], found["Size"]) == ("blue", "2")
    assert found["org.label-schema.usage.singularity.deffile.bootstrap"] == "scratch"
    assert (sandbox / ".singularity.d/bootstrap_history/Apptainer0").exists()


def test_a_failing_update_changes_nothing(builder: Builder, sandbox: Path, place: Path) -> None:
    write(place, "Bootstrap: scratch\n%post\n    echo two > /made\n    no-such-program\n", "more.def")
    line = builder.refused("--update", sandbox, place / "more.def")
    assert "more.def:4: %post failed with exit status 127 at `no-such-program`" in line
    assert (sandbox / "made").read_text() == "one\n"
    assert "no sandbox to update" in builder.refused("--update", place / "nothing", place / "more.def")


def test_sections(builder: Builder, place: Path, shell: str) -> None:
    text = shell + "%post\n    echo x > /made\n%labels\n    A b\n%environment\n    C=d\n"
    builder.build("--section", "files,labels", "--sandbox", place / "box", write(place, text))
    assert not (place / "box/made").exists()
    assert labels(place / "box")["A"] == "b"
    assert "C=d" not in (place / "box/.singularity.d/env/90-environment.sh").read_text()
    assert "no such section" in builder.refused("--section", "pots", place / "x.sif", place / "img.def")


def test_the_failing_line_is_named_and_nothing_is_left(builder: Builder, place: Path, shell: str) -> None:
    text = shell + "%post\n    mkdir -p /a/b\n    chmod 000 /a\n    NAME=x\n    cat /no-$NAME\n    echo never\n"
    write(place, text)
    line = builder.refused(place / "img.sif", place / "img.def")
    number = text.splitlines().index("    cat /no-$NAME") + 1
    assert "%post failed with exit status 1 at `cat /no-x`; nothing was built" in line
    assert line.startswith(f"bollard: {place}/img.def")
    assert str(number) in line or "img.def: " in line  # a shell without LINENO shows the command alone
    assert not (place / "img.sif").exists()


def test_a_failing_test(builder: Builder, place: Path, shell: str) -> None:
    write(place, shell + "%test\n    echo tested\n    exit 3\n")
    assert "%test failed with exit status 3" in builder.refused(place / "img.sif", place / "img.def")
    builder.build("--notest", place / "img.sif", place / "img.def")


def test_setup_fails(builder: Builder, place: Path) -> None:
    write(place, "Bootstrap: scratch\n%setup\n    true\n    false\n")
    assert "img.def:4: %setup failed with exit status 1" in builder.refused(place / "img.sif", place / "img.def")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(builder: Builder, place: Path, shell: str, number: int) -> None:
    mark = f"{time.monotonic_ns() % 10**6}77"
    write(place, shell + f"%post\n    echo started\n    sleep {mark} &\n    sleep {mark}\n")
    process = builder.start("build", place / "img.sif", place / "img.def")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert builder.leftovers() == []
    assert not (place / "img.sif").exists()
    running = subprocess.run(["pgrep", "-f", f"sleep {mark}"], capture_output=True, text=True, check=False).stdout
    assert running == ""


def test_a_build_argument_that_nothing_uses(builder: Builder, place: Path, shell: str) -> None:
    write(place, shell)
    words = ("--build-arg", "A=1", place / "img.sif", place / "img.def")
    assert "build argument A is not used" in builder.refused(*words)
    assert "warning: build argument A" in builder.build("--warn-unused-build-args", *words)


def test_equal_builds_are_equal(builder: Builder, place: Path, shell: str) -> None:
    write(place, shell + "%post\n    echo x > /made\n")
    builder.build("--reproducible", place / "a.sif", place / "img.def")
    time.sleep(1.1)  # mksquashfs counts seconds
    builder.build("--reproducible", place / "b.sif", place / "img.def")
    assert (place / "a.sif").read_bytes() == (place / "b.sif").read_bytes()
    builder.build(place / "c.sif", place / "img.def")
    assert (place / "a.sif").read_bytes() != (place / "c.sif").read_bytes()


def test_sources(builder: Builder, sandbox: Path, place: Path) -> None:
    """A sandbox, an image and an archive become images and sandboxes."""
    builder.build(place / "one.sif", sandbox)
    builder.build(place / "two.sif", place / "one.sif")
    builder.build("--sandbox", place / "three", place / "two.sif")
    builder.build("--sandbox", place / "four", place / "three")
    with tarfile.open(place / "tree.tar.gz", "w:gz") as tar:
        tar.add(place / "four", ".")
    builder.build("--sandbox", place / "five", place / "tree.tar.gz")
    builder.build(place / "six.sif", place / "tree.tar.gz")
    for name in ("three", "four", "five"):
        assert (place / name / "made").read_text() == "one\n"
        assert os.access(place / name / "bin/cat", os.X_OK)
        assert labels(place / name)["Colour"] == "blue"
    opened = image.open_image(str(place / "six.sif"))
    assert json.loads(opened.metadata() or b"")["data"]["attributes"]["labels"]["Colour"] == "blue"
    opened.close()


def test_binds(builder: Builder, place: Path, shell: str) -> None:
    (place / "data").mkdir()
    (place / "data/file").write_text("from the host\n")
    owned(place)
    text = "%post\n    cat /new/place/file > /copy\n    if touch /new/place/other; then exit 9; fi\n"
    text += "%test\n    cat /new/place/file\n"
    write(place, shell + text)
    builder.build("-B", f"{place}/data:/new/place:ro", "--sandbox", place / "box", place / "img.def")
    assert (place / "box/copy").read_text() == "from the host\n"
    assert not (place / "box/new").exists()
    assert not (place / "data/other").exists()


@pytest.mark.parametrize(
    ("link", "target"), [("", ""), ("var/tmp", "/tmp"), ("tmp", "/var/tmp"), ("tmp", "/opt/elsewhere")]
)
def test_files_in_tmp_are_there_in_post(builder: Builder, place: Path, shell: str, link: str, target: str) -> None:
    """With two directories, and with one that is a link to the other or to a third."""
    (place / "a").write_text("from the host\n")
    (place / "sub").mkdir()
    (place / "sub/b").write_text("below\n")
    owned(place)
    setup = f"    mkdir -p opt/elsewhere\n    rmdir {link}\n    ln -s {target} {link}\n"
    setup = f'%setup\n    cd "$APPTAINER_ROOTFS"\n{setup}' if link else ""
    text = shell + f"    {place}/a /tmp/a\n    {place}/sub /var/tmp/sub\n    {place}/a /tmp/gone\n" + setup
    text += "%post\n    cat /tmp/a /var/tmp/sub/b\n    echo changed > /tmp/a\n    echo x > /tmp/new\n"
    text += "    ln -s /nowhere /tmp/link\n    rm /tmp/gone\n"
    text += "%test\n    cat /tmp/a\n    if cat /tmp/new; then exit 1; fi\n"
    said = builder.build("--sandbox", place / "box", write(place, text))
    assert said.startswith("from the host\nbelow\n") and "changed" in said
    found = {path.name for path in (place / "box").rglob("*") if path.name in ("a", "sub", "b", "gone", "new", "link")}
    assert found == {"a", "sub", "b"}


def test_post_sees_nothing_of_the_host(builder: Builder, place: Path, shell: str) -> None:
    write(
        place,
        shell + f"%post\n    ls {place.parent} && exit 9\n    ls /proc/1/root/{place.parent} && exit 8\n    id -u\n",
    )
    assert builder.build(place / "img.sif", place / "img.def").startswith("0\n")


def test_files_that_are_not_there(builder: Builder, place: Path) -> None:
    write(place, "Bootstrap: scratch\n%files\n    no-such-file /x\n")
    line = builder.refused(place / "img.sif", place / "img.def")
    assert "img.def:3: %files" in line
    assert "No such file or directory" in line


def test_links_in_a_directory_of_files(builder: Builder, place: Path) -> None:
    """Those that lead to nothing or around in a circle stay links; others are followed."""
    top = place / "data"
    (top / "sub/deep").mkdir(parents=True)
    (top / "file").write_text("x")
    links = {
        "self": ".", "nothing": "no-such", "loop": "loop", "through": "file/x", "real": "file", "dir": "sub",
        "sub/up": "..", "sub/deep/top": "../../sub", "sub/deep/round": str(top),
    }  # fmt: skip
    for name, target in links.items():
        (top / name).symlink_to(target)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(top / "socket"))
    os.mkfifo(top / "fifo")
    owned(place)
    text = f"Bootstrap: scratch\nStage: one\n%files\n    {top} /opt/data\n    {top}/nothing* /opt/none/\n"
    line = builder.refused("--sandbox", place / "box", write(place, text))
    assert f"img.def:5: %files {top}/nothing: No such file or directory" in line  # what is named has to be there
    text = text.rpartition("    ")[0] + "Bootstrap: scratch\n%files from one\n    /opt/data /opt/data\n"
    builder.build("--sandbox", place / "box", write(place, text))
    listener.close()
    made = place / "box/opt/data"
    found = {path: os.readlink(made / path) if (made / path).is_symlink() else "" for path in links}
    assert found == {**links, "real": "", "dir": ""}
    assert (made / "real").read_text() == "x" and (made / "dir/deep").is_dir()
    assert os.readlink(made / "dir/up") == ".." and os.readlink(made / "dir/deep/top") == "../../sub"
    assert (made / "fifo").is_fifo() and not (made / "socket").exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_path_that_cannot_be_copied_is_named(builder: Builder, place: Path, kind: str) -> None:
    (place / "data/sub").mkdir(parents=True)
    bad = place / "data/sub/bad"
    bad.mkdir() if kind == "directory" else bad.touch()
    owned(place)
    if os.geteuid() == 0:
        os.chown(bad, 0, 0)
    bad.chmod(0)
    write(place, f"Bootstrap: scratch\n%files\n    {place}/data /opt/data\n")
    assert f"img.def:3: %files {bad}: Permission denied" in builder.refused(place / "img.sif", place / "img.def")
    bad.chmod(0o700)


def test_directories_that_are_too_deep(builder: Builder, place: Path) -> None:
    above = os.open(place, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    owned(place)
    write(place, f"Bootstrap: scratch\n%files\n    {place}/d /opt/d\n")
    line = builder.refused(place / "img.sif", place / "img.def")
    assert f"%files {place}/d" in line and ("nested too deep" in line or "File name too long" in line)
    subprocess.run(["rm", "-r", str(place / "d")], check=True)


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("library", "library://x: no library is named; add --library URL"),
        ("nonsense", "Bootstrap: nonsense is not supported; known are"),
        ("docker", "docker://x: needs the program skopeo; install"),
        ("oras", "oras://x: needs the program skopeo; install"),
        ("yum", "Bootstrap: yum needs the program dnf or yum; install"),
        ("debootstrap", "Bootstrap: debootstrap needs that program; install"),
    ],
)
def test_agents_that_cannot_work(builder: Builder, place: Path, agent: str, words: str) -> None:
    """With a PATH that holds no such programs; sbin is searched as well, so debootstrap may be found there."""
    if agent == "debootstrap" and shutil.which(agent, path="/usr/sbin:/usr/bin"):
        words = "is no release"
    release = "not/one" if words == "is no release" else "bookworm"
    write(place, f"Bootstrap: {agent}\nFrom: x\nOSVersion: {release}\nMirrorURL: file:///nowhere\n")
    (place / "bin").mkdir()
    line = builder.refused(place / "img.sif", place / "img.def", PATH=str(place / "bin"))
    assert words in line


class TestPlaces:
    """Where nothing can be written: told before anything is done."""

    def refused(self, builder: Builder, place: Path, *words: object) -> str:
        write(place, f"Bootstrap: scratch\n%pre\n    touch {place}/begun\n")
        line = builder.refused(*words, place / "img.def")
        assert not (place / "begun").exists()
        return line

    def test_targets(self, builder: Builder, place: Path) -> None:
        (place / "file").write_text("x")
        (place / "closed").mkdir()
        (place / "closed").chmod(0o555)
        owned(place)
        for box in ((), ("--sandbox",)):
            line = self.refused(builder, place, *box, place / "nosuch/out")
            assert f"{place}/nosuch/out: the directory {place}/nosuch does not exist; make it" in line
            line = self.refused(builder, place, *box, place / "file/out")
            assert "file/out: cannot be written: Not a directory" in line
            line = self.refused(builder, place, *box, place / "closed/out")
            assert f"you may not write into {place}/closed" in line
            assert "cannot be written: the name is too long" in self.refused(builder, place, *box, "n" * 300)
            assert "'': is not the name of a file" in self.refused(builder, place, *box, "")
        assert "out/: names a directory" in self.refused(builder, place, f"{place}/out/")

    def test_of_images_that_are_fetched(self, builder: Builder, place: Path) -> None:
        """Nobody is asked: there is no such registry."""
        for words in (("pull", f"{place}/no/a.sif"), ("build", f"{place}/no/a.sif")):
            status, _, err = builder.run(*words, "docker://127.0.0.1:1/a")
            assert status == 255 and f"the directory {place}/no does not exist" in err


# Whoever builds owns the pipe, as in a shell of his own.
_PIPED = 'piped() {{ chown {} "${{!#}}"; exec "$@"; }}; piped "$@" {}'


class TestPipes:
    def builder(self, builder: Builder, place: Path, source: str) -> Builder:
        owner = USER if os.geteuid() == 0 else os.getuid()
        return builder._replace(work=place, prefix=("bash", "-c", _PIPED.format(owner, source), "bash"))

    @pytest.mark.parametrize("source", ["<(cat img.def)", "/dev/stdin < img.def", "/dev/stdin < <(cat img.def)"])
    def test_a_definition(self, builder: Builder, place: Path, source: str) -> None:
        write(place, "Bootstrap: scratch\n%labels\n    Colour green\n")
        owned(place)
        piped = self.builder(builder, place, source)
        status, _, err = piped.run("build", "--sandbox", "box", PYTHONPATH=str(place.parent.parent / "lib"))
        assert status == 0, err
        assert labels(place / "box")["Colour"] == "green"

    def test_what_is_none(self, builder: Builder, place: Path) -> None:
        (place / "tree.tar").write_bytes(tarball({"etc/name": b"x"}, {}))
        owned(place)
        piped = self.builder(builder, place, "<(cat tree.tar)")
        status, _, err = piped.run("build", "--sandbox", "box", PYTHONPATH=str(place.parent.parent / "lib"))
        assert status == 255 and "an image or archive comes from a pipe; write it to a file first" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--bind", "/etc:"), "--bind /etc:: a part of it is empty"),
        (("--bind", "/etc::ro"), "a part of it is empty"),
        (("--bind", "/etc,"), "a part of it is empty"),
        (("--bind", ""), "--bind: its value is empty; give one, or leave the option out"),
        (("--bind", "/no-such"), "bind /no-such: no such file or directory"),
        (("--section", ""), "--section: its value is empty"),
        (("--section", "post,"), "--section : no such section"),
        (("--section", "all,pots"), "--section pots: no such section"),
        (("--authfile", ""), "--authfile: its value is empty"),
        (("--build-arg-file", ""), "--build-arg-file: its value is empty"),
        (("--build-arg-file", "/dev/null", "--build-arg-file", "/etc/hostname"), "/dev/null is one already"),
    ],
)
def test_options_that_say_nothing(builder: Builder, place: Path, words: tuple[str, ...], line: str) -> None:
    write(place, f"Bootstrap: scratch\n%pre\n    touch {place}/begun\n")
    assert line in builder.refused(*words, place / "img.sif", place / "img.def")
    assert not (place / "begun").exists()


class TestArchives:
    """Without a scheme: taken for what they are, or refused."""

    def packed(self, place: Path, layouts: dict[str, Path], scheme: str, name: str) -> Path:
        path = place / f"{scheme}.tar"
        argv = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layouts['one']}:latest"]
        subprocess.run([*argv, f"{scheme}:{path}:{name}"], check=True)
        owned(place)
        return path

    def check(self, builder: Builder, place: Path, source: object, target: str) -> None:
        builder.build(place / target, source)
        assert words_of(place / target) == "one"
        assert "'/bin/echo' 'entry'" in builder.run("inspect", "--runscript", place / target)[1]

    @pytest.mark.parametrize("scheme", ["docker-archive", "oci-archive"])
    def test_of_images(self, builder: Builder, place: Path, layouts: dict[str, Path], scheme: str) -> None:
        name = "localhost:5000/me/app:2.0"
        path = self.packed(place, layouts, scheme, name)
        self.check(builder, place, path, "a.sif")
        self.check(builder, place, f"{scheme}:{path}:{name}", "b.sif")
        (place / "packed.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        self.check(builder, place, place / "packed.tar.gz", "c.sif")
        self.check(builder, place, write(place, f"Bootstrap: localimage\nFrom: {path}\n"), "d.sif")
        line = builder.refused(place / "x.sif", f"{scheme}:{path}:localhost:5000/me/app:9")
        assert "no image of that name" in line and name in line

    def test_a_layout(self, builder: Builder, place: Path, layouts: dict[str, Path]) -> None:
        self.check(builder, place, layouts["one"], "a.sif")
        self.check(builder, place, write(place, f"Bootstrap: localimage\nFrom: {layouts['one']}\n"), "b.sif")

    def test_what_is_no_root(self, builder: Builder, place: Path) -> None:
        (place / "data.tar").write_bytes(tarball({"data/a": b"x", "notes": b"x"}, {}))
        (place / "json.tar").write_bytes(tarball({"manifest.json": b"{}", "notes": b"x"}, {}))
        (place / "empty.tar").write_bytes(bytes(10240))
        (place / "data").mkdir()
        (place / "data/a").touch()
        (place / "empty").mkdir()
        owned(place)
        for name, words in (
            ("data.tar", "is not the archive of a root filesystem; in it: data, notes"),
            ("json.tar", "is not the archive of a root filesystem; in it: manifest.json, notes"),
            ("data", "is a directory, but not the root of a container"),
            ("empty", "is an empty directory"),
        ):
            assert words in builder.refused(place / "img.sif", place / name)
            assert words in builder.refused("--sandbox", place / "box", place / name)


def test_an_image_of_singularity_2(
    builder: Builder, sandbox: Path, place: Path, fetcher: Fetcher, installed: str
) -> None:
    subprocess.run(["mksquashfs", sandbox, place / "raw.sqfs", "-quiet", "-no-progress", "-comp", "gzip"], check=True)
    data = (place / "raw.sqfs").read_bytes()
    (place / "old.simg").write_bytes(b"#!/usr/bin/env run-singularity\n" + data)
    owned(place)
    builder.build(place / "new.sif", place / "old.simg")
    builder.build("--sandbox", place / "other", place / "new.sif")
    assert (place / "other/made").read_text() == "one\n"
    for name in ("old.simg", "new.sif"):
        assert fetcher.done("exec", place / name, "cat", "/made", PYTHONPATH=installed) == "one\n"


class TestHostileImages:
    """What an image holds must not lead a build to the machine it runs on."""

    def start(self, place: Path) -> Path:
        victim = place / "victim"
        victim.mkdir()
        (victim / "file").write_text("mine")
        return victim

    def check(self, victim: Path) -> None:
        assert [path.name for path in victim.iterdir()] == ["file"]
        assert (victim / "file").read_text() == "mine"

    def test_links_where_a_build_writes(self, builder: Builder, place: Path, shell: str) -> None:
        victim = self.start(place)
        links = {"opt": str(victim), "etc/hosts": f"{victim}/file", "scif": str(victim), "up": "../" * 20 + str(victim)}
        (place / "evil.tar").write_bytes(tarball({"etc/name": b"x"}, {".singularity.d": str(victim), **links}))
        owned(place)
        write(place, "x", "file")
        text = f"Bootstrap: localimage\nFrom: {place}/evil.tar\n%files\n    {place}/file /opt/file\n"
        text += f"    {place}/file /up/file\n    {place}/file /etc/hosts\n%appinstall a\n    true\n"
        text += "%files\n" + shell.partition("%files\n")[2]
        status, _, err = builder.run("build", "--section=files", "--sandbox", place / "box", write(place, text))
        assert status == 0, err
        self.check(victim)
        # Inside the tree, where the links lead from the tree's root.
        assert (place / "box" / str(victim).lstrip("/") / "file").read_text() == "x"
        assert (place / "box" / str(victim).lstrip("/") / "apps/a/scif/labels.json").exists()
        assert builder.leftovers() == []

    def test_archives_that_climb(self, builder: Builder, place: Path) -> None:
        victim = self.start(place)
        for number, (files, links) in enumerate(
            (
                ({"../../../../../../../../../.." + str(victim / "file"): b"bad"}, {}),
                ({str(victim / "new"): b"bad"}, {}),
                ({"a": b"x"}, {"link": str(victim)}),
            )
        ):
            raw = tarball(files, links)
            if links:  # a file through a link of the same archive
                raw = tarball({}, links).rstrip(b"\0").ljust(512, b"\0") + tarball({"link/new": b"bad"}, {})
            (place / "climb.tar").write_bytes(raw)
            owned(place)
            builder.run("build", "--sandbox", place / f"box{number}", place / "climb.tar")
            self.check(victim)
            assert builder.leftovers() == []

    def test_a_damaged_archive(self, builder: Builder, place: Path) -> None:
        (place / "half.tar").write_bytes(tarball({"big": b"x" * 100_000}, {})[:50_000])
        assert "damaged" in builder.refused(place / "img.sif", place / "half.tar")

    def test_a_damaged_image(self, builder: Builder, sandbox: Path, place: Path) -> None:
        builder.build(place / "one.sif", sandbox)
        raw = bytearray((place / "one.sif").read_bytes())
        end = len(raw.rstrip(b"\0"))  # mksquashfs fills the last 4096 bytes up
        raw[end - 3000 : end] = bytes(3000)
        (place / "bad.sif").write_bytes(raw)
        line = builder.refused("--sandbox", place / "other", place / "bad.sif")
        assert "bad.sif" in line
        assert not (place / "other").exists()
