# SPDX-License-Identifier: BSD-3-Clause
"""Flow files of many shapes. IMG and MPI_IMAGE stand for images, KIND and RING for MPI, WORK for a directory.

The second half has the shapes of public workflow files of Fuzzball, v1 and v4, with small programs in place of theirs.
"""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """A flow file, the number of its jobs and transfers, and what a job of it prints: name and text."""

    text: str
    parts: int
    job: str
    prints: str


def chain(count: int) -> Shape:
    rows = [
        f"  c{at}: {{image: IMG, command: 'echo {at} >> chain; tail -n1 chain', needs: [{f'c{at - 1}' if at else ''}]}}"
        for at in range(count)
    ]
    return Shape("\n".join(["jobs:", *rows, ""]), count, f"c{count - 1}", f"{count - 1}\n")


def fan(count: int) -> Shape:
    names = ", ".join(f"f{at}" for at in range(count))
    rows = [f"  f{at}: {{image: IMG, command: 'echo {at} > fan.{at}', needs: first}}" for at in range(count)]
    first = "  first: {image: IMG, command: [touch, first]}"
    last = f"  last: {{image: IMG, command: 'cat fan.* | wc -l', needs: [{names}]}}"
    return Shape("\n".join(["jobs:", first, *rows, last, ""]), count + 2, "last", f"{count}\n")


def diamonds(count: int) -> Shape:
    rows = ["jobs:", "  d0: {image: IMG, command: 'echo 0 > d0'}"]
    for at in range(1, count + 1):
        rows += [f"  {side}{at}: {{image: IMG, command: 'cp d{at - 1} {side}{at}', needs: d{at - 1}}}" for side in "lr"]
        both = f"'cmp l{at} r{at} && cp l{at} d{at} && cat d{at}'"
        rows.append(f"  d{at}: {{image: IMG, command: {both}, needs: [l{at}, r{at}]}}")
    return Shape("\n".join([*rows, ""]), 3 * count + 1, f"d{count}", "0\n")


ARRAY = """
jobs:
  split: {image: IMG, command: 'seq 20 > parts'}
  work:
    image: IMG
    command: 'sed -n ${FB_TASK_ID}p parts > part.$FB_TASK_ID'
    task-array: {start: 1, end: 20, concurrency: 5}
    needs: split
  verify:
    image: IMG
    command: 'test $(cat part.$FB_TASK_ID) = $FB_TASK_ID'
    task-array: {start: 1, end: 20}
    needs: [{name: work, each: true}]
  join: {image: IMG, command: 'cat part.* | wc -l', needs: verify}
"""

MPI = """
jobs:
  make: {image: MPI_IMAGE, command: 'echo input > input'}
  ring:
    image: MPI_IMAGE
    command: [/opt/mpi/RING]
    multinode: {nodes: 2, implementation: KIND, procsPerNode: 2}
    resource: {cpu: {cores: 2}}
    needs: make
  result: {image: MPI_IMAGE, command: 'cat input', needs: ring}
"""

HELLO = """
version: v1
jobs:
  greet:
    image: {uri: "IMG"}
    command: ['/bin/sh', '-c', 'test -n "${PATH}" && echo "from $(basename ${PWD})"']
    cwd: /tmp
    resource: {cpu: {cores: 1, affinity: NUMA}, memory: {size: 1GB}}
"""

COUNTDOWN = """
version: v1
jobs:
  count:
    image: {uri: "IMG"}
    policy: {timeout: {execute: 10m0s}}
    env: [FIRST=1, LAST=3, PAUSE=0.1]
    command:
      - /bin/sh
      - '-c'
      - for i in $(seq $FIRST $LAST); do echo $i; sleep $PAUSE; done
    resource: {cpu: {cores: 1, affinity: NUMA}, memory: {size: 1GB}}
"""

