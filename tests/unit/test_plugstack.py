# SPDX-License-Identifier: BSD-3-Clause
"""plugstack.conf as text."""

from __future__ import annotations

import pytest

from bollard.spank_plugin import plugstack

FILE = "/etc/slurm/plugstack.conf"
OWN = "/etc/slurm/plugstack.conf.d/bollard.conf"
PATTERN = "/etc/slurm/plugstack.conf.d/*.conf"


@pytest.mark.parametrize(
    ("text", "included"),
    [
        ("", False),
        (f"include {PATTERN}\n", True),
        (f"  include   {PATTERN}  # all\n", True),
        ("include plugstack.conf.d/*\n", True),
        (f"include {OWN}", True),
        ("include /etc/slurm/plugstack.conf.d/bol?ard.conf\n", True),
        (f"# include {PATTERN}\n", False),
        ("include /etc/slurm/*.conf\n", False),
        ("include /etc/slurm/*\n", False),
        ("include /etc/slurm/*/*.conf\n", True),
        ("include /etc/slurm/plugstack.conf.d/[c-z]*.conf\n", False),
        ("include\n", False),
        ("required /a.so include /etc/slurm/plugstack.conf.d/*.conf\n", False),
    ],
)
def test_whether_a_file_is_included(text, included):
    assert plugstack.includes_file(text, FILE, OWN) is included


def test_a_wildcard_hides_dot_files():
    assert not plugstack.includes_file(f"include {PATTERN}\n", FILE, "/etc/slurm/plugstack.conf.d/.bollard.conf")


@pytest.mark.parametrize("text", ["", "optional /a.so x=1\n", "# last line without an end", "\n\n"])
def test_adding_a_line_and_taking_it_away(text):
    added = plugstack.with_include(text, PATTERN)
    assert added.startswith(text) and added.endswith(f"\ninclude {PATTERN}\n"[0 if text else 1 :])
    assert plugstack.includes_file(added, FILE, OWN)
    taken = plugstack.without_include(added, PATTERN)
    assert taken == (text if text.endswith("\n") or not text else text + "\n")


def test_taking_away_leaves_other_lines():
    text = f"include /other/*.conf\ninclude {PATTERN} # ours\nrequired /a.so\n#include {PATTERN}\n"
    assert plugstack.without_include(text, PATTERN) == f"include /other/*.conf\nrequired /a.so\n#include {PATTERN}\n"


def test_plugins():
    text = "# c\n\nrequired /a.so\noptional\t/b.so x=1 y # z\ninclude /c\nrequired\n"
    assert plugstack.plugins(text, FILE) == [
        plugstack.Line(FILE, 3, True, "/a.so", ()),
        plugstack.Line(FILE, 4, False, "/b.so", ("x=1", "y")),
    ]


def test_what_is_effective(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "plugstack.conf").write_text("optional /first.so\ninclude d/*.conf\ninclude d/none*\n")
    (tmp_path / "d/b.conf").write_text("required /b.so\n")
    (tmp_path / "d/a.conf").write_text(f"required /a.so\ninclude {tmp_path}/plugstack.conf\n")  # no endless round
    (tmp_path / "d/c.off").write_text("required /c.so\n")
    lines = plugstack.effective(str(tmp_path / "plugstack.conf"))
    assert [line.plugin for line in lines][:2] == ["/first.so", "/a.so"]
    assert {line.plugin for line in lines} == {"/first.so", "/a.so", "/b.so"}
    with pytest.raises(OSError):
        plugstack.effective(str(tmp_path / "none"))
