# SPDX-License-Identifier: GPL-2.0
"""What is known of each group of results: who is compared in it, and how it is shown.

The table is read from above; the first row whose patterns match a group's place and
name is the group's. A pattern has to match all of a name.
"""

import re
import typing

# One row a case, a bar for karena and a mark for each peer: ratios to the base.
CASES = "cases"
# One row a contender in each case, a bar a place: ratios to the base.
CONTENDERS = "contenders"
# Values over a number that stands in the case's name.
LINES = "lines"

NATIVE = "native.*"
GUEST = "(?!native).*"

# What a cache line takes to another processor, and the cases that depend on it.
HANDOVER = "latency handover"
HANDED_OVER = ("native", "(?!latency (timing|step|handover)).*", "shared|producer|server.*")

# "small malloc-p99.9": of how many calls of all the time is not longer.
PERCENTILE = r"(?P<curve>.*?)[ -](?P<x>p[\d.]+|max)"
# "reading, 512 MiB": a number, and what it counts.
AMOUNT = r"(?P<curve>.*?)[ ,:]*\b(?P<x>\d[\d.]*) ?(?P<unit>[kM]|[KMG]iB)?\b(?P<rest>\D*)"


class Group(typing.NamedTuple):
    place: str
    name: str
    title: str
    base: str                   # to whose median the ratios are
    shape: str
    ours: str = "karena.*"
    aside: str = ""             # no peers: what they do is not the same
    other_bases: tuple = ()     # (contender, its base)
    axis: str = AMOUNT          # of LINES
    drawn: str = ".*"           # the cases that a picture is made of
    apart: str = ""             # those that are not in the means
    merged: bool = False        # all whose name begins with the same word are one
    about: str = ""

    def is_ours(self, contender):
        return bool(re.fullmatch(self.ours, contender))

    def is_peer(self, contender):
        return not (self.is_ours(contender) or re.fullmatch(self.aside, contender)
                    or contender in (base for _, base in self.other_bases))

    def peers_of(self, contender, others):
        """Those of the others that it is compared with."""
        base = self.base_of(contender)
        if base != self.base:
            return [other for other in others if other == base]
        return [other for other in others if self.is_peer(other)]

    def base_of(self, contender):
        for pattern, base in self.other_bases:
            if re.fullmatch(pattern, contender):
                return base
        return self.base


