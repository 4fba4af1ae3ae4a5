# SPDX-License-Identifier: BSD-3-Clause
"""Build bollard: runtime/, mpi/ and spank_plugin/ become bollard.runtime, bollard.mpi and bollard.spank_plugin.

This is the command and the libraries, for laptops and for images. The Slurm plugin is compiled for one Slurm and
one Python, and installed as root's own: `bollard site install` does that.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("runtime", "mpi", "spank_plugin")
ROOT = Path(__file__).resolve().parent / "runtime/_root/__init__.py"

packages = ["bollard"]
package_dir = {"bollard": "runtime/_root"}  # what becomes bollard/__init__.py
for folder in FOLDERS:
    package_dir[f"bollard.{folder}"] = folder
    packages.append(f"bollard.{folder}")
    packages += [f"bollard.{folder}.{sub}" for sub in find_packages(folder, exclude=["_root"])]

version = re.search(r'^__version__ = "(.+)"$', ROOT.read_text(), re.MULTILINE)
if version is None:
    raise SystemExit(f'{ROOT}: no line __version__ = "..."')

setup(
    name="bollard",
    version=version[1],
    description="Containers as part of Slurm: srun --container=img.sif ./app",
    license="BSD-3-Clause",
    packages=packages,
    package_dir=package_dir,
    package_data={"bollard.spank_plugin": ["*.c", "*.h", "*.map"]},  # `bollard site install` compiles them
    cffi_modules=["runtime/system/linux_build.py:ffi"],
    setup_requires=[],
    install_requires=["cffi>=1.15", "psutil>=5.8"],
    extras_require={"site": ["PyYAML>=5.4"], "sign": ["cryptography>=3.4"]},
    python_requires=">=3.9",
    entry_points={"console_scripts": ["bollard = bollard.runtime.cli.main:main"]},
)
