# SPDX-License-Identifier: BSD-3-Clause
"""The secrets of a flow: their files, and where they may be sent."""

from __future__ import annotations

import pytest

from bollard.runtime.errors import BollardError
from bollard.runtime.flow import flow as flows
from bollard.runtime.flow import secret, transfer


def mistakes(text):
    return [f"{line}: {what}; {hint}" for line, what, hint in flows.parse(text.encode(), {}, "f")[1]]


def test_secrets(tmp_path):
    place = tmp_path / "bollard/secrets/x"
    place.parent.mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(BollardError, match="does not exist"):
        secret.path("x", environ)
    place.write_text("password: pass-word\nusername: u\n")
    place.chmod(0o640)
    with pytest.raises(BollardError, match="others can use"):
        secret.path("x", environ)
    place.chmod(0o600)
    assert secret.login("x", environ) == {"password": "pass-word", "username": "u"}
    place.write_text("pass-word")
    with pytest.raises(BollardError) as caught:
        secret.login("x", environ)
    assert "pass-word" not in str(caught.value)
    place.unlink()
    place.symlink_to("/etc/passwd")
    with pytest.raises(BollardError, match="not a file of yours"):
        secret.path("x", environ)


TRANSFER = """
volumes:
  v:
    {way}:
      - source: {{uri: "{source}"{first}}}
        destination: {{uri: "{destination}"{second}}}
jobs:
  a: {{image: i.sif, command: [x], mounts: {{/v: v}}}}
"""


@pytest.mark.parametrize(
    ("uri", "wrong"),
    [
        ("http://host/a", "http would send the secret unencrypted"),
        ("http://127.0.0.1.example.org/a", "http would send the secret unencrypted"),
        ("ftp://host/a", "ftp would send the secret unencrypted"),
        ("https://host/a", ""),
        ("http://127.0.0.1:80/a", ""),
        ("http://[::1]:80/a", ""),
        ("http://localhost/a", ""),
        ("sftp://host/a", ""),
    ],
)
def test_a_secret_is_not_sent_unencrypted(uri, wrong):
    key = ", secret: secret://user/s"
    text = TRANSFER.format(way="ingress", source=uri, first=key, destination="file://a", second="")
    hint = "use https://, sftp:// or webdav://, or leave the secret out"
    assert mistakes(text) == ([f"5: volumes.v.ingress.0: {uri}: {wrong}; {hint}"] if wrong else [])
    assert not mistakes(text.replace(key, "")), "without a secret nothing is wrong"
    if uri.startswith("ftp"):
        text = TRANSFER.format(way="egress", source="file://a", first="", destination=uri, second=key)
        assert mistakes(text) == [f"5: volumes.v.egress.0: {uri}: {wrong}; {hint}"]

    for address, login in ((uri, {"token": "t"}), ("s3://b/k", {"endpoint": uri})):
        if wrong:
            with pytest.raises(BollardError, match="would send the secret unencrypted"):
                secret.refuse_unencrypted(address, login)
        else:
            secret.refuse_unencrypted(address, login)
    secret.refuse_unencrypted(uri, {})


def test_names_of_rclone():
    login = {"access-key": "a", "secret-key": "b", "endpoint": "https://h:1"}
    far, environ = transfer.remote("s3://bucket/a/b", login)

    assert far == ":s3:bucket/a/b" and environ["RCLONE_S3_ENDPOINT"] == "https://h:1"
    assert "b" not in far.split(":")[1] and environ["RCLONE_S3_SECRET_ACCESS_KEY"] == "b"
    far, environ = transfer.remote("sftp://h:22/d/f", {"username": "u", "password": "p"})
    assert (far, environ["RCLONE_SFTP_HOST"], environ["RCLONE_SFTP_PORT"]) == (":sftp:d/f", "h", "22")
