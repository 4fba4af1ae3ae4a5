# SPDX-License-Identifier: BSD-3-Clause
"""What a 64-bit ELF library says of itself: its soname, the C library that it needs or is, and its notes.

The formats are those of elf(5) and of the LSB's chapter on symbol versions (sections of type SHT_GNU_verneed and
SHT_GNU_verdef). Only the headers and these small sections are read, never the code. Files can be an image's: every size
is bounded, and a file of another form gives an empty answer.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    Version = tuple[int, ...]

    class Section(NamedTuple):
        """An entry of the section table: place of its name, type, offset and size in the file, the linked section."""

        name: int
        kind: int
        offset: int
        size: int
        link: int

else:
    from collections import namedtuple

    Section = namedtuple("Section", "name kind offset size link")

_SECTIONS_MAX = 4096
_PART_MAX = 4 << 20  # bytes of one section
_ROUNDS_MAX = 10_000  # entries of one list
_NAME_MAX = 256  # bytes of a name
_HEADER, _ENTRY = 64, 64  # sizes of Elf64_Ehdr and Elf64_Shdr
_DYNAMIC, _NOTE, _DYNSYM, _VERDEF, _VERNEED = 6, 7, 11, 0x6FFFFFFD, 0x6FFFFFFE  # sh_type
_SYMBOL, _SYMBOLS_MAX, _BINDINGS = 24, 100_000, (1, 2)  # Elf64_Sym; STB_GLOBAL, STB_WEAK
_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 14, 15, 29
_X86_ISA_1_NEEDED = 0xC0008002


class Library:
    """An open library. Every method returns an empty value for a file that is not ELF, or that is damaged."""

    __slots__ = ("_big", "_fd", "_names", "_sections", "_tables")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._big = False
        self._names = 0  # the section that holds the sections' names
        self._sections: list[Section] = []
        self._tables: dict[int, bytes] = {}  # content of string tables, by the section's number
        try:
            self._read_table()
        except (OSError, OverflowError):
            pass  # a table at an offset that no file has: no ELF file

    def soname(self) -> str:
        """Return the name by which programs ask for the library; "" if it has none."""
        return next(iter(self._dynamic(_DT_SONAME)), "")

    def needed(self) -> list[str]:
        """Return the names of the libraries that the file asks for, in its order."""
        return self._dynamic(_DT_NEEDED)

    def run_path(self) -> list[str]:
        """Return the directories in which the file's loader looks first, as they are written: with $ORIGIN."""
        found = self._dynamic(_DT_RUNPATH) or self._dynamic(_DT_RPATH)
        return [place for text in found for place in text.split(":") if place]

    def constants(self) -> bytes:
        """Return the content of the section .rodata, in which the texts of a program are."""
        for section in self._sections:
            if self._text(self._names, section.name) == ".rodata":
                return self._data(section)
        return b""

    def cpu_level(self) -> int:
        """Return the level of x86-64 that the file needs, 1 to 4; 0 if it does not tell.

        The rule is that of the x86-64 psABI, "Program Property": GNU_PROPERTY_X86_ISA_1_NEEDED.
        """
        level = 0
        for section, data in self._parts(_NOTE):
            if self._text(self._names, section.name) != ".note.gnu.property" or data[12:16] != b"GNU\0":
                continue
            at = 16
            for _ in range(_ROUNDS_MAX):  # pr_type, pr_datasz, then the data, in steps of 8 bytes
                if at + 12 > len(data):
                    break
                if self._number(data, at, 4) == _X86_ISA_1_NEEDED:
                    level = max(level, min(self._number(data, at + 8, 4).bit_length(), 4))
                at += 8 + (self._number(data, at + 4, 4) + 7) // 8 * 8
        return level

    def needs(self, prefix: str) -> Version:
        """Return the highest version that the library needs of symbols whose version begins with `prefix` (GLIBC_)."""
        return _highest([name for names in self.requirements().values() for name in names], prefix)

    def requirements(self) -> dict[str, list[str]]:
        """Return the symbol versions that the file needs (DT_VERNEED), by the name of the library that has them."""
        found: dict[str, list[str]] = {}
        count = 0
        for section, data in self._parts(_VERNEED):
            at = 0
            for _ in range(_ROUNDS_MAX):  # Elf64_Verneed: vn_cnt at 2, vn_file at 4, vn_aux at 8, vn_next at 12
                names = found.setdefault(self._text(section.link, self._number(data, at + 4, 4)), [])
                part = at + self._number(data, at + 8, 4)
                for _ in range(min(self._number(data, at + 2, 2), _ROUNDS_MAX)):  # vna_name at 8, vna_next at 12
                    names.append(self._text(section.link, self._number(data, part + 8, 4)))
                    count += 1
                    part += self._number(data, part + 12, 4)
                step = self._number(data, at + 12, 4)
                if not step or count > _ROUNDS_MAX:
                    break
                at += step
        return found

    def defines(self, prefix: str) -> Version:
        """Return the highest version that the library defines, of those that begin with `prefix` (GLIBC_)."""
        return _highest(self.provisions(), prefix)

    def provisions(self) -> list[str]:
        """Return the symbol versions that the library defines (DT_VERDEF). The first is mostly its own name."""
        found = []
        for section, data in self._parts(_VERDEF):
            at = 0
            for _ in range(_ROUNDS_MAX):  # Elf64_Verdef: vd_aux at 12, vd_next at 16; vda_name at 0
                part = at + self._number(data, at + 12, 4)
                found.append(self._text(section.link, self._number(data, part, 4)))
                step = self._number(data, at + 16, 4)
                if not step:
                    break
                at += step
        return found

    def symbols(self) -> tuple[set[str], set[str]]:
        """Return the names of the symbols that the file defines for others, and of those that it needs of others."""
        defined: set[str] = set()
        needed: set[str] = set()
        for section, data in self._parts(_DYNSYM):
            for at in range(0, min(len(data) - _SYMBOL + 1, _SYMBOL * _SYMBOLS_MAX), _SYMBOL):
                if data[at + 4] >> 4 in _BINDINGS:  # st_name at 0, st_info at 4, st_shndx at 6
                    name = self._text(section.link, self._number(data, at, 4))
                    (defined if self._number(data, at + 6, 2) else needed).add(name)
        return defined, needed

    def note(self, section_name: str, owner: str) -> bytes:
        """Return the content of the note of `owner` in a section; b"" if there is none."""
        for section, data in self._parts(_NOTE):
            if self._text(self._names, section.name) == section_name:
                name_size, size = self._number(data, 0, 4), self._number(data, 4, 4)
                begin = 12 + (name_size + 3) // 4 * 4
                if data[12 : 12 + name_size].rstrip(b"\0") == owner.encode():
                    return data[begin : begin + size].strip(b"\0")
        return b""

    def _dynamic(self, tag: int) -> list[str]:
        """Return the texts of the entries of the section .dynamic that have this tag."""
        found = []
        for section, data in self._parts(_DYNAMIC):
            for at in range(0, min(len(data) - 15, 16 * _ROUNDS_MAX), 16):
                if self._number(data, at, 8) == tag:
                    found.append(self._text(section.link, self._number(data, at + 8, 8)))
        return found

    def _read_table(self) -> None:
        head = os.pread(self._fd, _HEADER, 0)
        if head[:5] != b"\x7fELF\x02" or len(head) < _HEADER:
            return
        self._big = head[5] == 2
        at, count, self._names = self._number(head, 40, 8), self._number(head, 60, 2), self._number(head, 62, 2)
        if count > _SECTIONS_MAX or self._number(head, 58, 2) != _ENTRY:
            return
        table = os.pread(self._fd, count * _ENTRY, at)
        for begin in range(0, len(table) - _ENTRY + 1, _ENTRY):
            name, kind, link = (self._number(table, begin + place, 4) for place in (0, 4, 40))
            offset, size = self._number(table, begin + 24, 8), self._number(table, begin + 32, 8)
            self._sections.append(Section(name, kind, offset, size, link))

    def _parts(self, kind: int) -> list[tuple[Section, bytes]]:
        return [(section, self._data(section)) for section in self._sections if section.kind == kind]

    def _data(self, section: Section) -> bytes:
        try:
            return os.pread(self._fd, min(section.size, _PART_MAX), section.offset)
        except (OSError, OverflowError):
            return b""  # an offset that no file has

    def _number(self, data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "big" if self._big else "little")

    def _text(self, table: int, at: int) -> str:
        """Return the text at `at` in the string table that is section number `table`."""
        if not table < len(self._sections) or at >= self._sections[table].size:
            return ""
        if table not in self._tables:  # read once: through a file server each read has its price
            self._tables[table] = self._data(self._sections[table])
        data = self._tables[table]
        end = data.find(b"\0", at, at + _NAME_MAX)
        return data[at : end if end >= 0 else at + _NAME_MAX].decode("ascii", "replace")


def version(text: str) -> Version:
    """Return the numbers of a version: "2.34" is (2, 34). Stops at the first part that is not a number."""
    found: list[int] = []
    for part in text.split("."):
        if not (part.isascii() and part.isdigit() and len(part) < 10):
            break
        found.append(int(part))
    return tuple(found)


def _highest(names: list[str], prefix: str) -> Version:
    return max([version(name[len(prefix) :]) for name in names if name.startswith(prefix)], default=())
