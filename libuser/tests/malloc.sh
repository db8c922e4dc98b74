#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Programs from Debian behave on libkarena-malloc (LD_PRELOAD) as they do without it. BUILD
# is the build directory; runs on the source that KARENA_SOURCE names.
#
#	malloc.sh		runs all tests
#	malloc.sh without	runs the programs without karena and keeps their output, and the
#				files compiled for the tests, in BUILD/without
#
# The output without karena does not depend on the kernel or the source, so a slow guest
# uses that in BUILD/without. If it is missing, the tests run the programs both ways.

. "$(dirname "$(realpath "$0")")/preload.sh"

recording=
[ "${1:-}" != without ] || recording=1
kept=$build/without
if [ "$recording" ]; then
	rm -rf "$kept" "$kept.new"
	mkdir -p "$kept.new"
	kept=$kept.new
elif [ ! -d "$kept" ] ||
     [ "$(find "$0" "$here/.." -newer "$kept" \( -name '*.[ch]' -o -name malloc.sh \))" ]; then
	kept=$dir/without
	mkdir "$kept"
fi

on_karena() { LD_PRELOAD=$library timeout 300 "$@"; }

# prints FILE COMMAND...: compare with the file, which has the output and status of the
# command.
prints() {
	local file=$1 status=0
	shift
	"$@" >"$file.new" 2>&1 || status=$?
	echo "status $status" >>"$file.new"
	mv "$file.new" "$file"
}

# same NAME COMMAND...: the command has the same output and status with and without karena.
# NAME is unique.
same() {
	local name=$1
	shift
	[ -e "$kept/$name" ] || prints "$kept/$name" "$@"
	[ ! "$recording" ] || return 0
	prints "$dir/with" on_karena "$@"
	cmp -s "$kept/$name" "$dir/with" || {
		diff "$kept/$name" "$dir/with" | head -n 20
		return 1
	}
}

# debugged NAME COMMAND...: also with the debug hooks.
debugged() { KARENA_MALLOC=debug same "$@"; }

# compiled FILE COMMAND...: make the file, unless it is there, with this command, which
# writes $out.
compiled() {
	local out=$kept/$1
	shift
	[ -e "$out" ] || "$@" -o "$out"
}

# Blocks lie in the heap.
is_used() {
	on_karena perl -e 'open my $maps, "<", "/proc/self/maps"; print <$maps>' |
		grep -q libkarena-malloc
}

perl_sorts() {
	same perl-sorts perl -e 'my %h; srand 1; $h{int rand 1e6} = "x" x rand 300 for 1 .. 40000;
		my $s = 0; $s = ($s * 31 + length $h{$_}) % 1e9 for sort keys %h; print $s'
}

python_counts() {
	PYTHONMALLOC=malloc same python-counts /usr/bin/python3 -c '
import json, re, threading
data = {str(i): [i] * (i % 50) for i in range(20000)}
text = json.dumps(data)
def work(): assert len(json.loads(text)) == 20000
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(text), len(re.findall(r"\d+", text)))'
}

# object_is_the_same NAME OPTION...: gcc compiles a library source to the same file.
gcc_of_the_library=(gcc -w -D_GNU_SOURCE -I"$here/../include" -I"$here/../../uapi" -I"$here/.." -c)
object_is_the_same() {
	local source=$here/../$1
	shift
	compiled "$(basename "$source").o" "${gcc_of_the_library[@]}" "$@" "$source" || return
	[ ! "$recording" ] || return 0
	on_karena "${gcc_of_the_library[@]}" "$@" "$source" -o "$dir/object" &&
		cmp "$dir/object" "$kept/$(basename "$source").o"
}

gcc_compiles() { object_is_the_same arena/run.c -O2; }

# Print the name of a file with lines of numbers.
numbers() {
	seq 200000 | awk '{ print $1 * 7919 % 200003, $1 }' >"$dir/numbers"
	echo "$dir/numbers"
}

sort_sorts() {
	same sort-sorts bash -c 'sort --parallel=4 -S 4M -n "$0" | cksum' "$(numbers)"
}

xz_packs() {
	numbers >"$dir/name"
	on_karena xz -T2 -1 -k "$dir/numbers" && on_karena xz -dc "$dir/numbers.xz" |
		cmp - "$dir/numbers"
}

shells_fork() {
	same shells-fork bash -c 'for i in {1..30}; do echo $((i * i)) | (read x; echo "$(echo $x)"); done'
}

