# SPDX-License-Identifier: BSD-3-Clause
"""The paths of one installation, and of the Slurm that loads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from bollard.runtime import installed
from bollard.runtime.request import site_config

# The directory of slurmd's copies of the controller's files (configless Slurm: slurm.conf(5), SlurmctldParameters).
CONFIGLESS = "/run/slurm/conf"
# The default of SlurmdSpoolDir: slurm.conf(5).
SPOOL = "/var/spool/slurmd"
# In the place of a package's name: the installation is one that was unpacked from an archive.
ARCHIVE = "archive"


class Where(NamedTuple):
    """The paths of one installation, as the nodes will see them."""

    prefix: str = "/usr/lib/bollard"
    slurm_conf: str = "/etc/slurm"  # the directory
    bin: str = "/usr/bin"
    config: str = site_config.PATH
    destdir: str = ""  # "": install here; else make a package's files below this directory
    names: bool = False  # make the names of Apptainer in PREFIX/names

    @property
    def command(self) -> str:
        """The path of the command `bollard`."""
        return f"{self.bin}/bollard"

    @property
    def image_launcher(self) -> str:
        """The path of the program that makes images programs; Apptainer's package has one there too."""
        return f"{self.bin}/{installed.IMAGE_LAUNCHER}"

    @property
    def line_file(self) -> str:
        """The file that names the plugin for Slurm."""
        return f"{self.slurm_conf}/plugstack.conf.d/bollard.conf"

    @property
    def pruning(self) -> str:
        """The file by which systemd-tmpfiles removes old records; for a package it is in /usr/lib, not in /etc."""
        return f"{'/usr/lib' if self.destdir else '/etc'}/tmpfiles.d/bollard.conf"

    @property
    def include(self) -> str:
        """The pattern of plugstack.conf's include line for `line_file`."""
        return f"{self.slurm_conf}/plugstack.conf.d/*.conf"

    def at(self, path: str) -> Path:
        """The path of `path` during the installation: below the destdir."""
        return Path(self.destdir or "/") / path.lstrip("/")


def slurm_setting(conf: str, name: str) -> str:
    """The value of `name` in slurm.conf(5) in the directory `conf`, as written there; "" when it is not set."""
    try:
        lines = Path(conf, "slurm.conf").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, equals, value = line.split("#")[0].partition("=")
        if equals and key.strip().lower() == name.lower():
            return value.strip()
    return ""


def is_slurmds_copy(conf: str) -> bool:
    """Whether `conf` is the directory of slurmd's copies of the controller's files."""
    return os.path.exists(CONFIGLESS) and os.path.realpath(conf) == os.path.realpath(CONFIGLESS)


def conf_in_use(conf: str) -> str:
    """The directory whose files Slurm reads: `conf`, or that of slurmd's copies when `conf` has no slurm.conf."""
    if not os.path.exists(f"{conf}/slurm.conf") and os.path.exists(f"{CONFIGLESS}/slurm.conf"):
        return CONFIGLESS
    return conf


def plugstack_file(conf: str) -> str:
    """The path of plugstack.conf for the slurm.conf in the directory `conf`."""
    return slurm_setting(conf, "PlugStackConfig") or f"{conf}/plugstack.conf"


def plugstack_line(where: Where) -> str:
    """The plugin's line for plugstack.conf. Its spool directory is SlurmdSpoolDir; nodes replace its %h and %n."""
    spool = slurm_setting(where.slurm_conf, "SlurmdSpoolDir") or SPOOL
    return f"required {where.prefix}/spank_bollard.so spool={spool}\n"
