#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Debian's own Python on karena's arenas. BUILD is the build directory; runs on
# the source that KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
karena=${BUILD:-$here/../../build}/bin/karena
python() { "$karena" run /usr/bin/python3 "$@"; }

# Where an object lies: in a mapping of the module's, or in a reservation of 64 GiB.
in_the_heap='
import re, os
maps = [(int(a, 16), int(b, 16), name) for a, b, name in
        re.findall(r"^(\w+)-(\w+) \S+ \S+ \S+ \d+ *(.*)$",
                   open("/proc/self/maps").read(), re.M)]
def in_heap(thing):
    where = id(thing)
    low = high = next((a for a, b, _ in maps if a <= where < b))
    for a, b, name in maps:
        if a <= where < b and "/karena:" in name:
            return True
        if a == high and a <= where + (64 << 30) and not name:
            high = b
    return high - low >= 60 << 30
'

objects_lie_in_the_heap() {
	python -c "$in_the_heap
things = [(i,) for i in range(100000)]
maps[:] = [(int(a, 16), int(b, 16), name) for a, b, name in
        re.findall(r'^(\w+)-(\w+) \S+ \S+ \S+ \d+ *(.*)$',
                   open('/proc/self/maps').read(), re.M)]
# An object may be older than the hook or larger than pymalloc's blocks.
inside = sum(map(in_heap, things[::1000]))
print(inside)
assert inside == 100"
}

debugmallocstats_agree() {
	python -c 'import sys
things = [[i] for i in range(200000)]
sys._debugmallocstats()' 2>&1 | grep -q "arenas allocated current *= *[1-9][0-9]"
}

memory_comes_back() {
	python -c '
import gc
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
before = rss()
things = [(i,) for i in range(1000000)]
full = rss()
del things
gc.collect()
after = rss()
print(before, full, after)
assert full - before > 60 and after - before < 15'
}

stdlib_parses() {
	python -c '
import ast, glob, os
files = sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))[:12]
for file in files:
    tree = ast.parse(open(file, "rb").read())
    assert ast.dump(ast.parse(ast.unparse(tree))) == ast.dump(tree), file
print(len(files))'
}

json_round_trip() {
	python -c '
import json, random
random.seed(1)
def value(depth):
    kind = random.randrange(6 if depth else 4)
    return [lambda: random.random(), lambda: random.randrange(1 << 70),
            lambda: "".join(map(chr, random.choices(range(32, 1000), k=9))),
            lambda: None,
            lambda: [value(depth - 1) for _ in range(random.randrange(9))],
            lambda: {str(i): value(depth - 1) for i in range(random.randrange(9))}
            ][kind]()
for i in range(300):
    v = value(6)
    assert json.loads(json.dumps(v)) == v'
}

threads_work() {
	python -c '
import threading
results = []
def work(n):
    results.append(sum(len(str(i)) for i in [(j, n) for j in range(20000)]))
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(results) == 8'
}

subprocess_works() {
	python -c '
import subprocess, sys
out = subprocess.run([sys.executable, "-c", "print(sum(range(10)))"],
                     capture_output=True, text=True, check=True)
assert out.stdout == "45\n" and not out.stderr, out'
}

spawn_works() {
	local file
	file=$(mktemp --suffix=.py) || return
	cat >"$file" <<-'END'
	import multiprocessing
	def square(x):
	    return x * x
	if __name__ == "__main__":
	    multiprocessing.set_start_method("spawn")
	    with multiprocessing.Pool(2) as pool:
	        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
	END
	python "$file"
	local status=$?
	rm "$file"
	return $status
}

fork_is_as_documented() {
	local output
	output=$(python -c '
import os, sys
things = [[i] for i in range(100000)]
pid = os.fork()
if not pid:
    things.append(sum(t[0] for t in things))
    os._exit(0)
_, status = os.waitpid(pid, 0)
print("signal", status & 127, "exit", status >> 8, file=sys.stderr)' 2>&1)
	echo "$output"
	if [ "$KARENA_SOURCE" = embedded ]; then
		[ "$output" = "signal 0 exit 0" ]
	else
		[[ $output == *"does not inherit"*"signal 11 exit 0" ]]
	fi
}

descriptors_may_go() {
	python -c '
import os
os.closerange(3, 1000)
things = [(i,) for i in range(500000)]
assert sorted(os.listdir("/proc/self/fd"))[:3] == ["0", "1", "2"]
assert len(os.listdir("/proc/self/fd")) <= 4' &&
	python -c 'import os
things = [(i,) for i in range(300000)]' <&- >&- 2>&-
}

at_the_limit_malloc_serves() {
	"$karena" run -l 8M /usr/bin/python3 -c '
things = [(i,) for i in range(1000000)]
assert sum(t[0] for t in things) == 499999500000'
}

deep_calls_work_at_the_limit() {
	"$karena" run -l 2M /usr/bin/python3 -c '
import sys
sys.setrecursionlimit(50000)
def depth(n):
    return depth(n - 1) + 1 if n else 0
things = [(i,) for i in range(100000)]
assert depth(20000) == 20000'
}

other_allocators_work() {
	local allocator
	for allocator in pymalloc_debug malloc debug; do
		PYTHONMALLOC=$allocator python -c '
things = [{i: str(i)} for i in range(20000)]
del things' || return
	done
	PYTHONMALLOCSTATS=1 python -c 'pass' 2>&1 | grep -q "arenas highwater mark"
}

bad_setting_is_no_crash() {
	local output
	output=$(KARENA_LIMIT=tiny LD_PRELOAD=$(dirname "$karena")/../lib/karena/libkarena-cpython.so \
		/usr/bin/python3 -c 'print("works")' 2>&1)
	echo "$output"
	[[ $output == "karena: KARENA_LIMIT=tiny is no size"*"works" ]]
}

other_programs_are_left_alone() {
	[ "$("$karena" run perl -e 'print 6 * 7' 2>&1)" = 42 ]
}

check objects_lie_in_the_heap objects_lie_in_the_heap
check debugmallocstats_agree debugmallocstats_agree
check memory_comes_back memory_comes_back
check stdlib_parses stdlib_parses
check json_round_trip json_round_trip
check threads_work threads_work
check subprocess_works subprocess_works
check spawn_works spawn_works
check fork_is_as_documented fork_is_as_documented
check descriptors_may_go descriptors_may_go
check at_the_limit_malloc_serves at_the_limit_malloc_serves
check deep_calls_work_at_the_limit deep_calls_work_at_the_limit
check other_allocators_work other_allocators_work
check bad_setting_is_no_crash bad_setting_is_no_crash
check other_programs_are_left_alone other_programs_are_left_alone
plan
