# SPDX-License-Identifier: BSD-3-Clause
"""What libraries say of themselves, of files that gcc made and of damaged ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bollard.runtime.container import driver_libraries, elf

NOTE = """\
.section .note.cuda.fwd_compatibility, "a", @note
.align 4
.long 19, 2f - 1f, 1
.asciz "NVIDIA Corporation"
.align 4
1: .ascii "{text}"
2: .align 4
"""


def library(path: Path, soname: str, source: str = "", more: tuple[str, ...] = ()) -> Path:
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(path), "-x", "c", "-", *more]
    subprocess.run(command, input=source.encode(), check=True)
    return path


def opened(path: Path) -> elf.Library:
    return elf.Library(os.open(path, os.O_RDONLY))


def test_a_library_says_its_name_and_what_it_needs(tmp_path):
    """getrandom and reallocarray came with glibc 2.25 and 2.26 (their man pages)."""
    path = library(tmp_path / "a.so", "liba.so.7", "int getrandom(void); int reallocarray(void);"
                   "int f(void) { return getrandom() + reallocarray(); }")  # fmt: skip

    found = opened(path)

    assert (found.soname(), found.needs("GLIBC_")) == ("liba.so.7", (2, 26))


def test_a_library_without_versions(tmp_path):
    found = opened(library(tmp_path / "a.so", "a", "", ("-nostdlib",)))

    assert (found.needs("GLIBC_"), found.defines("GLIBC_"), found.note("x", "y")) == ((), (), b"")


def test_this_machines_c_library():
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "libc.so.6" in line or "libc-2" in line)

    assert opened(Path(path)).defines("GLIBC_") == elf.version(str(os.confstr("CS_GNU_LIBC_VERSION")).split()[1])


@pytest.mark.parametrize(
    ("image", "host", "text", "newer"),
    [
        ("575.57.08", "535.104.05", '{"format":1,"CUDA version":"13.0","driver":[535,550,565],"device":[1]}', True),
        ("575.57.08", "535.104.05", '{"Driver": [535, 550, 570]}', True),
        ("575.57.08", "535.104.05", '{"Driver": [550, 570]}', False),  # not for this branch of the driver
        ("575.57.08", "580.1", '{"Driver": [580]}', False),  # the host's is newer
        ("575.57.08", "575.57.08", '{"Driver": [575]}', False),
        ("575.57.08", "575.9", '{"Driver": [575]}', True),
        ("575.57.08", "535.104.05", "not JSON", False),
        ("575.57.08", "535.104.05", "[1]", False),
        ("575.57.08", "535.104.05", None, True),  # before there were notes
        ("535.1", "535.104.05", None, False),
        ("", "535.104.05", None, False),
    ],
)
def test_when_an_images_own_cuda_is_used(tmp_path, image, host, text, newer):
    note = b""
    if text is not None:
        source = tmp_path / "note.s"
        source.write_text(NOTE.format(text=text.replace('"', '\\"')))
        note = opened(library(tmp_path / "a.so", "a", "", ("-x", "assembler", str(source)))).note(
            ".note.cuda.fwd_compatibility", "NVIDIA Corporation"
        )
        assert note == text.encode()

    assert driver_libraries.is_newer(image, host, note) == newer


def test_every_damaged_library_has_an_answer(tmp_path):
    whole = library(
        tmp_path / "a.so", "liba.so.7", "int getrandom(void); int f(void) { return getrandom(); }"
    ).read_bytes()
    table = int.from_bytes(whole[40:48], "little")
    path = tmp_path / "b.so"
    for at in [*range(16, 64), *range(table, len(whole), 11)]:
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        found = opened(path)
        found.soname(), found.needs("GLIBC_"), found.defines("GLIBC_"), found.note(".note.gnu.build-id", "GNU")
        assert all(isinstance(names, set) for names in found.symbols())
        os.close(found._fd)
    for size in range(0, len(whole), 1501):
        path.write_bytes(whole[:size])
        assert isinstance(opened(path).soname(), str)
