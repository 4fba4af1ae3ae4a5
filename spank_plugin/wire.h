/* SPDX-License-Identifier: BSD-3-Clause */
/* What the shim, the launcher and the keeper say to each other (docs/internals.md, "Wire"). */
#ifndef BOLLARD_WIRE_H
#define BOLLARD_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* First byte a peer sends to the keeper. */
enum { WIRE_LIFELINE = 'L', WIRE_QUESTION = 'Q', WIRE_TASK = 'T' };

/* What a launcher that waits for its program sends when that has ended; the keeper answers when it may end too. */
enum { WIRE_DONE = 'D' };

/* First byte the keeper answers. WIRE_SCRIPT: run this in the container first and say what it prints. */
enum { WIRE_OK = '+', WIRE_ERROR = '-', WIRE_SCRIPT = 'S' };

/* A frame is u32 size in host order, then that many bytes; a list is NUL-terminated strings. */
#define WIRE_FRAME_MAX (16u << 20)

/* No longer environment entry can be passed on: MAX_ARG_STRLEN, execve(2). */
#define SPEC_MAX (128 * 1024)

/* Environment names between shim and launcher; the launcher removes them. */
#define ENV_SPEC "SLURM_BOLLARD_SPEC"
#define ENV_ENTRY "SLURM_BOLLARD_ENTRY"
#define ENV_ARGV0 "SLURM_BOLLARD_ARGV0"
#define ENV_VERBOSE "SLURM_BOLLARD_VERBOSE"

/* A descriptor of "/" that the plugin opens in the slurmstepd of a batch script: client.c, guard_script(). */
#define GATE_FD 943
#define GATE "/proc/self/fd/943"

/* Exit status of every failure of ours; Apptainer's own. */
#define EXIT_BOLLARD 255

/* Connects to `name`: a path, or an abstract address where it does not begin with a slash. Returns a descriptor whose
 * listener ran as root or as `owner`, or -1 with errno. Never waits: EAGAIN when the listener's queue is full, for
 * anyone can own the listener of an abstract address. */
int wire_connect(const char *name, uid_t owner);

/* Listening descriptor at `name`, a path or an abstract address, where nothing may be; -1 with errno. */
int wire_listen(const char *name);

int wire_write(int fd, const void *data, size_t size);
int wire_read(int fd, void *data, size_t size);

/* The next string of a frame whose last byte is NUL and lies before `end`; NULL at its end. */
char *wire_next(char **at, const char *end);

/* The next list, NULL-terminated, for the caller to free; its strings are the frame's. NULL where there is none. */
char **wire_next_list(char **at, const char *end);

#endif
