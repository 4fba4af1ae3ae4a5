# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site check` where nothing is installed, and the parts of it that need no node."""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError
from bollard.spank_plugin import check, install, probes
from bollard.spank_plugin.check import FAILURE, OK, WARNING, Finding
from bollard.spank_plugin.install import Where


def test_a_machine_without_bollard(tmp_path):
    """What the machine can do is told all the same, and the installation is missing once."""
    where = Where(f"{tmp_path}/bollard", str(tmp_path), str(tmp_path), f"{tmp_path}/bollard.yaml")
    found = list(check.findings(where))
    assert [row for row in found if row.check == "kernel"][0].text == f"Linux {os.uname().release}"
    assert [row.check for row in found if str(tmp_path) in row.text] == ["installation"]
    for row in found:
        assert row.state in (OK, WARNING, FAILURE) and row.text and "\n" not in row.text, row
        assert bool(row.fix) == (row.state != OK), row
    assert check.status(found) == FAILURE


def test_the_worst_counts():
    rows = [Finding("a", OK, ""), Finding("b", WARNING, "", "x")]
    assert check.status(rows[:1]) == OK and check.status(rows) == WARNING
    assert check.status([*rows, Finding("c", FAILURE, "", "x")]) == FAILURE


def _refuse():
    raise BollardError("no such thing", "do something")


def test_an_attempt_tells_how_it_went():
    assert probes.attempt(lambda: "well") == (True, "well")
    assert probes.attempt(_refuse) == (False, "no such thing")
    assert probes.attempt(lambda: str(os.open("/no/such/file", os.O_RDONLY)))[1] == (
        "/no/such/file: No such file or directory"
    )
    assert probes.attempt(lambda: os._exit(3)) == (False, "the attempt was killed")


def test_an_attempt_is_made_by_no_root():
    assert probes.attempt(lambda: str(os.geteuid())) == (True, str(os.geteuid() or probes.NOBODY))


def test_settings_of_slurm(tmp_path):
    conf = tmp_path / "slurm.conf"
    assert install.plugstack_file(str(tmp_path)) == f"{tmp_path}/plugstack.conf"
    conf.write_text("# SlurmdSpoolDir=/a\nslurmdspooldir = /b/%n # c\nPlugStackConfig=/etc/p.conf\nX\n")
    assert install.slurm_setting(str(tmp_path), "SlurmdSpoolDir") == "/b/%n"
    assert install.slurm_setting(str(tmp_path), "X") == ""
    assert install.plugstack_file(str(tmp_path)) == "/etc/p.conf"
    where = Where("/opt/b", str(tmp_path))
    assert install.plugstack_line(where) == "required /opt/b/spank_bollard.so spool=/b/%n\n"


def test_nothing_is_known_of_what_is_not_there(tmp_path):
    for text in (None, "{", "[]{}"):
        if text is not None:
            (tmp_path / install.MANIFEST).write_text(text)
        try:
            install.read_manifest(str(tmp_path))
        except BollardError as error:
            assert str(tmp_path) in str(error)
        else:
            raise AssertionError(text)
