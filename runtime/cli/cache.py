# SPDX-License-Identifier: BSD-3-Clause
"""The commands `bollard cache list` and `bollard cache clean`, with Apptainer's options and output."""

from __future__ import annotations

import json
import os
import sys
import time

from bollard.runtime import progress
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cache
from bollard.runtime.fetch.cache import Entry
from bollard.runtime.request import command_line

_ALIASES = {"oci": "oci-tmp", "blobs": "blob"}


def run(verb: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard cache VERB`; return the exit status.

    verb: "list", "pull" or "clean".
    given: the parsed options, name and value.
    words: the arguments: URIs for "pull", none for the others.

    Raises:
        BollardError: an argument or an option is invalid, or the cache cannot be used.
    """
    if verb == "pull":
        return _pull(given, words)
    if words:
        raise BollardError(f"{words[0]}: cache {verb} takes no words", f"see `bollard cache {verb} --help`")
    asked = dict(given)
    kinds = types([value for option, value in given if option == "type"])
    found = cache.shared_entries(kinds) if asked.get("shared", "0") == "1" else cache.entries(os.environ, kinds)
    if verb == "clean":
        _clean(cache.older(found, _days(asked.get("days", "0"))), asked)
    elif asked.get("json", "0") == "1":
        print(json.dumps([entry._asdict() for entry in found], indent=2))
    else:
        print("\n".join(lines(found, kinds, asked.get("verbose", "0") == "1")))
    return 0


def _pull(given: list[tuple[str, str]], words: list[str]) -> int:
    """Fetch images into the cache. The name of each with its digest is printed."""
    from bollard.runtime.build import conversion
    from bollard.runtime.fetch import sources

    command_line.refuse_empty(given)
    asked = sources.settings(given, os.environ)
    if not words:
        raise BollardError("cache pull takes one URI at least", "write `bollard cache pull docker://NAME`")
    if asked.disable_cache:
        raise BollardError("cache pull --disable-cache: there is no cache to fetch into", "leave it out")
    for uri in words:
        if dict(given).get("shared", "0") == "1":
            print(conversion.to_shared(uri, asked))
        else:
            found = conversion.image_of(uri, asked)
            print(found.source or found.path)
            found.close()
    return 0


def types(values: list[str]) -> tuple[str, ...]:
    """Return the types of entries that the values of --type name; without a value, all types.

    Raises:
        BollardError: a type is unknown.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    found = {_ALIASES.get(name, name) for name in names or ["all"]}
    for name in found - {"all", *cache.TYPES}:
        raise BollardError(f"--type {name}: no such type", f"known are {', '.join(cache.TYPES)}, all")
    return tuple(kind for kind in cache.TYPES if "all" in found or kind in found)


def lines(found: list[Entry], kinds: tuple[str, ...], verbose: bool) -> list[str]:
    """Return the lines of `bollard cache list`, worded as Apptainer's.

    found: the entries.
    kinds: the types that were asked for.
    verbose: add a table of all entries.
    """
    shown = []
    if verbose:
        shown.append(f"{'NAME':<24} {'DATE CREATED':<22} {'SIZE':<16} TYPE")
        for entry in found:
            date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.created))
            shown.append(f"{entry.name[:22]:<24} {date:<22} {size(entry.size):<16} {entry.kind}")
        shown.append("")
    parts = []
    for what, some in (("container", cache.IMAGES), ("oci blob", ("blob",))):
        if set(some) & set(kinds):
            sizes = [entry.size for entry in found if entry.kind in some]
            parts.append(f"{len(sizes)} {what} file(s) using {size(sum(sizes))}")
    total = size(sum(entry.size for entry in found))
    return [*shown, f"There are {' and '.join(parts)} of space", f"Total space used: {total}"]


def size(number: int) -> str:
    """Return a number of bytes as text with a unit, from KiB to TiB."""
    units = ("KiB", "MiB", "GiB", "TiB")
    power = next((power for power in range(1, len(units)) if number < 1024 ** (power + 1)), len(units))
    return f"{number / 1024**power:.2f} {units[power - 1]}"


def _days(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BollardError(f"--days {text}: is not a number", "write --days 30") from None


def _clean(found: list[Entry], asked: dict[str, str]) -> None:
    if asked.get("dry-run", "0") == "1":
        print("\n".join(lines(found, cache.TYPES, verbose=True)))
        return
    if asked.get("force", "0") != "1" and not _agreed(found):
        return
    cache.remove(os.environ, found, lambda: progress.say("waiting for those who fetch an image"))
    progress.settle()


def _agreed(found: list[Entry]) -> bool:
    if not sys.stdin.isatty():
        raise BollardError("cache clean asks before it removes anything, and there is no terminal", "add --force")
    total = size(sum(entry.size for entry in found))
    print(f"This removes {len(found)} file(s) of {total} from {cache.directory(os.environ)}.")
    print("--dry-run shows them. Continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