TABLE = (
    Group(NATIVE, "cases.*", "Cases", "mimalloc", CASES, apart="tiny",
          about="Each case is a process of its own, and *end* is what is resident when it "
                "has freed its blocks."),
    Group(NATIVE, "programs.*", "Programs", "mimalloc", CASES,
          about="Each is started anew in each round, with the allocator by `LD_PRELOAD`; "
                "of redis, the time is its client's, and under glibc, where nothing is "
                "preloaded, stands its own jemalloc."),
    Group(NATIVE, "python.*", "Programs in Python", "python3", CASES, apart="tuples.*",
          about="Unmodified programs in Debian's Python, without karena and by "
                "`karena run --python=domains`."),
    Group(NATIVE, "sampling.*", "Sampled tracing", "not traced", CASES, ours="traced",
          about="Programs in Python on karena, without tracing and with one block in "
                "512 KiB traced, by the clock and, of some, in instructions."),
    Group(NATIVE, "counts", "Instructions of malloc and free", "mimalloc", CASES,
          about="Counted one by one, by the processor's trap after each: no other load "
                "changes them. A block that is freed at once; *batch* are 512 blocks, "
                "the oldest freed first. The memcpy and memset of glibc are those that "
                "every processor has."),
    Group(NATIVE, "threads.*", "Threads", "mimalloc", LINES, merged=True),
    Group(NATIVE, "latency (timing|step)", "The clock", "mimalloc", CASES, ours="(?!)",
          about="What a look at the clock takes, which is in all times of single calls."),
    Group(NATIVE, HANDOVER, "The processors", "mimalloc", CASES, ours="(?!)",
          about="How long a cache line takes from one processor to the other: a machine "
                "that others share may have two near ones, or two that are far apart."),
    Group(NATIVE, "latency.*", "Single calls", "mimalloc", LINES, axis=PERCENTILE,
          merged=True,
          about="How long single calls take, by the processor's clock, that of the look "
                "at the clock included."),
    Group(NATIVE, "growth.*", "Growing heaps", "mimalloc", LINES, merged=True,
          about="What single things cost when so much memory is in use."),
    Group(NATIVE, "redis.*", "redis while it saves", "mimalloc", CASES, merged=True,
          about="How long requests take, and what memory its child makes it copy."),
    Group(NATIVE, ".*", "", "mimalloc", CASES),
    Group(GUEST, "commit", "Commit and touch", "karena, ready", CONTENDERS,
          drawn="commit and touch.*",
          about="2 MiB committed, with every page written to. *Ready* are frames that "
                "had been cleared before the clock was started; *none ready* clears "
                "each at its commit. Nearly all of a commit is clearing the frame; a "
                "ready one leaves the fault, the PMD and the first touch of 512 pages."),
    Group(GUEST, "reuse", "Reuse", "karena, volatile", CONTENDERS, drawn="(?!.* of ).*",
          about="2 MiB given back and used again, with every page touched."),
    Group(GUEST, "heap", "A heap made and destroyed", "memfd", CONTENDERS,
          ours="heap.*", other_bases=(("(heap|memfd), 2 MiB.*", "memfd, 2 MiB cleared"),),
          about="Against an empty memfd that is created, mapped, unmapped and closed. "
                "*Directory* counts the heap's directory in sysfs, for which the program "
                "waits; it comes with the first commit, whose own time is not counted, so "
                "that the memfd that the heap with an arena is compared with has 2 MiB "
                "cleared beside it, too. CPU is that of all processors, threads of the "
                "kernel included."),
    Group(GUEST, "reclaim", "Reclaim", "clean page cache", CONTENDERS,
          ours="volatile arenas",
          about="1 GiB of volatile arenas taken under pressure, against 1 GiB of clean "
                "page cache of a block device and of memory after `MADV_FREE`, in the same "
                "memory cgroup."),
    Group(GUEST, "uring", "io_uring", "64 ioctls", CONTENDERS, ours="ring.*",
          about="64 arenas committed by calls, by one call with a list, and through a "
                "ring."),
    Group(GUEST, "fork", "Fork", "karena", CONTENDERS, aside="nothing",
          drawn="fork, exit, wait(, nothing written since)?|first write after fork",
          about="A process that has 512 MiB in use forks. Each kind of memory is a "
                "process of its own in a memory cgroup of its own, and they take turns; "
                "*nothing* is a process without such memory. All of it has been written "
                "before, unless it says otherwise. A child that reads everything has no "
                "page tables in arenas but those of the huge entries."),
    Group(GUEST, "pressure", "Pressure", "karena, pressure word", CONTENDERS,
          about="How soon a process knows that a limit was crossed: by karena's word, and "
                "by what the kernel has for memory cgroups."),
    Group(GUEST, "growth", "Growing heaps", "karena", LINES,
          axis=r"(?P<curve>.*), with (?P<x>\d+) (?P<unit>MiB) in use",
          about="What single things cost when so much memory is in use."),
    Group(GUEST, "counts", "Instructions of single calls", "karena", CASES,
          about="Of the module, in a guest whose processor counter goes on by 1 with "
                "each instruction."),
    Group(GUEST, ".*", "", "karena", CONTENDERS),
)


def find(place, name):
    """The group of a name at a place."""
    for group in TABLE:
        if re.fullmatch(group.place, place) and re.fullmatch(group.name, name):
            return group
    raise LookupError(f"no group for {place}, {name}")
