# SPDX-License-Identifier: BSD-3-Clause
"""The errors of the bindings: a call to PMIx or PMI-2 that failed, with the name of its code and a hint."""

from __future__ import annotations

from bollard.runtime.errors import BollardError


class WireupError(BollardError):
    """A failed call to PMIx or PMI-2, or a missing library or file descriptor.

    ``status`` is the code of the library; 0 if no library has given one.
    """

    def __init__(self, message: str, hint: str, status: int = 0) -> None:
        super().__init__(message, hint, 1)
        self.status = status


class PmixError(WireupError):
    """An error from libpmix."""


class Pmi2Error(WireupError):
    """An error from libpmi2, or from Slurm through the PMI-2 protocol."""
