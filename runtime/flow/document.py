# SPDX-License-Identifier: BSD-3-Clause
"""A flow file as plain data: YAML with the types of YAML 1.2, checked against the table of keys.

PyYAML reads YAML 1.1, in which `on` is a truth value, 0644 is octal and 12:30 is a number of base 60. Here a scalar is
its text, and the table says what the text must be.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import composition, fields, suggestion, units
from bollard.runtime.flow.fields import Field
from bollard.runtime.request.yaml_node import Mistake, is_null, line

# In nodes. A short YAML text can expand to a very large one by its aliases.
_NODES_MAX = 400_000
_DEPTH_MAX = 40

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Backslashes, a second dollar sign, the name; no name for another form, such as ${NAME:-text}.
_VALUE = re.compile(r"(\\*)\$(\$?)\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?", re.ASCII)
# Keys in which ${NAME} may belong to a shell: a line for /bin/sh, scripts, texts of files. In lists of words, it may if
# one of the words is a shell.
_OF_SHELLS = ("script", "files")
_LINE = ("/bin/sh", "-c")
_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh", "csh", "tcsh", "fish")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OLD_BOOLEANS = ("yes", "no", "on", "off", "y", "n")


class Document(NamedTuple):
    """The content of a flow file: nested plain data, and the number of the line of each key, by its path."""

    data: dict[str, Any]
    lines: dict[str, int]


def read(text: bytes, sets: Mapping[str, str]) -> tuple[Document, list[Mistake]]:
    """Return the content of a flow file, and all mistakes in it, sorted by line.

    text: the file.
    sets: the values of --set, which win over those of the key `values`.

    Raises:
        BollardError: PyYAML is not installed.
    """
    empty = Document({}, {})
    top = composition.nodes(text)
    if isinstance(top, Mistake):
        return empty, [top]
    reader = _Reader(sets, text.splitlines())
    data = reader.top(top)
    go = re.search(rb"\{\{-? *([.$]|if |range |with |end\b|include )", text)
    if go and ("version" in data or reader.mistakes):  # a script of a shell may have {{ for itself
        number = text[: go.start()].count(b"\n") + 1
        # The other mistakes are about what the template has in place of values.
        return empty, [Mistake(number, "{{ begins a template of Go, which is not rendered here", composition.TEMPLATE)]
    return Document(data, reader.lines), sorted(reader.mistakes)


class _Reader:
    """Reads nodes by the table. `mistakes` and `lines` grow."""

    def __init__(self, sets: Mapping[str, str], source: list[bytes]) -> None:
        self.sets = dict(sets)
        self.source = source
        self.values: dict[str, str] = {}
        self.mistakes: list[Mistake] = []
        self.lines: dict[str, int] = {}
        self.for_shell: tuple[str, ...] = ()  # the keys of the job that a shell reads
        self.left = _NODES_MAX

    def wrong(self, node: Any, text: str, hint: str) -> None:
        """Note a mistake in the line of the node."""
        self.mistakes.append(Mistake(line(node), text, hint))

    def top(self, node: Any) -> dict[str, Any]:
        """Return the data of the whole file."""
        for name, value in self.pairs(node, ""):
            if name == "values" and value.id == "mapping":
                self.values = {key: str(item.value) for key, item in self.pairs(value, "values") if item.id == "scalar"}
        for name in self.sets:
            if name not in self.values:
                close = difflib.get_close_matches(name, self.values, 1)
                hint = f"did you mean {close[0]}?" if close else "add it to `values:` in the file"
                self.wrong(node, f"--set {name}: the file has no such value", hint)
        self.values.update(self.sets)
        return self.keys(node, "", "", 0)

    def pairs(self, node: Any, shown: str, depth: int = 0) -> list[tuple[str, Any]]:
        """Return the keys of a mapping with their nodes. `<<` adds those of another mapping that are not there."""
        found: dict[str, Any] = {}
        merged: list[tuple[str, Any]] = []
        for key, value in node.value:
            self.left -= 1
            if depth > _DEPTH_MAX:
                self.wrong(key, f"{shown or 'the file'}: << names what it stands in", "name another set of keys")
                return []
            if self.left < 0:
                raise BollardError(f"{shown or 'the file'}: has more than {_NODES_MAX} parts", "use a task-array")
            if key.id != "scalar":
                self.wrong(key, f"{shown}: a key is {composition.kind(key)}", "write a word")
            elif key.value == "<<" and not key.style:
                for other in value.value if value.id == "sequence" else [value]:
                    if other.id != "mapping":
                        self.wrong(other, f"<<: {composition.kind(other)}", "name a set of keys, by its anchor")
                        continue
                    merged += self.pairs(other, shown, depth + 1)
            elif key.value in found:
                self.wrong(key, f"{_join(shown, key.value)}: stands here twice", "put both into one")
            else:
                found[key.value] = value
                self.lines.setdefault(_join(shown, key.value), line(key))
        for name, value in merged:
            found.setdefault(name, value)
        return list(found.items())

    def keys(self, node: Any, key: str, shown: str, depth: int) -> dict[str, Any]:
        """Return the data of a mapping with known keys. `key` is its place in the table, `shown` in the file."""
        known = fields.children(key)
        found = {}
        pairs = self.pairs(node, shown)
        if key == "jobs.*":
            self.for_shell = _for_shell(dict(pairs).get("command"))
        for name, value in pairs:
            place = _join(shown, name)
            if not key and name.startswith("x-"):
                continue  # as in Compose files: a place for what the file repeats by anchors
            field = known.get(name)
            if field is None or name in ("*", "[]"):
                number = self.lines.get(place, line(value))
                where = shown or "the file"
                self.mistakes.append(
                    Mistake(number, f'{where}: no key is called "{name}"', suggestion.of_key(name, key, value, known))
                )
                continue
            if is_null(value) and not value.style and not value.value:
                continue  # `env:` with nothing behind it is a key that is not there
            item = self.value(value, field, place, depth + 1)
            if item is not None:
                found[name] = item
        return found

    def value(self, node: Any, field: Field, shown: str, depth: int) -> Any:
        """Return the data of one value; None after a mistake."""
        if depth > _DEPTH_MAX:
            self.wrong(node, f"{shown}: is nested too deeply", "write it flat")
            return None
        if node.id != "scalar" and self.tagged(node, shown) or self.null(node, shown):
            return None
        return getattr(self, f"_{_METHODS[field.kind]}")(node, field, shown, depth)

    def tagged(self, node: Any, shown: str) -> bool:
        """Return whether the file gives a tag to the node; note it as a mistake then."""
        tag = composition.tag(node)
        if tag:
            self.wrong(node, f"{shown}: has the tag {tag}", "leave it out: the key says what the value is")
        return bool(tag)

    def null(self, node: Any, shown: str) -> bool:
        """Return whether the node is `null` or `~` without quotes; note it as a mistake then."""
        if not is_null(node) or node.style or not node.value:
            return False
        self.wrong(node, f"{shown}: {node.value} is no value", "leave the key out, or put the text into quotes")
        return True

    def scalar(self, node: Any, field: Field, shown: str) -> str | None:
        """Return the text of a scalar with ${NAME} replaced; None after a mistake."""
        if node.id != "scalar":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", f"write {fields.KINDS[field.kind]}")
            return None
        if self.tagged(node, shown):
            return None
        if shown.startswith("values."):
            text = self.values.get(shown.partition(".")[2], str(node.value))
            for _, escaped, name in _VALUE.findall(text):
                if name in self.values and not escaped:
                    self.wrong(node, f"{shown}: ${{{name}}} is not replaced in a value", "write the text itself")
            return text
        wrong, hint = suggestion.fault(node, self.source)
        if wrong:
            self.wrong(node, f"{shown}: {wrong}", hint)
            return None
        words = field.key.split(".")
        strict = not (set(words) & set(_OF_SHELLS) or words[-1] in self.for_shell)
        text = self.expanded(str(node.value), node, shown, strict=strict)
        if "\0" in text:
            self.wrong(node, f"{shown}: has a NUL character", "leave it out")
            return None
        return text

    def expanded(self, text: str, node: Any, shown: str, *, strict: bool) -> str:
        """Return a text with ${NAME} replaced.

        text: the text.
        node: its node, for the line of a mistake.
        shown: its place in the file.
        strict: whether a name without a value is a mistake. If not, it is left to a shell.
        """

        def replaced(match: re.Match[str]) -> str:
            slashes, escaped, name = match[1], match[2], match[3]
            if escaped:
                return match[0].replace("$$", "$") if strict or name in self.values else match[0]
            if name in self.values and not len(slashes) % 2:
                return slashes + self.values[name]
            if not strict:
                return match[0]  # also \${NAME}, which a shell does not replace
            if name in self.values:
                self.wrong(node, f"{shown}: \\${{{name}}}: a backslash changes nothing here", f"write $${{{name}}}")
            elif name:
                close = difflib.get_close_matches(name, self.values, 1)
                hint = f"did you mean ${{{close[0]}}}?" if close else "give it below `values:`, or write $${...}"
                self.wrong(node, f"{shown}: ${{{name}}} has no value", hint)
            else:
                self.wrong(node, f"{shown}: ${{ without a name and a }}", "write ${NAME}, or $${ for the characters ${")
            return match[0]

        if strict and not shown.partition(".env")[1]:  # there $NAME is a variable of the container
            wrong, hint = suggestion.foreign(text, self.values)
            if wrong:
                self.wrong(node, f"{shown}: {wrong}", hint)
        return _VALUE.sub(replaced, text)

    def _map(self, node: Any, field: Field, shown: str, depth: int) -> dict[str, Any] | None:
        if node.id != "mapping":
            below = ", ".join(fields.children(field.key))
            self.wrong(node, f"{shown}: is {composition.kind(node)}", f"write {below} below it")
            return None
        return self.keys(node, field.key, shown, depth)

    def _image(self, node: Any, field: Field, shown: str, depth: int) -> dict[str, Any] | None:
        if node.id == "mapping":
            return self.keys(node, field.key, shown, depth)
        text = self.scalar(node, field, shown)
        return None if text is None else {"uri": text.strip("\n")}

    def _names(self, node: Any, field: Field, shown: str, depth: int) -> dict[str, Any] | None:
        if node.id != "mapping":
            hint = "NAME: in place of each dash" if node.id == "sequence" else "a set of names: NAME: below it"
            self.wrong(node, f"{shown}: is {composition.kind(node)}", f"write {hint}")
            return None
        child = fields.BY_KEY[f"{field.key}.*"]
        found = {}
        for name, value in self.pairs(node, shown):
            if field.key in ("jobs", "volumes") and not _LABEL.fullmatch(name):
                number = self.lines.get(_join(shown, name), line(value))
                close = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
                hint = f"a name has {fields.KINDS[fields.LABEL]}{f': {close}' if close else ''}"
                self.mistakes.append(Mistake(number, f'{field.key}: "{name}" is not a name', hint))
                continue
            if field.key == "values" and not _VARIABLE.fullmatch(name):
                self.wrong(value, f'values: "{name}" is not a name', "use letters, digits and _")
                continue
            item = self.value(value, child, _join(shown, name), depth + 1)
            if field.key.endswith("files"):
                name = self.expanded(name, value, f"{shown}.{name}", strict=True)
                if name in found:
                    self.wrong(value, f"{_join(shown, name)}: stands here twice", "put both into one")
            if item is not None:
                found[name] = item
        return found

    def _list(self, node: Any, field: Field, shown: str, depth: int) -> list[Any] | None:
        if node.id != "sequence":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", "write a list: each item after a dash")
            return None
        found = []
        for at, item in enumerate(node.value):
            place = f"{shown}.{at}"
            self.lines[place] = line(item)
            if item.id == "scalar" and field.key.endswith("depends-on"):
                name = self.scalar(item, field, place)
                found.append({"name": name})
            elif item.id != "mapping":
                self.wrong(item, f"{shown}: an item is {composition.kind(item)}", "write a set of keys")
            else:
                found.append(self.keys(item, f"{field.key}.[]", place, depth + 1))
        return found

    def _text(self, node: Any, field: Field, shown: str, depth: int) -> str | None:
        return self.scalar(node, field, shown)

    def _texts(self, node: Any, field: Field, shown: str, depth: int) -> list[str] | None:
        if node.id != "sequence":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", "write a list: [one, two]")
            return None
        found = [self.scalar(item, field, shown) for item in node.value]
        return [item for item in found if item is not None]

    def _command(self, node: Any, field: Field, shown: str, depth: int) -> list[str] | None:
        if node.id != "scalar":
            return self._texts(node, field, shown, depth)
        text = self.scalar(node, field, shown)
        return None if text is None else [*_LINE, text, "sh"]  # the words of `args` are $1 and so on

    def _env(self, node: Any, field: Field, shown: str, depth: int) -> list[list[str]] | None:
        found: list[list[str]] = []
        if node.id == "mapping":
            for name, value in self.pairs(node, shown):
                place = _join(shown, name)
                text = None if self.null(value, place) else self.scalar(value, field, place)
                if text is not None:
                    found.append([name, text])
        elif node.id == "scalar":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", "write NAME: VALUE below it, or [NAME=VALUE]")
        else:
            for item in self._texts(node, field, shown, depth) or []:
                name, equals, value = item.partition("=")
                if not equals:
                    self.wrong(node, f"{shown}: {item} has no value", "write NAME=VALUE")
                elif any(name == other for other, _ in found):
                    self.wrong(node, f"{_join(shown, name)}: stands here twice", "leave one of them out")
                else:
                    found.append([name, value])
        for name, _ in found:
            if not _VARIABLE.fullmatch(name):
                self.wrong(node, f'{shown}: "{name}" is not the name of a variable', "use letters, digits and _")
        return found

    def _path(self, node: Any, field: Field, shown: str, depth: int) -> str | None:
        text = self.scalar(node, field, shown)
        if text is not None and (not text.startswith("/") or ".." in text.split("/")):
            self.wrong(node, f'{shown}: "{text}" is not {fields.KINDS[fields.PATH]}', "write it in full, without ..")
            return None
        return text

    def _uri(self, node: Any, field: Field, shown: str, depth: int) -> str | None:
        text = self.scalar(node, field, shown)
        if text is not None and not re.match(r"[a-z0-9+.-]+://.", text):
            self.wrong(node, f'{shown}: "{text}" is not an address', f"write {fields.KINDS[fields.URI]}")
            return None
        return text

    def _switch(self, node: Any, field: Field, shown: str, depth: int) -> bool | None:
        text = self.scalar(node, field, shown)
        if text is None or text in _BOOLEANS:
            return None if text is None else _BOOLEANS[text]
        old = text.lower() in _OLD_BOOLEANS
        hint = f"{text} is text in YAML 1.2: write true or false" if old else "write true or false"
        self.wrong(node, f'{shown}: "{text}" is not true or false', hint)
        return None

    def _number(self, node: Any, field: Field, shown: str, depth: int) -> int | None:
        text = self.scalar(node, field, shown)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or len(text) > 1 and text[0] == "0":
            octal = re.fullmatch(r"0[0-9]+", text, re.ASCII)
            hint = (
                f"a leading 0 means different numbers in YAML 1.1 and 1.2: write {text.lstrip('0') or 0}"
                if octal
                else "write 4"
            )
            self.wrong(node, f'{shown}: "{text}" is not a whole number', hint)
            return None
        if text == "0" and not field.key.endswith((".start", ".attempts")):
            self.wrong(node, f"{shown}: is 0", "write 1 or more, or leave it out")
            return None
        return int(text)

    def _measured(self, node: Any, field: Field, shown: str, measure: Callable[[str], int], example: str) -> int | None:
        text = self.scalar(node, field, shown)
        if text is None:
            return None
        try:
            return measure(text)
        except ValueError:
            self.wrong(node, f'{shown}: "{text}" is not {fields.KINDS[field.kind]}', f"write {example}")
            return None

    def _size(self, node: Any, field: Field, shown: str, depth: int) -> int | None:
        return self._measured(node, field, shown, units.size, "4GiB")

    def _duration(self, node: Any, field: Field, shown: str, depth: int) -> int | None:
        example, text = "1h30m", node.value if node.id == "scalar" else ""
        if ":" in text:
            example = units.of_slurm(text) or "1h30m; 12:30 is a number of base 60 in YAML 1.1 and text in YAML 1.2"
        elif re.fullmatch(r"[1-9][0-9]{0,5}d?", text, re.ASCII):
            example = f"{int(text[:-1]) * 24}h" if text.endswith("d") else f"{text}s, or {text}m"
        return self._measured(node, field, shown, units.seconds, example)

    def _choice(self, node: Any, field: Field, shown: str, depth: int) -> str | None:
        text = self.scalar(node, field, shown)
        found = {choice.lower(): choice for choice in field.choices}.get((text or "").lower())
        if text is not None and found is None:
            close = difflib.get_close_matches(text, field.choices, 1)
            hint = f"did you mean {close[0]}?" if close else f"write one of {', '.join(field.choices)}"
            self.wrong(node, f'{shown}: "{text}" is not known', hint)
        return found

    def _label(self, node: Any, field: Field, shown: str, depth: int) -> str | None:
        text = self.scalar(node, field, shown)
        if text is not None and not _LABEL.fullmatch(text):
            self.wrong(node, f'{shown}: "{text}" is not a name', f"use {fields.KINDS[fields.LABEL]}")
            return None
        return text

    def _needs(self, node: Any, field: Field, shown: str, depth: int) -> list[dict[str, Any]] | None:
        items = node.value if node.id == "sequence" else [node]
        found: list[dict[str, Any]] = []
        for at, item in enumerate(items):
            self.lines[f"{shown}.{at}"] = line(item)
            if item.id == "mapping":
                found.append(self.keys(item, "jobs.*.depends-on.[]", f"{shown}.{at}", depth))
            else:
                name = self.scalar(item, field, shown)
                if name is not None:
                    found.append({"name": name})
        return found

    def _mounts(self, node: Any, field: Field, shown: str, depth: int) -> list[list[str]] | None:
        """Return [volume, path] for each mount, of either form."""
        if node.id != "mapping":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", f"write {fields.KINDS[fields.MOUNTS]}")
            return None
        found = []
        for name, value in self.pairs(node, shown):
            inner = dict(self.pairs(value, f"{shown}.{name}")) if value.id == "mapping" else {"": value}
            if len(inner) != 1 or not {"", "volume", "location"} & set(inner):
                self.wrong(value, f"{shown}: {name}: has other keys", f"write {fields.KINDS[fields.MOUNTS]}")
                continue
            ((word, target),) = inner.items()
            text = self.scalar(target, field, shown)
            if text is None:
                continue
            name = self.expanded(name, value, f"{shown}.{name}", strict=True)
            volume, path = (name, text) if word == "location" else (text, name)
            if not path.startswith("/") or not path.strip("/") or set(path) & set(":,\n") or ".." in path.split("/"):
                self.wrong(
                    value,
                    f'{shown}: "{path}" cannot be a path in the container',
                    "write it from / on, without : , and ..",
                )
                continue
            self.lines[f"{shown}.{path}"] = line(value)
            found.append([volume, path])
        return found

    def _options(self, node: Any, field: Field, shown: str, depth: int) -> dict[str, str | None] | None:
        """Return the values by name; None for a name without a value."""
        if node.id != "mapping":
            self.wrong(node, f"{shown}: is {composition.kind(node)}", f"write {fields.KINDS[fields.OPTIONS]}")
            return None
        found: dict[str, str | None] = {}
        for name, value in self.pairs(node, shown):
            if value.id != "scalar":
                self.wrong(value, f"{_join(shown, name)}: is {composition.kind(value)}", "write one value: ONE,TWO")
                continue
            text = None if is_null(value) else self.scalar(value, field, _join(shown, name))
            if text is not None or is_null(value):
                found[name] = text
        return found

    def _refused(self, node: Any, field: Field, shown: str, depth: int) -> None:
        why, _, instead = field.help.partition("; ")
        self.mistakes.append(Mistake(self.lines.get(shown, line(node)), f"{shown} is not supported: {why}", instead))


_METHODS = {
    fields.MAP: "map", fields.NAMES: "names", fields.LIST: "list", fields.TEXT: "text", fields.TEXTS: "texts",
    fields.COMMAND: "command", fields.ENV: "env", fields.PATH: "path", fields.URI: "uri", fields.SWITCH: "switch",
    fields.NUMBER: "number", fields.SIZE: "size", fields.DURATION: "duration", fields.CHOICE: "choice",
    fields.LABEL: "label", fields.NEEDS: "needs", fields.MOUNTS: "mounts", fields.OPTIONS: "options",
    fields.REFUSED: "refused", fields.IMAGE: "image",
}  # fmt: skip


def is_line(command: tuple[str, ...]) -> bool:
    """Return whether a command is one line for /bin/sh."""
    return command[:2] == _LINE


def _for_shell(node: Any) -> tuple[str, ...]:
    """Return the keys of a job that a shell reads.

    These are `command` if it is a line, and `command` and `args` if a word of `command` is a shell.
    """
    if node is None or node.id == "mapping":
        return ()
    if node.id == "scalar":
        return ("command",)
    names = {word.value.rpartition("/")[2] for word in node.value if word.id == "scalar"}
    return ("command", "args") if names & set(_SHELLS) else ()


def _join(shown: str, name: str) -> str:
    return f"{shown}.{name}" if shown else name
