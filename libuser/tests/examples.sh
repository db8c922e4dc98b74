#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The small examples: the output of each, compared with that of other programs, and its
# messages about invalid input; and the programs in the manual pages and in the tutorial,
# built unchanged. BUILD is the build directory. The tests use the source that
# KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
build=$(realpath "${BUILD:-$here/../../build}")
examples=$build/examples
pages=$here/../../Documentation/man
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

case $KARENA_SOURCE in
device)	arenas="on the module" ;;
*)	arenas="on plain mmap" ;;
esac

# prints EXPECTED COMMAND...: the output is exactly this.
prints() {
	local expected=$1 output
	shift
	output=$("$@") || return
	diff <(echo "$expected") <(echo "$output")
}

# fails WORDS COMMAND...: the command fails, and prints only these words on standard error.
fails() {
	local words=$1 output status=0
	shift
	output=$("$@" 2>&1) || status=$?
	echo "status $status: $output"
	[ $status -eq 1 ] && [[ $output == *"$words"* ]]
}

heap_is_filled() {
	local output
	output=$("$examples/heap") || return
	echo "$output"
	[[ $output == "4 lists of 100000 nodes with the sum 19999800000"$'\n'* ]] &&
		[[ $output == *" more blocks, then: the heap is at its limit: it has 16 of 16 "* ]]
}

# turns FILE: the example prints its lines in reverse order.
turns() {
	"$examples/run" <"$1" >"$dir/turned" 2>"$dir/said" || return
	cat "$dir/said"
	tac "$1" | cmp - "$dir/turned" &&
		grep -qx "run: [0-9]* runs, [0-9]* bytes" "$dir/said"
}

words_have_figures() {
	local output
	output=$(printf 'a b a some-longer-word\n' | "$examples/stats") || return
	echo "$output"
	[[ $output == *"       2 words of up to 15 letters"* ]] &&
		[[ $output == *"       1 words of up to 31 letters"* ]] &&
		[[ $output == *"1 arenas * 2097152 bytes/arena "* ]]
}

# counts FILE: lines and bytes, without the page cache if dd supports that.
counts() {
	local how="no O_DIRECT"
	dd if="$1" of=/dev/null bs=1M iflag=direct status=none 2>"$dir/said" &&
		how=O_DIRECT
	prints "$1: $(wc -l <"$1") lines, $(stat -c %s "$1") bytes, $how" \
		"$examples/io" "$1"
}

words_are_counted() {
	local text="the cat and the dog and the bird and a fish and then some"
	prints "$(printf '4 and\n3 the\n1 a')" "$examples/cxx" <<<"$text"
}

a_full_heap_is_an_exception() {
	seq 3000000 | fails "cxx: std::bad_alloc" "$examples/cxx"
}

counters_have_lines() {
	prints "$(for i in 0 1 2 3; do
		echo "thread $i: 1000000, at byte 0 of a line, in a block of 128 bytes"
	done)" "$examples/aligned"
}

# Write the programs of a page to one file each.
page_programs() {
	awk -v name="$dir/page" '
		/^\.EX/ { text = ""; on = 1; next }
		/^\.EE/ && text ~ /int main/ { printf "%s", text >(name (++count) ".c") }
		/^\.EE/ { on = 0 }
		on { text = text $0 "\n" }' "$1"
	for program in "$dir"/page*.c; do
		[ -e "$program" ] || continue
		sed -i 's/\\e/\\/g; s/\\-/-/g; s/\\(aq/'\''/g; s/\\&//g' "$program"
		echo "$program"
	done
}

# What the programs of a page must print among other lines.
page_words() {
	case $1 in
	karena_heap.3)		echo "a heap $arenas" ;;
	karena_block.3)		echo "hello, in 1024 bytes" ;;
	karena_run.3)		echo "6291456 bytes" ;;
	karena_domain.3)	echo "0xcd" ;;
	karena_io.3)		echo "bytes of /proc/self/exe" ;;
	karena_uring.3)		echo "populated: Success" ;;
	libkarena-malloc.7)	echo '<malloc version="karena-' ;;
	esac
}

# page_runs PAGE
page_runs() {
	local page program output="" preload="" uring=""
	page=$(basename "$1")
	case $page in
	karena_uring.3)	uring="$build/lib/libkarena-uring.a $build/lib/libkarena.a -luring" ;;
	libkarena-malloc.7) preload=$build/lib/libkarena-malloc.so ;;
	esac
	for program in "$dir"/page*.c; do
		gcc -Wall -Wextra -Werror -pthread -I"$here/../include" -o "$dir/page" \
			"$program" $uring "$build/lib/libkarena.a" || return
		output+=$(LD_PRELOAD=$preload "$dir/page") || return
	done
	echo "$output"
	[ -n "$output" ] && [[ $output == *"$(page_words "$page")"* ]]
}

