# SPDX-License-Identifier: BSD-3-Clause
"""The pure parts of building: scripts of OCI images, files of apps, traces of shells, patterns of %files."""

from __future__ import annotations

import contextlib
import re
import subprocess

import pytest

from bollard.runtime.build import (
    bootstrap,
    build_root,
    builder,
    definition,
    image_files,
    scif,
    trace,
    transfers,
)
from bollard.runtime.build.definition import App
from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import oci
from bollard.runtime.image import oci_config
from bollard.runtime.system import tree, wildcards


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "arguments", "said"),
    [
        (["echo", "a b"], ["c'd"], [], "a b c'd\n"),
        (["echo", "$HOME"], None, ["`id`", "x  y"], "$HOME `id` x  y\n"),
        (None, ["echo", "x"], [], "x\n"),
        (None, ["echo", "x"], ["echo", "y"], "y\n"),
    ],
)
def test_the_runscript_of_an_oci_image(entrypoint, cmd, arguments, said):
    script = oci_config.scripts({"Entrypoint": entrypoint, "Cmd": cmd})["runscript"]
    done = subprocess.run(
        ["/bin/sh", "-c", script, "runscript", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == said


def test_the_variables_of_an_oci_image():
    env = ["PATH=/x", 'A=1 "$HOME" `id` \\', "B", "C=", "not a name=1", 7]
    script = oci_config.scripts({"Env": env})["env/10-docker2singularity.sh"]
    show = script + 'printf "%s|" "$PATH" "$A" "$B" "$C" "$D"'
    for given, said in (({}, '/x|1 "$HOME" `id` \\||||'), ({"A": "host", "PATH": "/bin"}, "/x|host||||")):
        done = subprocess.run(["/bin/sh", "-c", show], capture_output=True, text=True, check=True, env=given)
        assert done.stdout == said


def test_an_apps_files():
    app = App("a-b", {"run": "echo run\n", "test": "#!/bin/bash\ntrue\n", "help": "  words\n", "labels": "A b c\n"})
    found = {file.path.rpartition("/scif/")[2]: file.data.decode() for file in scif.files(app)}
    assert found["runscript"] == "#!/bin/sh\n\necho run\n"
    assert found["test"] == "#!/bin/bash\ntrue\n"
    assert found["runscript.help"] == "  words\n"
    assert '"A": "b c"' in found["labels.json"]
    exports = scif.shared_files([app])[0].data.decode()
    assert "export SCIF_APPRUN_a_b=/scif/apps/a-b/scif/runscript\n" in exports
    assert "SCIF_APPSTART" not in exports


def test_the_name_of_an_app_is_one_word_of_a_script():
    script = scif.install(App("a;touch 'x", {}))
    assert "/scif/apps/'a;touch '\\''x'" in script


@pytest.mark.parametrize(
    "pattern",
    ["/a{b,c}d{e,f}", "{a}", "{}", "{a,{b,c}d}", "a{,x}", "{1..3}", "{08..10}", "{c..a}", "{1..x}", "x{a,b", "{a}{b,c}",
     "a}{b,c}", "{a,b}}", "{{a,b}"],
)  # fmt: skip
def test_braces_are_those_of_bash(pattern):
    said = subprocess.run(["bash", "-c", f"printf '%s\n' {pattern}"], capture_output=True, text=True, check=True).stdout
    assert wildcards.braces(pattern) == said.splitlines()


def test_braces_that_are_quoted_or_too_many():
    assert wildcards.braces("\\{a,b} {a\\,b,c}") == ["\\{a,b} a\\,b", "\\{a,b} c"]
    assert len(wildcards.braces("{a,b}" * 40)) <= 1002
    assert wildcards.braces("{1..100000}") == ["{1..100000}"]


NAMES = ("a", "b", "ab", ".a", "a*", "[x]", "x", "a\\b", "7", "Q", "{a,b}", "$V", "d e")


@pytest.mark.parametrize(
    "pattern",
    ["*", "a*", "?", ".*", "[ab]", "[!a]", "[^a]", "a\\*", "\\[x\\]", "[[:digit:]]", "[[:upper:]]*", "[x]", "\\a",
     "a\\\\b", "$W*", "${W}b", "${NONE:-a}*", "\\$V", "$S", "{a,b}*"],
)  # fmt: skip
def test_the_paths_of_files_are_those_of_bash(tmp_path, monkeypatch, pattern):
    for name in NAMES:
        (tmp_path / name).touch()
    for name, value in {"W": "a", "S": "*"}.items():
        monkeypatch.setenv(name, value)
    argv = ["bash", "-c", f"LC_ALL=C; printf '%s\n' {pattern}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    with contextlib.closing(tree.Tree(str(tmp_path))) as top:
        place = transfers.Place(top, "/", "img.def")
        found = top.glob(transfers.pattern(place, definition.Transfer(pattern, "", 1)))
    assert [path.lstrip("/") for path in found] == said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("$NONE/a", "img.def:3: %files $NONE/a: NONE is not set"),
        ("$(pwd)/a", "img.def:3: %files $(pwd)/a: $(: not expanded"),
        ("`pwd`/a", "a command in backquotes: not expanded"),
    ],
)
def test_what_is_not_expanded_in_a_path_of_files(tmp_path, source, words):
    with contextlib.closing(tree.Tree(str(tmp_path))) as top, pytest.raises(BollardError, match=re.escape(words)):
        transfers.pattern(transfers.Place(top, "/", "img.def"), definition.Transfer(source, "", 3))


def test_a_name_in_single_quotes_is_taken_as_it_is():
    text = b"Bootstrap: scratch\n%files\n  '$A *{x,y}' '/opt/$A'\n"
    ((_, (transfer,)),) = definition.parse(text, "img.def").stages[0].files
    assert (wildcards.unescaped(transfer.source), transfer.target) == ("$A *{x,y}", "/opt/$A")
    assert not wildcards.is_pattern(transfer.source)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_last_traced_command(tmp_path, shell, capfd):
    script = tmp_path / "post"
    script.write_text("A=1\n\n( true )\nfalse $A\necho never\n")
    argv = [shell, *trace.traced(["/bin/sh", "-ex", str(script)], str(script))[1:]]
    result = build_root.run_on_host(argv, {"PATH": "/bin:/usr/bin"}, "/")
    assert result.status == 1
    assert result.trace.command == "false 1"
    if "bash" in shell:
        assert result.trace.line == 4
    assert trace.line_of(result.trace.command, script.read_text()) == 4
    shown = capfd.readouterr().err
    assert "+ A=1\n" in shown
    assert "\x1e" not in shown
    assert "post\n" not in shown


def test_the_line_of_a_command_that_stands_twice():
    assert trace.line_of("false", "false\nfalse\n") == 0
    assert trace.line_of("cat /x/y", "echo\ncat /x/$NAME\ncd\n") == 2


def test_variables_of_post():
    found = build_root.environment({"http_proxy": "p", "NO_PROXY": "q", "SECRET": "s", "PATH": "/h"}, {"A": "1"})
    assert {"http_proxy", "NO_PROXY", "A", "HOME", "PATH"} <= set(found)
    assert "SECRET" not in found
    assert found["PATH"] != "/h"


def test_agents_are_checked_before_anything_is_made():
    bootstrap.check({"bootstrap": "LocalImage"})
    with pytest.raises(BollardError, match="shub is not supported; Singularity Hub has closed"):
        bootstrap.check({"bootstrap": "shub"})


SIGNER = "12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84"


@pytest.mark.parametrize("agent", sorted((*bootstrap._AGENTS, *oci.TRANSPORTS)))
@pytest.mark.parametrize("value", [SIGNER, f"{SIGNER}, {SIGNER.lower()}"])
def test_fingerprints_are_enforced_or_refused(agent, value):
    header = {"bootstrap": agent, "from": "x", "fingerprints": value}
    if agent in ("localimage", "library", "oras"):
        bootstrap.check(header)
        assert bootstrap.fingerprints(header) == value.replace(",", "").split()
        return
    with pytest.raises(BollardError) as caught:
        bootstrap.check(header)
    assert caught.value.message.startswith(f"Fingerprints: {value[:40]}")
    assert "are not verified with Bootstrap: " in caught.value.message and "by its digest" in caught.value.hint


@pytest.mark.parametrize("value", ["", " , ", SIGNER[-8:], SIGNER[-16:], SIGNER + "0", f"{SIGNER} # x", f"{SIGNER},x"])
@pytest.mark.parametrize("agent", ["localimage", "library", "oras", "docker"])
def test_fingerprints_that_name_no_key(agent, value):
    with pytest.raises(BollardError, match="Fingerprints"):
        bootstrap.check({"bootstrap": agent, "from": "x", "fingerprints": value})


@pytest.mark.parametrize(
    ("agent", "key", "refused"),
    [
        ("docker", "productpgp", True),
        ("yum", "setopt", True),
        ("dnf", "modules", True),
        ("docker", "setopt", False),
        ("docker", "modules", False),
        ("docker", "includecmd", False),
    ],
)
def test_keys_that_protect_and_have_no_effect_are_refused(agent, key, refused):
    header = {"bootstrap": agent, "from": "x", key: "a\x1bb"}
    if not refused:
        bootstrap.check(header)
        return
    with pytest.raises(BollardError, match=r"a\\x1bb: .* with Bootstrap: "):
        bootstrap.check(header)


def test_the_key_for_packages_is_refused_where_it_is_not_used(monkeypatch):
    monkeypatch.setenv("GPG", "https://127.0.0.1/key")
    bootstrap.check({"bootstrap": "debootstrap"})
    with pytest.raises(BollardError, match="GPG=https://127.0.0.1/key: dnf would not check"):
        bootstrap.check({"bootstrap": "dnf"})


@pytest.mark.parametrize("bash", [True, False])
def test_scripts_of_the_base_image_are_set_before_a_section_runs(tmp_path, bash):
    """Of bash, where there is one; a script that fails ends nothing."""
    (tmp_path / "10-a.sh").write_text("source /no/such/file\n. /no/such/file\nexport A=never-in-dash\n")
    (tmp_path / "20-b.sh").write_text(f"source {tmp_path}/more\n[[ -d / ]] && export C=1\n")
    (tmp_path / "more").write_text("export B=1\n")
    argv = build_root.command(["/usr/bin/env"], "")
    words = [word.replace("/.singularity.d/env", str(tmp_path)) for word in argv]
    if not bash:
        words = [word.replace("/bin/bash", "/no/bash") for word in words]

    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})

    assert "B=1" in done.stdout.splitlines()
    assert ("C=1" in done.stdout.splitlines()) == bash


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(1080) + b"\x53\xef", "is it an ext3 image? convert it with `apptainer build"),
        (b"\x7fELF" + bytes(60), "is it a program?"),
        (bytes(5000), "it begins with zeros"),
    ],
)
def test_a_source_that_is_neither_text_nor_image(tmp_path, content, words):
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(BollardError) as raised:
        builder.load(str(tmp_path / "source"), {})
    assert f"{tmp_path}/source: neither a definition file nor an image or archive; {words}" in str(raised.value)


def test_a_name_of_a_registry_is_no_source():
    with pytest.raises(BollardError, match="^ubuntu:24.04: no such file; an image of a registry is docker://ubuntu:24.04$"):
        builder.load("ubuntu:24.04", {})


def test_labels_that_are_not_json_are_told(tmp_path, capsys):
    (tmp_path / ".singularity.d").mkdir()
    (tmp_path / ".singularity.d/labels.json").write_text('{"a": "b"')
    place = tree.Tree(str(tmp_path))
    assert image_files.read_labels(place) == {}
    place.close()
    assert "/.singularity.d/labels.json of the image is not JSON" in capsys.readouterr().err


def test_a_directory_is_made_beneath_the_root_whatever_the_path(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/out").symlink_to("../../made")
    place = tree.Tree(str(tmp_path / "root"))
    place.makedirs("../a/b")
    place.makedirs("out")
    with pytest.raises(BollardError, match=r"^missing/\.\.: does not exist in the image; "):
        place.makedirs("missing/..")
    place.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["a", "made", "out"]
