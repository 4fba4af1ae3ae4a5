# SPDX-License-Identifier: BSD-3-Clause
"""Declare the system calls of `linux.py` to cffi.

The newer calls go through syscall(2), as glibc has wrappers for them only since 2.36. Their numbers are the same on
every architecture (asm-generic/unistd.h).
"""

from pathlib import Path

from cffi import FFI

# The seccomp filter; the launcher is compiled with it too.
OWNERSHIP = Path(__file__).resolve().parents[2] / "spank_plugin/ownership.h"

# build.py turns these warnings off for cffi's own text around ours.
CHECKED = """
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wshadow"
#pragma GCC diagnostic error "-Wunused-parameter"
"""
UNCHECKED = "#pragma GCC diagnostic pop\n"

ffi = FFI()

ffi.cdef("""
#define CLONE_NEWNS ...
#define CLONE_NEWUSER ...
#define CLONE_NEWNET ...
#define CLONE_NEWIPC ...
#define CLONE_NEWPID ...
#define CLONE_NEWUTS ...
#define MS_NOSUID ...
#define MS_NODEV ...
#define MS_NOEXEC ...
#define MS_RDONLY ...
#define MS_PRIVATE ...
#define MS_REC ...
#define MS_BIND ...
#define MS_SLAVE ...
#define MS_UNBINDABLE ...
#define MS_REMOUNT ...
#define MNT_DETACH ...
#define PR_SET_DUMPABLE ...
#define PR_SET_NAME ...
#define PR_SET_PDEATHSIG ...
#define PR_SET_SECUREBITS ...
#define SECBIT_NOROOT ...
#define PR_SET_NO_NEW_PRIVS ...

int unshare(int flags);
int setns(int fd, int kind);
int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int umount2(const char *target, int flags);

int b_pivot_root(const char *root, const char *old);
int b_prctl(int option, unsigned long value);
int b_prctl_text(int option, const char *value);
int b_open_tree(int dir, const char *path, unsigned int flags);
int b_move_mount(int from, int to);
int b_mount_setattr(int dir, unsigned int flags, unsigned long long set);
int b_openat2(int dir, const char *path, unsigned long long flags, unsigned long long resolve);
int b_exchange(const char *one, const char *other);
int b_drop_capabilities(void);
int b_use_capabilities(int on);
int b_fake_ownership(int devices_only, const unsigned int *groups, int count);
int b_can_fake_ownership(void);
int b_start_first(const char *proc, int parent);
int b_user_keyring(void);
""")

ffi.set_source(
    "bollard.runtime.system._linux",
    CHECKED
    + r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* linux/mount.h and linux/openat2.h, under names of our own: old headers lack them, new ones clash. */
#define B_MOVE_MOUNT_EMPTY_BOTH (0x00000004 | 0x00000040)
struct b_mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct b_open_how { uint64_t flags, mode, resolve; };

static int b_pivot_root(const char *root, const char *old) { return (int) syscall(SYS_pivot_root, root, old); }
static int b_prctl(int option, unsigned long value) { return prctl(option, value, 0, 0, 0); }
static int b_prctl_text(int option, const char *value) { return prctl(option, value, 0, 0, 0); }

/* linux/keyctl.h: KEYCTL_GET_KEYRING_ID of KEY_SPEC_USER_KEYRING, which is made if it is missing. */
static int b_user_keyring(void) { return (int) syscall(SYS_keyctl, 0, -4, 1); }

static int b_open_tree(int dir, const char *path, unsigned int flags)
{
    return (int) syscall(SYS_open_tree, dir, path, flags);
}

static int b_move_mount(int from, int to)
{
    return (int) syscall(SYS_move_mount, from, "", to, "", B_MOVE_MOUNT_EMPTY_BOTH);
}

static int b_mount_setattr(int dir, unsigned int flags, unsigned long long set)
{
    struct b_mount_attr attr = { set, 0, 0, 0 };
    return (int) syscall(SYS_mount_setattr, dir, "", flags, &attr, sizeof(attr));
}

static int b_openat2(int dir, const char *path, unsigned long long flags, unsigned long long resolve)
{
    struct b_open_how how = { flags, 0, resolve };
    return (int) syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

static int b_send_handle(int to, char failed, int handle)
{
    union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec part = { .iov_base = &failed, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

    if (handle >= 0) {
        memset(&control, 0, sizeof(control));
        control.head.cmsg_len = CMSG_LEN(sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.head), &handle, sizeof(handle));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
    }
    return sendmsg(to, &message, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

/* A child that is the first process of a PID namespace. It mounts the namespace's /proc on `proc`, sends one byte
 * through the socket `parent` (0 and a descriptor of the namespace, or errno), and from then on only is there: orphans
 * go to it and are reaped by the kernel. In C, for no fork of Python's makes a namespace for one child alone. */
static int b_start_first(const char *proc, int parent)
{
#if defined(__s390x__)  /* clone(2): the stack comes first there */
    long pid = syscall(SYS_clone, 0, CLONE_NEWPID | SIGCHLD, 0, 0, 0);
#else
    long pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
#endif
    char failed = 0;
    int self;

    if (pid != 0)
        return (int) pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    prctl(PR_SET_NAME, "bollard-first", 0, 0, 0);
    signal(SIGCHLD, SIG_IGN);
    self = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (self < 0 || mount("proc", proc, "proc", MS_NOSUID | MS_NODEV, 0) < 0)
        failed = (char) errno;
    if (b_send_handle(parent, failed, failed ? -1 : self) < 0 || failed || syscall(SYS_close_range, 0, ~0u, 0) < 0)
        _exit(1);
    for (;;)
        pause();
}

/* RENAME_EXCHANGE of linux/fs.h; both relative to AT_FDCWD. */
static int b_exchange(const char *one, const char *other)
{
    return (int) syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2u);
}

static int b_use_capabilities(int on)
{
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct sets[2];
    if (syscall(SYS_capget, &head, sets) < 0)
        return -1;
    for (int i = 0; i < 2; i++)
        sets[i].effective = on ? sets[i].permitted : 0;
    return (int) syscall(SYS_capset, &head, sets);
}

static int b_drop_capabilities(void)
{
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[2];
    memset(none, 0, sizeof(none));
    return (int) syscall(SYS_capset, &head, none);
}
"""
    + OWNERSHIP.read_text()
    + UNCHECKED,
)
