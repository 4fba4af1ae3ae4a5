# SPDX-License-Identifier: BSD-3-Clause
"""The one exception that reaches a user, as one line and an exit status."""


def shown(text: str) -> str:
    """What an image, a server or another user said, as it may stand on a terminal: no control character acts there."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class BollardError(Exception):
    """A failure a user can read.

    `message` names what went wrong in the words the user typed, `hint` what to do next (may be empty), `code`
    is the exit status of the program that prints it. `str()` is "message; hint", one line, without the
    leading "bollard: " that the printing program adds.
    """

    def __init__(self, message: str, hint: str = "", code: int = 255) -> None:
        super().__init__(message, hint, code)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
