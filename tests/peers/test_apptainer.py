# SPDX-License-Identifier: BSD-3-Clause
"""What `bollard inspect` and `bollard sif` print and write is what Apptainer's do, on the same images."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

import apptainer
import pytest

IMAGES = ("theirs.sif", "ours.sif", "bare.sif", "plain.sqfs", "sandbox")
SIFS = (*IMAGES[:3], "plain.sif")


def same(peer, *argv, binary=False):
    theirs, ours = peer.apptainer(*argv, binary=binary), peer.bollard(*argv, binary=binary)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), theirs.stderr + ours.stderr
    return ours.stdout


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--labels"],
        ["-j"],
        ["--all"],
        ["-d"],
        ["--runscript"],
        ["-s"],
        ["-t"],
        ["-e"],
        ["--helpfile"],
        ["-l", "-d", "-r", "-s", "-t", "-e", "-H"],
        ["-r", "-t", "--json"],
        ["--list-apps"],
        ["--list-apps", "--json"],
        ["--app", "foo"],
        ["--app", "foo", "-r", "-s", "-t", "-e", "-H", "-l"],
        ["--app", "foo", "-r", "--json"],
        ["--app", "bar-2", "-r", "-H"],
        ["--app", "missing", "-r", "--json"],
    ],
    ids=" ".join,
)
def test_inspect(peer, image, options):
    same(peer, "inspect", *options, image)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("options", [[], ["--app", "foo"], ["--app", "missing"]], ids=" ".join)
def test_run_help(peer, image, options):
    same(peer, "run-help", *options, image)


@pytest.mark.parametrize("image", SIFS)
@pytest.mark.parametrize("words", [["list"], ["header"], ["info", "1"], ["info", "3"], ["dump", "1"]], ids=" ".join)
def test_sif_shows(peer, image, words):
    assert same(peer, "sif", *words, image)


def test_sif_dump_of_a_filesystem(peer):
    assert same(peer, "sif", "dump", "3", "plain.sif", binary=True).startswith("hsqs")


ADDED = {
    "deffile": ["--datatype", "1"],
    "labels": ["--datatype", "3", "--groupid", "2", "--link", "1", "--filename", "labels.json"],
    "partition": ["--datatype", "4", "--parttype", "1", "--partfs", "1", "--partarch", "2"],
    "data": ["--datatype", "4", "--parttype", "3", "--partfs", "4", "--partarch", "12", "--groupid", "1"],
    "signature": ["--datatype", "5", "--signhash", "3", "--signentity", "433FE984155206BD962725E20E8713472A879943"],
    "json": ["--datatype", "6", "--alignment", "512"],
    "message": ["--datatype", "8"],
    "sbom": ["--datatype", "9", "--sbomformat", "spdx-tag-value"],
    "index": ["--datatype", "10"],
    "blob": ["--datatype", "11", "--filename", "x" * 128],
}


@pytest.fixture
def pair(peer):
    """Two copies of an image without random parts: one for each to change."""
    names = ("a.sif", "b.sif")
    for name in names:
        shutil.copy(Path(peer.folder, "plain.sif"), Path(peer.folder, name))
        os.chown(Path(peer.folder, name), apptainer.UID, apptainer.UID)
    return names


def both(peer, pair, *argv):
    """Give each its own copy in the place of the word SIF; the files must then be equal, byte for byte."""
    theirs = peer.apptainer("sif", *(pair[0] if word == "SIF" else word for word in argv))
    ours = peer.bollard("sif", *(pair[1] if word == "SIF" else word for word in argv))
    assert (theirs.returncode == 0) == (ours.returncode == 0), theirs.stderr + ours.stderr
    one, other = (Path(peer.folder, name) for name in pair)
    assert filecmp.cmp(one, other, shallow=False)
    return ours


@pytest.mark.parametrize("kind", ADDED)
def test_sif_add(peer, pair, kind):
    assert both(peer, pair, "add", "SIF", "img.def", *ADDED[kind]).returncode == 0
    same(peer, "sif", "list", "b.sif")
    same(peer, "sif", "info", "4", "b.sif")


def test_a_history_of_changes(peer, pair):
    for argv in (
        ["add", "SIF", "img.def", *ADDED["partition"]],
        ["add", "SIF", "img.def", *ADDED["signature"]],
        ["setprim", "4", "SIF"],
        ["setprim", "4", "SIF"],
        ["del", "2", "SIF"],
        ["add", "SIF", "img.def", *ADDED["json"]],
        ["del", "5", "SIF"],
        ["setprim", "3", "SIF"],
        ["del", "3", "SIF"],
        ["add", "SIF", "plain.sqfs", "--datatype", "4", "--parttype", "2", "--partfs", "1", "--partarch", "2"],
    ):
        assert both(peer, pair, *argv).returncode == 0, argv
        same(peer, "sif", "list", "b.sif")
        same(peer, "sif", "header", "b.sif")


@pytest.mark.parametrize(
    "argv",
    [
        ["del", "9", "SIF"],
        ["info", "9", "SIF"],
        ["dump", "x", "SIF"],
        ["setprim", "1", "SIF"],
        ["add", "SIF", "img.def"],
        ["add", "SIF", "img.def", "--datatype", "4"],
        ["add", "SIF", "missing", "--datatype", "1"],
        ["add", "SIF", "img.def", "--datatype", "4", "--parttype", "2", "--partfs", "1", "--partarch", "2"],
        ["add", "SIF", "img.def", "--datatype", "5", "--signhash", "1", "--signentity", "4E"],
        ["add", "SIF", "img.def", "--datatype", "9"],
    ],
    ids=" ".join,
)
def test_what_both_refuse(peer, pair, argv):
    assert both(peer, pair, *argv).returncode != 0


def test_an_empty_file(peer):
    assert peer.bollard("sif", "new", "empty.sif").returncode == 0
    assert peer.apptainer("sif", "new", "their-empty.sif").returncode == 0
    os.chown(Path(peer.folder, "empty.sif"), apptainer.UID, apptainer.UID)
    ours, theirs = (Path(peer.folder, name).read_bytes() for name in ("empty.sif", "their-empty.sif"))
    assert ours[:48] + ours[80:] == theirs[:48] + theirs[80:]  # all but identity and times
    same(peer, "sif", "list", "empty.sif")
    same(peer, "sif", "header", "their-empty.sif")


def test_what_bollard_changed_runs(peer, pair):
    for argv in (["add", "b.sif", "img.def", *ADDED["json"]], ["del", "1", "b.sif"]):
        assert peer.bollard("sif", *argv).returncode == 0
    done = peer.apptainer("run", "b.sif", "x")
    assert (done.returncode, done.stdout) == (0, "run x\n")


@pytest.mark.parametrize("sparse", [[], ["--sparse"]])
def test_an_overlay_in_a_sif(peer, pair, sparse):
    assert peer.bollard("overlay", "create", *sparse, "--create-dir", "/data/new", "b.sif").returncode == 0
    same(peer, "sif", "list", "b.sif")
    script = ["sh", "-c", "test -d /data/new && echo kept > /data/new/file"]
    Path(peer.folder, "b.sif").chmod(0o777)
    # Its directories belong to who made it, here root: as Apptainer's --fakeroot option wants them.
    done = peer.apptainer("exec", "--fakeroot", "--writable", "b.sif", *script)
    assert done.returncode == 0, done.stderr
    done = peer.apptainer("exec", "b.sif", "cat", "/data/new/file")
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr


def test_both_refuse_a_second_overlay(peer, pair):
    assert peer.apptainer("overlay", "create", "a.sif").returncode == 0
    for name in ("a.sif", "root"):
        assert peer.apptainer("overlay", "create", name).returncode != 0
        assert peer.bollard("overlay", "create", name).returncode != 0


def test_an_overlay_as_a_file(peer):
    assert peer.bollard("overlay", "create", "--size", "65", "overlay.img").returncode == 0
    path = Path(peer.folder, "overlay.img")
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (65 << 20, 0o600)
    os.chown(path, apptainer.UID, apptainer.UID)
    for script, text in (("echo kept > /file", ""), ("cat /file", "kept\n")):
        done = peer.apptainer("exec", "--fakeroot", "--overlay", "overlay.img", "theirs.sif", "sh", "-c", script)
        assert (done.returncode, done.stdout) == (0, text), done.stderr


VARIABLES = """\
# comment
A=1
export B="two words"
C='single $HOME'
D="$HOME/x"
E="line one
line two"
F=${A}3
G='back\\slash "quoted"'
H=
EOL="a\\nb"
I="\\$HOME"
PATH=/my/bin:$PATH
LD_LIBRARY_PATH=/my/lib
T=~
if [ -n "$TZ" ]; then J=$TZ; fi
"""
# What names the one or the other.
OWN = ("APPTAINER_APPNAME=\n", "BOLLARD_", "PS1=", "PROMPT_COMMAND=", "USER_PATH=", "LC_CTYPE=")


def environment(text):
    return sorted(line for line in text.splitlines(keepends=True) if not line.startswith(OWN))


@pytest.mark.parametrize(
    "argv",
    [
        ["exec", "--app", "foo", "IMAGE", "/bin/env"],
        ["exec", "--app", "bar-2", "IMAGE", "/bin/env"],
        ["exec", "IMAGE", "/bin/env"],
        ["exec", "--env-file", "vars.env", "IMAGE", "/bin/env"],
        ["exec", "--env-file", "vars.env,more.env", "--env", "B=cli", "IMAGE", "/bin/env"],
        ["exec", "--env-file", "vars.env", "--env-file", "more.env", "IMAGE", "/bin/env"],
        ["exec", "--app", "foo", "--env-file", "vars.env", "IMAGE", "/bin/env"],
        ["exec", "--cleanenv", "--app", "foo", "IMAGE", "/bin/env"],
    ],
    ids=" ".join,
)
def test_the_environment(peer, argv):
    Path(peer.folder, "vars.env").write_text(VARIABLES)
    Path(peer.folder, "more.env").write_text("A=2\nK=second\n")
    argv = ["theirs.sif" if word == "IMAGE" else word for word in argv]
    theirs, ours = peer.apptainer(*argv), peer.bollard_as_user(*argv)
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert environment(ours.stdout) == environment(theirs.stdout)


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--app", "foo", "IMAGE", "a", "b c"],
        ["run", "--app", "bar-2", "IMAGE"],
        ["run", "--app", "missing", "IMAGE"],
        ["exec", "--app", "missing", "IMAGE", "true"],
        ["test", "--app", "foo", "IMAGE"],
        ["test", "--app", "bar-2", "IMAGE"],
        ["exec", "--app", "foo", "IMAGE", "sh", "-c", "echo $SCIF_APPNAME"],
        ["exec", "--env-file", "missing.env", "IMAGE", "true"],
    ],
    ids=" ".join,
)
def test_apps(peer, argv):
    argv = ["theirs.sif" if word == "IMAGE" else word for word in argv]
    theirs, ours = peer.apptainer(*argv), peer.bollard_as_user(*argv)
    lines = [line for line in theirs.stdout.splitlines() if not line.startswith("Could not locate the container app")]
    assert (ours.returncode, ours.stdout.splitlines()) == (theirs.returncode, lines), ours.stderr + theirs.stderr
