# SPDX-License-Identifier: BSD-3-Clause
"""A graphics driver without a GPU: libraries and programs of its names, compiled here, for one node.

libcuda.so.1 prints a line when it is loaded, so that `LD_PRELOAD=libcuda.so.1` tells whether a loader finds it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster import Cluster, good

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
LOADED = "the driver is loaded"
# A name of the driver's for the file, as its releases have; libcuda.so.1 is a link to it.
CUDA = "libcuda.so.535.104.05"
FOLDER = "/usr/local/lib"
_TALKS = """\
long write(int, const void *, unsigned long);
__attribute__((constructor)) void talk(void) {{ write(1, "{text}\\n", sizeof("{text}")); }}
"""
# arc4random came with glibc 2.36 (its news): a library that an image of Debian 11 cannot load.
NEW_GLIBC = "unsigned arc4random(void); unsigned f(void) { return arc4random(); }"
_NOTE = """\
.section .note.cuda.fwd_compatibility, "a", @note
.align 4
.long 19, 2f - 1f, 0
.asciz "NVIDIA Corporation"
.align 4
1: .ascii "{{\\"format\\":1,\\"CUDA version\\":\\"13.0\\",\\"driver\\":[{drivers}]}}"
2: .align 4
"""


def compile_library(
    path: Path, soname: str, text: str = "int f(void) { return 1; }", drivers: str = "", needs: Path | None = None
) -> None:
    """Compile a library.

    `drivers`: the majors in its note of CUDA forward compatibility. `needs`: a library that it names.
    """
    note = []
    if drivers:
        source = path.with_name("note.s")
        source.write_text(_NOTE.format(drivers=drivers))
        note = ["-x", "assembler", str(source)]
    if needs:
        note += ["-x", "none", str(needs)]
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(path), "-x", "c", "-", *note]
    subprocess.run(command, input=text.encode(), check=True)
    if drivers:
        source.unlink()


def talking(text: str) -> str:
    """The source of a library that prints `text` when it is loaded."""
    return _TALKS.format(text=text)


def install(cluster: Cluster, node: str) -> None:
    """Install the driver on a node."""
    folder = cluster.path(node, FOLDER)
    compile_library(folder / CUDA, "libcuda.so.1", talking(LOADED))
    (folder / "libcuda.so.1").symlink_to(CUDA)
    compile_library(folder / "libnvidia-ml.so.1", "libnvidia-ml.so.1")
    smi = str(cluster.path(node, "/usr/bin/nvidia-smi"))
    program = b'int puts(const char *); int main(void) { puts("card"); return 0; }'
    subprocess.run(["gcc", "-static", "-o", smi, "-xc", "-"], input=program, check=True)
    good(cluster.exec("ldconfig", node, "root"))


def remove(cluster: Cluster, node: str) -> None:
    """Remove the driver from a node."""
    names = " ".join(f"{FOLDER}/{name}" for name in (*LIBRARIES, CUDA))
    good(cluster.exec(f"rm -f {names} /usr/bin/nvidia-smi; ldconfig", node, "root"))


def show_card(cluster: Cluster, node: str) -> None:
    """Make the device files of one card."""
    good(cluster.exec("mknod -m 666 /dev/nvidia0 c 195 0; mknod -m 666 /dev/nvidiactl c 195 255", node, "root"))


def hide_card(cluster: Cluster, node: str) -> None:
    """Remove the device files."""
    good(cluster.exec("rm -f /dev/nvidia0 /dev/nvidiactl", node, "root"))
