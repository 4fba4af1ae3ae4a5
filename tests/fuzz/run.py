#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Feed damaged input to the readers of definition files and of SIF images, and to those in C, for a while.

    tests/fuzz/run.py [--seconds 60] [--seed N] [--only c|definition|sif]

Whatever comes in, the answer is a value or one BollardError of one line: no other exception, no hang, no memory
beyond a limit that the kernel enforces. A failure prints the seed that repeats it and keeps the input.
The C is compiled with AddressSanitizer and UndefinedBehaviorSanitizer (readers.c): their first finding is the failure.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dev_tree  # noqa: E402

sys.path.insert(0, str(dev_tree.make()))

import definitions  # noqa: E402
import images  # noqa: E402

from bollard.runtime.errors import BollardError  # noqa: E402
from bollard.spank_plugin import build  # noqa: E402

MEMORY = 768 << 20  # bytes of address space
PATIENCE = 20  # seconds for one input, on a slow machine

# name -> (input of a random generator, what reads it)
TARGETS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[bytes], None]]] = {
    "definition": (definitions.make, definitions.check),
    "sif": (images.make, images.check),
}


def fuzz(name: str, seconds: float, seed: int) -> int:
    make, check = TARGETS[name]
    kinds: collections.Counter[str] = collections.Counter()
    number, end = 0, time.monotonic() + seconds
    while number == 0 or time.monotonic() < end:
        data = make(random.Random(f"{name} {seed} {number}"))
        signal.alarm(PATIENCE)
        try:
            check(data)
            kinds["accepted"] += 1
        except BollardError as error:
            if "\n" in str(error) or not error.message or not error.hint or not str(error).isprintable():
                return _failed(name, seed, number, data, f"not one clear line: {str(error)!r}")
            kinds[_class(error.message)] += 1
        except BaseException:  # noqa: BLE001 - also MemoryError and the alarm
            return _failed(name, seed, number, data, traceback.format_exc())
        finally:
            signal.alarm(0)
        number += 1
    print(f"{name}: {number} inputs, seed {seed}, {len(kinds)} kinds of answer, peak {_peak()} MiB")
    for kind, count in kinds.most_common(40):
        print(f"  {count:>7}  {kind}")
    return 0


def fuzz_c(seconds: float, seed: int) -> int:
    """Compile readers.c with the plugin's files that it calls, and run it."""
    here = Path(__file__).resolve().parent
    plugin = here.parent.parent / "spank_plugin"
    with tempfile.TemporaryDirectory(prefix="bollard-fuzz-") as folder:
        program = f"{folder}/readers"
        build.write_headers(Path(folder))
        Path(folder, "slurm").mkdir()  # one file needs the name of a type of Slurm's, and no more of Slurm
        Path(folder, "slurm/spank.h").write_text("typedef struct spank_handle *spank_t;\n")
        command = [
            *(os.environ.get("CC", "cc"), "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
            *("-Wno-missing-field-initializers", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{plugin}", f"-I{folder}", "-o", program, str(here / "readers.c")),
            *(str(plugin / f"{name}.c") for name in ("wire", "script", "scratch", "supervise", "become", "root_owned")),
        ]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            return 1
        print(f"c: seed {seed}", flush=True)
        status = subprocess.run([program, str(max(1, round(seconds))), str(seed)], stdin=subprocess.DEVNULL).returncode
    if status:
        print(f"c: seed {seed} failed, exit status {status}")
    return 1 if status else 0


def _class(message: str) -> str:
    """A message without what it quotes."""
    text = message.partition(": ")[2] or message
    return re.sub(r"[0-9]+", "N", re.sub(r"`[^`]*`|\"[^\"]*\"|'[^']*'|%\S+|\{\{.*\}\}", "...", text))[:90]


def _failed(name: str, seed: int, number: int, data: bytes, what: str) -> int:
    fd, path = tempfile.mkstemp(prefix=f"bollard-fuzz-{name}-")
    os.write(fd, data)
    print(f"{name}: input {number} of seed {seed} failed; it is in {path}\n{what}")
    return 1


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _too_long(signum: int, frame: object) -> None:
    raise TimeoutError(f"one input took over {PATIENCE} seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=sorted((*TARGETS, "c")))
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    names = [options.only] if options.only else ["c", *sorted(TARGETS)]
    share = options.seconds / len(names)
    failed = fuzz_c(share, seed) if "c" in names else 0  # before the limit: the sanitizers map terabytes
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    return max(failed, *(fuzz(name, share, seed) for name in names if name != "c"), 0)


if __name__ == "__main__":
    raise SystemExit(main())
