# SPDX-License-Identifier: BSD-3-Clause
"""The version from git's tag or from the sources, and the metadata for a setuptools that does not read it."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from pathlib import Path

import pytest

from bollard.spank_plugin import version

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("v0.2.0-0-gabc1234", "0.2.0"),
        ("v0.2.0-3-gabc1234", "0.2.1.dev3+gabc1234"),
        ("v1.10-12-gabc1234", "1.11.dev12+gabc1234"),
        ("v1.0.0rc1-2-gabc1234", "1.0.0rc1.dev2+gabc1234"),
    ],
)
def test_from_a_tag(described, expected):
    assert version.from_tag(described) == expected


def sources(folder):
    root = folder / version.ROOT
    root.parent.mkdir(parents=True)
    root.write_text('"""Text."""\n\n__version__ = "7.8.9"\n')
    return folder


def test_without_git(tmp_path):
    """A release that is unpacked in a checkout of something else has the version that it states."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert version.version(sources(tmp_path / "inner")) == "7.8.9"


def test_in_a_checkout(tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false", *words]
        subprocess.run(command, cwd=sources_of, check=True, stdout=subprocess.DEVNULL)

    sources_of = sources(tmp_path / "top")
    git("init", "-q")
    assert version.version(sources_of) == "7.8.9"
    git("add", ".")
    git("commit", "-qm", "one")
    assert version.version(sources_of).startswith("7.8.9.dev1+g")
    git("tag", "-m", "two", "v8.0.0")
    assert version.version(sources_of) == "8.0.0"
    git("commit", "-qm", "two", "--allow-empty")
    assert version.version(sources_of).startswith("8.0.1.dev1+g")


def test_a_version_is_written():
    assert version.stamped('a\n__version__ = "1"\n', "2.dev3+g4") == 'a\n__version__ = "2.dev3+g4"\n'


def test_setup_reads_the_same_metadata():
    tomllib = pytest.importorskip("tomllib", reason="tomllib is in Python 3.11 and later")
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("setup_of_bollard", TOP / "setup.py")
    assert spec and spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    text = (TOP / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    tables = setup.project(text)
    assert {**tables["project"], "scripts": tables["project.scripts"]} == {
        key: value for key, value in project.items() if key != "optional-dependencies"
    }
    assert tables["project.optional-dependencies"] == project["optional-dependencies"]
    assert setup.metadata()["entry_points"] == {"console_scripts": ["bollard = bollard.runtime.cli.main:main"]}


def test_a_release_has_a_section_in_the_changes(monkeypatch):
    """The sources' number is that of the next tag."""
    monkeypatch.syspath_prepend(str(TOP / "packaging"))
    source_release = importlib.import_module("source_release")
    changes = (TOP / "CHANGELOG.md").read_text()
    stated = version.version(TOP).partition(".dev")[0]
    assert source_release.has_section(changes, stated)
    assert not source_release.has_section(changes, "9.9.9") and source_release.has_section(changes, "9.9.9.dev1+gabc")
    assert not source_release.has_section(changes, "9.9.9rc1")
