#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# GPUs in containers, checked on a machine with an NVIDIA card. It needs no network, no Slurm and not root; about two
# minutes. The image is a directory made of the machine's own programs and libraries, without the driver.
#
#     tests/gpu/check.sh              facts about the machine, then one line a check: ok, not here: reason, or FAILED
#     tests/gpu/check.sh --pack       on a machine with a network: fill .gpu with what the other machine may lack
#                                     (cffi for its Python, the launcher, compiled); copy the checkout with .gpu
#
# BOLLARD_CARRIED=DIR: another folder than .gpu. The exit status is 1 when a check has FAILED.
set -u
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd) top=$(cd "$(dirname "$0")/../.." && pwd)
carried=${BOLLARD_CARRIED:-$top/.gpu}
user=54321 # a number that no one has; checks run as it when root runs this

if test "${1:-}" = --pack; then
    set -e
    mkdir -p "$carried"
    for version in 3.9 3.10 3.11 3.12 3.13 3.14; do
        python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version $version \
            --implementation cp --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$carried" \
            'cffi>=1.17' pycparser || echo "no cffi for Python $version"
    done
    # Debian's loaders of Vulkan, EGL and OpenGL: they pass calls on to the driver's libraries.
    (cd "$carried" && apt-get -q download libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2 libx11-6 \
        libxext6 libxcb1 libxau6 libxdmcp6 libbsd0 libmd0 libwayland-client0) || echo 'no loaders of graphics'
    python3 "$here/make_tree.py" --pack "$carried"
    ls -l "$carried"
    exit
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/bollard-gpu-XXXXXX")
trap 'chmod -R u+rwX "$work" 2>/dev/null; rm -rf "$work"' EXIT
chmod 755 "$work"
failures=0

say() { printf '%s\n' "$*"; }
ok() { say "ok: $*"; }
not_here() { say "not here: $*"; }
failed() { say "FAILED: $*"; failures=$((failures + 1)); }

# fact NAME COMMAND...: the first lines of its output; a command that fails is a fact too.
fact() {
    local name=$1 out
    shift
    test "$(type -t "$1")" = function || set -- timeout 20 "$@"
    out=$("$@" 2>&1 < /dev/null | head -n "${LINES_MAX:-12}" | cut -c1-220)
    say "fact: $name: ${out:-(nothing)}" | sed '2,$s/^/    /'
}

# As the user, with an environment of its own; AS_ROOT=1 for the user who runs this.
run() {
    local set=(env -i PATH="$PATH" HOME="$work/home" LC_ALL=C PYTHONDONTWRITEBYTECODE=1)
    test -n "${LD_LIBRARY_PATH:-}" && set+=("LD_LIBRARY_PATH=$LD_LIBRARY_PATH")
    if test "$(id -u)" = 0 && test "${AS_ROOT:-}" != 1; then
        set+=(setpriv "--reuid=$user" "--regid=$user" --clear-groups)
    fi
    (cd "$work/home" && exec timeout -k 5 "${SECONDS_MAX:-60}" "${set[@]}" "$@" < /dev/null)
}
bollard() { run "$work/prefix/bin/bollard" "$@"; }
# inside [OPTION...] -- PROGRAM...: in the image, with what Python needs from the host.
inside() {
    local options=()
    while test "$1" != --; do options+=("$1"); shift; done
    shift
    bollard exec "${options[@]}" "${binds[@]}" "$work/image" "$@"
}

# check NAME COMMAND...: exit status 0 is ok, 3 means that something is not on this machine.
check() {
    local name=$1 out status
    shift
    out=$("$@" 2>&1)
    status=$?
    case $status in
    0) ok "$name: $(say "$out" | tail -n 1 | cut -c1-400)" ;;
    3) not_here "$name: $(say "$out" | tail -n 1 | cut -c1-400)" ;;
    *)
        failed "$name (exit status $status)"
        say "$out" | tail -n 12 | cut -c1-400 | sed 's/^/    /'
        ;;
    esac
    return $status
}

# What works on the host is nothing that can be missing: 3 is a failure too.
works() {
    "$@"
    local status=$?
    test $status = 3 && status=1
    return $status
}

# as_host NAME OPTIONS -- COMMAND...: what works on the host has to work in the container. OPTIONS: one word each.
as_host() {
    local name=$1 options=() out
    shift
    while test "$1" != --; do options+=("$1"); shift; done
    shift
    if ! out=$(run "$@" 2>&1); then
        not_here "$name: on the host itself: $(say "$out" | tail -n 1 | cut -c1-300)"
        return 3
    fi
    say "fact: $name, on the host: $(say "$out" | tail -n 1 | cut -c1-400)"
    check "$name" works inside "${options[@]}" -- "$@"
}

