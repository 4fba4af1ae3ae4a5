#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compile the plugin for the Slurm and the Python of this machine, and install it under one prefix.

    spank_plugin/build.py [--prefix /usr/lib/bollard] [--slurm-conf DIR] [--destdir DIR]

Needs a C compiler, Slurm's headers, Python's headers and cffi. What is installed, all of it root's:

    PREFIX/spank_bollard.so   the shim; plugstack.conf names it
    PREFIX/_bollard.so        the embedded runtime
    PREFIX/bollard-enter      the launcher, static
    PREFIX/squashfuse[2]      a copy of the FUSE server, unreadable for users; 2: built with libfuse 2
    PREFIX/python/bollard/    the Python packages, compiled
    PREFIX/inside/            what starts the host's Slurm commands from containers
    PREFIX/session/           a keeper covers it, in its own mount namespace
    /usr/bin/bollard          the command
    DIR/plugstack.conf.d/bollard.conf
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
PACKAGES = ("runtime", "mpi", "spank_plugin")
BUILD = ("build.py", "build_inside.py")  # not installed

sys.path[:0] = [str(TOP / "runtime"), str(HERE)]
import build_inside  # noqa: E402
import options  # noqa: E402

WARNINGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]

MODES = {"bollard-enter": 0o755, "bollard-inside": 0o755, "squashfuse": 0o711, "squashfuse2": 0o711}

# extern "Python": start.c calls these, callbacks.py defines them.
CALLBACKS = """
extern "Python" void keep(char *spec, char *site, char *program, int listener, int job, long long forked,
                          long long dropped, char *why, int size, int *verdict);
extern "Python" void check(char *spec, int out, char *why, int size, int *verdict);
"""


def c_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def options_header() -> str:
    """The option table and its environment forms as C."""
    rows, variables = [], []
    for row in options.TABLE:
        name, argument, _, slurm, help_text = row
        arg = c_string(argument) if argument else "NULL"
        rows.append(f"\t{{ {c_string(name)}, {c_string(slurm) if slurm else 'NULL'}, {arg}, {c_string(help_text)} }},")
        variables += [f"\t{{ {c_string(v)}, {len(rows) - 1} }}," for v in options.variables(row)]
    return "\n".join(
        [
            "/* Rendered from runtime/options.py by build.py. */",
            "#include <stddef.h>",
            f"enum {{ OPTION_COUNT = {len(rows)}, VARIABLE_COUNT = {len(variables)} }};",
            "static const struct { const char *name; char *slurm, *argument, *help; } OPTIONS[] = {",
            *rows,
            "};",
            "static const struct { const char *name; int option; } VARIABLES[] = {",
            *variables,
            "};",
            "",
        ]
    )


def compile_c(output: Path, sources: list[Path], *flags: str) -> None:
    command = [os.environ.get("CC", "cc"), *WARNINGS, "-o", str(output), *map(str, sources), *flags]
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"bollard: {output.name} did not compile; the command was: {' '.join(command)}")


def slurm_include() -> Path:
    """Where <slurm/spank.h> is."""
    for folder in (os.environ.get("SLURM_INCLUDE_DIR", ""), "/usr/include", "/usr/local/include", "/opt/slurm/include"):
        if folder and (Path(folder) / "slurm/spank.h").exists():
            return Path(folder)
    sys.exit(
        "bollard: slurm/spank.h not found; install Slurm's development package (Debian: libslurm-dev) "
        "or set SLURM_INCLUDE_DIR"
    )


def build_shim(out: Path, work: Path, prefix: str) -> None:
    (work / "options.h").write_text(options_header())
    compile_c(
        out / "spank_bollard.so",
        [
            HERE / name
            for name in ("shim.c", "client.c", "plain.c", "multiprog.c", "stepd.c", "privilege.c", "wire.c", "python.c")
        ],
        "-shared",
        "-fPIC",
        f"-I{work}",
        f"-I{slurm_include()}",
        f'-DBOLLARD_PREFIX="{prefix}"',
        f'-DBOLLARD_STDLIB="{search_path(prefix)[0]}"',
        "-Wl,-z,nodelete,-z,now,-z,relro",
        f"-Wl,--version-script={HERE / 'export.map'}",
        "-ldl",
    )


def build_launcher(out: Path) -> None:
    compile_c(out / "bollard-enter", [HERE / "enter.c", HERE / "wire.c"], "-static")


def build_tools(out: Path, work: Path, prefix: str, conf: Path) -> None:
    """What starts this node's Slurm commands from a container: one program under all their names, one library."""
    found = build_inside.find(conf, prefix)
    (work / "host_slurm.h").write_text(build_inside.header(found, prefix))
    folder = out / "inside/bin"
    folder.mkdir(parents=True)
    sources = [HERE / name for name in ("inside.c", "mpirun.c", "program.c")]
    compile_c(folder / "bollard-inside", sources, "-static", f"-I{work}")
    compile_c(out / "inside/paths.so", [HERE / "paths.c"], "-shared", "-fPIC", f"-I{work}", "-ldl")
    for name in (*(name for name, _ in found.commands), *build_inside.MPIRUN) if found else ():
        (folder / name).symlink_to("bollard-inside")
    (out / "python/bollard/runtime/host_slurm.py").write_text(build_inside.module(found, prefix))