# The library works in a program that closes all descriptors and changes its root directory.
descriptors_and_roots() {
	same root-changes /usr/bin/python3 -c '
import os
os.chroot("/proc")
os.closerange(3, 1000)
blocks = [bytearray(100000 * i) for i in range(60)]
print(sum(map(len, blocks)))'
}

privileges_are_dropped() {
	# On the module, an unprivileged process needs a limit that is high enough.
	[ "$KARENA_SOURCE" != device ] || ulimit -l unlimited
	same privileges-go /usr/bin/python3 -c '
import os
os.setgid(65534); os.setuid(65534)
blocks = [bytearray(100000 * i) for i in range(60)]
print(sum(map(len, blocks)), os.getuid())'
}

address_space_is_short() {
	# On the module the whole window counts.
	(ulimit -v 500000; same address-space perl -e 'my @a = map { "x" x 1000 } 1 .. 20000; print scalar @a')
}

# Small stacks, as of threads that libraries create, are sufficient for malloc.
stacks_are_small() {
	(ulimit -s 256; same stack-perl perl -e 'my @a = map { "x" x 5000 } 1 .. 4000; print scalar @a') &&
	same stack-threads /usr/bin/python3 -c '
import threading
threading.stack_size(65536)
threads = [threading.Thread(target=lambda: bytearray(5000000)) for _ in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]'
}

# A plug-in that is loaded later uses the same malloc: it can free blocks of the program.
plug_ins_are_loaded() {
	same plug-ins-perl perl -MPOSIX -MData::Dumper -MStorable=dclone -e '
		my $deep = [ map { { $_ => [ 1 .. 50 ] } } 1 .. 200 ];
		$Data::Dumper::Sortkeys = 1;
		print length Dumper(dclone $deep), POSIX::floor(2.5)' &&
	same plug-ins-python /usr/bin/python3 -c '
import ctypes, sqlite3
libc = ctypes.CDLL(None)
libc.strdup.restype = libc.realloc.restype = ctypes.c_void_p
block = libc.realloc(ctypes.c_void_p(libc.strdup(b"karena")), ctypes.c_size_t(300000))
print(ctypes.string_at(block))
libc.free(ctypes.c_void_p(block))
base = sqlite3.connect(":memory:")
base.execute("create table t (a, b)")
base.executemany("insert into t values (?, ?)", ((i, "x" * (i % 900)) for i in range(9000)))
print(base.execute("select sum(length(b)) from t").fetchone())'
}

# Many concurrent processes, most of which are short-lived.
make_makes() {
	local objects=$1
	mkdir -p "$dir/tree"
	{
		echo "all: $(seq -s ' ' -f 'object%g' $objects)"
		printf 'object%%:\n\t@echo "int f(void) { return $*; }" |'
		printf ' gcc -O1 -x c -c -o $@.o - && size -d $@.o | tail -n 1 | cut -f 1-4\n'
	} >"$dir/tree/Makefile"
	same "make-$objects" sh -c "make -s -j2 -C '$dir/tree' | sort"
}

