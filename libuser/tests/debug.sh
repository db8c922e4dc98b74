#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The example of the debug hooks: each mistake ends it with the right message, and without a
# mistake it runs to its end. BUILD is the build directory; runs on the source that
# KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
example=${BUILD:-$here/../../build}/examples/debug
unset KARENA_MALLOC

# ends MISTAKE REASON: the example aborts with this reason, a pattern, and a stack trace of
# the allocation.
ends() {
	local output status=0
	output=$("$example" "$1" 2>&1) || status=$?
	[ $status -eq 134 ] && [[ $output == *$'\n'"Fatal error: "$2$'\n'* ]] &&
		[[ $output == *"File "*"examples/debug"* ]] && return
	echo "$status: $output"
	return 1
}

works() {
	[ "$("$example" none 2>&1)" = "2 blocks have no errors" ]
}

lists_them() {
	local output status=0
	output=$("$example" 2>&1) || status=$?
	echo "$output"
	[ $status -eq 2 ] && [[ $output == "usage: debug ERROR, one of none "* ]]
}

check correct_program_gets_no_message works
check overflow ends overflow "ka_mem_free: bad trailing pad byte"
check underflow ends underflow "ka_mem_free: bad leading pad byte"
check another_domain ends domain \
	"ka_raw_free: bad ID: Allocated using API 'm', verified using API 'r'"
check double_free ends twice "ka_mem_free: double free"
check pointer_inside ends inside "ka_mem_free: bad pointer: 0x* is 2 bytes behind the start*"
check stale_pointer ends stale "ka_debug_check_all: write after free"
check usage_lists_the_mistakes lists_them
plan
