# SPDX-License-Identifier: BSD-3-Clause
"""Images from a Dockerfile, requirements.txt and a script, built for real. Needs Debian's mirror, PyPI and buildah."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import Builder
from small_trees import PROGRAMS, owned, write
from test_definitions import built


@pytest.fixture
def context(place: Path) -> Path:
    """A directory with the Dockerfile of a small image: programs of this machine and their libraries."""
    root = place / "root"
    for name in (*PROGRAMS, "chown"):
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for source, target in [(path, f"/bin/{name}"), *((file, file) for file in re.findall(r"(/\S+) \(0x", said))]:
            file = root / target.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, file)
    write(
        place,
        "FROM scratch\nARG COLOUR=red\nCOPY root /\nCOPY Dockerfile /opt/\n"
        "RUN mkdir /made && echo $COLOUR > /made/colour && chown 5:5 /made\n"
        'ENV PLACE=/opt\nWORKDIR /made\nENTRYPOINT ["/bin/cat"]\nCMD ["colour"]\n',
        "Dockerfile",
    )
    owned(place)
    return place


def test_a_dockerfile(builder: Builder, context: Path) -> None:
    builder.build("--build-arg", "COLOUR=blue", "--sandbox", context / "box", context / "Dockerfile")
    assert (context / "box/made/colour").read_text() == "blue\n"
    assert "/bin/cat" in (context / "box/.singularity.d/runscript").read_text()
    assert "PLACE" in (context / "box/.singularity.d/env/10-docker2singularity.sh").read_text()
    builder.build(context / "img.sif", context / "Dockerfile")
    assert builder.leftovers() == []
    assert not list(builder.work.glob(".local")) and not list(builder.work.glob(".config"))


def test_a_dockerfile_that_fails(builder: Builder, context: Path) -> None:
    write(context, "FROM scratch\nCOPY root /\nRUN false\n", "Dockerfile")
    assert "Dockerfile: buildah ended with exit status 1" in builder.refused(context / "a.sif", context / "Dockerfile")
    write(context, "", "exists.sif")
    assert "exists" in builder.refused(context / "exists.sif", context / "Dockerfile")
    empty = context / "bin"
    empty.mkdir()
    line = builder.refused(context / "a.sif", context / "Dockerfile", PATH=str(empty))
    assert "built by buildah, which is not installed" in line and "the package buildah" in line


def test_requirements_and_a_script(builder: Builder, place: Path) -> None:
    base = built(builder, "base")
    write(place, "iniconfig==2.0.0\n", "requirements.txt")
    builder.build("--base", base, place / "req.sif", place / "requirements.txt")
    write(
        place,
        '# /// script\n# requires-python = ">=3.9"\n# dependencies = ["packaging"]\n# ///\n'
        "import iniconfig, packaging.version, sys\nprint(sys.argv[1:], packaging.version.Version('1'))\n",
        "fit.py",
    )
    if sys.version_info >= (3, 11):
        builder.build("--base", place / "req.sif", "--sandbox", place / "fit", place / "fit.py")  # a local image
        assert (place / "fit/opt/bollard/fit.py").exists()
        assert list((place / "fit/opt/venv/lib").glob("python3.*/site-packages/packaging"))
        write(place, (place / "fit.py").read_text().replace(">=3.9", ">=9"), "new.py")
        words = [*builder.options(), "--base", place / "req.sif", place / "a.sif", place / "new.py"]
        status, _, err = builder.run("build", *words)
        assert status == 255 and "and the script needs >=9" in err, err


def test_what_a_source_stands_for(builder: Builder, place: Path, shell: str) -> None:
    write(place, "six\n", "requirements.txt")
    status, out, err = builder.run("build", "--print", "--base", "docker://python:3", place / "requirements.txt")
    assert (status, err) == (0, "") and out.splitlines()[1:3] == ["Bootstrap: docker", "From: python:3"]
    definition = write(place, shell)
    assert builder.run("build", "--print", definition)[1] == definition.read_text()
    write(place, "FROM scratch\n", "Dockerfile")
    assert "Bootstrap: oci-archive" in builder.run("build", "--print", "x.sif", place / "Dockerfile")[1]
    assert "from which base image?" in builder.refused(place / "a.sif", place / "requirements.txt")
