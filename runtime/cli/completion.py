# SPDX-License-Identifier: BSD-3-Clause
"""Completion scripts for shells: they complete `bollard`'s commands and options. Rendered from the tables of both.

bollard completion bash > /etc/bash_completion.d/bollard
"""

from __future__ import annotations

from bollard.runtime.cli.commands import COMMANDS
from bollard.runtime.errors import BollardError
from bollard.runtime.request import command_line

SHELLS = ("bash", "zsh", "fish", "powershell")


def script(shell: str) -> str:
    """Return the completion script for one of SHELLS.

    Raises:
        BollardError: there is no script for this shell.
    """
    if shell not in SHELLS:
        raise BollardError(f"{shell}: no completion for this shell", f"there is one for {', '.join(SHELLS)}")
    return {"bash": _bash, "zsh": _zsh, "fish": _fish, "powershell": _powershell}[shell]()


def _families() -> dict[str, list[str]]:
    """Return first word -> second words, for the commands of two words."""
    found: dict[str, list[str]] = {}
    for command in COMMANDS:
        first, _, second = command.partition(" ")
        if second:
            found.setdefault(first, []).append(second)
    return found


def _first_words() -> list[tuple[str, str]]:
    """Return the words that can follow `bollard`, each with its help."""
    found: dict[str, str] = {}
    for command, row in COMMANDS.items():
        first, _, second = command.partition(" ")
        found.setdefault(first, row[1] if not second else f"commands {', '.join(_families()[first])}")
    return list(found.items())


def _options(command: str) -> list[tuple[str, str, str, str]]:
    """Return the options of a command as (letter or "", name, word for the value or "", help)."""
    _, _, own, container = COMMANDS[command]
    letters = {name: letter for letter, name in command_line.letters(command).items()}
    return [(letters.get(name, ""), name, arg, text) for name, arg, text, _ in command_line.rows_of(own, container)]


def _bash() -> str:
    families = _families()
    names = " ".join(name for name, _ in _first_words())
    lines = [
        "# bash completion for bollard",
        "_bollard() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]-}" at=2 words=""',
        "    COMPREPLY=()",
        '    case "$command" in',
        f'    {"|".join(families)}) command="$command ${{COMP_WORDS[2]-}}"; at=3 ;;',
        "    esac",
        "    if [ $COMP_CWORD -eq 1 ]; then",
        f'        words="{names}"',
        "    elif [ $COMP_CWORD -lt $at ]; then",
        '        case "${COMP_WORDS[1]}" in',
        *(f'        {first}) words="{" ".join(seconds)}" ;;' for first, seconds in families.items()),
        "        esac",
        '    elif [[ "$word" == -* ]]; then',
        '        case "$command" in',
    ]
    for command in COMMANDS:
        flags = [f"--{name}" for _, name, _, _ in _options(command)]
        flags += [f"-{letter}" for letter, _, _, _ in _options(command) if letter]
        lines.append(f'        "{command}") words="{" ".join(flags)}" ;;')
    lines += [
        "        esac",
        '    elif [ "$command" = completion ]; then',
        f'        words="{" ".join(SHELLS)}"',
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _bollard bollard",  # -o default: complete file names if nothing else matches
    ]
    return "\n".join(lines) + "\n"


def _zsh() -> str:
    lines = ["#compdef bollard", "_bollard() {", "    local -a words_here", "    local command=$words[2]"]
    lines += ["    if (( CURRENT == 2 )); then", f"        words_here=({_described(_first_words())})"]
    lines += ["        _describe command words_here", "        return", "    fi"]
    for first, seconds in _families().items():
        rows = [(second, COMMANDS[f"{first} {second}"][1]) for second in seconds]
        lines += [f"    if [[ $command == {first} ]]; then", "        if (( CURRENT == 3 )); then"]
        lines += [f"            words_here=({_described(rows)})", "            _describe command words_here"]
        lines += ["            return", "        fi", f'        command="{first} $words[3]"']
        lines += ["        shift words", "        (( CURRENT-- ))", "    fi"]
    lines += ["    shift words", "    (( CURRENT-- ))", "    case $command in"]
    for command in COMMANDS:
        specs = []
        for letter, name, argument, text in _options(command):
            value = f":{_zsh_escaped(argument)}:_files" if argument else ""
            flags = [f"--{name}"] + ([f"-{letter}"] if letter else [])
            specs += [_single(f"*{flag}[{_zsh_escaped(text)}]{value}") for flag in flags]
        specs.append(f"'1:shell:({' '.join(SHELLS)})'" if command == "completion" else "'*:file:_files'")
        lines.append(f"    ({_single(command)}) _arguments {' '.join(specs)} ;;")
    return "\n".join([*lines, "    esac", "}", '_bollard "$@"', ""])


