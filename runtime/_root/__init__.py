# SPDX-License-Identifier: BSD-3-Clause
"""bollard: containers as part of Slurm. Start reading at bollard.runtime."""

__version__ = "0.1.0"
