# SPDX-License-Identifier: BSD-3-Clause
"""Runs `bollard site install` from a checkout, when no `bollard` is installed yet: python3 spank_plugin [OPTION...].

Python 3.6 must be able to parse this file: there it prints that a later Python is needed.
"""

import importlib.util
import sys
from pathlib import Path

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit(
        "bollard: needs Python 3.9 or later, and %s is %d.%d; install a later one, and run this with its python3.N"  # noqa: UP031
        % ((sys.executable,) + sys.version_info[:2])
    )

if not __package__:  # a checkout, where a package has the name of its directory
    sys.dont_write_bytecode = True
    top = Path(__file__).resolve().parent.parent
    found = importlib.util.spec_from_file_location(
        "bollard", str(top / "runtime/_root/__init__.py"), submodule_search_locations=[str(top)]
    )
    assert found and found.loader
    sys.modules["bollard"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(sys.modules["bollard"])

from bollard.runtime.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["site", "install", *sys.argv[1:]]))
