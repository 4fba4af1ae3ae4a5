# SPDX-License-Identifier: BSD-3-Clause
"""The administrator's commands: `bollard site check` on every node, settings, installation, upgrade and removal.

These tests install below another prefix on one node, beside the plugin that the other tests use.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from cluster import PREFIX, Cluster, Images, Result, Work, good, until

NODE = "n4"
OWN = "/opt/test-site"
TREE = f"{OWN}/lib/bollard"
COMMAND = f"{OWN}/bin/bollard"
PLACES = f"--prefix {TREE} --slurm-conf {OWN}/etc --config {OWN}/bollard.yaml"
BUILD = f"python3 -B /usr/src/bollard/spank_plugin {PLACES} --bin {OWN}/bin"
PROBE = f"{COMMAND} exec {TREE}/check.sqfs /bin/probe --print-environment"


def checks(done: Result) -> dict[str, list[dict[str, str]]]:
    """The findings, by the name of the check."""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.out)["checks"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


@contextlib.contextmanager
def changed(cluster: Cluster, command: str, undo: str, *nodes: str) -> Iterator[None]:
    try:
        for node in nodes:
            good(cluster.exec(command, node=node, user="root"))
        yield
    finally:
        for node in nodes:
            good(cluster.exec(undo, node=node, user="root"))


@pytest.mark.parametrize("user", ["alice", "root"])
def test_every_node_is_fit(cluster: Cluster, user: str) -> None:
    for node in cluster.nodes():
        done = cluster.exec(["bollard", "site", "check", "--json"], node=node, user=user)
        found = checks(done)
        assert done.rc == 0, [row for rows in found.values() for row in rows if row["state"] == "failure"]
        for name in ("user namespaces", "mounts", "FUSE", "overlay", "container", "owners", "plugstack.conf", "Slurm"):
            assert [row["state"] for row in found[name]] == ["ok"], found[name]
        assert json.loads(done.out)["node"] == node


def test_many_nodes_at_once(cluster: Cluster) -> None:
    done = cluster.srun("-N2", "-w", "n1,n2", "bollard", "site", "check")
    lines = good(done).splitlines()
    for node in ("n1", "n2"):
        assert any(line.startswith(f"{node}: ok: container: ") for line in lines), lines
    assert not [line for line in lines if ": failure: " in line]


def test_a_table_of_nodes(cluster: Cluster) -> None:
    """One command asks all nodes through srun; a fault of one of them has a row, and a line with its node."""
    with changed(cluster, f"chmod o+w {PREFIX}/python", f"chmod o-w {PREFIX}/python", "n2"):
        done = cluster.exec(["bollard", "site", "check", "--nodes", "n[1-2]"])
        assert done.rc == 1, done
        assert any(line.split() == ["owners", "ok", "failure"] for line in done.out.splitlines()), done
        assert f"n2: failure: owners: {PREFIX}/python can be written by everybody" in done.out, done
    done = cluster.exec(["bollard", "site", "check", "--nodes", "all", "--json"])
    found = json.loads(done.out)
    assert done.rc == 0 and [report["node"] for report in found] == cluster.nodes()[1:], done
    assert {row["id"] for row in found[0]["checks"]} >= {"user-namespaces", "slurms-settings", "container"}
    done = cluster.exec(["bollard", "site", "check", "--nodes", "nosuch"])
    assert done.rc == 255 and "--nodes nosuch: " in done.err and len(done.complaints()) == 1, done


def test_on_a_terminal(cluster: Cluster) -> None:
    child = cluster.terminal("bollard site check; echo status $?")
    child.expect(r"ok +\S*kernel +Linux ")
    child.expect("status 0")
    child.close()


@pytest.mark.parametrize(
    ("check", "spoil", "undo", "said", "fix"),
    [
        ("owners", f"chmod o+w {PREFIX}/python", "", "can be written by everybody", f"chmod go-w {PREFIX}/python"),
        ("owners", "chown alice /etc/slurm", "", "/etc/slurm belongs to alice", "chown -h root /etc/slurm"),
        (
            "access",
            "chmod 700 /etc/slurm/plugstack.conf.d",
            "",
            "closed to users: /etc/slurm/plugstack.conf.d",
            "chmod a+rX /etc/slurm/plugstack.conf.d",
        ),
        (
            "Slurm",
            f"cd {PREFIX} && cp -p spank_bollard.so so.off && cp -p manifest.json json.off && "
            """sed -i 's/"slurm": "[^"]*"/"slurm": "19.5.1"/' manifest.json && """
            """echo 'const char plugin_name[] = "b", plugin_type[] = "spank"; const unsigned plugin_version = 1;' |"""
            " gcc -shared -fPIC -o spank_bollard.so -x c -",
            f"cd {PREFIX} && mv so.off spank_bollard.so && mv json.off manifest.json",
            ", but the plugin is built for 19.5.1",
            "bollard site install",
        ),
        (
            "job folders",
            "mkdir -p /run/bollard-jobs && chown alice /run/bollard-jobs",
            "",
            "/run/bollard-jobs belongs to alice: no container can be made here",
            "chown -h root /run/bollard-jobs",
        ),
        ("FUSE", "mv /dev/fuse /dev/fuse.off", "mv /dev/fuse.off /dev/fuse", "/dev/fuse", "modprobe fuse"),
        (
            "installation",
            f"mv {PREFIX}/bollard-enter {PREFIX}/enter.off",
            f"mv {PREFIX}/enter.off {PREFIX}/bollard-enter",
            "bollard-enter is missing",
            "bollard site install",
        ),
        (
            "plugstack.conf",
            "sed -i s/^required/optional/ /etc/slurm/plugstack.conf.d/bollard.conf",
            "sed -i s/^optional/required/ /etc/slurm/plugstack.conf.d/bollard.conf",
            "says optional",
            "write required",
        ),
        (
            "plugstack.conf",
            "mv /etc/slurm/plugstack.conf.d/bollard.conf /etc/slurm/plugstack.conf.d/bollard.off",
            "mv /etc/slurm/plugstack.conf.d/bollard.off /etc/slurm/plugstack.conf.d/bollard.conf",
            "there is no /etc/slurm/plugstack.conf.d/bollard.conf",
            "bollard site install",
        ),
        (
            "plugstack.conf",
            "sed -i s/^include/#include/ /etc/slurm/plugstack.conf",
            "sed -i s/^#include/include/ /etc/slurm/plugstack.conf",
            "does not include /etc/slurm/plugstack.conf.d/bollard.conf",
            "add to /etc/slurm/plugstack.conf: include /etc/slurm/plugstack.conf.d/*.conf",
        ),
        (
            "plugin",
            "sed -i s/^include/#include/ /etc/slurm/plugstack.conf",
            "sed -i s/^#include/include/ /etc/slurm/plugstack.conf",
            "srun has not loaded it",
            "mend plugstack.conf",
        ),
        (
            "plugstack.conf",
            "sed -i 's#spool=.*#spool=/nosuch#' /etc/slurm/plugstack.conf.d/bollard.conf",
            "sed -i 's#spool=.*#spool=/var/spool/slurmd#' /etc/slurm/plugstack.conf.d/bollard.conf",
            "says spool=/nosuch, but SlurmdSpoolDir is /var/spool/slurmd",
            "write spool=/var/spool/slurmd there",
        ),
        (
            "Python modules",
            "mv /usr/lib/python3/dist-packages/cffi /usr/lib/python3/dist-packages/cffi.off",
            "mv /usr/lib/python3/dist-packages/cffi.off /usr/lib/python3/dist-packages/cffi",
            "the module cffi is missing",
            "install python3-cffi (Debian)",
        ),
        (
            "bollard.yaml",
            "mkdir /etc/bollard && printf 'home: no\\nmount: [a]\\n' > /etc/bollard/bollard.yaml",
            "rm -r /etc/bollard",
            '/etc/bollard/bollard.yaml:2: no key is called "mount"',
            "did you mean mounts?",
        ),
    ],
)
def test_what_is_wrong_is_found(cluster: Cluster, check: str, spoil: str, undo: str, said: str, fix: str) -> None:
    """`bollard site check` reports each fault. When its fix is a command, the command mends the fault."""
    with changed(cluster, spoil, undo or fix, "n1"):
        done = cluster.exec(["bollard", "site", "check", "--json"], node="n1")
        (finding,) = [row for row in checks(done)[check] if row["state"] == "failure"]
        assert done.rc == 1 and said in finding["text"] and fix in finding["fix"], finding
    done = cluster.exec(["bollard", "site", "check", "--json"], node="n1")
    assert done.rc == 0 and {row["state"] for row in checks(done)[check]} == {"ok"}, done


YAML = """\
mounts: [/opt/test-data:/site/data:ro, /nowhere]
home: no
environment: {SITE_SAYS: hello}
images-forbidden: [/opt/test-data]
"""


def test_settings_hold_on_the_nodes(cluster: Cluster, images: Images, work: Work) -> None:
    """Settings hold on the node that runs the step. For images they hold on the submit host too, before submission."""
    write = f"mkdir /opt/test-data /etc/bollard; echo data > /opt/test-data/file; printf '%s' '{YAML}'"
    write += f" > /etc/bollard/bollard.yaml; cp {images.small} /opt/test-data/a.sif; bollard site configure"
    undo = "rm -r /opt/test-data /etc/bollard; bollard site configure"
    with changed(cluster, write, undo, "ctl", "n1"):
        command = "cat /site/data/file; echo $SITE_SAYS; test ! -e ~ && echo no home; test -e /nowhere"
        done = cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", command, cwd="/")
        assert done.out.splitlines() == ["data", "hello", "no home"], done
        done = cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", "echo x > /site/data/y", cwd="/")
        assert done.rc != 0 and "Read-only" in done.err, done
        done = cluster.exec(["bollard", "exec", images.small, "cat", "/site/data/file"], node="n1", cwd="/")
        assert good(done) == "data\n"
        done = cluster.exec(["srun", "-w", "n1", "--container=/opt/test-data/a.sif", "true"])
        assert done.rc == 255 and len(done.complaints()) == 1 and "queued" not in done.err, done
        assert "this site runs no image from /opt/test-data" in done.err, done
        link = f"{work.path}/a.sif"
        good(cluster.exec(["ln", "-s", "/opt/test-data/a.sif", link]))
        done = cluster.exec(["bollard", "exec", link, "true"], node="n1")
        assert done.rc == 255 and "this site runs no image from /opt/test-data" in done.err, done
    done = cluster.srun("-w", "n1", f"--container={images.small}", "sh", "-c", "test -e ~; echo $? $SITE_SAYS")
    assert good(done) == "0\n"


def test_the_container_that_was_idle_for_longest_ends(cluster: Cluster, images: Images) -> None:
    """Named containers show by what is in them whether they are still there."""
    write = "mkdir /etc/bollard; echo 'idle-containers: 2' > /etc/bollard/bollard.yaml; bollard site configure"
    undo = "rm -r /etc/bollard; bollard site configure"
    make = f"srun -Q --container={images.small} --container-writable --container-name=$n sh -c 'echo '$n' > /opt/mark'"
    look = "srun -Q --container-name=$n:exec cat /opt/mark 2> /dev/null || echo no $n"
    script = f"for n in a b c; do {make}; done; n=b; {look}; n=d; {make}; for n in a b c d; do {look}; done"
    with changed(cluster, write, undo, "n1"):
        done = cluster.exec(["salloc", "-Q", "-w", "n1", "bash", "-c", script])
    # c is newer than b, but b had a step after it.
    assert done.out.split("\n") == ["b", "no a", "b", "no c", "d", ""], done


def test_layers_follow_the_policy_on_images(cluster: Cluster, images: Images, work: Work) -> None:
    """The policy covers overlays and writable directories: on the submit host, on the node, and in `bollard exec`."""
    good(cluster.exec("mkdir ov tree tree/bin", node="n1", cwd=work.path))
    write = f"mkdir /etc/bollard /opt/test-apps && cp {images.small} /opt/test-apps/a.sif && "
    write += "echo 'images-allowed: [/opt/test-apps]' > /etc/bollard/bollard.yaml && bollard site configure"
    undo = "rm -r /etc/bollard /opt/test-apps; bollard site configure"
    image = "/opt/test-apps/a.sif"
    with changed(cluster, write, undo, "ctl", "n1"):
        for options in (f"--overlay {work.path}/ov", f"--overlay {work.path}/ov:ro"):
            done = cluster.exec(["bollard", "exec", *options.split(), image, "true"], node="n1")
            assert done.rc == 255 and "this site takes no overlay from " in done.err, done
            done = cluster.exec(["srun", "-w", "n1", f"--container={image}", f"--container-opts={options}", "true"])
            assert done.rc == 255 and "this site takes no overlay from " in done.err and "queued" not in done.err, done
        done = cluster.exec(["bollard", "exec", "--writable", f"{work.path}/tree", "true"], node="n1")
        assert done.rc == 255 and "this site runs no image from " in done.err, done
        good(cluster.exec(["bollard", "exec", "--writable-tmpfs", image, "true"], node="n1"))


@pytest.fixture
def own(cluster: Cluster) -> Iterator[str]:
    """Make a separate installation on a node; yields the output of the installation."""
    conf = f"mkdir -p {OWN}/etc; sed 's#^PlugStackConfig=.*#PlugStackConfig={OWN}/etc/plugstack.conf#'"
    good(cluster.exec(f"{conf} /etc/slurm/slurm.conf > {OWN}/etc/slurm.conf", node=NODE, user="root"))
    try:
        yield good(cluster.exec(BUILD, node=NODE, user="root"))
    finally:
        cluster.exec(["rm", "-rf", OWN], node=NODE, user="root")


def listing(cluster: Cluster) -> list[str]:
    return good(cluster.exec(f"cd {OWN}; find . | sort", node=NODE, user="root")).splitlines()


def test_the_life_of_an_installation(cluster: Cluster, own: str) -> None:
    assert f"added to {OWN}/etc/plugstack.conf: include {OWN}/etc/plugstack.conf.d/*.conf" in own
    line = good(cluster.exec(["cat", f"{OWN}/etc/plugstack.conf.d/bollard.conf"], node=NODE))
    assert line == f"required {TREE}/spank_bollard.so spool=/var/spool/slurmd\n"
    found = checks(cluster.exec([COMMAND, "site", "check", "--json"], node=NODE))
    for name in ("installation", "owners", "Python", "plugstack.conf", "plugin", "container"):
        assert [row["state"] for row in found[name]] == ["ok"], found[name]
    # Install again, from the installed tree: it can build itself, changes nothing outside, and keeps one older tree.
    first = good(cluster.exec(["readlink", TREE], node=NODE))
    for again in (["--names"], []):  # an upgrade keeps the names
        said = good(cluster.exec([COMMAND, "site", "install", *again], node=NODE, user="root"))
        assert f"PATH={TREE}/names:$PATH" in said
        assert good(cluster.exec([f"{TREE}/names/singularity", "version"], node=NODE)).startswith("1.4.5+bollard.")
        assert said.startswith(f"exchanged {TREE}") and "wrote" not in said and "added" not in said
    assert good(cluster.exec(["readlink", TREE], node=NODE)) != first
    trees = good(cluster.exec(f"ls -d {TREE}-*", node=NODE)).splitlines()
    assert len(trees) == 2 and not any(tree.endswith(first.strip()) for tree in trees)
    # Rollback exchanges the two; what lies outside stays.
    now = good(cluster.exec(["readlink", TREE], node=NODE))
    for expected in ([tree for tree in trees if not tree.endswith(now.strip())][0], f"{OWN}/lib/{now.strip()}"):
        said = good(cluster.exec([COMMAND, "site", "rollback"], node=NODE, user="root"))
        assert f"it is {expected}; bollard " in said and "(was " in said, said
        assert good(cluster.exec(["readlink", "-f", TREE], node=NODE)).strip() == expected
    launcher = f"{OWN}/bin/run-singularity"
    done = cluster.exec([launcher, f"{OWN}/none.sif"], node=NODE)
    assert done.complaints()[0].startswith(f"bollard: {OWN}/none.sif:")
    good(cluster.exec(f"echo '# of another' > {launcher}", node=NODE, user="root"))
    said = good(cluster.exec([COMMAND, "site", "install"], node=NODE, user="root"))
    assert f"left {launcher}, which is not bollard's" in said
    assert good(cluster.exec(f"cat {launcher}; rm {launcher}", node=NODE, user="root")) == "# of another\n"
    good(cluster.exec(f"echo 'home: yes' > {OWN}/bollard.yaml; {COMMAND} site configure", node=NODE, user="root"))
    assert "OMPI" not in good(cluster.exec(PROBE, node=NODE))
    said = good(cluster.exec([COMMAND, "site", "uninstall"], node=NODE, user="root"))
    assert f"left {OWN}/bollard.yaml: yours" in said
    assert listing(cluster) == [".", "./bollard.yaml", "./etc", "./etc/slurm.conf"]


def test_what_others_changed_is_left(cluster: Cluster, own: str) -> None:
    change = f"echo '# mine' >> {OWN}/etc/plugstack.conf.d/bollard.conf; echo 'include /x' >> {OWN}/etc/plugstack.conf"
    good(cluster.exec(change, node=NODE, user="root"))
    said = good(cluster.exec([COMMAND, "site", "uninstall"], node=NODE, user="root"))
    assert f"left {OWN}/etc/plugstack.conf.d/bollard.conf: changed since it was installed" in said
    assert f"left {OWN}/etc/plugstack.conf.d: not empty" in said
    assert good(cluster.exec(["cat", f"{OWN}/etc/plugstack.conf"], node=NODE)) == "include /x\n"


def test_an_upgrade_under_running_jobs(cluster: Cluster, own: str, work: Work) -> None:
    """The prefix changes between two trees all the time, and every container started meanwhile starts."""
    other = good(cluster.exec(f"cp -a {TREE}/. {TREE}-other && readlink {TREE}", node=NODE, user="root")).strip()
    flip = f"""
    while test -d {work.path} -a ! -e {work.path}/done; do
        for tree in bollard-other {other}; do ln -s $tree {TREE}.new && mv -T {TREE}.new {TREE}; done
    done; echo flipped"""
    with cluster.start(flip, node=NODE, user="root") as flipping:
        start = f"for i in $(seq 40); do {PROBE} > /dev/null || echo failed $i; done; touch {work.path}/done"
        assert good(cluster.exec(start, node=NODE)) == ""
        assert until(lambda: flipping.popen.poll() is not None, "the end of flipping")


def test_an_upgrade_under_starting_steps(cluster: Cluster, images: Images, work: Work) -> None:
    """The same test with the installation that Slurm loads."""
    spread = f"cp -a {PREFIX} {PREFIX}-one && mv {PREFIX} {PREFIX}-two && ln -s bollard-two {PREFIX}"
    back = f"rm {PREFIX} && mv {PREFIX}-two {PREFIX} && rm -r {PREFIX}-one"
    flip = f"""
    while test -d {work.path} -a ! -e {work.path}/done; do
        for tree in bollard-one bollard-two; do ln -s $tree {PREFIX}.new && mv -T {PREFIX}.new {PREFIX}; done
    done"""
    with changed(cluster, spread, back, "n1"), cluster.start(flip, node="n1", user="root") as flipping:
        for number in range(15):
            done = cluster.srun("-w", "n1", f"--container={images.small}", f"--container-name=x{number}", "true")
            assert good(done) == ""
        work.write("done", "")
        assert until(lambda: flipping.popen.poll() is not None, "the end of flipping")


def test_an_installation_in_the_old_form_is_exchanged(cluster: Cluster, own: str) -> None:
    """A plain directory, as of a package, is replaced by a link atomically."""
    good(cluster.exec(f"rm {TREE} && mv {TREE}-* {TREE}", node=NODE, user="root"))
    said = good(cluster.exec(BUILD, node=NODE, user="root"))
    assert said.startswith(f"exchanged {TREE}"), said
    assert good(cluster.exec(f"test -L {TREE} && ls -d {TREE}-* | wc -l", node=NODE)) == "2\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"{BUILD} --prefix /tmp/test-site/bollard", "/tmp can be written by everybody"),
        (f"chmod g+w {OWN}; {BUILD}", f"{OWN} can be written by group root"),
        (f"CC=/no/cc {BUILD}", "missing here: a C compiler (/no/cc); install gcc"),
        (f"printf 'home: 1\\nspool: x\\n' > {OWN}/bollard.yaml; {BUILD}", f'{OWN}/bollard.yaml:1: home: "1"'),
    ],
)
def test_nothing_is_changed_when_it_is_refused(cluster: Cluster, command: str, said: str) -> None:
    with changed(cluster, f"mkdir -p {OWN}/etc", f"rm -rf {OWN}", NODE):
        done = cluster.exec(command, node=NODE, user="root")
        assert done.rc == 255 and said in done.err and done.err.startswith("bollard: "), done
        assert set(listing(cluster)) <= {".", "./etc", "./bollard.yaml"}


@pytest.mark.parametrize("verb", ["install", "configure", "rollback", "uninstall"])
def test_users_cannot(cluster: Cluster, verb: str) -> None:
    done = cluster.exec(["bollard", "site", verb], node=NODE)
    assert done.rc == 255 and f"site {verb} needs root" in done.err and len(done.complaints()) == 1, done


def test_a_package(cluster: Cluster) -> None:
    with changed(cluster, f"mkdir -p {OWN}", f"rm -rf {OWN}", NODE):
        good(cluster.exec(f"chown alice {OWN}", node=NODE, user="root"))
        good(cluster.exec(f"{BUILD.replace('--prefix ' + TREE, '')} --destdir {OWN}/stage", node=NODE))
        found = good(cluster.exec(f"cd {OWN}/stage; find . -maxdepth 4 -type d -o -type l | sort", node=NODE))
        assert "./usr/lib/bollard\n" in found and "bollard-" not in found


def test_an_archive_is_uninstalled(cluster: Cluster) -> None:
    """What --destdir made, and tar unpacked, is removed by its own command; a changed line of the plugin too."""
    rule = "/usr/lib/tmpfiles.d/bollard.conf"  # that of the installation of the other tests is equal
    with changed(cluster, f"mkdir -p {OWN} && cp {rule} /root/rule", f"rm -rf {OWN}; mv /root/rule {rule}", NODE):
        unpack = f"{BUILD} --destdir {OWN}/stage && tar -C {OWN}/stage -c . | tar -C / -x && rm -r {OWN}/stage"
        good(cluster.exec(unpack, node=NODE, user="root"))
        good(cluster.exec(f"sed -i 's/$/ record=no/' {OWN}/etc/plugstack.conf.d/bollard.conf", NODE, "root"))
        said = good(cluster.exec([COMMAND, "site", "uninstall"], node=NODE, user="root"))
        assert f"removed {TREE}\n" in said and "silently" in said, said
        assert good(cluster.exec(f"find {OWN} ! -type d", node=NODE)) == "" and "plugstack.conf.d" not in "".join(
            listing(cluster)
        )
