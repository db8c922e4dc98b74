#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The example for tracing says what it is to say. BUILD is the build directory.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
example=$(realpath "${BUILD:-$here/../../build}/examples/trace")
folded=$(mktemp)
trap 'rm -f "$folded"' EXIT

finds_the_leak() {
	local output
	output=$("$example" "$folded") || return
	echo "$output"
	[[ $output == "+24000 bytes in +3 blocks, now 24000 in 3, at 0x"* ]] &&
	[[ $output == *"+0 bytes in +0 blocks, now 64000 in 1000, at 0x"* ]] &&
	[[ $output == *"88000 bytes at most" ]]
}

names_functions() {
	cat "$folded"
	# The loops may have been unrolled.
	awk '/;main;read_names / { read += $NF } /;main;sort_names / { sort += $NF }
		END { exit(read != 64000 || sort != 24000) }' "$folded"
}

check it_finds_what_has_grown finds_the_leak
check it_names_its_functions names_functions
plan
