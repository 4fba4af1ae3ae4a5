# SPDX-License-Identifier: BSD-3-Clause
"""Definitions made from what people have: requirements.txt, environment.yml, a Python script with its requirements.

The functions change nothing. `bollard build --print SOURCE` shows the definition.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from typing import Any, NamedTuple

from bollard.runtime.errors import BollardError

# In bytes, far more than a person writes.
MAX_BYTES = 1 << 20
REQUIREMENTS, CONDA, SCRIPT = "requirements.txt", "environment.yml", "a Python script"
_NAMES = (
    (REQUIREMENTS, re.compile(r"(.*[-_.])?requirements([-_.].*)?\.txt")),
    (CONDA, re.compile(r"(.*[-_.])?environment([-_.].*)?\.ya?ml")),
    (SCRIPT, re.compile(r".+\.py")),
)
# The name of a distribution at the beginning of a requirement (PEP 508).
_DISTRIBUTION = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:[\[<>=!~;@ ].*)?")
# A block of metadata in a script (PEP 723).
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
# What a name in %files may hold without a meaning for the definition.
_PLAIN = re.compile(r"[\w./@+=:,~ -]+")
_FOLDER, _VENV, _ENV = "/opt/bollard", "/opt/venv", "/opt/env"

_PYTHON = f"""\
    if ! python3 -c 'import venv, ensurepip' 2> /dev/null; then
        if command -v apt-get > /dev/null; then
            export DEBIAN_FRONTEND=noninteractive
            apt-get -q update
            apt-get -q -y --no-install-recommends install python3 python3-venv
            apt-get clean
        elif command -v dnf > /dev/null; then
            dnf -q -y install python3 python3-pip
            dnf clean all
        else
            echo 'the base image has no python3 with venv, and neither apt-get nor dnf' >&2
            exit 1
        fi
    fi
    python3 -m venv --system-site-packages {_VENV}
"""
_PIP = f"    {_VENV}/bin/python -m pip install --no-cache-dir --disable-pip-version-check"
_PYTHON_ENVIRONMENT = f"""
%environment
    export VIRTUAL_ENV={_VENV}
    export PATH="{_VENV}/bin:$PATH"
"""
_IS_INSTALLED = "import importlib.metadata, sys; [importlib.metadata.version(name) for name in sys.argv[1:]]"
_VERSION = (
    "import sys; from pip._vendor.packaging.specifiers import SpecifierSet as S; "
    'v = ".".join(map(str, sys.version_info[:3])); '
    'sys.exit(0 if v in S(sys.argv[1]) else f"the base image has Python {v}, and the script needs {sys.argv[1]}")'
)
_CONDA_POST = f"""\
    for tool in micromamba mamba conda; do
        if command -v $tool > /dev/null; then break; fi
    done
    case $tool in
        micromamba) micromamba create -y -p {_ENV} -f "$file" ;;
        *) $tool env create -p {_ENV} -f "$file" ;;
    esac
