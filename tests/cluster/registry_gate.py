# SPDX-License-Identifier: BSD-3-Clause
"""A gate before a registry: it logs what is asked for, and stops large blobs half-way while a file is there.

registry_gate.py ADDRESS:PORT UPSTREAM:PORT FOLDER

FOLDER/log has a line for each blob that is asked for. While FOLDER/shut exists, a blob of more than a megabyte stops
half-way, and FOLDER/half appears. It runs in a node's network namespace, so it imports nothing of the tests.
"""

from __future__ import annotations

import http.client
import http.server
import os
import sys
import time

LARGE = 1 << 20


class Gate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        upstream = http.client.HTTPConnection(UPSTREAM)
        names = ("Accept", "Range", "User-Agent")
        headers = {name: value for name in names for value in self.headers.get_all(name, [])[:1]}
        headers["Accept"] = ", ".join(self.headers.get_all("Accept", ["*/*"]))
        upstream.request(self.command, self.path, headers=headers)
        answer = upstream.getresponse()
        data = answer.read()
        if "/blobs/" in self.path and self.command == "GET":
            with open(f"{FOLDER}/log", "a") as log:
                log.write(f"{len(data)} {self.path}\n")
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        self.end_headers()
        try:
            if len(data) > LARGE and os.path.exists(f"{FOLDER}/shut"):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                open(f"{FOLDER}/half", "w").close()
                while os.path.exists(f"{FOLDER}/shut"):
                    time.sleep(0.05)
                data = data[len(data) // 2 :]
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client was killed, or its disk is full

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    where, UPSTREAM, FOLDER = sys.argv[1:]
    host, _, port = where.partition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Gate).serve_forever()
