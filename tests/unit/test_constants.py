# SPDX-License-Identifier: BSD-3-Clause
"""What C and Python must agree on, read from the C files: numbers, letters, names."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from bollard.runtime.container import entry, environment, image_shell, record, wire
from bollard.runtime.image import sif
from bollard.runtime.request import options, site_config
from bollard.spank_plugin import build_inside, install

C = Path(__file__).resolve().parents[2] / "spank_plugin"


def found(file: str, pattern: str) -> str:
    """The one group of `pattern`'s only match in a C file."""
    matches = re.findall(pattern, (C / file).read_text(), re.MULTILINE)
    assert len(matches) == 1, (file, pattern, matches)
    return str(matches[0])


def number(file: str, name: str) -> int:
    """A #define of a number: `N`, `Nu`, `(Nu << M)` or `(N * M)`, with a comment behind it or not."""
    text = found(file, rf"^#define {name}\s+([^/\n]+?)\s*(?:/\*.*)?$").strip("()")
    first, operator, second = re.fullmatch(r"(\w+?)u?(?: (<<|\*) (\d+))?", text).groups()
    value = int(first, 0)
    return value << int(second) if operator == "<<" else value * int(second or 1)


def letter(name: str) -> bytes:
    return found("wire.h", rf"\b{name} = '(.)'").encode()


def text(file: str, name: str) -> str:
    return found(file, rf'^#define {name}\s+"([^"]*)"')


@pytest.mark.parametrize("name", ["LIFELINE", "QUESTION", "TASK", "DONE", "OK", "ERROR", "SCRIPT"])
def test_the_letters_of_the_wire(name):
    assert letter(f"WIRE_{name}") == getattr(wire, name)


def test_limits():
    assert number("wire.h", "WIRE_FRAME_MAX") == wire.FRAME_MAX
    assert number("script.c", "OUTPUT_MAX") == entry.SCRIPT_OUTPUT_MAX
    # The launcher gives up on a script before the keeper gives up on the launcher.
    assert number("script.c", "SCRIPT_MS") / 1000 < entry.SCRIPT_SECONDS


def test_the_printers_descriptor():
    assert number("script.c", "PRINTER_FD") == image_shell.PRINTER_FD
    assert number("script.c", "QUIET_FD") == image_shell.QUIET_FD
    assert found("enter.c", r'"(--print-environment)"').encode() in image_shell.PRINTER


def test_names_of_variables():
    for name in ("SPEC", "ENTRY", "VERBOSE"):
        assert text("wire.h", f"ENV_{name}") == getattr(wire, name)
    for name in ("SPEC", "ENTRY", "ARGV0", "VERBOSE"):
        assert text("wire.h", f"ENV_{name}").startswith(wire.OWN)
        assert text("wire.h", f"ENV_{name}").startswith("SLURM_")  # survives --export=NONE
    assert 'getenv("BOLLARD_FUSE_FD")' in (C / "enter.c").read_text()
    assert '"BOLLARD_FUSE_FD"' in Path(entry.__file__).with_name("fuse.py").read_text()


def test_the_path_for_those_who_have_none():
    assert found("become.c", r'\bDEFAULT_PATH\[\] = "([^"]+)"').encode() == environment.DEFAULT_PATH


def test_where_the_fields_of_a_sif_header_are():
    magic = found("plain.c", r'head \+ 32, ("SIF_MAGIC\\0" "01\\0" SIF_ARCH), 15')
    raw = bytearray(128)
    raw[32:48] = sif.MAGIC + sif.VERSION + sif.arch_code("x86_64")
    for at, value in ((96, 1), (104, 2), (112, 3)):
        raw[at] = value
    header = sif.Header(bytes(raw))

    assert magic == r'"SIF_MAGIC\0" "01\0" SIF_ARCH'
    assert sif.is_sif(bytes(raw)) and raw[42:45] == sif.VERSION and header.arch == "amd64"
    assert int(found("plain.c", r"offset = little_endian\(head \+ (\d+)\)")) == 112
    assert header.data_offset == 3


@pytest.mark.parametrize(("macro", "machine"), [("__x86_64__", "x86_64"), ("__aarch64__", "aarch64")])
def test_architecture_codes(macro, machine):
    code = found("plain.c", rf'defined\({macro}\)\n#define SIF_ARCH "(..)"')

    assert sif.arch_code(machine) == code.encode() + b"\0"


def test_the_extern_step():
    header = Path(sysconfig.get_path("include")).parents[0] / "slurm/slurm.h"
    ours = number("stepd.c", "EXTERN_STEP")

    assert ours == 0xFFFFFFFC  # slurm.h: SLURM_EXTERN_CONT
    if header.exists():  # where Slurm's headers are installed, they say so too
        slurms = re.search(r"define\s+SLURM_EXTERN_CONT\s+\(?(0x[0-9a-fA-F]+)", header.read_text())
        assert slurms and int(slurms[1], 16) == ours


def test_verbose_is_the_last_option():
    """The shim cuts the spec off there, so that --container-verbose makes no other container."""
    assert options.TABLE[-1][0] == "verbose"
    for file in ("spec.c", "stepd.c"):
        assert '" verbose="' in (C / file).read_text()


def test_the_key_of_multi_prog():
    """spec.py names it; spec.c writes it as its last word before the options."""
    assert 'add(&spec, "multi-prog", "2")' in (C / "spec.c").read_text()
    assert '" multi-prog=2"' in (C / "argv.c").read_text()
    assert "multi-prog" not in [row[0] for row in options.TABLE]


def test_where_records_lie_and_who_writes_them():
    assert text("stepd.h", "RECORDS") == record.RECORDS == install.RECORDS
    words = found("keeper.c", r'"%s(record-fd=%d record-as=%s) "') % (17, "a.1")
    assert record.descriptor(f"spool=/x {words} ") == (17, "a.1")


def test_where_the_sockets_of_keepers_are():
    assert text("job_folder.h", "JOB_FOLDERS") == wire.JOBS


def test_the_number_of_a_batch_script():
    assert record.step_of([b"SLURM_STEP_ID=%d" % number("stepd.c", "BATCH_STEP")]) == "batch"


def test_the_descriptor_of_the_gate():
    assert text("wire.h", "GATE") == f"/proc/self/fd/{number('wire.h', 'GATE_FD')}"


def test_the_sites_limits_of_images():
    """spec.c sees by the beginning of a line of site.conf that the runtime has to look."""
    begin = found("spec.c", r'site_says\("\\n(images-)"\)')
    names = [key.name for key in site_config.TABLE if key.name.startswith(begin)]
    assert names == ["images-allowed", "images-forbidden"]


def test_the_names_of_mpirun():
    """inside.c knows them by their beginning, or in full."""
    source = (C / "inside.c").read_text()
    assert 'strncmp(name, "mpi", 3)' in source
    for name in build_inside.MPIRUN:
        assert name.startswith("mpi") or f'strcmp(name, "{name}")' in source
