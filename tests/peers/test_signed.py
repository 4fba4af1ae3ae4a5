# SPDX-License-Identifier: BSD-3-Clause
"""Apptainer signs and verifies what `bollard build` has written, and bollard runs it as before."""

from __future__ import annotations

import json

from tree import IMAGES, Machine

SCRIPT = f"""
set -e
cd "$(mktemp -d)"
export APPTAINER_KEYSDIR=$PWD/keys
exec 2>err
bollard build ours.sif {IMAGES}/sandbox
if apptainer verify ours.sif >refused; then exit 3; fi
apptainer key newpair --bit-length 2048 --name Peer --email peer@example.org --comment none --password '' --push=false
apptainer sign ours.sif
apptainer verify --json ours.sif
bollard exec ours.sif cat /srv/full/file
diff <(bollard sif list ours.sif) <(apptainer sif list ours.sif)
apptainer sif list ours.sif > list
read -r id _ < <(grep SBOM list)
diff <(bollard inspect --sbom ours.sif) <(apptainer sif dump "$id" ours.sif; echo)
apptainer exec ours.sif cat /srv/full/file
apptainer inspect --json ours.sif | grep -q org.label-schema.build-arch
printf x | dd of=ours.sif bs=1 seek=40000 conv=notrunc
if apptainer verify ours.sif >refused; then exit 3; fi
"""


def test_signed_by_apptainer(machine: Machine) -> None:
    done = machine.run(SCRIPT, timeout=120)
    out = done.stdout.decode()
    assert done.returncode == 0, (out, done.stderr)
    told, end = json.JSONDecoder().raw_decode(out[out.index("{") :])
    assert told["Signatures"] == 1 and told["SignerKeys"][0]["Signer"]["DataCheck"], told
    assert [entry["Signer"]["Partition"] for entry in told["SignerKeys"]].count("SBOM") == 1, told  # it is in the group
    assert out[out.index("{") + end :].split() == ["inside", "inside"]
