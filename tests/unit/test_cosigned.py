# SPDX-License-Identifier: BSD-3-Clause
"""Signatures of cosign: which repository they are about, and how much is fetched for them."""

from __future__ import annotations

import json

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.fetch import cosigned, reference, registry
from bollard.runtime.trust import cosign

ASKED = reference.parse("docker://registry.example:5000/lab/app:1.0")
ACCESS = registry.Access()


def document(repository):
    return json.dumps({"critical": {"identity": {"docker-reference": repository}}}).encode()


@pytest.mark.parametrize(
    ("repository", "fault"),
    [
        ("registry.example:5000/lab/app", ""),
        ("registry.example:5000/lab/app:2.0", ""),
        (f"registry.example:5000/lab/app@sha256:{'5' * 64}", ""),
        ("registry.example:5000/lab/other", "it is about registry.example:5000/lab/other, not "),
        ("registry.example/lab/app", "it is about registry.example/lab/app, not "),
        ("x\x1b[2J.example/app", "it is about x\\x1b[2J.example/app, not "),
        ("", "it is about no repository, not "),
        (7, "it is about no repository, not "),
    ],
)
def test_a_signature_of_another_repository_does_not_count(monkeypatch, repository, fault):
    layer = {"mediaType": cosign.SIMPLE_SIGNING, "annotations": {cosign.SIGNATURE: "x"}}
    monkeypatch.setattr(cosigned, "_tagged", lambda *_: (ASKED, {"layers": [layer]}))
    monkeypatch.setattr(cosigned, "_documents", lambda *_: [document(repository)])
    monkeypatch.setattr(cosign, "fault_of_simple", lambda *_: "")
    wanted = fault and f"{fault}registry.example:5000/lab/app"
    assert cosigned._simple(ASKED, None, f"sha256:{'5' * 64}", ACCESS) == [wanted]


def test_names_of_one_repository():
    names = ("app", "library/app:1", "docker.io/app", "docker.io/library/app", "index.docker.io/library/app")
    assert {registry.full_repository(name) for name in names} == {"docker.io/library/app"}


@pytest.mark.parametrize(
    "other",
    [
        {"layers": [{"size": 8 << 20}]},
        {"layers": [{"size": 1 << 20}] * 8},
        {"layers": [{}]},
        {"layers": ["x"]},
        {"layers": [{"size": -9}]},
        {"layers": [], "config": {"size": 9 << 20}},
        {"layers": [], "config": None},
    ],
)
def test_a_manifest_that_names_more_than_signatures_is_not_fetched(monkeypatch, other):
    copied = []
    monkeypatch.setattr(registry, "copy", lambda *_: copied.append(1))
    layer = {"mediaType": cosign.SIMPLE_SIGNING, "digest": f"sha256:{'5' * 64}", "size": 10}
    found = {"config": {"size": 2}, **other, "layers": [layer, *other["layers"]]}
    with pytest.raises(BollardError, match="names more than 8388608 bytes, or no size"):
        cosigned._documents(ASKED, found, [layer], ACCESS)
    assert copied == []
