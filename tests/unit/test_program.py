# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI a program was built with, from its ELF header (program.c)."""

from __future__ import annotations

import subprocess

import pytest
from compiled import FOLDER

# Between fstat(2) and the first read the file loses its end, as when somebody writes it anew.
SHRINKING = f"""
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *path;
static int late_fstat(int fd, struct stat *st)
{{
	return fstat(fd, st) < 0 ? -1 : path ? truncate(path, 4096) : 0;
}}
#define fstat late_fstat
#include "{FOLDER}/program.c"

int main(int argc, char **argv)
{{
	const char *found;

	path = argc > 2 ? argv[1] : NULL;
	found = wireup_of_file(argv[1]);
	puts(found ? found : "none");
	return 0;
}}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "reader.c").write_text(SHRINKING)
    command = ["cc", "-g", f"-I{FOLDER}", "-Wno-format-truncation", "reader.c", "-o", "reader"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "reader"


def linked(folder, library):
    """A program that needs a library of this name."""
    subprocess.run(
        ["cc", "-shared", f"-Wl,-soname,{library}", "-o", folder / library, "-x", "c", "/dev/null"], check=True
    )
    program = ["cc", "-Wl,--no-as-needed", "-o", folder / "program", "-x", "c", "-", "-x", "none", folder / library]
    subprocess.run(program, input="int main(void) { return 0; }", text=True, check=True)
    return folder / "program"


def asked(reader, *words):
    done = subprocess.run([reader, *words], stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("library", "wireup"),
    [("libmpi.so.40", "pmix"), ("libmpich.so.12", "pmi2"), ("libmpi.so.12", "pmi2"), ("libother.so.1", "none")],
)
def test_the_libraries_that_a_program_names(reader, tmp_path, library, wireup):
    assert asked(reader, linked(tmp_path, library)) == (0, wireup)


def test_a_program_that_shrinks_while_it_is_read(reader, tmp_path):
    """The task must not end by SIGBUS."""
    assert asked(reader, linked(tmp_path, "libmpi.so.40"), "shrink") == (0, "none")
