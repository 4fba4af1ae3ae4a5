#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make the source release dist/bollard-VERSION.tar.gz from a checkout.

It holds every file that git does not ignore, with the version written into runtime/_root/__init__.py and
the spec file, and builds without git. The same commit gives the same bytes.

    python3 packaging/source_release.py [DIRECTORY]
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
SPEC = "packaging/bollard.spec"
OUT_OF_RELEASE = (".ci/",)  # of use in a checkout only


def git(*words: str) -> bytes:
    """The output of git in the checkout; ends this program if git fails."""
    done = subprocess.run(["git", "-c", "safe.directory=*", *words], cwd=TOP, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"dist: git {words[0]} failed in {TOP}: run this in a git checkout")
    return done.stdout


def files() -> list[str]:
    """The names of the files in the release, sorted."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    return sorted(name for name in names if not name.startswith(OUT_OF_RELEASE) and os.path.lexists(TOP / name))


def has_section(changes: str, number: str) -> bool:
    """Whether the text of CHANGELOG.md has a section for a release: needed for a tag, not for a commit after it."""
    plain = re.fullmatch(r"[0-9.]+((a|b|rc)[0-9]+)?", number)
    return not plain or f"\n## {number}\n" in changes


def make(folder: Path, wanted: str | None = None) -> Path:
    """Write the release into `folder`; returns its path. `wanted` is its version; None for that of the checkout."""
    found = importlib.util.spec_from_file_location("bollard_version", str(TOP / "spank_plugin/version.py"))
    assert found and found.loader
    version = importlib.util.module_from_spec(found)
    found.loader.exec_module(version)
    number = wanted or version.version(TOP)
    if not wanted and not has_section((TOP / "CHANGELOG.md").read_text(), number):
        sys.exit(f"dist: CHANGELOG.md has no section `## {number}`: write what is new in it, commit, and move the tag")
    when = int(git("log", "-1", "--format=%ct"))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"bollard-{number}.tar.gz"
    building = target.with_suffix(".new")
    with (
        open(building, "wb") as file,
        gzip.GzipFile("", "wb", 9, file, when) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files():
            member = archive.gettarinfo(str(TOP / name), f"bollard-{number}/{name}")
            member.uid, member.gid, member.uname, member.gname, member.mtime = 0, 0, "root", "root", when
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            if not member.isreg():
                archive.addfile(member)
                continue
            data = (TOP / name).read_bytes()
            if name == version.ROOT:
                data = version.stamped(data.decode(), number).encode()
            elif name == SPEC:
                data = data.replace(b"@VERSION@", number.encode())
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    building.rename(target)
    return target


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "dist"))
