# SPDX-License-Identifier: BSD-3-Clause
"""The evaluator of environment scripts: for every script either what /bin/sh does, or Unsupported."""

from __future__ import annotations

import contextlib
import random
import runpy
import subprocess
from pathlib import Path

import pytest

from bollard.runtime.shell.interpreter import VALUE_MAX, evaluate, expand
from bollard.runtime.shell.words import Unsupported, is_name

START = {b"HOME": b"/home/u", b"PATH": b"/usr/bin:/bin"}
SHELL_OWN = (b"PWD", b"OLDPWD", b"SHLVL", b"_")


def ours(script: bytes) -> dict[bytes, bytes]:
    """The exported variables after `script`."""
    values, exported = dict(START), set(START)
    evaluate(script, values, exported)
    return {name: values[name] for name in exported if name in values}


def theirs(script: bytes, folder, shell: str = "/bin/sh") -> dict[bytes, bytes]:
    """The same, from the machine's own /bin/sh, or bash."""
    path = folder / "script.sh"
    path.write_bytes(script)
    done = subprocess.run(
        [shell, "-c", 'unset PS1\n. "$0" >/dev/null\nexec /bin/cat /proc/self/environ', str(path)],
        env={name.decode(): value.decode() for name, value in START.items()},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    pairs = [entry.partition(b"=") for entry in done.stdout.split(b"\0") if entry]
    return {name: value for name, _, value in pairs if name not in SHELL_OWN}


SCRIPTS = [
    # assignment and export
    "",
    "#!/bin/sh\n# nothing but words of comment\n",
    "A=1; export A",
    "export A=1 B=2\nexport C",
    "A=1\nB=2\nexport A B",
    "export A; A=late",
    "A=1; export B=$A",
    "B=old; export B=new C=$B",
    "A=kept",
    'export "A=b c"',
    "export A=1;export B=2 # c",
    "export A=a#b #c",
    "export A=\nexport B=''",
    # quotes
    "export A='a  b' B=\"a  b\" C=a\\ \\ b",
    """export A="it's" B='say "x"' C="say \\"x\\"" """,
    "export A='$HOME' B=\"\\$HOME\" C=\\$HOME",
    'export A="a\\qb" B="a\\\\b" C="a\\`b"',
    "export A=\"a\nb\"\nexport B='c\n\nd'",
    'export A="a\\\nb" B=c\\\nd',
    "export A=a\"b\"'c'd",
    "export A=caf\u00e9",
    "export A={x,y} B=}x{",
    # variables
    "export A=$HOME/x B=${HOME}x C=$NONE",
    'export PATH="/opt/x/bin:$PATH"',
    "export PATH=/opt/a\\ b/bin:$PATH",
    'export A="$" B="a$" C="$ x" D="$%"',
    'export A="${NONE:-b c}" B=${NONE:-"b c"} C=${NONE-x}',
    'E=; export A="${E:-x}" B="${E-x}" C="${E:+x}" D="${E+x}"',
    'export A="${HOME:+$HOME:}/x" B=${HOME:+"a b"}',
    'export A="${NONE:-"quoted \\"x\\" \\\\ \\$HOME"}"',
    'export LANG="${LANG:-"C.UTF-8"}" Q="${Q:-"it\'s"}" S="${S:-\'x\'}"',
    'export A="${NONE:-${ALSO:-${HOME}}}" B="${NONE:-\\}}" C="${NONE:-a}b}"',
    'export NL="${NL:-"a\\nb"}"',
    ': "${A:=x y}"; export A; : ${B=z}; export B',
    "export A=${NONE:-a;b&c}",
    # the home
    "export A=~ B=~/x C=/y:~/x D=x~ E='~' F=\"~/x\"",
    # unset
    "export A=1 B=2; unset A",
    "export A=1; unset -v A NONE; A=2",
    # conditions
    'if [ -n "$HOME" ]; then export A=yes; else export A=no; fi',
    'if [ -z "${NONE:-}" ]\nthen\n  export A=yes\nfi',
    'if test "$HOME" = /home/u; then export A=1; elif true; then export A=2; fi',
    'if [ "$HOME" != /home/u ]; then export A=1; elif [ ! -n "" ]; then export A=2; else export A=3; fi',
    'if [ "x$NONE" = "x" ] && [ -n "$PATH" ]; then export A=1; fi',
    '[ -n "$NONE" ] || export A=1; [ -n "$NONE" ] && export B=1',
    "false || true && export A=1",
    'if ! [ "$HOME" ]; then export A=1; else export A=2; fi',
    '{ export A=1; true; } && { export B="2"; }',
    "if true; then if false; then export A=1; else export A=2; fi; fi",
    "if [ $NONE ]; then export A=1; fi; if [ x$NONE = x ]; then export B=1; fi",
    "if false; then . /no/such/file; exit 1; case_not_reached $@; fi; export A=1",
    'if test -n "${NAME:-}"; then echo "no $NAME" "$@"; exit 3; fi',
    "if test -z a; then :; fi",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_does_what_the_shell_does(script, tmp_path):
    text = script.encode()

    assert ours(text) == theirs(text, tmp_path)


# The test fails where the interpreter does not know one of these.
BASH = [
    # conditions
    "[[ -n $HOME && -z $NONE ]] && export A=1; [[ -n $NONE || $HOME ]] && export B=1; [[ ! $NONE ]] && export C=1",
    "[[ ( a == b || a == a ) && c = c ]] && export A=1; [[ a == b || a == a && b == a ]] || export B=1",
    '[[ $HOME == /* ]] && export A=1; [[ "$HOME" == "/*" ]] || export B=1; [[ a != b ]] && export C=1',
    "[[ abc = a?c && abc == [a-c]b* && abc != [!a]* ]] && export A=1; X='a*'; [[ abc == $X ]] && export B=1",
    "X='a*'; [[ abc == \"$X\" ]] || export A=1; [[ 'a b' == a\\ b ]] && export B=1",
    "[[ -v HOME ]] && export A=1; [[ -v NONE ]] || export B=1; [[ 10 -gt 9 && -1 -le 0 ]] && export C=1",
    "[[ a == b\n|| a == a ]] && export A=1\nif [[ $HOME == */u ]]\nthen export B=1; fi",
    "[ 1 -eq 1 ] && export A=1; [ 2 -lt 10 ] && export B=1; [ a == a ] && export C=1",
    # case
    'case ":$PATH:" in *:/bin:*) export A=1 ;; *) export B=1 ;; esac',
    "case abc in a) export A=1;; x|a*) export A=2;; *) export A=3; esac",
    "case x in (x) export A=1 ;; esac\ncase '' in '') export B=1;; esac\ncase a in b) ;; esac",
    "case a.b in *.b)\n export A=1\n true ;;\nesac; case '*' in \\*) export B=1;; esac",
    "case x in [!a-w]) export C=1; esac",
    # loops
    "for i in 1 2 '3 4'; do A=$A$i; done; export A; export I=$i",
    "for i in 1 2 3 4; do [ $i = 2 ] && continue; [ $i = 4 ] && break; A=$A$i; done; export A",
    "for i in a b; do for j in 1 2; do [ $j = 2 ] && break; A=$A$i$j; done; done; export A",
    "i=; while [ x$i != xaaa ]; do i=a$i; done; until [[ $i == aaaaa ]]; do i+=a; done; export I=$i",
    "for i in; do export A=1; done; for d in /a /b; do PATH=$d:$PATH; done; export PATH",
    "for i in $NONE x; do A+=$i; done; export A",
    # functions
    'f() { export A=$1 N=$# ALL="$*"; }; f x "y z"; unset -f f',
    "function f { B=$1; }\nfunction g () {\n  f g$1\n}\ng 1; export B",
    "f() { local a=1 b; a=$a$a; export B=$a; }; f; export C=${a:-none}; a=out; f; export D=$a",
    "f() { local a=$1; if [ $a != aaa ]; then f a$a; fi; R=$R$a; }; f a; export R",
    'f() { for i in "$@"; do A="$A<$i>"; done; }; f a "b c"; export A',
    "f() { for i; do A=$A$i; done; shift; B=$1; }; f a b; export A B",
    "f() { [ $1 = a ] && return 0; return 1; }; f a && export A=1; f b || export B=1",
    "f() { A=1; return; A=2; }; f; export A; true && return; export B=1",
    "add() { case :$PATH: in *:$1:*) ;; *) PATH=$1:$PATH ;; esac; }; add /x; add /x; export PATH",
    # variables
    'A=/a/b/c.tar.gz; export B=${A##*/} C=${A#*/} D=${A%.*} E=${A%%.*} F=${A%/*} G="${A#x}" H=${#A}',
    'A=a-b-c; export B=${A/-/+} C=${A//-/+} D=${A//-} E="${A//[ac]/_}" F=${A//b*/} G=${A/q/}',
    "A='x*y'; export B=${A/\\*/-} C=${A//'*'/+}; P=/a:/b; export Q=${P//:/ } R=\"${P//\\//.}\"",
    'A=abc; B=b; export C=${A#a$B} D=${A/$B/x} E=${A%"$B"*}',
    "A=1; A+=2; export A+=3; B+=x; export B; export PATH+=:/more",
    "eval 'export A=1'; N=B; eval \"export $N='x y'\"",
]


@pytest.mark.parametrize("script", BASH)
def test_a_script_does_what_bash_does(script, tmp_path):
    text = script.encode()

    assert ours(text) == theirs(text, tmp_path, "bash")


# Those of the comparison with Apptainer: understood as bash does, or refused.
PEERS = runpy.run_path(str(Path(__file__).resolve().parent.parent / "peers/environments.py"))["SCRIPTS"]
BRACES = "export A={a,b} B=x{1..3}"  # Apptainer, as sh, leaves them


def test_scripts_of_every_style_are_read_as_bash_does_or_refused(tmp_path):
    known = 0
    for script in PEERS:
        if script == BRACES or "\r" in script or "exit" in script or "BASH_VERSION" in script:
            continue
        try:
            result = ours(script.encode())
        except Unsupported:
            continue
        known += 1
        assert (script, result) == (script, theirs(script.encode(), tmp_path, "bash"))

    assert known > 90


@pytest.mark.parametrize(
    "script",
    [
        "while true; do :; done",
        "f() { f; }; f",
        "f() { f; f; }; f",
        "A=x; while :; do A=$A$A; done",
        "A=x; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do A=$A$A; done; "
        + "".join(f"B{i}=$A;" for i in range(99)),
        "A=" + "a" * 60000 + "; B=${A//*a*a*a*b/x}",
        "A=" + "a" * 120000 + "; " + "B=${A//b/x};" * 9,
        "A=" + "a" * 120000 + "; B=${A//a/$A}",
        'X=\'eval "$X"\'; eval "$X"',
        "[[ " + "( " * 5000,
        "case x in " + "x) case x in " * 5000,
    ],
    ids=lambda script: script[:30],
)
def test_steps_and_bytes_are_bounded(script):
    with pytest.raises(Unsupported):
        ours(script.encode())


UNSUPPORTED = [
    "case a in a) A=1 ;& b) ;; esac",
    "[[ a =~ b ]]",
    "[[ a < b ]]",
    "[[ -d / ]]",
    "[[ abc == a+(b)c ]]",
    "for ((i=0; i<3; i++)); do :; done",
    "for i in {1..3}; do :; done",
    "for i in *.sh; do :; done",
    "((A=1))",
    "L=(a b)",
    "declare A=1",
    "f() (A=1)",
    "f() { :; } > /dev/null",
    "test() { :; }",
    "local A=1",
    "f() { export A=1; local A=2; }; f",
    "break",
    "A=a; export B=${A^^}",
    "A=abc; export B=${A:1}",
    "A=\u00e9; export B=${#A}",
    "A=\u00e9; case $A in ?) export B=1;; esac",
    "A=b; export B=${A/b/&}",
    "[ 010 -eq 8 ]",
    "source /opt/setup.sh",
    "export A=$(id)",
    "export A=`id`",
    "export A=$((1+1))",
    "A=1 export B=2",
    "export A=$1",
    "export A=$?",
    "export A=$$",
    "export A=${HOME:?}",
    "export A=$'x'",
    "export A=$UID",
    "export A=$PWD",
    "IFS=:",
    "readonly A=1",
    "export -p",
    "export $HOME",
    "export A=~nobody",
    "unset PATH",
    "set -e",
    "exit 0",
    "ulimit -s unlimited",
    ". /opt/x/env.sh",
    "true > /dev/null",
    "true | true",
    "true &",
    "(true)",
    "[ -f /etc/passwd ]",
    "[ a -o b ]",
    "[ -n a",
    "[ * = x ]",
    'A="a b"; [ $A = x ]',
    "if true; then",
    "if true; then fi",
    "fi",
    "true;;",
    "export A='x",
    'export A="x',
    'export A="${x"',
    "export A=${x:-~}",
    'export A="${x:="y"}"',
    'export A="${x:-"\\}"}"',
    "export 1A=x",
    "A=b\\",
    "export A=x\0y",
    "cat <<E\nx\nE",
]


@pytest.mark.parametrize("script", UNSUPPORTED)
def test_what_it_does_not_know_it_refuses(script):
    with pytest.raises(Unsupported):
        ours(script.encode())


def test_a_script_that_cannot_be_read_changes_nothing():
    values, exported = dict(START), set(START)
    with pytest.raises(Unsupported):
        evaluate(b"export A=1\nfor ((;;)); do :; done\n", values, exported)

    assert (values, exported) == (START, set(START))


@pytest.mark.parametrize(
    "script",
    [
        b'B="' + b"$A" * 1000 + b'"',
        b'B="${A#' + b"$A" * 1000 + b'}"',
        b'B="${A:+' + b"$A" * 1000 + b'}"',
        b"f() { B=\"$*\"; }\nf " + b'"$A" ' * 1000,
        b"eval " + b'"$A" ' * 1000,
        b'case "' + b"$A" * 1000 + b'" in x) B=1;; esac',
    ],
)
def test_a_long_text_is_refused_before_it_is_made(script):
    """A thousand times 100 kB stand in a script of some kB."""
    import tracemalloc

    values = {**START, b"A": b"a" * 100_000}
    tracemalloc.start()
    try:
        with pytest.raises(Unsupported):
            evaluate(script, values, set(START))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_values_and_nesting_are_bounded():
    doubled = b"A=0123456789abcdef\n" + b'A="$A$A"\n' * 14
    with pytest.raises(Unsupported):
        ours(doubled)
    values, exported = dict(START), set(START)
    with pytest.raises(Unsupported):
        evaluate(doubled, values, exported)
    assert len(values[b"A"]) <= VALUE_MAX

    with pytest.raises(Unsupported):
        ours(b"A=" + b"${A:-" * 5000 + b"}" * 5000)
    with pytest.raises(Unsupported):
        ours(b"if true; then " * 5000)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b"plain", b"plain"),
        (b"$HOME/x", b"/home/u/x"),
        (b"a\\$HOME", b"a$HOME"),
        (b'say "x"', b'say "x"'),
        (b"a\nb", b"a\nb"),
        (b"${NONE:-x}", b"x"),
    ],
)
def test_expand_reads_a_value_as_between_double_quotes(text, result):
    assert expand(text, START) == result


