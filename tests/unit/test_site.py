# SPDX-License-Identifier: BSD-3-Clause
"""bollard.yaml: what is refused, and with which line; what nodes read of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bollard.runtime import constants, installed
from bollard.runtime.container import environment
from bollard.runtime.errors import BollardError
from bollard.runtime.request import binds, command_options, plan, plan_records, site, site_config, spec
from bollard.runtime.request.spec import Spec

TOP = Path(__file__).resolve().parents[2]

ALL = """\
# every key
mounts:
  - /scratch
  - /opt/site:/site:ro
home: no
cwd: off
writable: yes
mpirun: false
gpu: always
mpi: auto
fabrics:
  cxi:
    provider: /opt/cxi/libcxi-fi.so
    libraries: [/opt/cxi/libcxi.so.1]
    devices: [/dev/cxi*]
    environment: {FI_CXI_A: "1:2"}
host-mpi: [/opt/mpich/lib]
spool: /var/spool/slurmd.%n
registry: yes
image-programs: no
idle-containers: 2
images-allowed: [/apps, /data/images]
images-forbidden: [/tmp]
layer-max: 3G
cache.shared: /apps/cache
flow.scratch: /scratch/%u
flow.volumes: /project/%u
cache.shared-max: 2T
cache.max: 1024
journal: yes
python-base: /apps/python.sif
conda-base: docker://micromamba:1
environment:
  OMP_PROC_BIND: close
  SITE: "a b=c\\n%"
  ONE: 1
trust:
  mode: observe
  rules:
    - from: /apps
