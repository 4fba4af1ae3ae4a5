# SPDX-License-Identifier: BSD-3-Clause
"""A process in a container imports nothing: what the keeper's modules import late, and what `imports.end` does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bollard.runtime.container import imports

TOP = Path(__file__).resolve().parents[2]

# The functions of the keeper's modules that may import: each runs before the keeper, or the process it is of, goes in.
BEFORE = {
    "bollard.runtime.container.cdi": {"_parsed"},
    "bollard.runtime.container.driver_libraries": {"is_newer"},
    "bollard.runtime.container.keeper": {
        "_enter",
        "_fitting",
        "_hold",
        "_mount",
        "_open",
        "_start_saver",
        "_unshare",
        "facts",
    },
    "bollard.runtime.container.layers": {"_mount_overlay", "_open"},
    "bollard.runtime.container.step": {"main"},
    "bollard.runtime.container.save": {"_prepare"},
    "bollard.runtime.image.encryption": {"check_config"},
    "bollard.runtime.image.image": {"_forbidden", "_identify_oci", "_open_error"},
    "bollard.runtime.image.image_sbom": {"text_in", "upstream"},
    "bollard.runtime.image.sif_write": {"sha256", "timestamp"},  # the saver, which has imported these
    "bollard.runtime.request.command_line": {"_similar"},
    "bollard.runtime.request.forms": {"_with_opts", "_with_files"},
    "bollard.runtime.system.identity": {"join_namespace", "new_namespace"},
    "bollard.runtime.system.linux": {"start_first", "bring_up", "lock_file"},
    # The site's policy of images, which `keeper._open` applies; and what `bollard sign` and `key` use of these modules.
    "bollard.runtime.system.openssl": {"run"},
    "bollard.runtime.trust.site_keys": {"key_id"},
    "bollard.runtime.trust.dsse": {
        "_check_chain",
        "is_valid",
        "_library",
        "_parts",
        "certified_key",
        "key_id",
        "sign",
        "verify",
    },
    "bollard.runtime.trust.evidence": {"_sha256", "log"},
    "bollard.runtime.trust.keyring": {"_change", "_fingerprint", "_home", "armored", "dearmored"},
    "bollard.runtime.trust.pgp": {
        "__enter__",
        "__exit__",
        "_copies",
        "_long_enough",
        "_verify",
        "clear_sign_by_agent",
        "gpg",
    },
    "bollard.runtime.trust.policy": {"_fetched"},
    "bollard.runtime.trust.signature": {"_checked", "_hash", "parse", "text"},
    "bollard.runtime.trust.verify": {"_signer", "default_trust"},
}
# They run in a container, and import what `imports.complete` or `save._prepare` has imported.
LOADED = {
    "bollard.runtime.container.environment": {"_doubtful", "_interpreted", "_override"},
    "bollard.runtime.container.save": {"write", "_squashfs"},
}


def of_file(module: str) -> Path | None:
    """The file of one of our modules."""
    path = TOP.joinpath(*module.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py") if module.startswith("bollard.") else ()
    return next((file for file in candidates if file.exists()), None)


def imports_of(module: str) -> list[tuple[str, str]]:
    """(function, imported name) of each import in a module; function "" at its top."""
    found: list[tuple[str, str]] = []

    def walk(node: ast.AST, function: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                found.extend((function, name.name) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append((function, child.module or ""))
                found.extend((function, f"{child.module}.{name.name}") for name in child.names)
            else:
                walk(child, child.name if isinstance(child, ast.FunctionDef) else function)

    path = of_file(module)
    assert path is not None
    walk(ast.parse(path.read_text()), "")
    return found


def node_path() -> set[str]:
    """Our modules that a keeper may load."""
    seen: set[str] = set()
    left = {"bollard.runtime.container.step", "bollard.runtime.container.action", *imports.NEEDED}
    while left:
        module = left.pop()
        if module not in seen and of_file(module) is not None:
            seen.add(module)
            left |= {name for _, name in imports_of(module)}
    return seen


def test_no_function_of_the_keepers_modules_imports_in_a_container():
    late = {
        module: functions
        for module in node_path()
        if (functions := {function for function, _ in imports_of(module) if function})
    }
    allowed = {module: BEFORE.get(module, set()) | LOADED.get(module, set()) for module in {**BEFORE, **LOADED}}

    assert late == allowed


def test_what_runs_in_a_container_is_imported_before():
    loaded = {"hashlib", "subprocess", "time", "bollard.runtime.image.pack", *imports.NEEDED}
    for module, functions in LOADED.items():
        for function, name in imports_of(module):
            if function in functions and of_file(name) is not None:
                packages = {module.rpartition(".")[0] for module in loaded}
                assert name in loaded | packages or name.rpartition(".")[0] in loaded, name


@pytest.fixture
def after_the_end(tmp_path):
    """Run Python after `imports.end`, in a directory with modules that would tell if they were run."""
    for name in ("csv", "subprocess", "zlib", "encodings/idna", "traceback", "linecache", "warnings", "pwd"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("import os\nos.write(1, b'imported')\n")

    def run(text, programs=False):
        start = (
            "import os, sys\n"
            f"sys.path[:0] = [{str(TOP / '.dev')!r}]\n"
            "from bollard.runtime.container import imports\n"
            "from bollard.runtime import causes\n"
            "imports.complete()\n"
            f"sys.path[:0] = [{str(tmp_path)!r}]\n"
            f"imports.end({programs})\n"
        )
        return subprocess.run(
            [sys.executable, "-IS", "-c", start + text], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )

    return run


def outcome(line: str) -> str:
    return f"try:\n    {line}\nexcept BaseException as error: os.write(1, type(error).__name__.encode())\n"


@pytest.mark.parametrize("module", ["csv", "subprocess", "zlib", "pwd", "linecache", "_ctypes"])
def test_no_module_is_imported(after_the_end, module):
    assert after_the_end(outcome(f"import {module}")).stdout == "ImportError"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("'a'.encode('idna')", "LookupError"),
        ("b'a'.decode('rot13')", "LookupError"),
        ("exec('1')", "ImportError"),
        ("os.execv('/bin/sh', ['sh', '-c', 'echo run'])", "ImportError"),
        ("os.posix_spawn('/bin/sh', ['sh', '-c', 'echo run'], {})", "ImportError"),
        ("os.system('echo run')", "ImportError"),
        ("sys.meta_path.append(__loader__); import csv", "ImportError"),
    ],
)
def test_nothing_else_loads_code_or_starts_a_program(after_the_end, line, error):
    assert after_the_end(outcome(line)).stdout == error


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM", "EFBIG", "ENOSPC", "EROFS", "ESTALE", "EIO"])
def test_every_cause_can_be_told_there(after_the_end, name):
    lines = [
        "import errno",
        f"found = causes.of(OSError(errno.{name}, 'reason'), 'img.sif', '/tmp')",
        "os.write(1, causes.one_line(found).encode())",
    ]
    done = after_the_end("\n".join(lines))
    assert done.stdout.startswith("img.sif: ") and done.returncode == 0, done


def test_what_is_loaded_can_be_imported_again(after_the_end):
    line = "from bollard.runtime.shell import interpreter; os.write(1, b'there')"
    assert after_the_end(outcome(line)).stdout == "there"


def test_no_traceback_opens_a_source_file(tmp_path):
    """A FIFO in a file's place would stop the process that opens it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path[:0] = [{str(TOP / '.dev')!r}]\n"
        "from bollard.runtime.container import imports\n"
        "imports.end()\n"
        "os.unlink(__file__)\n"
        "os.mkfifo(__file__)\n"
        "class Lost:\n"
        "    def __del__(self): raise ValueError\n"
        "lost = Lost()\n"
        "del lost\n"
        "os.write(1, b'went on')\n"
        "raise ValueError\n"
    )
    done = subprocess.run([sys.executable, "-IS", script], capture_output=True, text=True, timeout=30)

    assert (done.stdout, done.stderr) == ("went on", "")


@pytest.mark.parametrize("name", ["saved.sqsh", "saved.sif", "missing/saved.sif"])
def test_the_saver_has_all_that_it_needs(tmp_path, name):
    (tmp_path / "tree/etc").mkdir(parents=True)
    script = (
        "import os, shutil, sys\n"
        f"sys.path[:0] = [{str(TOP / '.dev')!r}, *{[path for path in sys.path if 'site-packages' in path]!r}]\n"
        "from bollard.runtime.container import save\n"
        "save.CAT, save.MKSQUASHFS = '/missing', shutil.which('mksquashfs')\n"
        "save._prepare()\n"
        f"os.write(1, save.write({str(tmp_path / 'tree')!r}, {str(tmp_path / name)!r}).encode())\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, timeout=60)

    assert "ImportError" not in done.stdout and done.stderr == ""
    assert (tmp_path / name).exists() == (done.stdout == "") == ("missing" not in name)


def test_the_saver_may_start_programs(after_the_end):
    assert after_the_end("os.execv('/bin/sh', ['sh', '-c', 'echo run'])\n", programs=True).stdout == "run\n"
