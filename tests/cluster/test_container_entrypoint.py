# SPDX-License-Identifier: BSD-3-Clause
"""--container-entrypoint: the program of an image, enroot's layout among them."""

from __future__ import annotations

import re

import pytest
from cluster import Cluster, Images, Work, good

# The image's entrypoint.


@pytest.fixture
def with_entrypoint(cluster: Cluster, images: Images, work: Work) -> str:
    """An image whose runscript prints a line, exports a variable and executes its arguments."""
    script = work.write(
        "make.sh", "printf '#!/bin/sh\\necho hello\\nexport MADE=here\\nexec \"$@\"\\n' > /.singularity.d/runscript"
    )
    path = f"{work.path}/entry.sif"
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    return path


def test_an_entrypoint(cluster: Cluster, with_entrypoint: str) -> None:
    words = ["-N1", "-n2", f"--container={with_entrypoint}"]
    show = ["sh", "-c", "echo made $MADE"]
    assert good(cluster.srun(*words, *show)) == "made\nmade\n"
    assert good(cluster.srun(*words, "--container-entrypoint", *show)) == "made here\nmade here\n"
    assert good(cluster.srun(*words, *show, env={"PYXIS_CONTAINER_ENTRYPOINT": "1"})) == "made here\nmade here\n"
    logged = cluster.srun(*words, "--container-entrypoint", "--container-entrypoint-log", *show)
    assert (logged.rc, logged.out, logged.err) == (0, "made here\nmade here\n", "hello\n")
    off = cluster.srun(*words, "--no-container-entrypoint", *show, env={"PYXIS_CONTAINER_ENTRYPOINT": "1"})
    assert good(off) == "made\nmade\n"


def test_an_entrypoint_that_does_not_go_on(cluster: Cluster, images: Images, work: Work) -> None:
    path = f"{work.path}/entry.sif"
    script = work.write(
        "make.sh", "printf '#!/bin/sh\\necho no licence here >&2\\nexit 0\\n' > /.singularity.d/runscript"
    )
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    done = cluster.srun(f"--container={path}", "--container-entrypoint", "true")
    assert "--no-container-entrypoint" in done.refusal()
    assert "no licence here" in done.err  # the script's message is shown even without --container-entrypoint-log


# Images of enroot's.

ENROOT = """
mkdir /workspace
cat > /etc/fstab <<'END'
${ENROOT_ROOTFS}/data /data none x-create=dir,bind
/proc /proc rbind
${HOME} /mnt/home none rbind
END
cat > /etc/environment <<'END'
PATH=/opt/own:/usr/bin:/bin
GREETING=it's me
END
cat > /etc/rc <<'END'
mkdir -p "/workspace" 2> /dev/null
cd "/workspace" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec '/entry.sh' "$@"
else
    exec '/entry.sh' 'bash'
fi
END
printf '#!/bin/sh\\necho hello\\nexport MADE=here\\nexec "$@"\\n' > /entry.sh
chmod +x /entry.sh
rm -rf /.singularity.d
"""


def test_an_image_in_enroots_layout(cluster: Cluster, images: Images, work: Work) -> None:
    path = f"{work.path}/enroot.sqsh"
    script = work.write("make.sh", ENROOT)
    good(cluster.srun(f"--container={images.small}", "--container-writable", f"--container-save={path}", "sh", script))
    show = ["sh", "-c", "echo $(pwd) ${PATH#*bollard/bin:} $GREETING $MADE"]  # one line: those of two tasks can mix
    words = ["-N1", "-n2", f"--container-image={path}"]
    first = cluster.srun(*words, *show)
    (line,) = first.complaints()
    assert f"{path}: mounts of its /etc/fstab are not made: /mnt/home; " in line, first
    plain = first.out.splitlines()
    assert len(plain) == 2 and plain[0] == plain[1], plain
    assert plain[0].startswith("/workspace /opt/own:/usr/bin:/bin") and plain[0].endswith("bin it's me"), plain
    started = cluster.srun(*words, "--container-entrypoint", *show).out.splitlines()
    assert len(started) == 2 and all(re.fullmatch("/workspace [^ ]+ it's me here", line) for line in started), started
    assert cluster.srun(*words, "--container-workdir=/usr", "pwd").out == "/usr\n/usr\n"
