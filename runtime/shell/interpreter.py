# SPDX-License-Identifier: BSD-3-Clause
"""Evaluate the scripts that set an image's environment, without a shell.

Nearly all of these scripts are a few assignments. The start of a shell through FUSE costs more time than all other work
for the container's environment.

This module evaluates the part of bash that such scripts use and that needs no file and no process: assignments, `+=`,
`export`, `unset`, `local`, quotes, `$A` `${A}` `${A:-w}` `${A:+w}` `${A:=w}` `${#A}` `${A#p}` `${A%%p}` `${A/p/w}`,
`if`, `case`, `for`, `while`, functions, `&&`, `||`, `!`, `{ }`, `[[ ]]`, `[ ]` and `test` on strings, `eval`, `:`,
`true`, `false`, `echo`.

The result is the same as in bash. Everything else raises `Unsupported`, and so does code on which shells disagree: the
result is never a guess. Steps and bytes are limited, because anyone can write an image's scripts.
"""

from __future__ import annotations

from bollard.runtime.shell import conditions, patterns
from bollard.runtime.shell.syntax import script
from bollard.runtime.shell.words import Unsupported, is_name, quoted, split_assignment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bollard.runtime.shell.syntax import Command
    from bollard.runtime.shell.words import Word

# In bytes: the kernel's limit for one string of the environment (MAX_ARG_STRLEN, execve(2)).
VALUE_MAX = 128 * 1024
# The limit for all variables together, in bytes.
TOTAL_MAX = 4 << 20
# The limit for one evaluation, in steps. A step is a command, _BYTES_PER_STEP bytes of expanded words, or a step of
# pattern matching.
STEPS_MAX = 200_000
_BYTES_PER_STEP = 512
_CALLS_MAX = 20

_SPLITS = b" \t\n*?[\\"

# Variables that shells set themselves, or that have a special meaning.
_OWN_VALUE = frozenset(
    (
        b"PWD", b"OLDPWD", b"PPID", b"UID", b"EUID", b"GID", b"IFS", b"OPTIND", b"OPTARG", b"LINENO", b"RANDOM",
        b"SECONDS", b"SHLVL", b"HOSTNAME", b"HOSTTYPE", b"MACHTYPE", b"OSTYPE", b"PS2", b"PS4", b"MAILCHECK", b"_",
    )
)  # fmt: skip
_NOT_ASSIGNED = _OWN_VALUE - {b"HOSTNAME", b"HOSTTYPE", b"MACHTYPE", b"OSTYPE", b"PS2", b"PS4", b"MAILCHECK"}
_BUILTINS = frozenset(
    (b":", b"[", b"echo", b"eval", b"export", b"false", b"local", b"return", b"test", b"true", b"unset", b"break",
     b"continue", b"shift")
)  # fmt: skip


class _Leave(Exception):
    """Raised by break, continue and return. `kind` is the command's name; `status` is whether return succeeds."""

    def __init__(self, kind: bytes, status: bool = True) -> None:
        super().__init__(kind)
        self.kind = kind
        self.status = status


def evaluate(
    text: bytes, values: dict[bytes, bytes], exported: set[bytes], budget: patterns.Budget | None = None
) -> bool:
    """Run a script. Changes `values` and `exported`. Returns whether the script printed nothing.

    text      the script
    values    the shell variables
    exported  the names of the exported variables
    budget    the limits; several scripts can share one

    Raises:
        Unsupported: the script needs a real shell. If it cannot be parsed, nothing is changed. If a statement fails
            later, the changes of the statements before it remain.
    """
    shell = _Shell(values, exported, budget)
    commands = script(text)
    try:
        shell.run(commands)
    except _Leave as error:
        if error.kind != b"return":
            raise Unsupported(error.kind.decode()) from None
    except RecursionError:
        raise Unsupported("deep nesting") from None
    return shell.silent


def new_budget() -> patterns.Budget:
    """Return the limits for one evaluation."""
    return patterns.Budget(STEPS_MAX, VALUE_MAX)


def expand(text: bytes, values: dict[bytes, bytes]) -> bytes:
    """Return `text` expanded as a shell does it between double quotes, with the variables `values`.

    Raises:
        Unsupported: the text has a command substitution, or anything else that needs a real shell.
    """
    return flat(quoted(text), values)


