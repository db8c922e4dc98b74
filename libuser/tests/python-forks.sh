#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Debian's own tests of what forks in Python (libpython3.11-testsuite): each case that
# passes without karena passes with it, at the same time beside it. A case that does not
# runs once more, alone; one that fails without karena alone is named, and is no fault.
#
#	python-forks.sh [TEST...]	of test_fork1 test_subprocess
#					test_concurrent_futures, by default all
#
# BUILD is the build directory; runs on the source that KARENA_SOURCE names. With
# KARENA_PYTHON_TESTS=all no case is left out.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
karena=${BUILD:-$here/../../build}/bin/karena
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

left_out=(
	# No fork, but threads, or an exec for each process: minutes of starting
	# Pythons in an emulated machine. python.sh has one of each.
	'*ThreadPool*' '*ProcessPoolSpawn*'
	# Likewise, dozens to thousands of programs in a case.
	test_leaking_fds_on_error test_no_leaking test_swap_std_fds_with_one_closed
	test_swap_fds test_close_fds_when_max_fd_is_lowered test_communicate_errors
	# These wait for so many seconds and expect Python to do things in them, which
	# in an emulated machine that is busy it does not, with or without karena.
	test_timeout test_map_timeout test_first_exception test_hang_issue12364
	test_interpreter_shutdown test_communicate_timeout_large_output
)
[ "${KARENA_PYTHON_TESTS:-}" != all ] || left_out=()

# run_test TEST SIDE ARGUMENT... -- [COMMAND...]: what became of each case, a line each.
run_test() {
	local name=$1 side=$2 status=0 arguments=()
	shift 2
	while [ "$1" != -- ]; do
		arguments+=("$1")
		shift
	done
	shift
	timeout 900 "$@" /usr/bin/python3 -m test --junit-xml "$dir/$side.xml" \
		"${arguments[@]}" "$name" >"$dir/$side.log" 2>&1 || status=$?
	/usr/bin/python3 - "$dir/$side.xml" >"$dir/$side" <<-'END'
	import sys
	import xml.etree.ElementTree as ElementTree
	words = {"skipped": "skipped", "failure": "failed", "error": "failed"}
	lines = []
	for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
	    became = {words[part.tag] for part in case if part.tag in words}
	    lines.append(f"{case.get('name')} {min(became, default='passed')}")
	print("\n".join(sorted(lines)))
	END
	echo "exit status $status" >>"$dir/$side"
}

# both TEST ARGUMENT...
both() {
	local name=$1
	shift
	run_test "$name" without "$@" -- &
	run_test "$name" with "$@" -- "$karena" run
	wait $!
	[ -z "$(worse)" ]
}

# What passed without karena, or ended well, and did not with it.
worse() {
	grep ' passed$\|^exit status 0$' "$dir/without" | grep -vxFf "$dir/with" || true
}

# What did not pass without karena alone.
better() {
	grep ' failed$' "$dir/without" | grep -vxFf "$dir/with" || true
}

# The cases that were worse, as arguments.
again() {
	worse | sed -n 's/^\(test\.[^ ]*\) .*/--match=\1/p'
}

same_with_and_without() {
	local again counts="$dir/counts"
	both "$1" "${left_out[@]/#/--ignore=}" || {
		mapfile -t again < <(again)
		[ ${#again[@]} -gt 0 ] || { tail -n 60 "$dir/with.log"; return 1; }
	}
	for result in passed failed skipped; do
		echo "# $1: $(grep -c " $result\$" "$dir/with") $result"
	done >"$counts"
	better | sed "s/^/# $1: without karena alone: /" >>"$counts"
	grep -q ' passed$' "$dir/with" || return 1
	[ ${#again[@]} -gt 0 ] || return 0
	printf "# $1: again: %s\n" "${again[@]}" >>"$counts"
	both "$1" "${again[@]}" || { tail -n 60 "$dir/with.log"; return 1; }
}

[ $# -gt 0 ] || set -- test_fork1 test_subprocess test_concurrent_futures
for name; do
	SECONDS=0
	rm -f "$dir"/*
	check "${name}_is_the_same_with_and_without" same_with_and_without "$name"
	[ ! -e "$dir/counts" ] || cat "$dir/counts"
	echo "# $name: $SECONDS seconds"
done
plan
