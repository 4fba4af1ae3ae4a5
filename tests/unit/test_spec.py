# SPDX-License-Identifier: BSD-3-Clause
"""The spec: from option text to plain data, and its text form between client and node."""

from __future__ import annotations

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.frozen import values_of
from bollard.runtime.request import binds, spec, spec_text


def make(*values: tuple[str, str]) -> spec.Spec:
    return spec.make([("image", "/i.sif"), ("cwd", "/data/dir"), ("userhome", "/home/u"), *values])


def refused(*values: tuple[str, str]) -> str:
    with pytest.raises(BollardError) as caught:
        make(*values)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/a/b", "/a/b"),
        ("b.sif", "/data/b.sif"),
        ("./b.sif", "/data/./b.sif"),
        ("../b.sif", "/data/../b.sif"),
        ("~", "/home/u"),
        ("~/b.sif", "/home/u/b.sif"),
        ("~other/b.sif", "/data/~other/b.sif"),
        ("docker://alpine", "docker://alpine"),
    ],
)
def test_a_path_becomes_absolute(path, result):
    assert binds.absolute(path, "/data", "/home/u") == result


def test_absolute_from_the_root():
    assert binds.absolute("b.sif", "/", "") == "/b.sif"


@pytest.mark.parametrize(
    ("text", "binds"),
    [
        ("/a", [("/a", "/a", False)]),
        ("/a:/b", [("/a", "/b", False)]),
        ("/a:/b:ro", [("/a", "/b", True)]),
        ("/a:/b:rw,/c", [("/a", "/b", False), ("/c", "/c", False)]),
        ("sub", [("/data/dir/sub", "/data/dir/sub", False)]),
        ("~/data:/data", [("/home/u/data", "/data", False)]),
        (r"/a\:b:/c", [("/a:b", "/c", False)]),
        (r"/a\,b:/c,/d", [("/a,b", "/c", False), ("/d", "/d", False)]),
        (r"/a\b", [(r"/a\b", r"/a\b", False)]),
        ("", []),
        ("/a,,/b,", [("/a", "/a", False), ("/b", "/b", False)]),
    ],
)
def test_the_forms_of_a_bind(text, binds):
    assert list(make(("bind", text)).binds) == binds


def test_spaces_around_a_bind_do_not_count():
    assert make(("bind", " /a:/b:ro ,\n/c, ")).binds == (("/a", "/b", True), ("/c", "/c", False))
    assert make(("mounts", "/a:/b ")).binds == (("/a", "/b ", False),)  # the form in which a spec travels


def test_a_directory_that_was_removed():
    """Only what counts from there is refused."""
    values = [("image", "/i.sif"), ("cwd", ""), ("userhome", "/home/u")]
    assert spec.make([*values, ("bind", "/a,~/b")]).cwd == "/"
    with pytest.raises(BollardError, match=r"^data: the current directory does not exist any more; change to"):
        spec.make([*values, ("bind", "data:/mnt")])


def test_pwd_has_no_dots():
    assert make(("pwd", "/a/../b/.")).pwd == make(("pwd", "//b")).pwd == "/b"
    assert "'data' must begin with /" in refused(("pwd", "data"))
    assert "'/a/../b' has a .. in it" in refused(("scratch", "/a/../b"))


def test_binds_add_up():
    assert make(("bind", "/a"), ("bind", "/b")).binds == (("/a", "/a", False), ("/b", "/b", False))


@pytest.mark.parametrize("text", ["/a:", "/a:/b:", "/a:b", "/a:/b/../c", "/a:/b:rx", "/a:/b:ro:x", ":/b"])
def test_binds_that_cannot_be_meant(text):
    assert repr(text) in refused(("bind", text))


@pytest.mark.parametrize(
    ("values", "home", "source"),
    [
        ([], "/home/u", "/home/u"),
        ([("home", "/scratch/u")], "/scratch/u", "/scratch/u"),
        ([("home", "/scratch/u:/home/u")], "/home/u", "/scratch/u"),
        ([("home", ":/root")], "/root", "/home/u"),
        ([("home", "sub")], "/data/dir/sub", "/data/dir/sub"),
        ([("no-home", "1")], "", ""),
        ([("no-home", "1"), ("home", "/data:/h")], "/h", "/data"),
        ([("no-home", "1"), ("home", "/")], "", ""),
        ([("no-home", "0")], "/home/u", "/home/u"),
        ([("home", "/")], "", ""),
        ([("userhome", "relative")], "", ""),
    ],
)
def test_the_forms_of_home(values, home, source):
    made = make(*values)

    assert (made.home, made.home_source) == (home, source)


def test_env_travels_as_bytes():
    made = make(("env", "A=1=2"), ("env", "B="), ("env", "C=\udcff"))

    assert made.env == ((b"A", b"1=2"), (b"B", b""), (b"C", b"\xff"))


def test_a_place_that_is_empty():
    """A script wrote /data:$PLACE:ro, and PLACE was empty."""
    for text in ("/data::ro", "/data::"):
        assert repr(text) in refused(("bind", text))


