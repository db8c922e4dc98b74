# SPDX-License-Identifier: GPL-2.0
#
# TAP for the tests that are shell scripts:
#
#	check NAME COMMAND...	one test; it passes if the command succeeds
#	plan			the last line, with the number of tests
#	summary			instead of plan, for people: how many passed
#	begins PROGRAM		print a mark before the output of one of several programs
#	ends			print a mark after the last; `check` splits the output there
#
# The function check() prints the output of a failed test.

tests=0 tests_failed=0 tests_skipped=0

check() {
	local name=$1 output status=0
	shift
	tests=$((tests + 1))
	output=$("$@" 2>&1) || status=$?
	if [ "$status" -eq 0 ]; then
		echo "ok $tests $name"
	elif [ "$status" -eq 77 ]; then
		tests_skipped=$((tests_skipped + 1))
		echo "ok $tests $name # SKIP $output"
	else
		tests_failed=$((tests_failed + 1))
		printf '%s\n' "$output" | sed 's/^/# /'
		echo "not ok $tests $name # status $status"
	fi
}

plan() {
	echo "1..$tests"
}

summary() {
	echo "$((tests - tests_failed - tests_skipped)) passed, $tests_failed failed," \
		"$tests_skipped skipped"
	[ "$tests_failed" -eq 0 ]
}

begins() {
	ends
	echo "# PROGRAM $1"
}

ends() {
	echo "# AT $SECONDS s"
}