def _described(rows: list[tuple[str, str]]) -> str:
    """Return words with their help as arguments of _describe, which gives only colons a meaning."""
    return " ".join(_single(name + ":" + text.replace(":", "\\:")) for name, text in rows)


def _zsh_escaped(text: str) -> str:
    """Return the text with the characters escaped that have a meaning for _arguments (zshcompsys(1))."""
    return "".join("\\" + c if c in "\\[]:" else c for c in text)


def _fish() -> str:
    lines = ["# fish completion for bollard"]
    families = _families()
    for name, text in _first_words():
        lines.append(f"complete -c bollard -n __fish_use_subcommand -f -a {name} -d {_fish_quoted(text)}")
    for command in COMMANDS:
        first, _, second = command.partition(" ")
        seen = f"__fish_seen_subcommand_from {first}"
        if second:
            others = " ".join(families[first])
            text = _fish_quoted(COMMANDS[command][1])
            before = f"{seen}; and not __fish_seen_subcommand_from {others}"
            lines.append(f"complete -c bollard -n '{before}' -f -a {second} -d {text}")
            seen += f"; and __fish_seen_subcommand_from {second}"
        for letter, name, argument, text in _options(command):
            flags = f"-l {name}" + (f" -s {letter}" if letter else "") + (" -r" if argument else "")
            lines.append(f"complete -c bollard -n '{seen}' {flags} -d {_fish_quoted(text)}")
        if command == "completion":
            lines.append(f"complete -c bollard -n '{seen}' -f -a '{' '.join(SHELLS)}'")
    return "\n".join(lines) + "\n"


def _powershell() -> str:
    """Return the script: two tables, and a completer that looks words up in them. PowerShell completes file names."""
    families = _families()

    def table(rows: list[tuple[str, str]]) -> str:
        # One string for each row: PowerShell would make a list of one pair a list of two words.
        return "@(" + ", ".join(_doubled(f"{name}\t{text or name}") for name, text in rows) + ")"

    lines = ["# PowerShell completion for bollard", "$BollardWords = @{", f"    '' = {table(_first_words())}"]
    for first, seconds in families.items():
        lines.append(f"    {_doubled(first)} = {table([(s, COMMANDS[f'{first} {s}'][1]) for s in seconds])}")
    lines += [f"    'completion' = {table([(shell, shell) for shell in SHELLS])}", "}", "$BollardOptions = @{"]
    for command in COMMANDS:
        rows = []
        for letter, name, _, text in _options(command):
            rows += [(f"--{name}", text), *([(f"-{letter}", text)] if letter else [])]
        lines.append(f"    {_doubled(command)} = {table(rows)}")
    lines += [
        "}",
        "Register-ArgumentCompleter -Native -CommandName bollard -ScriptBlock {",
        "    param($word, $ast, $cursor)",
        "    $before = @($ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } |",
        "        Select-Object -Skip 1 | ForEach-Object { $_.ToString() })",
        "    $command = if ($before.Count) { $before[0] } else { '' }",
        "    if ($before.Count -gt 1 -and $BollardOptions.ContainsKey($before[0] + ' ' + $before[1])) {",
        "        $command = $before[0] + ' ' + $before[1]",
        "    }",
        "    $rows = if ($word.StartsWith('-')) { $BollardOptions[$command] }",
        "        elseif ($before.Count -le 1) { $BollardWords[$command] }",
        "    $rows | Where-Object { $_ -and $_.StartsWith($word) } | ForEach-Object {",
        '        $name, $text = $_ -split "`t", 2',
        "        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $text)",
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _doubled(text: str) -> str:
    """Return the text between single quotes for PowerShell, where a quotation mark in it is doubled."""
    return "'" + text.replace("'", "''") + "'"


def _single(text: str) -> str:
    """Return the text between single quotes, for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
