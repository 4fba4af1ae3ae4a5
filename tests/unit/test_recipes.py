# SPDX-License-Identifier: BSD-3-Clause
"""Definitions made from requirements.txt, environment.yml and scripts, and what is refused."""

from __future__ import annotations

import sys

import pytest

from bollard.runtime.build import definition, dockerfile, recipes
from bollard.runtime.errors import BollardError

BASES = recipes.Bases("/apps/python.sif", "docker://micromamba:1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name, text, bases=BASES):
    with open(name, "w") as file:
        file.write(text)
    return definition.parse(recipes.definition(name, bases).encode(), name, {})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("requirements.txt", recipes.REQUIREMENTS),
        ("requirements-dev.txt", recipes.REQUIREMENTS),
        ("dev_requirements.txt", recipes.REQUIREMENTS),
        ("environment.yml", recipes.CONDA),
        ("my-environment.gpu.yaml", recipes.CONDA),
        ("fit.py", recipes.SCRIPT),
        ("img.def", ""),
        ("img.sif", ""),
        ("requirements", ""),
    ],
)
def test_which_files(here, name, kind):
    (here / name).write_text("")
    assert recipes.kind(name) == kind
    assert recipes.kind(f"none/{name}") == ""
    assert not dockerfile.is_one(name)


@pytest.mark.parametrize("name", ["Dockerfile", "Containerfile", "Dockerfile.gpu", "my.dockerfile"])
def test_names_of_dockerfiles(here, name):
    assert not dockerfile.is_one(name)
    (here / name).write_text("FROM scratch\n")
    assert dockerfile.is_one(name) and recipes.kind(name) == ""


def test_requirements(here):
    (here / "more.txt").write_text("six\n-c limits.txt\n")
    (here / "limits.txt").write_text("six==1.16\n")
    text = "numpy>=1.20  # numbers\n-r more.txt\nuvloop; sys_platform == 'win32'\n"
    text += "rich[all] == 13 \\\n  --hash=sha256:00\n"
    found = made("requirements.txt", text)
    stage = found.stages[0]
    assert stage.header == {"bootstrap": "localimage", "from": "/apps/python.sif"}
    assert {(item.source, item.target) for item in stage.files[0].transfers} == {
        (name, f"/opt/bollard/{name}") for name in ("requirements.txt", "more.txt", "limits.txt")
    }
    assert "--disable-pip-version-check -r /opt/bollard/requirements.txt\n" in stage.script("post").text
    assert stage.script("test").text.rstrip().endswith("numpy six rich")
    assert stage.script("runscript").text.strip() == 'exec /opt/venv/bin/python "$@"'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e .", "requirements.txt:2: -e . is a local project"),
        ("./wheels/x.whl", "is a local project"),
        ("-r ../other.txt", "lies outside of the directory"),
        ("-r missing.txt", "missing.txt: No such file"),
    ],
)
def test_requirements_that_cannot_be_copied(line, reason):
    with pytest.raises(BollardError) as caught:
        made("requirements.txt", f"six\n{line}\n")
    assert reason in caught.value.message


def test_an_environment():
    stage = made("environment.yml", "name: x\ndependencies:\n  - python=3.12\n").stages[0]
    assert stage.header == {"bootstrap": "docker", "from": "micromamba:1"}
    assert "micromamba create -y -p /opt/env" in stage.script("post").text
    with pytest.raises(BollardError, match="names another file"):
        made("environment.yml", "dependencies:\n  - pip:\n    - -r requirements.txt\n")


SCRIPT = """\
# /// script
# requires-python = ">=3.9"
# dependencies = [
#   "six",
#   "rich>=13; python_version>'3'",
# ]
# ///
print(1)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
def test_a_script():
    stage = made("fit.py", SCRIPT.replace("'3'", "3")).stages[0]
    post = stage.script("post").text
    assert "'six' \\\n        'rich>=13; python_version>3'" in post and "'>=3.9'" in post
    assert stage.script("runscript").text.strip() == 'exec /opt/venv/bin/python /opt/bollard/fit.py "$@"'
    assert [item.target for item in stage.files[0].transfers] == ["/opt/bollard/fit.py"]
    for text, reason in [
        ("print(1)\n", "no block of metadata"),
        (SCRIPT + SCRIPT, "more than one block"),
        (SCRIPT, "is no requirement"),  # a quotation mark would end the word in %post
        ("# /// script\n# dependencies = 1\n# ///\n", "must be a list of texts"),
        ("# /// script\n# dependencies = [\n# ///\n", "is not TOML"),
        ('# /// script\n# dependencies = ["--index-url=x"]\n# ///\n', "is no requirement"),
    ]:
        with pytest.raises(BollardError, match=reason):
            made("fit.py", text)


def test_a_base_has_to_be_named():
    with pytest.raises(BollardError) as caught:
        made("requirements.txt", "six\n", recipes.Bases())
    assert caught.value.message == "requirements.txt: from which base image?"
    assert "--base IMAGE" in caught.value.hint and "python-base in bollard.yaml" in caught.value.hint


@pytest.mark.parametrize("name", ["a{{ b }}-requirements.txt", "a*-requirements.txt", 'a"-requirements.txt'])
def test_names_with_a_meaning(name):
    with pytest.raises(BollardError, match="a character of this name"):
        made(name, "six\n")
    assert made("a b-requirements.txt", "six\n").stages[0].files[0].transfers[0].source == "a b-requirements.txt"
