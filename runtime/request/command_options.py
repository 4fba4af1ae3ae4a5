# SPDX-License-Identifier: BSD-3-Clause
"""The options of single commands, as data: name -> (the word for its value, "" for a switch; help).

This module imports nothing, so that it costs `bollard exec` no time. `MIXED` lists the commands whose options may come
after their words, as in Apptainer. `SHORT` lists letters that have another meaning in one command than in the others.
"""

Own = dict[str, tuple[str, str]]

# Options of commands that can fetch an image.
FETCH: Own = {
    "authfile": ("FILE", "logins to registries, as `docker login` and `skopeo login` write them"),
    "docker-login": ("", "ask for the user name and password of a registry"),
    "docker-host": ("ADDRESS", "the Docker daemon that docker-daemon: is about [BOLLARD_DOCKER_HOST]"),
    "no-https": ("", "a registry or library may speak plain HTTP [BOLLARD_NOHTTPS]"),
    "disable-cache": ("", "neither use nor fill the cache [BOLLARD_DISABLE_CACHE]"),
}
_LIBRARY: Own = {"library": ("URL", "the library that library:// is about [BOLLARD_LIBRARY]")}
_VERBOSE: Own = {"verbose": ("", "tell which policy decides whether an image may be fetched [BOLLARD_VERBOSE]")}
_ARCH: Own = {
    "arch": ("ARCH", "for another architecture or variant: amd64, amd64/v2, arm64, ... [BOLLARD_PULL_ARCH]"),
    "arch-variant": ("VARIANT", "its variant, as in --arch=ARCH/VARIANT"),
}
PULL: Own = {
    "force": ("", "replace TARGET if it exists"),
    "dir": ("DIR", "where to write it [BOLLARD_PULLDIR]"),
    "name": ("NAME", "its name, in the place of TARGET [BOLLARD_PULL_NAME]"),
    "sandbox": ("", "make a directory instead of a SIF file"),
    **_ARCH,
    **_LIBRARY,
    **FETCH,
    **_VERBOSE,
    "key": ("FILE", "fetch only an image that cosign has signed; FILE is the public key in PEM form"),
    "allow-unsigned": ("", "library://: no warning if no key in the keyring has signed it [BOLLARD_ALLOW_UNSIGNED]"),
}
_REGISTRY: Own = {key: FETCH[key] for key in ("authfile", "docker-login", "no-https")}
PUSH: Own = {
    "allow-unsigned": ("", "push an image to a library without a check of its signature [BOLLARD_ALLOW_UNSIGNED]"),
    "description": ("TEXT", "a description of the image, for who searches"),
    "annotation": ("KEY=VALUE", "oras://, docker://: an annotation of the manifest"),
    "arch": ("ARCH", "the variant that is pushed: amd64, arm64, ...; default: that of the image"),
    **_LIBRARY,
    **_REGISTRY,
    **_VERBOSE,
}
SEARCH: Own = {
    "arch": ("ARCH", "library://: for another architecture than this machine's [BOLLARD_SEARCH_ARCH]"),
    "signed": ("", "library://: only signed images"),
    "json": ("", "for programs"),
    **_LIBRARY,
    **_REGISTRY,
}
DELETE: Own = {
    "force": ("", "do not ask"),
    "arch": ("ARCH", "library://: of another architecture than this machine's [BOLLARD_ARCH]"),
    **_LIBRARY,
    **_REGISTRY,
}
TAG: Own = {**_REGISTRY}
_SECRET: Own = {
    "password-stdin": ("", "read the password or token from standard input"),
    "password": ("TEXT", "refused: everybody on this machine could read it"),
}
REGISTRY_LOGIN: Own = {
    "username": ("NAME", "your name at the registry [BOLLARD_LOGIN_USERNAME]"),
    **_SECRET,
    "authfile": ("FILE", "the file to keep the login in, in the form of docker's config.json"),
    "no-https": FETCH["no-https"],
}
REGISTRY_LOGOUT: Own = {"authfile": ("FILE", "the file that has the login")}
REGISTRY_LIST: Own = {"json": ("", "for programs")}
_REMOTE: Own = {"config": ("FILE", "the file of endpoints; default: ~/.apptainer/remote.yaml")}
_GLOBAL: Own = {"global": ("", "change the endpoints of this machine, in /etc/apptainer/remote.yaml; for root")}
_TOKEN: Own = {"tokenfile": ("FILE", "a file that holds the token")}
REMOTE: dict[str, Own] = {
    "list": {"json": ("", "for programs"), **_REMOTE},
    "use": {"exclusive": ("", "allow no other; for root"), **_GLOBAL, **_REMOTE},
    "add": {
        "insecure": ("", "speak plain HTTP with it"),
        "no-default": ("", "do not use it now"),
        "no-login": ("", "do not ask for a token"),
        **_TOKEN,
        **_GLOBAL,
        **_REMOTE,
    },
    "remove": {**_GLOBAL, **_REMOTE},
    "login": {
        **_TOKEN,
        **_SECRET,
        "username": REGISTRY_LOGIN["username"],
        "insecure": ("", "as --no-https"),
        **_REMOTE,
    },
    "logout": _REMOTE,
    "status": _REMOTE,
    "get-login-password": _REMOTE,
    "add-keyserver": {"order": ("N", "its place, from 1"), "insecure": ("", "do not check its certificate"), **_REMOTE},
    "remove-keyserver": _REMOTE,
}
CACHE_PULL: Own = {
    "shared": ("", "into the site's cache, `cache.shared` in bollard.yaml; for its owner"),
    "arch": PULL["arch"],
    **_LIBRARY,
    **FETCH,
    **_VERBOSE,
}
CACHE_LIST: Own = {
    "shared": ("", "the site's cache"),
    "verbose": ("", "each file of it"),
    "type": ("TYPES", "only these: library, oci-tmp, oras, net, blob"),
    "json": ("", "for programs"),
}
CACHE_CLEAN: Own = {
    "type": ("TYPES", "only these: library, oci-tmp, oras, net, blob"),
    "days": ("N", "only what is older than N days"),
    "dry-run": ("", "show what would be removed"),
    "force": ("", "do not ask"),
}
_TYPED: Own = {"passphrase": ("", "ask for the passphrase of an encrypted image [BOLLARD_ENCRYPTION_PASSPHRASE]")}
RUN: Own = {**_TYPED, **FETCH}
SHELL: Own = {"shell": ("PATH", "instead of the image's bash or sh [BOLLARD_SHELL]"), **RUN}
PLAN: Own = {"json": ("", "for programs"), **FETCH}

