# SPDX-License-Identifier: BSD-3-Clause
"""Evaluate the scripts that set an image's environment, without a shell.

Nearly all of them are a few assignments, and starting a shell through FUSE costs more than all else a container
does to its environment. This is the part of POSIX sh that they use: assignments, `export`, `unset`, quotes,
`$A` `${A}` `${A:-w}` `${A-w}` `${A:+w}` `${A+w}` `${A:=w}` `${A=w}`, `if`, `&&`, `||`, `!`, `{ }`, `[ ]` and
`test` on strings, `:`, `true`, `false`, `echo` (whose text goes nowhere). The result is what dash gives;
everything else, and whatever shells disagree on, is `Unsupported`: never a guess.
"""

from __future__ import annotations

from bollard.runtime.shell.syntax import Unsupported, is_name, quoted, script, split_assignment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bollard.runtime.shell.syntax import Command, Word

# The kernel's limit for one string of the environment (MAX_ARG_STRLEN).
VALUE_MAX = 128 * 1024
# Of all values together, and of all that a script assigns. More is for the image's own shell, in the task's limits.
VALUES_MAX = 4 << 20

_SPLITS = b" \t\n*?[\\"

# Names that shells give a value or a meaning of their own.
_OWN_VALUE = frozenset(
    (
        b"PWD", b"OLDPWD", b"PPID", b"UID", b"EUID", b"GID", b"IFS", b"OPTIND", b"OPTARG", b"LINENO", b"RANDOM",
        b"SECONDS", b"SHLVL", b"HOSTNAME", b"HOSTTYPE", b"MACHTYPE", b"OSTYPE", b"PS2", b"PS4", b"MAILCHECK", b"_",
    )
)  # fmt: skip
_NOT_ASSIGNED = _OWN_VALUE - {b"HOSTNAME", b"HOSTTYPE", b"MACHTYPE", b"OSTYPE", b"PS2", b"PS4", b"MAILCHECK"}


def evaluate(text: bytes, values: dict[bytes, bytes], exported: set[bytes]) -> None:
    """Run a script: change the shell variables `values` and the set of names it exported.

    Raises `Unsupported`, with nothing changed when the script cannot be read, and with the changes up to the
    statement in question when that only shows on the way.
    """
    _Shell(values, exported).run(script(text))


def expand(text: bytes, values: dict[bytes, bytes]) -> bytes:
    """`text` as a shell would see it between double quotes; `Unsupported` for commands and the like."""
    return _Shell(dict(values), set()).flat(quoted(text))


