# SPDX-License-Identifier: BSD-3-Clause
"""The table of commands. Help, completion and manual pages are rendered from it; cli/main.py has their functions."""

from __future__ import annotations

from bollard.runtime.request import command_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    # usage, one line of help, the command's own options (command_options), whether it takes a container's options
    Command = tuple[str, str, dict[str, tuple[str, str]], bool]

COMMANDS: dict[str, Command] = {
    "exec": (
        "[OPTION...] IMAGE PROGRAM [ARGUMENT...]",
        "run a program in a container",
        command_options.RUN,
        True,
    ),
    "run": (
        "[OPTION...] IMAGE [ARGUMENT...]",
        "run what the image was made for, its runscript",
        command_options.RUN,
        True,
    ),
    "shell": (
        "[OPTION...] IMAGE [ARGUMENT...]",
        "start a shell in a container",
        command_options.SHELL,
        True,
    ),
    "test": ("[OPTION...] IMAGE [ARGUMENT...]", "run the image's own test", command_options.RUN, True),
    "plan": (
        "[OPTION...] IMAGE [PROGRAM [ARGUMENT...]]",
        "show what would be done: options, image, mounts, environment; nothing is started",
        command_options.PLAN,
        True,
    ),
    "ps": ("[--json]", "show the containers that run on this node", {"json": ("", "for programs")}, False),
    "attach": (
        "JOB[.STEP] [PROGRAM [ARGUMENT...]]",
        "start a program, or a shell, in a running container of a job on this node",
        {},
        False,
    ),
    "job": (
        "[OPTION...] JOB",
        "show what is on record of a job: images, nodes, tasks that entered",
        {
            "json": ("", "for programs"),
            "collect": ("", "fetch the records of all its nodes, by a small job on them"),
            "here": ("", "this node's records alone, as JSON"),
            "verify": ("", "read the images again, and compare"),
        },
        False,
    ),
    "build": (
        "[OPTION...] TARGET SOURCE",
        "make the image TARGET from a definition file, an image, an archive or a directory",
        command_options.BUILD,
        False,
    ),
    "pull": (
        "[OPTION...] [TARGET] URI",
        "fetch the image URI, docker://, oras://, library://, ..., as a SIF file",
        command_options.PULL,
        False,
    ),
    "push": (
        "[OPTION...] IMAGE URI",
        "copy an image to a registry (oras://, docker://) or a library (library://)",
        command_options.PUSH,
        False,
    ),
    "search": (
        "[OPTION...] TEXT|oras://HOST/NAME",
        "list the images of a library that match, or the tags of a name in a registry",
        command_options.SEARCH,
        False,
    ),
    "delete": ("[OPTION...] URI", "delete an image of a library or a registry", command_options.DELETE, False),
    "tag": ("[OPTION...] URI TAG", "give an image of a registry another tag", command_options.TAG, False),
    "registry login": (
        "[OPTION...] URI",
        "keep a login to a registry, docker://HOST or oras://HOST, where docker and Apptainer find it",
        command_options.REGISTRY_LOGIN,
        False,
    ),
    "registry logout": ("[OPTION...] URI", "forget a login to a registry", command_options.REGISTRY_LOGOUT, False),
    "registry list": ("[OPTION...]", "list the registries with a login", command_options.REGISTRY_LIST, False),
    "remote list": ("", "list the endpoints of libraries and key servers", command_options.REMOTE["list"], False),
    "remote use": ("[OPTION...] NAME", "use an endpoint from now on", command_options.REMOTE["use"], False),
    "remote add": ("[OPTION...] NAME ADDRESS", "add an endpoint, and use it", command_options.REMOTE["add"], False),
    "remote remove": ("[OPTION...] NAME", "remove an endpoint", command_options.REMOTE["remove"], False),
    "remote login": ("[OPTION...] [NAME]", "keep a token for an endpoint", command_options.REMOTE["login"], False),
    "remote logout": ("[NAME]", "forget the token for an endpoint", command_options.REMOTE["logout"], False),
    "remote status": (
        "[NAME]",
        "show the services of an endpoint, and whether the token is valid",
        command_options.REMOTE["status"],
        False,
    ),
    "remote get-login-password": (
        "",
        "print the password for the registry of the endpoint's library",
        command_options.REMOTE["get-login-password"],
        False,
    ),
    "remote add-keyserver": (
        "[OPTION...] [NAME] ADDRESS",
        "let an endpoint use one more key server; for root",
        command_options.REMOTE["add-keyserver"],
        False,
    ),
    "remote remove-keyserver": (
        "[NAME] ADDRESS",
        "let an endpoint not use a key server any more; for root",
        command_options.REMOTE["remove-keyserver"],
        False,
    ),
    "cache list": ("[OPTION...]", "show what was fetched and is kept", command_options.CACHE_LIST, False),
    "cache pull": (
        "[OPTION...] URI...",
        "fetch images into the cache, for jobs to come; with --shared for all users",
        command_options.CACHE_PULL,
        False,
    ),
    "cache clean": ("[OPTION...]", "remove what was fetched and is kept", command_options.CACHE_CLEAN, False),
    "doctor": (
        "[OPTION...] [IMAGE]",
        "tell what this machine lacks for containers, or what IMAGE needs of Slurm; exit status 1 for a failure",
        command_options.DOCTOR,
        False,
    ),
    "names": (
        "DIR",
        "make links in DIR by which other programs find bollard: apptainer, singularity, run-singularity",
        {},
        False,
    ),
    "site install": (
        "[OPTION...]",
        "build the plugin for this machine's Slurm and Python, install it, tell Slurm of it; again for an upgrade",
        command_options.SITE_INSTALL,
        False,
    ),
    "site configure": ("[OPTION...]", "let this node follow bollard.yaml", command_options.SITE_CONFIGURE, False),
    "site check": (
        "[OPTION...]",
        "tell what works on this node, and what mends the rest; exit status 1 when something does not work",
        command_options.SITE_CHECK,
        False,
    ),
    "site stats": (
        "[OPTION...]",
        "count this node's containers, as Prometheus reads it; for root",
        command_options.SITE_STATS,
        False,
    ),
    "site ecl": (
        "FILE",
        "print what Apptainer's ecl.toml means as the key trust of bollard.yaml",
        {},
        False,
    ),
    "site rollback": (
        "[OPTION...]",
        "exchange the installation for the one before, which install keeps",
        command_options.SITE_ROLLBACK,
        False,
    ),
    "site uninstall": (
        "[OPTION...]",
        "remove what install made, and tell what is left",
        command_options.SITE_UNINSTALL,
        False,
    ),
    "inspect": (
        "[OPTION...] IMAGE",
        "show what an image says of itself: labels, scripts, how it was made",
        command_options.INSPECT,
        False,
    ),
    "sbom": (
        "[OPTION...] IMAGE...",
        "list the packages in images",
        command_options.SBOM,
        False,
    ),
    "run-help": (
        "[OPTION...] IMAGE",
        "show the help that an image's author wrote",
        command_options.RUN_HELP,
        False,
    ),
    "sif list": ("IMAGE", "list the objects in a SIF file", {}, False),
    "sif header": ("IMAGE", "show the header of a SIF file", {}, False),
    "sif info": ("ID IMAGE", "show all about one object in a SIF file", {}, False),
    "sif dump": ("ID IMAGE", "write one object of a SIF file to standard output", {}, False),
    "sif new": ("IMAGE", "make an empty SIF file", {"force": ("", "replace IMAGE if it exists")}, False),
    "sif add": ("[OPTION...] IMAGE FILE", "add FILE to a SIF file as an object", command_options.SIF_ADD, False),
    "sif del": ("ID IMAGE", "delete one object of a SIF file", {}, False),
    "sif setprim": ("ID IMAGE", "choose the partition that a container starts from", {}, False),
    "sign": (
        "[OPTION...] IMAGE",
        "sign a SIF file with a key of the keyring, or of a PEM file",
        command_options.SIGN,
        False,
    ),
    "verify": (
        "[OPTION...] IMAGE",
        "check who signed a SIF file, and that it is as it was signed",
        command_options.VERIFY,
        False,
    ),
    "key newpair": ("[OPTION...]", "make a PGP key, and keep it in the keyring", command_options.KEY_NEWPAIR, False),
    "key list": ("[OPTION...]", "list the keys in the keyring", command_options.KEY_LIST, False),
    "key search": ("[OPTION...] TEXT", "search a key server for a name", command_options.KEY_SEARCH, False),
    "key pull": (
        "[OPTION...] FINGERPRINT",
        "fetch a public key from a key server, and trust it",
        command_options.KEY_SERVER,
        False,
    ),
    "key push": ("[OPTION...] FINGERPRINT", "send a public key to a key server", command_options.KEY_SERVER, False),
    "key import": ("[OPTION...] FILE", "add the keys in FILE, and trust them", command_options.KEY_IMPORT, False),
    "key export": ("[OPTION...] FILE", "write a key of the keyring to FILE", command_options.KEY_EXPORT, False),
    "key remove": (
        "[OPTION...] FINGERPRINT",
        "remove a key from the keyring",
        command_options.KEY_REMOVE,
        False,
    ),
    "overlay create": (
        "[OPTION...] IMAGE",
        "make a writable overlay: in the SIF file IMAGE, or as the file IMAGE",
        command_options.OVERLAY_CREATE,
        False,
    ),
    "flow check": (
        "[OPTION...] FILE",
        "tell all mistakes of a flow file, with their lines; exit status 1 when there is one",
        command_options.FLOW["check"],
        False,
    ),
    "flow submit": (
        "[OPTION...] FILE",
        "hand a flow's jobs to Slurm, all or none; prints the flow's ID",
        command_options.FLOW["submit"],
        False,
    ),
    "flow status": ("[OPTION...] ID", "show how each job of a flow stands", command_options.FLOW["status"], False),
    "flow logs": ("ID [JOB]", "show what the jobs of a flow printed", command_options.FLOW["logs"], False),
    "flow graph": ("[OPTION...] FILE|ID", "show what needs what", command_options.FLOW["graph"], False),
    "flow cancel": (
        "[OPTION...] ID",
        "cancel the jobs of a flow, and remove its ephemeral volumes",
        command_options.FLOW["cancel"],
        False,
    ),
    "flow resume": (
        "[OPTION...] ID [FILE]",
        "submit again what failed, did not run, or has changed in FILE",
        command_options.FLOW["resume"],
        False,
    ),
    "flow list": ("[--json]", "list your flows", command_options.FLOW["list"], False),
    "flow schema": ("", "print the JSON Schema of a flow file, for editors", command_options.FLOW["schema"], False),
    "flow part": (
        "DIR NAME",
        "what a flow's own batch jobs run on a node: moves data, writes the verdict",
        command_options.FLOW["part"],
        False,
    ),
    "completion": ("bash|zsh|fish|powershell", "write what makes a shell complete these commands", {}, False),
    "instance start": (
        "[OPTION...] IMAGE NAME [ARGUMENT...]",
        "start a container that stays in the background, and its startscript",
        command_options.INSTANCE_START,
        True,
    ),
    "instance run": (
        "[OPTION...] IMAGE NAME [ARGUMENT...]",
        "the same with the image's runscript",
        command_options.INSTANCE_START,
        True,
    ),
    "instance list": (
        "[OPTION...] [PATTERN]",
        "list the instances on this machine",
        command_options.INSTANCE_LIST,
        False,
    ),
    "instance stop": ("[OPTION...] [PATTERN]", "stop instances", command_options.INSTANCE_STOP, False),
    "instance stats": (
        "[OPTION...] NAME",
        "show what an instance uses, again and again",
        command_options.INSTANCE_STATS,
        False,
    ),
}