INSPECT: Own = {
    "labels": ("", "the labels; what is shown without an option"),
    "deffile": ("", "the definition file it was built from"),
    "runscript": ("", "what `bollard run` starts"),
    "startscript": ("", "what an instance starts"),
    "test": ("", "what `bollard test` starts"),
    "environment": ("", "the scripts that set its variables"),
    "helpfile": ("", "what `bollard run-help` shows"),
    "list-apps": ("", "the apps in it"),
    "app": ("NAME", "of one app in it"),
    "json": ("", "for programs"),
    "all": ("", "everything, as JSON"),
    "sbom": ("", "the list of its packages, in SPDX"),
    "provenance": ("", "the statement of how it was built, in-toto and SLSA"),
    **FETCH,
}
SBOM: Own = {
    "find": ("NAME", "only packages with NAME in their name or in that of their source package"),
    "json": ("", "for programs"),
    **FETCH,
}
RUN_HELP: Own = {"app": ("NAME", "of one app in it"), **FETCH}
SIF_ADD: Own = {
    "datatype": (
        "N",
        "what is added: 1 definition file, 2 variables, 3 labels, 4 partition, 5 signature, 6 JSON, 7 anything, "
        "8 encrypted message, 9 SBOM, 10 OCI root index, 11 OCI blob",
    ),
    "parttype": ("N", "of a partition: 1 system, 2 primary system, 3 data, 4 overlay"),
    "partfs": ("N", "of a partition: 1 squashfs, 2 ext3, 3 archive, 4 raw"),
    "partarch": (
        "N",
        "of a partition: 1 386, 2 amd64, 3 arm, 4 arm64, 5 ppc64, 6 ppc64le, 7 mips, 8 mipsle, 9 mips64, "
        "10 mips64le, 11 s390x, 12 riscv64, 13 loong64",
    ),
    "signhash": ("N", "of a signature: 1 SHA256, 2 SHA384, 3 SHA512, 4 BLAKE2s, 5 BLAKE2b"),
    "signentity": ("HEX", "of a signature: the fingerprint of who signed, 40 digits"),
    "sbomformat": (
        "NAME",
        "of an SBOM: cyclonedx-json, cyclonedx-xml, github-json, spdx-json, spdx-rdf, spdx-tag-value, spdx-yaml, "
        "syft-json",
    ),
    "groupid": ("N", "the group it belongs to; none without this"),
    "link": ("N", "the object it is about"),
    "alignment": ("BYTES", "it begins at a multiple of this; 4096 for a partition without this"),
    "filename": ("NAME", "its name in the file"),
}
_PASSPHRASE: Own = {"passphrase-file": ("FILE", "its first line is the passphrase of the key; else you are asked")}
SIGN: Own = {
    "group-id": ("N", "sign the objects of this group alone"),
    "sif-id": ("N", "sign this object alone"),
    "key": ("FILE", "a private key in a PEM file: RSA, ECDSA or ed25519 [BOLLARD_SIGN_KEY]"),
    "keyidx": ("N", "the key of this number in `bollard key list --secret`"),
    "gpg-key": ("FINGERPRINT", "a key of your own GnuPG, or of a smart card; gpg-agent asks for its passphrase"),
    **_PASSPHRASE,
}
VERIFY: Own = {
    "all": ("", "all objects, which is the default"),
    "group-id": ("N", "the objects of this group alone"),
    "sif-id": ("N", "this object alone"),
    "key": ("FILE", "signed by the private key to this public key, a PEM file [BOLLARD_VERIFY_KEY]"),
    "certificate": ("FILE", "signed by the key of this certificate, a PEM file [BOLLARD_VERIFY_CERTIFICATE]"),
    "certificate-intermediates": ("FILE", "certificates between it and a root [BOLLARD_VERIFY_INTERMEDIATES]"),
    "certificate-roots": ("FILE", "trusted roots, instead of this machine's [BOLLARD_VERIFY_ROOTS]"),
    "ocsp-verify": ("", "refused: no server is asked whether a certificate was revoked"),
    "legacy-insecure": ("", "refused: signatures from before 2020 do not protect the image"),
    "local": ("", "ask no key server"),
    "url": ("URL", "fetch keys that are not in the keyring from this key server [BOLLARD_KEYSERVER]"),
    "json": ("", "for programs"),
    **{key: FETCH[key] for key in ("authfile", "docker-login", "no-https")},
}
_KEYSDIR: Own = {"keysdir": ("DIR", "the directory of the keyrings; default: ~/.apptainer/keys [BOLLARD_KEYSDIR]")}
_KEYS: Own = {"global": ("", "this machine's keyring, /etc/apptainer/global-pgp-public"), **_KEYSDIR}
_SERVER: Own = {"url": ("URL", "the key server, https://HOST or hkp://HOST [BOLLARD_KEYSERVER]")}
KEY_NEWPAIR: Own = {
    "name": ("NAME", "whose key it is"),
    "email": ("ADDRESS", "the owner's email address"),
    "comment": ("TEXT", "a comment for its user id"),
    "bit-length": ("N", "its length; 4096 without this"),
    "password": ("WORD", "with an empty value: no passphrase; another value is refused, because ps would show it"),
    **_PASSPHRASE,
    "push": ("", "send the public key to a key server"),
    **_SERVER,
    **_KEYSDIR,
}
KEY_LIST: Own = {"secret": ("", "private keys instead of public ones"), **_KEYS}
KEY_SEARCH: Own = {"long-list": ("", "full fingerprints, dates and all user ids"), **_SERVER}
KEY_SERVER: Own = {**_SERVER, **_KEYS}
KEY_IMPORT: Own = {"new-password": ("", "refused: change it with gpg"), **_KEYS}
KEY_EXPORT: Own = {
    "armor": ("", "as text"),
    "secret": ("", "a private key"),
    **_KEYS,
}
KEY_REMOVE: Own = {
    "public": ("", "the public key alone, which is the default"),
    "secret": ("", "the private key alone"),
    "both": ("", "the public and the private key"),
    **_KEYS,
}
OVERLAY_CREATE: Own = {
    "size": ("MIB", "of its filesystem; 64 without this, which is the least"),
    "sparse": ("", "take disk space only when it is written to"),
    "create-dir": ("DIR", "a directory to make in it; commas between several"),
    "fakeroot": ("", "its directories belong to root, for use with --fakeroot"),
}

