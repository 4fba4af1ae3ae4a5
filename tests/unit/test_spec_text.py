# SPDX-License-Identifier: BSD-3-Clause
"""The spec as text: one reading for root's C (header.c) and for Python, whatever bytes a user sends."""

from __future__ import annotations

import random

import compiled
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bollard.runtime import constants
from bollard.runtime.errors import BollardError
from bollard.runtime.request import options, spec, spec_text
from bollard.runtime.request.spec_text import Header

# What can stand in an environment: any bytes but NUL, as os.environ decodes them.
TEXT = st.binary().map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
PLAIN = b"bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ : "

DECLARATIONS = f"""
struct header {{
    int root, image, multi_prog; char verbose[20]; char name[{constants.NAME_MAX_BYTES + 1}]; int mode; const char *cwd;
    size_t cwd_size;
}};
const char *read_header(const char *spec, struct header *header);
char *write_header(const struct header *header);
int parse_name(const char *text, struct header *header);
void free(void *);
"""


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    return compiled.load("header", tmp_path_factory.mktemp("header"), DECLARATIONS)


def read_by_c(c, text: bytes):
    ffi, lib = c
    held = ffi.new("char[]", text)
    header = ffi.new("struct header *")
    rest = lib.read_header(held, header)
    if rest == ffi.NULL:
        return None
    found = Header(
        bool(header.root), bool(header.image), bool(header.multi_prog),
        ffi.string(header.verbose).decode(), ffi.string(header.name).decode(), spec_text.MODES[header.mode],
        ffi.buffer(header.cwd, header.cwd_size)[4:].decode(),
    )  # fmt: skip
    return found, ffi.string(rest)


def read_by_python(text: bytes):
    try:
        return spec_text.split_header(text)
    except BollardError:
        return None


@given(TEXT)
def test_quoting_comes_back(text):
    quoted = spec_text.quote(text)

    assert spec_text.unquote(quoted) == text
    assert all(" " < c < "\x7f" and c != "&" for c in quoted)


@given(st.lists(st.tuples(st.sampled_from(("image", "bind", "env")), TEXT)))
def test_the_text_comes_back(values):
    grouped = [pair for name in dict(values) for pair in values if pair[0] == name]

    assert spec_text.pairs(spec_text.text(values)) == grouped


@pytest.mark.parametrize("text", [b"image=%", b"image=%zz", b"image=%4", b"image=%00", b"image=\xe4", b"image"])
def test_text_that_nobody_wrote(text):
    with pytest.raises(BollardError, match="spec cannot be read"):
        spec_text.pairs(text)


def test_the_canonical_form():
    values = [
        ("env", "A=1&2"), ("fakeroot", "1"), ("cwd", "/w x"), ("image", "/a b%.sif"), ("fakeroot", "0"),
        ("env", "B=\u00e4\n"), ("verbose", "1"), ("multi-prog", "1"),
    ]  # fmt: skip
    text = spec_text.canonical(values, spec_text.header_of(spec.make(values), "17", True))

    assert text == (
        b"bollard1 root=0 image=1 multi-prog=1 verbose=17 name= mode=auto cwd=/w%20x : "
        b"image=/a%20b%25.sif env=A=1%262&B=%C3%A4%0A fakeroot=0"
    )
    header, found = spec_text.read(text)
    assert spec_text.canonical(found, header) == text
    spec_text.refuse_other(header, spec.make(found))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (b"image=/i fakeroot=1 fakeroot=0", "'fakeroot' stands twice"),
        (b"image=/i fakeroot=1&0", "'fakeroot' has two values"),
        (b"image=/i nonsense=1", "'nonsense' is no key"),
        (b"image=/i verbose=1", "'verbose' is no key"),
        (b"image=/i multi-prog=1", "'multi-prog' is no key"),
        (b"image=/i  pwd=/", "'' is no key"),
        (b"image=/i cwd=/", "'cwd' is no key"),
        (b"", "'' is no key"),
        (b"image=/i env", "no value for 'env'"),
        (b"image=/i env=A%3", "cannot be read"),
        (b"image=/i env=A\n", "printable ASCII"),
        (b"image=/i env=\xc3\xa4", "printable ASCII"),
    ],
)
def test_options_that_no_client_writes(rest, words):
    with pytest.raises(BollardError, match=words) as caught:
        spec_text.read(PLAIN + rest)
    assert caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (PLAIN.replace(b"root=0", b"root=1"), b"image=/i"),
        (PLAIN, b"image=/i fakeroot=1"),
        (PLAIN.replace(b"image=1", b"image=0"), b"image=/i"),
        (PLAIN.replace(b"name=", b"name=a"), b"image=/i name=b"),
        (PLAIN, b"image=/i name=b"),
        (PLAIN.replace(b"name= mode=auto", b"name=b mode=exec"), b"image=/i name=b:create"),
    ],
)
def test_a_header_that_says_something_else(head, rest):
    header, values = spec_text.read(head + rest)
    with pytest.raises(BollardError, match="header contradicts its options"):
        spec_text.refuse_other(header, spec.make(values))


