# SPDX-License-Identifier: BSD-3-Clause
"""What an image says of itself: from the JSON object of a SIF file, from a squashfs and from a directory."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import sif_files
from test_main import command, refused

from bollard.runtime.cli import inspect
from bollard.runtime.errors import BollardError
from bollard.runtime.image import sif, sif_write
from bollard.runtime.local import metadata

FILES = {
    ".singularity.d/labels.json": '{"b": "2", "a": "<1>", "number": 3}\n',
    ".singularity.d/runscript": "#!/bin/sh\necho run\n\n",
    ".singularity.d/startscript": "#!/bin/sh\necho start\n",
    ".singularity.d/test": "#!/bin/sh\ntrue\n",
    ".singularity.d/runscript.help": "  How to\n",
    ".singularity.d/Singularity": "bootstrap: scratch\n",
    ".singularity.d/env/01-base.sh": "export BASE=1\n",
    ".singularity.d/env/10-docker2singularity.sh": "export D=1\n",
    ".singularity.d/env/90-environment.sh": "export E=1\n",
    ".singularity.d/env/91-environment.sh": "export F=1\n",
    "scif/apps/foo/scif/runscript": "#!/bin/sh\necho foo\n",
    "scif/apps/foo/scif/labels.json": '{"Maker": "me"}',
    "scif/apps/foo/scif/env/01-base.sh": "SCIF_APPNAME=foo\n",
    "scif/apps/foo/scif/env/90-environment.sh": "export FOO=1\n",
    "scif/apps/bar/scif/runscript.help": "bar's help",
    "scif/apps/none/bin/x": "",
}
FOUND = {
    "apps": {
        "bar": {
            **dict.fromkeys(("runscript", "startscript", "test"), ""),
            "helpfile": "bar's help",
            "labels": {},
            "environment": {},
        },
        "foo": {
            **dict.fromkeys(("startscript", "test", "helpfile"), ""),
            "runscript": "#!/bin/sh\necho foo",
            "labels": {"Maker": "me"},
            "environment": {"/scif/apps/foo/scif/env/90-environment.sh": "export FOO=1"},
        },
    },
    "environment": {
        "/.singularity.d/env/10-docker2singularity.sh": "export D=1",
        "/.singularity.d/env/90-environment.sh": "export E=1",
        "/.singularity.d/env/91-environment.sh": "export F=1",
    },
    "labels": {"b": "2", "a": "<1>"},
    "runscript": "#!/bin/sh\necho run",
    "startscript": "#!/bin/sh\necho start",
    "test": "#!/bin/sh\ntrue",
    "helpfile": "  How to",
    "deffile": "bootstrap: scratch",
}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def squash(tree):
    path = tree.parent / "img.sqfs"
    argv = ["mksquashfs", str(tree), str(path), "-quiet", "-noappend", "-no-progress"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return path


def make_sif(tree, *objects, partition=None, arch="x86_64"):
    path = tree.parent / "img.sif"
    sif_files.write(path, objects, squash(tree).read_bytes() if partition is None else partition, arch, force=True)
    return path


def as_json(attributes):
    return json.dumps({"data": {"attributes": attributes}, "type": "container"}).encode()


def test_the_metadata_of_a_directory(tree):
    assert metadata.read(str(tree)) == (FOUND, False)


def test_the_metadata_of_a_squashfs(tree):
    assert metadata.read(str(squash(tree))) == (FOUND, False)


def test_a_sif_without_metadata_of_its_own(tree):
    assert metadata.read(str(make_sif(tree))) == (FOUND, False)


def test_the_definition_file_of_a_sif_is_the_one_in_it(tree):
    path = make_sif(tree, sif_write.Object(sif.DEFFILE, "", b"as it was\n"))
    assert metadata.read(str(path))[0] == {**FOUND, "deffile": "as it was\n"}


def test_the_json_object_of_a_sif_counts_alone(tree):
    said = {"labels": {"x": "y"}, "runscript": "echo", "apps": {"a": {"test": "t"}}}
    path = make_sif(tree, sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, as_json(said)))
    found, from_json = metadata.read(str(path))
    assert from_json
    assert {name: value for name, value in found.items() if value} == {
        "labels": {"x": "y"},
        "runscript": "echo",
        "apps": {
            "a": {
                "test": "t",
                "labels": {},
                "environment": {},
                **dict.fromkeys(("runscript", "startscript", "helpfile"), ""),
            }
        },
    }


@pytest.mark.parametrize("arch", ["s390x", "sparc"])
def test_it_needs_no_partition_that_can_be_mounted_here(tree, arch):
    said = sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, as_json({"labels": {"x": "y"}}))
    path = make_sif(tree, said, partition=b"encrypted", arch=arch)
    assert command("inspect", str(path)).stdout == "x: y\n"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b'{"data":{"attributes":[]}}', b"[" * 100000, as_json({"labels": {"a": 1}}),
     as_json({"labels": "a"}), as_json({"runscript": ["x"]}), as_json({"apps": {"a": 1}}), as_json({"apps": [1]})],
)  # fmt: skip
def test_a_json_object_of_another_form_does_not_count(tree, text):
    path = make_sif(tree, sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, text))
    assert metadata.parsed(text) is None
    assert metadata.read(str(path)) == (FOUND, False)


def test_an_image_that_says_nothing(tmp_path):
    (tmp_path / "root/etc").mkdir(parents=True)
    for path in (tmp_path / "root", squash(tmp_path / "root")):
        assert command("inspect", str(path)).stdout == ""
        assert json.loads(command("inspect", "--all", str(path)).stdout) == {
            "data": {"attributes": {}},
            "type": "container",
        }
        assert command("run-help", str(path)).stdout == "No help sections were defined for this image\n"


def test_no_link_leads_out(tree):
    secret = tree.parent / "secret"
    secret.write_text("host")
    own = tree / ".singularity.d"
    for name, target in (
        ("runscript", secret),
        ("test", "../../secret"),
        ("startscript", "/.singularity.d/Singularity"),
    ):
        (own / name).unlink()
        (own / name).symlink_to(target)
    (own / "runscript.help").unlink()
    os.mkfifo(own / "runscript.help")
    for path in (tree, squash(tree)):
        found = metadata.read(str(path))[0]
        assert (found["runscript"], found["test"], found["helpfile"]) == ("", "", "")
        assert found["startscript"] == "bootstrap: scratch"


@pytest.mark.parametrize("kind", ["directory", "squashfs"])
def test_a_text_that_is_too_large(tree, kind):
    with open(tree / ".singularity.d/runscript", "wb") as file:
        file.write(os.urandom((1 << 20) + 1))
    path = tree if kind == "directory" else squash(tree)
    assert "1048576" in refused("inspect", str(path))


def test_a_damaged_squashfs(tree):
    path = squash(tree)
    raw = bytearray(path.read_bytes())
    at = int.from_bytes(raw[64:72], "little")  # the inodes
    raw[at + 2 : at + 40] = b"\xff" * 38
    path.write_bytes(raw)
    text = refused("inspect", str(path))
    assert text.startswith(f"{path}: damaged: its filesystem cannot be read (")
    assert text.endswith("; copy or build it again")


def test_nothing_is_left(tree, tmp_path):
    before = os.listdir("/proc/self/fd")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for path in (squash(tree), make_sif(tree), tree):
        assert command("inspect", str(path), TMPDIR=str(temporary), PATH=os.environ["PATH"]).returncode == 0
        metadata.read(str(path))
    assert os.listdir(temporary) == []
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "inspect takes one image, not 0; write `bollard inspect IMAGE`"),
        (["a", "b"], "inspect takes one image, not 2; write `bollard inspect IMAGE`"),
        (["no.sif"], "no.sif: no such file; check the name with `ls "),
        (["--lables", "x"], "--lables: no such option; did you mean --labels?"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, argv, text):
    assert refused("inspect", *argv, cwd=tmp_path).startswith(text)


# What is printed


def shown(tree, *argv):
    done = command("inspect", *argv, str(tree))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_text_of_inspect(tree):
    assert shown(tree) == shown(tree, "-l") == "a: <1>\nb: 2\n"
    assert shown(tree, "--runscript") == "#!/bin/sh\necho run\n"
    assert shown(tree, "-H", "-d", "-t", "-s") == (
        "bootstrap: scratch\n#!/bin/sh\necho start\n#!/bin/sh\ntrue\n  How to\n"
    )
    assert shown(tree, "-e").startswith("=== /.singularity.d/env/10-docker2singularity.sh ===\nexport D=1\n\n=== ")
    assert shown(tree, "--list-apps") == "bar\nfoo\n"
    assert shown(tree, "--app", "foo") == "Maker: me\n"
    assert shown(tree, "--app=foo", "-r", "-e") == (
        "#!/bin/sh\necho foo\n=== /scif/apps/foo/scif/env/90-environment.sh ===\nexport FOO=1\n\n"
    )
    assert shown(tree, "--app", "missing") == ""


def test_json(tree):
    assert shown(tree, "-r", "-j", "-l") == (
        '{\n\t"data": {\n\t\t"attributes": {\n\t\t\t"labels": {\n\t\t\t\t"a": "\\u003c1\\u003e",\n\t\t\t\t"b": "2"\n'
        '\t\t\t},\n\t\t\t"runscript": "#!/bin/sh\\necho run"\n\t\t}\n\t},\n\t"type": "container"\n}\n'
    )
    everything = json.loads(shown(tree, "--all", "--app", "foo"))["data"]["attributes"]
    assert list(everything) == [
        "apps", "environment", "labels", "runscript", "test", "helpfile", "deffile", "startscript",
    ]  # fmt: skip
    assert list(everything["apps"]["foo"]) == ["environment", "labels", "runscript"]


def test_run_help(tree):
    assert command("run-help", str(tree)).stdout == "  How to\n"
    assert command("run-help", "--app", "bar", str(tree)).stdout == "bar's help\n"
    assert command("run-help", "--app", "foo", str(tree)).stdout.startswith("No help sections")


def test_a_list_of_apps_has_all_about_them_where_the_image_does():
    found = {"apps": {"a": {"test": "t"}}}
    assert inspect.selected(found, True, set(), list_apps=True) == {"apps": {"a": {"test": "t"}}}
    assert inspect.selected(found, False, set(), list_apps=True) == {"apps": {"a": {}}}
    with pytest.raises(BollardError):
        inspect.run("inspect", [], [])
