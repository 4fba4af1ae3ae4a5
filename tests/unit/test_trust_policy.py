# SPDX-License-Identifier: BSD-3-Clause
"""The rules of a site's policy of images: how they are read, what they decide, and how versions compare."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.image.image_sbom import Listed, Sbom
from bollard.runtime.request import site, site_config, trust_ecl, trust_rule
from bollard.runtime.system import identity, mount_table
from bollard.runtime.trust import evidence, policy, versions

A, B, C = "A" * 40, "B" * 40, "C" * 40
PEM = "SHA256:" + "aB3+/" * 8 + "xyz"
ONE, TWO = "1" * 64, "2" * 64
PACKAGES = (
    ("deb", "openssl", "3.0.11-1~deb12u2"),
    ("deb", "libc6", "2.36-9"),
    ("pypi", "jinja2", "3.1.2"),
    ("npm", "@a/b", "2.0.0-rc.1"),
    ("rpm", "bash", "5.1.8-6.el9"),
    ("rpm", "openssl-libs", "1:3.0.7-27.el9", "pkg:rpm/openssl-libs@3?upstream=openssl-3.0.7-27.el9.src.rpm"),
    ("deb", "libxml2-utils", "2:2.9-1", "pkg:deb/libxml2-utils@2?arch=amd64&upstream=libxml2"),
    ("pypi", "Zope.Interface", "5.0"),
)


def compiled(rules: str, mode: str = "enforce") -> trust_rule.Policy:
    """The policy of a bollard.yaml with these rules, as a node reads it."""
    text = f"trust:\n  mode: {mode}\n  keyring: /etc/keys\n  rules:\n{rules}"
    values, mistakes = site_config.read(text.encode())
    assert mistakes == []
    values["trust-file"] = "/etc/bollard/bollard.yaml"
    found = site.parse(site_config.compiled(site_config.Settings(values, "0" * 64), "/usr/lib/bollard")).trust
    assert found
    return found


def image(
    path: str = "/apps/images/a.sif", name: str = "a.sif", owner: int = 0, mode: int = 0o755, digest: str = ONE,
    signers: tuple[str, ...] = (), packages: object = PACKAGES, gaps: str = "",
) -> policy.Evidence:  # fmt: skip
    whole = None if packages is None else Sbom([Listed(*words[:3], "".join(words[3:])) for words in PACKAGES], gaps)
    return policy.Evidence(
        name, path, lambda: (owner, stat.S_IFREG | mode), lambda: digest, lambda: frozenset(signers), lambda: whole
    )


# Rule, an image that it allows, an image that it refuses, a part of the reason.
RULES = [
    ("from: anywhere", image(), None, ""),
    ("from: /apps/images", image(), image(path="/apps/images2/a.sif"), "no rule names the place"),
    ("from: /apps/images", image("/apps/images"), image(path="/apps/a.sif"), "no rule names the place"),
    ("from: [/data, /apps]", image(), image(path="/home/a.sif"), "use an image from /data or /apps"),
    ("{from: anywhere, refuse: yes}", None, image(), "it allows no image from there"),
    ("{from: anywhere, refuse: no}", image(), None, ""),
    ("{from: anywhere, owner: root}", image(), image(owner=1234), "it belongs to user 1234, not to root"),
    ("{from: anywhere, owner: [root, 1234]}", image(owner=1234), image(owner=1235), "not to root or user 1234"),
    ("{from: anywhere, owner: 0}", image(mode=0o750), image(mode=0o775), "others than its owner may write to it"),
    ("{from: anywhere, owner: 0}", image(mode=0o700), image(mode=0o702), "others than its owner may write to it"),
    (f"{{from: anywhere, digests: [{ONE}]}}", image(), image(digest=TWO), f"its SHA-256 {TWO} is not listed"),
    (f"{{from: anywhere, digests: [{ONE}, 'sha256:{TWO}']}}", image(digest=TWO), image(digest=""), "has no digest"),
    (f"{{from: anywhere, signed-by: {A}}}", image(signers=(A,)), image(signers=(B,)), f"it is not signed by {A}"),
    (f"{{from: anywhere, signed-by: [{A}, {B}]}}", image(signers=(B, C)), image(), f"not signed by {A} or {B}"),
    (f"{{from: anywhere, all-signed-by: [{A}, {B}]}}", image(signers=(A, B, C)), image(signers=(A, C)), f"by {B}"),
    (
        f"{{from: anywhere, all-signed-by: [{A}], signed-by: [{B}, {C}]}}",
        image(signers=(A, C)), image(signers=(A,)), f"not signed by {B} or {C}",
    ),
    ("{from: anywhere, without: [deb/openssl < 3.0.11]}", image(), image(packages=None), "it has no SBOM"),
    ("{from: anywhere, without: [openssl < 3.0.11-1]}", None, image(), "3.0.11-1~deb12u2, which `openssl <"),
    ("{from: anywhere, without: [log4j]}", image(), image(gaps="/var/lib/rpm"), "its SBOM lacks packages"),
    ("{from: anywhere, without: [pypi/openssl]}", image(), None, ""),
    ("{from: anywhere, without: [pypi/jinja2 <= 3.1.2]}", None, image(), "it has pypi/jinja2 3.1.2"),
    ("{from: anywhere, without: [pypi/zope-interface <= 5.0]}", None, image(), "it has pypi/Zope.Interface 5.0"),
    ("{from: anywhere, without: [rpm/openssl < 3.0.8]}", None, image(), "it has rpm/openssl-libs 1:3.0.7-27.el9"),
    ("{from: anywhere, without: ['rpm/openssl < 1:3.0.7', 'rpm/openssl < 3.0.7']}", image(), None, ""),
    ("{from: anywhere, without: [libxml2 < 2.10]}", None, image(), "it has deb/libxml2-utils 2:2.9-1"),
    ("{from: anywhere, without: ['@a/b < 2.0.0']}", None, image(), "it has npm/@a/b 2.0.0-rc.1"),
    ("{from: anywhere, without: [rpm/bash > 5.1.8-6.el9]}", image(), None, ""),
    ("{from: 'docker://host/lab'}", image(name="docker://host/lab/i:1"), image(name="docker://host/labo"), "no rule"),
    ("{from: 'docker://host'}", image(name="docker://host/i"), image(name="oras://host/i"), "no rule names"),
    ("{from: 'library://lab/i'}", image(name="library://lab/i:1"), image(name="lab/i:1"), "no rule names"),
    (
        f"{{from: /apps, owner: root, digests: [{ONE}], signed-by: {A}, without: [log4j]}}",
        image(signers=(A,)), image(owner=1234, digest=TWO), "it belongs to user 1234",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "name", "named"),
    [
        ("docker://host/lab", "docker://host/lab/i@sha256:1", True),
        ("docker://host/lab", "docker:///host/lab:1", True),
        ("docker://host/lab", "DOCKER://host/lab/i", True),
        ("docker://Host.example/lab", "docker://hOST.example/lab/i", True),
        ("docker://ubuntu", "docker://ubuntu:24.04", True),
        ("docker://ubuntu", "docker://docker.io/library/ubuntu:24.04", True),
        ("docker://ubuntu", "docker://library/ubuntu", True),
        ("docker://docker.io", "docker://ubuntu:24.04", True),
        ("docker://docker.io", "docker://me/i", True),
        ("docker://docker.io", "docker://Index.Docker.io/me/i", True),
        ("docker://index.docker.io/me", "docker://me/i:1", True),
        ("docker://docker.io/library/ubuntu", "docker://registry-1.docker.io/ubuntu@sha256:1", True),
        ("docker://docker.io", "docker://quay.example/me/i", False),
        ("docker://docker.io/me", "docker://docker.io/you/i", False),
        ("docker://me", "docker://me/i", True),
        ("docker://Host.example", "docker://host.example/i", True),
        ("docker://localhost", "docker://localhost/i", True),
        ("docker://host:5000", "docker://host:5000/i", True),
        ("oras://docker.io", "oras://me/i:1", True),
        ("docker-daemon://i", "dockerd://i:1", True),
        ("docker-daemon://i", "docker-daemon:i:1", True),
        ("docker://host/lab", "docker://me@host#lab/i", True),
        ("docker://host/lab", "docker://host/lab@evil.example#i", False),
        ("docker://host", "docker://host:5000/i", False),
        ("docker://host/lab", "docker://host/lab/../evil/i", False),
        ("docker://evil.example", "docker:////evil.example/i", True),
        ("oras://host/lab", "oras://host/lab/%2e%2e/evil/i:1", False),
        ("oras://host/evil", "oras://host/lab/%2e%2e/evil/i:1", True),
        ("https://host/apps", "https://host/apps/i.sif", True),
        ("https://host/apps", "https://host/apps/../evil/i.sif", False),
        ("https://host/apps", "https://host/apps//i.sif", True),
        ("https://host/apps", "https://host/apps:x/i.sif", False),
        ("https://host", "https://host:8443/i.sif", False),
        ("https://host", "https://host@evil.example/i.sif", False),
        ("https://evil.example", "https://me@evil.example/i.sif", True),
        ("https://host", "HTTPS://HOST/i.sif", True),
    ],
)
def test_a_place_by_other_spellings(place: str, name: str, named: bool) -> None:
    assert policy.names_place(place, image(name=name)) == named


def test_a_file_in_another_mount_namespace_has_no_place() -> None:
    """The kernel shows its path as if it lay in this one: so a user's own file would lie in a directory of root's."""
    words = "mount -t tmpfs none /mnt && mkdir /mnt/images && echo x > /mnt/images/a.sif && echo && cat"
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout and other.stdout.readline()
        fd = os.open(f"/proc/{other.pid}/root/mnt/images/a.sif", os.O_RDONLY)
        try:
            assert os.readlink(f"/proc/self/fd/{fd}") == "/mnt/images/a.sif"
            assert mount_table.path_of(fd) == ""
            with pytest.raises(BollardError, match=r"^a\.sif: lies in another mount namespace"):
                site.refuse_image(site.Site(allowed=("/mnt/images",)), fd, "a.sif")
            for rules in ("{from: /mnt/images}", "{from: /tmp, refuse: yes}\n  - {from: anywhere}"):
                with pytest.raises(BollardError, match="by the rule in .* another mount namespace"):
                    evidence.check_layer(compiled(f"  - {rules}\n"), fd, "a.sif")
            assert evidence.check_layer(compiled("  - {from: anywhere}\n"), fd, "a.sif").allowed
        finally:
            os.close(fd)
            other.stdin.close()
    with open(__file__, "rb") as file:
        assert mount_table.path_of(file.fileno()) == os.path.realpath(__file__)


@pytest.mark.parametrize(("rule", "allowed", "refused", "why"), RULES)
def test_a_rule_decides(rule: str, allowed: policy.Evidence | None, refused: policy.Evidence | None, why: str) -> None:
    for mode in ("enforce", "observe"):
        rules = compiled(f"  - {rule if ':' in rule and rule[0] == '{' else '{' + rule + '}'}\n", mode)
        if allowed:
            verdict = policy.decide(rules, allowed)
            assert verdict.allowed and (verdict.why, verdict.cure) == ("", ""), verdict
        if refused:
            verdict = policy.decide(rules, refused)
            assert not verdict.allowed and verdict.cure
            assert why in f"{verdict.why}; {verdict.cure}"


def test_the_first_rule_that_names_the_place_decides() -> None:
    rules = compiled(
        "  - name: trusted\n    from: /apps/images/lab\n    owner: root\n"
        "  - {from: /apps, refuse: yes}\n"
        f"  - {{from: anywhere, signed-by: {A}}}\n"
    )
    verdict = policy.decide(rules, image("/apps/images/lab/a.sif", owner=5, signers=(A,)))
    assert (verdict.allowed, verdict.label()) == (False, "trusted@5")
    assert str(policy.refusal(rules, verdict, "a.sif")) == (
        'a.sif: refused by this site, by rule "trusted" in /etc/bollard/bollard.yaml:5: it belongs to user 5, not to '
        "root; use a file that belongs to root"
    ).replace("user 5", identity.user_name(5))
    assert policy.decide(rules, image("/apps/images/other/a.sif")).label() == "rule@8"
    verdict = policy.decide(rules, image("/home/a.sif", signers=(A, B)))
    assert (verdict.allowed, verdict.label(), verdict.signers) == (True, "rule@9", (A, B))


def test_without_a_rule_the_image_is_refused_at_the_policys_own_line() -> None:
    rules = compiled("  - {from: /apps}\n")
    said = str(policy.refusal(rules, policy.decide(rules, image("/home/a.sif")), "a.sif"))
    assert said.startswith("a.sif: refused by this site (/etc/bollard/bollard.yaml:2): no rule names the place")
    assert said.endswith("use an image from /apps")


def test_what_cannot_be_found_out_refuses() -> None:
    def fail() -> frozenset[str]:
        raise BollardError("gpgv is missing", "install it")

    found = image()
    found = policy.Evidence(found.name, found.path, found.owner, found.digest, fail, found.sbom)
    verdict = policy.decide(compiled(f"  - {{from: anywhere, signed-by: {A}}}\n"), found)
    assert (verdict.allowed, verdict.why, verdict.cure) == (False, "gpgv is missing", "install it")
    assert policy.decide(compiled("  - {from: anywhere, owner: 0}\n"), found).allowed, "not asked for"


def test_a_policy_survives_its_way_to_the_node() -> None:
    rules = compiled(
        f"  - {{name: 'a b%', from: [/a b, 'docker://h/p'], owner: [0, 7], digests: {ONE}, signed-by: {A.lower()},\n"
        f"     all-signed-by: ['0x{B}', '{C[:20]} {C[20:]}'], without: ['x < 1', pypi/y]}}\n"
    )
    rule = rules.rules[0]
    assert rule == trust_rule.Rule(
        5, "a b%", ("/a b", "docker://h/p"), False, (0, 7), (ONE,), (A,), (B, C),
        (trust_rule.Package("", "x", "<", "1"), trust_rule.Package("pypi", "y")),
    )  # fmt: skip
    assert (rules.mode, rules.keyring, rules.line) == ("enforce", "/etc/keys", 2)


def test_pem_keys_survive_their_way_to_the_node() -> None:
    text = f"trust: {{mode: enforce, pem-keys: /k, roots: /r, rules: [{{from: /a, signed-by: '{PEM}'}}]}}\n"
    values, mistakes = site_config.read(text.encode())
    assert mistakes == []
    rules = site.parse(site_config.compiled(site_config.Settings(values, "0" * 64), "/usr/lib/bollard")).trust
    assert rules is not None and (rules.pem_keys, rules.roots, rules.rules[0].any_of) == ("/k", "/r", (PEM,))


@pytest.mark.parametrize("text", ["nonsense=1", "line=x", "line=1\nfrom=/a\nfuture=1", ""])
def test_a_damaged_policy_on_the_node_is_an_error(text: str) -> None:
    with pytest.raises(BollardError, match="policy of images cannot be read"):
        trust_rule.policy({"trust": ["enforce"], "trust-line": ["1"], "trust-rule": [text]})
    with pytest.raises(BollardError, match="policy of images cannot be read"):
        trust_rule.policy({"trust": ["maybe"], "trust-line": ["1"]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trust: yes\n", '1: trust: "yes" is no set of keys; the keys are mode, keyring, pem-keys, roots, rules'),
        ("trust:\n  rules: []\n", '2: trust.mode: "" is neither observe nor enforce; write `mode: observe`'),
        ("trust: {mode: enforced}\n", '1: trust.mode: "enforced" is neither observe nor enforce'),
        ("trust: {mode: enforce}\n", "1: trust.rules: there is none, so no image could run"),
        ("trust: {mode: enforce, rule: []}\n", '1: trust: no key is called "rule"; did you mean rules?'),
        ("trust:\n  mode: enforce\n  rules:\n  - owner: root\n", "4: trust.rules[0]: it has no from"),
        ("trust: {mode: observe, rules: [{from: a}]}\n", '1: trust.rules[0].from: "a" is no place'),
        ("trust: {mode: observe, rules: [{from: /a/../b}]}\n", '"/a/../b" is no place'),
        ("trust: {mode: observe, rules: [{from: 'ftp://x'}]}\n", '"ftp://x" is no place'),
        ("trust: {mode: observe, rules: [{from: []}]}\n", "1: trust.rules[0].from: the list is empty"),
        (
            "trust: {mode: observe, rules: [{from: /a, owner: nobody-here}]}\n",
            '"nobody-here" is no user of this machine',
        ),
        ("trust: {mode: observe, rules: [{from: /a, digests: abc}]}\n", '"abc" is no SHA-256'),
        (
            "trust: {mode: observe, keyring: /k, rules: [{from: /a, signed-by: DEADBEEF}]}\n",
            '"DEADBEEF" is no fingerprint; a key has 40 hexadecimal digits',
        ),
        (
            f"trust: {{mode: observe, rules: [{{from: /a, signed-by: {A}}}]}}\n",
            "1: trust.rules[0]: signed-by needs the public keys; write `keyring: FILE` in trust",
        ),
        (
            f"trust: {{mode: observe, keyring: /k, rules: [{{from: /a, signed-by: '{PEM}'}}]}}\n",
            "1: trust.rules[0]: signed-by needs the public keys; write `pem-keys: FILE` in trust",
        ),
        (
            f"trust: {{mode: observe, pem-keys: /k, rules: [{{from: /a, all-signed-by: ['{PEM}', {A}]}}]}}\n",
            "1: trust.rules[0]: signed-by needs the public keys; write `keyring: FILE` in trust",
        ),
        (
            f"trust: {{mode: observe, pem-keys: /k, rules: [{{from: /a, signed-by: '{PEM}x'}}]}}\n",
            'x" is no fingerprint; a key has 40 hexadecimal digits',
        ),
        (
            "trust: {mode: observe, roots: /r, rules: [{from: /a}]}\n",
            "1: trust.roots: they are the issuers of certificates in pem-keys; write `pem-keys: FILE` in trust",
        ),
        ("trust: {mode: observe, rules: [{from: /a, without: 'x <'}]}\n", '"x <" is no package'),
        ("trust: {mode: observe, rules: [{from: /a, refuse: maybe}]}\n", '"maybe" is neither yes nor no'),
        ("trust: {mode: observe, rules: [{from: /a, refuse: yes, owner: 0}]}\n", "refuse comes with a requirement"),
        ("trust: {mode: observe, rules: [{from: /a, sigend-by: x}]}\n", "did you mean signed-by?"),
        ("trust: {mode: observe, rules: [{from: /a, from: /b}]}\n", "trust.rules[0].from: it stands here twice"),
        ("trust: {mode: observe, keyring: keys, rules: [{from: /a}]}\n", '"keys" does not begin with /'),
        ("trust: {mode: observe, rules: [{from: '/a/*.sif', refuse: yes}]}\n", '"/a/*.sif" is no place'),
        ("trust: {mode: observe, rules: [{from: '/a/[bc]'}]}\n", '"/a/[bc]" is no place'),
        ("trust: {mode: observe, rules: [{from: '/home/%u'}]}\n", '"/home/%u" is no place'),
        ("trust: {mode: observe, rules: [{from: 'docker://*.example', refuse: yes}]}\n", '.example" is no place'),
        ("trust: {mode: observe, rules: [{from: /a, without: 'open* < 3'}]}\n", '"open* < 3" is no package'),
        ("trust: {mode: observe, rules: [{from: /a, without: debian/openssl}]}\n", '"debian/openssl" is no package'),
        ('trust: {mode: observe, rules: [{from: /a, name: "x\\nfrom=/b"}]}\n', "name: it is no word of one line"),
        ("trust: {mode: observe, rules: [{from: /a, name: [x]}]}\n", "rules[0].name: it is no word of one line"),
        ("trust: {mode: observe, keyring: [/k], rules: [{from: /a}]}\n", "1: trust.keyring: a list where a file is"),
        ("trust: {mode: observe, pem-keys: '', rules: [{from: /a}]}\n", '1: trust.pem-keys: "" where a file is'),
        ("images-forbidden: ['/scratch/*']\n", 'images-forbidden[0]: "/scratch/*" has a * in it'),
        ("trust: {mode: observe, rules: [/a]}\n", 'trust.rules[0]: "/a" is no set of keys'),
    ],
)
def test_a_mistake_in_the_policy_has_its_line(text: str, said: str) -> None:
    values, found = site_config.read(text.encode())
    assert any(said in f"{line}: {what}; {hint}" for line, what, hint in found), found


ORDER = {
    "deb": ("1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+x", "1.2", "1.10", "2:0.1", "10:0"),
    "rpm": ("1.0~rc1", "1.0", "1.0^git1", "1.0.a", "1.0.1", "1.2", "1.10", "2.0-1.el9", "2.0-10.el9", "1:0.1"),
    "apk": ("1.0_alpha1", "1.0_rc1-r0", "1.0-r0", "1.0-r2", "1.0-r10", "1.0.1-r0", "1.1.1a", "1.1.1w"),
    "pypi": ("1.0.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.1", "1.10"),
    "npm": ("2.0.0-alpha.1", "2.0.0-beta.1", "2.0.0-rc.1", "2.0.0", "2.0.1", "2.10.0"),
    "conda": ("1.1.1", "1.1.1b", "1.1.1w", "3.0.0", "3.10.0"),
}


@pytest.mark.parametrize("kind", ORDER)
def test_the_order_of_versions(kind: str) -> None:
    rising = ORDER[kind]
    for one in range(len(rising)):
        for other in range(len(rising)):
            wanted = (one > other) - (one < other)
            assert versions.compare(kind, rising[one], rising[other]) == wanted, (rising[one], rising[other])


def test_versions_of_dpkg_compare_as_dpkg_does() -> None:
    import itertools
    import subprocess

    some = (
        "1.0",
        "1.0-1",
        "1.0~~",
        "1.0~~a",
        "1.0~",
        "1.0+b",
        "1.0b",
        "1.0.",
        "0:1.0",
        "1:0",
        "1.0-1.1",
        "1-1-1",
        "007",
    )
    for one, other in itertools.product(some, some):
        order = versions.compare("deb", one, other)
        word = {-1: "lt", 0: "eq", 1: "gt"}[order]
        assert subprocess.run(["dpkg", "--compare-versions", one, word, other]).returncode == 0, (one, word, other)


def test_a_version_of_any_length_is_compared() -> None:
    long = "1" * 20_000
    for kind in ORDER:
        assert versions.compare(kind, long, long + "0") == -1
        assert versions.compare(kind, "\u0661.0", "1.0") in (-1, 1)  # a digit, but not of ASCII


ECL = f"""\
activated = true
legacyinsecure = false
[[execgroup]]
  tagname = "all"
  mode = "whitelist"
  dirpath = ""
  keyfp = ["{A}", "{B}"]
