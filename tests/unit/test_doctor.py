# SPDX-License-Identifier: BSD-3-Clause
"""`bollard doctor` on this machine, and the parts of it that need another one."""

from __future__ import annotations

import json
import os

import pytest
from test_main import command, refused

from bollard.runtime.cli import machine
from bollard.spank_plugin.finding import FAILURE, OK, WARNING, identity


def test_this_machine():
    done = command("doctor", "--json")
    told = json.loads(done.stdout)
    states = {row["id"]: row["state"] for row in told["checks"]}
    assert done.returncode == (told["status"] == FAILURE) and done.stderr == ""
    assert {"kernel", "user-namespaces", "squashfuse", "skopeo", "subordinate-ids"} <= set(states)
    for row in told["checks"]:
        assert row["state"] in (OK, WARNING, FAILURE) and row["text"] and "\n" not in row["text"], row
        assert bool(row["fix"]) == (row["state"] != OK), row
        assert row["id"] == identity(row["check"])


def test_lines_name_the_machine():
    done = command("doctor")
    assert done.stdout.startswith(f"{os.uname().nodename.split('.')[0]}: ok: kernel: Linux "), done


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ID=debian\n", "debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora"),
        ("# a comment\nID=fedora\n", "fedora"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "suse"),
        ('ID="sles"\n', "suse"),
        ("ID=arch\n", ""),
        ("", ""),
    ],
)
def test_families(text, kind):
    assert machine.family(machine.os_release(text)) == kind


def test_a_cure_is_of_the_machines_distribution():
    packages = {"debian": "a", "fedora": "b", "suse": "c"}
    assert machine.install(packages, "suse") == "`zypper install c`"
    assert machine.install(packages, "") == "`apt-get install a` or `dnf install b` or `zypper install c`"


def test_the_setting_at_fault_is_named():
    free = {
        "user.max_user_namespaces": "1000",
        "kernel.unprivileged_userns_clone": "1",
        "kernel.apparmor_restrict_unprivileged_userns": "0",
    }
    assert machine.restriction(free) == ("", "") and machine.restriction({}) == ("", "")
    cause, cure = machine.restriction({**free, "user.max_user_namespaces": "0"})
    assert cause == "user.max_user_namespaces=0" and "user.max_user_namespaces=65536" in cure
    cause, cure = machine.restriction({**free, "kernel.unprivileged_userns_clone": "0"})
    assert "kernel.unprivileged_userns_clone=1" in cure
    cause, cure = machine.restriction({**free, "kernel.apparmor_restrict_unprivileged_userns": "1"})
    assert "AppArmor" in cause and "/etc/apparmor.d/bollard" in cure


def test_subordinate_ids():
    text = "anna:100000:65536\nbert:165536:1000\nbert:200000:2000\n1003:300000:65536\nbad:x:y\n"
    assert machine.subordinate_ids(text, "anna", 1001) == 65536
    assert machine.subordinate_ids(text, "bert", 1002) == 2000
    assert machine.subordinate_ids(text, "carl", 1003) == 65536
    assert machine.subordinate_ids(text, "bad", 1004) == 0


def test_an_image_is_refused():
    refused("doctor", "img.sif")