limit_is_no_memory() {
	local output
	output=$(KARENA_LIMIT=64M PYTHONMALLOC=malloc on_karena /usr/bin/python3 -c '
blocks = []
try:
    while len(blocks) < 1000: blocks.append(bytearray(200000))
except MemoryError:
    print("no memory after", 200 < len(blocks) < 336)')
	echo "$output"
	[ "$output" = "no memory after True" ]
}

# said_and_ignored SETTING WORDS: the program runs and prints one line with these words.
said_and_ignored() {
	local output status=0
	output=$(env "$1" LD_PRELOAD="$library" /bin/echo ran 2>&1) || status=$?
	echo "$status: $output"
	[ $status -eq 0 ] && [[ $output == "karena: "*"$2"*"; the setting is ignored"$'\nran' ]]
}

wrong_settings_are_ignored() {
	said_and_ignored KARENA_LIMIT=much "KARENA_LIMIT: invalid size 'much'" &&
	said_and_ignored KARENA_LIMIT=4096 "too small" &&
	said_and_ignored KARENA_WINDOW=-1 "KARENA_WINDOW: invalid size '-1'" &&
	said_and_ignored KARENA_NAME=a/b "without '/'" &&
	said_and_ignored KARENA_SOURCE=disk "KARENA_SOURCE: unknown source 'disk'" &&
	said_and_ignored KARENA_STATS=2 "KARENA_STATS: unknown value '2'" &&
	said_and_ignored KARENA_MALLOC=some "KARENA_MALLOC: unknown value 'some'"
}

# The text is printed at each new arena and at exit; the last one has all arenas.
statistics_are_printed() {
	local output
	output=$(KARENA_MALLOCSTATS=1 on_karena perl -e 'my @a = map { "x" x 1000 } 1 .. 9000' 2>&1)
	echo "$output" | tail -n 40
	[ "$(grep -c '^Small block threshold = 262144, in 96 size classes.$' <<<"$output")" -ge 4 ] &&
	[[ $(tail -n 40 <<<"$output") == *"arenas * 2097152 bytes/arena"* ]] || return
	output=$(on_karena /usr/bin/python3 -c 'import ctypes; ctypes.CDLL(None).malloc_stats()' 2>&1)
	[[ $output == "Heap \"python3\" of process "*"Small block threshold"*"Total  "* ]] &&
	[ -z "$(KARENA_MALLOCSTATS=0 on_karena true 2>&1)" ]
}

cpp_news() {
	cat >"$dir/program.cpp" <<-'END'
		#include <algorithm>
		#include <cstdint>
		#include <cstdio>
		#include <map>
		#include <memory>
		#include <new>
		#include <string>
		#include <vector>

		struct alignas(256) wide { char bytes[300]; };

		int main()
		{
			std::map<std::string, std::vector<int>> map;
			for (int i = 0; i < 20000; i++)
				map[std::to_string(i * 7)].assign(i % 40, i);
			std::vector<std::unique_ptr<wide>> wides;
			for (int i = 0; i < 100; i++) {
				wides.emplace_back(new wide);
				if ((std::uintptr_t)wides.back().get() % 256)
					return 1;
			}
			volatile std::size_t much = SIZE_MAX / 4;
			if (new (std::nothrow) char[much])
				return 2;
			try {
				(void)new char[much];
				return 3;
			} catch (const std::bad_alloc &) {
				std::printf("%zu\n", map.size());
			}
			delete[] new int[0];
			// The size and alignment come back with a delete.
			void *block = ::operator new(1000, std::align_val_t(128));
			if ((std::uintptr_t)block % 128)
				return 4;
			::operator delete(block, 1000, std::align_val_t(128));
			::operator delete(::operator new(77), (std::size_t)77);
			delete[] new wide[20];
			delete new (std::nothrow) wide;
			return 0;
		}
	END
	compiled program g++ -O1 -w -std=c++17 "$dir/program.cpp" &&
		same cpp-news "$kept/program"
}

hooks_find_nothing() {
	debugged ls ls /usr &&
	debugged perl-sorts-less perl -e 'my %h; $h{$_} = "x" x ($_ % 300) for 1 .. 2000;
		print join ",", sort keys %h' &&
	PYTHONMALLOC=malloc debugged python-dumps /usr/bin/python3 -c '
import json, threading
def work(): assert len(json.loads(json.dumps(list(range(500))))) == 500
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]' &&
	debugged shell-forks bash -c 'echo $(echo 1 | cat)' &&
	KARENA_MALLOC=debug object_is_the_same base/size.c -O1
}

# fails REASON MISTAKE: a program with this mistake aborts with this reason, and the message
# names its function.
fails() {
	local output status=0
	output=$(KARENA_MALLOC=${3:-debug} on_karena "$kept/wrong" "$2" 2>&1) || status=$?
	[ $status -eq ${4:-134} ] && [[ $output == *"$1"* ]] &&
		{ [ -n "$4" ] || [[ $output == *', in wrong'* ]]; } && return
	echo "$status: $output"
	return 1
}

compile_mistakes() {
	cat >"$dir/wrong.c" <<-'END'
		#include <stdlib.h>

		char *volatile p;

		int wrong(int mistake)
		{
			p = malloc(24);
			switch (mistake) {
			case 1: p[24] = 1; free(p); break;
			case 2: free(p); free(p); break;
			case 3: free(p + 8); break;
			case 4: p[-2] = 1; p = realloc(p, 9); break;
			case 5: free(p); *p = 1; break;
			case 6: p[25] = 1; break;
			case 7: p[40] = 1; break;
			case 8: free(p); exit(*p);
			case 9: p = aligned_alloc(256, 64); p[-100] = 1; free(p); break;
			}
			return 0;
		}

		int main(int argc, char **argv)
		{
			return wrong(atoi(argv[1]));
		}
	END
	compiled wrong gcc -w -O0 -rdynamic "$dir/wrong.c"
}