# Directories, two sources beside each other, an index of one, a search; all in one volume.
SEARCH = """
version: v1
volumes:
  search-volume: {name: search-volume, reference: volume://user/ephemeral}
jobs:
  directories:
    image: {uri: "IMG"}
    command: [mkdir, queries, sequences, results]
    cwd: /data
    mounts: {search-volume: {location: /data}}
  query:
    image: {uri: "IMG"}
    command: [/bin/sh, -c, "echo GATTACA > query"]
    cwd: /data/queries
    mounts: {search-volume: {location: /data}}
    requires: [directories]
  sequences:
    image: {uri: "IMG"}
    command: [/bin/sh, -c, "printf 'AAA\\nGATTACA\\n' > all"]
    cwd: /data/sequences
    mounts: {search-volume: {location: /data}}
    requires: [directories]
  index:
    image: {uri: "IMG"}
    command: [/bin/sh, -c, "sort all > index"]
    cwd: /data/sequences
    mounts: {search-volume: {location: /data}}
    requires: [query, sequences]
  search:
    image: {uri: "IMG"}
    command: [grep, -c, -f, /data/queries/query, /data/sequences/index]
    cwd: /data
    resource: {cpu: {cores: 8, affinity: NUMA}, memory: {size: 2GiB}}
    mounts: {search-volume: {location: /data}}
    requires: [index]
"""

NOTEBOOK = """
version: v1
volumes:
  notebooks: {name: notebooks, reference: volume://user/ephemeral}
jobs:
  notebook:
    image: {uri: "IMG"}
    mounts: {notebooks: {location: /data}}
    env: [HOME=/data/home]
    command:
      - /bin/sh
      - '-c'
      - >-
        test -d $HOME || mkdir $HOME;
        echo "$HOME";
        touch /data/notebook
    resource: {cpu: {cores: 1, affinity: NUMA}, memory: {size: 1GB}, exclusive: true}
"""

# Input from the network, words of a shell in the arguments.
DOWNLOAD = """
version: v1
volumes:
  input:
    name: input
    reference: volume://user/ephemeral
    ingress:
      - source: {uri: "http://ctl:8766/in.txt"}
        destination: {uri: file://in.txt}
jobs:
  simulate:
    image: {uri: "IMG"}
    env: [INPUT=/data/in.txt]
    command: [/bin/sh, '-c', 'cat ${INPUT}']
    cwd: /data
    resource: {cpu: {cores: 2, affinity: NUMA}, memory: {size: 1GiB}}
    mounts: {input: {location: /data}}
"""

RANKS = """
version: v4
jobs:
  ranks:
    env: [PATH=/opt/mpi:/usr/local/bin:/usr/bin:/bin]
    image: {uri: "MPI_IMAGE"}
    command: [/bin/sh, '-c', RING > /dev/null && echo rank]
    resource: {cpu: {cores: 1, affinity: NUMA}, memory: {size: 512MiB}}
    multinode: {nodes: 2, implementation: KIND}
"""

THREE = """
version: v4
jobs:
  pre:
    env: [WAIT=0.1]
    image: {uri: "IMG"}
    script: |
      #! /bin/sh
      echo "before; sleeping ${WAIT} seconds"; sleep ${WAIT}
    resource: {cpu: {cores: 1}, memory: {size: 0.5GiB}}
    policy: {timeout: {execute: "120s"}}
  main-job:
    env: [WAIT=0.1]
    image: {uri: "IMG"}
    script: |
      #! /bin/sh
      echo "in between"; sleep ${WAIT}
    depends-on: [{name: pre, status: FINISHED}]
    resource: {cpu: {cores: 1}, memory: {size: 0.5GiB}}
    policy: {timeout: {execute: "120s"}}
  post:
    env: [WAIT=0.1]
    image: {uri: "IMG"}
    script: |
      #! /bin/sh
      echo "after"; sleep ${WAIT}
    depends-on: [{name: main-job, status: FINISHED}]
    resource: {cpu: {cores: 1}, memory: {size: 0.5GiB}}
    policy: {timeout: {execute: "120s"}}
"""

