# SPDX-License-Identifier: BSD-3-Clause
"""What a stateless node does at boot with the overlay for Warewulf: without the site's settings it takes no jobs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

OVERLAY = Path(__file__).resolve().parents[2] / "contrib/warewulf/overlays/bollard/rootfs"


@pytest.mark.parametrize("succeeds", [True, False])
def test_slurmd_starts_only_with_the_site_s_settings(tmp_path, succeeds):
    for folder in ("etc/bollard", "usr/lib/bollard", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    mark, settings = tmp_path / "etc/bollard/configured", tmp_path / "usr/lib/bollard/site.conf"
    mark.write_text("of the image, or of the boot before")
    settings.write_text("of the image")
    program = f"#!/bin/sh\n[ \"$*\" = 'site configure' ] || exit 2\nexit {int(not succeeds)}\n"
    (tmp_path / "bin/bollard").write_text(program)
    (tmp_path / "bin/bollard").chmod(0o755)
    text = (OVERLAY / "warewulf/init.d/60-bollard").read_text()
    text = text.replace("/etc/bollard", str(mark.parent)).replace("/usr/lib/bollard", str(settings.parent))
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", text], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (mark.exists(), settings.exists()) == (succeeds, succeeds)
    assert done.returncode == 0 and ("slurmd does not start" in done.stdout) != succeeds


def test_the_unit_asks_for_the_mark():
    unit = (OVERLAY / "etc/systemd/system/slurmd.service.d/bollard.conf").read_text()
    assert "AssertPathExists=/etc/bollard/configured\n" in unit
    assert "mark=/etc/bollard/configured\n" in (OVERLAY / "warewulf/init.d/60-bollard").read_text()
