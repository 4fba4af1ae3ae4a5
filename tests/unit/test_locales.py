# SPDX-License-Identifier: BSD-3-Clause
"""Locales: which an image has, and which values of LANG and LC_* a task gets."""

from __future__ import annotations

import os
import subprocess

import pytest
from environment_makers import task_env

from bollard.runtime.container import locales
from bollard.runtime.container.environment import is_locale, normalized
from bollard.runtime.request.spec import Spec


@pytest.mark.parametrize(
    ("name", "same"),
    [
        (b"de_DE.UTF-8", b"de_DE.utf8"),
        (b"de_DE.utf-8@euro", b"de_DE.utf8@euro"),
        (b"de_DE.8859-1", b"de_DE.iso88591"),
        (b"C", b"C"),
    ],
)
def test_names_of_locales_are_compared_as_glibc_does(name, same):
    assert normalized(name) == same


def host_with(*pairs: bytes, image=None, spec=None, known=(b"C", b"POSIX", b"", b"C.utf8")) -> dict[bytes, bytes]:
    env = task_env(image={} if image is None else image, host=pairs, spec=spec, locales=frozenset(known))
    return {name: value for name, value in env.items() if is_locale(name)}


def test_locales_that_the_image_has_not_are_not_passed():
    assert host_with(b"LANG=de_DE.UTF-8", b"LC_ALL=C.UTF-8", b"LC_TIME=C", b"LC_CTYPE=fr_FR") == {
        b"LC_ALL": b"C.UTF-8",
        b"LC_TIME": b"C",
    }
    assert task_env(image={}, host=[b"LANG=de_DE.UTF-8"])[b"LANG"] == b"de_DE.UTF-8"  # an image that takes any


def test_a_locale_that_was_asked_for_is_there():
    lang = b"de_DE.UTF-8"

    assert host_with(image={b"LANG": lang}) == {b"LANG": lang}
    assert host_with(b"LANG=" + lang, spec=Spec("/i.sif", keep_env=(b"LANG",))) == {b"LANG": lang}
    assert host_with(b"LANG=x", spec=Spec("/i.sif", env=((b"LANG", lang),))) == {b"LANG": lang}
    assert host_with(b"APPTAINERENV_LC_ALL=" + lang) == {b"LC_ALL": lang}


def tree_of(folder, *paths: str) -> int:
    for path in paths:
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return os.open(folder, os.O_PATH | os.O_DIRECTORY)


def test_which_locales_an_image_has(tmp_path):
    found = locales.available(tree_of(tmp_path, "/lib64/ld-linux-x86-64.so.2", "/usr/lib/locale/C.utf8/LC_CTYPE"))

    assert found == frozenset((b"C", b"POSIX", b"", b"C.utf8"))


def test_an_image_of_musl_or_of_no_library_takes_any(tmp_path):
    assert locales.available(tree_of(tmp_path / "static", "/bin/app")) is None
    musl = ("/lib/ld-musl-x86_64.so.1", "/lib/ld-linux-x86-64.so.2")  # gcompat has the second
    assert locales.available(tree_of(tmp_path / "musl", *musl)) is None


def test_locales_of_an_archive(tmp_path):
    place = tmp_path / "usr/lib/locale"
    place.mkdir(parents=True)
    source = "de_DE"
    if not os.path.exists(f"/usr/share/i18n/locales/{source}"):
        source = "POSIX"
    charmap = "UTF-8"
    done = subprocess.run(
        ["localedef", "--prefix", tmp_path, "-c", "-i", source, "-f", charmap, f"{source}.{charmap}"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (place / "locale-archive").exists(), done.stderr

    found = locales.available(tree_of(tmp_path))
    assert found is not None and f"{source}.utf8".encode() in found


@pytest.mark.parametrize("content", [b"", b"x" * 55, b"\x09\x01\x02\xde" + b"\xff" * 52, b"\x09\x01\x02\xde" * 14])
def test_an_archive_that_is_none(tmp_path, content):
    root = tree_of(tmp_path, "/usr/lib/locale/locale-archive")
    (tmp_path / "usr/lib/locale/locale-archive").write_bytes(content)

    found = locales.available(root)
    assert found is not None and b"C" in found
