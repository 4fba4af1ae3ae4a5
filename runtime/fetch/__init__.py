# SPDX-License-Identifier: BSD-3-Clause
"""Images that lie elsewhere: their names, their servers, the cache.

reference.py: parses names such as docker://NAME.
registry.py: registries, by skopeo.
library.py: the protocol of library://.
web.py: files of web servers.
sources.py: brings layers or files here, through the cache.
policy.py: the host's policy of which images may be fetched.
variants.py: variants of an architecture, and which this processor runs.
oci.py: reads OCI and Docker images: manifests, configuration, archives.
layer.py: unpacks a layer into a tree.
cache.py: keeps what was fetched.
"""
