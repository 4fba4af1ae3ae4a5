# SPDX-License-Identifier: BSD-3-Clause
"""What C and Python must agree on: rendered from runtime/constants.py, or read from the C files."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import compiled
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bollard.runtime import constants
from bollard.runtime.container import record
from bollard.runtime.image import sif
from bollard.runtime.request import options, site_config, spec
from bollard.spank_plugin import build, build_inside

C = Path(__file__).resolve().parents[2] / "spank_plugin"
WORDS = [word for word in constants.NO_WORDS.split(" ") if word]


def found(file: str, pattern: str) -> str:
    """The one group of `pattern`'s only match in a C file."""
    matches = re.findall(pattern, (C / file).read_text(), re.MULTILINE)
    assert len(matches) == 1, (file, pattern, matches)
    return str(matches[0])


def test_every_constant_is_rendered_and_none_is_stated_again():
    rendered = build.constants_header()
    names = [name for name in vars(constants) if name.isupper()]

    assert re.findall(r"^#define (\w+) ", rendered, re.MULTILINE) == names
    for path in [*C.glob("*.c"), *C.glob("*.h")]:
        again = set(re.findall(r"^#define (\w+)", path.read_text(), re.MULTILINE)) & set(names)
        assert not again, (path.name, again)


def test_the_rendered_values_are_those_of_python(tmp_path):
    names = [name for name, value in vars(constants).items() if name.isupper()]
    numbers = [name for name in names if isinstance(vars(constants)[name], int)]
    texts = [name for name in names if isinstance(vars(constants)[name], str)]
    letters = [name for name in names if isinstance(vars(constants)[name], bytes)]
    more = '#include "constants.h"\n'
    more += "".join(f"long long number_{name}(void) {{ return {name}; }}\n" for name in numbers)
    more += "".join(f"const char *text_{name}(void) {{ return {name}; }}\n" for name in texts)
    more += "".join(f"char letter_{name}(void) {{ return {name}; }}\n" for name in letters)
    declared = "".join(
        [f"long long number_{name}(void);" for name in numbers]
        + [f"const char *text_{name}(void);" for name in texts]
        + [f"char letter_{name}(void);" for name in letters]
    )
    ffi, lib = compiled.load("image_probe", tmp_path, declared, more)

    assert len(names) == len(numbers) + len(texts) + len(letters)
    for name in numbers:
        assert getattr(lib, f"number_{name}")() == getattr(constants, name)
    for name in texts:
        assert ffi.string(getattr(lib, f"text_{name}")()).decode() == getattr(constants, name)
    for name in letters:
        assert getattr(lib, f"letter_{name}")() == getattr(constants, name)


@pytest.fixture(scope="module")
def means_yes(tmp_path_factory):
    more = '#include "switch.h"\nint yes(const char *value) { return means_yes(value); }'
    ffi, lib = compiled.load("image_probe", tmp_path_factory.mktemp("switch"), "int yes(const char *value);", more)
    return lambda text: bool(lib.yes(ffi.new("char[]", text.encode())))


WRITTEN = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS).map(str.upper), st.text("nofalse01 YES", max_size=9))


@given(WRITTEN)
def test_c_and_python_read_one_switch(means_yes, text):
    assert means_yes(text) == spec.switch([text])


def test_limits_that_depend_on_each_other():
    # The launcher gives up on a script before the keeper gives up on the launcher.
    assert constants.SCRIPT_MS < constants.SCRIPT_WAIT_MS
    assert constants.GATE.endswith(f"/{constants.GATE_FD}")


def test_names_of_variables():
    for name in ("SPEC", "ENTRY", "ARGV0", "VERBOSE"):
        assert getattr(constants, f"ENV_{name}").startswith(constants.ENV_OWN)
    assert constants.ENV_OWN.startswith("SLURM_")  # survives --export=NONE


def test_where_the_fields_of_a_sif_header_are():
    magic = found("image_probe.c", r'head \+ 32, ("SIF_MAGIC\\0" "01\\0" SIF_ARCH), 15')
    raw = bytearray(128)
    raw[32:48] = sif.MAGIC + sif.VERSION + sif.arch_code("x86_64")
    for at, value in ((96, 1), (104, 2), (112, 3)):
        raw[at] = value
    header = sif.Header(bytes(raw))

    assert magic == r'"SIF_MAGIC\0" "01\0" SIF_ARCH'
    assert sif.is_sif(bytes(raw)) and raw[42:45] == sif.VERSION and header.arch == "amd64"
    assert int(found("image_probe.c", r"offset = little_endian\(head \+ (\d+)\), length")) == 112
    assert header.data_offset == 3


@pytest.mark.parametrize(("macro", "machine"), [("__x86_64__", "x86_64"), ("__aarch64__", "aarch64")])
def test_architecture_codes(macro, machine):
    code = found("image_probe.c", rf'defined\({macro}\)\n#define SIF_ARCH "(..)"')

    assert sif.arch_code(machine) == code.encode() + b"\0"


def test_the_extern_step():
    header = Path(sysconfig.get_path("include")).parents[0] / "slurm/slurm.h"

    assert constants.EXTERN_STEP == 0xFFFFFFFC  # slurm.h: SLURM_EXTERN_CONT
    if header.exists():  # where Slurm's headers are installed, they say so too
        slurms = re.search(r"define\s+SLURM_EXTERN_CONT\s+\(?(0x[0-9a-fA-F]+)", header.read_text())
        assert slurms and int(slurms[1], 16) == constants.EXTERN_STEP


def test_the_words_of_the_records_descriptor():
    assert record.descriptor(f"spool=/x {constants.RECORD_FD_WORD}17 record-as=a.1 ") == (17, "a.1")


def test_the_number_of_a_batch_script():
    assert record.step_of([b"SLURM_STEP_ID=%d" % constants.BATCH_STEP]) == "batch"


def test_words_of_a_client_are_no_options():
    assert "multi-prog" not in options.ROWS


def test_the_sites_limits_of_images():
    """spec.c sees by the beginning of a line of site.conf that the runtime has to look."""
    names = [key.name for key in site_config.TABLE if key.name.startswith(constants.SITE_LIMITS_IMAGES)]
    assert names == ["images-allowed", "images-forbidden"]


def test_the_sites_policy_of_images():
    """spec.c and keeper.c see by lines of site.conf that the runtime, or the witness, has to look."""
    rules = b"trust:\n  mode: enforce\n  rules: [{from: /a, owner: 0}]\n"
    for text, owners in ((rules, True), (rules.replace(b", owner: 0", b""), False)):
        values, _ = site_config.read(text)
        lines = site_config.compiled(site_config.Settings(values, ""), "/p").decode()
        assert f"\n{constants.SITE_TRUST}enforce\n" in lines
        assert (f"\n{constants.SITE_TRUST_OWNERS}\n" in lines) == owners


def test_the_names_of_mpirun():
    """inside.c knows them by their beginning, or in full."""
    source = (C / "inside.c").read_text()
    assert 'strncmp(name, "mpi", 3)' in source
    for name in build_inside.MPIRUN:
        assert name.startswith("mpi") or f'strcmp(name, "{name}")' in source
