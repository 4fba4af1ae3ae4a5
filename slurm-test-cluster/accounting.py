# SPDX-License-Identifier: BSD-3-Clause
"""slurmdbd and MariaDB on the controller of a cluster that was started with --accounting.

The packages are in a layer above the suite's tree, which only the controller uses. The data is on the controller's
disk, which is in memory and ends with the controller.
"""

from __future__ import annotations

import hashlib
import shlex

import suites
from state import Cluster

PACKAGES = ("slurmdbd", "mariadb-server", "mariadb-client")

SLURM_CONF = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller}
{comments}
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost={controller}
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurm/slurmdbd.pid
"""

# The sizes are as small as possible. The paths are our own, because Debian's differ between the suites.
CONF = "/etc/mysql/test-cluster.cnf"
MARIADB_CONF = """\
[client]
socket=/run/test-cluster-db/socket
[mariadbd]
socket=/run/test-cluster-db/socket
datadir=/var/lib/test-cluster-db
pid-file=/run/test-cluster-db/pid
bind-address=127.0.0.1
skip-log-bin
skip-name-resolve
performance_schema=OFF
innodb_buffer_pool_size=32M
innodb_log_file_size=8M
innodb_data_file_path=ibdata1:8M:autoextend
innodb_flush_log_at_trx_commit=0
innodb_lock_wait_timeout=900
max_allowed_packet=16M
key_buffer_size=1M
aria_pagecache_buffer_size=1M
"""

# Runs in the layer after the installation: makes the database's files with the sizes above.
PREPARE = rf"""
printf '%s' "$1" > {CONF}
rm -rf /var/lib/mysql /var/lib/mariadb
install -d -o mysql -g mysql -m 755 /var/lib/test-cluster-db /run/test-cluster-db
mariadb-install-db --defaults-file={CONF} --user=mysql --skip-test-db > /dev/null
"""

START = rf"""
install -d -o mysql -g mysql -m 755 /run/test-cluster-db
install -d -o slurm -g slurm -m 755 /run/slurm /var/log/slurm
printf '%s' "$1" > /etc/slurm/slurmdbd.conf
chown slurm:slurm /etc/slurm/slurmdbd.conf
chmod 600 /etc/slurm/slurmdbd.conf
cd /
setsid mariadbd --defaults-file={CONF} --user=mysql < /dev/null > /var/log/slurm/mariadb.log 2>&1 &
tries=0
until mariadb-admin --defaults-file={CONF} --silent ping > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1
done
mariadb --defaults-file={CONF} -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS slurm@127.0.0.1 IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1"
slurmdbd
tries=0
until sacctmgr -n list cluster > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 300 ]; sleep 0.1
done
sacctmgr -n list cluster format=cluster | grep -qw "$2" || sacctmgr -Qi add cluster "$2" > /dev/null
"""


def stamp(cluster: Cluster) -> str:
    """Return a hash of everything that the layer is made from."""
    parts = [suites.read(cluster.tree / ".stamp"), MARIADB_CONF, PREPARE, *PACKAGES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def ensure_layer(cluster: Cluster) -> None:
    """Make the layer with the packages, if it is missing or outdated."""
    suites.ensure_layer(cluster, "accounting", stamp(cluster), PACKAGES, PREPARE, MARIADB_CONF)


def tree(cluster: Cluster) -> str:
    """Return the lower directories of the controller's overlay: the layer, then the suite's tree."""
    return f"{cluster.cache / 'accounting' / 'upper'}:{cluster.tree}"


def slurm_conf(cluster: Cluster, controller: str) -> str:
    """Return the lines for slurm.conf; `controller` is the name of the controller."""
    comments = "AccountingStoreJobComment=YES" if cluster.suite == "bullseye" else "AccountingStoreFlags=job_comment"
    return SLURM_CONF.format(controller=controller, comments=comments)


def start_script(controller: str, name: str) -> str:
    """Return a shell script that starts MariaDB and slurmdbd. It runs after munged and before slurmctld."""
    return f"set -- {shlex.quote(SLURMDBD_CONF.format(controller=controller))} {shlex.quote(name)}\n{START}"
