# SPDX-License-Identifier: BSD-3-Clause
"""Parse a script that sets an image's environment into a tree. interpreter.py lists the part of bash that is known.

command    ("simple", [(name, word)], [word]) | ("if", [(list, list)], list) | ("group", list)
           | ("and", command, command) | ("or", command, command) | ("not", command)
           | ("case", word, [([word], list)]) | ("for", name, [word] or None, list) | ("while", list, list, sought)
           | ("function", name, list) | ("test", test)
test       ("and" or "or", test, test) | ("not", test) | (operator, word) | (operator, word, word)
"""

from __future__ import annotations

from bollard.runtime.shell.words import END, WORD_END, Reader, Unsupported, is_name, split_assignment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bollard.runtime.shell.words import Word

    Command = tuple[Any, ...]

_RESERVED = frozenset((b"select", b"coproc", b"time"))
_CLOSING = frozenset((b"then", b"elif", b"else", b"fi", b"}", b"do", b"done", b"esac"))
_UNARY = frozenset((b"-n", b"-z", b"-v"))
_BINARY = frozenset((b"=", b"==", b"!=", b"-eq", b"-ne", b"-lt", b"-le", b"-gt", b"-ge"))


def script(text: bytes) -> list[Command]:
    """Return the commands of a whole file.

    Raises:
        Unsupported: a part of the file is outside the known part of bash.
    """
    if b"\0" in text:
        raise Unsupported("a NUL byte")
    parser = Parser(text.replace(b"\r\n", b"\n"))  # as in Apptainer
    commands = parser.commands()
    if parser.peek() != END:
        raise Unsupported("an unpaired word")
    return commands