"""


def mistakes(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [f"{line}: {text}; {hint}" for line, text, hint in site_config.read(data)[1]]


def compiled_text(text: str) -> bytes:
    values, wrong = site_config.read(text.encode())
    assert wrong == []
    return site_config.compiled(site_config.Settings(values, "0" * 64), "/usr/lib/bollard")


def compiled(text: str) -> site.Site:
    return site.parse(compiled_text(text))


def test_every_key_arrives_on_the_node():
    here = compiled(ALL)
    assert [tuple(mount) for mount in here.mounts] == [("/scratch", "/scratch", False), ("/opt/site", "/site", True)]
    assert (here.home, here.cwd, here.writable, here.mpirun, here.registry) == (False, False, True, False, True)
    assert here.idle == 2
    assert (here.cache_shared, here.cache_shared_max, here.cache_max) == ("/apps/cache", 2 << 40, 1024)
    assert (here.flow_scratch, here.flow_volumes) == ("/scratch/%u", "/project/%u")
    assert here.spool == "/var/spool/slurmd.%n"
    assert (here.allowed, here.forbidden) == (("/apps", "/data/images"), ("/tmp",))
    assert here.environment == ((b"OMP_PROC_BIND", b"close"), (b"SITE", b"a b=c\n%"), (b"ONE", b"1"))
    assert here.layer_max == 3 << 30 and here.journal
    assert (here.python_base, here.conda_base) == ("/apps/python.sif", "docker://micromamba:1")
    assert here.trust and (here.trust.mode, here.trust.rules[0].places) == ("observe", ("/apps",))
    assert f"\n{constants.SITE_NO_IMAGE_PROGRAMS}\n" in compiled_text(ALL).decode()
    assert here.prefix == "/usr/lib/bollard"


def test_the_table_is_all_that_is_read():
    assert {line.split(":")[0] for line in ALL.splitlines() if line[0] not in " #"} == {
        key.name for key in site_config.TABLE
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "mounts:\nenvironment:\n"])
def test_nothing_said_is_the_defaults(text):
    said, defaults = compiled(text), site.Site(prefix="/usr/lib/bollard")
    assert all(getattr(said, name) == getattr(defaults, name) for name in site.Site.__slots__)
    for key in site_config.TABLE:
        if isinstance(key.default, bool) and key.name != "image-programs":  # image_program.c alone reads it
            assert getattr(defaults, key.name) is key.default


def test_the_example_is_valid_once_its_lines_count():
    text = "\n".join(line[1:] if line[:1] == "#" and line[1:2] != " " else line for line in _example())
    assert mistakes(text) == []
    assert {name for name in site_config.read(text.encode())[0] if not name.startswith("trust-")} == {
        key.name for key in site_config.TABLE
    }
    assert site_config.read("\n".join(_example()).encode()) == ({}, [])


def _example():
    return site_config.default_text().splitlines()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("home: no\nhom: yes\n", '2: no key is called "hom"; did you mean home?'),
        ("images_allowed: [/a]\n", '1: no key is called "images_allowed"; did you mean images-allowed?'),
        ("Home: yes\n", '1: no key is called "Home"; did you mean home?'),
        ("\n\nhome: maybe\n", '3: home: "maybe" is neither yes nor no; write `home: yes` or no'),
        ("home: [yes]\n", "1: home: a list is neither yes nor no; write `home: yes` or no"),
        ("fabrics: [a]\n", "1: fabrics: a list is no set of fabrics; write `NAME: {provider: FILE}`"),
        ("fabrics: {a: {}}\n", "1: fabrics.a: it has no provider; write `provider: /PATH/libNAME-fi.so`"),
        (
            "fabrics: {a: {provider: /p-fi.so, library: /x}}\n",
            '1: fabrics.a: no key is called "library"; the keys are provider, libraries, devices, environment',
        ),
        (
            "fabrics: {a: {provider: '/p*'}}\n",
            '1: fabrics.a.provider: "/p*" has a * in it; only a device may have one, as its last letter',
        ),
        ("layer-max: much\n", '1: layer-max: "much" is no size; write `layer-max: 200G`, or a number of bytes'),
        ("layer-max: 0\n", '1: layer-max: "0" is no size; write `layer-max: 200G`, or a number of bytes'),
        ("layer-max: [1]\n", "1: layer-max: a list is no size; write `layer-max: 200G`, or a number of bytes"),
        ("home:\n", '1: home: "" is neither yes nor no; write `home: yes` or no'),
        ("home: yes\ncwd: no\nhome: no\n", "3: home: it stands in line 1 already; put both into one"),
        (
            "mounts:\n  - /a\n  - scratch\n",
            '3: mounts[1]: "scratch" does not begin with /; name the directory in full',
        ),
        ("mounts: [/a/../b]\n", '1: mounts[0]: "/a/../b" has a .. in it; name the directory in full'),
        ("mounts: [/a:/b:rx]\n", "1: mounts[0]: "),
        ("mounts: /a\n", '1: mounts: "/a" is no list; begin each item with `- `'),
        (
            "mounts:\n- a: b\n",
            "2: mounts[0]: a set of keys where a path is expected; quote what holds a colon",
        ),
        ("mounts:\n-\n", "2: mounts[0]: nothing where a path is expected; quote what holds a colon"),
        ('mounts: ["/a\\0b"]\n', "1: mounts[0]: '/a\\x00b' has an invisible character; type the path again"),
        ("spool: spool\n", '1: spool: "spool" does not begin with /; name the directory in full'),
        ("spool:\n", "1: spool: nothing where a directory is expected; write its path, from / on"),
        ("gpu: sometimes\n", '1: gpu: "sometimes" is not auto, always or never; write `gpu: auto`'),
        ("mpi: pmix\n", '1: mpi: "pmix" is not auto or slurm; write `mpi: auto`'),
        ("gpu: yes\n", '1: gpu: "yes" is not auto, always or never; write `gpu: auto`'),
        ("images-allowed: {a: b}\n", "1: images-allowed: a set of keys is no list; begin each item with `- `"),
        ("environment: [A]\n", "1: environment: a list is no set of names; write one `NAME: value` a line"),
        (
            "environment:\n  A B: c\n",
            '2: environment: "A B" is no name of a variable; use letters, digits and _, and no digit first',
        ),
        (
            "environment:\n  PATH: /a\n",
            "2: environment.PATH: it is not the site's to set; Slurm, the user or the image does",
        ),
        ("environment: {SLURM_X: a}\n", "1: environment.SLURM_X: it is not the site's to set"),
        ("environment: {PMIX_RANK: a}\n", "1: environment.PMIX_RANK: it is not the site's to set"),
        ("environment:\n  A: b\n  A: c\n", "3: environment.A: it stands here twice; remove one of them"),
        ("environment: {A: [b]}\n", "1: environment.A: a list is no text; write it between quotes"),
        ("- home\n", "1: the file is a list; write one `key: value` a line"),
        ("home yes\n", '1: the file is "home yes"; write one `key: value` a line'),
        ("home: yes\n\tcwd: no\n", "2: not YAML: "),
        ("mounts: [/a\nhome: yes\n", "2: not YAML: "),
        ("home: yes\n---\ncwd: no\n", "2: not YAML: "),
        (b"home: yes\n# \xff\n", "2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("mounts: &a [*a]\n", "1: mounts[0]: a list where a path is expected; quote what holds a colon"),
        ("[a, b]: c\n", '1: no key is called "a list"; the keys are mounts, home, '),
        ("[" * 5000, "1: not YAML: "),
        ("#" * (site_config.SIZE_MAX + 1), f"1: the file has {site_config.SIZE_MAX + 1} bytes, over "),
    ],
)
def test_mistakes(text, said):
    (line,) = mistakes(text)
    assert line.startswith(said), line


def test_all_mistakes_are_told_by_lines(tmp_path):
    file = tmp_path / "bollard.yaml"
    file.write_text("spool: x\nhome: 3\nmount: []\n")
    lines = site_config.complaints(str(file))
    assert [line.split(" ")[0] for line in lines] == [f"{file}:{number}:" for number in (1, 2, 3)]
    with pytest.raises(BollardError, match=r"bollard\.yaml:1: spool: .* \(and 2 more below it\)$"):
        site_config.load(str(file))


def test_a_file_that_is_not_there(tmp_path):
    assert site_config.load(str(tmp_path / "none.yaml")) == site_config.Settings({}, "")
    assert site_config.complaints(str(tmp_path / "none.yaml")) == []


def test_without_a_compiled_form_the_defaults_hold(tmp_path):
    assert site.load(str(tmp_path)).home is True
    (tmp_path / site.NAME).write_bytes(b"home=0\n")
    assert site.load(str(tmp_path)).home is False


def test_an_installation_without_its_settings_starts_nothing(tmp_path):
    """A site's policy does not end with a lost file."""
    (tmp_path / installed.MANIFEST).write_text("{}")
    with pytest.raises(BollardError, match=r"has no site\.conf; .*bollard site configure"):
        site.load(str(tmp_path))


