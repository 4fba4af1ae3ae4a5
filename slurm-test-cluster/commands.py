# SPDX-License-Identifier: BSD-3-Clause
"""The commands of `cluster`: the steps of each, in order."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from state import CACHE, CONTROLLER, NAME, SHARED, SWITCH, Cluster, ClusterError, Settings, known_suites, node_names

# Other modules are imported in the functions that use them: `exec` needs none of them and must start fast.


def up(cluster: Cluster, nodes: int, with_plugin: bool | None, accounting: bool, site: list[str] | None) -> None:
    """Start the nodes that are missing, and wait until they are idle.

    cluster: the cluster of a suite.
    nodes: the number of compute nodes.
    with_plugin: install the plugin; None: if the checkout has it.
    accounting: start slurmdbd on the controller.
    site: names of slurm_conf.CHOICES; None: as the cluster runs, else none.

    Raises:
        ClusterError: the cluster runs with other settings, or a step fails.
    """
    import accounting as database
    import plugin
    import slurm_conf
    import suites

    suites.lookup(cluster.suite)
    slurm_conf.check(cluster, site or [])
    with cluster.lock():
        wanted = plugin.available() if with_plugin is None else with_plugin
        settings = cluster.settings()
        if settings is not None and cluster.process(SWITCH) is not None:
            _refuse_other(cluster, settings, nodes, accounting, site)
            accounting, site = settings["accounting"], settings["site"]
            missing = [node for node in cluster.nodes() if cluster.process(node) is None]
            changed = bool(settings["plugin"]) != wanted
            if not missing and not changed:
                print(f"already up: suite {cluster.suite}, {nodes} nodes, {'with' if wanted else 'no'} plugin")
                return
        else:
            clear(cluster)
            suites.install_tools()
            suites.ensure_tree(cluster)
            if accounting:
                database.ensure_layer(cluster)
            missing, changed = node_names(nodes), wanted
        site = site or []
        if changed and wanted:
            plugin.build(cluster)
        suites.prepare_shared(cluster)
        plugin.source_directory(cluster)
        slurm_conf.write(cluster, nodes, site, database.slurm_conf(cluster, CONTROLLER) if accounting else "")
        cluster.save_settings({"nodes": nodes, "plugin": wanted, "accounting": accounting, "site": site})
        _start_missing(cluster, missing, wanted)
        print(
            f"up: suite {cluster.suite}, {nodes} nodes idle, {'with' if wanted else 'no'} plugin; try: "
            f"cluster exec --suite {cluster.suite} --user alice -- srun -N{nodes} hostname"
        )


def _refuse_other(cluster: Cluster, settings: Settings, nodes: int, accounting: bool, site: list[str] | None) -> None:
    """Raise if a running cluster is not as it is asked for; `down` must end it first.

    cluster: the cluster.
    settings: those it runs with.
    nodes: the number of compute nodes asked for.
    accounting: slurmdbd is asked for.
    site: the site asked for; None for any.
    """
    if settings["nodes"] != nodes:
        other = f"with {settings['nodes']} nodes, not {nodes}"
    elif accounting and not settings["accounting"]:
        other = "without accounting"
    elif site is not None and site != settings["site"]:
        other = "as another site"
    else:
        return
    raise ClusterError(f"suite '{cluster.suite}' is up {other}: run `cluster down --suite {cluster.suite}` first")


def _start_missing(cluster: Cluster, missing: list[str], with_plugin: bool) -> None:
    """Start the nodes that are missing, bring the files to all nodes, and wait until the started ones are idle.

    cluster: the cluster; its files are written.
    missing: the names of the nodes that do not run.
    with_plugin: the nodes get the plugin.
    """
    import daemons
    import namespaces
    import network

    network.start_switch(cluster)
    for node in missing:
        namespaces.end(cluster, node)
        namespaces.spawn(cluster, node, tree_of(cluster, node))
    for node in missing:
        network.plug(cluster, node, namespaces.settle(cluster, node))
    for node in cluster.nodes():
        spread(cluster, node, with_plugin)
    since = time.time()
    for node in missing:
        daemons.start(cluster, node, cluster.init(node))
    daemons.wait_idle(cluster, [node for node in missing if node != CONTROLLER], since)


def tree(cluster: Cluster) -> None:
    """Make the suite's tree. This is the part of the first `up` that takes minutes."""
    import suites

    suites.lookup(cluster.suite)
    with cluster.lock():
        suites.install_tools()
        suites.ensure_tree(cluster)


def tree_of(cluster: Cluster, node: str) -> str:
    """Return the lower directories of the node's overlay; "" for the suite's tree."""
    if node != CONTROLLER or not cluster.has_accounting():
        return ""
    import accounting

    return accounting.tree(cluster)


