# SPDX-License-Identifier: BSD-3-Clause
"""The user in the container's /etc/passwd and /etc/group."""

from __future__ import annotations

import os

from bollard.runtime.system import identity

PASSWD = b"root:x:0:0:root:/root:/bin/bash\nbuilder:x:1000:1000::/build:/bin/sh\n"


def test_the_users_line_replaces_the_images_of_that_number() -> None:
    line = b"alice:x:1000:1000::/home/alice:/bin/bash"

    merged = identity.merged(PASSWD, [line])

    assert merged == b"root:x:0:0:root:/root:/bin/bash\n" + line + b"\n"


def test_a_file_with_nothing_in_it_gets_the_users_line() -> None:
    assert identity.merged(b"", [b"a:x:7:7::/:/bin/sh"]) == b"a:x:7:7::/:/bin/sh\n"


def test_odd_lines_of_the_image_stay_and_empty_ones_go() -> None:
    assert identity.merged(b"+\n\n# comment\n", [b"a:x:7:"]) == b"+\n# comment\na:x:7:\n"


def test_lines_name_this_user_and_a_line_for_each_known_group() -> None:
    lines = identity.lines("/somewhere")

    fields = lines["passwd"][0].split(b":")
    assert fields[2:4] == [b"%d" % os.getuid(), b"%d" % os.getgid()]
    assert fields[5] == b"/somewhere"
    assert {int(line.split(b":")[2]) for line in lines["group"]} <= {os.getgid(), *os.getgroups()}


def test_the_images_root_stays_as_it_is() -> None:
    assert identity.merged(PASSWD, [b"root:x:0:0:root:/root:/bin/sh"]) == PASSWD
    assert identity.merged(b"", [b"root:x:0:0:root:/root:/bin/sh"]) == b"root:x:0:0:root:/root:/bin/sh\n"
