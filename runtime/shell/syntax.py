# SPDX-License-Identifier: BSD-3-Clause
"""Read a script that sets an image's environment into a tree; `shellenv` says which part of sh that is.

word       list of parts: (quoted, text) or (quoted, name, operator, word); operator "" for $A and ${A}
command    ("simple", [(name, word)], [word]) | ("if", [(list, list)], list) | ("group", list)
           | ("and", command, command) | ("or", command, command) | ("not", command)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Part = tuple[Any, ...]
    Word = list[Part]
    Command = tuple[Any, ...]

_END = -1
_DEPTH_MAX = 40

_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME = _LETTERS | frozenset(b"0123456789")
_BLANK = frozenset(b" \t")
_ANY_QUOTE = frozenset(b"\"'\\")
_WORD_END = frozenset(b" \t\n;&|<>()")


def _stops(characters: bytes) -> bytes:
    """A table for bytes.translate that turns `characters` into 1 and all others into 0."""
    return bytes(c in characters for c in range(256))


# What ends a stretch of plain text: outside quotes, between double quotes, in the operand of ${A:-...}.
_PLAIN = _stops(b" \t\n;&|<>()'\"\\$`")
_QUOTED = _stops(b'"\\$`')
_OPERAND = _stops(b"'\"\\$`}~")
_QUOTED_OPERAND = _stops(b'"\\$`}')

_RESERVED = frozenset((b"case", b"do", b"done", b"esac", b"for", b"function", b"in", b"select", b"until", b"while"))
_CLOSING = frozenset((b"then", b"elif", b"else", b"fi", b"}"))


class Unsupported(Exception):
    """The script needs a real shell; the text says for what."""


def is_name(text: bytes) -> bool:
    """Whether it is a variable's name in the sense of a shell."""
    return bool(text) and text[0] in _LETTERS and _NAME.issuperset(text)


def script(text: bytes) -> list[Command]:
    """The commands of a whole file; `Unsupported` where any of it is outside the subset."""
    if b"\0" in text:
        raise Unsupported("a NUL byte")
    parser = Parser(text.replace(b"\r\n", b"\n"))  # as Apptainer reads it
    commands = parser.commands()
    if parser.peek() != _END:
        raise Unsupported("an unpaired word")
    return commands


def quoted(text: bytes) -> Word:
    """`text` as it reads between double quotes, where its own double quotes are plain characters."""
    parser = Parser(text.replace(b'"', b'\\"') + b'"')
    parts: Word = []
    parser.double_quoted(parts)
    if parser.at != len(parser.text):
        raise Unsupported("a double quote")
    return parts