class Parser(Reader):
    """Parses commands."""

    def commands(self) -> list[Command]:
        """Return the commands up to the end of the text, or up to a word that closes a compound command."""
        self.deeper()
        found: list[Command] = []
        self.skip_lines()
        while self.peek() != END and self.coming() not in _CLOSING and not self.text.startswith(b";;", self.at):
            found.append(self._chain())
            self.skip_blanks()
            if self.text.startswith(b";;", self.at):
                break
            if self.peek() == 59:  # ";"
                self.at += 1
                self.skip_blanks()
                if self.peek() == 59:
                    raise Unsupported("; ;")
            elif self.peek() not in (10, END):
                raise Unsupported(f"{self.text[self.at : self.at + 1]!r} after a command")
            self.skip_lines()
        self.depth -= 1
        return found

    def _chain(self) -> Command:
        """Parse a && b || c, from left to right."""
        left = self._negated()
        while True:
            self.skip_blanks()
            mark = self.text[self.at : self.at + 2]
            if mark not in (b"&&", b"||"):
                return left
            self.at += 2
            self.skip_lines()
            left = ("and" if mark == b"&&" else "or", left, self._negated())

    def _negated(self) -> Command:
        if self.coming() != b"!":
            return self._command()
        self.at += 1
        self.skip_blanks()
        if self.coming() == b"!":
            raise Unsupported("! !")
        return ("not", self._command())

    def _take(self, word: bytes) -> None:
        if self.coming() != word:
            raise Unsupported(f"no {word.decode()}")
        self.at += len(word)

    def _body(self) -> list[Command]:
        body = self.commands()
        if not body:
            raise Unsupported("an empty list of commands")
        return body

    def _command(self) -> Command:
        word = self.coming()
        if word in _RESERVED or word in _CLOSING:
            raise Unsupported(word.decode())
        if word == b"if":
            return self._if()
        if word == b"{":
            return ("group", self._braced())
        if word == b"case":
            return self._case()
        if word == b"for":
            return self._for()
        if word in (b"while", b"until"):
            self._take(word)
            condition = self._body()
            return ("while", condition, self._do(), word == b"while")
        if word == b"[[":
            self._take(word)
            test = self._tests()
            self._take(b"]]")
            return ("test", test)
        if word == b"function" or (
            is_name(word) and self.text[self.at + len(word) : self.at + len(word) + 9].lstrip(b" \t")[:1] == b"("
        ):
            return self._function(word)
        return self._simple()

    def _braced(self) -> list[Command]:
        self._take(b"{")
        body = self._body()
        self._take(b"}")
        return body

    def _do(self) -> list[Command]:
        self._take(b"do")
        body = self._body()
        self._take(b"done")
        return body

    def _function(self, name: bytes) -> Command:
        """Parse name() { ...; } and function name { ...; }."""
        self._take(name)
        if name == b"function":
            self.skip_blanks()
            name = self.coming()
            self._take(name)
        if not is_name(name):
            raise Unsupported("the name of a function")
        self.skip_blanks()
        if self.peek() == 40:
            self.at += 1
            self.skip_blanks()
            if self.peek() != 41:
                raise Unsupported("words after (")
            self.at += 1
        self.skip_lines()
        return ("function", name, self._braced())

    def _case(self) -> Command:
        self._take(b"case")
        self.skip_blanks()
        subject = self.word()
        self.skip_lines()
        self._take(b"in")
        self.skip_lines()
        branches = []
        while self.coming() != b"esac":
            if self.peek() == 40:
                self.at += 1
            patterns = [self._pattern()]
            while self.peek() == 124:
                self.at += 1
                patterns.append(self._pattern())
            if self.peek() != 41:
                raise Unsupported("this pattern of case")
            self.at += 1
            branches.append((patterns, self.commands()))
            if self.text.startswith(b";;", self.at) and self.peek(2) != 38:
                self.at += 2
            elif self.coming() != b"esac":
                raise Unsupported("the end of a branch of case")
            self.skip_lines()
        self._take(b"esac")
        if not subject:
            raise Unsupported("case of nothing")
        return ("case", subject, branches)

    def _pattern(self) -> Word:
        self.skip_blanks()
        word = self.word()
        self.skip_blanks()
        if not word:
            raise Unsupported("an empty pattern")
        return word

    def _for(self) -> Command:
        self._take(b"for")
        self.skip_blanks()
        name = self.coming()
        if not is_name(name):
            raise Unsupported("this form of for")
        self._take(name)
        self.skip_blanks()
        words: list[Word] | None = None
        if self.coming() == b"in":
            self._take(b"in")
            words = []
            self.skip_blanks()
            while self.peek() not in WORD_END and self.peek() != END:
                words.append(self.word())
                self.skip_blanks()
        if self.peek() == 59:
            self.at += 1
        self.skip_lines()
        return ("for", name, words, self._do())

    def _tests(self) -> Command:
        """Parse a && b || c inside [[ ]], where && has precedence."""
        self.deeper()
        left = self._tests_and()
        while self.text.startswith(b"||", self.at):
            self.at += 2
            left = ("or", left, self._tests_and())
        self.depth -= 1
        return left

    def _tests_and(self) -> Command:
        left = self._one_test()
        while self.text.startswith(b"&&", self.at):
            self.at += 2
            left = ("and", left, self._one_test())
        return left

    def _one_test(self) -> Command:
        self.skip_lines()
        word = self.coming()
        if word == b"!":
            self._take(word)
            self.deeper()
            test: Command = ("not", self._one_test())
            self.depth -= 1
            return test
        if self.peek() == 40:
            self.at += 1
            test = self._tests()
            if self.peek() != 41:
                raise Unsupported("an open ( in [[")
            self.at += 1
        elif word in _UNARY:
            self._take(word)
            test = (word.decode(), self._pattern())
        else:
            if len(word) == 2 and word.startswith(b"-") and word[1:].isalpha():
                raise Unsupported(f"[[ {word.decode('latin-1')}")
            left = self._pattern()
            operator = self.coming()
            if operator in _BINARY:
                self._take(operator)
                test = (operator.decode(), left, self._pattern())
            elif operator == b"]]" or self.text[self.at : self.at + 2] in (b"&&", b"||") or self.peek() == 41:
                test = ("-n", left)
            else:
                raise Unsupported("this test in [[")
        self.skip_lines()
        return test

    def _if(self) -> Command:
        branches = []
        word = b"if"
        otherwise: list[Command] = []
        while word in (b"if", b"elif"):
            self._take(word)
            condition = self._body()
            self._take(b"then")
            branches.append((condition, self._body()))
            word = self.coming()
        if word == b"else":
            self._take(word)
            otherwise = self._body()
        self._take(b"fi")
        return ("if", branches, otherwise)

    def _simple(self) -> Command:
        assignments: list[tuple[bytes, Word]] = []
        words: list[Word] = []
        while True:
            self.skip_blanks()
            if self.peek() in WORD_END or self.peek() == END:
                break
            word = self.word()
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
