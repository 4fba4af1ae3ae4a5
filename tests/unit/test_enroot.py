# SPDX-License-Identifier: BSD-3-Clause
"""What is read of images in enroot's layout."""

from __future__ import annotations

import pytest

from bollard.runtime.container import enroot

RC = b"""# maintainer somebody

mkdir -p "/work space" 2> /dev/null
cd "/work space" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/entry.sh' "$@"
else
    exec '/entry.sh' 'bash'
fi
"""


def test_the_working_directory():
    assert enroot.is_layout(RC)
    assert enroot.workdir(RC) == b"/work space"
    assert enroot.workdir(RC.replace(b'"/work space"', b'"/"')) == b""
    assert enroot.workdir(b"cd /elsewhere\n") == b""


@pytest.mark.parametrize("text", [b"", b"#!/bin/sh\n# /etc/rc of a BSD\n", b"\xff\x00"])
def test_another_rc(text):
    assert not enroot.is_layout(text)


def test_the_environment():
    text = b"PATH=/opt/bin:/usr/bin\n# a comment\nQUOTE=it's $A `x`\nDISPLAY=${DISPLAY}\n1X=no\nEMPTY=\nno line\nA-B\n"

    assert enroot.script(text) == (
        b"export PATH='/opt/bin:/usr/bin'\nexport QUOTE='it'\\''s $A `x`'\nexport EMPTY=''\n"
    )


def test_mounts_that_are_not_made():
    text = b"# a comment\n${ENROOT_ROOTFS}/data /data none x-create=dir,bind\n\n/proc /proc rbind\ntmpfs /tmp\nodd\n"
    assert enroot.mount_targets(text) == ["/proc", "/tmp"]
    assert enroot.mount_targets(b"") == []
