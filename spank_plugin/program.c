/* SPDX-License-Identifier: BSD-3-Clause */
/* Finds the MPI that a program was built with, and so its wire-up, from the libraries that the program names. */
#define _GNU_SOURCE
#include "program.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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
 * come from the file, so each is checked before it is used. */
static const char *ask_libraries(const unsigned char *file, uint64_t size,
				 const char *(*look)(const char *name, const char *wanted), const char *wanted)
{
	const Elf64_Ehdr *head = (const Elf64_Ehdr *) file;
	const Elf64_Phdr *parts;
	const Elf64_Dyn *dynamic = NULL;
	uint64_t names = UINT64_MAX, count = 0;
	const char *found = NULL;

	if (size < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 || head->e_ident[EI_CLASS] != ELFCLASS64 ||
	    head->e_phentsize != sizeof(*parts) || head->e_phoff % 8 || head->e_phoff > size ||
	    (size - head->e_phoff) / sizeof(*parts) < head->e_phnum)
		return NULL;
	parts = (const Elf64_Phdr *) (file + head->e_phoff);
	for (unsigned i = 0; i < head->e_phnum; i++)
		if (parts[i].p_type == PT_DYNAMIC && parts[i].p_offset % 8 == 0 && parts[i].p_offset <= size &&
		    parts[i].p_filesz <= size - parts[i].p_offset) {
			dynamic = (const Elf64_Dyn *) (file + parts[i].p_offset);
			count = parts[i].p_filesz / sizeof(*dynamic);
		}
	for (uint64_t i = 0; i < count; i++)
		if (dynamic[i].d_tag == DT_STRTAB)
			names = offset_of(parts, head->e_phnum, dynamic[i].d_un.d_ptr);
	for (uint64_t i = 0; names < size && i < count && !found; i++) {
		uint64_t at = dynamic[i].d_un.d_val;

		if (dynamic[i].d_tag == DT_NEEDED && at < size - names && memchr(file + names + at, '\0', size - names - at))
			found = look((const char *) file + names + at, wanted);
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
	void *file;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 &&
	    (file = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) != MAP_FAILED) {
		found = ask_libraries(file, (uint64_t) st.st_size, look, wanted);
		munmap(file, (size_t) st.st_size);
	}
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
