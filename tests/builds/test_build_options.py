# SPDX-License-Identifier: BSD-3-Clause
"""Options of `bollard build` and `bollard pull` that Apptainer has: their effect, on small trees."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from building import Builder
from small_trees import owned, write

from bollard.runtime.image import image


def compression(path: Path) -> str:
    opened = image.open_image(str(path))
    try:
        return opened.compression
    finally:
        opened.close()


def test_arguments_for_mksquashfs(builder: Builder, place: Path, shell: str) -> None:
    definition = write(place, shell)
    builder.build("--mksquashfs-args", "-comp gzip -b 64K", place / "a.sif", definition)
    assert compression(place / "a.sif") == "gzip"
    builder.build("--sandbox", place / "box", definition)
    builder.build("--mksquashfs-args=-comp gzip", place / "b.sif", place / "box")
    assert compression(place / "b.sif") == "gzip"

    assert "no squashfs is made" in builder.refused("--mksquashfs-args=-b 64K", "-s", place / "c", definition)
    assert "close the quotation mark" in builder.refused("--mksquashfs-args=a 'b", place / "c", definition)
    assert "mksquashfs" in builder.refused("--mksquashfs-args=-nonsense", place / "c.sif", definition)


def test_a_test_that_writes(builder: Builder, place: Path, shell: str) -> None:
    text = shell + "%test\n    echo x > /written\n    rm /bin/ls\n    cat /written\n"
    definition = write(place, text)
    assert "%test failed" in builder.refused(place / "a.sif", definition)
    builder.build("--writable-tmpfs", "--sandbox", place / "box", definition)
    assert (place / "box/bin/ls").exists() and not (place / "box/written").exists()


def test_permissions(builder: Builder, place: Path, shell: str) -> None:
    text = shell + "%post\n    mkdir /closed\n    echo x > /closed/file\n    chmod 0 /closed/file /closed\n"
    definition = write(place, text)
    builder.build("--sandbox", place / "asis", definition)
    assert (place / "asis/closed").stat().st_mode & 0o777 == 0
    builder.build("--sandbox", "--fix-perms", place / "fixed", definition)
    assert (place / "fixed/closed").stat().st_mode & 0o777 == 0o700
    assert (place / "fixed/closed/file").stat().st_mode & 0o777 == 0o600


def test_mounts_in_the_words_of_docker(builder: Builder, place: Path, shell: str) -> None:
    (place / "data").write_text("of the host\n")
    owned(place)
    definition = write(place, shell + "%post\n    cat /mnt/data > /copy\n")
    builder.build("--mount", f"type=bind,src={place}/data,dst=/mnt/data,ro", "-s", place / "box", definition)
    assert (place / "box/copy").read_text() == "of the host\n"


def test_what_a_failed_build_leaves(builder: Builder, place: Path, shell: str) -> None:
    definition = write(place, shell + "%post\n    echo x > /half\n    false\n")
    said = builder.refused(place / "a.sif", definition)
    assert "is kept" not in said
    status, _, err = builder.run("build", "--no-cleanup", place / "a.sif", definition)
    kept = re.search(r"the build's directory is kept: (\S+)$", err.strip())
    assert status == 255 and kept, err
    assert (Path(kept[1]) / "root1/half").read_text() == "x\n"
    subprocess.run(["rm", "-rf", kept[1]], check=True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--arch", "arm64"], "--arch arm64: Bootstrap: scratch gives no choice of it"),
        (["--arch-variant", "v7"], "--arch-variant v7: of which architecture?"),
        (["--nv"], "--nv is not supported: the driver is not shown to %post"),
        (["--json"], "--json is not supported: definitions in JSON are not read"),
        (["--encrypt"], "--encrypt: no key was given; give --passphrase, --passphrase-file FILE, or --pem-path FILE"),
        (["--pem-path", "/no-such"], "pem-path /no-such: cannot be read: No such file or directory"),
        (["--passphrase-file", "/dev/null"], "passphrase-file /dev/null: the passphrase is empty"),
        (["--passphrase-file", "/etc/hostname", "--sandbox"], "--sandbox: a directory cannot be encrypted"),
    ],
)
def test_what_is_refused(builder: Builder, place: Path, shell: str, words: list[str], text: str) -> None:
    assert text in builder.refused(*words, place / "a.sif", write(place, shell))
    assert not os.path.lexists(place / "a.sif")
