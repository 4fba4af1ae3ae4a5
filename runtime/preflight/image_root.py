# SPDX-License-Identifier: BSD-3-Clause
"""Read an image's contents in a child that ends after a time: a file through its file server, a directory directly.

For a file the child has namespaces of its own. They end with it, and the file server too.
"""

from __future__ import annotations

import marshal
import os

from bollard.runtime.container import fuse
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image
from bollard.runtime.installed import SESSION
from bollard.runtime.preflight import contents
from bollard.runtime.system import identity, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.preflight.contents import Contents

_SECONDS = 10


class NoAnswer(BollardError):
    """The image gave no answer in time. The next look can succeed: this machine may have been busy."""


_ANSWER_MAX = 1 << 20  # bytes


def read(path: str, program: str = "") -> Contents:
    """Return the contents of the image at `path`; see contents.py.

    path     an image file or a directory
    program  a program of the image to look at too

    Raises:
        BollardError: the image cannot be opened, or this machine cannot show what is in it.
    """
    opened = image.open_image(path, os.uname().machine)
    try:
        return _in_child(opened, program)
    finally:
        opened.close()


def _in_child(opened: image.Image, program: str) -> Contents:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(opened, program, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read(_ANSWER_MAX)
    os.waitpid(child, 0)
    name = image.shown(opened.path)
    if not text:
        what = "its files" if opened.kind == image.DIRECTORY else "its file server"
        raise NoAnswer(f"{name}: {what} gave no answer in {_SECONDS} s", "see `bollard doctor`")
    answer: Contents = marshal.loads(text)
    if "error" in answer:
        raise BollardError(f"{name}: cannot be looked into: {answer['error']}", "see `bollard doctor`")
    return answer


def _answer(opened: image.Image, program: str, writer: int) -> None:
    """Write the contents and end this process, which is a child."""
    import _signal as signal

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.alarm(_SECONDS)  # ends this process, and so the file server, if that does not answer
    try:
        root = opened.fd if opened.kind == image.DIRECTORY else _mounted(opened)
        answer = contents.read(root, program)
    except BaseException as error:  # every failure is told by the parent; this process must not run its code
        from bollard.runtime.causes import one_line

        answer = {"error": one_line(error)}
    data = marshal.dumps(answer)
    while data:
        data = data[os.write(writer, data) :]
    os._exit(0)


def _mounted(opened: image.Image) -> int:
    """Mount an image file in namespaces of this process; return a descriptor of its root."""
    identity.new_namespace(False)
    linux.new_mount_namespace()
    linux.mount("tmpfs", SESSION, "mode=0755,size=1m", linux.MS_NOSUID | linux.MS_NODEV)
    base = f"{SESSION}/image"
    if opened.oci:
        from bollard.runtime.container import oci_layers  # it imports json and so re, which take longer than all else

        base = oci_layers.mount(opened, image.shown(opened.path), SESSION, f"{SESSION}/fuse", False, [])[0]
    else:
        os.mkdir(base, 0o755)
        fuse.mount(opened.fd, opened.offset, base, f"{SESSION}/fuse")
    return os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # waits for the file server