def search_path(prefix: str) -> list[str]:
    """The interpreter's whole sys.path: the standard library, its extension modules, ours."""
    return [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED"), f"{prefix}/python"]


def build_runtime(out: Path, work: Path, prefix: str) -> None:
    from cffi import FFI

    ffi = FFI()
    ffi.embedding_api("")
    ffi.cdef(CALLBACKS)
    ffi.embedding_init_code("import bollard.spank_plugin.callbacks")
    ffi.set_source("_bollard", (HERE / "start.c").read_text())
    source = work / "_bollard.c"
    ffi.emit_c_code(str(source))
    wide = ", ".join("L" + c_string(folder) for folder in search_path(prefix))
    version = sysconfig.get_config_var("LDVERSION")
    compile_c(
        out / "_bollard.so",
        [source],
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-D_GNU_SOURCE",
        "-Wno-unused-parameter",
        "-Wno-deprecated-declarations",
        "-Wno-unused-function",
        f"-I{sysconfig.get_path('include')}",
        f"-DBOLLARD_SEARCH_PATH={wide}",
        f'-DBOLLARD_EXECUTABLE=L"{sys.executable}"',
        f'-DBOLLARD_HOME=L"{sys.prefix}"',
        f'-DBOLLARD_PREFIX="{prefix}"',
        f"-L{sysconfig.get_config_var('LIBDIR')}",
        f"-lpython{version}",
        "-ldl",
    )


def build_syscalls(folder: Path, work: Path) -> None:
    sys.path.insert(0, str(TOP / "runtime"))
    import linux_build

    source = work / "_linux.c"
    linux_build.ffi.emit_c_code(str(source))
    compile_c(
        folder / ("_linux" + sysconfig.get_config_var("EXT_SUFFIX")),
        [source],
        "-shared",
        "-fPIC",
        "-D_GNU_SOURCE",
        "-Wno-unused-parameter",
        f"-I{sysconfig.get_path('include')}",
    )


def copy_python(out: Path) -> None:
    """The packages, and the one extension module cffi needs, where the interpreter looks for them."""
    import _cffi_backend

    packages = out / "python/bollard"
    packages.mkdir(parents=True)
    shutil.copy(TOP / "runtime/_root/__init__.py", packages)
    for name in PACKAGES:
        for source in sorted((TOP / name).rglob("*.py")):
            target = packages / source.relative_to(TOP)
            if "_root" in source.parts or source.name == "linux_build.py" or source.parent == HERE and source.name in BUILD:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copy(_cffi_backend.__file__, out / "python")


def copy_server(out: Path) -> None:
    """A copy of the FUSE server that nobody but root can read: the kernel then lets no user trace it, and so
    nobody put code of his own into a process that is outside his job's control groups (ptrace(2),
    PR_SET_DUMPABLE in prctl(2))."""
    program = shutil.which("squashfuse_ll") or shutil.which("squashfuse")
    if not program:
        sys.exit("bollard: squashfuse is not installed; install it first (Debian, EPEL: squashfuse)")
    libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.copy(program, out / ("squashfuse2" if "libfuse.so.2" in libraries else "squashfuse"))


def install(out: Path, prefix: Path, destdir: Path) -> None:
    """Put the new tree beside the old one, then exchange the names: two renames, with a moment between them in
    which a job cannot start. Files in use live on until their last user ends."""
    target = destdir / prefix.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    old = target.with_name(target.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(out, fresh, symlinks=True)
    for path in [fresh, *fresh.rglob("*")]:
        if not path.is_symlink():
            path.chmod(MODES.get(path.name, 0o755 if path.is_dir() else 0o644))
        if os.geteuid() == 0:
            os.chown(path, 0, 0, follow_symlinks=False)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_command(prefix: str, destdir: Path) -> None:
    command = destdir / "usr/bin/bollard"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(
        f"#!{sys.executable} -ISXutf8\n"
        f"import sys\nsys.path.append({prefix + '/python'!r})\n"
        "from bollard.runtime.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    command.chmod(0o755)


def spool_directory(conf: Path) -> str:
    """SlurmdSpoolDir, as slurm.conf writes it; %h and %n are replaced on each node."""
    try:
        lines = (conf / "slurm.conf").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip().lower() == "slurmdspooldir":
            return value.split("#")[0].strip()
    return "/var/spool/slurmd"


def write_plugstack(conf: Path, prefix: str, destdir: Path) -> None:
    folder = destdir / conf.relative_to("/") / "plugstack.conf.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bollard.conf").write_text(f"required {prefix}/spank_bollard.so spool={spool_directory(conf)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="compile and install the Slurm plugin and its runtime")
    parser.add_argument("--prefix", default="/usr/lib/bollard", help="default: %(default)s")
    parser.add_argument("--slurm-conf", default="/etc/slurm", type=Path, help="default: %(default)s")
    parser.add_argument("--destdir", default="/", type=Path, help="install below this directory instead of /")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bollard-build-") as scratch:
        work, out = Path(scratch, "work"), Path(scratch, "out")
        work.mkdir()
        out.mkdir()
        (out / "session").mkdir()
        (out / "session/README").write_text("A keeper covers this directory, in its own mount namespace alone.\n")
        copy_python(out)
        build_shim(out, work, given.prefix)
        build_launcher(out)
        build_tools(out, work, given.prefix, given.slurm_conf)
        copy_server(out)
        build_runtime(out, work, given.prefix)
        build_syscalls(out / "python/bollard/runtime", work)
        compileall.compile_dir(
            str(out / "python"),
            quiet=1,
            ddir=f"{given.prefix}/python",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        install(out, Path(given.prefix), given.destdir)
    write_command(given.prefix, given.destdir)
    write_plugstack(given.slurm_conf, given.prefix, given.destdir)


if __name__ == "__main__":
    main()