@pytest.mark.parametrize("left", [0, 1, 60, -1, -len(site.END), None])
def test_an_installation_with_a_part_of_its_settings_starts_nothing(tmp_path, left):
    """A disk that was full, or a power cut, does not take rules away."""
    whole = site_config.compiled(site_config.Settings({"home": False}, "1"), "/p")
    (tmp_path / site.NAME).write_bytes(whole[:left])
    (tmp_path / installed.MANIFEST).write_text("{}")
    if left is None:
        assert site.load(str(tmp_path)).home is False
        return
    with pytest.raises(BollardError, match=r"is not whole; .*bollard site configure"):
        site.load(str(tmp_path))


def test_a_compiled_form_that_is_too_large_is_no_shorter_policy(tmp_path):
    (tmp_path / site.NAME).write_bytes(b"home=0\n" + b"#" * site.SIZE_MAX)
    with pytest.raises(BollardError, match="bytes or more"):
        site.load(str(tmp_path))


def test_a_compiled_form_that_is_none(tmp_path):
    for data in (b"\xff=1\n", b"spool=%zz\n"):
        (tmp_path / site.NAME).write_bytes(data)
        with pytest.raises(BollardError, match="bollard site configure"):
            site.load(str(tmp_path))


def test_reading_it_needs_no_yaml():
    code = "import sys; from bollard.runtime.request import site; site.load('/'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "bollard.runtime.request.site" in loaded
    assert not loaded & {"yaml", "re", "typing", "json", "bollard.runtime.request.site_config"} - _of_python()


def _of_python():
    """What this interpreter loads by itself."""
    done = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], stdout=subprocess.PIPE, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("asked", "added"),
    [
        ([], [("no-home", "1"), ("no-mount", "cwd"), ("writable-tmpfs", "1")]),
        ([("home", "/x")], [("no-mount", "cwd"), ("writable-tmpfs", "1")]),
        ([("no-home", "0"), ("writable-tmpfs", "0")], [("no-mount", "cwd")]),
        ([("no-home", "1"), ("overlay", "/o")], [("no-mount", "cwd")]),
    ],
)
def test_the_user_wins_over_the_site(asked, added):
    assert site.completed(asked, site.Site(home=False, cwd=False, writable=True)) == asked + added


def test_an_images_own_mpirun():
    assert site.completed([], site.Site(mpirun=False)) == [("no-mpirun", "1")]
    assert site.completed([("no-mpirun", "0")], site.Site(mpirun=False)) == [("no-mpirun", "0")]


def test_the_defaults_add_nothing():
    assert site.completed([("image", "/i")], site.Site()) == [("image", "/i")]


def test_no_home_by_default():
    values = [("image", "/i"), ("userhome", "/home/u")]
    assert spec.make(site.completed(values, site.Site(home=False))).home == ""
    assert spec.make(site.completed([*values, ("home", "/x")], site.Site(home=False))).home == "/x"


