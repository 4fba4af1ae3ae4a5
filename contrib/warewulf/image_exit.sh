#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Warewulf runs this in the image when `wwctl image shell` or `exec` ends: what no node needs goes.
set -eu
export LC_ALL=C
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
rm -rf /var/log/bollard /run/bollard-jobs
# Each node makes its own at boot.
: > /etc/machine-id
