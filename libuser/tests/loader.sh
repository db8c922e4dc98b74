#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The libraries together with other software: the loader, other libraries, and programs that
# replace functions of libc. BUILD is the build directory.

. "$(dirname "$(realpath "$0")")/preload.sh"
cd "$dir" || exit 1

# cc NAME [OPTION...]: compile the standard input as a program; shared: as a library.
cc() {
	local name=$1
	shift
	gcc -O1 -fno-builtin -pthread -x c - -o "$name" "$@"
}

shared() {
	local name=$1
	shift
	cc "$name" -shared -fPIC "$@"
}

# Each libc function that malloc calls is replaced by one that first allocates memory.
functions_that_allocate() {
	shared first.so -D_GNU_SOURCE <<-'END' || return
	#include <dlfcn.h>
	#include <fcntl.h>
	#include <pthread.h>
	#include <stdlib.h>
	#include <sys/mman.h>
	#include <time.h>

	static __thread int inside;

	static void allocate(void)
	{
		if (!inside++)
			for (size_t size = 16; size < 50000; size *= 2)
				*(void *volatile *)&(void *){ 0 } = malloc(size);
		inside--;
	}

	#define INSTEAD(type, name, arguments, ...)			\
		type name arguments					\
		{							\
			static type (*next) arguments;			\
									\
			if (!next)					\
				*(void **)&next = dlsym(RTLD_NEXT, #name); \
			allocate();					\
			return next(__VA_ARGS__);			\
		}

	INSTEAD(int, mprotect, (void *a, size_t b, int c), a, b, c)
	INSTEAD(int, madvise, (void *a, size_t b, int c), a, b, c)
	INSTEAD(int, munmap, (void *a, size_t b), a, b)
	INSTEAD(int, clock_gettime, (clockid_t a, struct timespec *b), a, b)
	INSTEAD(long, syscall, (long n, long a, long b, long c, long d, long e, long f),
		n, a, b, c, d, e, f)

	/* As what watches locks does, once it has the lock. */
	int pthread_mutex_lock(pthread_mutex_t *mutex)
	{
		static int (*next)(pthread_mutex_t *);
		int error;

		if (!next)
			*(void **)&next = dlsym(RTLD_NEXT, "pthread_mutex_lock");
		error = next(mutex);
		allocate();
		return error;
	}
	END
	LD_PRELOAD=$PWD/first.so:$library timeout 60 /usr/bin/perl -e '
		my @a = map { "x" x ($_ % 3000) } 1 .. 20000; @a = (); print "done\n"' |
		grep -qx done
}

# Libraries with thread-local storage, for which the loader allocates space at the first
# use.
libraries_with_storage() {
	local i
	for i in {0..19}; do
		shared "storage$i.so" <<<"__thread char x[200];" || return
	done
	cc program -ldl <<-'END' || return
	#include <dlfcn.h>
	#include <stdio.h>
	#include <stdlib.h>

	int main(void)
	{
		char name[40];

		for (int i = 0; i < 20; i++) {
			sprintf(name, "./storage%d.so", i);
			if (!dlopen(name, RTLD_NOW))
				return 1;
			free(malloc(1000));
			if (malloc((size_t)1 << 50))
				return 2;
		}
		return 0;
	}
	END
	LD_PRELOAD=$library timeout 60 ./program
}

other_names_of_glibc() {
	cc names <<-'END' || return
	#include <stdlib.h>
	#include <string.h>

	void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_valloc(size_t);
	void *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
	void *__libc_pvalloc(size_t);
	void __libc_free(void *);

	int main(void)
	{
		free(__libc_malloc(100));
		free(__libc_calloc(3, 100));
		free(__libc_memalign(64, 100));
		free(__libc_valloc(100));
		free(__libc_pvalloc(100));
		free(__libc_realloc(malloc(10), 100000));
		__libc_free(realloc(__libc_malloc(10), 5000));
		__libc_free(calloc(1, 10));
		return 0;
	}
	END
	LD_PRELOAD=$library timeout 60 ./names
}

# A thread that has used a heap ends after the library was closed.
closed() {
	cc close -ldl <<-'END' || return
	#include <dlfcn.h>
	#include <pthread.h>
	#include <stdio.h>

	static void *(*take)(size_t);
	static pthread_barrier_t barrier;

	static void *work(void *data)
	{
		take(100);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		return data;
	}

	int main(int argc, char **argv)
	{
		void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
		pthread_t thread;

		if (!library)
			return puts(dlerror()), 1;
		*(void **)&take = dlsym(library, "ka_obj_malloc");
		pthread_barrier_init(&barrier, NULL, 2);
		pthread_create(&thread, NULL, work, NULL);
		pthread_barrier_wait(&barrier);
		dlclose(library);
		pthread_barrier_wait(&barrier);
		pthread_join(thread, NULL);
		return 0;
	}
	END
	timeout 60 ./close "$build/lib/libkarena.so"
}

# The operators new return memory of malloc, and fail as C++ specifies.
operators() {
	cat >new.cc <<-'END'
	#include <cstdio>
	#include <cstdlib>
	#include <malloc.h>
	#include <new>
	#include <sys/resource.h>

	struct alignas(256) aligned { char bytes[300]; };
	static int handled;

	static void handler()
	{
		if (++handled == 2)
			std::set_new_handler(nullptr);
	}

	int main()
	{
		const size_t many = 8UL << 30;
		struct rlimit limit = { 1UL << 30, 1UL << 30 };
		volatile int wrong = 0, thrown = 0;

		aligned *blocks = new aligned[7], *one = new (std::nothrow) aligned;
		wrong += (size_t)blocks % 256 || (size_t)one % 256;
		delete[] blocks;
		delete one;
		setrlimit(RLIMIT_AS, &limit);
		std::set_new_handler(handler);
		try { operator delete(operator new(many)); } catch (std::bad_alloc &) { thrown++; }
		try { operator delete[](operator new[](many, std::align_val_t(64)),
					std::align_val_t(64)); }
		catch (std::bad_alloc &) { thrown++; }
		wrong += operator new(many, std::nothrow) != nullptr;
		wrong += operator new[](many, std::align_val_t(64), std::nothrow) != nullptr;
		std::printf("%d %d %d\n", wrong, thrown, handled);
		return 0;
	}
	END
	g++ -std=c++17 -O1 -w -fno-builtin -o new new.cc &&
		[ "$(LD_PRELOAD=$library timeout 60 ./new)" = "0 2 2" ]
}

# In a program that replaces the first four operators by functions which put a header before
# each block, the other operators must call these functions.
own_operators() {
	cat >own.cc <<-'END'
	#include <cstdio>
	#include <cstdlib>
	#include <new>

	static int taken, given;

	static void *take(std::size_t align, std::size_t size)
	{
		char *block = (char *)std::aligned_alloc(align, (size + 2 * align - 1) / align * align);

		if (!block)
			throw std::bad_alloc();
		taken++;
		return block + align;
	}

	static void give(std::size_t align, void *block)
	{
		if (block) {
			given++;
			std::free((char *)block - align);
		}
	}

	void *operator new(std::size_t size) { return take(32, size); }
	void operator delete(void *block) noexcept { give(32, block); }
	void *operator new(std::size_t size, std::align_val_t align)
	{
		return take((std::size_t)align, size);
	}
	void operator delete(void *block, std::align_val_t align) noexcept
	{
		give((std::size_t)align, block);
	}

	struct alignas(256) wide { char bytes[300]; };
	struct fat { char bytes[100]; ~fat() { bytes[0] = 0; } };

	int main()
	{
		delete new long;
		delete[] new long[20];
		delete new fat;
		delete[] new fat[3];
		delete new (std::nothrow) fat;
		delete[] new (std::nothrow) fat[5];
		delete new wide;
		delete[] new wide[2];
		delete new (std::nothrow) wide;
		operator delete(operator new(77), (std::size_t)77);
		operator delete[](operator new[](77), std::nothrow);
		operator delete(operator new(77, std::align_val_t(64)), (std::size_t)77,
				std::align_val_t(64));
		return std::printf("%d %d\n", taken, given) < 0;
	}
	END
	g++ -std=c++17 -O1 -w -fno-builtin -o own own.cc &&
		[ "$(LD_PRELOAD=$library timeout 60 ./own)" = "12 12" ]
}

# A C++ module of a program without C++: the function that throws is in a library that only
# the module uses.
module_without_memory() {
	cat >module.cc <<-'END'
	#include <new>

	extern "C" int begin()
	{
		try {
			operator delete(operator new(1UL << 62));
		} catch (const std::bad_alloc &) {
			return 1;
		}
		return 0;
	}
	END
	g++ -std=c++17 -O1 -w -fno-builtin -shared -fPIC -o module.so module.cc || return
	cc loads -ldl <<-'END' || return
	#include <dlfcn.h>

	int main(void)
	{
		void *module = dlopen("./module.so", RTLD_NOW | RTLD_LOCAL);
		int (*begin)(void);

		if (!module)
			return 2;
		*(void **)&begin = dlsym(module, "begin");
		return begin() != 1;
	}
	END
	LD_PRELOAD=$library timeout 60 ./loads
}

# Threads whose cache of a heap is never freed, because libc has no memory for their keys.
key_without_memory() {
	cc keys -I"$here/../include" -L"$build/lib" -lkarena -Wl,-rpath,"$build/lib" <<-'END' || return
	#include <karena/domain.h>
	#include <pthread.h>
	#include <stdio.h>
	#include <stdlib.h>

	void *__libc_calloc(size_t, size_t);
	static int refuse, refused;

	/* What libc takes for a second level of keys. */
	void *calloc(size_t count, size_t size)
	{
		if (!refuse || count * size != 512)
			return __libc_calloc(count, size);
		refused++;
		return NULL;
	}

	static void *take(void *data)
	{
		for (int i = 0; i < 8; i++)
			ka_obj_malloc(64);
		return data;
	}

	int main(void)
	{
		struct ka_stats stats = { .size = sizeof(stats) };
		pthread_t thread;
		pthread_key_t key;

		for (int i = 0; i < 40; i++)
			pthread_key_create(&key, NULL);
		ka_obj_malloc(16);
		refuse = 1;
		for (int i = 0; i < 50; i++) {
			pthread_create(&thread, NULL, take, NULL);
			pthread_join(thread, NULL);
		}
		ka_heap_stats(ka_domain_heap(), &stats);
		ka_heap_trim(ka_domain_heap());
		/* Each thread has left its blocks in the pools of those before. */
		return !refused || stats.pools > 4 || stats.blocks != 401;
	}
	END
	KARENA_SOURCE=embedded timeout 60 ./keys
}

# Print the statistics from a stack of 16 KiB.
small_stack() {
	cc stack <<-'END' || return
	#include <pthread.h>
	#include <stdlib.h>

	static void *volatile blocks[60000];

	static void *work(void *data)
	{
		for (int i = 0; i < 60000; i++)
			blocks[i] = malloc(100);
		for (int i = 0; i < 60000; i++)
			free(blocks[i]);
		return data;
	}

	int main(void)
	{
		pthread_attr_t attributes;
		pthread_t thread;
		void *result = NULL;

		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 16384);
		return pthread_create(&thread, &attributes, work, blocks) ||
		       pthread_join(thread, &result) || result != (void *)blocks;
	}
	END
	KARENA_MALLOCSTATS=1 LD_PRELOAD=$1 timeout 60 ./stack 2>printed &&
		[ "$(grep -c arenas printed)" -gt 1 ]
}

