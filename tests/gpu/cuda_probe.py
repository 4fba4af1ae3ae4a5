# SPDX-License-Identifier: BSD-3-Clause
"""Use the first NVIDIA card through the CUDA driver API alone: count, name, memory, copies, and a kernel from PTX.

Needs no CUDA toolkit: ctypes, libcuda.so.1 and the driver's PTX compiler. Prints one line; ends with 1 when a call
fails, and with 3 when there is no libcuda.so.1.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

COUNT = 1 << 16
PTX = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry twice(.param .u64 data, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4];
    add.u32 %r7, %r6, %r6;
    st.global.u32 [%rd4], %r7;
DONE:
    ret;
}
"""


def main() -> int:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        print(error)
        return 3

    def call(name: str, *arguments: object) -> None:
        status = getattr(cuda, name)(*arguments)
        if status:
            text = c_char_p()
            cuda.cuGetErrorString(status, byref(text))
            print(f"{name}: {status} {(text.value or b'?').decode()}")
            sys.exit(1)

    version, count, device, size = c_int(), c_int(), c_int(), c_size_t()
    context, module, kernel, memory = c_void_p(), c_void_p(), c_void_p(), c_uint64()
    name = ctypes.create_string_buffer(100)
    call("cuInit", 0)
    call("cuDriverGetVersion", byref(version))
    call("cuDeviceGetCount", byref(count))
    call("cuDeviceGet", byref(device), 0)
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceTotalMem_v2", byref(size), device)
    call("cuDevicePrimaryCtxRetain", byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuModuleLoadData", byref(module), PTX)
    call("cuModuleGetFunction", byref(kernel), module, b"twice")
    call("cuMemAlloc_v2", byref(memory), c_size_t(4 * COUNT))
    numbers = (c_uint * COUNT)(*range(COUNT))
    call("cuMemcpyHtoD_v2", memory, numbers, c_size_t(4 * COUNT))
    values = (c_uint64(memory.value), c_uint(COUNT))
    parameters = (c_void_p * 2)(*[ctypes.cast(byref(value), c_void_p) for value in values])
    call("cuLaunchKernel", kernel, COUNT // 256, 1, 1, 256, 1, 1, 0, None, parameters, None)
    call("cuCtxSynchronize")
    call("cuMemcpyDtoH_v2", numbers, memory, c_size_t(4 * COUNT))
    if list(numbers) != [2 * number for number in range(COUNT)]:
        print("the kernel's results are wrong")
        return 1
    with open("/proc/self/maps") as maps:
        places = sorted({line.split()[-1] for line in maps if "libcuda.so" in line or "ptxjit" in line})
    card = f"{count.value} x {name.value.decode()}, {size.value >> 20} MiB"
    print(f"{card}, CUDA {version.value}, from {' '.join(places)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
