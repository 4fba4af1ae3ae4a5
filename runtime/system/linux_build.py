# SPDX-License-Identifier: BSD-3-Clause
"""Declares to cffi the system calls of `linux.py`. Python's `os` has the others.

The newer calls go through syscall(2): glibc has wrappers for them from 2.36 only. Their numbers are the same
on every architecture (asm-generic/unistd.h).
"""

from cffi import FFI

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
int b_fake_ownership(int devices_only);
int b_can_fake_ownership(void);
int b_start_first(const char *proc, int parent);
""")

ffi.set_source(
    "bollard.runtime.system._linux",
    r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

#if defined(__x86_64__)
#define B_ARCH AUDIT_ARCH_X86_64
#elif defined(__i386__)
#define B_ARCH AUDIT_ARCH_I386
#elif defined(__aarch64__)
#define B_ARCH AUDIT_ARCH_AARCH64
#elif defined(__arm__)
#define B_ARCH AUDIT_ARCH_ARM
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define B_ARCH AUDIT_ARCH_PPC64LE
#elif defined(__riscv) && __riscv_xlen == 64
#define B_ARCH AUDIT_ARCH_RISCV64
#elif defined(__s390x__)
#define B_ARCH AUDIT_ARCH_S390X
#endif

/* Of a 64-bit argument the half that holds a mode. */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define B_LOW 4
#else
#define B_LOW 0
#endif

#ifdef B_ARCH
/* What only root of the machine may do, and what a package's installation does out of habit. */
static const int b_faked[] = {
#ifdef SYS_chown
    SYS_chown,
#endif
#ifdef SYS_lchown
    SYS_lchown,
#endif
    SYS_fchown, SYS_fchownat, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
    SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capset,
#ifdef SYS_chown32
    SYS_chown32, SYS_lchown32, SYS_fchown32, SYS_setuid32, SYS_setgid32, SYS_setreuid32, SYS_setregid32,
    SYS_setresuid32, SYS_setresgid32, SYS_setgroups32, SYS_setfsuid32, SYS_setfsgid32,
#endif
};
#define B_FAKED (sizeof(b_faked) / sizeof(b_faked[0]))

static void b_add(struct sock_filter *code, int *count, unsigned short op, unsigned char yes, unsigned char no,
                  unsigned int value)
{
    code[(*count)++] = (struct sock_filter) { op, yes, no, value };
}

/* A device node is not made, and that is called success; a FIFO, socket or file is made. */
static void b_add_mknod(struct sock_filter *code, int *count, unsigned int number, int argument)
{
    unsigned int mode = offsetof(struct seccomp_data, args) + 8 * argument + B_LOW;
    b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 0, 6, number);
    b_add(code, count, BPF_LD | BPF_W | BPF_ABS, 0, 0, mode);
    b_add(code, count, BPF_ALU | BPF_AND | BPF_K, 0, 0, S_IFMT);
    b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, S_IFCHR);
    b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, S_IFBLK);
    b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
    b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO);
}
#endif

/* A filter that cannot be read: with filters the kernel finds that out (EFAULT), without them it knows no such call. */
static int b_can_fake_ownership(void)
{
#ifdef B_ARCH
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL, 0, 0) < 0 && errno == EFAULT;
#else
    return 0;
#endif
}

static int b_fake_ownership(int devices_only)
{
#ifdef B_ARCH
    struct sock_filter code[2 * B_FAKED + 24];
    int count = 0;
    b_add(code, &count, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
    b_add(code, &count, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, B_ARCH);
    b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
    b_add(code, &count, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < B_FAKED && !devices_only; i++) {
        b_add(code, &count, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, b_faked[i]);
        b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO); /* errno 0: success */
    }
#ifdef SYS_mknod
    b_add_mknod(code, &count, SYS_mknod, 1);
#endif
    b_add_mknod(code, &count, SYS_mknodat, 2);
    b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
    struct sock_fprog program = { count, code };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
#else
    (void) devices_only;
    errno = ENOSYS;
    return -1;
#endif
}
""",
)
