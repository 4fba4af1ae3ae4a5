# SPDX-License-Identifier: BSD-3-Clause
"""Builds from small definition files under both programs: what is in the image afterwards."""

from __future__ import annotations

# ruff: noqa: E501
from case import Case

# A base image in r, files in d; the build; then names, modes, links and contents of the image but its own metadata.
_BASE = (
    "umask 022; mkdir -p r/{bin,etc,opt/d,srv/full} d/e; echo in > r/srv/full/file; echo 1 > d/a; echo 2 > d/b; "
    "echo 3 > d/e/c; chmod 644 d/*; chmod 755 d/e; "
)
_SEE = (
    r"""; echo $?; cd s && find . -mindepth 1 \( -name .singularity.d -o -name '.[erst]*' -o -name singularity -o -name environment -o """
    r"""-path ./run -o -path ./root -o -path ./dev -o -path ./tmp -o -path ./var \) -prune -o -printf '%P %y %m %n %l ' \( -type f -exec cat {} \; -o -printf '\n' \) | sort"""
)


def files(lines: str, before: str = "true", env: str = "") -> Case:
    """%files with these lines, a `|` between two; `before` makes more files first."""
    text = "\\n".join(["bootstrap: localimage", "from: r", "%%files", *(f"  {line}" for line in lines.split("|"))])
    return Case(f"printf '{text}\\n' > x.def; {_BASE}{before}; BOX build --sandbox s x.def >/dev/null 2>&1{_SEE}", env=env)


FILES = (
    files("d/*"),
    files("./d/{a,b}|../w/data/f*|~/w/d/b|d /opt"),
    files("d/[ab]|d/? /srv/q/|d/{a,{b,e/c}} /srv/n/|d/[[:lower:]] /srv/c/|d/[^a] /srv/x/"),
    files("$V/a /opt/v|${V}/* /opt/w/|${NONE:-d}/a /opt/n|$V/b|$PWD/d/a /opt/p|d/a /opt/$V", env="V=d"),
    files("d/\\\\$A /opt/1|d/a\\\\* /opt/2|d/\\\\[x\\\\] /opt/3|d/[y] /opt/4|d/a\\\\\\\\b /opt/5",
          r"cd d; touch '$A' 'a*' ab '[x]' x '[y]' 'a\b'; cd .."),
    files("d/a /opt/link|d/b /opt/new", "ln -s /srv/full/file r/opt/link; ln -s ../srv/new r/opt/new"),
    files("d/a /opt/file|d /opt", "echo old > r/opt/file; chmod 750 r/opt/file; ln r/opt/file r/opt/hard; "
          "echo old > r/opt/d/a; chmod 700 r/opt/d/a r/opt/d; ln -s ../../srv/full/file r/opt/d/b"),
    files("d/a /opt/x/|d/b /opt/y/z|d /etc/new|d /etc/new|d/e/. /srv"),
    files("d /opt", "mkdir r/opt/d/a"),
    files("d /opt", "echo f > r/opt/d/e"),
    files("d/a /opt/d/b/c", "echo f > r/opt/d/b"),
)  # fmt: skip
BUILDS = FILES
