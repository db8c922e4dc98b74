#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The tool: what it runs, and its messages about invalid input. BUILD is the build
# directory. The tests use the source that KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
karena=${BUILD:-$here/../../build}/bin/karena

# fails STATUS WORDS COMMAND...: fails with this status and a message that has these words.
fails() {
	local wanted=$1 words=$2 output status=0
	shift 2
	output=$("$@" 2>&1 >/dev/null) || status=$?
	echo "status $status: $output"
	[ "$status" -eq "$wanted" ] && [[ $output == karena:*"$words"* ]] &&
		[ "$(wc -l <<<"$output")" -le 2 ]
}

prints() {
	local words=$1 output
	shift
	output=$("$@") || return
	echo "$output"
	[[ $output == *"$words"* ]]
}

status_is() {
	local wanted=$1 status=0
	shift
	"$@" || status=$?
	echo "status $status"
	[ "$status" -eq "$wanted" ]
}

narrow() {
	"$karena" run --help >/dev/null && ! "$karena" --help | grep -n '.\{80\}'
}

no_space_in_path() {
	local dir
	dir=$(mktemp -d) || return
	mkdir -p "$dir/a b/bin" "$dir/a b/lib"
	cp "$karena" "$dir/a b/bin/"
	cp -r "$(dirname "$karena")/../lib/karena" "$dir/a b/lib/"
	fails 125 "a space or a colon" "$dir/a b/bin/karena" run true
	local status=$?
	rm -r "$dir"
	return $status
}

preload_is_kept() {
	local preload
	preload=$(LD_PRELOAD=libc.so.6 "$karena" run sh -c 'echo $LD_PRELOAD') ||
		return
	echo "$preload"
	[[ $preload == *libkarena-cpython.so:libc.so.6 ]]
}

check help_fits_a_terminal narrow
check version prints "karena 0." "$karena" --version
check runs_any_command prints hello "$karena" run echo hello
check passes_arguments_on prints "-s --limit" "$karena" run echo -s --limit
check passes_the_status_on status_is 42 "$karena" run sh -c 'exit 42'
check keeps_ld_preload preload_is_kept
check sets_the_variables prints "8M 64M it embedded" "$karena" run -s embedded \
	-l 8M -w 64M -n it sh -c \
	'echo $KARENA_LIMIT $KARENA_WINDOW $KARENA_NAME $KARENA_SOURCE'
check names_the_heap_after_the_command prints "[sh]" "$karena" run /bin/sh -c \
	'echo "[$KARENA_NAME]"'
check no_command fails 125 "no command" "$karena"
check run_without_command fails 125 "run: no COMMAND" "$karena" run
check unknown_command fails 125 "unknown command 'fly'" "$karena" fly
check command_not_found fails 127 "cannot run './nothing'" "$karena" run ./nothing
check command_not_executable fails 126 "cannot run '/etc/passwd'" "$karena" run \
	/etc/passwd
check unknown_option fails 125 "unrecognized option '--big'" "$karena" run --big true
check unknown_source fails 125 "--source: unknown source 'disk'" "$karena" run -s disk true
check unknown_python fails 125 "--python: unknown value 'all'" "$karena" run -p all true
for size in big 1X 1MB M -1 0 " 1M"; do
	check "limit_is_not_a_size_[$size]" fails 125 "--limit: invalid size '$size'" \
		"$karena" run -l "$size" true
done
check window_is_not_a_size fails 125 "--window: invalid size '1.5G'" "$karena" run \
	--window=1.5G true
check variable_is_not_a_size fails 125 "KARENA_LIMIT: invalid size 'big'" env KARENA_LIMIT=big "$karena" \
	run true
check unknown_python_in_a_variable fails 125 "KARENA_PYTHON: unknown value 'all'" \
	env KARENA_PYTHON=all "$karena" run true
check empty_options_count_as_not_set prints works "$karena" run -s '' -l '' -w '' -n '' \
	-p '' echo works
check limit_too_small fails 125 "cannot create a heap: a limit of 4 KiB is too small" \
	"$karena" run -l 4096 true
check window_too_large fails 125 "window" "$karena" run -w 16000000T true
check window_too_large_for_the_process fails 125 "window" "$karena" run -w 9000T \
	true
check name_with_a_slash fails 125 "--name: invalid name 'a/b'" "$karena" run -n a/b true
check name_too_long fails 125 "--name: '01234567890123456789012345678901' is too long" \
	"$karena" run -n 01234567890123456789012345678901 true
check path_with_a_space no_space_in_path
if [ ! -e /dev/karena ]; then
	check no_device fails 125 "modprobe karena" "$karena" run -s device true
fi
plan
