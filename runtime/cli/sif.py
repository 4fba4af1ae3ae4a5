# SPDX-License-Identifier: BSD-3-Clause
"""`bollard sif ...`: show and change the objects of a SIF file. Words and columns are those of Apptainer's `sif`."""

from __future__ import annotations

import codecs
import os
import sys
import time

from bollard.runtime import causes
from bollard.runtime.errors import BollardError
from bollard.runtime.image import image, sif, sif_edit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from bollard.runtime.image.sif import Descriptor, Sif

_TYPES: Final = {
    sif.DEFFILE: "Def.FILE",
    0x4002: "Env.Vars",
    0x4003: "JSON.Labels",
    sif.PARTITION: "FS",
    sif.SIGNATURE: "Signature",
    sif.GENERIC_JSON: "JSON.Generic",
    0x4007: "Generic/Raw",
    sif.CRYPTO_MESSAGE: "Cryptographic Message",
    sif.SBOM: "SBOM",
    sif.OCI_ROOT_INDEX: "OCI.RootIndex",
    sif.OCI_BLOB: "OCI.Blob",
}
_FILESYSTEMS: Final = ("Squashfs", "Ext3", "Archive", "Raw", "Encrypted squashfs", "Gocryptfs squashfs")
_PARTITIONS: Final = ("System", "*System", "Data", "Overlay")
_HASHES: Final = ("SHA-256", "SHA-384", "SHA-512", "BLAKE2s-256", "BLAKE2b-256")
_FORMATS: Final = ("OpenPGP", "PEM")
_MESSAGES: Final = {0x100: "Clear Signature", 0x200: "RSA-OAEP"}
_SBOMS: Final = (
    "cyclonedx-json",
    "cyclonedx-xml",
    "github-json",
    "spdx-json",
    "spdx-rdf",
    "spdx-tag-value",
    "spdx-yaml",
    "syft-json",
)
_LINE: Final = "-" * 78
_HELP: Final = "give a number from {}; see `bollard sif add --help`"