BUILD: Own = {
    "sandbox": ("", "make a directory instead of a SIF file"),
    "force": ("", "replace TARGET if it exists; labels and help of the definition win over the base image's"),
    "update": ("", "run the definition on the sandbox TARGET instead of its Bootstrap"),
    "section": ("NAMES", "only these sections: setup, post, files, environment, test, labels, none, ..."),
    "notest": ("", "do not run %test"),
    "base": ("IMAGE", "what requirements.txt, environment.yml or a Python script is added to: a file or URI"),
    "print": ("", "show the definition that SOURCE stands for, and build nothing"),
    "on-slurm": ("[OPTIONS]", "build on a node, in a job of one task; OPTIONS are srun's: --on-slurm='-c8 --mem=16G'"),
    "build-arg": ("KEY=VALUE", "a value for {{ KEY }}"),
    "build-arg-file": ("FILE", "lines of KEY=VALUE"),
    "warn-unused-build-args": ("", "a build argument that nothing uses is no error"),
    "bind": ("SRC[:DST[:ro]],...", "make host paths visible to %post and %test"),
    "mount": ("type=bind,src=SRC,dst=DST[,ro]", "the same, in docker's words"),
    "writable-tmpfs": ("", "let %test write to the image; what it writes is dropped"),
    "fix-perms": ("", "give the owner all permissions of files, and of directories also execute"),
    "mksquashfs-args": ("ARGUMENTS", "further arguments for mksquashfs, as one word: '-comp xz -processors 2'"),
    "no-cleanup": ("", "keep the directory of a build that fails, and tell where it is"),
    **_ARCH,
    "reproducible": ("", "equal trees give equal images [SOURCE_DATE_EPOCH]"),
    "no-sbom": ("", "do not store a list of the packages and a statement of origin in the image"),
    "fakeroot": ("", "accepted: a build without root is always one"),
    "ignore-subuid": ("", "do without the ids of /etc/subuid"),
    "ignore-seccomp": ("", "do without a seccomp filter: with the host's fakeroot"),
    "encrypt": ("", "encrypt its filesystem, with one of the next three or their variables"),
    "passphrase": ("", "encrypt it; ask for the passphrase [BOLLARD_ENCRYPTION_PASSPHRASE]"),
    "passphrase-file": (
        "FILE",
        "encrypt it with the passphrase in the first line of FILE [BOLLARD_ENCRYPTION_PASSPHRASE_FILE]",
    ),
    "pem-path": ("FILE", "encrypt it for this public RSA key in PEM form [BOLLARD_ENCRYPTION_PEM_PATH]"),
    **_VERBOSE,
    **_LIBRARY,
    **FETCH,
}
_USER: Own = {"user": ("NAME", "another user's; for root alone")}
INSTANCE_START: Own = {
    "pid-file": ("FILE", "write the process id of the instance to FILE [BOLLARD_PID_FILE]"),
    **RUN,
}
INSTANCE_LIST: Own = {
    "json": ("", "for programs"),
    "logs": ("", "show where their output is"),
    "all": ("", "accepted for Apptainer's sake"),
    **_USER,
}
INSTANCE_STOP: Own = {
    "all": ("", "all of yours"),
    "force": ("", "kill at once"),
    "signal": ("SIGNAL", "what the script is sent; SIGINT without this"),
    "timeout": ("SECONDS", "how long to wait before what is left is killed; 10 without this"),
    **_USER,
}
INSTANCE_STATS: Own = {"json": ("", "for programs; once"), "no-stream": ("", "once"), **_USER}
_PREFIX: Own = {
    "prefix": ("DIR", "where the installation is; default: the one this command belongs to, or /usr/lib/bollard")
}
_SLURM_CONF: Own = {"slurm-conf": ("DIR", "the directory of slurm.conf; default: that of SLURM_CONF, or /etc/slurm")}
_CONFIG: Own = {"config": ("FILE", "the site's settings; default: /etc/bollard/bollard.yaml")}
SITE_INSTALL: Own = {
    **_PREFIX,
    **_SLURM_CONF,
    **_CONFIG,
    "bin": ("DIR", "where the command bollard goes; default: /usr/bin"),
    "names": ("", "make apptainer, singularity and run-singularity in PREFIX/names, for PATH; kept by an upgrade"),
    "destdir": ("DIR", "make the files of a package below DIR, and change nothing else"),
}
SITE_CONFIGURE: Own = {**_PREFIX, **_CONFIG, "example": ("", "print a bollard.yaml to start from")}
SITE_CHECK: Own = {
    **_PREFIX,
    **_SLURM_CONF,
    **_CONFIG,
    "nodes": ("LIST", "check these nodes through srun, and show a table: n[1-9], or all"),
    "json": ("", "for programs"),
}
SITE_STATS: Own = {
    **_PREFIX,
    "json": ("", "for programs"),
    "output": ("FILE", "write the text to FILE by a rename, and keep the totals of records that are removed later"),
}
DOCTOR: Own = {
    "mpi": ("TYPE", "whether the image's MPI finds its ranks with this value of srun's --mpi; default: MpiDefault"),
    "nodes": ("LIST", "check the image on these nodes, through srun"),
    "json": ("", "for programs"),
}
SITE_ROLLBACK: Own = {**_PREFIX, **_CONFIG}
SITE_UNINSTALL: Own = {**_PREFIX, **_SLURM_CONF, **_CONFIG}

