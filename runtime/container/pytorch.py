# SPDX-License-Identifier: BSD-3-Clause
"""The variables that PyTorch's `init_process_group` reads, for images with PyTorch.

enroot sets the same variables, and users of pyxis rely on them. This module runs on the node path: it imports nothing.
"""

from __future__ import annotations

# Images with PyTorch set this variable, for example NVIDIA's.
MARK = b"PYTORCH_VERSION"
# What was set here, as NAME=VALUE with spaces between. A step that a batch script or another step starts inherits it,
# and gets values of its own: all its ranks would be rank 0 otherwise.
OWN = b"PYTORCH_BY_BOLLARD"
_FIRST_PORT, _PORTS = 61000, 4536


def variables(env: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the PyTorch variables that `env` lacks, made from Slurm's variables; {} if the image has no PyTorch.

    A variable that `env` has from a container around this one counts as missing.
    """
    if MARK not in env:
        return {}
    inherited = env.get(OWN, b"").split(b" ")
    found = {
        b"RANK": env.get(b"SLURM_PROCID", b""),
        b"LOCAL_RANK": env.get(b"SLURM_LOCALID", b""),
        b"WORLD_SIZE": env.get(b"SLURM_NTASKS", b""),
        b"MASTER_ADDR": first_host(env.get(b"SLURM_STEP_NODELIST", b"")),
    }
    job = env.get(b"SLURM_JOB_ID", b"")
    if job.isdigit():
        found[b"MASTER_PORT"] = b"%d" % (_FIRST_PORT + int(job) % _PORTS)
    # As torch.distributed.run: with several processes on a node, each would start a thread for every CPU.
    if _number(env, b"SLURM_STEP_NUM_TASKS") > _number(env, b"SLURM_STEP_NUM_NODES"):
        found[b"OMP_NUM_THREADS"] = b"1"
    found = {
        name: value
        for name, value in found.items()
        if value and (name not in env or name + b"=" + env[name] in inherited)
    }
    return {**found, OWN: b" ".join(name + b"=" + value for name, value in found.items())} if found else {}


def first_host(hosts: bytes) -> bytes:
    """Return the first host of a Slurm host list: n1 of "n[1-3,7],login" and of "n1,n2"."""
    name, rest = b"", hosts
    while rest and not rest.startswith(b","):
        if rest.startswith(b"["):
            inner, _, rest = rest[1:].partition(b"]")
            name += inner.split(b",")[0].split(b"-")[0]
        else:
            end = min((at for at in (rest.find(b"["), rest.find(b",")) if at >= 0), default=len(rest))
            name, rest = name + rest[:end], rest[end:]
    return name


def _number(env: dict[bytes, bytes], name: bytes) -> int:
    value = env.get(name, b"")
    return int(value) if value.isdigit() else 1