hooks_find_mistakes() {
	compile_mistakes &&
	fails $'\nFatal error: free: bad trailing pad byte\n' 1 &&
	fails $'\nFatal error: free: double free\n' 2 &&
	fails $'\nFatal error: free: bad pointer: ' 3 &&
	fails $'\nFatal error: realloc: bad leading' 4 &&
	fails $'\nFatal error: exit: write after free\n' 5 &&
	fails $'\nFatal error: exit: bad trailing pad byte\n' 6 &&
	fails $'\nFatal error: free: bad leading pad byte\n' 9 &&
	fails '' 7 guard 139 &&
	fails '' 8 guard 139
}

hooks_in_python() {
	local tool=$build/bin/karena
	[ "$(KARENA_MALLOC=debug "$tool" run --python=domains /usr/bin/python3 -c '
import json; print(len(json.dumps(list(range(1000)))))' 2>&1)" = 4890 ]
}

# Fill memory in pieces until it is exhausted. Print how many MiB. Then a child allocates
# some.
compile_fill() {
	cat >"$dir/fill.c" <<-'END'
		#include <stdio.h>
		#include <stdlib.h>
		#include <string.h>
		#include <sys/wait.h>
		#include <unistd.h>

		static char *blocks[16000];

		int main(void)
		{
			int status, count = 0;

			while (count < 16000 && (blocks[count] = malloc(65000)))
				memset(blocks[count++], 1, 65000);
			for (int i = 0; i < count * 2 / 3; i++)
				free(blocks[count - 1 - i]);
			if (!fork())
				_exit(!malloc(100));
			printf("%d\n", count / 16);
			return wait(&status) < 0 || status;
		}
	END
	compiled fill gcc -w -O1 "$dir/fill.c"
}

# With vm.overcommit_memory 2, where the kernel commits no more memory than it has, programs
# can allocate as much as without karena. This changes a setting of the kernel, so it runs
# only in a guest.
promised_memory() {
	local committed alone got status=0 source
	committed=$(awk '/^Committed_AS/ { print $2 }' /proc/meminfo)
	compile_fill && echo $((committed + 300 * 1024)) >/proc/sys/vm/overcommit_kbytes &&
		echo 2 >/proc/sys/vm/overcommit_memory || return
	alone=$("$kept/fill") || status=1
	for source in embedded device; do
		got=$(KARENA_SOURCE=$source on_karena "$kept/fill") || status=1
		echo "$source: $got MiB, without karena $alone"
		[ "${got:-0}" -ge $((alone * 9 / 10)) ] || status=1
		KARENA_SOURCE=$source on_karena perl -e 'exit !fork || wait < 0' || status=1
	done
	echo 0 >/proc/sys/vm/overcommit_memory
	return $status
}

objects=24
[ "${KARENA_SOURCE:-}" != device ] || objects=8	# emulated

# The commands that also run without karena.
if [ "$recording" ]; then
	for case in perl_sorts python_counts gcc_compiles sort_sorts shells_fork \
			"make_makes 24" "make_makes 8" plug_ins_are_loaded stacks_are_small \
			cpp_news descriptors_and_roots privileges_are_dropped \
			address_space_is_short hooks_find_nothing compile_mistakes \
			compile_fill; do
		($case) || exit
	done
	mv "$kept" "$build/without"
	exit
fi

check programs_use_the_library is_used
check perl_sorts perl_sorts
check python_counts_on_threads python_counts
check gcc_compiles gcc_compiles
check sort_sorts_on_threads sort_sorts
check xz_packs_and_unpacks xz_packs
check shells_fork shells_fork
check make_makes_in_parallel make_makes $objects
check plug_ins_share_the_malloc plug_ins_are_loaded
check small_stacks_are_sufficient stacks_are_small
check cpp_news_and_deletes cpp_news
check program_may_change_its_root_and_close_everything descriptors_and_roots
check program_may_drop_its_privileges privileges_are_dropped
if [ "$KARENA_SOURCE" = device ]; then
	check committed_memory_is_what_is_used promised_memory
else
	check little_address_space_is_sufficient address_space_is_short
fi
check allocation_at_the_limit_fails limit_is_no_memory
check invalid_settings_are_reported_and_ignored wrong_settings_are_ignored
check statistics_are_printed statistics_are_printed
check debug_hooks_find_nothing_in_correct_programs hooks_find_nothing
check debug_hooks_find_mistakes hooks_find_mistakes
check debug_hooks_work_behind_pythons_domains hooks_in_python
plan
