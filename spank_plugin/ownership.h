/* SPDX-License-Identifier: BSD-3-Clause */
/* A seccomp filter for root in a user namespace that maps a single user. There the kernel refuses to change a file's
 * owner, so that packages cannot be installed. With the filter such calls succeed without effect. Compiled into the
 * launcher and into runtime/system/linux.py; runs as the user. */
#ifndef BOLLARD_OWNERSHIP_H
#define BOLLARD_OWNERSHIP_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

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

/* The offset of the lower half of a 64-bit argument: a mode or an id. */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define B_LOW 4
#else
#define B_LOW 0
#endif

#define B_ARGUMENT(number) ((unsigned int) (offsetof(struct seccomp_data, args) + 8u * (unsigned int) (number) + B_LOW))

#ifdef B_ARCH
/* The system calls that change a file's owner. `argument` is the index of the user id; the group id follows it. */
static const struct { int number, argument; } b_chown[] = {
#ifdef SYS_chown
	{ SYS_chown, 1 },
#endif
#ifdef SYS_lchown
	{ SYS_lchown, 1 },
#endif
	{ SYS_fchown, 1 }, { SYS_fchownat, 2 },
#ifdef SYS_chown32
	{ SYS_chown32, 1 }, { SYS_lchown32, 1 }, { SYS_fchown32, 1 },
#endif
};
#define B_CHOWN (sizeof(b_chown) / sizeof(b_chown[0]))

/* Further groups of the user are treated as others: a jump of the filter spans at most 255 instructions. */
#define B_GROUPS_MAX 64

/* Other calls that only root of the machine may do, and that the installation of packages makes. */
static const int b_faked[] = {
	SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid,
	SYS_setgroups, SYS_setfsuid, SYS_setfsgid, SYS_capset,
#ifdef SYS_chown32
	SYS_setuid32, SYS_setgid32, SYS_setreuid32, SYS_setregid32,
	SYS_setresuid32, SYS_setresgid32, SYS_setgroups32, SYS_setfsuid32, SYS_setfsgid32,
#endif
};
#define B_FAKED (sizeof(b_faked) / sizeof(b_faked[0]))

static void b_add(struct sock_filter *code, int *count, unsigned short op, unsigned char yes, unsigned char no,
		  unsigned int value)
{
	code[(*count)++] = (struct sock_filter) { op, yes, no, value };
}

/* Makes the call succeed without effect. A call that only gives the file to one of the user's own groups goes to the
 * kernel, which allows it. */
static void b_add_chown(struct sock_filter *code, int *count, unsigned int number, int argument,
			const unsigned int *groups, int groups_count)
{
	unsigned int user = B_ARGUMENT(argument);
	unsigned char rest = (unsigned char) groups_count;

	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 0, (unsigned char) (rest + 6), number);
	b_add(code, count, BPF_LD | BPF_W | BPF_ABS, 0, 0, user);
	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0xffffffffu);
	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 0, (unsigned char) (rest + 1), 0);
	b_add(code, count, BPF_LD | BPF_W | BPF_ABS, 0, 0, user + 8);
	for (int i = 0; i < groups_count; i++)
		b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, rest--, 0, groups[i]);
	b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO); /* errno 0: success */
	b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
}

/* Makes no device node, and returns success; FIFOs, sockets and files are made. */
static void b_add_mknod(struct sock_filter *code, int *count, unsigned int number, int argument)
{
	unsigned int mode = B_ARGUMENT(argument);
	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 0, 6, number);
	b_add(code, count, BPF_LD | BPF_W | BPF_ABS, 0, 0, mode);
	b_add(code, count, BPF_ALU | BPF_AND | BPF_K, 0, 0, S_IFMT);
	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, S_IFCHR);
	b_add(code, count, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, S_IFBLK);
	b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	b_add(code, count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO);
}
#endif

/* Returns 1 when the kernel supports seccomp filters, else 0. A kernel with filters tries to read the NULL filter and
 * returns EFAULT; other kernels return another error. */
static int b_can_fake_ownership(void)
{
#ifdef B_ARCH
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL, 0, 0) < 0 && errno == EFAULT;
#else
	return 0;
#endif
}

/* Installs the filter in this process and in all that it starts; it cannot be removed. `groups` are the user's own
 * groups, by their ids in the namespace. With `devices_only` the filter covers device nodes only. Returns 0, or -1
 * with errno: ENOSYS on an architecture without a row above. */
static int b_fake_ownership(int devices_only, const unsigned int *groups, int groups_count)
{
#ifdef B_ARCH
	struct sock_filter code[B_CHOWN * (B_GROUPS_MAX + 7) + 2 * B_FAKED + 24];
	struct sock_fprog program = { .filter = code };
	int count = 0;

	groups_count = groups_count > B_GROUPS_MAX ? B_GROUPS_MAX : groups_count;
	b_add(code, &count, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
	b_add(code, &count, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, B_ARCH);
	b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	b_add(code, &count, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < B_CHOWN && !devices_only; i++)
		b_add_chown(code, &count, (unsigned int) b_chown[i].number, b_chown[i].argument, groups, groups_count);
	for (size_t i = 0; i < B_FAKED && !devices_only; i++) {
		b_add(code, &count, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, (unsigned int) b_faked[i]);
		b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO);
	}
#ifdef SYS_mknod
	b_add_mknod(code, &count, SYS_mknod, 1);
#endif
	b_add_mknod(code, &count, SYS_mknodat, 2);
	b_add(code, &count, BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	program.len = (unsigned short) count;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
#else
	(void) devices_only, (void) groups, (void) groups_count;
	errno = ENOSYS;
	return -1;
#endif
}

#endif