# A file of the flow's own, an array of frames, one job that joins them, and the result goes out.
FRAMES = """
version: v4
files:
  frame.sh: |
    #!/bin/sh
    echo "frame $1" > /data/frame.$1
volumes:
  frames:
    use: ephemeral
    size: 1GiB
    egress:
      - source: {uri: file://video}
        destination: {uri: "file://WORK/video"}
jobs:
  frame:
    image: {uri: "IMG"}
    command: [/bin/sh, -c, '/bin/sh /opt/frame.sh $FB_TASK_ID']
    files: {/opt/frame.sh: file://frame.sh}
    mounts: {/data: {volume: frames}}
    resource: {cpu: {cores: 1}, memory: {size: 100MiB}}
    task-array: {start: 1, end: 6, concurrency: 3}
  video:
    image: {uri: "IMG"}
    script: |
      #!/bin/sh
      cat /data/frame.* | tee /data/video | wc -l
    mounts: {/data: frames}
    depends-on: [{name: frame, status: finished}]
"""

# Defaults for every job, a reference that is made once, two branches over it.
ALIGN = """
version: v4
defaults:
  job:
    env: [THREADS=2]
    mounts: {/data: {volume: align-data}}
    policy: {timeout: {execute: 5m}, retry: {attempts: 2}}
    resource: {cpu: {cores: 2}, memory: {size: 200MiB}}
volumes:
  align-data: {use: ephemeral}
jobs:
  reference: {image: {uri: "IMG"}, command: [touch, /data/reference], cwd: /data}
  left: {image: {uri: "IMG"}, script: 'echo 1 > /data/left', depends-on: [{name: reference}]}
  right: {image: {uri: "IMG"}, script: 'test -e /data/reference; echo 2 > /data/right', depends-on: [{name: reference}]}
  merge:
    image: {uri: "IMG"}
    name: merge
    script: |
      #!/bin/sh
      echo $(cat /data/left /data/right) $THREADS
    depends-on: [{name: left, status: Finished}, {name: right, status: Finished}]
"""


def mesh() -> Shape:
    """Preparation, decomposition, many parallel steps in a row, reconstruction: a chain of ten in one volume."""
    text = "version: v1\nvolumes:\n  case: {name: case, reference: volume://user/ephemeral}\njobs:\n"
    names = ["prepare", "decompose", *(f"solve-{at}" for at in range(6)), "rebuild", "pack"]
    for before, name in zip(["", *names], names):
        step = (
            f'[/bin/bash, -c, "if test ${{SLURM_PROCID:-0}} = 0; then echo {name} >> log; fi; \\\n        wc -l < log"]'
        )
        many = "    multinode: {nodes: 1, implementation: KIND}\n" if name.startswith("solve") else ""
        text += (
            f'  {name}:\n    image: {{uri: "MPI_IMAGE"}}\n    env: [CASE=/data, OMPI_MCA_pml=^ucx]\n'
            f"    command: {step}\n{many}"
            f"    resource: {{cpu: {{cores: {2 if many else 1}, affinity: NUMA}}, memory: {{size: 512MiB}}}}\n"
            f"    cwd: /data\n    mounts: {{case: {{location: /data}}}}\n"
        )
        text += f'    requires: ["{before}"]\n' if before else ""
    return Shape(text, len(names), "pack", "10\n")


SHAPES = {
    "three jobs of MPI": Shape(MPI, 3, "result", "input\n"),
    "a fan of 40": fan(40),
    "arrays": Shape(ARRAY, 42, "join", "20\n"),
    "a chain of ten": chain(10),
    "diamonds": diamonds(3),
    "v1: hello": Shape(HELLO, 1, "greet", "from tmp\n"),
    "v1: countdown": Shape(COUNTDOWN, 1, "count", "1\n2\n3\n"),
    "v1: search": Shape(SEARCH, 5, "search", "1\n"),
    "v1: notebook": Shape(NOTEBOOK, 1, "notebook", "/data/home\n"),
    "v1: download": Shape(DOWNLOAD, 2, "simulate", "from the network\n"),
    "v1: mesh": mesh(),
    "v4: ranks": Shape(RANKS, 1, "ranks", "rank\nrank\n"),
    "v4: three": Shape(THREE, 3, "post", "after\n"),
    "v4: frames": Shape(FRAMES, 8, "video", "6\n"),
    "v4: align": Shape(ALIGN, 4, "merge", "1 2 2\n"),
}
