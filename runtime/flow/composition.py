# SPDX-License-Identifier: BSD-3-Clause
"""The YAML of a flow file as PyYAML's tree of nodes, or what is wrong with it in the words of the file's author."""

from __future__ import annotations

from typing import Any

from bollard.runtime.errors import BollardError
from bollard.runtime.request import yaml_node
from bollard.runtime.request.yaml_node import Mistake

# In bytes.
SIZE_MAX = 1 << 22
_IMAGES = (b"#!", b"hsqs", b"\x7fELF")  # a SIF file, squashfs, a program
TEMPLATE = "render the template first: `fuzzball application render-template`; or use `values:` and ${NAME}"
# Types of YAML that plain scalars have without a tag in the file.
_TAGS = frozenset(
    f"tag:yaml.org,2002:{word}"
    for word in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "merge", "value")
)


def nodes(text: bytes) -> Any | Mistake:
    """Return the mapping at the top of a flow file, or the mistake for which there is none.

    Raises:
        BollardError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise BollardError(
            "PyYAML is not installed, so a flow cannot be read",
            "install it (Debian: python3-yaml, EL: python3-pyyaml)",
        ) from None
    if len(text) > SIZE_MAX:
        return Mistake(1, f"the file has {len(text)} bytes, over {SIZE_MAX}", "a flow file is small: is it one?")
    top: Any
    try:
        top = yaml.compose(text.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        return Mistake(number, f"byte 0x{text[error.start]:02x} is not UTF-8", "save the file as UTF-8")
    except yaml.reader.ReaderError as error:
        if text.startswith(_IMAGES) and b"\0" in text[:64]:
            return Mistake(1, "is not a text file", "name a flow file, not an image")
        number = text.decode()[: error.position].count("\n") + 1
        text_of = f"not YAML: the character #x{error.character:04x} is not allowed"
        return Mistake(number, text_of, "take it out of the file")
    except yaml.MarkedYAMLError as error:
        return _mistake(text, error)
    except (yaml.YAMLError, RecursionError) as error:
        return Mistake(1, f"not YAML: {' '.join(str(error).split())}", "write one `key: value` a line")
    if top is None or top.id != "mapping":
        found = "empty" if top is None else kind(top)
        return Mistake(1, f"the file is {found}", "write `jobs:` and a job below it")
    return top


def _mistake(text: bytes, error: Any) -> Mistake:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    what = error.problem or error.context
    line = text.splitlines()[number - 1 : number]
    hint = "quote text that has a colon or begins with a special character"
    context, begun = error.context or "", error.context_mark
    if b"{{" in text:
        hint = TEMPLATE
    elif "escape" in what:
        what, hint = "a backslash in double quotes begins no escape that YAML has", "write \\\\, or use single quotes"
    elif "quoted scalar" in context and begun:
        number, what, hint = begun.line + 1, "a quote is not closed", "close it, or write '' for a quote in it"
    elif any(b"\t" in part[: len(part) - len(part.lstrip())] for part in line):
        what, hint = "a tab stands before a key", "indent with spaces"
    elif any("\u00a0" in part.decode("utf-8", "replace") for part in text.splitlines()[max(0, number - 2) : number]):
        what, hint = "a no-break space (U+00A0) stands where a space is meant", "write a space"
    elif "another document" in what:
        what, hint = "a second document begins", "put both into one, without the line ---"
    elif "flow " in context and "did not find expected" in what and begun:
        number, bracket = begun.line + 1, "[" if "sequence" in context else "{"
        what = f"a {bracket} is not closed, or a comma is missing behind it"
        hint = "close it, and write a comma between items"
    elif "alias" in what or "alphabetic or numeric" in what:
        hint = "quote text that begins with *, or write &NAME before what it repeats"
    elif "block " in context and "did not find expected" in what:
        what, hint = "the indentation fits no line above", "align the line with the other keys or items"
    elif "mapping values" in what:
        hint = "quote text that has a colon, or align the key with the other keys"
    return Mistake(number, f"not YAML: {what}", hint)


def kind(node: Any) -> str:
    """Return what the node is, for a message: "empty", its text, "a list" or "a set of keys"."""
    return "empty" if yaml_node.is_null(node) and not node.value else yaml_node.kind(node)


def tag(node: Any) -> str:
    """Return the tag that the file gives to a node, such as !!binary; "" for none and for a usual one."""
    return "" if node.tag in _TAGS else str(node.tag).replace("tag:yaml.org,2002:", "!!")
