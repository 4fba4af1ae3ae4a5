# SPDX-License-Identifier: BSD-3-Clause
"""`bollard build` on small trees, without a network: targets, sources, options, failures, and hostile images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from building import USER, Builder
from small_trees import labels, owned, write

from bollard.runtime.image import image


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


def test_files_over_what_the_image_has(builder: Builder, place: Path) -> None:
    """As `cp -rL`: directories are merged, links are written through, a file keeps its mode and its other names."""
    for name in ("base/etc", "base/srv/full", "base/opt/link-here", "etc/sub", "data"):
        (place / name).mkdir(parents=True)
    for name in ("etc/conf", "etc/sub/more", "data/x", "base/srv/full/file"):
        (place / name).write_text(f"{name}\n")
    with (place / "etc/sparse").open("wb") as file:
        file.truncate(64 << 20)
    base = place / "base"
    (base / "etc/conf").write_text("old\n")
    (base / "etc/conf").chmod(0o750)
    os.link(base / "etc/conf", base / "etc/other-name")
    (base / "opt/link").symlink_to("/srv/full/file")
    (base / "opt/new").symlink_to("../srv/new")
    owned(place)
    text = f"Bootstrap: localimage\nFrom: {base}\nStage: one\n%files\n"
    here = place.name  # below the directory of the builds
    lines = (f"{here}/etc /", f"{here}/data/x /opt/link", f"{here}/data/x /opt/new", f"{here}/data/?")
    builder.build("--sandbox", place / "box", write(place, text + "".join(f"    {line}\n" for line in lines)))
    box = place / "box"
    assert not (box / "etc/etc").exists() and (box / "etc/sub/more").read_text() == "etc/sub/more\n"
    assert (box / "etc/other-name").read_text() == "etc/conf\n" and (box / "etc/conf").stat().st_mode & 0o777 == 0o750
    assert os.readlink(box / "opt/link") == "/srv/full/file" and os.readlink(box / "opt/new") == "../srv/new"
    assert (box / "srv/full/file").read_text() == (box / "srv/new").read_text() == "data/x\n"
    assert (box / here / "data/x").read_text() == "data/x\n"
    assert (box / "etc/sparse").stat().st_size == 64 << 20 and (box / "etc/sparse").stat().st_blocks < 1000
    for line, words in (
        (f"{here}/data/x /etc/conf/x", "/etc/conf in the image is no directory"),
        (f"{here}/data /etc/conf", "is a directory, but /etc/conf in the image is not; name another place"),
        ("/ /opt", "%files /: a whole root filesystem"),
    ):
        assert words in builder.refused("--sandbox", place / "no", write(place, f"{text}    {line}\n"))


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
