# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site install` from a checkout, before there is a `bollard`: python3 spank_plugin [OPTION...]."""

from __future__ import annotations

import sys
import types
from pathlib import Path

if not __package__:  # a checkout, where the packages go by the names of their folders
    sys.dont_write_bytecode = True
    sys.modules["bollard"] = types.ModuleType("bollard")
    sys.modules["bollard"].__path__ = [str(Path(__file__).resolve().parent.parent)]

from bollard.runtime.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["site", "install", *sys.argv[1:]]))
