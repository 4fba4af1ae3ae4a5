#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# `make demo`: a Slurm cluster on this machine, a real image, and MPI in it. Each command is shown before it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=slurm-test-cluster/cluster
image=/images/demo.sif
# What every node sees as /images.
images=/var/lib/bollard-test-cluster/${BOLLARD_CLUSTER:+$BOLLARD_CLUSTER.}bookworm/images

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

as_alice() {
    printf '\nalice@ctl$ %s\n' "$*"
    /usr/bin/python3 "$cluster" exec --user alice -- "$@"
}

echo 'A Slurm cluster: a controller and four nodes, with the plugin of this checkout.'
show "$cluster" up --plugin

printf '\nAn image: Debian 12 with Open MPI, MPICH, and a small MPI program compiled in it.\n'
printf '\n$ slurm-test-cluster/images build --suite bookworm --kind mpi\n'
tree=$(slurm-test-cluster/images build --suite bookworm --kind mpi)
echo "$tree"
export PYTHONPATH
PYTHONPATH=$(/usr/bin/python3 tests/dev_tree.py)
printf '\n$ bollard build --force %s %s\n' "$images/demo.sif" "$tree"
/usr/bin/python3 -c 'import sys; from bollard.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))' \
    build --force "$images/demo.sif" "$tree"
unset PYTHONPATH

as_alice srun --container="$image" cat /etc/os-release
as_alice srun --container="$image" --mpi=pmix -N2 -n4 /opt/mpi/ompi_ring
as_alice srun --container="$image" --container-verbose -n1 true

cat <<EOF

Now you:
    sudo $cluster exec --user alice -- bash        a shell on the cluster; then, for example
        srun --pty --container=$image bash         a shell in the container, on a node
        srun --container=$image --mpi=pmi2 -N2 -n2 /opt/mpi/mpich_ring
    sudo $cluster down                             end it all
EOF