def flat(word: Word, values: dict[bytes, bytes]) -> bytes:
    """Return the text of a parsed word, expanded with the variables `values`, without splitting.

    Raises:
        Unsupported: as `expand`.
    """
    return _Shell(dict(values), set()).flat(word)


class _Shell:
    """Runs commands, and holds the variables and functions."""

    def __init__(self, values: dict[bytes, bytes], exported: set[bytes], budget: patterns.Budget | None = None) -> None:
        self.values = values
        self.exported = exported
        self.functions: dict[bytes, list[Command]] = {}
        self.locals: list[dict[bytes, bytes | None]] = []  # for each call: the former values of its local variables
        self.words: list[bytes] | None = None  # $1, $2, ... of the running function; None outside a function
        self.loops = 0
        self.calls = 0
        self.budget = budget or new_budget()
        self.total = sum(map(len, values.values()))
        self.last = True
        self.silent = True

    def run(self, commands: list[Command]) -> bool:
        """Run commands. Returns whether the last one succeeded."""
        status = True
        for command in commands:
            status = self.last = self._one(command)
        return status

    def _one(self, command: Command) -> bool:
        self.budget.spend(1)
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
        if kind == "case":
            return self._case(command[1], command[2])
        if kind == "for":
            return self._loop(self._each(command[1], command[2]), command[3])
        if kind == "while":
            return self._loop(self._while(command[1], command[3]), command[2])
        if kind == "test":
            return self._tested(command[1])
        if kind == "function":
            if command[1] in _BUILTINS:
                raise Unsupported(f"a function {command[1].decode()}")
            self.functions[command[1]] = command[2]
            return True
        first = self._one(command[1])
        return self._one(command[2]) if first == (kind == "and") else first

    def _case(self, subject: Word, branches: list[tuple[list[Word], list[Command]]]) -> bool:
        text = self.flat(self._no_tilde(subject))
        for words, body in branches:
            for word in words:
                if patterns.matches(self._pattern(word), text, self.budget):
                    return self.run(body)
        return True

    def _loop(self, rounds: Iterator[None], body: list[Command]) -> bool:
        status = True
        self.loops += 1
        for _ in rounds:
            self.budget.spend(1)
            try:
                status = self.run(body)
            except _Leave as error:
                if error.kind == b"break":
                    status = True
                    break
                if error.kind != b"continue":
                    raise
                status = True
        self.loops -= 1
        return status

    def _each(self, name: bytes, words: list[Word] | None) -> Iterator[None]:
        fields = list(self._positional()) if words is None else self._arguments(words)
        for field in fields:
            self._assign(name, field)
            yield

    def _while(self, condition: list[Command], sought: bool) -> Iterator[None]:
        while True:
            try:
                if self.run(condition) != sought:
                    return
            except _Leave:
                raise Unsupported("break in a condition") from None
            yield

    def _tested(self, test: Command) -> bool:
        """Return the result of one test of [[ ]]."""
        kind: str = test[0]
        if kind == "not":
            return not self._tested(test[1])
        if kind in ("and", "or"):
            return self._tested(test[2]) if self._tested(test[1]) == (kind == "and") else kind == "or"
        left = self.flat(self._no_tilde(test[1]))
        if kind == "-v":
            if not is_name(left) or left in _OWN_VALUE:
                raise Unsupported("[[ -v")
            return left in self.values
        if kind in ("-n", "-z"):
            return (left == b"") == (kind == "-z")
        if kind in conditions.COMPARED:
            return conditions.compared(kind, left, self.flat(test[2]))
        return patterns.matches(self._pattern(test[2]), left, self.budget) == (kind != "!=")

    def _simple(self, assignments: list[tuple[bytes, Word]], words: list[Word]) -> bool:
        for name, value in assignments:
            self._assign(name, self._value(value))
        if not words:
            return True
        first = words[0]
        name = first[0][1] if len(first) == 1 and len(first[0]) == 2 and not first[0][0] else b""
        if name == b"export":
            self._export(words[1:])
        elif name == b"local":
            self._local(words[1:])
        elif name in self.functions:
            return self._call(self.functions[name], self._arguments(words[1:]))
        elif name in _BUILTINS:
            return self._builtin(name, words[1:])
        else:
            raise Unsupported(name.decode("utf-8", "replace") or "a command")
        return True

    def _builtin(self, name: bytes, words: list[Word]) -> bool:
        if name in (b":", b"true", b"false"):
            for word in words:
                self.flat(word)
            return name != b"false"
        if name == b"echo":
            for word in words:
                self.flat(word)
            self.silent = False
            return True
        fields = self._arguments(words)
        if name in (b"test", b"["):
            return conditions.holds(name, fields)
        if name == b"unset":
            self._unset(fields)
        elif name == b"eval":
            return self._eval(self._joined(fields, b" "))
        elif name == b"shift":
            if not self.locals or self.words is None or fields or not self.words:
                raise Unsupported("shift")
            del self.words[0]
        elif name == b"return":
            if len(fields) > 1 or (fields and not fields[0].isdigit()):
                raise Unsupported("return")
            raise _Leave(name, int(fields[0]) % 256 == 0 if fields else self.last)
        else:
            if fields or not self.loops:
                raise Unsupported(name.decode())
            raise _Leave(name)
        return True

    def _eval(self, text: bytes) -> bool:
        if self.calls >= _CALLS_MAX:
            raise Unsupported("deep nesting")
        self.calls += 1
        self.budget.spend(len(text) // _BYTES_PER_STEP)
        status = self.run(script(text))
        self.calls -= 1
        return status

    def _call(self, body: list[Command], fields: list[bytes]) -> bool:
        """Call a function of the script with the arguments `fields`. Returns whether it succeeded."""
        if self.calls >= _CALLS_MAX:
            raise Unsupported("deep nesting")
        outer = self.words, self.loops, self.calls
        self.calls += 1
        self.words, self.loops = fields, 0
        self.locals.append({})
        try:
            return self.run(body)
        except _Leave as error:
            if error.kind != b"return":
                raise
            return error.status
        finally:
            self.words, self.loops, self.calls = outer
            for name, before in self.locals.pop().items():
                self._forget(name)
                if before is not None:
                    self._assign(name, before)

    def _local(self, words: list[Word]) -> None:
        if self.words is None:
            raise Unsupported("local outside a function")
        pairs = [(split[0], self._value(split[1])) if split else (self.flat(word), None)
                 for word in words for split in [split_assignment(word)]]  # fmt: skip
        for name, value in pairs:
            if not is_name(name) or name in _OWN_VALUE or name in self.exported:
                raise Unsupported(f"local {name.decode('utf-8', 'replace')}")
            self.locals[-1].setdefault(name, self.values.get(name))
            self._forget(name)
            if value is not None:
                self._assign(name, value)

    def _positional(self) -> list[bytes]:
        if self.words is None:
            raise Unsupported("$1 outside a function")
        return self.words

    def _assign(self, name: bytes, value: bytes) -> None:
        if name in _NOT_ASSIGNED:
            raise Unsupported(f"{name.decode()}=")
        if len(value) > VALUE_MAX:
            raise Unsupported("a very long value")
        self.total += len(name) + len(value) - len(self.values.get(name, b""))
        if self.total > TOTAL_MAX:
            raise Unsupported("very many values")
        self.values[name] = value

    def _forget(self, name: bytes) -> None:
        self.total -= len(self.values.pop(name, b""))

    def _export(self, words: list[Word]) -> None:
        pairs: list[tuple[bytes, bytes | None]] = []
        for word in words:  # bash expands all words before it assigns the first
            split = split_assignment(word)
            if split:
                pairs.append((split[0], self._value(split[1])))
                continue
            if any(not part[0] and len(part) == 4 for part in word):
                raise Unsupported("export $A")
            name, equals, value = self.flat(word).partition(b"=")
            pairs.append((name, value if equals else None))
        for name, given in pairs:
            if not is_name(name) or name in _NOT_ASSIGNED or any(name in before for before in self.locals):
                raise Unsupported(f"export {name.decode('utf-8', 'replace')}")
            if given is not None:
                self._assign(name, given)
            self.exported.add(name)

    def _unset(self, names: list[bytes]) -> None:
        if names[:1] == [b"-f"]:
            for name in names[1:]:
                self.functions.pop(name, None)
            return
        if names[:1] == [b"-v"]:
            del names[0]
        for name in names:
            # dash keeps PATH and PS1 exported after unset. bash unsets the function if no variable has the name.
            own = name in _NOT_ASSIGNED or name in (b"PATH", b"PS1") or name in self.functions
            if not is_name(name) or own or self.locals:
                raise Unsupported(f"unset {name.decode('utf-8', 'replace')}")
            self._forget(name)
            self.exported.discard(name)

    def _variable(self, name: bytes, operator: str, operand: Word) -> bytes:
        if name.isdigit() and name != b"0":
            words = self._positional()
            value = words[int(name) - 1] if int(name) <= len(words) else None
        elif name == b"#" and not operator:
            value = b"%d" % len(self._positional())
        elif name == b"*" and not operator:
            value = self._joined(self._positional(), b" ")
        else:
            value = self.values.get(name)
            if value is None and (name in _OWN_VALUE or not is_name(name)):
                raise Unsupported("$" + name.decode())
        if not operator:
            return value or b""
        if operator in ("length", "#", "##", "%", "%%", "/", "//"):
            return self._of_pattern(value or b"", operator, operand)
        there = bool(value) if operator[0] == ":" else value is not None
        if operator[-1] == "+":
            return self.flat(operand) if there else b""
        if there:
            return value or b""
        used = self.flat(operand)
        if operator[-1] == "=":
            self._assign(name, used)
        return used

    def _of_pattern(self, value: bytes, operator: str, operand: Word) -> bytes:
        """Return the expansion of ${#A}, ${A#p}, ${A%p} and ${A/p/w}."""
        if operator == "length":
            if not value.isascii():
                raise Unsupported("the length of characters of several bytes")
            return b"%d" % len(value)
        if operator[0] != "/":
            return patterns.without(self._pattern(operand), value, operator, self.budget)
        (_, pattern), (_, new) = operand
        text = self.flat(new)
        if any(len(part) == 4 for part in new) and (b"&" in text or b"\\" in text):
            raise Unsupported("& in ${A/...}")
        return patterns.replaced(self._pattern(pattern), value, text, operator == "//", self.budget)

    def _pattern(self, word: Word) -> list[patterns.Item]:
        """Return the pattern that a word stands for. Unquoted values of variables are patterns too."""
        pieces, size = [], 0
        for part in self._no_tilde(word):
            pieces.append((part[0], part[1] if len(part) == 2 else self._variable(*part[1:])))
            size += len(pieces[-1][1])
            if size > VALUE_MAX:
                raise Unsupported("a very long pattern")
        return patterns.compiled(pieces)

    def _no_tilde(self, word: Word) -> Word:
        if any(not part[0] and len(part) == 2 and part[1].startswith(b"~") for part in word):
            raise Unsupported("~")
        return word

    def flat(self, word: Word) -> bytes:
        """Return the expanded text of a word, without splitting."""
        text = self._joined(part[1] if len(part) == 2 else self._variable(*part[1:]) for part in word)
        self.budget.spend(len(text) // _BYTES_PER_STEP)
        return text

    def _joined(self, parts: Iterable[bytes], between: bytes = b"") -> bytes:
        """The parts as one text; what is too long is never made."""
        found, size = [], 0
        for part in parts:
            found.append(part)
            size += len(part) + len(between)
            if size > VALUE_MAX + len(between):
                raise Unsupported("a very long value")
        return between.join(found)

    def _value(self, word: Word) -> bytes:
        """Return the right side of an assignment: not split; a tilde at its start or after a colon becomes HOME."""
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

    def _arguments(self, words: list[Word]) -> list[bytes]:
        """What the words of a command or of a loop become, TOTAL_MAX bytes at most."""
        found: list[bytes] = []
        size = 0
        for word in words:
            fields = self._fields(word)
            size += sum(map(len, fields))
            if size > TOTAL_MAX:
                raise Unsupported("very long arguments")
            found += fields
        return found

    def _fields(self, word: Word) -> list[bytes]:
        """Return the arguments that a word expands to. Raises Unsupported if a shell would split it or match files."""
        if word == [(True, b""), (True, b"@", "", [])]:
            return list(self._positional())
        quoted = False
        for part in word:
            if part[0]:
                quoted = True
            elif len(part) == 4:
                if part[1] == b"*":
                    raise Unsupported("$* without quotes")
                value = self._variable(*part[1:])
                if any(c in _SPLITS for c in value) or (not value and part[3]):
                    raise Unsupported("a value without quotes")
            elif part[1].startswith(b"~") or any(c in b"*?[{" for c in part[1]):
                raise Unsupported("a pattern of file names")
        text = self.flat(word)
        return [text] if text or quoted else []
