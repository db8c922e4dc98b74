#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The example that reads with io_uring: the data, with and without the page cache and fixed
# buffers, and its messages about invalid input. BUILD is the build directory. The tests use
# the source that KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
example=${BUILD:-$here/../../build}/examples/uring-read
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

case $KARENA_SOURCE in
device)	arenas="on the module" ;;
*)	arenas="on plain mmap" ;;
esac
# Before 6.5, memory of the module cannot be a fixed buffer.
reads="fixed buffers"
if [ "$KARENA_SOURCE" = device ] && printf '%s\n' 6.5 "$(uname -r)" | sort -VC; then
	:
elif [ "$KARENA_SOURCE" = device ]; then
	reads="plain reads"
fi

# reads_all FILE BYTES WORDS...: it reads and verifies so many bytes, and its output has the
# words.
reads_all() {
	local file=$1 bytes=$2 line words
	shift 2
	line=$("$example" "$file" 2>"$dir/said") || { cat "$dir/said"; return 1; }
	echo "$line"
	[ "$(wc -l <<<"$line")" -eq 1 ] &&
		[[ $line == "$file: $bytes bytes verified, "* ]] || return
	for words in "$reads" "$arenas" "$@"; do
		[[ $line == *"$words"* ]] || return
	done
	# The reason for plain reads is the only message.
	cat "$dir/said"
	if [ "$reads" = "plain reads" ]; then
		grep -q "this kernel does not accept memory of the module" "$dir/said"
	else
		[ ! -s "$dir/said" ]
	fi
}

file_of() {
	head -c "$1" /dev/urandom >"$dir/file"
	reads_all "$dir/file" "$1"
}

# Only in the guest; elsewhere this disk may be in use.
disk() {
	grep -q ' vm_output=' /proc/cmdline || {
		echo "no scratch disk"
		return 77
	}
	[ "$(blockdev --getsize64 /dev/vda)" -eq $((64 << 20)) ] || return
	head -c 64M /dev/urandom >/dev/vda || return
	reads_all /dev/vda $((64 << 20)) ", O_DIRECT"
}

fails() {
	local words=$1 output
	shift
	output=$("$example" "$@" 2>&1 >/dev/null) && return 1
	echo "$output"
	[[ $output == *"$words"* ]]
}

check disk_is_read_without_the_page_cache disk
check file_of_whole_blocks_is_read file_of $((3 << 20))
check file_of_several_rounds_and_an_odd_end_is_read file_of $(((70 << 20) + 3))
check small_file_is_read file_of 1
check empty_file_is_read file_of 0
check missing_file_is_named fails "$dir/none: No such file" "$dir/none"
check directory_is_rejected fails "neither a file nor" "$dir"
check usage_is_shown fails "usage: uring-read FILE"
plan