def spread(cluster: Cluster, node: str, wanted: bool) -> None:
    """Install the plugin on a running node, or remove it if `wanted` is False."""
    import plugin

    if wanted:
        plugin.install(cluster, node, cluster.init(node))
    else:
        plugin.remove(cluster, node, cluster.init(node))


def update_plugin(cluster: Cluster) -> None:
    """Build the checkout again and install it on all running nodes."""
    import plugin

    with cluster.lock():
        cluster.init(CONTROLLER)
        plugin.build(cluster)
        settings = cluster.settings()
        if settings is not None:
            cluster.save_settings({**settings, "plugin": True})
        for node in running(cluster):
            spread(cluster, node, True)
        print(f"plugin installed on {' '.join(running(cluster))}")


def running(cluster: Cluster) -> list[str]:
    """Return the names of the running nodes, the controller first."""
    return [node for node in cluster.nodes() if cluster.process(node) is not None]


def start(cluster: Cluster, node: str) -> None:
    """Start a node that is down, and wait until it is idle."""
    import daemons
    import namespaces
    import network

    with cluster.lock():
        if cluster.process(node) is not None:
            print(f"already up: node {node}")
            return
        check_name(cluster, node)
        namespaces.end(cluster, node)
        namespaces.spawn(cluster, node, tree_of(cluster, node))
        pid = namespaces.settle(cluster, node)
        network.plug(cluster, node, pid)
        spread(cluster, node, cluster.has_plugin())
        since = time.time()
        daemons.start(cluster, node, pid)
        if node == CONTROLLER:  # a new controller knows the compute nodes after they have registered again
            daemons.wait_idle(cluster, running(cluster)[1:], 0)
        else:
            daemons.wait_idle(cluster, [node], since)
        print(f"up: node {node}")


def kill(cluster: Cluster, node: str) -> None:
    """End a node at once, as a power failure does."""
    import namespaces

    with cluster.lock():
        check_name(cluster, node)
        print(f"{'killed' if namespaces.end(cluster, node) else 'already down'}: node {node}")


def check_name(cluster: Cluster, node: str) -> None:
    """Raise ClusterError if the cluster has no such node."""
    if node not in cluster.nodes():
        cluster.init(node)  # raises the error for an unknown node


def down(cluster: Cluster, purge: bool) -> None:
    """End the cluster; `purge` also removes its tree, caches and shared directories."""
    import suites

    suites.lookup(cluster.suite)
    with cluster.lock():
        was_up = cluster.settings() is not None
        clear(cluster)
        if purge:
            common = () if NAME else (cluster.cache, CACHE / "debs" / cluster.suite)  # used by clusters of all names
            for path in (cluster.own, cluster.shared, *common):
                suites.remove_tree(path)
            for path in (CACHE / "debs", CACHE, SHARED):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    print(f"{'down' if was_up else 'already down'}: suite {cluster.suite}{', nothing kept' if purge else ''}")


def clear(cluster: Cluster) -> None:
    """End all processes of this suite's cluster, recorded or not, and remove its run directory."""
    import namespaces

    # Search the cgroups by name: the settings may be lost, or from a cluster with another number of nodes.
    prefix = namespaces.cgroup_name(cluster, "")
    grouped = {path.name[len(prefix) :] for path in namespaces.CGROUPS.glob(f"*/{prefix}*")}
    nodes = sorted(grouped | set(cluster.nodes()) | {SWITCH})
    recorded = [process for process in map(cluster.process, nodes) if process is not None]
    for process in recorded:
        process.kill()
    for process in cluster.stragglers():
        process.kill()
    for node in nodes:
        namespaces.remove_cgroups(cluster, node)
    cluster.forget()


def status(suite: str | None, as_json: bool) -> int:
    """Print a line for each node; return the exit status, 0 if all are up. `suite` None means all suites."""
    import daemons

    rows = []
    for cluster in map(Cluster, [suite] if suite else known_suites()):
        states = daemons.slurm_states(cluster)
        for node in cluster.nodes():
            process = cluster.process(node)
            rows.append(
                {
                    "suite": cluster.suite,
                    "node": node,
                    "up": process is not None,
                    "pid": process.pid if process else None,
                    "slurm": ("controller" if states else "no answer")
                    if node == CONTROLLER
                    else states[node].state
                    if node in states
                    else "unknown",
                }
            )
    if as_json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(
                f"{row['suite']} {row['node']}: {'up' if row['up'] else 'down'}, pid {row['pid'] or '-'}, "
                f"slurm {row['slurm']}"
            )
        if not rows:
            print("no cluster is up")
    return 0 if rows and all(row["up"] for row in rows) else 1


