# SPDX-License-Identifier: BSD-3-Clause
"""The spec as text: a header and the options. One environment variable carries it from the client to the nodes.

    bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/data : image=/data/a%20b.sif ...

The header has a fixed form, because root reads it (`spank_plugin/header.c`). Root reads nothing else of the spec.

    root         1: user and group 0 in the container
    image        1: an image is named; 0: another step has made the container
    multi-prog   1: srun has put the launcher before each program of --multi-prog
    verbose      when the client began, ns since 1970; empty without --container-verbose
    name, mode   name of the container and its mode; an empty name for a container without a name
    cwd          the directory in which the tasks start, quoted like the value of an option

The options are `KEY=VALUE`, separated by spaces. %XX stands for a byte that is a space, `%`, `&`, a control character
or not ASCII. `&` separates the values of an option that was given more than once. Each key occurs once:

    image        absolute path of the image
    asked        the image as the user typed it, for messages
    userhome     $HOME of the client
    id           inode.size.mtime of the image file, so that a rebuilt image gets another container
    source       the image with its digest, if it was named by a URI: docker://NAME@sha256:HEX
    once         a unique word of this client, if only its step may use the container
    the rows of options.TABLE, in their order
    the variables of options.TABLE: from a client that is itself in a container and so cannot resolve them

This module runs on the node path.
"""

from __future__ import annotations

from bollard.runtime import constants
from bollard.runtime.errors import BollardError
from bollard.runtime.frozen import replace
from bollard.runtime.request import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record

    from bollard.runtime.request.options import Spec

    Values = list[tuple[str, str]]
else:
    from bollard.runtime.frozen import record

MODES = (constants.MODE_AUTO, constants.MODE_CREATE, constants.MODE_EXEC, constants.MODE_NO_EXEC)
FIXED = ("image", "asked", "userhome", "id", "source", "once", "pty")
# Values of the client that are only in the header.
IN_HEADER = ("cwd", "multi-prog", "verbose")
_MARK = constants.VALUE_MARK.decode()
_ESCAPED = frozenset(b"%" + constants.VALUE_MARK)
_LETTERS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_LETTERS = frozenset(_LETTERS + constants.NAME_MARKS.encode())
_HINT = "was SLURM_BOLLARD_SPEC changed by hand, or is bollard on the submit host of another release?"


@record(frozen=True)
class Header:
    """The part of a spec that root reads."""

    root: bool = False
    image: bool = True
    multi_prog: bool = False
    verbose: str = ""
    name: str = ""
    mode: str = constants.MODE_AUTO
    cwd: str = "/"  # quoted


