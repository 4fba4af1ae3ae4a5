# SPDX-License-Identifier: BSD-3-Clause
"""One workflow of three steps, as each engine wants it written.

The input is three lines. The first step makes them upper case and adds a line that only the image can give: its release
of Debian. The second step sorts them, and the third counts them.
"""

from __future__ import annotations

LINES = "pear\napple\nquince\n"
WORDS = ["APPLE", "PEAR", "QUINCE"]


def right(text: str) -> bool:
    """Whether the sorted text is the workflow's, with the line of an image of Debian 11."""
    release, *words = text.splitlines()
    return release.startswith("11.") and words == WORDS


SNAKEFILE = """\
container: "IMAGE"

rule all:
    input: "count"

rule upper:
    input: "lines"
    output: "upper"
    shell: "tr a-z A-Z < {input} > {output}; cat /etc/debian_version >> {output}"

rule sort:
    input: "upper"
    output: "sorted"
    shell: "LC_ALL=C sort {input} > {output}"

rule count:
    input: "sorted"
    output: "count"
    shell: "grep -q ^11 /etc/debian_version; wc -l < {input} > {output}"
"""

CWL = """\
cwlVersion: v1.2
class: Workflow
requirements:
  DockerRequirement: {dockerPull: "tools:1"}
inputs: {lines: File}
outputs:
  text: {type: File, outputSource: sort/out}
  number: {type: File, outputSource: count/out}
steps:
  upper:
    in: {lines: lines}
    out: [out]
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'tr a-z A-Z < "$0"; cat /etc/debian_version']
      inputs: {lines: {type: File, inputBinding: {position: 1}}}
      outputs: {out: {type: stdout}}
      stdout: upper
  sort:
    in: {text: upper/out}
    out: [out]
    run:
      class: CommandLineTool
      baseCommand: [sort]
      requirements: {EnvVarRequirement: {envDef: {LC_ALL: C}}}
      inputs: {text: {type: File, inputBinding: {position: 1}}}
      outputs: {out: {type: stdout}}
      stdout: sorted
  count:
    in: {text: sort/out}
    out: [out]
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'grep -q ^11 /etc/debian_version && wc -l < "$0"']
      inputs: {text: {type: File, inputBinding: {position: 1}}}
      outputs: {out: {type: stdout}}
      stdout: count
"""

WDL = """\
version 1.0

task upper {
    input { File lines }
    command <<< tr a-z A-Z < ~{lines}; cat /etc/debian_version >>>
    output { File out = stdout() }
    runtime { docker: "IMAGE" }
}

task sorted {
    input { File text }
    command <<< LC_ALL=C sort ~{text} >>>
    output { File out = stdout() }
    runtime { docker: "IMAGE" }
}

task count {
    input { File text }
    command <<< grep -q ^11 /etc/debian_version && wc -l < ~{text} >>>
    output { Int out = read_int(stdout()) }
    runtime { docker: "IMAGE" }
}

workflow fruit {
    input { File lines }
    call upper { input: lines = lines }
    call sorted { input: text = upper.out }
    call count { input: text = sorted.out }
    output {
        File text = sorted.out
        Int number = count.out
    }
}
"""

# The same three steps as shell commands, for programs that are given command lines.
STEPS = (
    "tr a-z A-Z < lines > upper; cat /etc/debian_version >> upper",
    "LC_ALL=C sort upper > sorted",
    "grep -q ^11 /etc/debian_version; wc -l < sorted > count",
)