python_facts() {
    "$python" - << 'END'
import os, site, sys, sysconfig
keep = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()}
keep |= {path for path in (sys.prefix, sys.base_prefix) if path not in ("/usr", "/usr/local", "/")}
keep |= {path for path in sys.path if path and os.path.isdir(path)}
keep = sorted(os.path.realpath(path) for path in keep if os.path.isdir(path))
print(*[p for p in keep if not any(p != q and p.startswith(q + "/") for q in keep)], sep="\n")
END
}

# A root of the machine's own programs and libraries. The driver's are left out: --nv has to bring them.
make_image() {
    local root=$work/image name program library folder
    mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc,tmp,proc,sys,dev,home,var/tmp,opt,run}
    for name in bin sbin lib lib64; do
        if test -L /$name; then ln -s "usr/$name" "$root/$name"; else mkdir -p "$root/$name"; fi
    done
    for program in sh bash ls cat env id grep head true uname ldconfig "$(readlink -f "$python")" "$python"; do
        program=$(type -P "$program") || continue
        mkdir -p "$root$(dirname "$program")"
        test -e "$root$program" || cp -L "$program" "$root$program"
    done
    for folder in /lib/"$(uname -m)"-linux-gnu /lib64 /usr/lib64; do
        test -d "$folder" || continue
        folder=$(readlink -f "$folder")
        mkdir -p "$root$folder"
        find "$folder/" -maxdepth 1 -name '*.so*' -size -40M ! -name '*nvidia*' ! -name 'libcuda.so*' \
            ! -name 'libcudadebugger*' ! -name 'libnvcuvid*' ! -name 'libnvoptix*' ! -name '*.a' -print0 |
            xargs -0 -r cp -a -t "$root$folder/" 2> /dev/null
    done
    if ls "$carried"/*.deb > /dev/null 2>&1 && type -P dpkg > /dev/null; then
        for program in "$carried"/*.deb; do dpkg -x "$program" "$work/loaders"; done
        cp -a "$work/loaders/usr/lib/." "$root/usr/lib/"
    fi
    # The loader, and links that lead out of these folders (alternatives).
    for library in $(ldd "$(readlink -f "$python")" | grep -o '/[^ ]*'); do
        mkdir -p "$root$(dirname "$library")"
        test -e "$root$library" || cp -L "$library" "$root$library"
    done
    test -e /etc/ld.so.conf && cp -aL /etc/ld.so.conf "$root/etc/"
    test -d /etc/ld.so.conf.d && cp -aL /etc/ld.so.conf.d "$root/etc/"
    rm -f "$root"/etc/ld.so.conf.d/*nvidia*
    ldconfig -r "$root" 2> /dev/null
    chmod -R a+rX "$root"
    say "$(du -sm "$root" | cut -f1) MiB"
}

glibc_needs() {
    local path
    ldconfig -p | sed -n 's/.*x86-64.* => //p' | grep -E '/lib(cuda|nvidia-|nvcuvid|nvoptix|EGL_nvidia|GLX_nvidia)' |
        sort -u | while read -r path; do
        say "$(basename "$path") $(grep -ao 'GLIBC_2\.[0-9]*' "$path" | sort -uV | tail -n 1)"
    done
}

say "== facts"
fact kernel uname -rvm
fact user id
fact system sh -c '. /etc/os-release; echo "$PRETTY_NAME"; nproc; free -m | sed -n 2p'
fact glibc sh -c 'ldd --version | head -1'
fact container sh -c 'cat /proc/1/cgroup | head -2; ls -d /.dockerenv /run/.containerenv /run/systemd/container; systemd-detect-virt'
fact 'unshare -Ur' unshare -Ur true
fact 'unshare -Ur, as a user' setpriv --reuid=$user --regid=$user --clear-groups unshare -Urm sh -c 'id -u; mount -t tmpfs none /mnt && echo mounts'
fact namespaces sh -c 'grep . /proc/sys/user/max_user_namespaces /proc/sys/kernel/unprivileged_userns_clone /proc/sys/kernel/apparmor_restrict_unprivileged_userns'
fact filesystems sh -c 'grep -wE "overlay|fuse|squashfs|erofs|tmpfs|cgroup2" /proc/filesystems | tr -d "\t" | tr "\n" " "; ls -l /dev/fuse'
fact cgroups sh -c 'stat -fc %T /sys/fs/cgroup; cat /proc/self/cgroup | head -3; cat /sys/fs/cgroup/cgroup.controllers'
fact capabilities sh -c 'grep -E "Cap|NoNewPrivs|Seccomp:" /proc/self/status'
fact 'python3' sh -c 'command -v python3; python3 -c "import sys; print(sys.version, sys.prefix, sys.base_prefix)"; python3 -c "import cffi; print(\"cffi\", cffi.__version__)"; python3 -c "import psutil, yaml; print(\"psutil\", psutil.__version__, \"yaml\", yaml.__version__)"'
fact compilers sh -c 'gcc --version | head -1; command -v nvcc; nvcc --version | tail -2; echo "#include <Python.h>" | gcc -E -I"$(python3 -c "import sysconfig; print(sysconfig.get_path(\"include\"))")" - > /dev/null && echo Python.h'
LINES_MAX=40 fact devices sh -c 'ls -l /dev/nvidia* /dev/dri /dev/kfd /dev/gdrdrv /dev/infiniband /dev/nvidia-caps* 2>/dev/null'
fact 'nvidia-smi -L' nvidia-smi -L
LINES_MAX=30 fact nvidia-smi nvidia-smi
fact 'kernel driver' sh -c 'cat /proc/driver/nvidia/version; ls /proc/driver/nvidia; cat /proc/driver/nvidia/capabilities/mig/config 2>/dev/null'
LINES_MAX=80 fact 'libraries of the driver, in ldconfig -p' sh -c 'ldconfig -p | grep -E "lib(cuda|nvidia|nvcuvid|nvoptix|EGL|GLX|GL|GLdispatch|OpenCL|vulkan|vdpau)" | sed "s/^\t//"'
LINES_MAX=80 fact 'highest GLIBC needed' glibc_needs
fact LD_LIBRARY_PATH sh -c 'echo "$LD_LIBRARY_PATH"; env | grep -E "NVIDIA|CUDA" | head'
LINES_MAX=80 fact /usr/local/nvidia sh -c 'grep nvidia /proc/mounts; cd /usr/local/nvidia && find . | sort | head -n 75'
LINES_MAX=30 fact 'files of the driver' sh -c 'ls -d /usr/share/glvnd/egl_vendor.d/* /usr/share/egl/egl_external_platform.d/* /usr/share/vulkan/*/* /etc/vulkan/*/* /etc/OpenCL/vendors/* /usr/share/nvidia/* /etc/nvidia* /usr/bin/nvidia-* /run/nvidia* /tmp/nvidia-mps /lib/firmware/nvidia/*/* /etc/cdi /var/run/cdi 2>/dev/null'
fact 'CUDA compatibility' sh -c 'for f in $(find / -xdev -path "*compat*" -name "libcuda.so.*" -type f 2>/dev/null | head -2); do ls -l $f; readelf -n $f | head -20; readelf -SW $f | grep note; done'
fact 'notes of the libcuda in use' sh -c 'f=$(ldconfig -p | sed -n "s/.*libcuda.so.1 .*x86-64.* => //p" | head -1); test -n "$f" || exit; f=$(readlink -f "$f"); ls -l $f; readelf -SW $f | grep -i note; readelf -n $f | head -12'
fact nvidia-ctk sh -c 'nvidia-ctk --version; nvidia-container-cli --version | head -1'

