#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Turns a bare set of namespaces into a node, then becomes its init.
# Started by namespaces.py in fresh mount, UTS, IPC, network, PID and cgroup namespaces, as the first process
# of the PID namespace. Everything mounted here exists in this mount namespace only and goes away with it.
set -eu
suite=$1 name=$2 run=$3 tree=$4 shared=$5 source=$6 controllers=$7 cpus=$8
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

# The namespaces may have been made on one CPU on purpose; what follows is for all.
taskset -cp "$cpus" $$ > /dev/null
echo "$name" > /proc/sys/kernel/hostname

# The node's own disk: what it writes lands in memory, above the tree that all nodes share.
disk=$run/disk
mount -t tmpfs -o mode=0755,size=4g "$suite-$name" "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$disk/upper,workdir=$disk/work" "$suite-$name" "$disk/root"
cd "$disk/root"
cp -a "$run/etc/." etc/
echo "$name" > etc/hostname
if [ "$name" != ctl ] && grep -q enable_configless etc/slurm/slurm.conf; then
    find etc/slurm -maxdepth 1 -type f -not -name '*.sh' -delete
fi

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=0755,nosuid,nodev run run
mount -t tmpfs -o mode=1777,nosuid,nodev,size=4g tmp tmp
mkdir -m 1777 run/lock

# UCX and others take the boot id for the identity of a host.
cat /proc/sys/kernel/random/uuid > "$disk/boot_id"
chmod 444 "$disk/boot_id"
mount --bind "$disk/boot_id" proc/sys/kernel/random/boot_id
# A user may mount a /proc of his own only where one is seen whole, as on any real node (mount_too_revealing(),
# fs/namespace.c): the one above is not, for the file over its boot id.
mkdir var/lib/whole-proc
mount -t proc -o nosuid,nodev,noexec proc var/lib/whole-proc

mount -t tmpfs -o mode=0755,nosuid dev dev
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5,nosuid,noexec devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev,size=4g shm dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue dev/mqueue
while read -r file major minor; do
    mknod -m 666 "dev/$file" c "$major" "$minor"
done <<DEVICES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
DEVICES
if test -e etc/slurm/gres.conf; then
    mknod -m 666 dev/nvidiactl c 195 255
    for number in 0 1; do mknod -m 666 "dev/nvidia$number" c 195 "$number"; done
fi
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# In this cgroup namespace the mounted hierarchies begin at the node's own group.
if [ "$controllers" = unified ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
elif [ -n "$controllers" ]; then
    mount -t tmpfs -o mode=0755,nosuid,nodev,noexec cgroup sys/fs/cgroup
    for controller in $controllers; do
        mkdir "sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
    done
fi

mount --bind "$shared/home" home
mount --bind "$shared/images" images
# /usr/src/bollard is a link to this: the kernel refuses a user's overlay over /usr when /usr holds a mount.
mount --bind "$source" srv/bollard
mkdir -p var/log/slurm
mount --bind "$run/log" var/log/slurm

# /proc is still the machine's, and so is the pid that this shell reads there; tini will keep it.
read -r stat < /proc/self/stat
echo "$stat" > "$run.init.new"
mv "$run.init.new" "$run.init"

mkdir run/machine
pivot_root . run/machine
# A root made by chroot alone would forbid user namespaces; this one is the mount namespace's own.
exec chroot . /usr/bin/env -i "BOLLARD_TEST_CLUSTER=$suite/$name" PATH="$PATH" LANG=C.UTF-8 sh -c '
    cd /; umount -l /run/machine; rmdir /run/machine; exec tini -g -- sleep infinity' < /dev/null
