/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PLAIN_H
#define BOLLARD_PLAIN_H

#include <sys/stat.h>

/* 1 when `path` is at a glance a whole SIF or squashfs file for this machine that this user can
 * read; 0 means "look closer", never "no". */
int probe_image(const char *path, struct stat *st);

#endif
