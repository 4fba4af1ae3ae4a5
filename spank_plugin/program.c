/* SPDX-License-Identifier: BSD-3-Clause */
/* Finds the MPI that a program was built with, and so its wire-up, from the libraries that the program names. */
#define _GNU_SOURCE
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char OPEN_MPI[] = "pmix", MPICH[] = "pmi2";

/* Returns the wire-up of a library, or NULL: libmpich.so.12, libmpi.so.12 (the ABI shared by MPICH, Intel MPI and
 * others), libmpi.so.40 (Open MPI). */
static const char *wireup_of_library(const char *name, const char *unused)
{
	const char *version = strstr(name, ".so.");

	(void) unused;
	if (strncmp(name, "libmpich", 8) == 0)
		return MPICH;
	if (strncmp(name, "libopen-", 8) == 0 || strncmp(name, "libprrte", 8) == 0)  /* named by Open MPI's mpirun */
		return OPEN_MPI;
	if (strncmp(name, "libmpi", 6) != 0 || !version || (name[6] != '.' && name[6] != '_'))
		return NULL;
	return strcmp(version, ".so.12") == 0 ? MPICH : OPEN_MPI;
}

/* Headers of a program that are looked at, at most. Real programs have about a dozen, and tens of dynamic entries. */
#define PARTS_MAX 256
#define DYNAMIC_MAX 1024

/* Reads at most `size` bytes at `offset`. Returns their number; 0 on failure too. With mmap(2) a file that shrinks, or
 * that its file server cannot read, would end this process by SIGBUS. */
static size_t read_at(int fd, uint64_t offset, void *data, size_t size)
{
	size_t done = 0;
	ssize_t n;

	while (done < size && offset <= INT64_MAX - done) {
		n = pread(fd, (char *) data + done, size - done, (off_t) (offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t) n;
	}
	return done;
}

/* Returns the offset in the file of a virtual address; UINT64_MAX when no loaded part holds it. */
static uint64_t offset_of(const Elf64_Phdr *parts, unsigned count, uint64_t address)
{
	for (unsigned i = 0; i < count; i++)
		if (parts[i].p_type == PT_LOAD && address >= parts[i].p_vaddr &&
		    address - parts[i].p_vaddr < parts[i].p_filesz)
			return address - parts[i].p_vaddr + parts[i].p_offset;
	return UINT64_MAX;
}

/* Calls `look` for each library that an ELF file names. Returns its first result that is not NULL. Sizes and offsets
 * come from the file, so each read is bounded. */
static const char *ask_libraries(int fd, const char *(*look)(const char *name, const char *wanted), const char *wanted)
{
	static Elf64_Phdr parts[PARTS_MAX];
	static Elf64_Dyn dynamic[DYNAMIC_MAX];
	uint64_t names = UINT64_MAX;
	const char *found = NULL;
	char name[NAME_MAX + 1];
	size_t count = 0, size;
	Elf64_Ehdr head;

	if (read_at(fd, 0, &head, sizeof(head)) < sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
	    head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(*parts) || head.e_phnum > PARTS_MAX ||
	    read_at(fd, head.e_phoff, parts, head.e_phnum * sizeof(*parts)) < head.e_phnum * sizeof(*parts))
		return NULL;
	for (unsigned i = 0; i < head.e_phnum; i++)
		if (parts[i].p_type == PT_DYNAMIC) {
			size = parts[i].p_filesz < sizeof(dynamic) ? (size_t) parts[i].p_filesz : sizeof(dynamic);
			count = read_at(fd, parts[i].p_offset, dynamic, size) / sizeof(*dynamic);
		}
	for (size_t i = 0; i < count; i++)
		if (dynamic[i].d_tag == DT_STRTAB)
			names = offset_of(parts, head.e_phnum, dynamic[i].d_un.d_ptr);
	for (size_t i = 0; i < count && names != UINT64_MAX && !found; i++) {
		if (dynamic[i].d_tag != DT_NEEDED || dynamic[i].d_un.d_val > UINT64_MAX - names)
			continue;
		size = read_at(fd, names + dynamic[i].d_un.d_val, name, sizeof(name));
		if (memchr(name, '\0', size))
			found = look(name, wanted);
	}
	return found;
}

static const char *same_library(const char *name, const char *wanted)
{
	return strncmp(name, wanted, strlen(wanted)) == 0 ? wanted : NULL;
}

static const char *ask_file(const char *path, const char *(*look)(const char *name, const char *wanted), const char *wanted)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *found = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		found = ask_libraries(fd, look, wanted);
	close(fd);
	return found;
}

const char *wireup_of_file(const char *path)
{
	return ask_file(path, wireup_of_library, NULL);
}

int names_library(const char *path, const char *library)
{
	return ask_file(path, same_library, library) != NULL;
}

static const char *wireup_of_name(const char *path)
{
	static const char *const open_mpi[] = { "openmpi", "orterun", "prterun" }, *const mpich[] = { "mpich", "hydra" };

	for (size_t i = 0; i < sizeof(open_mpi) / sizeof(*open_mpi); i++)
		if (strstr(path, open_mpi[i]))
			return OPEN_MPI;
	for (size_t i = 0; i < sizeof(mpich) / sizeof(*mpich); i++)
		if (strstr(path, mpich[i]))
			return MPICH;
	return NULL;
}

const char *wireup_of(const char *name, const char *program, const char *mpirun)
{
	const char *found = wireup_of_file(program);
	char real[PATH_MAX];

	if (!found)
		found = wireup_of_name(name);
	if (!found && realpath(mpirun, real))
		found = wireup_of_name(real);
	return found ? found : wireup_of_file(mpirun);
}
