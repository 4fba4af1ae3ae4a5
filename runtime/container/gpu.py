# SPDX-License-Identifier: BSD-3-Clause
"""--nv and --rocm: bind the host's GPU drivers into the container.

The libraries are those that must match the host's kernel driver. They are bound to LIBRARIES, Apptainer's directory for
them, which the image's environment has in LD_LIBRARY_PATH. This module is imported only for --nv or --rocm.
"""

from __future__ import annotations

import os

from bollard.runtime.container import loader_cache
from bollard.runtime.errors import BollardError
from bollard.runtime.request.plan import BIND, OMIT, WARN, Mount

LIBRARIES = "/.singularity.d/libs"
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/rocm/bin")

# GPU kind: beginnings of library names, names of programs, beginnings of device names.
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
# Without one of these libraries the others cannot be used.
_MARKS = {"nv": ("libcuda.so", "libnvidia-ml.so"), "rocm": ("libdrm_amdgpu.so",)}


def binds(kind: str, known: dict[str, str], devices: bool) -> list[Mount]:
    """Return the binds for one GPU kind; [] if this node has no driver for it.

    kind     nv or rocm
    known    {name: path} of the libraries on this node (of_machine)
    devices  bind the device files too: the container has its own /dev
    """
    begins, programs, nodes = _CARDS[kind]
    if not any(name.startswith(_MARKS[kind]) for name in known):
        return []
    files = [(path, f"{LIBRARIES}/{name}") for name, path in known.items() if name.startswith(begins)]
    for name in programs:
        places = [f"{folder}/{name}" for folder in _FOLDERS if os.path.exists(f"{folder}/{name}")]
        files += [(path, f"/usr/bin/{name}") for path in places[:1]]
    # WARN: the loader's cache can name a library that was removed.
    found = [Mount(BIND, source, target, read_only=True, if_missing=WARN) for source, target in files]
    if devices:
        names = [f"/dev/{name}" for name in sorted(os.listdir("/dev")) if name.startswith(nodes)]
        found += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in names]
    return found


def of_machine() -> dict[str, str]:
    """Return {name: path} of the libraries that the host's loader knows.

    Raises:
        BollardError: /etc/ld.so.cache is damaged.
    """
    try:
        return loader_cache.read(os.uname().machine)
    except ValueError as error:
        raise BollardError(
            f"{loader_cache.PATH} on this node is damaged ({error})", "its administrator should run ldconfig"
        ) from None


def find(kinds: tuple[str, ...], devices: bool) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """Return the binds for all GPU `kinds`, and the kinds for which this node has no driver. `devices`: as `binds`."""
    known = of_machine()
    found = {kind: binds(kind, known, devices) for kind in kinds}
    missing = tuple(kind for kind, of_kind in found.items() if not of_kind)
    return tuple(bind for of_kind in found.values() for bind in of_kind), missing
