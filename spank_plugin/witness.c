/* SPDX-License-Identifier: BSD-3-Clause */
/* The witness: tells the keeper who owns a file. In the keeper's user namespace every owner but the user looks the same
 * (overflowuid, user_namespaces(7)), so a process outside of it has to look. It is the user, has no capability, and
 * opens nothing. It is a run of bollard-keeper: no user can trace it. Made only if a rule of the site asks for owners. */
#define _GNU_SOURCE
#include "keeper.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Receives a descriptor from `fd`. Returns it, or -1 at the end of the connection. */
static int receive(int fd)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control;
	char byte;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *head;
	int got;

	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&got, CMSG_DATA(head), sizeof(got));
	return got;
}

int serve_witness(int fd)
{
	struct stat st;
	int got;

	prctl(PR_SET_NAME, "bollard-witness");
	prctl(PR_SET_PDEATHSIG, SIGKILL);  /* the end of the connection would not end a stopped process */
	while ((got = receive(fd)) >= 0) {
		uint32_t answer[2];
		int failed = fstat(got, &st) < 0;

		close(got);
		if (failed)
			return 1;  /* the keeper sees the end of the connection, and refuses */
		answer[0] = st.st_uid;
		answer[1] = st.st_mode;
		if (send(fd, answer, sizeof(answer), MSG_NOSIGNAL) != (ssize_t) sizeof(answer))
			return 1;
	}
	return 0;
}
