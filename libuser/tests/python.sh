#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Debian's own Python on karena: its arenas or, with the argument "domains", all of its
# blocks. BUILD is the build directory; runs on the source that KARENA_SOURCE names.

here=$(dirname "$(realpath "$0")")
. "$here/../../selftests/tap.sh"
karena=${BUILD:-$here/../../build}/bin/karena
export KARENA_PYTHON=${1:-arena}
python() { "$karena" run /usr/bin/python3 "$@"; }

# Check whether an object lies in a heap: in a mapping of the module, or between a quarter
# and five eighths of the address space, where nothing else is.
in_the_heap='
import re, os
maps = [(int(a, 16), int(b, 16), name) for a, b, name in
        re.findall(r"^(\w+)-(\w+) \S+ \S+ \S+ \d+ *(.*)$",
                   open("/proc/self/maps").read(), re.M)]
def in_heap(thing):
    where = id(thing)
    return 1 << 45 <= where < 5 << 44 or any(
        a <= where < b and "/karena:" in name for a, b, name in maps)
'

# lie_in_the_heap THINGS: a hundred of the objects that this expression creates lie in the heap.
lie_in_the_heap() {
	python -c "$in_the_heap
things = $1
maps[:] = [(int(a, 16), int(b, 16), name) for a, b, name in
        re.findall(r'^(\w+)-(\w+) \S+ \S+ \S+ \d+ *(.*)$',
                   open('/proc/self/maps').read(), re.M)]
# An object may be older than the hook, or too large for a pymalloc block.
inside = sum(map(in_heap, things[::len(things) // 100]))
print(inside)
assert inside == 100"
}

objects_lie_in_the_heap() {
	lie_in_the_heap '[(i,) for i in range(100000)]'
}

debugmallocstats_agree() {
	python -c 'import sys
things = [[i] for i in range(200000)]
sys._debugmallocstats()' 2>&1 | grep -q "arenas allocated current *= *[1-9][0-9]"
}

# With the domains, all arenas except those that still have blocks.
memory_is_released() {
	python -c '
import gc, os
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
before = rss()
things = [(i,) for i in range(1000000)]
full = rss()
del things
gc.collect()
after = rss()
print(before, full, after)
kept = 40 if os.environ["KARENA_PYTHON"] == "domains" else 15
assert full - before > 60 and after - before < kept'
}

stdlib_parses() {
	python -c '
import ast, glob, os
files = sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))
files = files[:4 if os.environ["KARENA_SOURCE"] == "device" else 12]
for file in files:
    tree = ast.parse(open(file, "rb").read())
    assert ast.dump(ast.parse(ast.unparse(tree))) == ast.dump(tree), file
print(len(files))'
}

json_round_trip() {
	python -c '
import json, os, random
random.seed(1)
def value(depth):
    kind = random.randrange(6 if depth else 4)
    return [lambda: random.random(), lambda: random.randrange(1 << 70),
            lambda: "".join(map(chr, random.choices(range(32, 1000), k=9))),
            lambda: None,
            lambda: [value(depth - 1) for _ in range(random.randrange(9))],
            lambda: {str(i): value(depth - 1) for i in range(random.randrange(9))}
            ][kind]()
for i in range(100 if os.environ["KARENA_SOURCE"] == "device" else 300):
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

# In a file, because "spawn" and "forkserver" import the main module again.
multiprocessing_works() {
	local file
	file=$(mktemp --suffix=.py) || return
	cat >"$file" <<-'END'
	import multiprocessing, sys
	things = [[i] for i in range(50000)]
	def square(x):
	    things[x].append([x] * 1000)
	    return x * x + len(things) - 50000
	if __name__ == "__main__":
	    multiprocessing.set_start_method(sys.argv[1])
	    with multiprocessing.Pool(3) as pool:
	        assert pool.map(square, range(500)) == [x * x for x in range(500)]
	    assert all(len(thing) == 1 for thing in things)
	END
	python "$file" "$1"
	local status=$?
	rm "$file"
	return $status
}

# Output on standard error is a failure.
silently() {
	local output
	output=$("$@" 2>&1 >/dev/null) || { echo "$output"; return 1; }
	echo "$output"
	[ -z "$output" ]
}

fork_copies() {
	silently python -c '
import gc, os
things = [[i] for i in range(100000)]
ends = os.pipe()
pid = os.fork()
if not pid:
    for thing in things:
        thing[0] += 1
    things.extend([i] for i in range(50000))
    gc.collect()
    os.write(ends[1], str(sum(thing[0] for thing in things)).encode())
    os._exit(0)
for thing in things:
    thing[0] -= 1
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert int(os.read(ends[0], 100)) == sum(range(1, 100001)) + sum(range(50000))
assert sum(thing[0] for thing in things) == sum(range(-1, 99999))'
}

# A child that exits normally frees objects of its parent.
children_exit_normally() {
	silently python -c '
import os, sys
things = {i: str(i) for i in range(50000)}
children = []
for n in range(6):
    pid = os.fork()
    if not pid:
        for i in range(0, 50000, n + 1):
            del things[i]
        assert len(things) == 50000 - len(range(0, 50000, n + 1))
        sys.exit(n)
    children.append(pid)
for n, pid in enumerate(children):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == n
assert len(things) == 50000'
}

generations_fork() {
	silently python -c '
import os
things = []
def generation(n):
    things.append([n] * 20000)
    if n == 6:
        return
    pid = os.fork()
    if not pid:
        generation(n + 1)
        os._exit(0)
    things.append(n)
    assert os.waitpid(pid, 0)[1] == 0
    assert things[n] == [n] * 20000 and things[-1] == n
generation(0)'
}

fork_during_threads_works() {
	silently python -c '
import os, threading
stop = False
def work():
    while not stop:
        [(i,) for i in range(2000)]
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
for _ in range(15):
    pid = os.fork()
    if not pid:
        assert len([(i,) for i in range(50000)]) == 50000
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
[t.join() for t in threads]'
}

other_forks_work() {
	silently python -c '
import os, pty, subprocess, sys
out = subprocess.run([sys.executable, "-c", "print(6 * 7)"], text=True,
                     preexec_fn=lambda: [(i,) for i in range(10000)],
                     stdout=subprocess.PIPE, check=True).stdout
assert out == "42\n", out
pid, terminal = pty.fork()
if not pid:
    print(sum([i for i in range(10000)]))
    sys.stdout.flush()
    os._exit(0)
assert os.read(terminal, 100).strip() == b"49995000"
assert os.waitpid(pid, 0)[1] == 0
assert os.popen("echo $((6 * 7))").read() == "42\n"
assert os.system("exit 3") >> 8 == 3'
}

# The child has its own directory in sysfs, which names the parent.
child_has_its_own_heap() {
	silently python -c '
import os, time
heaps = "/sys/class/misc/karena/heaps"
def mine():
    for _ in range(500):
        for number in os.listdir(heaps):
            try:
                with open(f"{heaps}/{number}/pid") as file:
                    if int(file.read()) == os.getpid():
                        return number
            except OSError:
                pass
        time.sleep(0.01)
things = [(i,) for i in range(100000)]
parent = mine()
pid = os.fork()
if not pid:
    number = mine()
    assert number and number != parent, number
    with open(f"{heaps}/{number}/parent") as file:
        assert file.read().strip() == parent
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0'
}

descriptors_can_be_closed() {
	python -c '
import os
os.closerange(3, 1000)
things = [(i,) for i in range(500000)]
assert sorted(os.listdir("/proc/self/fd"))[:3] == ["0", "1", "2"]
assert len(os.listdir("/proc/self/fd")) <= 4' &&
	python -c 'import os
things = [(i,) for i in range(300000)]' <&- >&- 2>&-
}

python_needs_no_room_in_the_heap_at_the_limit() {
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

large_objects_lie_in_the_heap() {
	lie_in_the_heap '[tuple(range(i, i + 100)) for i in range(20000)]'
}

allocation_at_the_limit_is_a_memory_error() {
	"$karena" run -l 64M /usr/bin/python3 -c '
for turn in range(3):
    things = []
    try:
        while True:
            things.append([len(things)] * 50)
    except MemoryError:
        # The number itself may need memory.
        things.pop()
        count = len(things)
        del things
    assert 64 << 17 > count * 8 > 64 << 13, count'
}

# PYTHONMALLOC undoes the domains, and a message says so.
pythonmalloc_wins() {
	local output
	output=$(PYTHONMALLOC=malloc_debug python -c 'print(6 * 7)' 2>&1)
	echo "$output"
	[[ $output == "karena: PYTHONMALLOC=malloc_debug undoes KARENA_PYTHON=domains"*42 ]]
}

unknown_setting_is_reported() {
	local output status=0
	output=$(KARENA_PYTHON=all LD_PRELOAD=$(dirname "$karena")/../lib/karena/libkarena-cpython.so \
		/usr/bin/python3 -c 'print(1)' 2>&1) || status=$?
	echo "$status: $output"
	[ $status -eq 0 ] && [[ $output == *"(choose arena or domains); the setting is ignored"*1 ]] || return
	status=0
	output=$("$karena" run -p all true 2>&1) || status=$?
	echo "$status: $output"
	[ $status -eq 125 ] && [[ $output == "karena: --python: unknown value 'all'"* ]]
}

# The text of karena, followed by that of the C library's malloc.
malloc_stats_prints_both_texts() {
	local output
	output=$(python -c 'import ctypes; ctypes.CDLL(None).malloc_stats()' 2>&1)
	echo "$output"
	[[ $output == *"Small block threshold = 262144"*"Total  "*"Arena 0:"* ]]
}

invalid_setting_does_not_crash() {
	local output
	output=$(KARENA_LIMIT=tiny LD_PRELOAD=$(dirname "$karena")/../lib/karena/libkarena-cpython.so \
		/usr/bin/python3 -c 'print("works")' 2>&1)
	echo "$output"
	[[ $output == "karena: KARENA_LIMIT: invalid size 'tiny'"*"works" ]]
}

# An unprivileged user with the default limit of locked memory: with the module on request,
# which refuses most commits, and with plain mmap by default. It takes at most ten times as
# long as without karena. (When each object called the heap, it took 27 to 68 times as
# long.)
little_locked_memory_is_not_slow() {
	local way began plain seconds place
	chmod 666 /dev/karena
	# The unprivileged user may not have access to the tree, for example in /root. The
	# guest drops the copy at its end.
	place=$(mktemp -d) || return
	cp -a "$(dirname "$karena")" "$(dirname "$karena")/../lib" "$place" || return
	chmod 755 "$place"
	for way in plain device auto; do
		began=$(date +%s%N)
		way=$way setpriv --reuid 65534 --regid 65534 --clear-groups bash -c '
			ulimit -l 8192
			unset KARENA_SOURCE
			[ $way = plain ] || set -- "$0" run -s $way
			[ $way != plain ] || set --
			exec "$@" /usr/bin/python3 -c "x = [[i] for i in range(300000)]"' \
			"$place/bin/karena" || return
		seconds=$((($(date +%s%N) - began) / 10000000))
		[ $way != plain ] || plain=$seconds
		echo "$way: $seconds hundredths of a second"
		[ $seconds -le $((10 * plain + 200)) ] || return
	done
}

other_programs_are_unchanged() {
	[ "$("$karena" run perl -e 'print 6 * 7' 2>&1)" = 42 ]
}

if [ $KARENA_PYTHON = domains ]; then
	check objects_lie_in_the_heap objects_lie_in_the_heap
	check large_objects_lie_in_the_heap large_objects_lie_in_the_heap
	check memory_is_released memory_is_released
	check json_round_trip json_round_trip
	check threads_work threads_work
	check multiprocessing_works_by_fork multiprocessing_works fork
	check children_exit_normally children_exit_normally
	check fork_during_threads_works fork_during_threads_works
	check descriptors_can_be_closed descriptors_can_be_closed
	check allocation_at_the_limit_is_a_memory_error allocation_at_the_limit_is_a_memory_error
	check pythonmalloc_wins pythonmalloc_wins
	check malloc_stats_prints_both_texts malloc_stats_prints_both_texts
	check unknown_setting_is_reported unknown_setting_is_reported
	check invalid_setting_does_not_crash invalid_setting_does_not_crash
	check other_programs_are_unchanged other_programs_are_unchanged
	plan
	exit
fi
check objects_lie_in_the_heap objects_lie_in_the_heap
check debugmallocstats_agree debugmallocstats_agree
check memory_is_released memory_is_released
check stdlib_parses stdlib_parses
check json_round_trip json_round_trip
check threads_work threads_work
check subprocess_works subprocess_works
for method in spawn fork forkserver; do
	check multiprocessing_works_by_$method multiprocessing_works $method
done
check fork_copies fork_copies
check children_exit_normally children_exit_normally
check generations_fork generations_fork
check fork_during_threads_works fork_during_threads_works
check other_forks_work other_forks_work
if [ "$KARENA_SOURCE" = device ]; then
	check little_locked_memory_is_not_slow little_locked_memory_is_not_slow
	check child_has_its_own_heap child_has_its_own_heap
fi
check descriptors_can_be_closed descriptors_can_be_closed
check python_needs_no_room_in_the_heap_at_the_limit python_needs_no_room_in_the_heap_at_the_limit
check deep_calls_work_at_the_limit deep_calls_work_at_the_limit
check other_allocators_work other_allocators_work
check invalid_setting_does_not_crash invalid_setting_does_not_crash
check other_programs_are_unchanged other_programs_are_unchanged
plan
