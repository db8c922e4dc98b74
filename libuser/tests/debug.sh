#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The example of the debug hooks: each error aborts it with a message, and "none" does not.
# BUILD is the build directory. The tests use the source that KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
example=${BUILD:-$here/../../build}/examples/debug
unset KARENA_MALLOC

# ends ERROR REASON: aborts with this reason, a pattern, and the stack has the example.
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

check without_an_error_it_does_not_abort works
check overflow ends overflow "ka_mem_free: bad trailing pad byte"
check underflow ends underflow "ka_mem_free: bad leading pad byte"
check another_domain ends domain \
	"ka_raw_free: bad ID: Allocated using API 'm', verified using API 'r'"
check double_free ends twice "ka_mem_free: double free"
check pointer_inside ends inside "ka_mem_free: bad pointer: 0x* is 2 bytes behind the start*"
check stale_pointer ends stale "ka_debug_check_all: write after free"
check errors_are_listed lists_them
plan