def run(name: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard sif VERB`; return the exit status.

    name: the command, "sif list" for example.
    given: the parsed options, name and value.
    words: the arguments.

    Raises:
        BollardError: the arguments are not those of the verb, or the file cannot be read or changed.
    """
    verb = name.partition(" ")[2]
    if verb in ("list", "header", "new"):
        (path,) = _words(verb, words, "IMAGE")
        if verb == "new":
            sif_edit.create(path, force=any(option == "force" for option, _ in given))
        else:
            _show(path, list_lines if verb == "list" else header_lines)
    elif verb == "add":
        path, source = _words(verb, words, "IMAGE FILE")
        _add(path, source, dict(given))
    else:
        number, path = _words(verb, words, "ID IMAGE")
        _with_object(verb, _number("ID", number), path)
    return 0


def _words(verb: str, words: list[str], names: str) -> list[str]:
    if len(words) != len(names.split()):
        raise BollardError(
            f"sif {verb} takes {names.replace(' ', ' and ')}, not {len(words)} words",
            f"write `bollard sif {verb} {names}`",
        )
    return words


def _with_object(verb: str, number: int, path: str) -> None:
    if verb == "del":
        sif_edit.delete(path, number)
    elif verb == "setprim":
        sif_edit.set_primary(path, number)
    elif verb == "info":
        _show(path, lambda found: info_lines(sif_edit.find(found, number)))
    else:
        fd, found = image.open_sif(path)
        item = sif_edit.find(found, number)
        sys.stdout.flush()
        at, end = item.offset, item.offset + item.size
        text = codecs.getincrementaldecoder("utf-8")("backslashreplace") if sys.stdout.isatty() else None
        while at < end:
            block = sif.pread(fd, min(end - at, 1 << 20), at, found.name)
            at += len(block)
            if text:
                sys.stdout.write(text.decode(block, at == end))
                continue
            while block:
                block = block[os.write(1, block) :]
        os.close(fd)


def _show(path: str, lines: Callable[[Sif], list[str]]) -> None:
    fd, found = image.open_sif(path)
    os.close(fd)
    print("\n".join(lines(found)))


def list_lines(found: Sif) -> list[str]:
    """Return the lines of `bollard sif list`: the table of objects."""
    lines = [_LINE, "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE", _LINE]
    for item in found.descriptors:
        number, is_group = item.link
        link = f"{number:<3} (G)" if number and is_group else str(number or "NONE")
        place = f"|{item.offset}-{item.offset + item.size} "
        lines.append(f"{item.id:<4} |{item.group or 'NONE':<7} |{link:<7} {place:<26} |{_kind(item)}")
    return lines


def type_name(item: Descriptor) -> str:
    """Return Apptainer's word for the type of an object."""
    return _TYPES.get(item.datatype, "Unknown")


def _kind(item: Descriptor) -> str:
    what = _TYPES.get(item.datatype, "Unknown")
    more = "/".join(value for _, value in _details(item))
    return f"{what} ({more})" if more and item.datatype not in (sif.OCI_ROOT_INDEX, sif.OCI_BLOB) else what


def _details(item: Descriptor) -> list[tuple[str, str]]:
    """Return the properties of an object that depend on its type: (name in `info`, value)."""
    first, second = (int.from_bytes(item.extra[at : at + 4], "little") for at in (0, 4))
    if item.datatype == sif.PARTITION:
        return [
            ("Filesystem Type", _one_of(_FILESYSTEMS, first)),
            ("Partition Type", _one_of(_PARTITIONS, second)),
            ("Architecture", item.arch or "unknown"),
        ]
    if item.datatype == sif.SIGNATURE:
        return [("Hash Type", _one_of(_HASHES, first))]
    if item.datatype == sif.CRYPTO_MESSAGE:
        return [("Format Type", _one_of(_FORMATS, first)), ("Message Type", _MESSAGES.get(second, "Unknown"))]
    if item.datatype == sif.SBOM:
        return [("Format", _one_of(_SBOMS, first).replace("Unknown", "unknown"))]
    if item.datatype in (sif.OCI_ROOT_INDEX, sif.OCI_BLOB):
        return [("Digest", item.extra.split(b"\0")[0].decode("ascii", "backslashreplace"))]
    return []


def _one_of(names: tuple[str, ...], number: int) -> str:
    return names[number - 1] if 1 <= number <= len(names) else "Unknown"


def info_lines(item: Descriptor) -> list[str]:
    """Return the lines of `bollard sif info`: all properties of one object."""
    number, is_group = item.link
    rows = [
        ("Data Type", _TYPES.get(item.datatype, "Unknown")),
        ("ID", str(item.id)),
        ("Group ID", str(item.group or "NONE")),
        ("Linked ID", f"{number}{' (G)' if is_group else ''}" if number else "NONE"),
        ("Offset", str(item.offset)),
        ("Size", str(item.size)),
    ]
    names = ("Created At", "Modified At")
    rows += [(name, _date(seconds)) for name, seconds in zip(names, item.times) if seconds != sif.NO_TIME]
    if item.name:
        rows.append(("Name", item.name))
    rows += _details(item)
    if item.datatype == sif.SIGNATURE and any(item.extra[4:24]):
        rows.append(("Entity", item.extra[4:24].hex().upper()))
    return _columns("  ", rows, 2)


def header_lines(found: Sif) -> list[str]:
    """Return the lines of `bollard sif header`."""
    raw = found.header.raw
    numbers = [int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(64, 128, 8)]
    created, modified, free, total, table, table_size, data, data_size = numbers
    rows = []
    launch = raw[:32].rstrip(b"\0").decode("utf-8", "backslashreplace")
    if launch:
        rows.append(("Launch Script", launch[:-1] if launch.endswith("\n") else launch))
    rows.append(("Version", raw[42:45].rstrip(b"\0").decode()))
    if found.header.arch:
        rows.append(("Primary Architecture", found.header.arch))
    if any(raw[48:64]):
        text = raw[48:64].hex()
        rows.append(("ID", "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))))
    if created != sif.NO_TIME:
        rows.append(("Created At", _date(created)))
    if modified != sif.NO_TIME:
        rows.append(("Modified At", _date(modified)))
    rows += [
        ("Descriptors Free", str(free)),
        ("Descriptors Total", str(total)),
        ("Descriptors Offset", str(table)),
        ("Descriptors Size", _readable(table_size)),
        ("Data Offset", str(data)),
        ("Data Size", _readable(data_size)),
    ]
    return _columns("", rows, 1)


def _columns(indent: str, rows: list[tuple[str, str]], gap: int) -> list[str]:
    width = max(len(name) for name, _ in rows) + 1 + gap
    return [f"{indent}{name + ':':<{width}}{value}" for name, value in rows]


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds} seconds after 1970"


def _readable(size: int) -> str:
    if abs(size) < 1024:
        return f"{size} B"
    value, unit = size / 1024, 0
    while abs(value) >= 1024 and unit < 5:
        value, unit = value / 1024, unit + 1
    return f"{int(value + 0.5)} {'KMGTPE'[unit]}iB"


def _add(path: str, source: str, given: dict[str, str]) -> None:
    datatype = _number("--datatype", given.get("datatype", "0"))
    if not 1 <= datatype <= 11:
        what = f"--datatype {datatype} is not known" if "datatype" in given else "--datatype is missing"
        raise BollardError(what, _HELP.format("1 to 11"))
    new = sif_edit.New(
        0x4000 + datatype,
        _extra(0x4000 + datatype, given),
        group=_number("--groupid", given.get("groupid", "0"), sif.GROUP_BIT - 1),
        link=_number("--link", given.get("link", "0")),
        name=given.get("filename", ""),
        alignment=_number("--alignment", given["alignment"], 1 << 30) if "alignment" in given else -1,
    )
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise causes.of(error, f"{image.shown(source)}: cannot be read", source, "check the file name") from None
    try:
        sif_edit.add(path, new, fd)
    finally:
        os.close(fd)


def _extra(datatype: int, given: dict[str, str]) -> bytes:
    if datatype == sif.PARTITION:
        numbers = [_choice(name, given, last) for name, last in (("partfs", 6), ("parttype", 4), ("partarch", 13))]
        return _u32(numbers[0]) + _u32(numbers[1]) + f"{numbers[2]:02}".encode() + b"\0"
    if datatype == sif.SIGNATURE:
        digits = given.get("signentity", "")
        try:
            entity = bytes.fromhex(digits)
        except ValueError:
            entity = b""
        if len(entity) != 20:
            raise BollardError(f"--signentity {digits!r} is not a fingerprint", "give its 40 hexadecimal digits")
        return _u32(_choice("signhash", given, 5)) + entity
    if datatype == sif.SBOM:
        form = {"github": "github-json"}.get(given.get("sbomformat", ""), given.get("sbomformat", ""))
        if form not in _SBOMS:
            raise BollardError(f"--sbomformat {form!r} is not known", "one of " + ", ".join(_SBOMS))
        return _u32(_SBOMS.index(form) + 1)
    return b""


def _choice(name: str, given: dict[str, str], last: int) -> int:
    if name not in given:
        raise BollardError(f"--{name} is missing", _HELP.format(f"1 to {last}"))
    number = _number(f"--{name}", given[name])
    if not 1 <= number <= last:
        raise BollardError(f"--{name} {number} is not known", f"give a number from 1 to {last}")
    return number


def _number(what: str, text: str, largest: int = (1 << 32) - 1) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= largest):
        raise BollardError(f"{what} {text!r} is not a number from 0 to {largest}", "see `bollard sif list IMAGE`")
    return int(text)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
