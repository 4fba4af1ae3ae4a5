# SPDX-License-Identifier: BSD-3-Clause
"""The habits of users of docker and podman: what their commands and options are in bollard. Only data, and one check.

This module imports nothing but the error, because every `bollard exec` imports it.
"""

from __future__ import annotations

from bollard.runtime.errors import BollardError

# Options of `docker run` that bollard does not have, without their dashes: what to do instead.
OPTIONS = {
    "volume": "write --bind SRC:DST",
    "rm": "leave it out: a container ends with its program, and leaves nothing",
    "interactive": "leave it out: the program has your standard input",
    "tty": "leave it out: the program has your terminal",
    "detach": "use `bollard instance start IMAGE NAME`",
    "name": "use `bollard instance start IMAGE NAME`",
    "gpus": "write --nv",
    "user": "leave it out: the program runs as you, and --fakeroot makes it appear as root",
    "privileged": "leave it out: a container has your rights, and no others",
    "cap-add": "leave it out: a container has your rights, and no others",
    "publish": "leave it out: the container has the network of the host",
    "expose": "leave it out: the container has the network of the host",
    "entrypoint": "use `bollard exec IMAGE PROGRAM`",
    "tmpfs": "write --scratch DIR",
    "read-only": "leave it out: an image is read-only",
    "platform": "write `bollard pull --arch ARCH`, then start that file",
    "restart": "use a job of Slurm with --requeue",
    "ulimit": "set the limit with ulimit in your shell",
    "shm": "write --shm-size SIZE",
    "label": "labels belong to an image: %labels of its definition file",
    "pull": "an image is looked up in its registry each time; `bollard pull` keeps it as a file",
}

# Letters of `docker run` that mean something else here, or nothing.
LETTERS = ("-it", "-ti", "-t", "-v", "-e", "-p")

# Commands of docker that bollard does not have: what to do instead.
COMMANDS = {
    "images": "images are files: `ls *.sif`; `bollard cache list` shows what was fetched",
    "image": "images are files: `bollard inspect IMAGE`, `bollard cache list`",
    "rmi": "remove the file with rm; `bollard cache clean` removes what was fetched",
    "rm": "a container ends with its program; `bollard instance stop NAME` ends an instance",
    "start": "write `bollard instance start IMAGE NAME`",
    "create": "write `bollard instance start IMAGE NAME`",
    "stop": "write `bollard instance stop NAME`",
    "kill": "write `bollard instance stop --force NAME`",
    "logs": "write `bollard instance list --logs`",
    "stats": "write `bollard instance stats NAME`",
    "top": "write `bollard ps`",
    "container": "write `bollard ps`, `bollard instance list`",
    "save": "images are files: copy the file",
    "load": "write `bollard build img.sif docker-archive:FILE`",
    "import": "write `bollard build img.sif FILE.tar`",
    "export": "write `bollard build --sandbox DIR IMAGE`",
    "commit": "write `srun --container=IMAGE --container-writable --container-save=NEW.sif PROGRAM`",
    "cp": "bind the place: `bollard exec --bind DIR IMAGE cp FILE DIR`",
    "tag": "images are files: copy or link the file",
    "history": "write `bollard inspect --deffile IMAGE`",
    "info": "write `bollard site check`",
    "login": "write `bollard registry login SERVER`, or `skopeo login`",
    "logout": "write `bollard registry logout SERVER`, or `skopeo logout`",
    "network": "a container has the network of the host, or none: `bollard exec --net --network none`",
    "volume": "bind a directory: `bollard exec --bind DIR`",
    "compose": "start each service with `bollard instance start IMAGE NAME`",
}


def refuse(letter: str, rest: list[str]) -> None:
    """Raise if a letter is docker's: its next word shows that.

    letter: one of LETTERS.
    rest: the words after it.

    Raises:
        BollardError: with the option to write instead.
    """
    word = rest[0] if rest else ""
    name, _, _ = word.partition("=")
    if letter in ("-it", "-ti", "-t"):
        raise BollardError(f"docker's {letter}: the program has your terminal and your standard input", "leave it out")
    if letter == "-v" and word[:1] in ("/", ".", "~") and ":" in word:
        raise BollardError(f"-v {word}: -v is --verbose here", f"write --bind {word}")
    if letter == "-e" and "=" in word and name.isidentifier():
        raise BollardError(f"-e {word}: -e is --cleanenv here", f"write --env {word}")
    if letter == "-p" and ":" in word and word.replace(":", "").replace(".", "").isdigit():
        raise BollardError(f"-p {word}: -p is --pid here", "leave it out: the container has the network of the host")
