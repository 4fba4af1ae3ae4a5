# SPDX-License-Identifier: BSD-3-Clause
"""What containers get of this node's Slurm.

A checkout knows of none; `spank_plugin/build.py` writes what it finds into the installation's copy of this file.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    PLACES: tuple[str, ...]

# The directory of the commands that start the host's Slurm; "" for a machine without.
TOOLS = ""
# Files and directories of the host that these commands need.
PLACES = ()
