# SPDX-License-Identifier: BSD-3-Clause
"""miniwdl, ReFrame, spython and shpc."""

from __future__ import annotations

import json

import pytest
from workflows import LINES, STEPS, WDL, right

MINIWDL = """\
[scheduler]
container_backend = singularity
[singularity]
image_cache = WORK/cache
"""

REFRAME = """\
site_configuration = {
    "systems": [{
        "name": "here", "hostnames": [".*"], "modules_system": "nomod",
        "partitions": [{
            "name": "local", "scheduler": "local", "launcher": "local", "environs": ["none"],
            "container_platforms": [{"type": "Apptainer"}, {"type": "Singularity"}],
        }],
    }],
    "environments": [{"name": "none"}],
}
"""

CHECK = """\
import reframe as rfm
import reframe.utility.sanity as sn


@rfm.simple_test
class Fruit(rfm.RunOnlyRegressionTest):
    platform = parameter(["Apptainer", "Singularity"])
    valid_systems = ["here:local"]
    valid_prog_environs = ["none"]
    sourcesdir = "sources"

    @run_before("run")
    def use_container(self):
        self.container_platform = self.platform
        self.container_platform.image = "IMAGE"
        self.container_platform.command = "sh ./steps.sh"

    @sanity_function
    def check(self):
        return sn.assert_found(r"11\\.\\d+\\nAPPLE\\nPEAR\\nQUINCE\\n4", self.stdout)
"""

SPYTHON = """\
from spython.main import Client as client

client.quiet = True
image, steps = "IMAGE", STEPS
for step in steps:
    client.execute(image, ["sh", "-c", step])
print(client.version())
print(client.inspect(image)["attributes"]["labels"] is not None)
built = client.build("own.def", "own.sif", sudo=False)
print(client.run("own.sif", ["a", "b c"]).strip())
print(client.inspect("own.sif")["attributes"]["labels"]["Author"])
instance = client.instance("own.sif", name="fruit")
print(client.execute(instance, ["echo", "in the instance"]).strip())
instance.stop()
"""

OWN = """\
Bootstrap: localimage
From: IMAGE

%labels
    Author engines

%runscript
    echo run "$@"
"""

SHPC = """\
module_sys: lmod
container_tech: singularity
registry: [WORK/registry]
sync_registry: WORK/registry
module_base: WORK/modules
module_name: '{{ parsed_name.tool }}'
default_version: module_sys
container_base: WORK/containers
wrapper_base: WORK/modules
views_base: WORK/views
label_separator: ', '
singularity_shell: /bin/sh
environment_file: 99-shpc.sh
wrapper_shell: /bin/bash
wrapper_scripts: {enabled: true, docker: docker.sh, podman: docker.sh, singularity: singularity.sh}
default_view:
singularity_module:
podman_module:
singularity_path: singularity
enable_tty: true
podman_shell: /bin/sh
docker_shell: /bin/sh
bindpaths:
container_features: {gpu: null, x11: null, home: null}
test_shell: /bin/bash
config_editor: vim
"""

RECIPE = """\
docker: tools
url: https://example.org
maintainer: '@nobody'
description: tools
latest: {'1': 'sha256:0'}
tags: {'1': 'sha256:0'}
aliases:
  upper: tr a-z A-Z
  sorted: sort
  lines: wc -l
  release: cat /etc/debian_version
"""


@pytest.mark.every_run
def test_miniwdl(login, work, image, seen):
    work.write("fruit.wdl", WDL.replace("IMAGE", "tools:1"))
    work.write("lines", LINES)
    work.write("miniwdl.cfg", MINIWDL.replace("WORK", work.path))
    here = login("miniwdl")
    out = here.good(
        f"mkdir cache && ln -s {image} cache/docker___tools_1.sif"
        " && miniwdl run --cfg miniwdl.cfg --dir run fruit.wdl lines=lines"
    )
    outputs = json.loads(out)["outputs"]
    assert outputs["fruit.number"] == 4
    assert right(here.good(f"cat {outputs['fruit.text']}"))
    seen["miniwdl"] = {"version": here.version("miniwdl")}


@pytest.mark.every_run
def test_reframe(login, work, image, seen):
    here = login("reframe")
    work.write("settings.py", REFRAME)
    work.write("check.py", CHECK.replace("IMAGE", image))
    here.good("mkdir sources")
    work.write("sources/lines", LINES)
    work.write("sources/steps.sh", "\n".join((*STEPS, "cat sorted count")))
    here.good("reframe -C settings.py -c check.py -r")
    seen["ReFrame"] = {"version": here.version("ReFrame-HPC")}


@pytest.mark.every_run
def test_spython(login, work, image, seen):
    here = login("spython")
    work.write("lines", LINES)
    work.write("own.def", OWN.replace("IMAGE", image))
    work.write("program.py", SPYTHON.replace("IMAGE", image).replace("STEPS", repr(STEPS)))
    version, *said = here.good("python3 program.py").splitlines()
    assert version.startswith("apptainer version 1.4.5+bollard.")
    said = [line for line in said if not line.startswith("bollard: ")]  # the build's progress, which spython prints
    assert said == ["True", "run a b c", "engines", "in the instance"]
    assert right(work.read("sorted")) and work.read("count").strip() == "4"
    seen["spython"] = {"version": here.version("spython")}


def test_shpc(login, work, image, seen):
    here = login("shpc")
    here.good("mkdir -p registry/demo/tools")
    work.write("registry/demo/tools/container.yaml", RECIPE)
    work.write("shpc.yml", SHPC.replace("WORK", work.path))
    work.write("lines", LINES)
    here.good(f"shpc --settings-file shpc.yml install --keep-path demo/tools:1 {image}")
    found = here.good("find modules -name bin").split()[0]
    text = here.good(
        f"PATH={work.path}/{found}:$PATH; upper < lines > text; release >> text; LC_ALL=C sorted text > out;"
        " lines < out; cat out"
    )
    number, _, rest = text.partition("\n")
    assert number.strip() == "4" and right(rest)
    seen["shpc"] = {"version": here.version("singularity-hpc")}