class _Shell:
    """Runs commands on variables."""

    def __init__(self, values: dict[bytes, bytes], exported: set[bytes]) -> None:
        self.values = values
        self.exported = exported
        self.size = sum(map(len, values.values()))  # with each value that was replaced

    def run(self, commands: list[Command]) -> bool:
        """Whether the last command succeeded."""
        status = True
        for command in commands:
            status = self._one(command)
        return status

    def _one(self, command: Command) -> bool:
        kind = command[0]
        if kind == "simple":
            return self._simple(command[1], command[2])
        if kind == "if":
            for condition, body in command[1]:
                if self.run(condition):
                    return self.run(body)
            return self.run(command[2])
        if kind == "group":
            return self.run(command[1])
        if kind == "not":
            return not self._one(command[1])
        first = self._one(command[1])
        return self._one(command[2]) if first == (kind == "and") else first

    def _simple(self, assignments: list[tuple[bytes, Word]], words: list[Word]) -> bool:
        for name, value in assignments:
            self._assign(name, self._value(value))
        if not words:
            return True
        first = words[0]
        name = first[0][1] if len(first) == 1 and len(first[0]) == 2 and not first[0][0] else b""
        if name == b"export":
            self._export(words[1:])
        elif name == b"unset":
            self._unset([field for word in words[1:] for field in self._fields(word)])
        elif name in (b"test", b"["):
            return self._test(name, [field for word in words[1:] for field in self._fields(word)])
        elif name in (b":", b"true", b"false", b"echo"):
            for word in words[1:]:
                self.flat(word)
            return name != b"false"
        else:
            raise Unsupported(name.decode("utf-8", "replace") or "a command")
        return True

    def _assign(self, name: bytes, value: bytes) -> None:
        if name in _NOT_ASSIGNED:
            raise Unsupported(f"{name.decode()}=")
        if len(value) > VALUE_MAX:
            raise Unsupported("a very long value")
        self.size += len(value)
        if self.size > VALUES_MAX:
            raise Unsupported("very many values")
        self.values[name] = value

    def _export(self, words: list[Word]) -> None:
        pairs: list[tuple[bytes, bytes | None]] = []
        for word in words:  # all are expanded before the first is assigned
            split = split_assignment(word)
            if split:
                pairs.append((split[0], self._value(split[1])))
                continue
            if any(not part[0] and len(part) == 4 for part in word):
                raise Unsupported("export $A")
            name, equals, value = self.flat(word).partition(b"=")
            pairs.append((name, value if equals else None))
        for name, given in pairs:
            if not is_name(name) or name in _NOT_ASSIGNED:
                raise Unsupported(f"export {name.decode('utf-8', 'replace')}")
            if given is not None:
                self._assign(name, given)
            self.exported.add(name)

    def _unset(self, names: list[bytes]) -> None:
        if names[:1] == [b"-v"]:
            del names[0]
        for name in names:
            # dash keeps the export mark of the two that it has from the start
            if not is_name(name) or name in _NOT_ASSIGNED or name in (b"PATH", b"PS1"):
                raise Unsupported(f"unset {name.decode('utf-8', 'replace')}")
            self.values.pop(name, None)
            self.exported.discard(name)

    def _test(self, name: bytes, args: list[bytes]) -> bool:
        """POSIX test(1), by the number of arguments; files are not looked at."""
        if name == b"[":
            if args[-1:] != [b"]"]:
                raise Unsupported("[ without ]")
            args = args[:-1]
        if len(args) <= 1:
            return bool(args and args[0])
        if len(args) == 3 and args[1] in (b"=", b"!="):
            return (args[0] == args[2]) == (args[1] == b"=")
        if args[0] == b"!" and len(args) <= 4:
            return not self._test(b"test", args[1:])
        if len(args) == 2 and args[0] in (b"-n", b"-z"):
            return (args[1] == b"") == (args[0] == b"-z")
        raise Unsupported("a test of " + " ".join(arg.decode("utf-8", "replace") for arg in args))

    def _variable(self, name: bytes, operator: str, operand: Word) -> bytes:
        value = self.values.get(name)
        if value is None and (name in _OWN_VALUE or not is_name(name)):
            raise Unsupported("$" + name.decode())
        if not operator:
            return value or b""
        there = bool(value) if operator[0] == ":" else value is not None
        if operator[-1] == "+":
            return self.flat(operand) if there else b""
        if there:
            return value or b""
        used = self.flat(operand)
        if operator[-1] == "=":
            self._assign(name, used)
        return used

    def flat(self, word: Word) -> bytes:
        """The text of a word where nothing splits it."""
        text = b"".join([part[1] if len(part) == 2 else self._variable(*part[1:]) for part in word])
        if len(text) > VALUE_MAX:
            raise Unsupported("a very long value")
        return text

    def _value(self, word: Word) -> bytes:
        """The right side of an assignment: not split, a tilde at its start and after a colon is the home."""
        if not any(not part[0] and len(part) == 2 and b"~" in part[1] for part in word):
            return self.flat(word)
        home = self.values.get(b"HOME")
        parts: Word = []
        for index, part in enumerate(word):
            if not part[0] and len(part) == 2 and b"~" in part[1]:
                pieces = part[1].split(b":")
                for number, piece in enumerate(pieces):
                    if not piece.startswith(b"~"):
                        continue
                    more = number == len(pieces) - 1 and index < len(word) - 1 and b"/" not in piece
                    if (number == 0 and index) or more or home is None or piece[1:2] not in (b"", b"/"):
                        raise Unsupported("~")
                    pieces[number] = home + piece[1:]
                part = (True, b":".join(pieces))
            parts.append(part)
        return self.flat(parts)

    def _fields(self, word: Word) -> list[bytes]:
        """The arguments a word becomes; `Unsupported` where a value would be split or matched with files."""
        quoted = False
        for part in word:
            if part[0]:
                quoted = True
            elif len(part) == 4:
                value = self._variable(*part[1:])
                if any(c in _SPLITS for c in value) or (not value and part[3]):
                    raise Unsupported("a value without quotes")
            elif part[1].startswith(b"~") or any(c in b"*?[" for c in part[1]):
                raise Unsupported("a pattern of file names")
        text = self.flat(word)
        return [text] if text or quoted else []