def logs(cluster: Cluster, node: str | None, lines: int) -> None:
    """Print the last lines of the logs.

    cluster: the cluster of a suite.
    node: the name of a node, None for all.
    lines: the number of lines of each log.
    """
    import daemons

    names = cluster.nodes()
    if not names:
        cluster.init(CONTROLLER)
    if node is not None:
        check_name(cluster, node)
    for name in names if node is None else [node]:
        for line in daemons.tail(cluster, name, lines):
            print(line)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="cluster", description="A real multi-node Slurm on one machine.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, suite: str | None = "bookworm") -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--suite", default=suite, help=f"Debian suite (default: {suite or 'all that are up'})")
        return made

    made = command("add", "put Debian packages on a running node")
    made.add_argument("packages", nargs="+", metavar="PACKAGE", help="kept until the cluster is down")
    made.add_argument("--node", default=CONTROLLER, help="n1, n2, ... or ctl (default: ctl)")
    made = command("up", "start the nodes and wait until they are idle")
    made.add_argument("--nodes", type=int, default=4, help="compute nodes (default: 4)")
    choice = made.add_mutually_exclusive_group()
    choice.add_argument("--plugin", action="store_true", default=None, help="build and install this checkout's plugin")
    choice.add_argument("--no-plugin", dest="plugin", action="store_false", help="plain Slurm")
    made.add_argument(
        "--accounting", action="store_true", help="with slurmdbd on MariaDB, on the controller: sacct works"
    )
    made.add_argument(
        "--site",
        metavar="WORD,...",
        help="how the site is set up: configless, constrain, cgroup-v2, no-contain, contain_spank, "
        "job_container/tmpfs, namespace/tmpfs, namespace/linux",
    )
    command("tree", "only make the tree that nodes start from, if it is not there")
    command("plugin", "build the checkout anew and install it on the running nodes")
    made = command("exec", "run a command on a node; its exit status is passed through (128+n for signal n)")
    made.add_argument("--node", default=CONTROLLER, help="n1, n2, ... or ctl (default: ctl)")
    made.add_argument("--user", default="root", help="root, alice or bob (default: root)")
    made.add_argument("--cwd", help="directory to run in (default: the user's home)")
    made.usage = made.format_usage()[len("usage: ") :].rstrip() + " -- COMMAND ..."
    for name, text in (("kill", "cut one node's power"), ("start", "bring a node back")):
        command(name, text).add_argument("--node", required=True)
    made = command("logs", "show the end of the logs")
    made.add_argument("--node", help="only of this node")
    made.add_argument("--lines", type=int, default=50, help="of each log (default: 50)")
    command("status", "one line for each node", None).add_argument("--json", action="store_true")
    made = command("down", "end everything")
    made.add_argument("--purge", action="store_true", help="also remove the tree, the package cache, /home and /images")
    return top


def main(arguments: list[str]) -> int:
    """Run `cluster` with these arguments; return the exit status. After an error it is 1, or 125 for `exec`."""
    words = arguments
    rest: list[str] | None = None
    if arguments[:1] == ["exec"] and "--" in arguments:
        cut = arguments.index("--")
        words, rest = arguments[:cut], arguments[cut + 1 :]
    options = parser().parse_args(words)
    try:
        if os.geteuid():
            raise ClusterError("namespaces and cgroups need root: run this as root")
        return dispatch(options, rest)
    except (ClusterError, OSError) as error:
        print(f"cluster {options.command}: {error}", file=sys.stderr)
        return 125 if options.command == "exec" else 1
    except KeyboardInterrupt:
        return 130


def dispatch(options: argparse.Namespace, rest: list[str] | None) -> int:
    """Run the command in `options`; return the exit status. `rest` are the words after `--`, for `exec`.

    Raises:
        ClusterError: an argument is invalid, or the command fails.
    """
    if options.command == "status":
        return status(options.suite, options.json)
    cluster = Cluster(options.suite)
    if options.command == "exec":
        from entry import run

        if not rest:
            raise ClusterError("no command: write it after `--`")
        return run(cluster.init(options.node), rest, options.user, options.cwd)
    if options.command == "up":
        if options.nodes < 1 or options.nodes > 99:
            raise ClusterError(f"--nodes {options.nodes}: give a number from 1 to 99")
        site = None if options.site is None else [word for word in options.site.split(",") if word]
        up(cluster, options.nodes, options.plugin, options.accounting, site)
    elif options.command == "tree":
        tree(cluster)
    elif options.command == "plugin":
        update_plugin(cluster)
    elif options.command == "add":
        import packages

        with cluster.lock():
            packages.add(cluster, options.packages, options.node)
    elif options.command == "start":
        start(cluster, options.node)
    elif options.command == "kill":
        kill(cluster, options.node)
    elif options.command == "logs":
        logs(cluster, options.node, options.lines)
    else:
        down(cluster, options.purge)
    return 0