_CAPABILITIES = (
    "a container has the rights of its user, and no others: there are no capabilities to give",
    "leave it out; --fakeroot makes a program appear as root",
)
_CHECKPOINTS = (
    "checkpoints are not made",
    "start the program with DMTCP in the image: bollard exec IMAGE dmtcp_launch PROGRAM",
)
_BUNDLES = (
    "OCI bundles are not run",
    "make an image of one, `bollard build img.sif oci:DIR`, or start the bundle with runc or crun",
)
_PLUGINS = (
    "there are no plugins of Apptainer's",
    "what every container of a site needs is in /etc/bollard/bollard.yaml: `bollard site configure --example`",
)

# Apptainer's commands that are refused: (why, what to do instead). A group has the answer of its commands.
REFUSED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("capability", *(f"capability {verb}" for verb in ("add", "avail", "drop", "list"))), _CAPABILITIES
    ),
    **dict.fromkeys(
        ("checkpoint", *(f"checkpoint {verb}" for verb in ("create", "delete", "instance", "list"))), _CHECKPOINTS
    ),
    **dict.fromkeys(
        ("oci", *(f"oci {verb}" for verb in ("attach", "create", "delete", "exec", "kill", "mount", "pause", "resume",
                                             "run", "start", "state", "umount", "update"))),
        _BUNDLES,
    ),
    **dict.fromkeys(
        ("plugin", *(f"plugin {verb}" for verb in ("compile", "create", "disable", "enable", "inspect", "install",
                                                   "list", "uninstall"))),
        _PLUGINS,
    ),
    **dict.fromkeys(
        ("config", "config global"),
        (
            "Apptainer's configuration file has no effect here",
            "write /etc/bollard/bollard.yaml; then `bollard site configure`",
        ),
    ),
    "config fakeroot": (
        "/etc/subuid and /etc/subgid are used as they are",
        "as root: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER",
    ),
    **dict.fromkeys(
        ("keyserver", "keyserver list"),
        ("key servers belong to remotes", "write `bollard remote list`, or `bollard key search --url URL`"),
    ),
    "keyserver add": ("key servers belong to remotes", "write `bollard remote add-keyserver ADDRESS`"),
    "keyserver remove": ("key servers belong to remotes", "write `bollard remote remove-keyserver ADDRESS`"),
    **dict.fromkeys(
        ("keyserver login", "keyserver logout"),
        ("a key server takes no login: public keys are public", "leave it out"),
    ),
    "apps": ("it is a command of Singularity 2", "write `bollard inspect --list-apps IMAGE`"),
}  # fmt: skip
