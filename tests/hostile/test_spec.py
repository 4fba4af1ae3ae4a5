# SPDX-License-Identifier: BSD-3-Clause
"""Specs that a user sends without our client. Each task prints one line, no program runs on the host, no node is
drained, and nobody is root whom the options do not make root."""

from __future__ import annotations

import pytest
from cluster import Cluster, Images, Result, Work, good

HEAD = "bollard1 root={root} image=1 multi-prog=0 verbose= name={name} mode=auto cwd=/ : "


def sent(cluster: Cluster, work: Work, text: str, *words: str) -> Result:
    """Run a step with the spec `text`; its program would make a file. srun sets the variable after our client."""
    command = words or ("touch", f"{work.path}/marker")
    return cluster.srun("-n1", "-w", "n1", f"--export=ALL,SLURM_BOLLARD_SPEC={text}", *command, seconds=60)


def refused(cluster: Cluster, work: Work, text: str, words: str) -> None:
    done = sent(cluster, work, text)
    assert done.rc == 255 and len(done.complaints()) == 1, done
    assert words in done.complaints()[0] and "Traceback" not in done.err, done
    assert not work.exists("marker"), "the program ran"


@pytest.mark.parametrize(
    "head",
    [
        "bollard2 root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ : ",
        "bollard1 root=0 root=1 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ : ",
        "bollard1 root=2 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= name=a/../b mode=auto cwd=/ : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=exec cwd=/ : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose=12345678901234567890 name= mode=auto cwd=/ : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= mode=auto cwd=/ : ",
        "bollard1 root=0 image=1 more=1 multi-prog=0 verbose= name= mode=auto cwd=/ : ",
        "bollard1  root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=auto : ",
        "bollard1 root=0 image=1 multi-prog=0 verbose= name= mode=auto cwd=/ cwd=/tmp : ",
        "bollard1 root=0",
        "",
    ],
)
def test_a_header_of_another_form(cluster: Cluster, images: Images, work: Work, head: str) -> None:
    refused(cluster, work, f"{head}image={images.small}", "spec cannot be read")


@pytest.mark.parametrize("byte", ["\n", "\t", "\x01", "\x7f", "\x1b[2J", "\u00e9"])
def test_a_byte_that_is_not_printable(cluster: Cluster, images: Images, work: Work, byte: str) -> None:
    refused(cluster, work, HEAD.format(root=0, name="") + f"image={images.small} env=A=1{byte}2", "spec cannot be read")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("fakeroot=1 fakeroot=0", "'fakeroot' stands twice"),
        ("fakeroot=0&1", "'fakeroot' has two values"),
        ("pwd=/ pwd=/tmp", "'pwd' stands twice"),
        ("nosuch=1", "'nosuch' is no key"),
        ("verbose=1", "'verbose' is no key"),
        ("env", "no value for 'env'"),
        ("env=%zz", "spec cannot be read"),
    ],
)
def test_options_that_no_client_writes(cluster: Cluster, images: Images, work: Work, more: str, words: str) -> None:
    refused(cluster, work, HEAD.format(root=0, name="") + f"image={images.small} {more}", words)


@pytest.mark.parametrize(("root", "more"), [(1, ""), (1, " fakeroot=0"), (0, " name=a"), (1, " pwd=/%20fakeroot=1")])
def test_a_header_that_contradicts_the_options(
    cluster: Cluster, images: Images, work: Work, root: int, more: str
) -> None:
    text = HEAD.format(root=root, name="") + f"image={images.small}" + more
    refused(cluster, work, text, "header contradicts its options")


def test_root_comes_from_the_header_and_never_from_text_behind_it(
    cluster: Cluster, images: Images, work: Work
) -> None:
    """A value that looks like the header's root option stays a value."""

    def user_of(options: str) -> str:
        words = (f"--container={images.small}", f"--container-opts={options}")
        return good(cluster.srun("-n1", "-w", "n1", *words, "id", "-u")).strip()

    for value in ("x%20fakeroot=1", "x fakeroot=1", " root=1 "):
        assert user_of(f"--env A='{value}'") != "0"
    assert user_of("--fakeroot --fakeroot=false") != "0"
    assert user_of("--fakeroot=false --fakeroot") == "0"


def test_a_spec_as_the_client_writes_it_is_taken(cluster: Cluster, images: Images, work: Work) -> None:
    """A correct spec is accepted, so each refusal above is caused by the fault in its spec."""
    done = sent(cluster, work, HEAD.format(root=0, name="") + f"image={images.small}", "id", "-u")
    assert done.rc == 0 and done.out.strip() not in ("", "0"), done  # stderr has the note that /home/alice is not bound
