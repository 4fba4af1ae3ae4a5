# SPDX-License-Identifier: BSD-3-Clause
"""Print the devices that a loader finds: graphics_probe.py vulkan|egl|opencl.

Ends with 3 when the loader itself is not there, with 1 when it finds no device of NVIDIA's.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_char_p, c_int, c_uint, c_uint32, c_void_p


def _library(*names: str) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    print(f"no {names[0]}")
    sys.exit(3)


def vulkan() -> list[str]:
    """The names of the physical devices."""
    library = _library("libvulkan.so.1")
    # VkInstanceCreateInfo with every field zero but sType = 1.
    info = (c_uint32 * 16)(1)
    instance, count = c_void_p(), c_uint32()
    status = library.vkCreateInstance(byref(info), None, byref(instance))
    if status:
        return [f"vkCreateInstance: {status}"]
    library.vkEnumeratePhysicalDevices(instance, byref(count), None)
    devices = (c_void_p * count.value)()
    library.vkEnumeratePhysicalDevices(instance, byref(count), devices)
    names = []
    for device in devices:
        properties = ctypes.create_string_buffer(4096)
        library.vkGetPhysicalDeviceProperties(c_void_p(device), properties)
        names.append(properties.raw[20:276].split(b"\0")[0].decode())  # after five 32-bit numbers
    return names


def egl() -> list[str]:
    """The vendors of the EGL devices."""
    library = _library("libEGL.so.1")
    library.eglGetProcAddress.restype = c_void_p
    found = [library.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglQueryDeviceStringEXT")]
    if not all(found):
        return []
    query = ctypes.CFUNCTYPE(c_uint, c_int, c_void_p, c_void_p)(found[0])
    string = ctypes.CFUNCTYPE(c_char_p, c_void_p, c_int)(found[1])
    devices, count = (c_void_p * 16)(), c_int()
    query(16, devices, byref(count))
    extensions = [string(c_void_p(device), 0x3055) or b"" for device in devices[: count.value]]
    return ["NVIDIA" if b"EGL_NV_device_cuda" in words else "other" for words in extensions]


def opencl() -> list[str]:
    """The names of the platforms."""
    library = _library("libOpenCL.so.1")
    count = c_uint()
    library.clGetPlatformIDs(0, None, byref(count))
    platforms = (c_void_p * max(1, count.value))()
    library.clGetPlatformIDs(count, platforms, None)
    names = []
    for platform in platforms[: count.value]:
        text = ctypes.create_string_buffer(200)
        library.clGetPlatformInfo(c_void_p(platform), 0x0902, ctypes.c_size_t(200), text, None)
        names.append(text.value.decode())
    return names


if __name__ == "__main__":
    names = {"vulkan": vulkan, "egl": egl, "opencl": opencl}[sys.argv[1]]()
    print(", ".join(names) or "no device")
    sys.exit(0 if any("NVIDIA" in name for name in names) else 1)