HEADERS = st.builds(
    Header, st.booleans(), st.booleans(), st.booleans(), st.text("0123456789", max_size=19),
    st.from_regex(f"[A-Za-z0-9_.+@-]{{1,{constants.NAME_MAX_BYTES}}}", fullmatch=True),
    st.sampled_from(spec_text.MODES),
    TEXT.map(spec_text.quote),
)  # fmt: skip


@given(HEADERS)
def test_c_and_python_write_one_header(c, header):
    ffi, lib = c
    held = ffi.new("struct header *")
    held.root, held.image, held.multi_prog = header.root, header.image, header.multi_prog
    held.verbose, held.name = header.verbose.encode(), header.name.encode()
    held.mode = spec_text.MODES.index(header.mode)
    directory = ffi.new("char[]", header.cwd.encode())
    held.cwd, held.cwd_size = directory, len(header.cwd)
    written = lib.write_header(held)
    text = ffi.string(written)
    lib.free(written)

    assert text == spec_text._head(header)
    assert read_by_c(c, text) == read_by_python(text) == (header, b"")


@given(st.one_of(st.text("ab_.-:/ \u00e9", max_size=70), st.from_regex(r"[a.]{1,66}(:(auto|create|exec|no_exec|x?))?")))
def test_c_and_python_read_one_name(c, text):
    ffi, lib = c
    header = ffi.new("struct header *")
    known = lib.parse_name(ffi.new("char[]", text.encode()), header) == 0
    try:
        found = spec.parse_name(text)
    except BollardError:
        found = None

    assert (found is not None) == known
    assert not known or found == (ffi.string(header.name).decode(), spec_text.MODES[header.mode])


def some_text(rng: random.Random) -> bytes:
    """A spec as a client writes it, or one with something wrong in it, the header more often than the rest."""
    name = rng.choice(("", "a", "n_.-9", "x" * rng.randint(60, 66)))
    mode = rng.choice(spec_text.MODES) if name and rng.random() < 0.9 else "auto"
    verbose = str(rng.randrange(10 ** rng.randint(1, 21))) if rng.random() < 0.3 else ""
    cwd = rng.choice(("/", "/w", "", "/a%20b", "/" + "x" * rng.randint(12280, 12310)))
    header = Header(rng.random() < 0.5, rng.random() < 0.8, rng.random() < 0.1, verbose, name, mode, cwd)
    values = [("image", "/data/a b.sif")]
    values += [(row, rng.choice(("1", "0", "a&b c", "\u00e4"))) for row in rng.choices(list(options.ROWS)[1:-1], k=2)]
    text = bytearray(spec_text._head(header) + spec_text.text(values))
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 5))):
        at = rng.randrange(min(len(text), rng.choice((20, 80, 400))) or 1)
        what = rng.randrange(7)
        if what == 0:
            text[at : at + 1] = bytes([rng.randrange(1, 256)])
        elif what == 1:
            text[at:at] = bytes([rng.choice(b" =:01&%\n\t\x7f\x80\xff\x01")])
        elif what == 2:
            del text[at : at + rng.choice((1, 1, 2, 20))]
        elif what == 3:
            end = rng.randrange(at, len(text) + 1)
            text[at:at] = text[at:end]
        elif what == 4:
            text[at:at] = rng.choice((b"root=1 ", b"root=0 ", b" name=b", b" : ", b"verbose=1 ", b"mode=exec "))
        elif what == 5:
            text = text[:at]
        else:
            text = bytearray(text.replace(b"auto", rng.choice((b"", b"AUTO", b"autos", b"no_exec", b"exe"))))
    return bytes(text)


def test_c_and_python_take_the_same_texts(c):
    rng = random.Random(20)
    taken = refused = 0
    for _ in range(100_000):
        text = some_text(rng)
        found = read_by_python(text)
        assert read_by_c(c, text) == found, text
        taken, refused = taken + (found is not None), refused + (found is None)
    assert taken > 20_000 and refused > 20_000


def test_c_and_python_refuse_any_bytes(c):
    rng = random.Random(21)
    for _ in range(5_000):
        text = rng.choice((b"", PLAIN, PLAIN[:20])) + rng.randbytes(rng.randrange(60)).replace(b"\0", b" ")
        assert read_by_c(c, text) == read_by_python(text), text


def test_a_nul_byte_ends_no_text_in_python():
    assert read_by_python(PLAIN + b"image=/i\0") is None
