# SPDX-License-Identifier: BSD-3-Clause
"""Parse the words of a shell script: quotes, variables and their operators.

word       a list of parts: (quoted, text) or (quoted, name, operator, word). The operator is "" for $A and ${A}, and
           "length" for ${#A}. For ${A/x/y} the inner word is [("pattern", word), ("new", word)].
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Part = tuple[Any, ...]
    Word = list[Part]

END = -1
_DEPTH_MAX = 40

_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME = _LETTERS | frozenset(b"0123456789")
_DIGITS = frozenset(b"123456789")
_ANCHORS = frozenset(b"#%/")
_BLANK = frozenset(b" \t")
_QUOTES = frozenset(b"\"'")
_ANY_QUOTE = frozenset(b"\"'\\")
WORD_END = frozenset(b" \t\n;&|<>()")


def _stops(characters: bytes) -> bytes:
    """Return a table for bytes.translate that maps `characters` to 1 and all other bytes to 0."""
    return bytes(c in characters for c in range(256))


# The characters that end plain text: outside quotes, between double quotes, and in the operand of ${A:-...}.
PLAIN = _stops(b" \t\n;&|<>()'\"\\$`")
_QUOTED = _stops(b'"\\$`')
_OPERAND = _stops(b"'\"\\$`}~")
_REPLACED = _stops(b"'\"\\$`}~/")
_QUOTED_OPERAND = _stops(b'"\\$`}')


class Unsupported(Exception):
    """The script needs a real shell. The text of the exception names the part that needs it."""


def is_name(text: bytes) -> bool:
    """Return whether `text` can be the name of a shell variable."""
    return bool(text) and text[0] in _LETTERS and _NAME.issuperset(text)


def quoted(text: bytes) -> Word:
    """Return `text` parsed as if it were between double quotes. Double quotes in it are plain characters.

    Raises:
        Unsupported: the text needs a real shell, for example for a command substitution.
    """
    reader = Reader(text.replace(b'"', b'\\"') + b'"')
    parts: Word = []
    reader.double_quoted(parts)
    if reader.at != len(reader.text):
        raise Unsupported("a double quote")
    return parts


class Reader:
    """Parses words of `text`. `at` is the index of the next byte."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.braces = 0  # how many operands of ${A:-...} are open
        self.stops: dict[bytes, bytes] = {}

    def _stretch(self, table: bytes) -> int:
        """Return the index where the plain text at `at` ends."""
        stops = self.stops.get(table)
        if stops is None:
            stops = self.stops[table] = self.text.translate(table)
        end = stops.find(b"\1", self.at)
        return len(self.text) if end < 0 else end

    def peek(self, ahead: int = 0) -> int:
        """Return the next byte, or the one `ahead` bytes later; END after the end. Takes nothing."""
        at = self.at + ahead
        return self.text[at] if at < len(self.text) else END

    def skip_blanks(self) -> None:
        """Skip blanks, a comment, and line breaks after a backslash."""
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

    def skip_lines(self) -> None:
        """Skip blanks, comments and line breaks."""
        self.skip_blanks()
        while self.peek() == 10:
            self.at += 1
            self.skip_blanks()

    def deeper(self) -> None:
        """Count one more level of nesting.

        Raises:
            Unsupported: the nesting is deeper than _DEPTH_MAX.
        """
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise Unsupported("deep nesting")

    def coming(self) -> bytes:
        """Return the next word if it is plain, else b"". Takes nothing."""
        end = self._stretch(PLAIN)
        follows = self.text[end] if end < len(self.text) else 10
        return self.text[self.at : end] if follows in WORD_END else b""

    def word(self) -> Word:
        """Take and return the next word; [] if a separator comes first."""
        parts: Word = []
        while True:
            start, self.at = self.at, self._stretch(PLAIN)
            if self.at > start:
                parts.append((False, self.text[start : self.at]))
            if self.peek() in WORD_END or self.peek() == END:
                return parts
            self._special(parts)

    def _special(self, parts: Word) -> None:
        """Parse a quote, backslash or dollar outside double quotes."""
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
            if self.peek() == END:
                raise Unsupported("a backslash at the end")
            if self.peek() != 10:
                parts.append((True, self.text[self.at : self.at + 1]))
            self.at += 1
        elif c == 36:
            self._dollar(parts, False)
        else:
            raise Unsupported("a command in backquotes")

    def double_quoted(self, parts: Word) -> None:
        """Parse up to the closing double quote, which is taken too. Appends to `parts`."""
        parts.append((True, b""))
        while True:
            start, self.at = self.at, self._stretch(_QUOTED)
            if self.at > start:
                parts.append((True, self.text[start : self.at]))
            c = self.peek()
            self.at += 1
            if c == 34:
                return
            if c == END:
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
        """Parse the character after a backslash between double quotes."""
        c = self.peek()
        if c == END:
            raise Unsupported("a backslash at the end")
        self.at += 1
        if c == 10:
            return
        parts.append((True, bytes((c,)) if c in special else bytes((92, c))))

    def _dollar(self, parts: Word, quoted: bool) -> None:
        """Parse what follows a dollar sign."""
        c = self.peek()
        if c in _LETTERS:
            parts.append((quoted, self._name(), "", []))
        elif c == 123:
            self.at += 1
            parts.append(self._braces(quoted))
        elif c != END and c in b"0123456789@*#?$!-":
            self.at += 1
            parts.append((quoted, bytes((c,)), "", []))  # the interpreter raises when it needs an unknown value
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
        """Parse what follows "${"."""
        self.deeper()
        if self.peek() == 35 and self.peek(1) in _LETTERS:
            self.at += 1
            name = self._name()
            if self.peek() != 125:
                raise Unsupported("${#")
            self.at += 1
            self.depth -= 1
            return (quoted, name, "length", [])
        if self.peek() not in _LETTERS and self.peek() not in _DIGITS:
            raise Unsupported(f"${{{chr(max(self.peek(), 32))}")
        name = self._name() if self.peek() in _LETTERS else self.text[self.at : self.at + 1]
        self.at += len(name) if name.isdigit() else 0
        operator, operand = "", []
        if self.peek() != 125:
            length = 2 if self.text[self.at : self.at + 2] in (b":-", b":+", b":=", b"##", b"%%", b"//") else 1
            operator = self.text[self.at : self.at + length].decode("latin-1")
            self.at += length
            if operator in ("#", "##", "%", "%%", "/", "//"):
                operand = self._of_pattern(quoted, operator)
                self.at += 1
                self.depth -= 1
                return (quoted, name, operator, operand)
            if operator not in ("-", "+", "=", ":-", ":+", ":="):
                raise Unsupported(f"${{{name.decode()}{operator}")
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

    def _of_pattern(self, quoted: bool, operator: str) -> Word:
        """Parse the operand of ${A#...}, ${A%...} or ${A/.../...}.

        Raises for quotes in it inside quotes: shells disagree on these.
        """
        start, end = self.at, self.at
        if operator[0] != "/":
            operand = self._operand(False)
            end = self.at
        else:
            if self.peek() in _ANCHORS:
                raise Unsupported("${A/#")
            pattern, new = self._operand(False, _REPLACED), []
            end = self.at
            if self.peek() == 47:
                self.at += 1
                new = self._operand(False)
            if any(len(part) == 2 and b"&" in part[1] for part in new):  # & is the matched text since bash 5.2
                raise Unsupported("& in ${A/...}")
            operand = [("pattern", pattern), ("new", new)]
        if quoted and not (
            _QUOTES.isdisjoint(self.text[start:end]) and _ANY_QUOTE.isdisjoint(self.text[end : self.at])
        ):
            raise Unsupported("quotes in a quoted ${A#...}")
        return operand

    def _operand(self, quoted: bool, table: bytes = b"") -> Word:
        """Parse up to the closing brace, and leave the brace. With the table _REPLACED a slash ends the operand too."""
        parts: Word = []
        table = table or (_QUOTED_OPERAND if quoted else _OPERAND)
        while True:
            start, self.at = self.at, self._stretch(table)
            if self.at > start:
                parts.append((quoted, self.text[start : self.at]))
            c = self.peek()
            if c == END:
                raise Unsupported("a brace without its end")
            if c == 125 or (c == 47 and table is _REPLACED):
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
    """Return (name, value) of a word NAME=value or NAME+=value, else None. NAME and = must not be quoted."""
    if not word or len(word[0]) != 2 or word[0][0]:
        return None
    name, equals, rest = word[0][1].partition(b"=")
    before: Word = [(True, name[:-1], "", [])] if name.endswith(b"+") else []
    name = name[:-1] if before else name
    if not equals or not is_name(name):
        return None
    return name, [*before, *([(False, rest)] if rest else []), *word[1:]]
