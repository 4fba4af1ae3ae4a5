/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_ROOT_OWNED_H
#define BOLLARD_ROOT_OWNED_H

/* Returns 0 when `path` and its parent directories belong to root and nobody else can write them. The same must hold
 * for all directories to which links on the way lead. Else -1 with errno: EPERM; EINVAL for a relative path or one
 * of 4096 bytes or more; an error of lstat(2) or readlink(2); ELOOP, ENAMETOOLONG. */
int owned_by_root(const char *path);

#endif
