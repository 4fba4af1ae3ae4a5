# SPDX-License-Identifier: BSD-3-Clause
"""An OCI layout of one layer: oci.py ROOT NAME ENTRYPOINT CMD (both JSON)."""

import hashlib
import io
import json
import os
import sys
import tarfile

root, name, entrypoint, cmd = sys.argv[1:]
layout = f"layout-{name}"
os.makedirs(f"{layout}/blobs/sha256")


def blob(data: bytes) -> dict:
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as tar:
    tar.add(root, arcname=".")
layer = blob(packed.getvalue())
config = blob(
    json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/opt/bin:/usr/bin:/bin", "FROM_OCI=a b$c", "LISTED=oci"],
                "Entrypoint": json.loads(entrypoint),
                "Cmd": json.loads(cmd),
                "WorkingDir": "/srv",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
    ).encode()
)
manifest = blob(
    json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **layer}],
        }
    ).encode()
)
index = {"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest}]}
with open(f"{layout}/index.json", "w") as file:
    json.dump(index, file)
with open(f"{layout}/oci-layout", "w") as file:
    file.write('{"imageLayoutVersion": "1.0.0"}')