@pytest.mark.parametrize("text", [b"$(id)", b"`id`", b'\\"', b"${", b"\\"])
def test_expand_refuses_commands(text):
    with pytest.raises(Unsupported):
        expand(text, START)


def test_names():
    assert [is_name(name) for name in (b"A", b"_a1", b"", b"1a", b"a-b", b"a.b")] == [True, True] + [False] * 4


class Writer:
    """Scripts made at random out of the constructs above."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def name(self) -> str:
        return self.random.choice(("A", "B", "C", "PATH", "HOME"))

    def word(self, depth: int = 0) -> str:
        kind = self.random.randrange(9)
        if kind < 2 or depth > 2:
            return self.random.choice(("x", "a/b", "~/x", "a:~/b", "\\$x", "\\ ", "a=b", "#", "*", "\\\n", "^"))
        if kind < 4:
            return self.random.choice(("$%s", "${%s}")) % self.name()
        if kind < 6:
            return '"' + self.quoted(depth) + '"'
        if kind < 7:
            return self.random.choice(("'x y'", "'$A'", "'\"'", "'\\'", "''"))
        if kind < 8:
            operator = self.random.choice((":-", "-", ":+", "+", ":=", "="))
            return f"${{{self.name()}{operator}{self.word(depth + 1)}{self.word(depth + 1)}}}"
        return self.word(depth + 1) + self.word(depth + 1)

    def quoted(self, depth: int) -> str:
        text = ""
        for _ in range(self.random.randrange(4)):
            kind = self.random.randrange(7)
            if kind < 3:
                text += self.random.choice(("x", "a b", "'", '\\"', "\\\\", "\\$", "\\x", "}", "~", "#", "\n", "$ "))
            elif kind < 5 or depth > 2:
                text += f"${{{self.name()}}}"
            else:
                operator = self.random.choice((":-", "-", ":+", "+"))
                inner = self.quoted(depth + 1)
                text += f"${{{self.name()}{operator}" + self.random.choice((inner, f'"{inner}"')) + "}"
        return text

    def condition(self) -> str:
        left = self.random.choice(('"$%s"', '"${%s:-}"', "$%s", '"x$%s"')) % self.name()
        form = self.random.choice(("[ -n %s ]", "test -z %s", '[ %s = "x" ]', "! [ %s != x ]", "[ ! -n %s ]", "[ %s ]"))
        return form % left

    def statement(self, depth: int = 0) -> str:
        kind = self.random.randrange(8)
        if kind < 3:
            return f"export {self.name()}={self.word()}"
        if kind < 5:
            name = self.name()
            return f"{name}={self.word()}; export {name}"
        if kind < 6 or depth > 1:
            return self.random.choice(("unset B", "true # x", "export A C", f"{self.condition()} || B=1"))
        text = f"if {self.condition()}; then\n{self.statement(depth + 1)}\n"
        if self.random.random() < 0.5:
            text += f"elif {self.condition()}\nthen {self.statement(depth + 1)};\n"
        return text + f"else {self.statement(depth + 1)}\nfi"

    def script(self) -> bytes:
        return "\n".join(self.statement() for _ in range(6)).encode()


def test_random_scripts_do_what_the_shell_does(tmp_path):
    known = 0
    for seed in range(250):
        script = Writer(seed).script()
        try:
            result = ours(script)
        except Unsupported:
            continue
        known += 1
        assert (seed, result) == (seed, theirs(script, tmp_path))

    assert known > 100


def test_random_bytes_are_understood_or_refused():
    source = random.Random(7)
    pieces = [b"$", b"{", b"}", b'"', b"'", b"\\", b"\n", b" ", b";", b"#"]
    pieces += [b"if ", b"fi", b"A=", b"export ", b":-", b"[ ", b"[[ ", b" ]]", b"case ", b" in ", b"esac", b"for A in "]
    pieces += [
        b"; do ",
        b"done",
        b"f() ",
        b"{ ",
        b"; }",
        b"/",
        b"%",
        b"#",
        b"+=",
        b"(",
        b")",
        b";;",
        b"*",
        b"[a-",
        b"]",
        b"f ",
    ]
    pieces += [b"${A", b"eval ", b"local ", b"return ", b"$@", b"\xc3\xa9", b"~", b"!", b" == ", b"-n "]
    for _ in range(20000):
        script = b"".join(source.choice(pieces) for _ in range(source.randrange(24)))
        with contextlib.suppress(Unsupported):
            ours(script)
