# SPDX-License-Identifier: BSD-3-Clause
"""What an image says of itself does nothing on a terminal, and reaches a file as it is."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading

import pytest
import sif_files
from test_main import command

from bollard.runtime.cli import terminal
from bollard.runtime.image import sif, sif_write

# Renames the window, moves the cursor, reverses the order of letters, ends a line as Windows does.
EVIL = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\re\r\nf\tg\x7f"
SAFE = "a\\x1b]0;owned\\x07b\\u009b2Jc\\u202ed\\x0de\nf\tg\\u007f"
MAIN = "import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"


def on_terminal(*argv: str) -> str:
    """What `bollard ARGV` writes to a terminal that is its standard output and error."""
    master, slave = pty.openpty()
    said = b""

    def read() -> None:
        nonlocal said
        try:
            while part := os.read(master, 4096):
                said += part
        except OSError:
            pass  # the last one to have it open has ended

    reader = threading.Thread(target=read)
    environ = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "HOME": "/home/u", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *argv], env=environ, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
    )
    os.close(slave)
    reader.start()
    process.wait(60)
    reader.join(60)
    os.close(master)
    return said.decode("utf-8").replace("\r\n", "\n")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "img.sif"
    attributes = {"labels": {"name": EVIL}, "helpfile": EVIL, "runscript": EVIL, "deffile": EVIL}
    text = json.dumps({"data": {"attributes": attributes}, "type": "container"}).encode()
    objects = [
        sif_write.Object(sif.DEFFILE, "", EVIL.encode()),
        sif_write.Object(sif.GENERIC_JSON, sif.METADATA_NAME, text),
        sif_write.Object(sif.GENERIC, "n\x1b[31m", b"data"),
    ]
    sif_files.write(path, objects, b"hsqs" + bytes(4092), "amd64")
    return str(path)


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (["run-help"], SAFE + "\n"),
        (["inspect"], f"name: {SAFE}\n"),
        (["inspect", "--runscript"], SAFE + "\n"),
        (["sif", "dump", "1"], SAFE),
    ],
)
def test_texts_of_an_image(image, words, whole):
    assert on_terminal(*words, image) == whole
    raw = EVIL.replace("\r\n", "\n").replace("\r", "\n")  # as subprocess reads it
    assert command(*words, image).stdout.rstrip("\n") in (raw, f"name: {raw}")


@pytest.mark.parametrize(
    "words",
    [["inspect", "--json"], ["inspect", "--all"], ["inspect", "--deffile"], ["sif", "list"], ["sif", "info", "3"]],
)
def test_no_control_character_reaches_a_terminal(image, words):
    said = on_terminal(*words, image)
    assert said.strip() and set(said) - {"\n", "\t"} == {c for c in said if c.isprintable()}
    if words[-1] == "--json":
        assert json.loads(said)["data"]["attributes"]["labels"]["name"] == EVIL


def test_a_name_in_an_error(tmp_path):
    assert on_terminal("inspect", f"{tmp_path}/\x1b[2J") == command("inspect", f"{tmp_path}/\x1b[2J").stderr
    assert "\\x1b[2J" in on_terminal("inspect", f"{tmp_path}/\x1b[2J")


@pytest.mark.parametrize("text", ["", "a b", "äß→", "a\nb\tc\n"])
def test_what_is_printed_stays(text):
    assert terminal.harmless(text) == text


def test_undecodable_bytes_and_large_numbers():
    assert terminal.harmless(b"\xff".decode("utf-8", "surrogateescape") + "\U000e0041") == "\\udcff\\U000e0041"