# Apptainer's options of single commands that are accepted and have no effect: command -> option -> pair. The pair is
# the word for the option's value ("" for a switch), and why there is nothing to do.
NOTHING_TO_DO: dict[str, Own] = {
    "build": {"userns": ("", "a build never has more rights than its user")},
    "pull": {"no-cleanup": ("", "layers that were fetched stay in the cache after a failure")},
    **dict.fromkeys(
        ("completion", "completion bash", "completion zsh", "completion fish", "completion powershell"),
        {"no-descriptions": ("", "bash shows no descriptions; those of the other shells are short")},
    ),
}  # fmt: skip

_NOT_AT_BUILD = "the driver is not shown to %post and %test; build without it, and use it with `bollard exec` and srun"

# Apptainer's options of single commands that are refused: command -> option -> (the word for its value; the reason and
# the way to the goal).
REFUSED: dict[str, Own] = {
    "build": {
        "json": ("", "definitions in JSON are not read; write it as a definition file"),
        "nv": ("", _NOT_AT_BUILD),
        "rocm": ("", _NOT_AT_BUILD),
        "nvccli": ("", _NOT_AT_BUILD),
    },
    "push": {"docker-host": ("ADDRESS", "a push goes to a registry or a library")},
    **dict.fromkeys(
        ("registry", "remote"),
        {"config": ("FILE", "logins and remotes are in one directory: APPTAINER_CONFIGDIR names another")},
    ),
    **dict.fromkeys(
        ("instance start", "instance run"),
        {"boot": ("", "an init system in a container needs root; start services in %startscript")},
    ),
}