ls /dev/nvidia[0-9]* > /dev/null 2>&1 || not_here 'a card: no /dev/nvidia0'
ldconfig -p | grep -q libcuda.so.1 || not_here 'a driver: the loader knows no libcuda.so.1'
type -P unshare > /dev/null && ! unshare -Ur true 2> /dev/null && not_here 'user namespaces: `unshare -Ur true` fails; containers cannot start'

say "== preparation"
python=
for candidate in python3 /usr/bin/python3 /opt/*/bin/python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    path=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 9) else "")' 2> /dev/null)
    test -n "$path" || continue
    python=${python:-$path}
    if "$path" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2> /dev/null; then
        python=$path
        break
    fi
done
if test -z "$python"; then
    failed "no Python of 3.9 or later on this machine: nothing can be checked"
    exit 1
fi
say "fact: python used: $python"
mkdir -p "$work/home"
cp "$here"/*.py "$here/sample.cu" "$work/"
if test "$(id -u)" = 0; then
    chown $user:$user "$work/home"
    if ! run "$python" -c 'import encodings' > /dev/null 2>&1; then
        say "fact: an ordinary user cannot start $python: everything runs as root"
        export AS_ROOT=1
    fi
fi
check 'the launcher and the runtime, from this checkout' "$python" "$here/make_tree.py" "$work/prefix" "$carried" || exit 1
binds=(--bind "$work:$work:ro")
while read -r path; do binds+=(--bind "$path:$path:ro"); done < <(python_facts)
say "fact: binds for Python: ${binds[*]}"
check 'an image of the machine'"'"'s own parts' make_image

say "== checks"
check 'bollard runs' bollard --version
if ! check 'a container starts' inside -- true; then
    AS_ROOT=1 check 'a container starts, as root' inside -- true && export AS_ROOT=1
fi
out=$(inside --no-nv -- "$python" "$work/cuda_probe.py" 2>&1)
if test $? = 3; then ok "with --no-nv there is no driver: $out"; else failed "with --no-nv: $out"; fi
LINES_MAX=120 fact 'plan of --nv' bollard plan --nv "${binds[@]}" "$work/image" true
if as_host 'CUDA driver API, PTX kernel' --nv -- "$python" "$work/cuda_probe.py"; then
    out=$(inside --nv --env CUDA_VISIBLE_DEVICES= -- "$python" "$work/cuda_probe.py" 2>&1)
    case $out in
    *cuInit:\ 100*) ok "no card with an empty CUDA_VISIBLE_DEVICES: $out" ;;
    *) failed "with an empty CUDA_VISIBLE_DEVICES: $out" ;;
    esac
fi
as_host 'CUDA without a word' -- "$python" "$work/cuda_probe.py"
as_host 'CUDA with an LD_LIBRARY_PATH of the user' --nv --env LD_LIBRARY_PATH=/nowhere -- "$python" "$work/cuda_probe.py"
as_host 'CUDA with --contain' --nv --contain -- "$python" "$work/cuda_probe.py"
as_host 'CUDA with --containall' --nv --containall -- "$python" "$work/cuda_probe.py"
as_host 'CUDA with --writable-tmpfs' --nv --writable-tmpfs -- "$python" "$work/cuda_probe.py"
as_host 'CUDA with --fakeroot' --nv --fakeroot -- "$python" "$work/cuda_probe.py"
as_host nvidia-smi --nv -- nvidia-smi -L
SECONDS_MAX=90 as_host 'PyTorch, bf16' --nv -- "$python" "$work/torch_probe.py"
if command -v nvcc > /dev/null; then
    if out=$(timeout 90 nvcc -o "$work/sample" "$work/sample.cu" 2>&1); then
        as_host 'a program of nvcc' --nv -- "$work/sample"
    else
        not_here "a program of nvcc: it does not compile: $(say "$out" | tail -n 1)"
    fi
else
    not_here 'a program of nvcc: no nvcc'
fi
# The loaders of Vulkan and EGL may be carried; here they are for the host, make_image has put them into the image.
test -d "$work/loaders" && LD_LIBRARY_PATH=$(echo "$work"/loaders/usr/lib/*-linux-gnu):${LD_LIBRARY_PATH:-}
for what in vulkan egl opencl; do
    as_host "$what" --nv -- "$python" "$work/graphics_probe.py" $what
    as_host "$what with --contain" --nv --contain -- "$python" "$work/graphics_probe.py" $what
done
mkdir -p "$work/cdi"
if command -v nvidia-ctk > /dev/null && nvidia-ctk cdi generate --format=json --output="$work/cdi/nvidia.json" > /dev/null 2>&1; then
    say "fact: the CDI spec is nvidia-ctk's"
else
    "$python" "$here/cdi_spec.py" /usr/lib/driver > "$work/cdi/nvidia.json"
fi
chmod -R a+rX "$work/cdi"
LINES_MAX=60 fact 'CDI spec' cut -c1-160 "$work/cdi/nvidia.json"
if ! grep -q '"path": "/dev/nvidia' "$work/cdi/nvidia.json"; then
    not_here 'CDI: no device of NVIDIA'"'"'s'
elif bollard exec --help 2>&1 | grep -q -e --device; then
    as_host 'CDI, all cards' --cdi-dirs "$work/cdi" --device nvidia.com/gpu=all -- "$python" "$work/cuda_probe.py"
    as_host 'CDI, card 0, --contain' --cdi-dirs "$work/cdi" --device nvidia.com/gpu=0 --contain -- "$python" "$work/cuda_probe.py"
    if out=$(inside --cdi-dirs "$work/cdi" --device nvidia.com/gpu=99 -- true 2>&1); then
        failed 'CDI: an unknown card is accepted'
    else
        ok "CDI, an unknown card is refused: $out"
    fi
else
    not_here 'CDI: this bollard has no --device'
fi
if test "$(id -u)" = 0 && test "${AS_ROOT:-}" != 1; then
    AS_ROOT=1 as_host 'CUDA, as root' --nv -- "$python" "$work/cuda_probe.py"
fi
for options in --no-nv --nv; do
    begin=$(date +%s%N)
    # shellcheck disable=SC2086
    for _ in 1 2 3 4 5; do inside $options -- true; done > /dev/null 2>&1
    say "fact: bollard exec $options, mean of 5: $((($(date +%s%N) - begin) / 5000000)) ms"
done
say "== $failures failed, after $SECONDS s"
test $failures = 0