"""
_CONDA_REST = f"""
%environment
    export CONDA_PREFIX={_ENV}
    export PATH="{_ENV}/bin:$PATH"
    for script in {_ENV}/etc/conda/activate.d/*.sh; do
        if [ -f "$script" ]; then . "$script"; fi
    done

%runscript
    exec "$@"

%test
    ls {_ENV}/conda-meta/*.json > /dev/null
"""


class Bases(NamedTuple):
    """The base images that a site or a user names; "" for none."""

    python: str = ""
    conda: str = ""


def kind(source: str) -> str:
    """Return REQUIREMENTS, CONDA or SCRIPT for the name of such a file, "" for any other source."""
    if not os.path.isfile(source):
        return ""
    name = os.path.basename(source).lower()
    return next((found for found, pattern in _NAMES if pattern.fullmatch(name)), "")


def definition(source: str, bases: Bases) -> str:
    """Return the text of the definition for a file whose `kind` is known.

    source: the path of the file.
    bases: the images to start from.

    Raises:
        BollardError: the file cannot be read or has a form that cannot be built, or no base image is named.
    """
    found = kind(source)
    if not _PLAIN.fullmatch(source):
        raise BollardError(f"{source}: a character of this name has a meaning in definition files", "rename it")
    text = _read(source)
    make = {REQUIREMENTS: _requirements, CONDA: _conda, SCRIPT: _script}[found]
    return make(source, text, bases)


def _read(source: str) -> str:
    try:
        with open(source, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BollardError(f"{source}: {error.strerror}", "check the path") from None
    if len(data) > MAX_BYTES:
        raise BollardError(f"{source}: is larger than {MAX_BYTES >> 20} MiB", "name the right file")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BollardError(f"{source}: is not UTF-8 text", "save the file as UTF-8") from None


def _head(source: str, base: str, what: str, key: str, files: list[tuple[str, str]]) -> str:
    """Return a definition's beginning: the base image and the files to copy."""
    if not base:
        raise BollardError(
            f"{source}: from which base image?",
            f"name one with {what}: --base IMAGE, a file, directory or URI; a site sets {key} in bollard.yaml",
        )
    scheme, colon, rest = base.partition(":")
    if not colon or "/" in scheme:
        scheme, rest = "localimage", base
    if "\n" in base or "{{" in base:
        raise BollardError(f"--base {base!r}: is not the name of an image", "check it")
    lines = [f"# Made by `bollard build` from {os.path.basename(source)}"]
    lines += [f"Bootstrap: {scheme}", f"From: {rest.removeprefix('//')}", "", "%files"]
    return "\n".join([*lines, *(f"    {_word(path)} {target}" for path, target in files), "", ""])


def _word(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _labels(source: str, text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"\n%labels\n    Made-From {os.path.basename(source)}\n    Made-From-Digest sha256:{digest}\n"


def _requirements(source: str, text: str, bases: Bases) -> str:
    files, names = _needed(source, text, {})
    copies = [(path, f"{_FOLDER}/{name}") for path, name in files.items()]
    main = f"{_FOLDER}/{files[source]}"
    return "".join(
        [
            _head(source, bases.python, "Python", "python-base", copies),
            f"%post\n{_PYTHON}{_PIP} -r {_word(main)}\n",
            _PYTHON_ENVIRONMENT,
            _labels(source, text),
            f'\n%runscript\n    exec {_VENV}/bin/python "$@"\n',
            _test(names),
        ]
    )


def _test(names: list[str]) -> str:
    """Return a %test that fails if one of these distributions is not installed."""
    words = " ".join([f"{_VENV}/bin/python -c '{_IS_INSTALLED}'", *names])
    return f"\n%test\n    {words}\n"


def _needed(source: str, text: str, files: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the files that pip reads, path -> name in the image, and the distributions that must be there afterwards.

    `files` are those found so far. Options `-r FILE` and `-c FILE` name further ones, relative to this file.
    """
    top = os.path.dirname(next(iter(files), source))
    files[source] = os.path.relpath(source, top or ".")
    names = []
    for number, line in enumerate(re.sub(r"\\\n", " ", text).split("\n"), 1):
        words = re.sub(r"(^|\s)#.*", "", line).strip()
        where = f"{source}:{number}"
        option = re.fullmatch(r"(-r|-c|--requirement|--constraint)(?:\s+|=|(?<=-[rc]))(.+)", words)
        if option:
            path = os.path.normpath(os.path.join(os.path.dirname(source), option[2]))
            if os.path.relpath(path, top or ".").startswith("..") or not _PLAIN.fullmatch(path):
                raise BollardError(f"{where}: {option[2]} lies outside of the directory", "move it beside this file")
            if path not in files:
                names += _needed(path, _read(path), files)[1] if option[1] in ("-r", "--requirement") else []
                files.setdefault(path, os.path.relpath(path, top or "."))
        elif re.match(r"(-e\b|--editable|\.{0,2}/|file:)", words):
            raise BollardError(
                f"{where}: {words} is a local project, which is not copied",
                "build a wheel of it for an index, or write a definition file: --print shows a beginning",
            )
        elif words and words[0] != "-" and ";" not in words:  # with a marker it may not be for this machine
            found = _DISTRIBUTION.fullmatch(re.sub(r"\s+--hash.*", "", words))
            names += [found[1]] if found else []
    return files, list(dict.fromkeys(names))


def _conda(source: str, text: str, bases: Bases) -> str:
    if re.search(r"(?m)^\s*-\s*(-r|-e|--requirement|--editable)\b", text):
        raise BollardError(f"{source}: names another file of requirements, which is not copied", "put its lines here")
    target = f"{_FOLDER}/environment.yml"
    return "".join(
        [
            _head(source, bases.conda, "micromamba, mamba or conda", "conda-base", [(source, target)]),
            f"%post\n    file={target}\n{_CONDA_POST}",
            _labels(source, text),
            _CONDA_REST,
        ]
    )


def _script(source: str, text: str, bases: Bases) -> str:
    metadata = _metadata(source, text)
    wanted = metadata.get("dependencies", [])
    python = metadata.get("requires-python", "")
    if not isinstance(wanted, list) or not all(isinstance(item, str) for item in [*wanted, python]):
        raise BollardError(f"{source}: dependencies must be a list of texts, requires-python a text", "see PEP 723")
    for item in [*wanted, python]:
        if "'" in item or "{{" in item or not item.isprintable() or item.startswith("-"):
            raise BollardError(f"{source}: {item!r} is no requirement", "see PEP 508")
    program = f"{_FOLDER}/{os.path.basename(source)}"
    post = _PYTHON
    if python:
        post += f"    {_VENV}/bin/python -c '{_VERSION}' '{python}'\n"
    if wanted:
        post += _PIP + "".join(f" \\\n        '{item}'" for item in wanted) + "\n"
    names = [found[1] for item in wanted if ";" not in item and (found := _DISTRIBUTION.fullmatch(item))]
    word = _word(program)
    return "".join(
        [
            _head(source, bases.python, "Python", "python-base", [(source, program)]),
            f"%post\n{post}",
            _PYTHON_ENVIRONMENT,
            _labels(source, text),
            f'\n%runscript\n    exec {_VENV}/bin/python {word} "$@"\n',
            _test(names),
            f"    {_VENV}/bin/python -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' {word}\n",
        ]
    )


def _metadata(source: str, text: str) -> dict[str, Any]:
    """Return the metadata of a script (PEP 723)."""
    found = [match for match in _BLOCK.finditer(text) if match["type"] == "script"]
    if len(found) != 1:
        what = "no block of metadata" if not found else "more than one block of metadata"
        hint = "begin it with the lines `# /// script`, `# dependencies = [...]`, `# ///` (PEP 723)"
        raise BollardError(f"{source}: {what}", hint)
    lines = found[0]["content"].splitlines(keepends=True)
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    toml = _toml_reader(source)
    try:
        metadata: dict[str, Any] = toml.loads(content)
        return metadata
    except toml.TOMLDecodeError as error:
        raise BollardError(f"{source}: its metadata is not TOML: {error}", "see PEP 723") from None


def _toml_reader(source: str) -> Any:
    """Return the module tomllib, or before Python 3.11 the package tomli, which has the same functions."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue  # the next one; without both, the error below
    raise BollardError(f"{source}: its metadata is TOML, which Python reads from 3.11 on", "install python3-tomli")
