// SPDX-License-Identifier: MIT
/*
 * System calls by their numbers, see sys.h.
 */
#include <elf.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

/* The sanitizers must see which memory is mapped anew. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CALL(name, ...)	name(__VA_ARGS__)
#else
#define CALL(name, ...)	syscall(SYS_##name, __VA_ARGS__)
#endif

void *ka_mmap(void *start, size_t size, int protection, int flags)
{
	return (void *)CALL(mmap, start, size, protection, flags, -1, 0);
}

int ka_munmap(void *start, size_t size)
{
	return (int)CALL(munmap, start, size);
}

int ka_mprotect(void *start, size_t size, int protection)
{
	return (int)CALL(mprotect, start, size, protection);
}

int ka_madvise(void *start, size_t size, int advice)
{
	return (int)CALL(madvise, start, size, advice);
}

int ka_munlock(void *start, size_t size)
{
	return (int)CALL(munlock, start, size);
}

bool ka_move(void *from, void *to, size_t size)
{
	return syscall(SYS_mremap, from, size, size,
		       MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != -1;
}

ssize_t ka_write(int fd, const void *bytes, size_t size)
{
	return syscall(SYS_write, fd, bytes, size);
}

void ka_wait(uint32_t *word, uint32_t value, long ns)
{
	struct timespec timeout = { .tv_nsec = ns };

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &timeout, NULL, 0);
}

int ka_random(void *bytes, size_t size)
{
	return syscall(SYS_getrandom, bytes, size, GRND_NONBLOCK) == (long)size ? 0 : -1;
}

/*
 * The clock without a system call, which a sandbox may forbid: the function that the
 * kernel maps into each process (vdso(7)). It is found by hand, as dlsym() allocates.
 */
typedef int ka_clock_gettime_t(clockid_t clock, struct timespec *now);

/* A program whose runs have to be alike, as one that counts instructions, has its own. */
#pragma weak ka_own_clock
extern ka_clock_gettime_t ka_own_clock __attribute__((visibility("default")));

#if defined(__x86_64__)
#define CLOCK_SYMBOL	"__vdso_clock_gettime"
#elif defined(__aarch64__)
#define CLOCK_SYMBOL	"__kernel_clock_gettime"
#else
#define CLOCK_SYMBOL	""
#endif

/* The table of symbols that the section headers name; or NULL. */
static const Elf64_Shdr *find_symbols(const Elf64_Ehdr *header)
{
	const Elf64_Shdr *sections = (const void *)((const char *)header + header->e_shoff);

	for (int i = 0; header->e_shoff && i < header->e_shnum; i++) {
		if (sections[i].sh_type == SHT_DYNSYM)
			return &sections[i];
	}
	return NULL;
}

static ka_clock_gettime_t *find_clock(void)
{
	const char *image = (const char *)getauxval(AT_SYSINFO_EHDR), *names;
	const Elf64_Ehdr *header = (const void *)image;
	const Elf64_Shdr *table = image ? find_symbols(header) : NULL;
	const Elf64_Sym *symbols;

	if (!table)
		return NULL;
	symbols = (const void *)(image + table->sh_offset);
	names = image + ((const Elf64_Shdr *)(image + header->e_shoff))[table->sh_link].sh_offset;
	for (size_t i = 0; i < table->sh_size / sizeof(*symbols); i++) {
		if (symbols[i].st_shndx && !strcmp(names + symbols[i].st_name, CLOCK_SYMBOL))
			return (ka_clock_gettime_t *)(uintptr_t)(image + symbols[i].st_value);
	}
	return NULL;
}

static int ask_kernel(clockid_t clock, struct timespec *now)
{
	return (int)syscall(SYS_clock_gettime, clock, now);
}

static uint64_t read_clock(clockid_t clock)
{
	static ka_clock_gettime_t *known;
	ka_clock_gettime_t *get = __atomic_load_n(&known, __ATOMIC_RELAXED);
	struct timespec now = { 0 };

	if (!get) {
		get = ka_own_clock ? ka_own_clock : find_clock();
		if (!get)
			get = ask_kernel;
		__atomic_store_n(&known, get, __ATOMIC_RELAXED);
	}
	get(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t ka_clock(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t ka_clock_coarse(void)
{
	return read_clock(CLOCK_MONOTONIC_COARSE);
}
