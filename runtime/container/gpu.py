# SPDX-License-Identifier: BSD-3-Clause
"""The host's GPU drivers in a container: which drivers it gets, and their binds.

Libraries and programs of a driver must match the host's kernel module, so they come from the host. The libraries are
bound to LIBRARIES, Apptainer's directory for them, which the image's environment has in LD_LIBRARY_PATH.

A container gets a driver when its options ask for it (--nv, --rocm), and by the site's setting `gpu`:

    auto    where the container's user can open a GPU's device. In a job the keeper is in the job's cgroup. So with
            Slurm's ConstrainDevices the jobs that have GPUs get a driver; without it, every job on a node with a GPU
    always  on every node that has the driver
    never   no

All steps of a job get the same answer, whatever GPUs they have: they share their containers. What depends on the image
is decided later, when the image can be read (driver_libraries.py). This module is imported only for a container that
gets a driver.
"""

from __future__ import annotations

import os

from bollard.runtime.container import loader_cache
from bollard.runtime.errors import BollardError
from bollard.runtime.request.plan_records import BIND, CAN_LOAD, LACKS, LIBRARIES, OMIT, Driver, Gpus, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.request.site import Site
    from bollard.runtime.request.spec import Spec

KINDS = ("nv", "rocm")
_FOLDERS = (
    "/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/rocm/bin", "/usr/local/nvidia/bin", "/run/opengl-driver/bin",
    "/usr/lib/wsl/lib",
)  # fmt: skip
# Where an NVIDIA driver lies that the host's loader does not know: as Google's and other machine images have it, of
# NixOS, of WSL.
_DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/run/opengl-driver/lib", "/usr/lib/wsl/lib")

# Libraries that only pass calls on to a driver: the image's own are as good, and fit its other libraries. So are all
# of AMD's: its driver proper, ROCm, is in the image. Apptainer 1.5 reaches the same by its search order.
_LOADERS = (
    "libGLdispatch.so", "libOpenGL.so", "libGLX.so", "libEGL.so", "libGL.so", "libGLESv1_CM.so", "libGLESv2.so",
    "libOpenCL.so",
)  # fmt: skip
# GPU kind: beginnings of library names, names of programs, beginnings of device names.
_CARDS = {
    "nv": (
        ("libcuda.so", "libcudadebugger.so", "libnvcuvid.so", "libnvidia-", "libnvoptix.so", "libEGL_nvidia.so",
         "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so", "libGLX_nvidia.so", "libvdpau_nvidia.so", "libnvrm_",
         "libnvsci", "libnvos", "libnvcudla.so", "libnvtegrahv.so", *_LOADERS),
        ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
        ("nvidia", "gdrdrv", "dri"),
    ),
    "rocm": (
        ("libdrm.so", "libdrm_amdgpu.so", "libpciaccess.so", "libnuma.so", "libelf.so"),
        ("rocm-smi", "rocminfo"),
        ("dri", "kfd"),
    ),
}  # fmt: skip
# Of the container toolkit, not of the driver.
_OTHERS = ("libnvidia-container",)
# Without one of these libraries the others cannot be used.
_MARKS = {"nv": ("libcuda.so", "libnvidia-ml.so"), "rocm": ("libdrm_amdgpu.so",)}

