# SPDX-License-Identifier: BSD-3-Clause
"""The compiler's hardening of our C, read from the headers of the programs installed on the nodes."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from cluster import PREFIX, Cluster

DYNAMIC = ("spank_bollard.so", "_bollard.so", "inside/bin/paths.so", "python/bollard/runtime/system/_linux*.so")
PROGRAMS = ("bollard-keeper", "bollard-enter", "bollard-cat", "inside/bin/bollard-inside")
STATIC = PROGRAMS[1:]

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_GNU_STACK, PT_GNU_RELRO = 1, 2, 3, 0x6474E551, 0x6474E552
PF_X, PF_W = 1, 2
DT_TEXTREL, DT_BIND_NOW, DT_FLAGS, DT_FLAGS_1 = 22, 24, 30, 0x6FFFFFFB
DF_BIND_NOW, DF_1_NOW, DF_1_PIE = 8, 1, 0x08000000
ET_DYN = 3


class Elf:
    """The headers of a 64-bit ELF file of this machine's byte order (elf(5))."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:5] == b"\x7fELF\x02", path
        (self.kind,) = struct.unpack_from("=H", self.data, 16)
        (offset,) = struct.unpack_from("=Q", self.data, 32)
        size, count = struct.unpack_from("=HH", self.data, 54)
        # type, flags, offset, address, physical address, size in the file, size in memory, alignment
        self.segments = [struct.unpack_from("=IIQQQQQQ", self.data, offset + n * size) for n in range(count)]

    def segment(self, kind: int) -> tuple[int, ...] | None:
        return next((segment for segment in self.segments if segment[0] == kind), None)

    def dynamic(self) -> dict[int, int]:
        found = self.segment(PT_DYNAMIC)
        assert found is not None
        return dict(struct.iter_unpack("=QQ", self.data[found[2] : found[2] + found[5] // 16 * 16]))


@pytest.fixture(params=[*DYNAMIC, *PROGRAMS])
def elf(request: pytest.FixtureRequest, cluster: Cluster) -> Elf:
    found = sorted(cluster.path("n1", PREFIX).glob(request.param))
    assert len(found) == 1, (request.param, found)
    return Elf(found[0])


def test_no_memory_is_both_written_and_run(elf: Elf) -> None:
    stack = elf.segment(PT_GNU_STACK)
    assert stack is not None and not stack[1] & PF_X
    assert not [1 for kind, flags, *_ in elf.segments if kind == PT_LOAD and flags & PF_X and flags & PF_W]


def test_tables_of_addresses_are_read_only_and_the_program_is_anywhere(elf: Elf) -> None:
    """RELRO with BIND_NOW: the loader resolves every symbol, then makes the table read-only."""
    assert elf.kind == ET_DYN  # a library, or a program that can be loaded at any address
    assert elf.segment(PT_GNU_RELRO) is not None
    dynamic = elf.dynamic()
    now = dynamic.get(DT_FLAGS, 0) & DF_BIND_NOW or dynamic.get(DT_FLAGS_1, 0) & DF_1_NOW or DT_BIND_NOW in dynamic
    assert now and DT_TEXTREL not in dynamic


@pytest.mark.parametrize("name", STATIC)
def test_programs_for_containers_need_no_library(cluster: Cluster, name: str) -> None:
    elf = Elf(cluster.path("n1", f"{PREFIX}/{name}"))
    assert elf.segment(PT_INTERP) is None and elf.dynamic().get(DT_FLAGS_1, 0) & DF_1_PIE


def test_the_stack_is_checked(elf: Elf) -> None:
    """The stack protector's function is in the symbol table; in a static program, in the debugger's symbol table."""
    assert b"__stack_chk_fail" in elf.data


@pytest.mark.parametrize("name", ["spank_bollard.so", "_bollard.so", "bollard-keeper", "bollard-enter"])
def test_copies_are_checked(cluster: Cluster, name: str) -> None:
    """_FORTIFY_SOURCE: the checked functions are used. The other programs call none of these functions."""
    data = cluster.path("n1", f"{PREFIX}/{name}").read_bytes()
    assert re.search(rb"__(?!stack)\w+_chk\b", data)
