# SPDX-License-Identifier: BSD-3-Clause
"""forms.txt is what Apptainer's help says."""

from __future__ import annotations

import forms


def test_the_list_is_complete(machine):
    said = forms.read(lambda command: machine.run(command).stdout.decode())

    assert said == forms.FORMS.read_text(), "run tests/peers/forms.py, and judge what is new"