[[execgroup]]
  tagname = "group two"
  mode = "whitestrict"
  dirpath = "/data/it's"
  keyfp = ["{A}"]
[[execgroup]]
  tagname = "none"
  mode = "blacklist"
  dirpath = "/data/none"
  keyfp = ["{B}"]
"""


def test_an_ecl_becomes_a_policy(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "ecl.toml"
    path.write_text(ECL)
    text, warnings = trust_ecl.converted(str(path))
    values, mistakes = site_config.read(text.encode())
    found = site.parse(site_config.compiled(site_config.Settings(values, ""), "/p")).trust
    assert mistakes == [] and found and found.mode == "enforce" and found.keyring == trust_ecl.KEYRING
    assert [(rule.name, rule.places, rule.any_of, rule.all_of, rule.refuse) for rule in found.rules] == [
        ("group two", ("/data/it's",), (), (A,), False),
        ("none", ("/data/none",), (), (), True),
        ("all", ("anywhere",), (A, B), (), False),
    ]
    assert any("blacklist" in warning for warning in warnings)
    path.write_text(ECL.replace("activated = true", "activated = false"))
    assert "mode: observe" in trust_ecl.converted(str(path))[0]
    for text, said in (
        ("x", "not TOML"),
        ("", "no [[execgroup]]"),
        (ECL.replace("whitestrict", "greylist"), 'has the mode "greylist"'),
        (ECL.replace(f'["{A}"]', "[]"), "has no keyfp"),
        (ECL.replace(A, "DEADBEEF"), "no fingerprint"),
    ):
        path.write_text(text)
        with pytest.raises(BollardError) as error:
            trust_ecl.converted(str(path))
        assert said in str(error.value)


MOUNTS = b"""\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
21 20 0:44 / /cvmfs/x ro,nosuid - fuse cvmfs2 ro,user_id=0,group_id=0,allow_other
22 20 0:45 / /home/alice/m ro,nosuid - fuse.squashfuse squashfuse ro,user_id=1000,group_id=1000
23 20 0:46 / /sys/fs/fuse rw shared:3 master:4 - fusectl fusectl rw
24 20 0:47 / /disk rw - fuseblk /dev/sdb rw,user_id=0,group_id=0
25 20 0:48 / /odd rw - fuse.odd odd rw
"""


@pytest.mark.parametrize(
    ("number", "users"),
    [(b"20", False), (b"21", False), (b"22", True), (b"23", False), (b"24", False), (b"25", True), (b"9", True)],
)
def test_filesystems_that_users_serve(number: bytes, users: bool) -> None:
    """Their owners mean nothing. A filesystem that root has mounted, such as CVMFS, counts."""
    assert evidence.is_served_by_user(mount_table.words(MOUNTS, number)) == users
