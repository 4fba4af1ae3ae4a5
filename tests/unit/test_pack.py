# SPDX-License-Identifier: BSD-3-Clause
"""Building images from trees with the real mksquashfs, and reading them back with unsquashfs."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif
from bollard.runtime.image.image import open_image
from bollard.runtime.image.pack import additions, build, inspect_metadata
from bollard.runtime.image.source_tree import hot_files, tree_arch


def elf(machine, size=2, order=1):
    number = machine.to_bytes(2, "little" if order == 1 else "big")
    return b"\x7fELF" + bytes((size, order)) + bytes(12) + number + bytes(100)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/dash").write_bytes(elf(62) + b"a" * 200000)
    (root / "usr/bin/dash").chmod(0o755)
    (root / "usr/bin/sh").symlink_to("/bin/dash")
    (root / "usr/lib/x86_64-linux-gnu/libc.so.6").write_bytes(b"c" * 300000)
    (root / "usr/lib/x86_64-linux-gnu/libstdc++.so.6").write_bytes(b"d" * 300000)
    (root / "usr/lib/cold.txt").write_bytes(b"e" * 300000)
    (root / "etc/hostname").write_text("x\n")
    return root


def snapshot(root):
    return sorted((str(p), p.lstat().st_mode, p.lstat().st_mtime_ns) for p in [root, *root.rglob("*")])


def unpack(path, target):
    image = open_image(str(path))
    image.close()
    argv = ["unsquashfs", "-no-progress", "-o", str(image.offset), "-d", str(target), str(path)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return target


def test_the_tree_comes_back_with_what_it_lacked(tmp_path, tree):
    before = snapshot(tree)
    build(str(tmp_path / "img.sif"), str(tree))
    assert snapshot(tree) == before
    root = unpack(tmp_path / "img.sif", tmp_path / "out")
    for path in tree.rglob("*"):
        if path.is_file():
            assert (root / path.relative_to(tree)).is_symlink() == path.is_symlink()
        if path.is_file() and not path.is_symlink():
            assert (root / path.relative_to(tree)).read_bytes() == path.read_bytes()
    for name in ("dev", "proc", "sys", "tmp", "var/tmp", "root", "home", "run", ".singularity.d/libs"):
        assert (root / name).is_dir()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "etc/hosts").read_bytes() == (root / "etc/resolv.conf").read_bytes() == b""
    assert os.readlink(root / ".run") == ".singularity.d/actions/run"
    assert os.readlink(root / "environment") == ".singularity.d/env/90-environment.sh"
    for script in (*(root / ".singularity.d/actions").iterdir(), root / ".singularity.d/runscript"):
        assert script.stat().st_mode & 0o777 == 0o755
        subprocess.run(["/bin/sh", "-n", script], check=True)


def test_the_root_is_everybodys(tmp_path, tree):
    tree.chmod(0o2700)
    build(str(tmp_path / "img.sif"), str(tree))
    unpack(tmp_path / "img.sif", tmp_path / "out")

    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_metadata_and_labels(tmp_path, tree):
    build(str(tmp_path / "img.sif"), str(tree))
    image = open_image(str(tmp_path / "img.sif"), "x86_64")
    found = sif.read(image.fd, os.fstat(image.fd).st_size)
    assert [d.datatype for d in found.descriptors] == [sif.DEFFILE, sif.GENERIC_JSON, sif.GENERIC, sif.PARTITION]
    document = json.loads(image.metadata() or b"")
    image.close()
    assert image.arch == "amd64"
    assert document["type"] == "container"
    attributes = document["data"]["attributes"]
    assert set(attributes) == {
        "deffile",
        "environment",
        "labels",
        "runscript",
        "startscript",
        "test",
    }
    assert list(attributes["environment"]) == ["/.singularity.d/env/90-environment.sh"]
    assert attributes["labels"] == {
        "org.label-schema.build-arch": "amd64",
        "org.label-schema.build-date": "Tuesday_14_November_2023_22:13:20_UTC",
        "org.label-schema.schema-version": "1.0",
        "org.label-schema.usage.singularity.deffile.bootstrap": "localimage",
        "org.label-schema.usage.singularity.deffile.from": str(tree),
    }
    root = unpack(tmp_path / "img.sif", tmp_path / "out")
    assert json.loads((root / ".singularity.d/labels.json").read_text()) == attributes["labels"]
    assert (root / ".singularity.d/runscript").read_text() == attributes["runscript"] + "\n"


def test_an_existing_singularity_d_is_kept(tmp_path, tree):
    own = tree / ".singularity.d"
    (own / "env").mkdir(parents=True)
    (own / "env/10-docker2singularity.sh").write_text("export A=1\n")
    (own / "env/99-base.sh").write_text("fixed")
    (own / "runscript").write_text("#!/bin/sh\necho own\n")
    (own / "labels.json").write_text('{"colour": "blue"}')
    (own / "Singularity").write_text("bootstrap: docker\nfrom: alpine\n")
    (own / "test").symlink_to("/etc/hostname")
    build(str(tmp_path / "img.sif"), str(tree))
    image = open_image(str(tmp_path / "img.sif"))
    attributes = json.loads(image.metadata() or b"")["data"]["attributes"]
    image.close()
    assert attributes["environment"] == {"/.singularity.d/env/10-docker2singularity.sh": "export A=1"}
    assert attributes["runscript"] == "#!/bin/sh\necho own"
    assert attributes["deffile"] == "bootstrap: docker\nfrom: alpine"
    assert attributes["labels"]["colour"] == "blue"
    assert attributes["test"] == "x"
    assert not (unpack(tmp_path / "img.sif", tmp_path / "out") / ".run").is_symlink()


def test_links_out_of_the_tree_are_not_read(tree):
    (tree / ".singularity.d").mkdir()
    (tree / ".singularity.d/runscript").symlink_to("../../../../../../../../etc/passwd")
    (tree / ".singularity.d/loop").symlink_to("loop")
    assert json.loads(inspect_metadata(str(tree), {}, ""))["data"]["attributes"] == {}


def test_nothing_is_added_behind_links(tree):
    (tree / "var").symlink_to("/data/var")
    names = [entry.path for entry in additions(str(tree), {}, "")]
    assert "var" not in names
    assert "var/tmp" not in names
    assert "etc/hosts" in names


def test_equal_trees_give_equal_images(tmp_path, tree):
    build(str(tmp_path / "img.sif"), str(tree))
    first = (tmp_path / "img.sif").read_bytes()
    build(str(tmp_path / "img.sif"), str(tree), force=True)
    assert (tmp_path / "img.sif").read_bytes() == first


def test_hot_files_are_stored_uncompressed(tmp_path, tree):
    libraries = "usr/lib/x86_64-linux-gnu"
    assert hot_files(str(tree)) == [f"{libraries}/libc.so.6", "usr/bin/dash", f"{libraries}/libstdc++.so.6"]
    build(str(tmp_path / "img.sif"), str(tree))
    raw = (tmp_path / "img.sif").read_bytes()
    assert b"c" * 131072 in raw
    assert b"d" * 131072 in raw
    assert b"e" * 4096 not in raw


def test_hot_files_fit_the_budget_and_the_expression(tree):
    (tree / "usr/lib/libc.so.7").write_bytes(b"")
    os.truncate(tree / "usr/lib/libc.so.7", 9 << 20)
    (tree / "usr/lib/libz.so ) || true(").write_bytes(b"x")
    assert "usr/lib/libc.so.7" not in hot_files(str(tree))
    assert all("(" not in name for name in hot_files(str(tree)))


@pytest.mark.parametrize(
    ("machine", "size", "order", "arch"),
    [
        (183, 2, 1, "arm64"),
        (3, 1, 1, "386"),
        (21, 2, 1, "ppc64le"),
        (21, 2, 2, "ppc64"),
        (22, 2, 2, "s390x"),
        (8, 2, 1, "mips64le"),
        (8, 1, 2, "mips"),
        (243, 2, 1, "riscv64"),
    ],
)
def test_architecture_of_the_shell(tree, machine, size, order, arch):
    (tree / "usr/bin/dash").write_bytes(elf(machine, size, order))
    assert tree_arch(str(tree)) == arch


def test_architecture_without_a_shell(tree):
    (tree / "usr/bin/sh").unlink()
    (tree / "usr/bin/dash").write_bytes(b"#!/bin/nothing\n")
    (tree / "usr/bin/tool").write_bytes(elf(183))
    (tree / "usr/bin/tool").chmod(0o755)
    assert tree_arch(str(tree)) == "arm64"
    (tree / "usr/bin/tool").unlink()
    assert tree_arch(str(tree)) == sif.arch_name(os.uname().machine)


def test_names_that_a_shell_would_read(tmp_path, tree):
    odd = tmp_path / "a tree; $(touch pwned)"
    tree.rename(odd)
    build(str(tmp_path / "im g'.sif"), str(odd))
    open_image(str(tmp_path / "im g'.sif")).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [odd.name, "im g'.sif"]


def refused(target, source, **options):
    with pytest.raises(BollardError) as caught:
        build(str(target), str(source), **options)
    assert caught.value.hint
    return str(caught.value)


def test_a_source_or_target_that_cannot_be_packed_is_refused(tmp_path, tree, monkeypatch):
    assert "not a directory" in refused(tmp_path / "img.sif", tree / "etc/hostname")
    assert "not a directory" in refused(tmp_path / "img.sif", tmp_path / "missing")
    assert "lies inside" in refused(tree / "img.sif", tree)
    (tmp_path / "img.sif").write_text("mine")
    assert "exists already" in refused(tmp_path / "img.sif", tree)
    assert (tmp_path / "img.sif").read_text() == "mine"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    assert "SOURCE_DATE_EPOCH=today: not a time" in refused(tmp_path / "new.sif", tree)


def test_damaged_labels_are_refused(tmp_path, tree):
    (tree / ".singularity.d").mkdir()
    (tree / ".singularity.d/labels.json").write_text("[]")
    assert "labels.json: not a JSON object" in refused(tmp_path / "img.sif", tree)


def program(directory, text):
    directory.mkdir(exist_ok=True)
    (directory / "mksquashfs").write_text("#!/bin/sh\n" + text)
    (directory / "mksquashfs").chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_mksquashfs_missing(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    text = refused(tmp_path / "img.sif", tree)
    assert text == "mksquashfs: no such program; install the package squashfs-tools"
    assert os.listdir(tmp_path) == ["tree"]


def test_mksquashfs_fails(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("PATH", program(tmp_path / "bin", "echo Write failed: No space left on device >&2; exit 1\n"))
    text = refused(tmp_path / "img.sif", tree)
    assert "img.sif: cannot be written: no space left on /" in text
    assert sorted(os.listdir(tmp_path)) == ["bin", "tree"]


def test_mksquashfs_without_zstd(tmp_path, tree, monkeypatch):
    real = subprocess.run(["/bin/sh", "-c", "command -v mksquashfs"], stdout=subprocess.PIPE, text=True, check=True)
    refuse = "echo 'mksquashfs: Compressor \"zstd\" is not supported!' >&2; exit 1"
    script = f'case "$*" in *"-comp zstd"*) {refuse};; esac\nexec {real.stdout.strip()} "$@"\n'
    monkeypatch.setenv("PATH", program(tmp_path / "bin", script))
    build(str(tmp_path / "img.sif"), str(tree))
    image = open_image(str(tmp_path / "img.sif"))
    image.close()
    assert image.compression == "gzip"


def test_memory_is_bounded(tmp_path, tree, monkeypatch):
    """mksquashfs is told so; it takes a quarter of the machine's memory else. The user's own word comes later."""
    real = subprocess.run(["/bin/sh", "-c", "command -v mksquashfs"], stdout=subprocess.PIPE, text=True, check=True)
    script = f'echo "$*" > {tmp_path}/words\nexec {real.stdout.strip()} "$@"\n'
    monkeypatch.setenv("PATH", program(tmp_path / "bin", script))
    build(str(tmp_path / "img.sif"), str(tree), arguments=["-mem", "64M"])
    words = (tmp_path / "words").read_text().split()
    assert [words[at + 1] for at, word in enumerate(words) if word == "-mem"] == ["128M", "64M"]
