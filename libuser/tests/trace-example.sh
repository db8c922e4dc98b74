#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The example for tracing finds the leak and names functions. BUILD is the build directory.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
example=$(realpath "${BUILD:-$here/../../build}/examples/trace")
folded=$(mktemp)
trap 'rm -f "$folded"' EXIT

finds_the_leak() {
	local output
	output=$("$example" "$folded") || return
	echo "$output"
	[[ $output == "+24000 bytes in +3 blocks, now 24000 bytes in 3 blocks, at 0x"* ]] &&
	[[ $output == *"+0 bytes in +0 blocks, now 64000 bytes in 1000 blocks, at 0x"* ]] &&
	[[ $output == *"88000 bytes at the peak" ]]
}

names_functions() {
	cat "$folded"
	# The compiler may have unrolled the loops.
	awk '/;main;read_names / { read += $NF } /;main;sort_names / { sort += $NF }
		END { exit(read != 64000 || sort != 24000) }' "$folded"
}

check example_finds_the_leak finds_the_leak
check example_names_its_functions names_functions
plan
