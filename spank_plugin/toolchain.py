# SPDX-License-Identifier: BSD-3-Clause
"""What this machine has to compile the plugin with: compiler, headers, Python's library, static C library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from bollard.runtime.errors import BollardError

# For every program and library; tests/hostile/test_elf.py checks the installed files for them. Some compilers set
# _FORTIFY_SOURCE themselves, hence -U.
HARDENING = [
    *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    "-Wl,-z,relro,-z,now,-z,noexecstack",
]
# For $BOLLARD_SANITIZE, in the place of HARDENING (`make sanitize`). "undefined": undefined behaviour ends the process
# by a signal, which works in a static program too. "address": AddressSanitizer too. Programs are dynamic then, and a
# process that opens such a library needs libasan in LD_PRELOAD. "slurmstepd": AddressSanitizer in Slurm's plugin alone.
UNDEFINED = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fno-omit-frame-pointer"]
ADDRESS = ["-fsanitize=address", *UNDEFINED]
SANITIZERS = {"": HARDENING, "undefined": UNDEFINED, "address": ADDRESS, "slurmstepd": UNDEFINED}


def sanitizers(output: str = "") -> list[str]:
    """Return HARDENING, or what $BOLLARD_SANITIZE asks for instead, for the program or library `output`."""
    asked = os.environ.get("BOLLARD_SANITIZE", "")
    if asked not in SANITIZERS:
        known = " or ".join(filter(None, SANITIZERS))
        raise BollardError(f"BOLLARD_SANITIZE={asked}: no such build", f"set it to {known}, or unset it")
    return ADDRESS if (asked, output) == ("slurmstepd", "spank_bollard.so") else SANITIZERS[asked]


def slurm_include() -> Path | None:
    """The directory that holds slurm/spank.h: $SLURM_INCLUDE_DIR or a usual one; None when it is not found."""
    for folder in (os.environ.get("SLURM_INCLUDE_DIR", ""), "/usr/include", "/usr/local/include", "/opt/slurm/include"):
        if folder and (Path(folder) / "slurm/spank.h").exists():
            return Path(folder)
    return None


def slurm_version() -> str:
    """The Slurm release of the headers, as "22.05.8"; "" when they do not state it."""
    folder = slurm_include() or Path("/usr/include")
    for name in ("slurm_version.h", "slurm.h"):  # in slurm.h before 21.08
        try:
            lines = (folder / "slurm" / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[:2] == ["#define", "SLURM_VERSION_NUMBER"]:
                number = int(words[2], 16)
                return f"{number >> 16}.{number >> 8 & 0xFF:02}.{number & 0xFF}"
    return ""


def require(copies: bool = True) -> None:
    """Check that everything needed to build is installed; `copies`: also what `copy_server` copies.

    Raises:
        BollardError: something is missing; the message names all of it, and the packages to install.
    """
    missing, debian, el = [], [], []
    for there, what, deb, rpm in (
        (shutil.which(compiler()), f"a C compiler ({compiler()})", "gcc", "gcc"),
        (Path("/usr/include/stdio.h").exists(), "the C library's headers", "libc6-dev", "glibc-devel"),
        (slurm_include(), "slurm/spank.h", "libslurm-dev", "slurm-devel"),
        (python_header().exists(), str(python_header()), "python3-dev", "python3-devel"),
        (python_library(), f"lib{python_name()}.so", "python3-dev", "python3-devel"),
        (_has_cffi(), "the Python module cffi", "python3-cffi", "python3-cffi"),
        (server() or not copies, "squashfuse", "squashfuse", "squashfuse"),
        (_links_statically(), "the C library for static programs", "libc6-dev", "glibc-static"),
    ):
        if not there:
            missing.append(what)
            debian.append(deb)
            el.append(rpm)
    if missing:
        packages = " ".join(dict.fromkeys(debian)), " ".join(dict.fromkeys(el))
        hint = f"install {packages[0]}" + (f" (Debian) or {packages[1]} (EL)" if len(set(packages)) > 1 else "")
        if not slurm_include():
            hint += ", or set SLURM_INCLUDE_DIR to the directory that holds slurm/spank.h's folder"
        raise BollardError(f"cannot build, missing here: {', '.join(missing)}", hint)


def compiler() -> str:
    """The C compiler: $CC, else cc."""
    return os.environ.get("CC", "cc")


def python_header() -> Path:
    """The path of Python.h for this interpreter."""
    return Path(sysconfig.get_path("include")) / "Python.h"


def python_name() -> str:
    """The name of this interpreter's library without "lib" and ".so": "python3.11"."""
    return f"python{sysconfig.get_config_var('LDVERSION')}"


def python_library() -> bool:
    """Whether this interpreter's shared library is installed."""
    folders = (sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LIBPL") or "")
    return any((Path(folder) / f"lib{python_name()}.so").exists() for folder in folders if folder)


def server() -> str | None:
    """The path of this machine's FUSE server: squashfuse_ll, else squashfuse; None for neither."""
    return shutil.which("squashfuse_ll") or shutil.which("squashfuse")


def _has_cffi() -> bool:
    try:
        import cffi
    except ImportError:
        return False
    return bool(cffi)


def _links_statically() -> bool:
    """Whether the linker finds libc.a; True when there is no compiler."""
    try:
        done = subprocess.run([compiler(), "-print-file-name=libc.a"], stdout=subprocess.PIPE, text=True, check=False)
    except OSError:
        return True
    return "/" in done.stdout


def static() -> list[str]:
    """The flags for a static program; with a random load address when the C library has rcrt1.o.

    AddressSanitizer has no static programs.
    """
    if os.environ.get("BOLLARD_SANITIZE") == "address":
        return ["-pie", "-fPIE"]
    done = subprocess.run([compiler(), "-print-file-name=rcrt1.o"], stdout=subprocess.PIPE, text=True, check=False)
    return ["-static-pie", "-fPIE"] if "/" in done.stdout else ["-static"]
