# SPDX-License-Identifier: BSD-3-Clause
"""Compile the plugin for the Slurm and the Python of this machine; `bollard site install` then installs it.

Needs a C compiler, Slurm's headers, Python's headers and cffi. It makes these files, all for one prefix:

    spank_bollard.so   the shim; plugstack.conf names it
    _bollard.so        the embedded runtime
    bollard-keeper     starts the embedded runtime for a job; users cannot read it
    bollard-enter      the launcher, static
    bollard-cat        the shell of mksquashfs in the saver; users cannot read it
    squashfuse[2]      a copy of the FUSE server, which users cannot read; 2: built with libfuse 2
    squashfuse-owner   a second FUSE server, for files shown as the user's, when the first has no option uid=
    squashfuse-owner-is-known  empty; made when the first server can show files as the user's
    fuse2fs, fuse-overlayfs    copies of the servers of layers; fuse2fs2 when it is built with libfuse 2
    fuse2fs-offset-in-name     empty; made when fuse2fs has no option offset= (before 1.47)
    gpgv               a copy for a site's policy of images, which users cannot read
    gocryptfs          a copy for encrypted images, which users cannot read
    openssl            a copy for the same, and for the policy
    mksquashfs         a copy for --container-save, which users cannot read
    check.sqfs         an image for `bollard site check`; made when squashfs-tools are installed
    python/node.archive  the code of the keeper's modules in one file (runtime/archive.py)
    python/bollard/    the Python packages, compiled, and the C sources, so that they can be built again
    inside/bin/        the programs that start the host's Slurm commands in containers
    session/           the mount point of a keeper's session, in the keeper's own mount namespace
"""

import ast
import compileall
import contextlib
import io
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit(
        "bollard: needs Python 3.9 or later, and %s is %d.%d; install a later one, and run this with its python3.N"  # noqa: UP031
        % ((sys.executable,) + sys.version_info[:2])
    )

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
PACKAGES = ("runtime", "mpi", "spank_plugin")

if not __package__:  # a checkout, where a package has the name of its directory
    sys.dont_write_bytecode = True
    sys.modules["bollard"] = types.ModuleType("bollard")
    sys.modules["bollard"].__path__ = [str(TOP)]

from bollard.runtime import archive, constants  # noqa: E402
from bollard.runtime.errors import BollardError  # noqa: E402
from bollard.runtime.request import options  # noqa: E402
from bollard.spank_plugin import build_inside, toolchain, version  # noqa: E402
from bollard.spank_plugin.build_inside import c_string  # noqa: E402

# The C files from which each output is compiled.
SOURCES = {
    "spank_bollard.so": (
        *("shim", "site_settings", "client", "fail", "client_options", "spec", "image_probe", "image_program"),
        *("slurm_options", "components", "multiprog", "header", "stepd", "step", "keeper", "argv", "refusal"),
        *("account", "slurmctld", "privilege", "root_owned", "wire", "python", "job_cgroup", "job_folder"),
        *("job_place", "job_end", "preflight", "first_look", "verdict", "program"),
    ),
    "bollard-keeper": ("keeper_main", "witness", "python", "refusal", "wire"),
    "bollard-enter": (
        *("enter", "entry", "script", "become", "scratch", "supervise", "fail_once", "ranks", "program", "wire"),
    ),
    "bollard-cat": ("cat",),
    "bollard-inside": ("inside", "mpirun", "placement", "srun_line", "program"),
    "paths.so": ("paths",),
}

