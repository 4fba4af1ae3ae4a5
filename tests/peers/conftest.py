# SPDX-License-Identifier: BSD-3-Clause
"""The peer's tree, and images made by both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apptainer
import pytest
from tree import IMAGES, ROOT, Machine

from bollard.runtime.image import sif, sif_write

TOP = Path(__file__).resolve().parents[2]
DEFINITION = """\
Bootstrap: localimage
From: {root}

%labels
    Author "A <b> & c"
    Version 1.2

%help
    How to use it.

    Two <lines>.

%environment
    export GREETING="hello world"

%runscript
    echo run "$@"

%startscript
    echo start "$@"

%test
    exec true

%appinstall foo
    touch installed
%appenv foo
    export FOO=bar
    LOCAL=1
%applabels foo
    Maker me
%apphelp foo
    Help for foo.
%apprun foo
    echo foo "$@" $SCIF_APPNAME $FOO
%apptest foo
    echo test of foo
%appstart foo
    echo start foo
%appinstall bar-2
    touch x
%apphelp bar-2
    Help for bar.
"""


def write_plain(path, part):
    """A SIF file without random parts and without the digest of its partition, which Apptainer does not know."""
    objects = (
        sif_write.Object(sif.DEFFILE, "", b"bootstrap: scratch\n"),
        sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, b'{"data":{"attributes":{}},"type":"container"}'),
    )
    with sif_write.Writer(str(path), "x86_64", objects) as writer:
        with open(writer.path, "r+b") as file:
            file.seek(writer.offset)
            file.write(part)
        writer.finish()


def install(prefix):
    """Of the installation, what `bollard exec` needs."""
    sys.path.insert(0, str(TOP / "spank_plugin"))
    import build

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        (out / "session").mkdir(parents=True)
        (out / "session/README").touch()
        build.copy_python(out)
        build.build_launcher(out)
        build.build_syscalls(out / "python/bollard/runtime/system", Path(scratch))
        build.complete(out, prefix)
        shutil.copytree(out, prefix)
    subprocess.run(["chmod", "-R", "a+rX", prefix], check=True)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    if not (ROOT / IMAGES[1:] / ".made").exists():
        pytest.skip("needs the tree that `make peers` makes")
    made = Machine()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def peer(request):
    tree = request.config.getoption("--apptainer-tree")
    if not tree:
        pytest.skip(
            "needs --apptainer-tree=DIR, a Debian tree with apptainer and busybox-static; see tests/peers/README.md"
        )
    # Not pytest's directory, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="bollard-peers-"))
    folder.chmod(0o777)
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "tmp").mkdir()
    shutil.copy(Path(tree, "bin/busybox"), root / "bin")
    for name in ("sh", "cat", "env", "ls", "touch", "true"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    subprocess.run(["chown", "-R", "-h", f"{apptainer.UID}:{apptainer.UID}", root], check=True)
    found = apptainer.Peer(tree, str(folder))
    (folder / "img.def").write_text(DEFINITION.format(root=root))
    done = found.apptainer("build", "theirs.sif", "img.def")
    assert done.returncode == 0, done.stderr
    done = found.apptainer("build", "--sandbox", "sandbox", "theirs.sif")
    assert done.returncode == 0, done.stderr
    done = found.bollard("build", "ours.sif", "sandbox", SOURCE_DATE_EPOCH="1700000000")
    assert done.returncode == 0, done.stderr
    part = found.bollard("sif", "dump", "3", "theirs.sif", binary=True).stdout.encode("latin-1")
    (folder / "plain.sqfs").write_bytes(part)
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    try:
        write_plain(folder / "plain.sif", part)
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
    shutil.copy(folder / "theirs.sif", folder / "bare.sif")  # without its JSON object
    assert found.bollard("sif", "del", "2", "bare.sif").returncode == 0
    for path in folder.glob("*.s*"):
        os.chown(path, apptainer.UID, apptainer.UID)
    install(found.prefix)
    yield found
    shutil.rmtree(folder)
