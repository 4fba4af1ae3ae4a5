# SPDX-License-Identifier: BSD-3-Clause
"""--nv and --rocm: show the host's graphics drivers in the container, as binds.

The libraries are those that a program of the image must share with the host's kernel driver; they go where the
image's environment has them in LD_LIBRARY_PATH (Apptainer's place). Imported only where one of the two is asked for.
"""

from __future__ import annotations

import os

from bollard.runtime.container import loader_cache
from bollard.runtime.errors import BollardError
from bollard.runtime.request.plan import DEVICES
from bollard.runtime.request.spec import OPTIONAL, READ_ONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.plan import Op

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


def binds(kind: str, known: dict[str, str], devices: bool) -> list[Op]:
    """The operations for one kind of card, [] where the machine has none; `devices`: /dev is the container's own."""
    begins, programs, nodes = _CARDS[kind]
    if not any(name.startswith(_MARKS[kind]) for name in known):
        return []
    ops = [
        (path, f"{LIBRARIES}/{name}", READ_ONLY | OPTIONAL) for name, path in known.items() if name.startswith(begins)
    ]
    for name in programs:
        places = [f"{folder}/{name}" for folder in _FOLDERS if os.path.exists(f"{folder}/{name}")]
        ops += [(path, f"/usr/bin/{name}", READ_ONLY | OPTIONAL) for path in places[:1]]
    if devices:
        names = [name for name in sorted(os.listdir("/dev")) if name.startswith(nodes)]
        ops += [(f"/dev/{name}", f"/dev/{name}", DEVICES | OPTIONAL) for name in names]
    return ops


def of_machine() -> dict[str, str]:
    """The libraries that the host's loader knows."""
    try:
        return loader_cache.read(os.uname().machine)
    except ValueError as error:
        raise BollardError(
            f"{loader_cache.PATH} on this node is damaged ({error})", "its administrator should run ldconfig"
        ) from None


def make(kinds: tuple[str, ...], devices: bool) -> tuple[list[Op], list[str]]:
    """The operations for all `kinds`, and those of which the machine has nothing."""
    known = of_machine()
    found = {kind: binds(kind, known, devices) for kind in kinds}
    return [op for ops in found.values() for op in ops], [kind for kind, ops in found.items() if not ops]
