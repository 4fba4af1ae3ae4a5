# SPDX-License-Identifier: BSD-3-Clause
"""Multiply two bf16 matrices with PyTorch on the first card and compare with the product in fp32.

Ends with 3 when there is no PyTorch, or none for CUDA.
"""

from __future__ import annotations

import sys
import time


def main() -> int:
    try:
        import torch
    except ImportError as error:
        print(error)
        return 3
    if not torch.version.cuda:
        print("this PyTorch is made without CUDA")
        return 3
    if not torch.cuda.is_available():
        try:
            torch.zeros(1).cuda()
        except Exception as error:  # its message is the finding
            print(f"torch.cuda: {error}")
        return 1
    torch.manual_seed(1)
    left, right = (torch.randn(2048, 2048, device="cuda") for _ in range(2))
    half = left.bfloat16() @ right.bfloat16()
    whole = left.bfloat16().float() @ right.bfloat16().float()
    torch.cuda.synchronize()
    wrong = ((half.float() - whole).abs().max() / whole.abs().max()).item()
    begin = time.monotonic()
    for _ in range(20):
        half = left.bfloat16() @ right.bfloat16()
    torch.cuda.synchronize()
    rate = 20 * 2 * 2048**3 / (time.monotonic() - begin) / 1e12
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(0)}, greatest error {wrong:.1e}, {rate:.0f} TFLOP/s")
    return 0 if wrong < 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
