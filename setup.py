# SPDX-License-Identifier: BSD-3-Clause
"""Build bollard: runtime/, mpi/ and spank_plugin/ become bollard.runtime, bollard.mpi and bollard.spank_plugin.

This is the command and the libraries, with the launcher, for laptops and for images. The Slurm plugin is compiled for
one Slurm and one Python, and installed as root's own: `bollard site install` does that.
Python 3.6 must be able to parse this file: there it prints that a later Python is needed.
The metadata is in pyproject.toml. setuptools before 61 (Debian 11) does not read it there, so this file does.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit(
        "bollard: needs Python 3.9 or later, and %s is %d.%d; install a later one, and use its pip"  # noqa: UP031
        % ((sys.executable,) + sys.version_info[:2])
    )

import setuptools
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
FOLDERS = ("runtime", "mpi", "spank_plugin")
PROGRAMS = "bollard/programs"  # installed.py looks for them there
READS_PYPROJECT = 61  # the first release of setuptools that does


def load(name: str) -> ModuleType:
    """The module spank_plugin/NAME.py of these sources, whatever is installed."""
    found = importlib.util.spec_from_file_location(f"bollard_{name}", str(TOP / f"spank_plugin/{name}.py"))
    assert found and found.loader
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


class Build(build_py):
    """Add the version, the launcher and the keeper's mount point to the Python packages."""

    def run(self) -> None:
        """Run the build, and compile what is static."""
        super().run()
        built = Path(self.build_lib)
        root = built / "bollard/__init__.py"
        root.write_text(version.stamped(root.read_text(), NUMBER))
        programs = built / PROGRAMS
        (programs / "session").mkdir(parents=True, exist_ok=True)
        (programs / "session/README").write_text("A keeper covers this directory, in its own mount namespace alone.\n")
        sys.dont_write_bytecode = True
        load("build").build_launcher(programs)


def project(text: str) -> dict[str, dict[str, Any]]:
    """The tables "project..." of pyproject.toml. Each value there is one line, and a literal of Python."""
    tables: dict[str, dict[str, Any]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif table.partition(".")[0] == "project" and " = " in line:
            key, _, value = line.partition(" = ")
            tables.setdefault(table, {})[key] = ast.literal_eval(value)
    return tables


def metadata() -> dict[str, Any]:
    """The arguments of setup() that setuptools from 61 on reads from pyproject.toml."""
    tables = project((TOP / "pyproject.toml").read_text())
    own = tables["project"]
    return {
        "name": own["name"],
        "description": own["description"],
        "python_requires": own["requires-python"],
        "install_requires": own["dependencies"],
        "extras_require": tables["project.optional-dependencies"],
        "entry_points": {"console_scripts": [f"{name} = {what}" for name, what in tables["project.scripts"].items()]},
    }


version = load("version")
NUMBER = version.version(TOP)
if __name__ == "__main__":
    packages = ["bollard"]
    package_dir = {"bollard": "runtime/_root"}  # what becomes bollard/__init__.py
    for folder in FOLDERS:
        package_dir[f"bollard.{folder}"] = folder
        packages.append(f"bollard.{folder}")
        packages += [f"bollard.{folder}.{sub}" for sub in find_packages(folder, exclude=["_root"])]
    setup(
        version=NUMBER,
        license="BSD-3-Clause",
        packages=packages,
        package_dir=package_dir,
        # `bollard site install` compiles the sources in C.
        package_data={"bollard": ["py.typed"], "bollard.spank_plugin": ["*.c", "*.h", "*.map"]},
        cffi_modules=["runtime/system/linux_build.py:ffi"],
        cmdclass={"build_py": Build},
        **(metadata() if int(setuptools.__version__.split(".")[0]) < READS_PYPROJECT else {}),
    )
