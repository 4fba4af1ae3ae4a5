# SPDX-License-Identifier: BSD-3-Clause
"""`bollard exec`, `run`, `shell` and `test`, and what other commands share with them: the image and the options."""

from __future__ import annotations

import os

from bollard.runtime.errors import BollardError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bollard.runtime.image.encryption import Key
    from bollard.runtime.image.image import Image
    from bollard.runtime.request.spec import Spec


def image_of(given: list[tuple[str, str]], words: list[str]) -> tuple[str, Callable[[], None]]:
    """Return the path of the image in the first of `words`, and a function to call after it has been opened.

    An image of a URI is fetched first.

    Raises:
        BollardError: the image of a URI cannot be fetched.
    """
    from bollard.runtime.image import image

    if not words or words[0].startswith("instance://") or not image.is_uri(words[0]):
        return words[0] if words else "", lambda: None
    from bollard.runtime.build import conversion
    from bollard.runtime.fetch import sources

    pulled = conversion.image_of(words[0], sources.settings(given, os.environ))
    return pulled.path, pulled.close


def values_of(given: list[tuple[str, str]], words: list[str], path: str) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of a spec for the image at `path`, with the values that the client would add.

    given: the parsed options, name and value.
    words: the arguments; the first names the image as the user typed it.
    path: the path of the image.

    Raises:
        BollardError: no image is named, the current directory was removed, or an option is not valid.
    """
    from bollard.runtime import installed
    from bollard.runtime.request import command_line, forms, options, site

    if not words:
        raise BollardError("no image named", "name a SIF file, a squashfs file or a directory")
    cwd = command_line.current_directory(os.environ)
    values = [("image", path), ("asked", words[0]), ("cwd", cwd), ("userhome", _home())]
    asked = [pair for pair in given if pair[0] in options.ROWS]
    values += forms.resolve([*asked, *command_line.variables(os.environ)])
    if os.environ.get("BOLLARD_LOG") == "debug":
        values.append(("verbose", "1"))
    return site.completed(values, site.load(installed.PREFIX))


def _home() -> str:
    home = os.environ.get("HOME", "")
    if home:
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard exec`, `run`, `shell` or `test`. Returns only if there is nothing to start.

    name: the command.
    given: the parsed options, name and value.
    words: the arguments: image, program, arguments of the program.

    Raises:
        BollardError: the options or the image cannot be used, or the container cannot be made.
    """
    from bollard.runtime.image import image
    from bollard.runtime.local import execution
    from bollard.runtime.request import options, spec

    if name == "exec" and len(words) == 1:
        raise BollardError(
            f"no command given after the image {words[0]}", "name a program of the image, or use `bollard shell`"
        )
    for option, value in given:
        if option == "name":
            hint = "write `bollard instance start IMAGE NAME` for one that others join"
            raise BollardError(f"--name {value}: only the steps of a job share a container by its name", hint)
    path, opened = image_of(given, words)
    values = values_of(given, words, path)
    shells = [value for option, value in given if option == "shell"]
    shell = shells[0] if shells else options.setting(os.environ, "SHELL")
    if words[0].startswith("instance://"):
        from bollard.runtime.cli import instance

        return instance.join(name, given, words, values, shell)
    asked = spec.make(values)
    # Check the image here, so that an error names it as the user typed it. The keeper opens it by its full path.
    looked = image.open_image(path if "~" not in path else asked.image, os.uname().machine, encrypted=True)
    try:
        keys = _image_key(looked, asked, given)
        execution.start(asked, name, words[1:], shell, opened, keys)
    finally:
        opened()
    return 0


def _image_key(looked: Image, asked: Spec, given: list[tuple[str, str]]) -> list[Key]:
    """Return the key of an encrypted image, [] for any other image. Closes the image."""
    if not looked.encrypted and not any(name in ("passphrase", "passphrase-file", "pem-path") for name, _ in given):
        looked.close()
        return []
    from bollard.runtime.cli import encryption_key

    return encryption_key.of_image(looked, asked, given)
