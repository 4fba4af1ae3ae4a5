# SPDX-License-Identifier: BSD-3-Clause
"""The exception whose message is shown to the user: one line and an exit status."""


def shown(text: str) -> str:
    """Return text of an image, a server or another user for a terminal: control characters become escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class BollardError(Exception):
    """A failure with a message for the user. `str()` is one line, "message; hint".

    message  what went wrong, with the names that the user typed
    hint     what to do next; "" for none
    code     exit status of the program that prints it

    The program that prints it puts "bollard: " before the line.
    """

    def __init__(self, message: str, hint: str = "", code: int = 255) -> None:
        super().__init__(message, hint, code)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
