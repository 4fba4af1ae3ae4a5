# SPDX-License-Identifier: BSD-3-Clause
"""Directories of flows where other users may write: what they plant there is neither used, nor written through."""

from __future__ import annotations

import os
import stat

import pytest

from bollard.runtime.cli import flow as cli_flow
from bollard.runtime.errors import BollardError
from bollard.runtime.flow import ending, folder, volume
from bollard.runtime.request import site_config

ALICE, MALLORY = 4242, 4343
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes two users")
FLOW = "/home/somebody/flows/f-123456"


def as_user(uid, call):
    """Run `call` in a child as the user; return the message of its BollardError, "" for none."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            call()
            status = 0
        except BollardError as error:
            os.write(writer, str(error).encode())
            status = 0
        except BaseException as error:
            os.write(2, repr(error).encode())
        os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        told = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return told


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A directory for all users, as /scratch: sticky, root's or the user's own."""
    for one in (tmp_path, *list(tmp_path.parents)[:2]):
        if os.stat(one).st_uid == os.geteuid() and one.parent != one:
            one.chmod(one.stat().st_mode | 0o055)
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(0o1777)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0o002)
    yield made
    os.umask(before)


def open_to_all(path):
    path.mkdir()
    path.chmod(0o777)


def modes(top, path):
    found = []
    while path != top:
        found.append(stat.S_IMODE(path.stat().st_mode))
        path = path.parent
    return found


def refused(place, top=FLOW):
    with pytest.raises(BollardError) as caught:
        volume.make(str(place), volume.Path(top))
    return str(caught.value)


def test_each_level_of_a_volume_is_its_users(shared):
    place = shared / "alice/bollard-f-123456/data"
    volume.make(str(place), volume.Path(FLOW))
    volume.make(str(place), volume.Path(FLOW))

    assert modes(shared, place) == [0o700] * 3


def test_a_directory_that_others_may_write_to_is_no_volume(shared):
    place = shared / "bollard-f-123456/data"
    place.mkdir(parents=True, mode=0o700)
    place.parent.chmod(0o775)
    assert "bollard-f-123456: others may write into it; chmod go-w" in refused(place)
    place.parent.chmod(0o700)
    place.chmod(0o777)
    assert "data: others may write into it; chmod go-w" in refused(place)
    place.chmod(0o755)
    volume.make(str(place), volume.Path(FLOW))


def test_a_place_where_others_could_exchange_a_volume(shared):
    place = shared / "alice/bollard-f-123456/data"
    shared.chmod(0o777)
    assert f"others may write into {shared}, which is not sticky" in refused(place)
    assert "others may write into" in refused(place, str(shared / "alice")), "the flow's own directory"
    shared.chmod(0o775)
    assert "others may write into" in refused(place)


@needs_root
def test_what_another_user_made_first_is_no_volume(shared):
    place = shared / "bollard-f-123456/data"
    as_user(MALLORY, lambda: open_to_all(place.parent))
    told = as_user(ALICE, lambda: volume.make(str(place), volume.Path(FLOW)))
    assert told.startswith(f"{place.parent}: belongs to another user") and not place.exists()

    # The place of a user, as /scratch/%u, which somebody else made before him.
    place = shared / "alice/persistent/data"
    as_user(MALLORY, lambda: open_to_all(shared / "alice"))
    told = as_user(ALICE, lambda: volume.make(str(place), volume.Path(FLOW)))
    assert f"{shared}/alice belongs to another user" in told and not place.parent.exists()


@needs_root
def test_another_users_link_on_the_way_to_a_volume(shared, monkeypatch):
    own = shared / "own"
    as_user(ALICE, lambda: own.mkdir(0o700))
    as_user(MALLORY, lambda: (shared / "alice").symlink_to(own))
    told = as_user(ALICE, lambda: volume.make(f"{shared}/alice/bollard-f/data", volume.Path(FLOW)))
    assert f"{shared}/alice is a link of another user" in told
    monkeypatch.setenv("BOLLARD_FLOWS", f"{shared}/alice")
    assert f"{shared}/alice is a link of another user" in as_user(ALICE, lambda: folder.make("f"))
    assert not os.listdir(own)

    (shared / "alice").unlink()
    (shared / "alice").symlink_to(own)  # as the site makes it
    assert not as_user(ALICE, lambda: volume.make(f"{shared}/alice/bollard-f/data", volume.Path(FLOW)))
    assert os.listdir(own) == ["bollard-f"]


def test_a_link_is_no_volume_and_is_not_followed_by_the_removal(shared, tmp_path, capfd, monkeypatch):
    victim = tmp_path / "victim"
    (victim / "data").mkdir(parents=True)
    (victim / "data/file").write_text("x")
    victim.chmod(0o755)
    for place, link, target in (
        (shared / "bollard-one/data", shared / "bollard-one/data", victim / "data"),
        (shared / "bollard-two/data", shared / "bollard-two", victim),
    ):
        if link == place:
            link.parent.mkdir(mode=0o700)
        link.symlink_to(target)
        assert "is a link or a file, not a directory" in refused(place)

        monkeypatch.setattr(folder, "plan", lambda path, place=place: {"ephemeral": [str(place)]})
        ending.remove_volumes(tmp_path)
        assert "bollard: a volume is left: " in capfd.readouterr().err
        assert (victim / "data/file").read_text() == "x" and stat.S_IMODE(victim.stat().st_mode) == 0o755