class Parser:
    """Reads `text` from `at` on."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.braces = 0  # how many operands of ${A:-...} are open
        self.stops: dict[bytes, bytes] = {}

    def _stretch(self, table: bytes) -> int:
        """Where the plain text that begins here ends."""
        stops = self.stops.get(table)
        if stops is None:
            stops = self.stops[table] = self.text.translate(table)
        end = stops.find(b"\1", self.at)
        return len(self.text) if end < 0 else end

    def peek(self, ahead: int = 0) -> int:
        at = self.at + ahead
        return self.text[at] if at < len(self.text) else _END

    def _skip_blanks(self) -> None:
        while True:
            if self.peek() in _BLANK:
                self.at += 1
            elif self.text.startswith(b"\\\n", self.at):
                self.at += 2
            elif self.peek() == 35:  # "#"
                end = self.text.find(b"\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def _skip_lines(self) -> None:
        self._skip_blanks()
        while self.peek() == 10:
            self.at += 1
            self._skip_blanks()

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise Unsupported("deep nesting")

    def _coming(self) -> bytes:
        """The plain word that comes next, not taken; b"" for anything else."""
        end = self._stretch(_PLAIN)
        follows = self.text[end] if end < len(self.text) else 10
        return self.text[self.at : end] if follows in _WORD_END else b""

    def commands(self) -> list[Command]:
        """Commands up to the end, or to a word that closes a compound one."""
        self._deeper()
        found: list[Command] = []
        self._skip_lines()
        while self.peek() != _END and self._coming() not in _CLOSING:
            found.append(self._chain())
            self._skip_blanks()
            if self.peek() == 59:  # ";"
                self.at += 1
                self._skip_blanks()
                if self.peek() == 59:
                    raise Unsupported(";;")
            elif self.peek() not in (10, _END):
                raise Unsupported(f"{self.text[self.at : self.at + 1]!r} after a command")
            self._skip_lines()
        self.depth -= 1
        return found

    def _chain(self) -> Command:
        """a && b || c, from left to right."""
        left = self._negated()
        while True:
            self._skip_blanks()
            mark = self.text[self.at : self.at + 2]
            if mark not in (b"&&", b"||"):
                return left
            self.at += 2
            self._skip_lines()
            left = ("and" if mark == b"&&" else "or", left, self._negated())

    def _negated(self) -> Command:
        if self._coming() != b"!":
            return self._command()
        self.at += 1
        self._skip_blanks()
        if self._coming() == b"!":
            raise Unsupported("! !")
        return ("not", self._command())

    def _take(self, word: bytes) -> None:
        if self._coming() != word:
            raise Unsupported(f"no {word.decode()}")
        self.at += len(word)

    def _body(self) -> list[Command]:
        body = self.commands()
        if not body:
            raise Unsupported("an empty list of commands")
        return body

    def _command(self) -> Command:
        word = self._coming()
        if word in _RESERVED or word in _CLOSING:
            raise Unsupported(word.decode())
        if word == b"if":
            return self._if()
        if word == b"{":
            self.at += 1
            body = self._body()
            self._take(b"}")
            return ("group", body)
        return self._simple()

    def _if(self) -> Command:
        branches = []
        word = b"if"
        otherwise: list[Command] = []
        while word in (b"if", b"elif"):
            self._take(word)
            condition = self._body()
            self._take(b"then")
            branches.append((condition, self._body()))
            word = self._coming()
        if word == b"else":
            self._take(word)
            otherwise = self._body()
        self._take(b"fi")
        return ("if", branches, otherwise)

    def _simple(self) -> Command:
        assignments: list[tuple[bytes, Word]] = []
        words: list[Word] = []
        while True:
            self._skip_blanks()
            if self.peek() in _WORD_END or self.peek() == _END:
                break
            word = self._word()
            split = None if words else split_assignment(word)
            if split:
                assignments.append(split)
            else:
                words.append(word)
        if not words and not assignments:
            raise Unsupported(f"{self.text[self.at : self.at + 1]!r} where a command should be")
        if words and assignments:
            raise Unsupported("an assignment for one command")
        return ("simple", assignments, words)

    def _word(self) -> Word:
        parts: Word = []
        while True:
            start, self.at = self.at, self._stretch(_PLAIN)
            if self.at > start:
                parts.append((False, self.text[start : self.at]))
            if self.peek() in _WORD_END or self.peek() == _END:
                return parts
            self._special(parts)

    def _special(self, parts: Word) -> None:
        """A quote, backslash or dollar outside double quotes."""
        c = self.peek()
        self.at += 1
        if c == 39:  # '
            end = self.text.find(b"'", self.at)
            if end < 0:
                raise Unsupported("a quote without its end")
            parts.append((True, self.text[self.at : end]))
            self.at = end + 1
        elif c == 34:  # "
            self.double_quoted(parts)
        elif c == 92:  # backslash
            if self.peek() == _END:
                raise Unsupported("a backslash at the end")
            if self.peek() != 10:
                parts.append((True, self.text[self.at : self.at + 1]))
            self.at += 1
        elif c == 36:
            self._dollar(parts, False)
        else:
            raise Unsupported("a command in backquotes")

    def double_quoted(self, parts: Word) -> None:
        """Up to and with the closing quote."""
        parts.append((True, b""))
        while True:
            start, self.at = self.at, self._stretch(_QUOTED)
            if self.at > start:
                parts.append((True, self.text[start : self.at]))
            c = self.peek()
            self.at += 1
            if c == 34:
                return
            if c == _END:
                raise Unsupported("a quote without its end")
            if c == 92:
                if self.braces and self.peek() == 125:  # shells disagree
                    raise Unsupported("\\} between quotes in braces")
                self._escaped(parts, b'$`"\\')
            elif c == 36:
                self._dollar(parts, True)
            else:
                raise Unsupported("a command in backquotes")

    def _escaped(self, parts: Word, special: bytes) -> None:
        """After a backslash between double quotes."""
        c = self.peek()
        if c == _END:
            raise Unsupported("a backslash at the end")
        self.at += 1
        if c == 10:
            return
        parts.append((True, bytes((c,)) if c in special else bytes((92, c))))

    def _dollar(self, parts: Word, quoted: bool) -> None:
        """After a dollar."""
        c = self.peek()
        if c in _LETTERS:
            parts.append((quoted, self._name(), "", []))
        elif c == 123:
            self.at += 1
            parts.append(self._braces(quoted))
        elif c != _END and c in b"0123456789@*#?$!-":
            self.at += 1
            parts.append((quoted, bytes((c,)), "", []))  # an error only where it is asked for
        elif c in (40, 91, 92) or (c in (34, 39) and not quoted):
            raise Unsupported(f"${chr(c)}")
        else:
            parts.append((True, b"$"))

    def _name(self) -> bytes:
        start = self.at
        while self.peek() in _NAME:
            self.at += 1
        if self.text.startswith(b"\\\n", self.at):
            raise Unsupported("a name over two lines")
        return self.text[start : self.at]

    def _braces(self, quoted: bool) -> Part:
        """After "${"."""
        self._deeper()
        if self.peek() not in _LETTERS:
            raise Unsupported(f"${{{chr(max(self.peek(), 32))}")
        name = self._name()
        operator, operand = "", []
        if self.peek() != 125:
            length = 2 if self.peek() == 58 else 1
            operator = self.text[self.at : self.at + length].decode("latin-1")
            if operator not in ("-", "+", "=", ":-", ":+", ":="):
                raise Unsupported(f"${{{name.decode()}{operator}")
            self.at += length
            start, nested = self.at, self.braces
            self.braces += 1
            operand = self._operand(quoted)
            self.braces -= 1
            plain = _ANY_QUOTE.isdisjoint(self.text[start : self.at])
            if operator[-1] == "=" and quoted and (nested or not plain):  # shells disagree
                raise Unsupported("quotes in a quoted ${A:=...}")
        self.at += 1
        self.depth -= 1
        return (quoted, name, operator, operand)

    def _operand(self, quoted: bool) -> Word:
        """Up to the closing brace, which is left."""
        parts: Word = []
        table = _QUOTED_OPERAND if quoted else _OPERAND
        while True:
            start, self.at = self.at, self._stretch(table)
            if self.at > start:
                parts.append((quoted, self.text[start : self.at]))
            c = self.peek()
            if c == _END:
                raise Unsupported("a brace without its end")
            if c == 125:
                return parts
            if c == 126:
                raise Unsupported("a tilde in braces")
            if not quoted:
                self._special(parts)
                continue
            self.at += 1
            if c == 34:
                self.double_quoted(parts)
            elif c == 92:
                self._escaped(parts, b'$`"\\}')
            elif c == 36:
                if self.peek() in (34, 39):
                    raise Unsupported("$ before a quote")
                self._dollar(parts, True)
            else:
                raise Unsupported("a command in backquotes")


def split_assignment(word: Word) -> tuple[bytes, Word] | None:
    """(name, value) of a word that is NAME=value with nothing of "NAME=" quoted."""
    if not word or len(word[0]) != 2 or word[0][0]:
        return None
    name, equals, rest = word[0][1].partition(b"=")
    if not equals or not is_name(name):
        return None
    return name, ([(False, rest), *word[1:]] if rest else word[1:])
