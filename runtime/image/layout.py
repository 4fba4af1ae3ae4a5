# SPDX-License-Identifier: BSD-3-Clause
"""The files that bollard adds to every image: `/.singularity.d`, the links to it, and the mount points.

Names, modes and behaviour are those of Apptainer. The texts of the scripts are bollard's own.
"""

from __future__ import annotations

from bollard.runtime.constants import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_ACTION: Final = """\
#!/bin/sh
for script in /.singularity.d/env/*.sh; do
    if [ -f "$script" ]; then
        . "$script"
    fi
done
"""
RUNSCRIPT: Final = """\
#!/bin/sh
if [ $# -gt 0 ]; then
    exec "$@"
elif [ -x /bin/bash ]; then
    exec /bin/bash --norc
else
    exec /bin/sh
fi
"""
_BASE: Final = f"""\
#!/bin/sh
# What every program in the container may rely on.
PATH="${{PATH:-{DEFAULT_PATH}}}"
export PATH
"""
_BASE_LAST: Final = """\
#!/bin/sh
# The libraries that the host lends (GPU, network) are found last.
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
export LD_LIBRARY_PATH
"""

DIRECTORIES: Final = (
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/tmp", 0o1777),
)
# Mount points: files of the host are bound over them.
EMPTY_FILES: Final = ("etc/hosts", "etc/resolv.conf")

OWN_DIRECTORIES: Final = (
    ".singularity.d",
    ".singularity.d/actions",
    ".singularity.d/env",
    ".singularity.d/libs",
)
OWN_SCRIPTS: Final = {
    ".singularity.d/actions/exec": _ACTION + 'exec "$@"\n',
    ".singularity.d/actions/run": _ACTION + 'exec /.singularity.d/runscript "$@"\n',
    ".singularity.d/actions/shell": _ACTION + 'exec "${SINGULARITY_SHELL:-/bin/sh}" "$@"\n',
    ".singularity.d/actions/start": _ACTION + 'exec /.singularity.d/startscript "$@"\n',
    ".singularity.d/actions/test": _ACTION + 'exec /.singularity.d/test "$@"\n',
    ".singularity.d/env/01-base.sh": _BASE,
    ".singularity.d/env/90-environment.sh": "#!/bin/sh\n# Variables of this image, one `export` a line.\n",
    ".singularity.d/env/99-base.sh": _BASE_LAST,
    ".singularity.d/runscript": RUNSCRIPT,
    ".singularity.d/startscript": "#!/bin/sh\n",
    ".singularity.d/test": "#!/bin/sh\nexit 0\n",
}
OWN_LINKS: Final = {
    ".exec": ".singularity.d/actions/exec",
    ".run": ".singularity.d/actions/run",
    ".shell": ".singularity.d/actions/shell",
    ".test": ".singularity.d/actions/test",
    "environment": ".singularity.d/env/90-environment.sh",
    "singularity": ".singularity.d/runscript",
}

# For images with SCIF apps.
APPS_SCRIPT: Final = """\
#!/bin/sh
# The app that was asked for: its programs, libraries and variables come first.
if [ -n "${SINGULARITY_APPNAME:-}" ]; then
    export SINGULARITY_APPNAME
    if [ ! -d "/scif/apps/$SINGULARITY_APPNAME" ]; then
        echo "$SINGULARITY_APPNAME: this image has no such app"
        exit 1
    fi
    SCIF_APPS=/scif/apps
    SCIF_APPROOT="/scif/apps/$SINGULARITY_APPNAME"
    PATH="$SCIF_APPROOT/bin:$SCIF_APPROOT:$PATH"
    LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export SCIF_APPS SCIF_APPROOT PATH LD_LIBRARY_PATH
    if [ -f "$SCIF_APPROOT/scif/env/01-base.sh" ]; then
        . "$SCIF_APPROOT/scif/env/01-base.sh"
    fi
    if [ -f "$SCIF_APPROOT/scif/env/90-environment.sh" ]; then
        . "$SCIF_APPROOT/scif/env/90-environment.sh"
    fi
fi
"""