WARNINGS = [
    *("-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
    "-Wno-missing-field-initializers",
]
# For C files that cffi writes. CHECKED (linux_build.py) turns these on again for our C in them.
GENERATED = ["-Wno-conversion", "-Wno-shadow", "-Wno-unused-parameter"]

# extern "Python": start.c calls these, callbacks.py defines them.
CALLBACKS = """
extern "Python" void keep(char *spec, char *site, char *program, int listener, int job, int before, long long forked,
                          long long dropped, char *why, int size, int *verdict);
extern "Python" void check(char *spec, int out, char *why, int size, int *verdict);
extern "Python" void look(char *request, int out, char *why, int size, int *verdict);
"""


def options_header() -> str:
    """Text of options.h: the option table and the environment variables of the options."""

    def text(value: "str | None") -> str:
        return c_string(value) if value else "NULL"

    rows, variables = [], []
    for number, row in enumerate(options.TABLE):
        against = f"the opposite of --{row.slurm}" if row.opposite else ""
        words = [c_string(row.name), text(row.slurm), text(row.opposite), text(row.argument), c_string(row.help)]
        words += [text(against), text(row.joined), str(int(row.joined is not None)), str(int(not row.pyxis))]
        rows.append(f"\t{{ {', '.join(words)} }},")
        variables += [f"\t{{ {c_string(v.lstrip('!'))}, {number} }}," for v in options.variables(row)]
    places = {name: number for number, name in enumerate(options.ROWS)}
    marks = ", ".join(f"OPTION_{name.upper()} = {places[name]}" for name in ("image", "name", "fakeroot", "verbose"))
    return "\n".join(
        [
            "/* Rendered from runtime/request/options.py by build.py. */",
            "#include <stddef.h>",
            f"enum {{ OPTION_COUNT = {len(rows)}, VARIABLE_COUNT = {len(variables)}, {marks} }};",
            "/* slurm, opposite: names for srun; adds_up: all values count; between: what parts them in srun's; */",
            "/* ours: no name of pyxis's. */",
            "static const struct {",
            "\tconst char *name;",
            "\tchar *slurm, *opposite, *argument, *help, *against;",
            "\tconst char *between;",
            "\tint adds_up, ours;",
            "} OPTIONS[] = {",
            *rows,
            "};",
            "static const struct { const char *name; int option; } VARIABLES[] = {",
            *variables,
            "};",
            "",
        ]
    )


def constants_header() -> str:
    """Text of constants.h: runtime/constants.py as #defines; one byte becomes a character, more bytes a string."""
    lines = ["/* Rendered from runtime/constants.py by build.py. */"]
    for name, value in vars(constants).items():
        if not name.isupper():
            continue
        if isinstance(value, bytes) and len(value) == 1:
            text = f"'{value.decode()}'"
        elif isinstance(value, (bytes, str)):
            text = c_string(value if isinstance(value, str) else value.decode())
        else:
            text = f"{value}u" if value > 0x7FFFFFFF else str(value)
        lines.append(f"#define {name} {text}")
    return "\n".join([*lines, ""])


def write_headers(folder: Path) -> None:
    """Write options.h and constants.h to `folder`."""
    (folder / "options.h").write_text(options_header())
    (folder / "constants.h").write_text(constants_header())


def sources(name: str) -> list[Path]:
    """The C files of the output `name`."""
    return [HERE / f"{part}.c" for part in SOURCES[name]]


def compile_c(output: Path, files: list[Path], *flags: str) -> None:
    """Compile and link `files` to `output`.

    Args:
        output: path of the program or library.
        files: C files.
        flags: further arguments of the compiler.

    Raises:
        BollardError: the compiler failed; its own messages are on stderr.
    """
    command = [toolchain.compiler(), *WARNINGS, *toolchain.sanitizers(output.name), "-o", str(output)]
    command += [*map(str, files), *flags]
    done = subprocess.run(command, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise BollardError(f"{output.name} did not compile", f"the command was: {' '.join(command)}")


def emit(ffi: Any, source: Path) -> None:
    """Write cffi's C text to `source`, without cffi's message on stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        ffi.emit_c_code(str(source))


def build_shim(out: Path, work: Path, prefix: str) -> None:
    """Make spank_bollard.so in `out`, for an installation at `prefix`; `work` gets the rendered headers."""
    write_headers(work)
    compile_c(
        out / "spank_bollard.so",
        sources("spank_bollard.so"),
        "-shared",
        "-fPIC",
        f"-I{work}",
        f"-I{toolchain.slurm_include() or '/usr/include'}",
        f'-DBOLLARD_PREFIX="{prefix}"',
        f'-DBOLLARD_STDLIB="{search_path()[0]}"',
        "-Wl,-z,nodelete",
        f"-Wl,--version-script={HERE / 'export.map'}",
        "-ldl",
    )


def build_keeper(out: Path) -> None:
    """Make bollard-keeper in `out`."""
    with tempfile.TemporaryDirectory() as work:
        write_headers(Path(work))
        compile_c(out / "bollard-keeper", sources("bollard-keeper"), "-pie", "-fPIE", "-ldl", f"-I{work}")


def build_launcher(out: Path) -> None:
    """Make bollard-enter and bollard-cat in `out`."""
    with tempfile.TemporaryDirectory() as work:
        write_headers(Path(work))
        for name in ("bollard-enter", "bollard-cat"):
            compile_c(out / name, sources(name), *toolchain.static(), f"-I{work}")


def build_tools(out: Path, work: Path, prefix: str, slurm_conf: str) -> None:
    """Make inside/bin, which starts this node's Slurm commands in a container, and host_slurm.py.

    Args:
        out: directory of the new tree.
        work: directory for rendered headers.
        prefix: where the tree will be installed.
        slurm_conf: directory of slurm.conf.
    """
    found = build_inside.find(Path(slurm_conf), prefix)
    write_headers(work)
    (work / "host_slurm.h").write_text(build_inside.header(found, prefix))
    folder = out / "inside/bin"
    folder.mkdir(parents=True)
    compile_c(folder / build_inside.PROGRAM, sources(build_inside.PROGRAM), *toolchain.static(), f"-I{work}")
    compile_c(folder / "paths.so", sources("paths.so"), "-shared", "-fPIC", f"-I{work}", "-ldl")
    for name in (*(name for name, _ in found.commands), *build_inside.MPIRUN) if found else ():
        (folder / name).symlink_to(build_inside.PROGRAM)
    (out / "python/bollard/runtime/host_slurm.py").write_text(build_inside.module(found, prefix))


def search_path() -> list[str]:
    """The embedded interpreter's sys.path: the standard library and its modules in C. start.c adds the packages."""
    return [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]


def build_runtime(out: Path, work: Path, prefix: str) -> None:
    """Make _bollard.so in `out`, for an installation at `prefix`; `work` gets the C file that cffi writes."""
    from cffi import FFI

    from bollard.runtime.system.linux_build import CHECKED, UNCHECKED

    ffi = FFI()
    ffi.embedding_api("")
    ffi.cdef(CALLBACKS)
    ffi.embedding_init_code("import bollard.spank_plugin.callbacks")
    ffi.set_source("_bollard", CHECKED + (HERE / "start.c").read_text() + UNCHECKED)
    source = work / "_bollard.c"
    emit(ffi, source)
    wide = ", ".join("L" + c_string(folder) for folder in search_path())
    compile_c(
        out / "_bollard.so",
        [source],
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-D_GNU_SOURCE",
        *GENERATED,
        "-Wno-deprecated-declarations",
        "-Wno-unused-function",
        f"-I{HERE}",
        f"-I{sysconfig.get_path('include')}",
        f"-DBOLLARD_SEARCH_PATH={wide}",
        f'-DBOLLARD_EXECUTABLE=L"{sys.executable}"',
        f'-DBOLLARD_HOME=L"{sys.prefix}"',
        f'-DBOLLARD_PREFIX="{prefix}"',
        f"-L{sysconfig.get_config_var('LIBDIR')}",
        f"-l{toolchain.python_name()}",
        "-ldl",
    )


def build_syscalls(folder: Path, work: Path) -> None:
    """Make the extension module _linux in `folder`; `work` gets the C file that cffi writes."""
    from bollard.runtime.system import linux_build

    source = work / "_linux.c"
    emit(linux_build.ffi, source)
    compile_c(
        folder / ("_linux" + sysconfig.get_config_var("EXT_SUFFIX")),
        [source],
        "-shared",
        "-fPIC",
        "-D_GNU_SOURCE",
        *GENERATED,
        f"-I{sysconfig.get_path('include')}",
    )


def copy_python(out: Path) -> None:
    """Copy the packages and their C sources to `out`/python, which is on sys.path."""
    packages = out / "python/bollard"
    packages.mkdir(parents=True)
    root = TOP / "runtime/_root"
    root = root if root.exists() else TOP
    (packages / "__init__.py").write_text(version.stamped((root / "__init__.py").read_text(), version.version(TOP)))
    shutil.copy(root / "py.typed", packages)
    for name in PACKAGES:
        for source in sorted((TOP / name).rglob("*")):
            if source.suffix in (".py", ".c", ".h", ".map") and "_root" not in source.parts:
                target = packages / source.relative_to(TOP)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


def _no_source(folder: str, names: list[str]) -> list[str]:
    """Return the files of a Python package that are no Python."""
    return [name for name in names if not name.endswith(".py")]


def copy_server(out: Path) -> None:
    """Copy the FUSE servers, mksquashfs, gpgv, openssl and gocryptfs to `out`.

    Only root can read the installed copies. The kernel lets users trace only programs that they can read, so no user
    can put code into such a process (ptrace(2), PR_SET_DUMPABLE in prctl(2)).
    """
    program = toolchain.server() or ""
    libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.copy(program, out / ("squashfuse2" if "libfuse.so.2" in libraries else "squashfuse"))
    # squashfuse_ll has uid= after 0.1.105 only, and ignores uid=0; squashfuse has it as an option of libfuse.
    simple = shutil.which("squashfuse")
    if simple and simple != program:
        shutil.copy(simple, out / "squashfuse-owner")
    if not (simple and simple != program) or b"uid=%d" in Path(program).read_bytes():
        (out / "squashfuse-owner-is-known").touch()
    for name in ("fuse2fs", "fuse-overlayfs"):
        found = shutil.which(name)
        if found:
            libraries = subprocess.run(["ldd", found], stdout=subprocess.PIPE, text=True, check=True).stdout
            shutil.copy(found, out / (f"{name}2" if "libfuse.so.2" in libraries else name))
            if name == "fuse2fs" and b"offset=" not in Path(found).read_bytes():
                (out / "fuse2fs-offset-in-name").touch()
    packer = shutil.which("mksquashfs")
    if packer:
        shutil.copy(packer, out / "mksquashfs")
    for name in ("gpgv", "openssl"):
        found = shutil.which(name)
        if found:
            shutil.copy(found, out / name)
    cipher = shutil.which("gocryptfs")
    if cipher and b"/dev/fd/" in Path(cipher).read_bytes():  # before 2.0 it takes no descriptor of a mount
        shutil.copy(cipher, out / "gocryptfs")


def make_check_image(out: Path, work: Path) -> None:
    """Make check.sqfs in `out`: its only program is the launcher, which can print its environment. Needs mksquashfs."""
    tree = work / "check"
    (tree / "bin").mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (tree / name).mkdir()
    shutil.copy(out / "bollard-enter", tree / "bin/probe")
    program = shutil.which("mksquashfs")
    if program:
        command = [program, str(tree), str(out / "check.sqfs"), "-all-root", "-no-progress", "-noappend"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def make(out: Path, work: Path, prefix: str, slurm_conf: str = "/etc/slurm") -> None:
    """Make the whole tree for `prefix` in the empty directory `out`.

    Args:
        out: empty directory for the tree.
        work: directory for files needed only while building.
        prefix: where the tree will be installed.
        slurm_conf: directory of slurm.conf.

    Raises:
        BollardError: something needed to build is missing, or the compiler failed.
    """
    toolchain.require()
    make_command(out, work)
    make_plugin(out, work, prefix, slurm_conf)
    complete(out, prefix)


def make_command(out: Path, work: Path) -> None:
    """Make in `out` what needs no Slurm: the command's Python, the launcher, the image of `site check`."""
    (out / "session").mkdir()
    (out / "session/README").write_text("A keeper covers this directory, in its own mount namespace alone.\n")
    copy_python(out)
    build_launcher(out)
    build_syscalls(out / "python/bollard/runtime/system", work)
    make_check_image(out, work)


def make_plugin(out: Path, work: Path, prefix: str, slurm_conf: str) -> None:
    """Make in `out` what is for this machine's Slurm; parameters as in `make`."""
    (out / "python/bollard/runtime").mkdir(parents=True, exist_ok=True)
    build_shim(out, work, prefix)
    build_keeper(out)
    build_tools(out, work, prefix, slurm_conf)
    build_runtime(out, work, prefix)


def complete(out: Path, prefix: str) -> None:
    """Add to `out` the copies of this machine's own files, and compile the Python packages."""
    import _cffi_backend

    copy_server(out)
    shutil.copy(_cffi_backend.__file__, out / "python")
    with contextlib.suppress(ImportError):  # for CDI specs in YAML, and for nothing else in a keeper
        import yaml

        shutil.copytree(Path(yaml.__file__).parent, out / "python/yaml", ignore=_no_source)
    compileall.compile_dir(
        str(out / "python"),
        quiet=1,
        ddir=f"{prefix}/python",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    make_archive(out / "python", f"{prefix}/python")


def make_archive(folder: Path, installed: str) -> None:
    """Write runtime/archive.py's file for the packages in `folder`, which will be at the path `installed`."""
    modules: dict[str, tuple[bool, types.CodeType]] = {}
    texts: dict[str, str] = {}
    for room in archive.ROOMS:
        for source in sorted((folder / "bollard" / room).glob("*.py")):
            inside = source.relative_to(folder)
            package = source.stem == "__init__"
            name = ".".join((inside.parent if package else inside.with_suffix("")).parts)
            code = compile(source.read_bytes(), f"{installed}/{inside}", "exec", dont_inherit=True, optimize=2)
            modules[name] = package, code
            texts[name] = source.read_text()
    order: list[str] = []
    for name in archive.FIRST:
        add_imported(name, texts, order)
    (folder / archive.NAME).write_bytes(archive.pack(modules, order))


def add_imported(name: str, texts: dict[str, str], order: list[str]) -> None:
    """Add a module to `order`, behind the modules that its import imports. texts: {module: source} of those to add."""
    if name not in texts or name in order:
        return
    add_imported(name.rpartition(".")[0], texts, order)
    for node in _at_import(ast.parse(texts[name]).body):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *[f"{node.module}.{part}" for part in names]]
        for imported in names:
            add_imported(imported, texts, order)
    order.append(name)


def _at_import(body: list[ast.stmt]) -> "Iterator[ast.Import | ast.ImportFrom]":
    """Yield the imports that run when the module is imported: not those of functions, nor those for type checkers."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If):
            for_checkers = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            yield from _at_import([*([] if for_checkers else node.body), *node.orelse])


if __name__ == "__main__":
    sys.exit("bollard: this file is a part of another program; run `python3 spank_plugin`, which installs the plugin")
