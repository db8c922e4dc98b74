#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Tracing by environment variables, of unmodified programs on libkarena-malloc (LD_PRELOAD).
# BUILD is the build directory; runs on the source that KARENA_SOURCE names.

. "$(dirname "$(realpath "$0")")/preload.sh"
cd "$dir" || exit 1

# traced INTERVAL FILE COMMAND...
traced() {
	local interval=$1 file=$2
	shift 2
	timeout 300 env KARENA_TRACE="$interval" KARENA_TRACE_FILE="$file" \
		LD_PRELOAD="$library" "$@"
}

# judge FILE EXPRESSION: with the traces t, their entries e, and the allocated bytes b.
judge() {
	/usr/bin/python3 - "$@" <<-'END'
		import json, sys
		t = json.load(open(sys.argv[1]))
		e = t["entries"]
		b = sum(x["bytes"] for x in e)
		if not eval("(" + sys.argv[2] + ")"):
		    print({k: t[k] for k in t if k != "entries"}, len(e), b)
		    sys.exit(1)
	END
}

cat >program.c <<'END'
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) void *leak(size_t size)
{
	void *block = malloc(size);

	__asm__ volatile("" : "+r" (block));
	return block;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 0;

	for (int i = 0; i < count; i++)
		leak(1000);
	for (int i = 0; i < count; i++)
		free(*(void *volatile *)&(void *){ malloc(2000) });
	if (argc > 2 && !fork()) {
		leak(777777);
		exit(0);
	}
	wait(NULL);
	return 0;
}
END
gcc -O1 -rdynamic -o program program.c || exit 1

all_is_exact() {
	traced 1 out.json ./program 5000 &&
	judge out.json 't["interval"] == 1 and b == t["current_bytes"] and
		b >= 5000000 and t["peak_bytes"] >= b' &&
	judge out.json '[(x["bytes"], x["blocks"], x["total_blocks"]) for x in e
		if x["frames"] and x["frames"][0].get("function") == "leak"] ==
		[(5000000, 5000, 5000)]' &&
	judge out.json '[x["total_bytes"] for x in e if x["bytes"] == 0 and
		x["frames"][0].get("function") == "main"] == [10000000]' &&
	judge out.json 'not any("karena" in f.get("file", "") for x in e
		for f in x["frames"])'
}

# The deviation is larger less than once in 10,000 times.
samples_are_near() {
	traced 16K out.json ./program 200000 &&
	judge out.json 't["interval"] == 16384 and
		abs(sum(x["bytes"] for x in e if x["frames"][0].get("function") == "leak")
			- 200000000) < 4 * (200000000 * 16384) ** .5'
}

folded_is_for_flame_graphs() {
	traced 1 out.folded ./program 100 &&
	grep -qx '\(.*;\)\?main;leak 100000' out.folded &&
	! grep -vx '[^ ]* [1-9][0-9]*' out.folded
}

children_write_their_own() {
	traced 1 'of-%p.%%.json' ./program 10 and-fork &&
	[ "$(ls of-*.%.json | wc -l)" -eq 2 ] &&
	[ "$(grep -l '"bytes": 777777,' of-*.%.json | wc -l)" -eq 1 ] &&
	[ "$(grep -l '"bytes": 10000,' of-*.%.json | wc -l)" -eq 2 ]
}

the_default_is_in_the_current_folder() {
	(mkdir -p empty && cd empty && traced 1 '' ../program 1 && ls &&
	[ "$(ls | wc -l)" -eq 1 ] && [ -s karena-trace.[0-9]*.json ])
}

without_it_there_is_no_file() {
	(mkdir -p none && cd none && traced '' out.json ../program 1 && [ -z "$(ls)" ])
}

# ignored VARIABLE VALUE WORD: the program runs, and a message has the value and the word.
ignored() {
	local output status=0
	output=$(env KARENA_TRACE=1 "$1=$2" LD_PRELOAD="$library" ./program 2>&1) || status=$?
	echo "$status: $output"
	[ $status -eq 0 ] && [[ $output == "karena: $1: invalid "*" '${2:0:60}"*"$3"*"the setting is ignored"* ]]
}

wrong_settings_are_ignored() (
	mkdir -p wrong && cd wrong && ln -sf ../program . &&
	ignored KARENA_TRACE much '1 traces all' && ignored KARENA_TRACE 0 '1 traces all' &&
	ignored KARENA_TRACE -1 1T && ignored KARENA_TRACE 2T 1T && [ "$(ls)" = program ] &&
	ignored KARENA_TRACE_FILE 'a-%d' '%p' && ignored KARENA_TRACE_FILE 'a%' '%p' &&
	ignored KARENA_TRACE_FILE "$(printf 'a%.0s' {1..5000})" '%p' &&
	[ "$(ls | grep -c '^karena-trace\.[0-9]*\.json$')" = 3 ]
)

a_file_that_cannot_be_written_is_said() {
	local output
	output=$(traced 1 /nowhere/file ./program 2>&1) &&
	[ "$output" = "karena: cannot write traces to /nowhere/file: No such file or directory" ]
}

python_is_traced() {
	PYTHONMALLOC=malloc traced 1 out.json /usr/bin/python3 -c '
import threading
def work(): return [str(i) * 20 for i in range(3000)]
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(work()))' && judge out.json 'b == t["current_bytes"] and
	sum(x["total_blocks"] for x in e) > 24000'
}

check all_blocks_are_traced_exactly all_is_exact
check samples_are_close samples_are_near
check folded_stacks_have_the_format_of_flame_graphs folded_is_for_flame_graphs
check children_write_their_own_files children_write_their_own
check default_file_is_in_the_current_directory the_default_is_in_the_current_folder
check no_file_without_the_variable without_it_there_is_no_file
check invalid_settings_are_reported_and_ignored wrong_settings_are_ignored
check unwritable_file_is_reported a_file_that_cannot_be_written_is_said
check python_and_its_threads_are_traced python_is_traced
plan
