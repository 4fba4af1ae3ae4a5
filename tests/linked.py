# SPDX-License-Identifier: BSD-3-Clause
"""Root trees with relative links through "..", as distributions have them, in which a few programs run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("sh", "cat", "date", "ls", "stat", "touch", "pwd")
ZONE = "/usr/share/zoneinfo/Etc/UTC"  # a file of package tzdata, or text that no one reads


def base(top: Path) -> Path:
    """A root tree: programs of this machine, their libraries, and directories that each image has."""
    for folder in ("etc", "home", "proc", "sys", "dev", "run", "tmp", "usr/share/zoneinfo/Etc", "var/tmp", "srv/data"):
        (top / folder).mkdir(parents=True)
    files = set()
    for name in PROGRAMS:
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path
        files.add((path, f"bin/{name}"))
        for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", path], capture_output=True, text=True).stdout):
            files.add((library, library.lstrip("/")))
    for path, place in files:
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, top / place)
    (top / "etc/hosts").write_text("127.0.0.1 image\n")
    (top / ZONE.lstrip("/")).write_text("the image's\n")
    return top


def red_hat(top: Path) -> None:
    (top / "run/munge").mkdir()
    (top / "var/run").symlink_to("../run")
    (top / "data").symlink_to("../srv/data")
    (top / "etc/localtime").symlink_to("../usr/share/zoneinfo/Etc/UTC")
    (top / "etc/resolv.conf").write_text("")


def systemd(top: Path) -> None:
    """/etc/resolv.conf leads to a file that is in no image, for systemd-resolved writes it at run time. Without the
    package tzdata /etc/localtime leads nowhere too."""
    (top / "var/run").symlink_to("../run")
    (top / "data").symlink_to("../srv/data")
    (top / "etc/localtime").symlink_to("/usr/share/zoneinfo/Nowhere")
    (top / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")


def winding(top: Path) -> None:
    """Chains of links, each through directories above."""
    (top / "usr/local/var").mkdir(parents=True)
    (top / "usr/local/var/run").symlink_to("../../../var/../run")
    (top / "var/run").symlink_to("../usr/local/var/run")
    (top / "srv/more").symlink_to("../var/../srv/data")
    (top / "data").symlink_to("../../srv/more")
    (top / "etc/localtime").symlink_to("../etc/../usr/share/../share/zoneinfo/Etc/UTC")
    (top / "run/resolv.conf").write_text("")
    (top / "etc/resolv.conf").symlink_to("../var/run/resolv.conf")


def one_tmp(top: Path) -> None:
    (top / "var/tmp").rmdir()
    (top / "var/tmp").symlink_to("/tmp")


def tmp_below_var(top: Path) -> None:
    (top / "tmp").rmdir()
    (top / "tmp").symlink_to("var/tmp")


KINDS: dict[str, Callable[[Path], None]] = {"red-hat": red_hat, "systemd": systemd, "winding": winding}
