# SPDX-License-Identifier: BSD-3-Clause
"""`bollard site`: the commands for administrators. The package bollard.spank_plugin does the work."""

from __future__ import annotations

import json
import os
import site as python_site
import sys
from typing import TYPE_CHECKING

from bollard.runtime import causes, installed
from bollard.runtime.cli import findings
from bollard.runtime.errors import BollardError
from bollard.runtime.request import site, site_config

if TYPE_CHECKING:
    from bollard.spank_plugin.installation import Where


def run(verb: str, given: list[tuple[str, str]], words: list[str]) -> int:
    """Run `bollard site VERB`; return the exit status.

    verb: "install", "configure", "check", "stats", "ecl", "rollback" or "uninstall".
    given: the parsed options, name and value.
    words: the arguments; "ecl" takes a file, the others none.

    Raises:
        BollardError: there is an argument, or the command fails.
    """
    if verb == "ecl":
        return _ecl(words)
    if words:
        raise BollardError(f"site {verb}: unexpected {words[0]!r}", f"see `bollard site {verb} --help`")
    chosen = dict(given)
    if verb == "stats":
        return _stats(chosen)
    if "example" in chosen:
        sys.stdout.write(site_config.default_text())
        return 0
    if sys.flags.no_site:
        python_site.main()  # the installed command runs without the system's packages; cffi and PyYAML are among them
    from bollard.spank_plugin import install, removal

    where = _where(chosen)
    if verb == "check":
        if "nodes" in chosen:
            return _check_nodes(where, chosen["nodes"], "json" in chosen)
        return _check(where, "json" in chosen)
    mistakes = site_config.complaints(where.config) if verb in ("install", "configure") else []
    for mistake in mistakes:
        print(f"bollard: {mistake}", file=sys.stderr)
    if mistakes:
        return 255
    work = {
        "install": install.install,
        "configure": install.configure,
        "rollback": removal.rollback,
        "uninstall": removal.uninstall,
    }
    work[verb](where, print)
    return 0


def _ecl(words: list[str]) -> int:
    """Print what an ecl.toml means in bollard.yaml."""
    from bollard.runtime.request import trust_ecl

    if len(words) != 1:
        raise BollardError(
            f"site ecl takes one file, not {len(words)}", "write `bollard site ecl /etc/apptainer/ecl.toml`"
        )
    if sys.flags.no_site:
        python_site.main()  # PyYAML is among the system's packages
    text, warnings = trust_ecl.converted(words[0])
    for warning in warnings:
        print(f"bollard: warning: {warning}", file=sys.stderr)
    sys.stdout.write(text)
    return 0


def _stats(chosen: dict[str, str]) -> int:
    """Print the numbers of this node, or write them for node_exporter.

    Raises:
        BollardError: the caller is not root, or the file cannot be written.
    """
    from bollard.runtime.fetch import cache
    from bollard.runtime.local import exposition, stats

    if os.geteuid() != 0:
        raise BollardError("site stats counts the containers of all users", "run it as root")
    prefix = os.path.abspath(chosen.get("prefix") or site.load(installed.PREFIX).prefix or installed.PREFIX)
    shared = site.load(prefix).cache_shared
    state = stats.load()
    found = stats.look(prefix, sum(item.size for item in cache.shared_entries()) if shared else None, state)
    as_json = json.dumps(exposition.plain(found), indent=2 if sys.stdout.isatty() else None) + "\n"
    text = as_json if "json" in chosen else exposition.text(found)
    output = chosen.get("output")
    if not output:
        sys.stdout.write(text)
        return 0
    try:
        stats.write(os.path.abspath(output), text)
        os.makedirs(os.path.dirname(stats.STATE), 0o755, exist_ok=True)
        stats.save(state)
    except OSError as error:
        raise causes.of(error, f"{output}: cannot be written", output) from None
    return 0


def _where(chosen: dict[str, str]) -> Where:
    """Return the paths of the installation: those of the options, else of the existing installation, else defaults."""
    from bollard.spank_plugin.install import read_manifest
    from bollard.spank_plugin.installation import Where

    prefix = os.path.abspath(chosen.get("prefix") or site.load(installed.PREFIX).prefix or Where().prefix)
    try:
        known = read_manifest(prefix).get("where", {})
    except BollardError:
        known = {}  # `install` writes a new manifest; `check` and `uninstall` read it again and report the fault
    conf = os.environ.get("SLURM_CONF", "")
    return Where(
        prefix,
        os.path.abspath(
            chosen.get("slurm-conf") or known.get("slurm_conf") or os.path.dirname(conf) or Where().slurm_conf
        ),
        os.path.abspath(chosen.get("bin") or known.get("bin") or Where().bin),
        os.path.abspath(chosen.get("config") or known.get("config") or site_config.PATH),
        os.path.abspath(chosen["destdir"]) if chosen.get("destdir") else "",
        "names" in chosen or bool(known.get("names")),
    )


def _check_nodes(where: Where, nodes: str, as_json: bool) -> int:
    from bollard.spank_plugin import cluster_check

    found = cluster_check.ask(where, nodes)
    if as_json:
        print(json.dumps(found, indent=2 if sys.stdout.isatty() else None))
    else:
        print(*cluster_check.table(found), sep="\n")
    return cluster_check.status(found)


def _check(where: Where, as_json: bool) -> int:
    import bollard
    from bollard.spank_plugin import check, finding

    if as_json:
        found = list(check.findings(where))
        # One line for each node, because srun mixes the lines of several nodes.
        shown = finding.as_json(found, getattr(bollard, "__version__", ""))
        print(json.dumps(shown, indent=2 if sys.stdout.isatty() else None))
    else:
        found = findings.printed(check.findings(where), os.uname().nodename.split(".")[0])
    return 1 if finding.status(found) == finding.FAILURE else 0