_SET: Own = {"set": ("NAME=VALUE", "another value for ${NAME} in the file; may be given again")}
_JSON: Own = {"json": ("", "for programs")}
_WAIT: Own = {"wait": ("", "until the flow is over; the exit status is that of its worst job")}
FLOW: dict[str, Own] = {
    "check": {**_SET, **_JSON},
    "submit": {
        "dry-run": ("", "print the scripts and what each job needs; nothing is submitted"),
        **_WAIT,
        **_SET,
        **_JSON,
    },
    "status": {**_WAIT, **_JSON},
    "logs": {},
    "graph": {"format": ("FORM", "text or svg"), **_SET},
    "cancel": {"remove": ("", "also remove the flow's directory: logs, state, volumes that do not stay")},
    "resume": {**_WAIT, **_SET, **_JSON},
    "list": _JSON,
    "schema": {},
    "part": {},
}
MIXED = frozenset(
    ("build", "pull", "push", "search", "delete", "tag", "registry login", "registry logout", "registry list",
     *(f"remote {verb}" for verb in REMOTE), "cache list", "cache pull", "cache clean", "inspect", "sbom", "run-help",
     "overlay create", "sif list", "sif header", "sif info", "sif dump", "sif new", "sif add", "sif del", "sif setprim",
     "instance list", "instance stop", "instance stats", "sign", "verify", "key newpair", "key list", "key search",
     "key pull", "key push", "key import", "key export", "key remove", *(f"flow {verb}" for verb in FLOW))
)  # fmt: skip
SHORT = {
    "build": {"e": "encrypt", "s": "sandbox", "u": "update", "f": "fakeroot", "T": "notest"},
    "pull": {"U": "allow-unsigned", "s": "sandbox"},
    "push": {"U": "allow-unsigned", "D": "description"},
    "delete": {"A": "arch"},
    "registry login": {"u": "username", "p": "password"},
    "remote login": {"u": "username", "p": "password", "i": "insecure"},
    "remote add": {"g": "global", "i": "insecure", "n": "no-default", "c": "config"},
    "remote use": {"e": "exclusive", "g": "global", "c": "config"},
    "remote remove": {"g": "global", "c": "config"},
    "remote add-keyserver": {"i": "insecure", "o": "order"},
    "cache list": {"T": "type"},
    "cache clean": {"T": "type", "D": "days", "n": "dry-run", "f": "force"},
    "inspect": {
        "l": "labels",
        "d": "deffile",
        "r": "runscript",
        "s": "startscript",
        "t": "test",
        "e": "environment",
        "H": "helpfile",
        "j": "json",
    },
    "sign": {"g": "group-id", "i": "sif-id", "k": "keyidx"},
    "verify": {"g": "group-id", "i": "sif-id", "a": "all", "j": "json", "l": "local", "u": "url"},
    "key newpair": {
        "b": "bit-length",
        "C": "comment",
        "E": "email",
        "d": "keysdir",
        "N": "name",
        "P": "password",
        "U": "push",
    },
    "key list": {"g": "global", "d": "keysdir", "s": "secret"},
    "key search": {"l": "long-list", "u": "url"},
    "key pull": {"g": "global", "d": "keysdir", "u": "url"},
    "key push": {"g": "global", "d": "keysdir", "u": "url"},
    "key import": {"g": "global", "d": "keysdir"},
    "key export": {"a": "armor", "g": "global", "d": "keysdir", "s": "secret"},
    "key remove": {"b": "both", "g": "global", "d": "keysdir", "p": "public", "s": "secret"},
    "overlay create": {"s": "size", "S": "sparse", "f": "fakeroot"},
    "instance list": {"j": "json", "l": "logs", "u": "user", "a": "all"},
    "instance stop": {"a": "all", "s": "signal", "t": "timeout", "u": "user"},
    "instance stats": {"j": "json", "u": "user"},
}
