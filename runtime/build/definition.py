# SPDX-License-Identifier: BSD-3-Clause
"""Parse definition files: text and build arguments in, frozen data out. The functions are pure.

The grammar is Apptainer's:
    A stage begins at each line that starts with `Bootstrap:`.
    A header ends at the first line that starts with `%`. Each such line begins a section.
    Sections with the same name are joined.
    `#` begins a comment in a header line, but not in a script.
Apptainer silently ignores some mistakes. Here an unknown stage in `%files from` is an error, and single quotes in
%files quote a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bollard.runtime.errors import BollardError

MAX_BYTES = 1 << 20
MAX_STAGES = 64
MAX_SECTIONS = 2048
# Characters, after all {{ names }} are replaced.
MAX_EXPANDED = 4 << 20

SCRIPTS = (
    "help", "setup", "labels", "environment", "pre", "post", "runscript", "test", "startscript", "arguments",
)  # fmt: skip
SECTIONS = (*SCRIPTS, "files")
APP_SECTIONS = ("appinstall", "applabels", "appfiles", "appenv", "apptest", "apphelp", "apprun", "appstart")
_KEYS = (
    "bootstrap", "from", "includecmd", "mirrorurl", "updateurl", "osversion", "include", "library", "registry",
    "namespace", "stage", "product", "user", "regcode", "productpgp", "registerurl", "modules", "fingerprints",
    "confurl", "setopt", "target", "frontend", "filename", "buildargs",
)  # fmt: skip
_NUMBERED = re.compile(r"otherurl[0-9]+")
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_STAGE = re.compile(r"^bootstrap:", re.IGNORECASE | re.MULTILINE)
# The number of spaces in braces is limited: without a limit, matching many spaces takes quadratic time.
_NAME = re.compile(r"\{\{[\t\n\f\r ]{0,64}([0-9A-Za-z_]{1,256})[\t\n\f\r ]{0,64}\}\}")
_QUOTABLE = re.compile(r"[][\\$`*?{},~]")  # has a meaning in a source of %files
_COMMENT = re.compile(r"#[^!]")


class Script(NamedTuple):
    """The body of a section: its text, the words after its name (`args`), the line number of each line in the file."""

    text: str = ""
    args: str = ""
    lines: tuple[int, ...] = ()


class Transfer(NamedTuple):
    """One line of %files. An empty target means the path of the source, which is a word of a shell (shell/paths.py)."""

    source: str
    target: str
    line: int


class Files(NamedTuple):
    """The files to copy from the stage `stage`; from the host if `stage` is empty."""

    stage: str
    transfers: tuple[Transfer, ...]


class App(NamedTuple):
    """A SCIF app of a definition."""

    name: str
    sections: Mapping[str, str]  # "install", "files", ... -> text


class Stage(NamedTuple):
    """One stage of a definition: its header, keys in lower case, and its sections."""

    header: Mapping[str, str]
    scripts: Mapping[str, Script]
    files: tuple[Files, ...]
    labels: Mapping[str, str]
    apps: tuple[App, ...]
    line: int  # number of its first line in the file

    def script(self, name: str) -> Script:
        """Return the section `name`; an empty Script if the stage does not have it."""
        return self.scripts.get(name, Script())


class Definition(NamedTuple):
    """A parsed definition file."""

    name: str
    text: str  # with the build arguments replaced
    stages: tuple[Stage, ...]
    unused: tuple[str, ...]  # build arguments that the file does not use
    warnings: tuple[str, ...]


class _Section(NamedTuple):
    title: str  # the line without its leading %
    line: int
    body: list[str]


def parse(raw: bytes, name: str, arguments: Mapping[str, str] | None = None) -> Definition:
    """Parse a definition file.

    raw: the content of the file.
    name: the name of the file for messages.
    arguments: build arguments by name.

    Raises:
        BollardError: the file is too large or has a mistake; the message has the line number.
    """
    if len(raw) > MAX_BYTES:
        raise BollardError(f"{name}: has {len(raw)} bytes, over {MAX_BYTES}", "is it a definition file?")
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise _error(name, line, "a NUL byte", "is it a definition file?")
    text = raw.decode("utf-8", "surrogateescape")
    given = dict(arguments or {})
    used: set[str] = set()
    warnings: list[str] = []
    parts: list[str] = []
    stages: list[Stage] = []
    for piece, line in _pieces(text):
        before = _parse_stage(piece, name, line)
        defaults = _defaults(before, name, warnings)
        piece = expand(piece, name, line, given, defaults, used)
        stage = _parse_stage(piece, name, line)
        if not stage.header and not _has_content(stage):
            continue  # only comments before the first stage
        stages.append(stage)
        parts.append(piece)
        if len(stages) > MAX_STAGES:
            raise _error(name, line, f"over {MAX_STAGES} stages", "split the definition file")
    if not stages:
        raise BollardError(f"{name}: holds no definition", "its first line should be `Bootstrap: ...`")
    _check_stages(name, stages)
    unused = tuple(sorted(set(given) - used))
    return Definition(name, "".join(parts), tuple(stages), unused, tuple(warnings))


def from_uri(uri: str) -> Definition:
    """Return the definition for a URI, as in `bollard build TARGET docker://...`."""
    agent, _, rest = uri.partition(":")
    header = {"bootstrap": agent.lower(), "from": rest[2:] if rest.startswith("//") else rest}
    text = "".join(f"{key}: {value}\n" for key, value in header.items())
    return Definition(uri, text, (Stage(header, {}, (), {}, (), 1),), (), ())


def build_arguments(words: Iterable[str], file: str = "", file_name: str = "") -> tuple[dict[str, str], list[str]]:
    """Return the build arguments by name, and warnings for lines of the file that are not KEY=VALUE.

    words: the values of --build-arg; they replace those of the file.
    file: the text of --build-arg-file.
    file_name: the name of this file for warnings.

    Raises:
        BollardError: a value of --build-arg is not KEY=VALUE.
    """
    found: dict[str, str] = {}
    warnings = []
    for number, line in enumerate(file.split("\n"), 1):
        pair = _pair(line)
        if pair:
            found[pair[0]] = pair[1]
        elif line.strip(_SPACE):
            warnings.append(f"{file_name}:{number}: not KEY=VALUE; left out")
    for word in words:
        pair = _pair(word)
        if not pair:
            raise BollardError(f"--build-arg {word}: not KEY=VALUE", "write --build-arg KEY=VALUE")
        found[pair[0]] = pair[1]
    return found, warnings


def expand(
    text: str, name: str, line: int, given: Mapping[str, str], defaults: Mapping[str, str], used: set[str]
) -> str:
    """Return `text` with each {{ name }} replaced, except after a comment sign on the same line.

    text: the text of one stage.
    name: the name of the file for messages.
    line: the number of the first line of `text`.
    given: build arguments by name.
    defaults: the values of %arguments by name.
    used: the names that were replaced are added to this set.

    Raises:
        BollardError: a name has no value, or the result is too long.
    """
    out: list[str] = []
    size = done = 0
    for match in _NAME.finditer(text):
        start = match.start()
        newline = max(text.rfind("\n", done, start), done)
        if _COMMENT.search(text, newline, start):
            continue
        key = match[1]
        value = given.get(key, defaults.get(key))
        if value is None:
            at = line + text.count("\n", 0, start)
            raise _error(
                name, at, f"{{{{ {key} }}}} has no value", f"give one with --build-arg {key}=..., or in %arguments"
            )
        # A value can hold {{ names }} itself; these are replaced once, not again in their values.
        for inner in _NAME.finditer(value):
            other = given.get(inner[1], defaults.get(inner[1]))
            if other is not None:
                value = value.replace(inner[0], other)
                used.add(inner[1])
                if len(value) > MAX_EXPANDED:
                    break
        out += (text[done:start], value)
        size += start - done + len(value)
        if size > MAX_EXPANDED:
            at = line + text.count("\n", 0, start)
            raise _error(name, at, f"over {MAX_EXPANDED} characters with its arguments", "shorten their values")
        used.add(key)
        done = match.end()
    out.append(text[done:])
    return "".join(out)


def script_command(script: Script, path: str) -> list[str]:
    """Return the command that runs the %pre, %setup or %post script at `path`.

    Raises:
        BollardError: the section has -c without an interpreter.
    """
    words = script.args.split("#")[0].split()
    if "-c" in words:
        at = words.index("-c")
        if at + 1 == len(words):
            raise BollardError("-c names no interpreter", "write, for example, `%post -c /bin/bash`")
        return ["/bin/sh", "-ex", *words[: at + 1], " ".join([*words[at + 1 :], path])]
    return ["/bin/sh", "-ex", *words, path]


def shebang_script(script: Script) -> str:
    """Return the text of the file for a %runscript, %startscript or %test."""
    first, text = "#!/bin/sh", script.text
    if text.strip(_SPACE).startswith("#!"):
        first, _, text = text.lstrip(_SPACE).partition("\n")
    args = script.args.split("#")[0]
    if args:
        first = f"{first.rstrip(_SPACE)} {args}"
    return f"{first.rstrip(_SPACE)}\n\n{text}\n"


def labels(text: str) -> dict[str, str]:
    """Parse labels: each line holds a key, a space and the value."""
    found = {}
    for line in text.split("\n"):
        line = line.strip(_SPACE)
        if line and not line.startswith("#"):
            key, _, value = line.partition(" ")
            found[key.strip(_SPACE)] = value.strip(_SPACE)
    return found


def _error(name: str, line: int, message: str, hint: str) -> BollardError:
    return BollardError(f"{name}:{line}: {message}", hint)


def _shown(text: str, most: int = 60) -> str:
    """Return text of a file for a message: cut to `most` characters, unprintable characters escaped."""
    text = text if len(text) <= most else text[:most] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]


def _pieces(text: str) -> list[tuple[str, int]]:
    """Split a file into stages: the text and the number of the first line of each. The first text may be empty."""
    starts = [match.start() for match in _STAGE.finditer(text)]
    if not starts or starts[0]:
        starts.insert(0, 0)
    found, line = [], 1
    for start, end in zip(starts, [*starts[1:], len(text)]):
        piece = text[start:end]
        found.append((piece, line))
        line += piece.count("\n")
    return found


def _parse_stage(piece: str, name: str, line: int) -> Stage:
    head: list[str] = []
    sections: list[_Section] = []
    body = head
    lines = piece.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, content in enumerate(lines, line):
        content = content[:-1] if content.endswith("\r") else content
        if content.lstrip(_SPACE).startswith("%"):
            if len(sections) >= MAX_SECTIONS:
                raise _error(name, number, f"over {MAX_SECTIONS} sections", "is it a definition file?")
            if not content.startswith("%"):
                what = f"`{_shown(content.strip(_SPACE))}` is indented"
                raise _error(name, number, what, "a line beginning with % starts a section; it cannot be indented")
            body = []
            sections.append(_Section(content.lstrip("%"), number, body))
        else:
            body.append(content)
    return _assemble(_header(head, name, line), sections, name, line)


def _header(lines: list[str], name: str, first: int) -> dict[str, str]:
    found: dict[str, str] = {}
    key, held = "", ""  # of a value that continues on the next line
    for number, line in enumerate(lines, first):
        line = line.strip(_SPACE)
        if not line or line.startswith("#"):
            if key:
                found[key] = held
            key = held = ""
            continue
        line = line.split("#")[0]
        if key:
            value = held + line.strip(_SPACE)
        else:
            key, colon, value = line.partition(":")
            if not colon:
                what = f"`{_shown(line.strip(_SPACE))}` is no `Key: value`"
                raise _error(name, number, what, "a header comes before the first section")
            key, value = key.strip(_SPACE).lower(), value.strip(_SPACE)
            if key not in _KEYS and not _NUMBERED.fullmatch(key):
                raise _error(name, number, f"`{_shown(key)}` is no header key", _similar(key, _KEYS))
        if value.endswith("\\"):
            held = value[:-1]
            if held.endswith("\\n"):
                held = held[:-2] + "\n"
            continue
        found[key] = value
        key = held = ""
    if key:
        found[key] = held
    return found


def _assemble(header: dict[str, str], sections: list[_Section], name: str, line: int) -> Stage:
    texts: dict[str, list[str]] = {}
    numbers: dict[str, list[int]] = {}
    args: dict[str, str] = {}
    files: dict[str, list[Transfer]] = {}
    apps: dict[str, dict[str, list[str]]] = {}
    for section in sections:
        title, _, rest = section.title.partition(" ")
        lines = [content + "\n" for content in section.body]
        if title in APP_SECTIONS:
            app = rest.split(" ")[0]
            if not app or app in (".", "..") or "/" in app:
                hint = f"write `%{title} NAME`"
                raise _error(name, section.line, f"%{title}: `{_shown(app)}` is no name of an app", hint)
            apps.setdefault(app, {}).setdefault(title[3:], []).extend(lines)
            continue
        title = title.lower()
        if title == "files":
            place = files.setdefault(_files_stage(rest, name, section.line), [])
            place += _transfers(section)
        elif title in SCRIPTS:
            texts.setdefault(title, []).extend(lines)
            numbers.setdefault(title, []).extend(range(section.line + 1, section.line + 1 + len(lines)))
            if " " in section.title:
                args[title] = rest
        else:
            hint = _similar(title, (*SECTIONS, *APP_SECTIONS))
            shown = _shown(section.title.split(" ")[0])
            raise _error(name, section.line, f"%{shown}: no such section", hint)
    scripts = {key: Script("".join(text), args.get(key, ""), tuple(numbers[key])) for key, text in texts.items()}
    return Stage(
        header,
        scripts,
        tuple(Files(stage, tuple(found)) for stage, found in files.items()),
        labels(scripts["labels"].text) if "labels" in scripts else {},
        tuple(App(app, {key: "".join(text) for key, text in parts.items()}) for app, parts in apps.items()),
        line,
    )


def _files_stage(args: str, name: str, line: int) -> str:
    words = args.split("#")[0].split()
    if not words:
        return ""
    if len(words) != 2 or words[0] != "from":
        raise _error(name, line, f"%files {_shown(args)}", "write `%files` or `%files from STAGE`")
    return words[1]


def _transfers(section: _Section) -> list[Transfer]:
    found = []
    for number, line in enumerate(section.body, section.line + 1):
        line = line.strip(_SPACE)
        if line and not line.startswith("#"):
            words = [*_words(line), "", ""]
            if words[0]:
                found.append(Transfer(words[0], words[1], number))
    return found


def _words(line: str) -> list[str]:
    """Split a line of %files at spaces, but not inside quotes and {{ }}; return at most two words."""
    found: list[str] = []
    at = 0
    while at < len(line) and len(found) < 2:
        char = line[at]
        if char in _SPACE:
            at += 1
        elif char in "\"'":
            end = line.find(char, at + 1)
            if end > at + 1:
                word = line[at + 1 : end]
                found.append(_QUOTABLE.sub(r"\\\g<0>", word) if char == "'" and not found else word)
            at = end + 1 if end > 0 else at + 1
        else:
            start = at
            while at < len(line) and line[at] not in _SPACE and line[at] not in "\"'":
                braces = _NAME.match(line, at) if line[at] == "{" else None
                at = braces.end() if braces else at + 1
            found.append(line[start:at])
    return found


def _defaults(stage: Stage, name: str, warnings: list[str]) -> dict[str, str]:
    script = stage.script("arguments")
    found = {}
    for line, number in zip(script.text.split("\n"), script.lines):
        line = line.strip(_SPACE)
        if line and not line.startswith("#"):
            pair = _pair(line)
            if pair:
                found[pair[0]] = pair[1]
            else:
                warnings.append(f"{name}:{number}: `{_shown(line)}` in %arguments is not KEY=VALUE; left out")
    return found


def _pair(text: str) -> tuple[str, str] | None:
    key, equals, value = text.partition("=")
    key = key.strip(_SPACE)
    return (key, value.strip(_SPACE)) if equals and key else None


def _has_content(stage: Stage) -> bool:
    scripts = any(script.text or script.args for script in stage.scripts.values())
    return bool(scripts or stage.apps or any(files.transfers for files in stage.files))


def _check_stages(name: str, stages: list[Stage]) -> None:
    known: list[str] = []
    for stage in stages:
        if not stage.header:
            raise _error(name, stage.line, "sections without a header", "begin with `Bootstrap: ...`")
        if not stage.header.get("bootstrap"):
            raise _error(name, stage.line, "a header without Bootstrap", "`Bootstrap:` must be its first key")
        for files in stage.files:
            if files.stage and files.stage not in known:
                line = files.transfers[0].line - 1 if files.transfers else stage.line
                hint = _similar(files.stage, known) if known else "name an earlier one with `Stage: NAME`"
                raise _error(name, line, f"%files from {_shown(files.stage)}: no earlier stage of that name", hint)
        if stage.header.get("stage"):
            known.append(stage.header["stage"])


def _similar(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word[:100], list(known), 1)
    return f"did you mean {_shown(close[0])}?" if close else "known are " + ", ".join(map(_shown, sorted(known)))