def test_a_volume_is_removed_with_what_jobs_left_in_it(shared, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    place = shared / "bollard-f/data"
    volume.make(str(place), tmp_path)
    (place / "closed/inner").mkdir(parents=True)
    (place / "closed/inner/file").touch()
    (place / "link").symlink_to(outside)
    (place / "closed/inner").chmod(0)
    (place / "closed").chmod(0o500)
    place.chmod(0o777)
    volume.remove(str(place))

    assert not os.listdir(shared) and stat.S_IMODE(outside.stat().st_mode) == 0o750


@needs_root
def test_another_users_volume_is_not_removed(shared):
    place = shared / "bollard-f/data"
    as_user(MALLORY, lambda: os.makedirs(place))
    assert "belongs to another user" in as_user(ALICE, lambda: volume.remove(str(place)))
    assert place.is_dir()


def test_the_directory_of_flows_is_its_users(shared, monkeypatch):
    monkeypatch.delenv("BOLLARD_FLOWS", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(shared / "state"))
    made = folder.make("f")

    assert modes(shared, made) == [0o700] * 4 and folder.every() == [made]


def test_flows_where_others_could_exchange_them(shared, monkeypatch):
    monkeypatch.setenv("BOLLARD_FLOWS", str(shared))
    assert folder.make("f").parent == shared, "sticky: nobody else can rename it"
    for mode in (0o777, 0o775):
        shared.chmod(mode)
        with pytest.raises(BollardError, match="another user could exchange your flows"):
            folder.make("f")
    monkeypatch.setenv("BOLLARD_FLOWS", str(shared / "mine"))
    shared.chmod(0o777)
    with pytest.raises(BollardError, match="is not sticky"):
        folder.make("f")


@needs_root
def test_other_users_flows_are_none_of_ours(shared, monkeypatch):
    monkeypatch.setenv("BOLLARD_FLOWS", str(shared))
    theirs = shared / "f-aaaaaa"
    as_user(MALLORY, lambda: folder.make("g"))
    as_user(MALLORY, lambda: theirs.mkdir())
    (mallorys,) = shared.glob("g-*")

    def look():
        mine = folder.make("f")
        assert folder.every() == [mine], folder.every()
        assert folder.find("f-") == mine

    assert not as_user(ALICE, look)
    for word in ("f-aaaaaa", mallorys.name):
        assert "is not a flow of yours: belongs to another user" in as_user(ALICE, lambda word=word: folder.find(word))
    told = as_user(ALICE, lambda: cli_flow.run("part", [], [str(mallorys), ".end"]))
    assert "is not a flow of yours: belongs to another user" in told
    assert "there is no such flow" in as_user(ALICE, lambda: folder.find("g-"))


def test_a_flow_that_is_a_link_or_open_to_others(shared, monkeypatch, capfd):
    monkeypatch.setenv("BOLLARD_FLOWS", str(shared))
    made = folder.make("f")
    (shared / "link-1").symlink_to(made)
    with pytest.raises(BollardError, match="is not a directory"):
        folder.find("link-1")
    assert folder.every() == [made] and not capfd.readouterr().err
    made.chmod(0o770)
    with pytest.raises(BollardError, match="others may write into it; chmod go-w"):
        folder.find(made.name)
    assert not folder.every() and f"{made} is left out: others may write into it" in capfd.readouterr().err


def test_the_lock_truncates_nothing(shared, tmp_path):
    (tmp_path / "victim").write_text("x")
    (tmp_path / "lock").symlink_to("victim")
    with pytest.raises(OSError), folder.locked(tmp_path, wait=True):
        pass
    assert (tmp_path / "victim").read_text() == "x"
    (tmp_path / "lock").unlink()
    with folder.locked(tmp_path, wait=True) as held, folder.locked(tmp_path, wait=False) as again:
        assert held and not again


def test_a_sites_places(shared, tmp_path):
    file = tmp_path / "bollard.yaml"

    def load(text):
        file.write_text(text)
        try:
            site_config.load(str(file))
        except BollardError as error:
            return str(error)
        return ""

    for name in ("flow.scratch", "flow.volumes"):
        assert f'{name}: "{shared}/" would be one directory for all users; write {shared}/%u' in load(
            f"{name}: {shared}/"
        )
        assert not load(f"{name}: {shared}/%u/x") and not load(f"{name}: {shared}/none/%u")
        shared.chmod(0o777)
        assert f"{name}: users could exchange each other's directories: others may write into {shared}" in load(
            f"{name}: {shared}/u-%u"
        )
        shared.chmod(0o1777)
