# SPDX-License-Identifier: BSD-3-Clause
"""What the bindings raise: a wire-up call that failed, with its code's name and what to do about it."""

from __future__ import annotations

from bollard.runtime.errors import BollardError


class WireupError(BollardError):
    """A failed call to PMIx or PMI-2, or a library or descriptor that is not there.

    ``status`` is the library's code, or 0 where no library has given one.
    """

    def __init__(self, message: str, hint: str, status: int = 0) -> None:
        super().__init__(message, hint, 1)
        self.status = status


class PmixError(WireupError):
    """From libpmix."""


class Pmi2Error(WireupError):
    """From libpmi2, or from Slurm over the PMI-2 protocol."""
