# SPDX-License-Identifier: BSD-3-Clause
"""An interpreter for the part of bash that environment scripts use.

interpreter.py: evaluates the image's environment scripts without a shell.
conditions.py: what test, [ and the operators of [[ ]] decide.
syntax.py: parses such a script into a tree.
patterns.py: matches a shell's patterns in bounded time.
paths.py: expands the variables of a path that is one word.
words.py: parses words: quotes and variables.
"""
