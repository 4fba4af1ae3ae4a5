#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs on a node: starts containers of each image many times, beside others that start in a loop.

    starts.py COUNT HOST BESIDE IMAGE...

HOST is a directory that is bound through links of each IMAGE, BESIDE the image of the others. The answer is JSON: for
each IMAGE a list of [how often, exit status, stdout, stderr].
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter

AT_ONCE = 4  # that start in a loop
LOOK = "ls /run/munge /srv/data/x; cat /etc/localtime /etc/resolv.conf"


def begin(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bollard", "exec", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    return done.returncode, done.stdout, done.stderr


def main() -> None:
    count, host, beside, *images = sys.argv[1:]
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            begin([beside, "true"])

    threads = [threading.Thread(target=loop) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    found = {}
    for image in images:
        words = ["--bind", f"{host}:/var/run/munge", "--bind", f"{host}:/data/x", image, "sh", "-c", LOOK]
        found[image] = Counter(begin(words) for _ in range(int(count)))
    over.set()
    for thread in threads:
        thread.join()
    json.dump(
        {image: [[often, *answer] for answer, often in came.items()] for image, came in found.items()}, sys.stdout
    )


if __name__ == "__main__":
    main()
