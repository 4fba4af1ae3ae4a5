# SPDX-License-Identifier: BSD-3-Clause
"""Images in registries and on other servers: their names, how they are fetched, the cache.

reference.py: parses names such as docker://NAME.
registry.py: registries, by skopeo.
cosigned.py: images of registries that cosign has signed.
referrers.py: a registry's list of what refers to an image.
logins.py: logins to registries: docker's files and credential helpers.
remote.py: endpoints of libraries and key servers, in Apptainer's remote.yaml.
library.py: the protocol of library://.
web.py: files of web servers.
keyserver.py: keys of key servers.
sources.py: fetches layers or files into the cache; the settings for that, --docker-login among them.
skopeo_policy.py: the host's policy of which images may be fetched.
variants.py: variants of an architecture, and which this processor runs.
oci.py: reads OCI and Docker images: manifests, configuration, archives.
layer.py: unpacks a layer into a tree.
decompression.py: reads an archive that is plain or packed.
cache.py: keeps what was fetched.
eviction.py: removes the longest unused entries of a cache over its limit.
pins.py: which image a name means in a job.
"""