def quote(text: str) -> str:
    """Return one value as spec text."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in _ESCAPED else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def unquote(text: str) -> str:
    """Return the value that `quote` made `text` from.

    Raises:
        ValueError: a % without two hexadecimal digits, a byte that is not ASCII, or a NUL byte in the value.
    """
    first, *rest = text.split("%")
    data = first.encode("ascii")
    for part in rest:
        if len(part) < 2:
            raise ValueError("a % without two digits")
        data += bytes.fromhex(part[:2]) + part[2:].encode("ascii")
    if b"\0" in data:
        raise ValueError("a NUL byte")
    return data.decode("utf-8", "surrogateescape")


def pairs(text: bytes) -> Values:
    """Return the (key, value) pairs of a text without a header, in its order: the inverse of `text`.

    Raises:
        BollardError: `text` did not make it.
    """
    found = []
    try:
        for pair in text.decode("ascii").split(" "):
            name, equals, value = pair.partition("=")
            if pair and not equals:
                raise ValueError(f"no value for {name!r}")
            found += [(name, unquote(part)) for part in value.split(_MARK)] if pair else []
    except (ValueError, UnicodeError) as error:
        raise _unreadable(str(error)) from None
    return found


def text(values: Values) -> bytes:
    """Return (key, value) pairs as text without a header. Each key occurs once, at its first place."""
    grouped: dict[str, list[str]] = {}
    for name, value in values:
        grouped.setdefault(name, []).append(quote(value))
    return " ".join(f"{name}={_MARK.join(found)}" for name, found in grouped.items()).encode("ascii")


def canonical(values: Values, header: Header) -> bytes:
    """Return a spec as it goes to the nodes. For an option whose values do not add up, the last of `values` counts.

    Raises:
        BollardError: a name is not an option.
    """
    given: dict[str, list[str]] = {}
    for name, value in values:
        if name not in given or name not in options.JOINED:
            given[name] = []
        given[name].append(value)
    order = dict.fromkeys((*FIXED, *options.ROWS))
    unknown = given.keys() - order.keys() - set(IN_HEADER)
    if unknown:
        raise BollardError(f"{min(unknown)!r} is no option of a container", "see `bollard exec --help`")
    ordered = [(name, value) for name in order if name not in IN_HEADER for value in given.get(name, ())]
    return _head(header) + text(ordered)


def _head(header: Header) -> bytes:
    words = (
        constants.HEADER_VERSION,
        constants.HEADER_ROOT + str(int(header.root)),
        constants.HEADER_IMAGE + str(int(header.image)),
        constants.HEADER_MULTI_PROG + str(int(header.multi_prog)),
        constants.HEADER_VERBOSE + header.verbose,
        constants.HEADER_NAME + header.name,
        constants.HEADER_MODE + header.mode,
        constants.HEADER_CWD + header.cwd,
        constants.HEADER_END,
        "",
    )
    return " ".join(words).encode("ascii")


def header_of(asked: Spec, verbose: str = "", multi_prog: bool = False) -> Header:
    """Return the header of a spec.

    asked       the spec
    verbose     when the client began, ns since 1970; "" without --container-verbose
    multi_prog  srun has put the launcher before each program of --multi-prog
    """
    return Header(
        asked.fakeroot, bool(asked.image), multi_prog, verbose, asked.name, asked.name_mode, quote(asked.cwd)
    )  # fmt: skip


def split_header(text: bytes) -> tuple[Header, bytes]:
    """Return the header of a spec and the text of its options, by the same grammar as spank_plugin/header.c.

    Raises:
        BollardError: the text is not a spec, so root refuses it too.
    """
    words = text.split(b" ", 9)
    if len(words) != 10 or words[0] != constants.HEADER_VERSION.encode() or words[8] != constants.HEADER_END.encode():
        raise _unreadable("its header is of another form")
    root, image, multi_prog = (
        _one_of(word, key, (b"0", b"1")) == b"1"
        for word, key in zip(words[1:4], (constants.HEADER_ROOT, constants.HEADER_IMAGE, constants.HEADER_MULTI_PROG))
    )
    verbose = _after(words[4], constants.HEADER_VERBOSE)
    name = _after(words[5], constants.HEADER_NAME)
    mode = _one_of(words[6], constants.HEADER_MODE, [mode.encode() for mode in MODES])
    if len(verbose) > constants.VERBOSE_MAX or verbose.strip(b"0123456789"):
        raise _unreadable("its header has no number")
    if len(name) > constants.NAME_MAX_BYTES or not _NAME_LETTERS.issuperset(name) or (not name and mode != b"auto"):
        raise _unreadable("its header has no name")
    cwd = _after(words[7], constants.HEADER_CWD)
    if len(words[7]) >= constants.CWD_MAX:
        raise _unreadable("its header has no directory")
    if any(not 0x20 <= byte <= 0x7E for byte in cwd + words[9]):
        raise _unreadable("a byte in it is not printable ASCII")
    return Header(root, image, multi_prog, verbose.decode(), name.decode(), mode.decode(), cwd.decode()), words[9]


def _after(word: bytes, key: str) -> bytes:
    if not word.startswith(key.encode()):
        raise _unreadable(f"its header lacks {key}")
    return word[len(key) :]


def _one_of(word: bytes, key: str, values: tuple[bytes, ...] | list[bytes]) -> bytes:
    value = _after(word, key)
    if value not in values:
        raise _unreadable(f"its header has another {key}")
    return value


def read(text: bytes) -> tuple[Header, Values]:
    """Return the header of a spec and its (key, value) pairs, as a node reads them.

    Raises:
        BollardError: a key is unknown or repeated, or a byte is not printable ASCII. No client makes such a text.
    """
    header, rest = split_header(text)
    values = pairs(constants.HEADER_CWD.encode() + header.cwd.encode() + b" " + rest)
    keys = [pair.partition(b"=")[0].decode("ascii") for pair in rest.split(b" ")]
    known = {*FIXED, *options.ROWS}.difference(IN_HEADER)
    if not known.issuperset(keys):  # a client in a container sends the variables as they are
        known |= options.all_variables()
    for at, key in enumerate(keys):
        if key not in known:
            raise _unreadable(f"{key!r} is no key")
        if key in keys[:at]:
            raise _unreadable(f"{key!r} stands twice")
    for key, _ in values:
        if key not in options.JOINED and [name for name, _ in values].count(key) > 1:
            raise _unreadable(f"{key!r} has two values")
    return header, values


def refuse_other(header: Header, asked: Spec) -> None:
    """Raise if the header, which root has read, contradicts the options.

    Raises:
        BollardError: it does.
    """
    own = header_of(asked, header.verbose, header.multi_prog)
    if replace(own, cwd=header.cwd) != header:  # cwd is only in the header, so it cannot contradict
        raise _unreadable("its header contradicts its options")


def _unreadable(why: str) -> BollardError:
    return BollardError(f"the container's spec cannot be read ({why})", _HINT)