def test_a_home_that_is_empty():
    assert refused(("home", "")) == "--home has no value"


@pytest.mark.parametrize("text", ["A B", "A,B C", "A\tB", "A\nB"])
def test_names_with_a_space(text):
    assert "has a space in it" in refused(("keep-env", text))


@pytest.mark.parametrize("text", ["A", "=1", ""])
def test_env_that_cannot_be_meant(text):
    assert repr(text) in refused(("env", text))


@pytest.mark.parametrize(
    ("text", "on"),
    [("1", True), ("yes", True), ("", False), ("0", False), ("No", False), ("false", False), ("OFF", False)],
)
def test_the_words_of_a_switch(text, on):
    assert make(("cleanenv", text)).cleanenv is on


def test_the_last_word_counts():
    assert make(("pwd", "/a"), ("pwd", "/b")).pwd == "/b"
    assert make(("cleanenv", "1"), ("cleanenv", "0")).cleanenv is False


@pytest.mark.parametrize("name", ["a/b", "/", "..", "."])
def test_an_app_is_a_name(name):
    assert refused(("app", name)) == f"app {name!r} is not the name of an app"
    assert make(("app", "foo-2")).app == "foo-2"


def test_what_nobody_asked_for():
    made = make()

    assert (made.image, made.asked, made.cwd, made.pwd) == ("/i.sif", "/i.sif", "/data/dir", "")
    assert (made.env, made.binds) == ((), ())
    assert (made.cleanenv, made.verbose, made.app) == (False, False, "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hostname", "a/b", "not a name of a host"),
        ("hostname", "a\n127.0.0.1 b", "not a name of a host"),
        ("hostname", "a" * 65, "not a name of a host"),
        ("keep-env", "A=b", "not a name"),
    ],
)
def test_values_that_cannot_be_meant(name, value, words):
    with pytest.raises(BollardError, match=words):
        make((name, value))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mounts", "", "--container-mounts has no value"),
        ("device", "", "--container-device has no value"),
        ("pwd", "", "--container-workdir (--pwd) has no value"),
        ("keep-env", "", "--container-env has no value"),
        ("save", "", "--container-save has no value"),
        ("name", "", "--container-name has no value"),
        ("unshare", "", "--container-unshare has no value"),
        ("keep-env", "FOO,", "container-env 'FOO,' has nothing beside a comma"),
        ("keep-env", "FOO,,BAR", "container-env 'FOO,,BAR' has nothing beside a comma"),
        ("unshare", "net,", "container-unshare 'net,' has nothing beside a comma"),
        ("mounts", "/a:/b,", "container-mounts '/a:/b,' has nothing beside a comma"),
        ("mounts", "/tmp:", "container-mounts '/tmp:' ends with a colon"),
        ("mounts", "/tmp:/tmp:", "container-mounts '/tmp:/tmp:' ends with a colon"),
    ],
)
def test_what_an_empty_variable_of_a_script_leaves(name, value, words):
    assert refused((name, value)) == words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mounts", "/a:/b:rbind,ro", "'ro' is a flag of the mount before it"),
        ("mounts", "/a:/b, /c:/d", "container-mounts ' /c:/d' begins with a space"),
        ("mounts", "\n./a:/b,\n./c:/d", "begins with a space"),
        ("pwd", "data", "container-workdir (--pwd) 'data' must begin with /"),
        ("pwd", "/a/../b", "container-workdir (--pwd) '/a/../b' has a .. in it"),
        ("unshare", "pid", "container-unshare 'pid': not a namespace"),
        ("shm-size", "big", "--container-shm-size 'big' is not a size"),
    ],
)
def test_the_cause_of_a_value_that_cannot_be(name, value, words):
    assert words in refused((name, value))


@pytest.mark.parametrize(
    "flags", ["rw+rshared", "shared", "ro+runbindable", "defaults", "x-create=auto+ro+sync+strictatime", "mand"]
)
def test_flags_of_enroot_that_change_nothing(flags):
    ((_, _, found),) = make(("mounts", f"/a:/b:{flags}")).binds
    assert found == (binds.READ_ONLY if "ro" in flags.split("+") else 0)


@pytest.mark.parametrize(
    "text", ["type=bind,src=/srv,src=/opt,dst=/dst", "type=bind,src=/a,source=/a,dst=/d", "src=/a,dst=/b,ro,ro"]
)
def test_a_mount_says_nothing_twice(text):
    assert "stands twice" in refused(("mount", text))


@pytest.mark.parametrize(("text", "size"), [("64m", "64m"), ("2G", "2g"), ("512K", "512k"), ("4096",) * 2])
def test_the_units_of_a_size(text, size):
    assert binds.parse_size("--x", text) == size


@pytest.mark.parametrize("text", ["", "m", "0", "00m", "-1", "1t", "1 m", "1mb", "64M\n", "1.5g", "\u0661", "9" * 16])
def test_what_is_no_size(text):
    with pytest.raises(BollardError, match="is not a size"):
        binds.parse_size("--x", text)


