# SPDX-License-Identifier: BSD-3-Clause
"""bollard under Apptainer's names: versions as callers read them, and where the names may be made."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import bollard
from bollard.runtime import installed
from bollard.runtime.cli import main, names

PROGRAM = f"#!{sys.executable}\nimport sys\nfrom bollard.runtime.cli.main import main\nsys.exit(main())\n"


@pytest.fixture
def command(tmp_path):
    """Run the command under a name: a link in `names/` to bin/bollard."""
    program = tmp_path / "bin/bollard"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def run(name, *words, path="/usr/bin:/bin"):
        place = tmp_path / ("bin" if name == "bollard" else "names") / name
        return subprocess.run(
            [str(place), *words], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )

    made = run("bollard", "names", str(tmp_path / "names"))
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"made {', '.join(installed.OTHER_NAMES)} in {tmp_path}/names; " + (
        f"to use them: PATH={tmp_path}/names:$PATH\n"
    )
    return run


@pytest.mark.parametrize("name", installed.PEERS)
def test_versions_as_callers_read_them(command, name):
    line = command(name, "--version").stdout
    assert line == f"apptainer version 1.4.5+bollard.{bollard.__version__}\n"
    # cwltool: the flavour, and the number up to the first other character.
    assert re.findall(r"^(.+) version ([0-9\.]+)", line) == [("apptainer", "1.4.5")]
    # Snakemake 9 and 7: the word after "apptainer version"; else the last word, which has to be 2.4.1 or later.
    assert tuple(map(int, line.split()[-1].split("+")[0].split("."))) >= (1, 0, 0)
    assert command(name, "version").stdout == f"1.4.5+bollard.{bollard.__version__}\n"


def test_the_own_name(command):
    assert command("bollard", "--version").stdout == command("bollard", "version").stdout
    assert command("bollard", "--version").stdout == f"bollard {bollard.__version__}\n"


def test_an_image_launcher_runs(command):
    done = command("run-singularity", "/nowhere/img.sif", "--version")
    assert done.returncode == 255 and done.stderr.startswith("bollard: /nowhere/img.sif: no such file"), done


@pytest.mark.parametrize("words", [["-q"], ["--silent", "--nocolor"], ["-d", "-v", "-s"], ["--build-config"]])
def test_global_options(command, words):
    assert command("apptainer", *words, "version").stdout.startswith("1.4.5+bollard.")


@pytest.mark.parametrize("words", [["--config", "f"], ["-c", "f"], ["--config=f"], ["-q", "-cf"]])
def test_a_configuration_of_apptainer_is_refused(command, words):
    done = command("apptainer", *words, "version")
    assert done.returncode == 255 and "Apptainer's configuration file has no effect" in done.stderr


def test_where_the_names_may_be(command, tmp_path):
    folder = tmp_path / "names"
    assert {name: os.readlink(folder / name) for name in os.listdir(folder)} == dict.fromkeys(
        installed.OTHER_NAMES, str(tmp_path / "bin/bollard")
    )
    assert command("bollard", "names", str(folder)).returncode == 0  # again

    other = tmp_path / "other"
    other.mkdir()
    real = other / "singularity"
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    done = command("bollard", "names", str(other))
    assert (done.returncode, sorted(os.listdir(other))) == (255, ["singularity"])
    assert done.stderr.startswith(f"bollard: {real}: is there already")
    said = command("bollard", "names", str(folder), path=f"{other}:/usr/bin:/bin").stdout
    assert said.splitlines()[1:] == [f"{real} is another singularity; the first in PATH wins"]


def test_names_of_a_called_name():
    assert main.main(["version"]) == 0  # called with words: the name of the process does not count
    assert names.version("run-singularity", "1") == "bollard 1"
