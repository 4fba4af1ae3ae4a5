# SPDX-License-Identifier: BSD-3-Clause
"""Which image of an index suits a processor."""

from __future__ import annotations

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import oci, sources, variants

V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
V4 = V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
MANY = ["arm/v7", "amd64/v3", "amd64", "arm64/v8", "arm/v6", "unknown"]


def index(*platforms):
    """An index whose images have their place in it as digest."""
    entries = []
    for number, text in enumerate(platforms):
        arch, _, variant = text.partition("/")
        platform = {"architecture": arch, "os": "linux", **({"variant": variant} if variant else {})}
        entries.append({"digest": f"sha256:{number:064}", "platform": platform})
    return {"manifests": entries}


def chosen(arch, *platforms):
    return platforms[int(oci.for_arch(index(*platforms), arch, "name")[7:])]


@pytest.mark.parametrize(
    ("flags", "level"),
    [((), "v1"), (V2, "v2"), (V3, "v3"), (V4, "v4"), (V4 - {"ssse3"}, "v1"), (V4 - {"fma"}, "v2")],
)
def test_the_level_of_a_processor(flags, level):
    assert variants.level(flags) == level


@pytest.mark.parametrize(
    ("arch", "platforms", "best"),
    [
        ("amd64/v1", MANY, "amd64"),
        ("amd64/v2", MANY, "amd64"),
        ("amd64/v3", MANY, "amd64/v3"),
        ("amd64/v4", MANY, "amd64/v3"),
        ("amd64/v3", ["amd64/v4", "amd64/v2"], "amd64/v2"),
        ("amd64/v4", ["amd64/v2", "amd64/v4"], "amd64/v4"),
        ("amd64/v2", ["amd64/v9", "amd64/v1"], "amd64/v1"),
        ("arm/v7", MANY, "arm/v7"),
        ("arm/v6", MANY, "arm/v6"),
        ("arm/v8", ["arm", "arm/v6"], "arm"),
        ("arm64/v8", MANY, "arm64/v8"),
        ("arm64/v9", ["arm64", "arm64/v8.2", "arm64/v9.1"], "arm64/v8.2"),
        ("riscv64", ["riscv64", "amd64"], "riscv64"),
    ],
)
def test_the_best_image(arch, platforms, best):
    assert chosen(arch, *platforms) == best


def test_of_equals_the_first():
    assert oci.for_arch(index("amd64", "amd64/v1", "amd64"), "amd64/v3", "name") == f"sha256:{0:064}"


def test_the_best_variant_that_this_processor_runs(monkeypatch):
    for machine, flags, best in (("x86_64", V3, "amd64/v3"), ("x86_64", V2, "amd64"), ("armv6l", (), "arm/v6")):
        monkeypatch.setattr("os.uname", lambda machine=machine: type("U", (), {"machine": machine}))
        monkeypatch.setattr(variants, "_cpu_flags", lambda flags=flags: flags)
        assert chosen("", *MANY) == best
    assert chosen("amd64", *MANY) == "amd64"  # for another machine: what runs on all of them
    assert chosen("amd64/v3", *MANY) == "amd64/v3"


def test_the_flags_of_this_machine_are_read():
    assert variants.highest("amd64") in ("v1", "v2", "v3", "v4")


@pytest.mark.parametrize(
    ("arch", "platforms", "line"),
    [
        ("amd64/v3", ["amd64/v4", "arm64"], "name: no image for amd64/v3, only for amd64/v4, arm64"),
        ("s390x", MANY, "name: no image for s390x, only for amd64, amd64/v3, arm/v6, arm/v7, arm64/v8"),
    ],
)
def test_no_variant_for_this_processor_is_told(arch, platforms, line):
    with pytest.raises(BollardError) as caught:
        chosen(arch, *platforms)
    assert caught.value.message == line


def test_what_a_user_writes():
    assert variants.parse("x86_64/v2") == "amd64/v2"
    assert variants.parse("aarch64") == "arm64"
    assert variants.parse("") == ""
    for text, hint in (("amd64/v7", "known are amd64/v1, "), ("riscv64/v1", "write riscv64"), ("amd64/", "known")):
        with pytest.raises(BollardError, match="no such variant") as caught:
            variants.parse(text)
        assert hint in caught.value.hint


def test_the_variable_is_about_this_architecture(monkeypatch):
    monkeypatch.setattr("os.uname", lambda: type("U", (), {"machine": "x86_64"}))
    assert sources.settings([], {"APPTAINER_PULL_ARCH": "amd64/v2"}).arch == "amd64/v2"
    assert sources.settings([], {"BOLLARD_PULL_ARCH": "arm64"}).arch == ""
    assert sources.settings([("arch", "arm64")], {"BOLLARD_PULL_ARCH": "amd64/v2"}).arch == "arm64"


def test_an_index_in_an_index():
    kind = "application/vnd.oci.image.index.v1+json"
    inner = {"digest": f"sha256:{7:064}", "mediaType": kind}
    entries = [*index("arm64", "unknown")["manifests"], inner]
    assert oci.for_arch({"manifests": entries}, "amd64", "name") == inner["digest"]
    assert oci.for_arch({"manifests": [inner, *index("amd64")["manifests"]]}, "amd64", "name") == f"sha256:{0:064}"
    with pytest.raises(BollardError, match="no image for amd64/v1, only for arm64|no image for amd64, only for arm64"):
        oci.for_arch({"manifests": [inner, {**inner, "digest": f"sha256:{8:064}"}, *entries[:2]]}, "amd64", "name")


def test_images_that_name_no_architecture():
    with pytest.raises(BollardError, match="names an architecture, which has to be amd64"):
        oci.for_arch({"manifests": [{"digest": f"sha256:{1:064}"}, *index("unknown")["manifests"]]}, "amd64", "name")
