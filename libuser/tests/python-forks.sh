#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Debian's own tests of forks in Python (libpython3.11-testsuite): each case that passes
# without karena passes with it. All cases run with karena. A case that fails, as those
# that depend on the clock do on a busy machine, runs once more by itself. A case that
# fails again, or is skipped, runs without karena, and must fail or be skipped there too.
# The test prints the names of all of these.
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
	# These use threads instead of forks, or an exec for each process, which takes minutes in
	# an emulated machine. python.sh has one of each.
	'*ThreadPool*' '*ProcessPoolSpawn*'
	# Cases that start dozens to thousands of programs.
	test_leaking_fds_on_error test_no_leaking test_swap_std_fds_with_one_closed
	test_swap_fds test_close_fds_when_max_fd_is_lowered test_communicate_errors
	# These expect that Python makes some progress within a number of seconds, which it
	# does not in a busy emulated machine, with or without karena.
	test_timeout test_map_timeout test_first_exception test_hang_issue12364
	test_interpreter_shutdown test_communicate_timeout_large_output
)
[ "${KARENA_PYTHON_TESTS:-}" != all ] || left_out=()

# run_test TEST SIDE ARGUMENT... -- [COMMAND...]: run the test through the command. Write a
# line "CASE RESULT" for each case to the file SIDE, and the status of Python to
# SIDE.status.
run_test() {
	local name=$1 side=$2 status=0 arguments=()
	shift 2
	while [ "$1" != -- ]; do
		arguments+=("$1")
		shift
	done
	shift
	rm -f "$dir/$side.xml"
	timeout 900 "$@" /usr/bin/python3 -m test --junit-xml "$dir/$side.xml" \
		"${arguments[@]}" "$name" >"$dir/$side.log" 2>&1 || status=$?
	echo $status >"$dir/$side.status"
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
}

# cases SIDE RESULT: print the cases with this result, one in each line.
cases() { sed -n "s/ $2\$//p" "$dir/$1"; }

# named_cases WORDS CASE...: print these words for each case.
named_cases() {
	local words=$1
	shift
	[ $# -eq 0 ] || printf "# $words: %s\n" "$@" >>"$dir/notes"
}

# differ TEST RESULT CASE...: print the cases that have another result without karena.
differ() {
	local name=$1 result=$2
	shift 2
	[ $# -gt 0 ] || return 0
	run_test "$name" without "${@/#/--match=}" --
	printf '%s\n' "$@" | grep -vxFf <(cases without "$result") || true
}

same_with_and_without() {
	local name=$1 failed skipped worse result
	run_test "$name" with "${left_out[@]/#/--ignore=}" -- "$karena" run
	for result in passed failed skipped; do
		echo "# $name: $(cases with $result | wc -l) $result" >>"$dir/notes"
	done
	cases with passed | grep -q . || { tail -n 60 "$dir/with.log"; return 1; }
	mapfile -t failed < <(cases with failed)
	mapfile -t skipped < <(cases with skipped)
	# Python itself may have failed after the last case.
	if [ ${#failed[@]} -eq 0 ] && [ "$(cat "$dir/with.status")" -ne 0 ]; then
		tail -n 60 "$dir/with.log"
		return 1
	fi
	named_cases "$name: skipped" "${skipped[@]}"
	worse=$(differ "$name" skipped "${skipped[@]}")
	if [ ${#failed[@]} -gt 0 ]; then
		named_cases "$name: failed at first, run again alone" "${failed[@]}"
		cp "$dir/with.log" "$dir/first.log"
		run_test "$name" with "${failed[@]/#/--match=}" -- "$karena" run
		mapfile -t failed < <(printf '%s\n' "${failed[@]}" |
			grep -vxFf <(cases with passed))
		named_cases "$name: failed alone too" "${failed[@]}"
		worse+=$(differ "$name" failed "${failed[@]}")
	fi
	[ -z "$worse" ] || {
		printf 'otherwise without karena: %s\n' $worse
		tail -n 60 "$dir/first.log" "$dir/with.log"
		return 1
	}
}

[ $# -gt 0 ] || set -- test_fork1 test_subprocess test_concurrent_futures
for name; do
	SECONDS=0
	rm -f "$dir"/*
	check "${name}_is_the_same_with_and_without" same_with_and_without "$name"
	[ ! -e "$dir/notes" ] || cat "$dir/notes"
	echo "# $name: $SECONDS seconds"
done
plan
