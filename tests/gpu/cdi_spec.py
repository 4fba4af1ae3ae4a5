# SPDX-License-Identifier: BSD-3-Clause
"""Print a CDI spec (JSON, version 0.6.0) of this machine's NVIDIA driver, for machines without nvidia-ctk.

    python3 tests/gpu/cdi_spec.py FOLDER      FOLDER: where the container shall have the driver's libraries

The devices are 0, 1, ... and `all`. Hooks are those that nvidia-ctk writes: create-symlinks and update-ldcache.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

DRIVER = re.compile(r"lib(cuda|cudadebugger|nvidia-.*|nvcuvid|nvoptix|EGL_nvidia|GLX_nvidia)\.so")


def main() -> None:
    folder = sys.argv[1]
    cache = subprocess.run(["ldconfig", "-p"], stdout=subprocess.PIPE, text=True, check=False).stdout
    found = {line.split(" => ")[-1] for line in cache.splitlines() if DRIVER.match(line.strip()) and "x86-64" in line}
    for place in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if place and os.path.isdir(place):
            found |= {f"{place}/{name}" for name in os.listdir(place) if DRIVER.match(name)}
    real = {os.path.realpath(path): os.path.basename(path) for path in sorted(found)}
    mounts = [mount(path, f"{folder}/{os.path.basename(path)}") for path in sorted(real)]
    links = [f"{os.path.basename(path)}::{folder}/{name}" for path, name in real.items()]
    shared = sorted(name for name in os.listdir("/dev") if re.fullmatch(r"nvidia(ctl|-uvm|-uvm-tools|-modeset)", name))
    cards = sorted((name[6:] for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)), key=int)
    devices = [{"name": card, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{card}"}]}} for card in cards]
    every = [{"path": f"/dev/nvidia{card}"} for card in cards]
    hooks = [
        hook("create-symlinks", [word for link in links for word in ("--link", link)]),
        hook("update-ldcache", ["--folder", folder]),
    ]
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [*devices, {"name": "all", "containerEdits": {"deviceNodes": every}}],
        "containerEdits": {
            "deviceNodes": [{"path": f"/dev/{name}"} for name in shared],
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "mounts": mounts,
            "hooks": hooks,
        },
    }
    json.dump(spec, sys.stdout, indent=1)
    print()


def mount(source: str, target: str) -> dict[str, object]:
    return {"hostPath": source, "containerPath": target, "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}


def hook(name: str, words: list[str]) -> dict[str, object]:
    program = "/usr/bin/nvidia-cdi-hook"
    return {"hookName": "createContainer", "path": program, "args": ["nvidia-cdi-hook", name, *words]}


if __name__ == "__main__":
    main()