# By these files the loaders of EGL, Vulkan, OpenCL and OptiX find the driver: directory, what the file's name has.
_SETTINGS = {
    "nv": (
        *((f"{top}/{name}", "nvidia") for top in ("/usr/share", "/etc") for name in (
            "glvnd/egl_vendor.d", "egl/egl_external_platform.d", "vulkan/icd.d", "vulkan/implicit_layer.d",
        )),
        ("/etc/OpenCL/vendors", "nvidia"),
        ("/usr/share/nvidia", "nvoptix.bin"),
        ("/usr/share/nvidia", "nvidia-application-profiles"),
    ),
    "rocm": (),
}  # fmt: skip
_DRIVER_SHARE = "/usr/local/nvidia/share"  # for /usr/share, of a driver in /usr/local/nvidia
# Services of the driver. A program that finds no socket works without them, or not at all (fabricmanager).
_SOCKETS = {"nv": ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket"), "rocm": ()}
# The pipes of CUDA's Multi-Process Service, by default, and the variable that names another directory.
_MPS, _MPS_VARIABLE = "/tmp/nvidia-mps", "CUDA_MPS_PIPE_DIRECTORY"


def device_files(kind: str) -> list[str]:
    """Return the device files of this node's GPUs of one kind. All of AMD's GPUs are opened by one, /dev/kfd."""
    names = sorted(os.listdir("/dev"))
    if kind == "rocm":
        return ["/dev/kfd"] if "kfd" in names else []
    return [f"/dev/{name}" for name in names if name[:6] == "nvidia" and name[6:].isdigit()]


def openable(kind: str) -> str:
    """Return the device of a GPU of this kind that this process may open; "" for none.

    access(2) asks the device cgroup too, and does not wake the GPU up, as open(2) would.
    """
    return next((path for path in device_files(kind) if os.access(path, os.R_OK | os.W_OK)), "")


def chosen(asked: Spec, here: Site) -> tuple[Driver, ...]:
    """Return the drivers that a container gets if this node has them, and why. Looks for devices, not for libraries."""
    found = []
    for kind in KINDS:
        if kind in asked.gpus:
            found.append(Driver(kind, f"--{kind}", required=True))
        elif f"no-{kind}" in asked.gpus or here.gpu == "never":
            continue
        elif here.gpu == "always":
            if kind == "nv" or os.path.exists("/dev/kfd"):  # every machine with Mesa has AMD's libraries
                found.append(Driver(kind, "gpu: always"))
        else:
            device = openable(kind)
            if device:  # a node that shows an NVIDIA GPU and has no driver is not in order; AMD's can be the image's
                found.append(Driver(kind, f"gpu: auto, {device}", required=kind == "nv"))
    return tuple(found)


def binds(kind: str, known: dict[str, str], devices: bool, warnings: list[str] | None = None) -> list[Mount]:
    """Return the binds for one GPU kind; [] if this node has no driver for it.

    kind      nv or rocm
    known     {name: path} of the libraries on this node (of_machine)
    devices   bind the device files too: the container has its own /dev and /tmp
    warnings  gets a line for a program that cannot be bound
    """
    begins, programs, nodes = _CARDS[kind]
    if not any(name.startswith(_MARKS[kind]) for name in known):
        return []
    found = []
    for name, path in known.items():
        if name.startswith(begins) and not name.startswith(_OTHERS):
            only = CAN_LOAD if kind == "nv" and not name.startswith(_LOADERS) else LACKS
            found.append(Mount(BIND, path, f"{LIBRARIES}/{name}", read_only=True, if_missing=OMIT, only=only))
    for name in programs:
        places = [f"{folder}/{name}" for folder in _FOLDERS if os.path.exists(f"{folder}/{name}")]
        # rocm-smi is a script everywhere; the image's own /opt/rocm has what it starts.
        programs_here = [path for path in places if kind == "rocm" or is_program(path)]
        for path in programs_here[:1]:
            found.append(Mount(BIND, path, f"/usr/bin/{name}", read_only=True, if_missing=OMIT, only=CAN_LOAD))
        if places and not programs_here and warnings is not None:
            warnings.append(f"{places[0]} is a script of this node, which would not run in the container; left out")
    found += [Mount(BIND, path, target, read_only=True, if_missing=OMIT) for path, target in settings(kind)]
    sockets = [path for path in _SOCKETS[kind] if os.path.exists(path)]
    found += [Mount(BIND, path, path, noexec=True, if_missing=OMIT) for path in sockets]
    if kind == "nv":
        found += _mps(devices)
    if devices:
        names = [f"/dev/{name}" for name in sorted(os.listdir("/dev")) if name.startswith(nodes)]
        found += [Mount(BIND, path, path, devices=True, if_missing=OMIT) for path in names]
    return found


def is_program(path: str) -> bool:
    """Return whether a file is an ELF program. A script in its place starts another file of the host."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return os.access(path, os.X_OK)  # a program may be for running only


def settings(kind: str) -> list[tuple[str, str]]:
    """Return (source, target) of the files by which graphics and OpenCL find the driver."""
    found: dict[str, str] = {}
    for folder, word in _SETTINGS[kind]:
        for source in (folder, folder.replace("/usr/share", _DRIVER_SHARE)):
            try:
                names = sorted(os.listdir(source))
            except OSError:
                continue  # a driver without graphics
            for name in names:
                if word in name:
                    found.setdefault(f"{folder}/{name}", f"{source}/{name}")
    return [(source, target) for target, source in found.items()]


def _mps(contained: bool) -> list[Mount]:
    """Return the bind of the directory of CUDA's Multi-Process Service, if the container does not show it anyway."""
    paths = [os.environ.get(_MPS_VARIABLE, "")] + [_MPS] * contained
    return [
        Mount(BIND, path, path, noexec=True, if_missing=OMIT, if_free=True)
        for path in dict.fromkeys(paths)
        if path[:1] == "/" and ".." not in path.split("/") and os.path.isdir(path)
        if contained or not path.startswith(("/tmp/", "/dev/"))
    ]


def of_machine() -> dict[str, str]:
    """Return {name: path} of the libraries that the host's loader knows, and of an NVIDIA driver that it does not know.

    Raises:
        BollardError: /etc/ld.so.cache is damaged.
    """
    try:
        known = loader_cache.read(os.uname().machine)
    except ValueError as error:
        raise BollardError(
            f"{loader_cache.PATH} on this node is damaged ({error})", "its administrator should run ldconfig"
        ) from None
    if not any(name.startswith(_MARKS["nv"]) for name in known):
        for folder in _DRIVER_FOLDERS:
            for name in sonames(_names(folder)):
                known.setdefault(name, f"{folder}/{name}")
    return known


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # this machine has no driver there


def sonames(names: list[str]) -> list[str]:
    """Return those of the files of a directory by whose names programs ask for a library.

    A driver has libcuda.so.1, a link to libcuda.so.535.1; of others only the second form (libnvidia-glcore.so.535.1).
    """
    found = [name for name in names if name.rpartition(".so.")[2].isdigit()]
    short = {name.rpartition(".so.")[0] for name in found}
    return found + [name for name in names if ".so." in name and name.partition(".so.")[0] not in short]


def _gone(mounts: list[Mount]) -> list[str]:
    """Return a line for the libraries among `mounts` that the loader's cache names and this node no longer has."""
    libraries = dict.fromkeys(mount.source for mount in mounts if mount.target.startswith(LIBRARIES))
    gone = [path for path in libraries if not os.path.exists(path)]
    if not gone:
        return []
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    cure = "its administrator should install the driver again, or run ldconfig"
    return [f"{gone[0]}{more}: named by {loader_cache.PATH} and not on this node; left out; {cure}"]


def find(drivers: tuple[Driver, ...], devices: bool) -> Gpus:
    """Return the binds for `drivers`, those of them that this node has, and the required ones that it has not.

    `devices`: as `binds`.

    Raises:
        BollardError: /etc/ld.so.cache is damaged.
    """
    known = of_machine() if drivers else {}
    warnings: list[str] = []
    found = {driver: binds(driver.name, known, devices, warnings) for driver in drivers}
    warnings += _gone([mount for mounts in found.values() for mount in mounts])
    targets: dict[str, Mount] = {}
    for mounts in found.values():
        for mount in mounts:
            targets.setdefault(mount.target, mount)  # both kinds have /dev/dri
    return Gpus(
        tuple(targets.values()),
        tuple(driver for driver, mounts in found.items() if mounts),
        tuple(driver for driver, mounts in found.items() if not mounts and driver.required),
        warnings=tuple(warnings),
    )