# With auditors, the loader has less space for the thread-local storage of preloaded
# libraries.
audited() {
	local name
	for name in audit1.so audit2.so; do
		shared $name -D_GNU_SOURCE <<-'END' || return
		#include <link.h>

		unsigned int la_version(unsigned int version)
		{
			return version < LAV_CURRENT ? version : LAV_CURRENT;
		}
		END
	done
	LD_AUDIT=$PWD/audit1.so:$PWD/audit2.so LD_PRELOAD=$1 timeout 60 /usr/bin/perl -e '
		open my $maps, "<", "/proc/self/maps"; my @maps = <$maps>;
		print "$_ ", scalar(grep { /$_/ } @maps) > 0, "\n"
			for qw(audit1 audit2 libkarena-malloc)' >said 2>&1
	[ "$(cat said)" = "$(printf '%s 1\n' audit1 audit2 libkarena-malloc)" ] ||
		{ cat said; return 1; }
}

# limited KIB: a program starts under this limit of addresses, and can allocate the rest.
limited() {
	( ulimit -v "$1" && LD_PRELOAD=$library timeout 60 /usr/bin/perl -e '
		my @a = map { "x" x ($_ % 3000) } 1 .. 8000; print "done\n"' ) | grep -qx done
}

# A kernel with larger pages, as it appears to the libraries: each says so in one sentence, and
# Python runs without karena.
pages_of_16_KiB() {
	shared pages.so <<-'END' || return
	#include <sys/auxv.h>

	unsigned long getauxval(unsigned long type)
	{
		return type == AT_PAGESZ ? 16384 : 0;
	}
	END
	local reason="this kernel has pages of 16 KiB: karena needs a kernel with pages of 4 KiB"
	local status=0
	LD_PRELOAD=$PWD/pages.so:$library /usr/bin/perl -e 1 >said 2>&1 || status=$?
	[ $status -eq 134 ] && [ "$(cat said)" = "karena: cannot create a heap: $reason" ] &&
	LD_PRELOAD=$PWD/pages.so:$build/lib/karena/libkarena-cpython.so \
		/usr/bin/python3 -c 'print("runs")' >said 2>&1 &&
	[ "$(cat said)" = "$(printf '%s\n' "karena: $reason; Python runs without karena" runs)" ] ||
		{ echo "status $status"; cat said; return 1; }
	LD_PRELOAD=$PWD/pages.so "$build/bin/karena" run true >said 2>&1 || status=$?
	[ $status -eq 125 ] && [ "$(cat said)" = "karena: cannot create a heap: $reason" ] ||
		{ echo "status $status"; cat said; return 1; }
}

# Debian's sshd, whose sandbox is a list of system calls, in a mount namespace with the user
# that sshd expects.
login_by_sshd() {
	local folder
	[ "$(id -u)" = 0 ] || { echo "only root can start sshd"; return 77; }
	# In a directory that chroot() made the root, mounts would be visible to others.
	mountpoint -q / || { echo "the root directory is not a mount point"; return 77; }
	folder=$("$here/../../selftests/vm/sshd") || return
	mkdir -p ssh
	unshare -m bash -e -s "$folder" "$dir/ssh" "$library" <<-'END'
		folder=$1 library=$3
		cd "$2"
		export LD_LIBRARY_PATH=$folder/usr/lib/x86_64-linux-gnu
		for key in host user; do
			"$folder/usr/bin/ssh-keygen" -q -t ed25519 -N '' -f $key
		done
		{ grep -v ^sshd: /etc/passwd; echo sshd:x:65533:65534::/run:/bin/false; } >passwd
		printf '%s:*:19000::::::\n' root sshd >shadow
		mount --bind passwd /etc/passwd
		mount --bind shadow /etc/shadow
		mount -t tmpfs run /run
		mkdir /run/sshd
		port=$((20000 + RANDOM % 10000))
		printf '%s\n' "Port $port" "ListenAddress 127.0.0.1" "HostKey $PWD/host" \
			"AuthorizedKeysFile $PWD/user.pub" "StrictModes no" "PidFile none" \
			"UsePAM no" >conf
		LD_PRELOAD=$library timeout 60 "$folder/usr/sbin/sshd" -D -e -f conf 2>log &
		trap 'kill %1' EXIT
		for i in {1..100}; do
			! grep -qi listening log || break
			sleep 0.1
		done
		for i in 1 2 3; do
			said=$(timeout 30 "$folder/usr/bin/ssh" -o StrictHostKeyChecking=no -o BatchMode=yes \
				-o UserKnownHostsFile=/dev/null -i user -p $port root@127.0.0.1 \
				'echo logged in' 2>errors) || { cat log errors; exit 1; }
			[ "$said" = "logged in" ]
		done
	END
}

check replaced_libc_functions_may_allocate functions_that_allocate
check malloc_never_makes_the_loader_allocate libraries_with_storage
check other_glibc_names_use_the_same_heap other_names_of_glibc
check closed_library_stays_loaded_for_its_threads closed
check cpp_operators_work operators
check replaced_cpp_operators_are_called_by_the_others own_operators
check module_in_cpp_can_catch_bad_alloc module_without_memory
check heap_works_without_memory_for_a_key key_without_memory
check statistics_are_printed_from_a_small_stack small_stack "$library"
check checked_build_fits_into_a_small_stack \
	small_stack "$build/lib/libkarena-malloc-checked.so"
check library_starts_with_auditors audited "$library"
check checked_build_starts_with_auditors audited "$build/lib/libkarena-malloc-checked.so"
check library_starts_with_128_MiB_of_addresses limited 131072
check library_starts_with_60000_KiB_of_addresses limited 60000
check kernel_with_larger_pages_is_refused pages_of_16_KiB
check login_with_sshd_works login_by_sshd
plan
