/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef BOLLARD_PLAIN_H
#define BOLLARD_PLAIN_H

#include <sys/stat.h>

/* Reads the first 128 bytes of the file `path`. Returns 1, and fills `st`, when they are the header of a SIF or
 * squashfs file for this machine and the file has the length in the header. Returns 0 in all other cases: the full
 * check in Python decides. Runs as the user, in the client. */
int probe_image(const char *path, struct stat *st);

#endif
