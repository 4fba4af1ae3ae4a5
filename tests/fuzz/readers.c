/* SPDX-License-Identifier: BSD-3-Clause */
/* Damaged input for what reads text and files in C: compiled with ASan and UBSan and run by run.py, which renders
 * paths of the plugin's files into FILES. A finding of the sanitizers ends the program. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What the plugin reads of /proc is the input here. */
static FILE *given_file(const char *path, const char *mode);

#define fopen given_file
#include "job_cgroup.c"
#include "job_place.c"
#undef fopen
#define become become_identity  /* privilege.c has one of its own */
#include "privilege.c"
#undef become
#include "entry.c"
#include "multiprog.c"
#include "image_probe.c"
#include "program.c"
#include "header.c"
#define given given_options
#include "image_program.c"
#undef given

#define INPUT_MAX 65536

/* image_program.c calls these of files that need Slurm; is_image(), which is tested here, does not. */
const char *program_word(void) { return NULL; }
const char *slurm_option(const char *name) { return name; }
int is_set(const char *value) { return !value; }
int has_components(void) { return 1; }
int site_says(const char *line) { return !line; }
void fail(const char *text)
{
	fputs(text, stderr);
	abort();
}

/* fail_once.c has it. No reader may come here. */
int fail_once(const char *text)
{
	fputs(text, stderr);
	abort();
}

static uint64_t state;
static unsigned char *given;
static size_t given_size;

static FILE *given_file(const char *path, const char *mode)
{
	(void) path, (void) mode;
	return given_size ? fmemopen(given, given_size, "r") : NULL;
}

static uint64_t next(void)  /* xorshift64* */
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545F4914F6CDD1Du;
}

static size_t below(size_t limit)
{
	return limit ? (size_t) (next() % limit) : 0;
}

/* A few changes of `size` bytes at `data`, which has room for INPUT_MAX; the new size. */
static size_t damaged(unsigned char *data, size_t size)
{
	static const char *const words[] = { "", "-1", "4294967296", "18446744073709551615", "\\", "\\1", "%", "\n", "\\\n", "0" };

	for (size_t changes = below(6); changes > 0; changes--) {
		size_t at = below(below(2) && size > 1024 ? 1024 : size), length;  /* headers come first */
		const char *word = words[below(sizeof(words) / sizeof(*words))];

		switch (below(6)) {
		case 0:  /* another byte */
			if (size)
				data[at] = (unsigned char) next();
			break;
		case 1:  /* the end is missing */
			size = at;
			break;
		case 2:  /* one bit */
			if (size)
				data[at] ^= (unsigned char) (1u << below(8));
			break;
		case 3:  /* a word of those that hurt */
			length = strlen(word) + 1;
			if (at + length <= size)
				memcpy(data + at, word, length);
			break;
		case 4:  /* a part again */
			length = below(size - at + 1);
			if (size + length <= INPUT_MAX) {
				memmove(data + at + length, data + at, size - at);
				size += length;
			}
			break;
		default:  /* a number at its limits */
			if (at + 8 <= size)
				memset(data + at, below(2) ? 0xff : 0, 8);
		}
	}
	return size;
}

/* The answer of a keeper, through a socket, as entry.c and script.c read it. */
static void read_frame(unsigned char *data, size_t size)
{
	struct entry entry = { 0 };
	struct namespaces namespaces;
	uint32_t length = 0;
	char status = 0;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 || wire_write(ends[0], data, size) < 0)
		abort();
	close(ends[0]);
	if (read_reply(ends[1], &status, &namespaces, &entry.frame, &length) == 0 && parse(&entry, length) == 0) {
		size_t sum = strlen(entry.cwd) + strlen(entry.note) + strlen(entry.mode) + strlen(entry.scratch);

		for (char **at = entry.argv; *at; at++)
			sum += strlen(*at);
		for (char **at = entry.envp; *at; at++)
			sum += strlen(*at);
		if (sum > size)
			abort();
	}
	free(entry.argv);
	free(entry.envp);
	free(entry.frame);
	close(ends[1]);
}

/* The text of srun --multi-prog's configuration. */
static void read_programs(unsigned char *data, size_t size)
{
	char *text = strndup((char *) data, size), *result = text ? with_launcher(text, "/usr/lib/bollard/bollard-enter") : NULL;

	if (!result || strlen(result) < strlen(text))
		abort();
	free(result);
	free(text);
}

/* The headers of a program. */
static void read_elf(unsigned char *data, size_t size)
{
	int file = memfd_create("elf", MFD_CLOEXEC);

	if (file < 0 || write(file, data, size) != (ssize_t) size)
		abort();
	(void) ask_libraries(file, wireup_of_library, NULL);
	close(file);
}

/* A file that is named as srun's program. */
static void read_image_program(unsigned char *data, size_t size)
{
	int file = memfd_create("program", MFD_CLOEXEC);
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	if (file < 0 || write(file, data, size) != (ssize_t) size)
		abort();
	(void) is_image(path);
	close(file);
}

/* A spec as a user may send it: the header, and the options behind it. */
static void read_spec(unsigned char *data, size_t size)
{
	char *text = strndup((char *) data, size);
	struct header header;
	const char *options = text ? read_header(text, &header) : NULL;
	char *again, cwd[CWD_MAX];

	if (!text)
		abort();
	if (options) {  /* what was read is written again as it was */
		snprintf(cwd, sizeof(cwd), "%.*s", (int) header.cwd_size, header.cwd);
		header.cwd = cwd + strlen(HEADER_CWD);
		header.cwd_size -= strlen(HEADER_CWD);
		again = write_header(&header);
		if (!again || strlen(again) != (size_t) (options - text) || memcmp(again, text, strlen(again)) != 0)
			abort();
		free(again);
	}
	(void) parse_name(text, &header);
	free(text);
}

