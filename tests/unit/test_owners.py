# SPDX-License-Identifier: BSD-3-Clause
"""Whose the way to a file is."""

from __future__ import annotations

import os

import pytest

from bollard.runtime.system import owners

ME = os.getuid()


@pytest.fixture
def tree(tmp_path):
    """top/lib/pkg/file, and top/link leading to top/lib/pkg by way of another link."""
    (tmp_path / "lib/pkg").mkdir(parents=True)
    (tmp_path / "lib/pkg/file").write_text("")
    (tmp_path / "way").symlink_to("lib")
    (tmp_path / "link").symlink_to("way/pkg")
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return tmp_path


def faults(tree, *names):
    return owners.faults([f"{tree}/{name}" for name in names], owner=ME, top=str(tree))


def test_all_is_well(tree):
    assert faults(tree, "lib/pkg/file", "link/file") == []


def test_the_way_leads_through_links(tree):
    way = [os.path.relpath(path, tree) for path in owners.way(f"{tree}/link/file", str(tree))]
    assert way[:2] == [".", "link"] and "way" in way
    assert way[-3:] == ["lib", "lib/pkg", "lib/pkg/file"]


def test_a_link_from_the_top_on(tree):
    """The way then leads through other directories than the path says."""
    (tree / "far").symlink_to("/usr/bin")
    assert list(owners.way(f"{tree}/far/env", str(tree)))[2:4] == ["/usr", "/usr/bin"]


def test_dots_and_loops_end(tree):
    assert list(owners.way(f"{tree}/lib/../lib", str(tree)))[-1] == f"{tree}/lib"
    (tree / "round").symlink_to("round")
    assert len(list(owners.way(f"{tree}/round/file", str(tree)))) < 100


@pytest.mark.parametrize("spoilt", ["", "lib", "lib/pkg", "lib/pkg/file"])
@pytest.mark.parametrize(("bits", "whom"), [(0o020, "group"), (0o002, "everybody"), (0o1002, "everybody")])
def test_what_others_can_write(tree, spoilt, bits, whom):
    path = tree / spoilt
    path.chmod(0o755 | bits)
    for name in ("lib/pkg/file", "link/file"):
        (fault,) = faults(tree, name)
        assert fault.path == str(path).rstrip("/") and whom in fault.text and f"{0o755 | bits:04o}" in fault.text
        assert fault.fix == (f"keep what root runs out of {path}" if bits & 0o1000 else f"chmod go-w {path}")


@pytest.mark.skipif(ME != 0, reason="chown needs root")
@pytest.mark.parametrize("spoilt", ["", "lib", "lib/pkg/file", "link", "way"])
def test_what_belongs_to_others(tree, spoilt):
    os.chown(tree / spoilt, 4321, 4321, follow_symlinks=False)
    (fault,) = faults(tree, "link/file")
    assert fault.path == str(tree / spoilt) and "belongs to user 4321" in fault.text and "chown -h root" in fault.fix


def test_each_fault_once(tree):
    (tree / "lib").chmod(0o777)
    assert len(faults(tree, "lib/pkg/file", "lib/pkg", "lib", "link")) == 1


def test_what_is_not_there(tree):
    (fault,) = faults(tree, "lib/none")
    assert "No such file" in fault.text and fault.fix == "bollard site install"


def test_a_whole_tree(tree):
    found = {os.path.relpath(path, tree) for path in owners.tree(str(tree))}
    assert found == {".", "lib", "lib/pkg", "lib/pkg/file", "way", "link"}


def test_the_same_answer_as_the_plugin(tree, tmp_path):
    """What slurmstepd asks at each step, and what the administrator is told, must not differ."""
    import compiled

    ffi, library = compiled.load("root_owned", tmp_path, "int owned_by_root(const char *path);")
    for path in ("/usr/bin", "/etc/passwd", "/tmp", str(tree)):
        assert (library.owned_by_root(path.encode()) == 0) == (owners.faults([path]) == []), path