def test_the_size_of_a_tmpfs_is_checked():
    assert make(("mounts", "tmpfs:/t:size=1M+mode=0700")).binds == (("size=1m,mode=0700", "/t", binds.TMPFS),)
    assert "size 'big' is not a size" in refused(("mounts", "tmpfs:/t:size=big"))


def test_a_spec_cannot_be_changed():
    made = make()
    with pytest.raises(AttributeError):
        made.fakeroot = True  # type: ignore[misc]
    with pytest.raises(BollardError, match="'nonsense' is no option"):
        make(("nonsense", "1"))


def test_a_spec_without_an_image_is_refused():
    with pytest.raises(BollardError, match="no image named"):
        spec.make([("cwd", "/")])


def test_options_mean_the_same_in_any_directory():
    """mpirun in a container asks for another one with them, wherever it is called."""
    given = [
        ("image", "a.sif"), ("asked", "a.sif"), ("cwd", "/data"), ("userhome", "/home/u"), ("id", "1"),
        ("verbose", "1"),
        ("bind", "here:/there:ro,/a\\:b"),
        ("mounts", "tmpfs:/t:size=50%+huge=within_size+noexec,umount:/sys,./x:/y:ro+noexec"),
        ("mount", "type=bind,src=c,dst=/c"), ("home", "h:/home/u"), ("workdir", "w"), ("overlay", "o:ro"),
        ("contain", "1"), ("env", "A=b c"), ("pwd", "/p"), ("name", "n"), ("save", "s.sif"), ("no-mpirun", "1"),
    ]  # fmt: skip
    made = spec.make(given)
    again = spec.make([("image", "/data/a.sif"), ("cwd", "/elsewhere"), *spec_text.pairs(made.options)])

    assert "save" not in dict(spec_text.pairs(made.options)), "one file, by the container around"
    other = ("cwd", "asked", "save", "verbose", "user_home")
    same = [name for name in values_of(made) if name not in other]
    assert {name: getattr(again, name) for name in same} == {name: getattr(made, name) for name in same}
    assert again.binds[0] == ("/data/here", "/there", binds.READ_ONLY)


def test_a_container_without_options_has_none():
    assert spec.make([("image", "/a.sif"), ("asked", "a.sif"), ("cwd", "/"), ("userhome", "/home/u")]).options == b""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1", [(b"A", b"1")]),
        ("A=1,B=2", [(b"A", b"1"), (b"B", b"2")]),
        ("A=1,2", [(b"A", b"1,2")]),
        ('"A=1,2"', [(b"A", b"1,2")]),
        ('"A=1,2",B=3', [(b"A", b"1,2"), (b"B", b"3")]),
        ("A=b=c", [(b"A", b"b=c")]),
        ("A=b\nc=d", [(b"A", b"b\nc=d")]),
        ("A=", [(b"A", b"")]),
    ],
)
def test_several_variables_in_one_option(text, found):
    assert spec.make([("image", "/i"), ("env", text)]).env == tuple(found)


@pytest.mark.parametrize("text", ["A", "=1", "A=1,B,C=2"])
def test_variables_without_a_name_or_a_value(text):
    with pytest.raises(BollardError, match="is not NAME=VALUE"):
        spec.make([("image", "/i"), ("env", text)])


@pytest.mark.parametrize(
    "pair", [("bind", "/a.sqfs:/d:image-src=/x"), ("mount", "type=bind,src=/a.sqfs,dst=/d,image-src=/x")]
)
def test_what_is_in_an_image_is_not_bound(pair):
    with pytest.raises(BollardError, match="'image-src' is not supported: .*--overlay"):
        spec.make([("image", "/i"), pair])


@pytest.mark.parametrize("text", ["nonsense", "1", "192.0.2.1,x", "/dir"])
def test_name_servers_are_addresses(text):
    with pytest.raises(BollardError, match="is not an IP address"):
        spec.make([("image", "/i"), ("dns", text)])


@pytest.mark.parametrize("name", ["a b", "a\nb", "-a", "a/b", ".", "a_b", "\xe9"])
def test_a_hostname_is_one_line_of_hosts(name):
    with pytest.raises(BollardError, match="is not a name of a host"):
        spec.make([("image", "/i"), ("hostname", name)])
    assert spec.make([("image", "/i"), ("hostname", "n1.a-b")]).hostname == "n1.a-b"


def test_a_network_alone_means_an_own_one():
    assert spec.make([("image", "/i"), ("network", "none")]).unshare == ("net",)


def test_an_images_path_is_tidy():
    assert spec.make([("image", "./a//b/../c.sif"), ("cwd", "/w")]).image == "/w/a/b/../c.sif"


@pytest.mark.parametrize("value", ["1", "a,b", "a=1,b=2", 'say "x", y=z', "a,\nb=c", '"', ""])
def test_a_variable_of_a_file_is_one(value):
    asked = spec.make([("image", "/i"), ("env", spec.one_assignment(f"A={value}"))])
    assert asked.env == ((b"A", value.encode()),)