# warns WORD STATEMENT: gcc warns of it by this option, and not without attributes.
warns() {
	local output status=0
	cat >"$dir/warns.c" <<-END
		#include <karena/debug.h>
		#include <karena/trace.h>
		char *statement(struct ka_heap *heap, char *text);
		char *statement(struct ka_heap *heap, char *text)
		{
			(void)heap;
			$2
			return text;
		}
	END
	set -- "$1" gcc -O2 -Wall -Wextra -Werror -I"$here/../include" -c -o /dev/null "$dir/warns.c"
	"${@:2}" -DKARENA_NO_ATTRIBUTES || return
	output=$("${@:2}" 2>&1) || status=$?
	echo "$output"
	[ $status -eq 1 ] && [[ $output == *"[-Werror=$1]"* ]]
}

# The tutorial's pieces of code are one program, and its output stands behind "It prints::".
tutorial_runs() {
	local tutorial=$here/../../Documentation/tutorial.rst
	awk '/^\.\. code-block:: c/ { on = 1; next } /^[^ ]/ { on = 0 }
		on { sub(/^    /, ""); print }' "$tutorial" >"$dir/tutorial.c"
	gcc -Wall -Wextra -Werror -pthread -I"$here/../include" -o "$dir/tutorial" \
		"$dir/tutorial.c" "$build/lib/libkarena.a" || return
	prints "$(sed -n '/^It prints::/,/^[^ I]/s/^    //p' "$tutorial")" "$dir/tutorial"
}

head -c $((3 << 20)) /dev/urandom >"$dir/blocks"
head -c $((5 << 20)) /dev/urandom | base64 >"$dir/text"
{ seq 100000; head -c 200000 /dev/zero | tr '\0' x; echo; seq 10; } >"$dir/lines"

check heap_is_filled_up_to_its_limit heap_is_filled
check heap_says_what_is_wrong fails "heap: cannot create a heap: KARENA_SOURCE: unknown source 'disk'" \
	env KARENA_SOURCE=disk "$examples/heap"
check run_reverses_lines turns "$dir/lines"
check run_reverses_an_empty_file turns /dev/null
check run_reports_its_limit fails "the heap is at its limit" \
	env KARENA_LIMIT=2M "$examples/run" <"$dir/text"
check io_counts_whole_blocks counts "$dir/blocks"
check io_counts_an_odd_end counts "$dir/text"
check io_names_a_missing_file fails "io: $dir/none: No such file" \
	"$examples/io" "$dir/none"
check io_shows_its_usage fails "usage: io FILE" "$examples/io"
check domain_counts prints "1000 allocated, 100 resized, 1001 freed" "$examples/domain"
check aligned_counters_have_lines counters_have_lines
check stats_counts_words_by_their_size words_have_figures
check stats_reports_errors fails "stats: KARENA_SOURCE: unknown source 'disk'" \
	env KARENA_SOURCE=disk "$examples/stats"
check cxx_counts_words words_are_counted
check cxx_throws_when_the_heap_is_full a_full_heap_is_an_exception
check gcc_warns_of_a_lost_heap warns unused-result 'ka_heap_create(NULL);'
check gcc_warns_of_a_lost_resized_block warns unused-result \
	'ka_mem_realloc(text, 10);'
check gcc_warns_of_memory_of_another_allocator warns mismatched-dealloc \
	'ka_heap_free(heap, ka_obj_malloc(10));'
check gcc_warns_of_another_domain warns mismatched-dealloc \
	'ka_raw_free(ka_mem_malloc(10));'
check gcc_warns_of_a_block_that_is_not_a_run warns mismatched-dealloc \
	'ka_run_free(heap, ka_heap_malloc(heap, 10));'
check gcc_warns_of_use_after_free warns use-after-free \
	'text = ka_heap_malloc(heap, 10); ka_heap_free(heap, text); text[0] = 1;'
check gcc_warns_of_a_write_behind_a_block warns array-bounds \
	'text = ka_io_alloc(10); if (text) text[10] = 1;'
check tutorial_runs tutorial_runs
for page in "$pages"/*.[37]; do
	rm -f "$dir"/page*
	[ -z "$(page_programs "$page")" ] ||
		check "page_$(basename "$page")_runs" page_runs "$page"
done
plan
