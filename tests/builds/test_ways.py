# SPDX-License-Identifier: BSD-3-Clause
"""The ways to be root for a build: each installs packages, and keeps the owners that it can keep."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from building import USER, Builder
from test_definitions import built

from bollard.runtime.image import image
from bollard.runtime.system import rootless

DEFINITION = """\
Bootstrap: localimage
From: base.sif
%post
    apt-get -q -y --no-install-recommends install cron
    useradd --create-home keeper
    install -o keeper -g daemon -m 4750 /bin/true /opt/true
    mkdir /srv/closed
    chown keeper /srv/closed
    chmod 0 /srv/closed
%test
    id keeper
    test -d /srv/closed
"""


def owner(path: Path, name: str) -> str:
    opened = image.open_image(str(path))
    opened.close()
    argv = ["unsquashfs", "-lln", "-o", str(opened.offset), str(path), name]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return next(line.split()[1] for line in lines if line.endswith(f"/{name}"))


@pytest.fixture
def definition(builder: Builder) -> str:
    built(builder, "base")
    (builder.work / "ways.def").write_text(DEFINITION)
    return "ways.def"


def test_one_id_and_a_filter(builder: Builder, definition: str) -> None:
    builder.build("-F", "--ignore-subuid", "ways.sif", definition)
    assert owner(builder.work / "ways.sif", "opt/true") == "0/0"
    assert builder.leftovers() == []


def test_one_id_and_fakeroot(builder: Builder, definition: str) -> None:
    """Inside, owners are as asked; the image's are root's."""
    (builder.work / "fake.def").write_text(
        DEFINITION.replace("%test", '    test "$(stat -c %U /opt/true)" = keeper\n%test')
    )
    builder.build("-F", "--ignore-subuid", "--ignore-seccomp", "ways.sif", "fake.def")
    assert owner(builder.work / "ways.sif", "opt/true") == "0/0"
    assert builder.leftovers() == []


def test_subordinate_ids(builder: Builder, definition: str, tmp_path: Path) -> None:
    """As root of the machine: /etc/subuid, /etc/subgid and /etc/passwd that know the user, for this build alone."""
    if os.geteuid() != 0:
        pytest.fail("only root can give the user subordinate ids")
    files = {"subuid": f"{USER}:1000000:65536\n", "subgid": f"{USER}:1000000:65536\n"}
    files["passwd"] = Path("/etc/passwd").read_text() + f"builder:x:{USER}:{USER}::/:/bin/sh\n"
    script = ""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644)
        script += f"touch /etc/{name} && mount --bind {tmp_path}/{name} /etc/{name} && "
    inside = builder._replace(prefix=("unshare", "--mount", "sh", "-c", script + 'exec "$@"', "sh"))
    inside.build("-F", "ways.sif", definition)
    assert owner(builder.work / "ways.sif", "opt/true") == "1000/1"
    assert owner(builder.work / "ways.sif", "srv/closed") == "1000/0"
    inside.build("-s", "ways-box", definition)
    assert (builder.work / "ways-box/opt/true").stat().st_uid == 1000000 + 1000 - 1
    inside.build("-F", "packed.sif", "ways-box")  # has a directory that the user cannot read
    assert owner(builder.work / "packed.sif", "srv/closed") == "1000/0"
    broken = DEFINITION.replace("%test", "    false\n%test")
    (builder.work / "broken.def").write_text(broken)
    assert "broken.def:10: %post failed" in inside.refused("-F", *inside.options(), "broken.sif", "broken.def")


def test_the_filter_is_there() -> None:
    from bollard.runtime.system import linux

    assert linux.can_fake_ownership()
    assert rootless.fakeroot_files()