/* The first bytes of an image. */
static void read_head(unsigned char *data, size_t size)
{
	unsigned char head[128] = { 0 };

	memcpy(head, data, size < sizeof(head) ? size : sizeof(head));
	(void) plain_header(head, size);
}

/* A path of /proc/self/mountinfo. */
static void read_mount(unsigned char *data, size_t size)
{
	char *text = strndup((char *) data, size);

	if (!text)
		abort();
	unescape(text);
	free(text);
}

/* Lines of /proc/self/cgroup and of /proc/self/mountinfo, in one text. */
static void read_cgroups(unsigned char *data, size_t size)
{
	struct job_cgroups found;

	given = data;
	given_size = size;
	(void) job_cgroups_find(&found, 7);
	if (found.count < 0 || found.count > JOB_CGROUPS_MAX)
		abort();
}

/* Lines of /proc/self/mountinfo, among which is the job's own mount namespace. */
static void read_place(unsigned char *data, size_t size)
{
	int place = -1;

	given = data;
	given_size = size;
	(void) find_place(7, &place, "/proc/self/mountinfo");
	if (place >= 0)
		close(place);
}

/* /proc/PID/status of a process that may be the user's. */
static void read_status(unsigned char *data, size_t size)
{
	given = data;
	given_size = size;
	(void) is_ours(7, 1000);
	(void) is_stopped(7, 1);
}

/* Ids and groups of a user, as many as there are bytes for. */
static void write_map(unsigned char *data, size_t size)
{
	size_t room = below(256) + 32;
	char *text = malloc(room);
	gid_t groups[INPUT_MAX / sizeof(gid_t)];

	if (!text)
		abort();
	memcpy(groups, data, size / sizeof(gid_t) * sizeof(gid_t));
	map_text(text, room, (int) below(2), (gid_t) next(), groups, (int) (size / sizeof(gid_t)));
	free(text);
}

static const struct reader {
	const char *name;
	void (*read)(unsigned char *data, size_t size);
	const char *good;  /* input without a fault, or the name of a file with it */
	size_t size;       /* 0: `good` is such a name */
} READERS[] = {
#define GOOD(text) text, sizeof(text) - 1
	{ "frame", read_frame, GOOD("+\0\0\0\0" "2\0ls\0-l\0" "1\0A=b\0/tmp\0note\0wait") },
	{ "programs", read_programs, GOOD("# ranks program\n0 ./a b \\\n  c\n1-3,7 /bin/b %t\n\n* c\n") },
	{ "elf", read_elf, "/bin/true", 0 },
	{ "head", read_head, "/bin/true", 0 },
	{ "spec", read_spec, GOOD(HEADER_VERSION " root=0 image=1 multi-prog=0 verbose=12 name=a mode=auto cwd=/d : image=/a asked=b") },
	{ "program", read_image_program, GOOD("#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" "01\0") },
	{ "place", read_place, GOOD("34 25 0:4 mnt:[4026532562] /run/7/.ns rw shared:2 - nsfs nsfs rw\n"
				    "35 25 0:4 / /run\\0407/7/.ns rw - nsfs nsfs rw\n") },
	{ "status", read_status, GOOD("Name:\tbollard-keeper\nState:\tT (stopped)\nUid:\t1000\t1000\t1000\t1000\n") },
	{ "mount", read_mount, GOOD("/run/job\\0407/\\134x\\011/7/.ns") },
	{ "cgroups", read_cgroups, GOOD("4:freezer:/slurm/uid_1/job_7/step_0\n0::/system.slice/job_7/step_1\n"
					"31 24 0:27 / /sys rw - cgroup cgroup rw\n"
					"32 24 0:28 /system.slice / rw - cgroup2 cgroup2 rw\n") },
	{ "map", write_map, GOOD("\350\3\0\0\0\0\0\0\33\0\0\0\5\0\0\0\350\3\0\0") },
};

static size_t good_input(const struct reader *reader, unsigned char *data)
{
	size_t size = reader->size;
	FILE *file;

	if (size) {
		memcpy(data, reader->good, size);
		if (reader->read == read_frame) {  /* its size stands in it */
			uint32_t length = (uint32_t) (size - 5 + 1);

			memcpy(data + 1, &length, sizeof(length));
			data[size++] = '\0';
		}
		return size;
	}
	file = fopen(reader->good, "re");
	if (!file)
		abort();
	size = fread(data, 1, INPUT_MAX, file);
	fclose(file);
	return size;
}

int main(int argc, char **argv)
{
	unsigned long counts[sizeof(READERS) / sizeof(*READERS)] = { 0 };
	struct timespec now, end;

	if (argc != 3 || clock_gettime(CLOCK_MONOTONIC, &end) < 0)
		return 2;
	end.tv_sec += atoi(argv[1]);
	state = strtoull(argv[2], NULL, 10) * 2 + 1;
	do {
		for (size_t i = 0; i < sizeof(READERS) / sizeof(*READERS); i++) {
			unsigned char data[INPUT_MAX], *exact;
			size_t size = good_input(&READERS[i], data);

			if (counts[i]++)
				size = damaged(data, size);
			exact = malloc(size + !size);  /* one byte too far is seen */
			if (!exact)
				return 2;
			memcpy(exact, data, size);
			READERS[i].read(exact, size);
			free(exact);
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	for (size_t i = 0; i < sizeof(READERS) / sizeof(*READERS); i++)
		printf("  %7lu  %s\n", counts[i], READERS[i].name);
	return 0;
}
