// SPDX-License-Identifier: MIT
/*
 * System calls by their numbers: see sys.h.
 */
#include <elf.h>
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/sys.h"

/* Return the kernel's result. libc's syscall() is not called, since it may be replaced. */
static long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;
	long result;

	asm volatile("syscall" : "=a" (result)
		     : "0" (number), "D" (a), "S" (b), "d" (c), "r" (r10), "r" (r8), "r" (r9)
		     : "rcx", "r11", "memory");
	return result;
#else
	long result = syscall(number, a, b, c, d, e, f);

	return result == -1 ? -errno : result;
#endif
}

/* Convert a kernel's result to libc's convention: -1 with errno. */
static long checked(long result)
{
	if (result >= 0 || result < -4095)
		return result;
	errno = (int)-result;
	return -1;
}

/* Tell the sanitizers which memory is mapped anew. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIBC_OR(function, kernel)	(function)
#else
#define LIBC_OR(function, kernel)	(kernel)
#endif

void *ka_mmap(void *start, size_t size, int protection, int flags)
{
	return LIBC_OR(mmap(start, size, protection, flags, -1, 0),
		       (void *)checked(call(SYS_mmap, (long)start, (long)size, protection,
					    flags, -1, 0)));
}

int ka_munmap(void *start, size_t size)
{
	return LIBC_OR(munmap(start, size),
		       (int)checked(call(SYS_munmap, (long)start, (long)size, 0, 0, 0, 0)));
}

int ka_mprotect(void *start, size_t size, int protection)
{
	return LIBC_OR(mprotect(start, size, protection),
		       (int)checked(call(SYS_mprotect, (long)start, (long)size, protection, 0,
					 0, 0)));
}

int ka_madvise(void *start, size_t size, int advice)
{
	return LIBC_OR(madvise(start, size, advice),
		       (int)checked(call(SYS_madvise, (long)start, (long)size, advice, 0, 0,
					 0)));
}

int ka_munlock(void *start, size_t size)
{
	return LIBC_OR(munlock(start, size),
		       (int)checked(call(SYS_munlock, (long)start, (long)size, 0, 0, 0, 0)));
}

bool ka_grow(void *start, size_t size, size_t new_size)
{
	return checked(call(SYS_mremap, (long)start, (long)size, (long)new_size, 0, 0,
			    0)) != -1;
}

/* No mapping can grow so far, but the kernel checks first that the range is one mapping. */
#define TOO_LARGE	(1L << 46)

bool ka_is_one_mapping(void *start, size_t size)
{
	return call(SYS_mremap, (long)start, (long)size, TOO_LARGE, 0, 0, 0) != -EFAULT;
}

bool ka_move(void *from, void *to, size_t size)
{
	return checked(call(SYS_mremap, (long)from, (long)size, (long)size,
			    MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (long)to,
			    0)) != -1;
}

ssize_t ka_write(int fd, const void *bytes, size_t size)
{
	return checked(call(SYS_write, fd, (long)bytes, (long)size, 0, 0, 0));
}

void ka_wait(uint32_t *word, uint32_t value, long ns)
{
	struct timespec timeout = { .tv_nsec = ns };

	call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, (long)value,
	     (long)(ns ? &timeout : NULL), 0, 0);
}

void ka_wake(uint32_t *word)
{
	call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

int ka_random(void *bytes, size_t size)
{
	return call(SYS_getrandom, (long)bytes, (long)size, GRND_NONBLOCK, 0, 0, 0) ==
	       (long)size ? 0 : -1;
}

long ka_syscall(long number, long a, long b, long c)
{
	return checked(call(number, a, b, c, 0, 0, 0));
}

/*
 * The clock without a system call, which a sandbox may forbid: the function that the kernel
 * maps into each process (vdso(7)). The library parses the vdso itself, since dlsym()
 * allocates.
 */
typedef int ka_clock_gettime_t(clockid_t clock, struct timespec *now);

/*
 * A program that needs reproducible runs, for example to count instructions, defines its own
 * clock.
 */
#pragma weak ka_own_clock
extern ka_clock_gettime_t ka_own_clock __attribute__((visibility("default")));

#if defined(__x86_64__)
#define CLOCK_SYMBOL	"__vdso_clock_gettime"
#elif defined(__aarch64__)
#define CLOCK_SYMBOL	"__kernel_clock_gettime"
#else
#define CLOCK_SYMBOL	""
#endif

/* Find the vdso's function in the symbol table that its section headers name; or return NULL. */
static ka_clock_gettime_t *find_clock(void)
{
	const char *image = (const char *)getauxval(AT_SYSINFO_EHDR), *names;
	const Elf64_Ehdr *header = (const void *)image;
	const Elf64_Shdr *sections, *table = NULL;
	const Elf64_Sym *symbols;

	if (!image || !header->e_shoff)
		return NULL;
	sections = (const void *)(image + header->e_shoff);
	for (int i = 0; !table && i < header->e_shnum; i++)
		table = sections[i].sh_type == SHT_DYNSYM ? &sections[i] : NULL;
	if (!table)
		return NULL;
	symbols = (const void *)(image + table->sh_offset);
	names = image + sections[table->sh_link].sh_offset;
	for (size_t i = 0; i < table->sh_size / sizeof(*symbols); i++) {
		if (symbols[i].st_shndx && !strcmp(names + symbols[i].st_name, CLOCK_SYMBOL))
			return (ka_clock_gettime_t *)(uintptr_t)(image + symbols[i].st_value);
	}
	return NULL;
}

static int ask_kernel(clockid_t clock, struct timespec *now)
{
	return (int)call(SYS_clock_gettime, clock, (long)now, 0, 0, 0, 0);
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
