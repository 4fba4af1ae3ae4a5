# SPDX-License-Identifier: BSD-3-Clause
"""--nv and --rocm: show the host's graphics drivers in the container, as binds.

The libraries are those that a program of the image must share with the host's kernel driver; they go where the
image's environment has them in LD_LIBRARY_PATH (Apptainer's place). Imported only where one of the two is asked for.
"""

from __future__ import annotations

import os

from bollard.runtime.container import loader_cache
from bollard.runtime.errors import BollardError
from bollard.runtime.request.plan import BIND, OMIT, Mount

LIBRARIES = "/.singularity.d/libs"
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/rocm/bin")

# Kind of card: what names of libraries begin with, programs, what names of devices begin with.
_CARDS = {
    "nv": (
        ("libcuda.so", "libcudadebugger.so", "libnvcuvid.so", "libnvidia-", "libnvoptix.so", "libEGL_nvidia.so",
         "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so", "libGLX_nvidia.so", "libvdpau_nvidia.so", "libGLdispatch.so",
         "libOpenGL.so", "libGLX.so", "libEGL.so", "libGL.so", "libGLESv1_CM.so", "libGLESv2.so", "libOpenCL.so"),
        ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
        ("nvidia",),
    ),
    "rocm": (
        ("libdrm.so", "libdrm_amdgpu.so", "libpciaccess.so", "libnuma.so", "libelf.so"),
        ("rocm-smi", "rocminfo"),
        ("dri", "kfd"),
    ),
}  # fmt: skip
# Without one of these the others are of no use.
_MARKS = {"nv": ("libcuda.so", "libnvidia-ml.so"), "rocm": ("libdrm_amdgpu.so",)}


def binds(kind: str, known: dict[str, str], devices: bool) -> list[Mount]:
    """The binds for one kind of card, [] where the machine has none; `devices`: /dev is the container's own."""
    begins, programs, nodes = _CARDS[kind]
    if not any(name.startswith(_MARKS[kind]) for name in known):
        return []
    files = [(path, f"{LIBRARIES}/{name}") for name, path in known.items() if name.startswith(begins)]
    for name in programs:
        places = [f"{folder}/{name}" for folder in _FOLDERS if os.path.exists(f"{folder}/{name}")]
        files += [(path, f"/usr/bin/{name}") for path in places[:1]]
    found = [Mount(BIND, source, target, read_only=True, if_missing=OMIT) for source, target in files]
    if devices:
        names = [f"/dev/{name}" for name in sorted(os.listdir("/dev")) if name.startswith(nodes)]
        found += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in names]
    return found


def of_machine() -> dict[str, str]:
    """The libraries that the host's loader knows."""
    try:
        return loader_cache.read(os.uname().machine)
    except ValueError as error:
        raise BollardError(
            f"{loader_cache.PATH} on this node is damaged ({error})", "its administrator should run ldconfig"
        ) from None


def find(kinds: tuple[str, ...], devices: bool) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """The binds for all `kinds`, and those kinds of which the machine has nothing."""
    known = of_machine()
    found = {kind: binds(kind, known, devices) for kind in kinds}
    missing = tuple(kind for kind, of_kind in found.items() if not of_kind)
    return tuple(bind for of_kind in found.values() for bind in of_kind), missing