def test_mounts_of_the_site_come_before_the_users():
    here = compiled("mounts: [/scratch, '/opt/site:/site:ro']\n")
    asked = Spec("/i.sif", home="/home/u", binds=(binds.parse_bind("/mine:/scratch", "/", ""),))
    mounts = plan.make(asked, plan.Facts(here)).mounts
    targets = [mount.target for mount in mounts]
    assert targets.index("/scratch") < targets.index("/site") < targets.index("/home/u")
    site_mount = plan_records.Mount(
        plan_records.BIND, "/opt/site", "/site", read_only=True, if_missing=plan_records.OMIT
    )
    assert [mount for mount in mounts if mount.target == "/site"] == [site_mount]
    assert [mount.source for mount in mounts if mount.target == "/scratch"] == ["/scratch", "/mine"]


def test_the_installation_goes_by_its_name():
    """In the container it must be where plugstack.conf says, wherever the link leads on the host."""
    facts = plan.Facts(site.Site(prefix="/usr/lib/bollard"), prefix="/usr/lib/bollard-1a2b")
    found = {mount.target: mount.source for mount in plan.make(Spec("/i.sif"), facts).mounts if mount.kind == "bind"}
    assert found["/usr/lib/bollard"] == "/usr/lib/bollard-1a2b"


def test_the_spool_directory_of_the_site_wins():
    here = site.Site(spool="/local/%n")
    assert site.spool_directory("spool=/var/spool/slurmd ", "n1", here) == "/local/n1"
    assert site.spool_directory("spool=/var/spool/%h ", "n1", site.Site()) == "/var/spool/n1"


def test_the_environment_of_the_site_is_the_last_resort():
    defaults = ((b"A", b"site"), (b"B", b"site"), (b"C", b"site"))
    made = environment.of_task({b"B": b"image"}, [b"A=task"], Spec("/i.sif"), defaults=defaults)
    assert {b"A=task", b"B=image", b"C=site"} <= set(made)
    made = environment.of_task({}, [b"A=task"], Spec("/i.sif", cleanenv=True), defaults=defaults)
    assert b"A=site" in made


@pytest.mark.parametrize(
    ("allowed", "forbidden", "image", "refused"),
    [
        ((), (), "apps/i", False),
        (("apps",), (), "apps/i", False),
        (("apps",), (), "apps/deep/i", False),
        (("apps",), (), "apps2/i", True),
        (("apps/i",), (), "apps/i", False),
        ((), ("apps",), "apps/i", True),
        ((), ("apps",), "apps2/i", False),
        (("apps",), ("apps/deep",), "apps/deep/i", True),
        (("way",), (), "apps/i", False),  # the site names a link to it
        (("apps",), (), "way/i", False),
        ((), ("apps",), "way/i", True),
        ((), ("way",), "apps/i", True),
        ((), ("none",), "apps/i", False),
    ],
)
def test_where_images_may_lie(tmp_path, allowed, forbidden, image, refused):
    for folder in ("apps/deep", "apps2"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("apps/i", "apps/deep/i", "apps2/i"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "way").symlink_to("apps")
    here = site.Site(
        allowed=tuple(f"{tmp_path}/{name}" for name in allowed),
        forbidden=tuple(f"{tmp_path}/{name}" for name in forbidden),
    )
    fd = os.open(tmp_path / image, os.O_RDONLY)
    try:
        if refused:
            with pytest.raises(BollardError, match=r"^my\.sif: this site runs no image from "):
                site.refuse_image(here, fd, "my.sif")
        else:
            site.refuse_image(here, fd, "my.sif")
    finally:
        os.close(fd)


def test_the_reference_in_the_pages():
    assert site_config.reference() in (TOP / "docs/admins.md").read_text(), "put site_config.reference() there"


def test_where_the_settings_are_is_told():
    """The command's tables import nothing, not even this."""
    assert site_config.PATH in command_options.SITE_CONFIGURE["config"][1]


def test_overlays_lie_where_images_may(tmp_path):
    for name in ("apps/o", "home/o"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "apps/link").symlink_to(tmp_path / "home/o")
    here = site.Site(allowed=(f"{tmp_path}/apps",))
    site.refuse_overlays(here, ((f"{tmp_path}/apps/o", False), (f"{tmp_path}/none", True)))
    for name in ("home/o", "apps/link"):
        with pytest.raises(BollardError, match=r"^overlay .*: this site takes no overlay from ") as caught:
            site.refuse_overlays(here, ((f"{tmp_path}/apps/o", False), (f"{tmp_path}/{name}", True)))
        assert caught.value.hint == f"use one in {tmp_path}/apps"
    site.refuse_overlays(site.Site(), ((f"{tmp_path}/home/o", False),))
