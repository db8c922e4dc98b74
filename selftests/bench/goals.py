# SPDX-License-Identifier: GPL-2.0
"""The goals, and a check of results against them.

A goal names its series by patterns, each of which has to match a whole name. A goal without
a series counts as not measured.
"""

import re
import typing

import figures
import groups
import units

MET, MISSED, NOT_MEASURED = "met", "MISSED", "not measured"

KARENA = "karena.*"
PAGES = "4 KiB anonymous"
HUGE = "MADV_HUGEPAGE"


class Select(typing.NamedTuple):
    """The series of a group's cases with one kind of unit.

    At a place that counts instructions instead of time, "time" selects the instructions.
    """

    group: str
    case: str = ".*"
    kind: str = "time"

    def is_of(self, key, series):
        if self.kind == "time" and key.place.endswith(" counted"):
            return series.unit == "instructions"
        return units.kind(series.unit) == self.kind

    def rows(self, results, place):
        """Return {case: {contender: figure in units without a prefix}}."""
        found = {}
        for key, series in results.items():
            if (key.place == place and self.is_of(key, series)
                    and re.fullmatch(self.group, key.group)
                    and re.fullmatch(self.case, key.case)):
                found.setdefault(key.case, {})[key.contender] = figures.figure(
                    key, series).times(units.factor(series.unit))
        return found


def chosen(row, pattern):
    """Return the figures of a row whose contender matches a pattern."""
    return [figure for name, figure in row.items() if re.fullmatch(pattern, name)]


def ratios(rows, ours, base):
    """Return (ratio of ours to base, case) of each row; base may be a function."""
    pairs = []
    for case, row in rows.items():
        others = [base(row)] if callable(base) else chosen(row, base)
        for one in chosen(row, ours):
            pairs += [(figures.ratio(one, other), case) for other in others]
    return [(ratio, case) for ratio, case in pairs if ratio]


def best_peer(row):
    """Return the smallest figure of a contender other than karena."""
    peers = [figure for name, figure in row.items() if not re.fullmatch(KARENA, name)]
    return min(peers, key=lambda figure: figure.value, default=None)


def extreme(pick, pairs):
    """Return the (figure, case) with the smallest or largest figure; pick is min or max."""
    pairs = list(pairs)
    if not pairs:
        return None
    figure, case = pick(pairs, key=lambda pair: pair[0].value)
    return figure, case if len({case for _, case in pairs}) > 1 else ""


# Each of the functions below returns a function of results and place. That function returns
# None, or a figure and its case: for a mean the number of cases, for a single case "".

def mean(select, base, ours=KARENA):
    """Evaluate the geometric mean of the ratios."""
    def evaluate(results, place):
        found = ratios(select.rows(results, place), ours, base)
        ratio = figures.mean([ratio for ratio, _ in found])
        return (ratio, f"of {len(found)}") if ratio else None
    return evaluate


def worst(select, base=best_peer, ours=KARENA):
    """Evaluate the highest ratio, by default to the best peer."""
    def evaluate(results, place):
        return extreme(max, ratios(select.rows(results, place), ours, base))
    return evaluate


def least(select, base, ours=KARENA):
    """Evaluate the lowest ratio of the base to ours."""
    def evaluate(results, place):
        return extreme(min, ratios(select.rows(results, place), base, ours))
    return evaluate


def highest(select, ours=KARENA):
    """Evaluate the highest figure."""
    def evaluate(results, place):
        rows = select.rows(results, place)
        return extreme(max, ((figure, case) for case, row in rows.items()
                             for figure in chosen(row, ours)))
    return evaluate


def highest_sum(select, piece, ours=KARENA):
    """Evaluate the highest sum of the figures of cases that differ only in the pattern."""
    def evaluate(results, place):
        sums = {}
        for case, row in select.rows(results, place).items():
            name = re.sub(piece, "", case)
            for figure in chosen(row, ours):
                sums[name] = sums[name] + figure if name in sums else figure
        return extreme(max, ((figure, name) for name, figure in sums.items()))
    return evaluate


def more(select, base, ours=KARENA):
    """Evaluate the largest difference to the base, in KiB."""
    def evaluate(results, place):
        return extreme(max, (
            ((one - other).times(1 / 1024), case)
            for case, row in select.rows(results, place).items()
            for one in chosen(row, ours) for other in chosen(row, base)))
    return evaluate


def part(select, whole, ours=KARENA):
    """Evaluate one series in percent of another."""
    def evaluate(results, place):
        for row in select.rows(results, place).values():
            for whole_row in whole.rows(results, place).values():
                pairs = zip(chosen(row, ours), chosen(whole_row, ours))
                for one, other in pairs:
                    ratio = figures.ratio(one, other)
                    if ratio:
                        return ratio.times(100), ""
        return None
    return evaluate


def never(_results, _place):
    """Return None, for a goal without a benchmark."""


def value(evaluate, found, place="native"):
    """Return the figure of an evaluation without its case, or None."""
    outcome = evaluate(found, place)
    return outcome[0] if outcome else None


class Goal(typing.NamedTuple):
    what: str
    against: str
    bound: str          # "<=" or ">="
    limit: float
    evaluate: typing.Callable
    places: tuple = ("native",)
    unit: str = ""      # empty for a ratio

    def required(self):
        return f"{self.bound} {self.limit:g}{self.suffix()}"

    def suffix(self):
        return f" {self.unit}" if self.unit else ""

    def met(self, value):
        return value <= self.limit if self.bound == "<=" else value >= self.limit


CASES = Select("cases", "(?!tiny).*")
CASES_PEAK = Select("cases peak", "(?!tiny).*", "memory")
PROGRAMS = Select("programs")
PROGRAMS_PEAK = Select("programs peak", kind="memory")
PYTHON = Select("python", "(?!tuples).*")
PYTHON_PEAK = Select("python peak", "(?!tuples).*", "memory")
COUNTS = "counts"
CLOCK = ("6.1", "6.12")
COUNTED = ("6.1 counted", "6.12 counted")
ALL = CLOCK + COUNTED


def mallocs():
    """Yield the goals for allocation patterns and for programs, which are the same."""
    for what, time, peak in (("cases", CASES, CASES_PEAK),
                             ("programs", PROGRAMS, PROGRAMS_PEAK)):
        yield Goal(f"time of the {what}, geometric mean", "mimalloc", "<=", 0.9,
                   mean(time, "mimalloc"))
        yield Goal(f"time of the {what}, geometric mean", "the best peer", "<=", 0.95,
                   mean(time, best_peer))
        yield Goal(f"time of the {what}, the worst", "the best peer", "<=", 1.15,
                   worst(time))
        yield Goal(f"peak memory of the {what}, geometric mean", "mimalloc", "<=", 0.65,
                   mean(peak, "mimalloc"))
        yield Goal(f"peak memory of the {what}, geometric mean", "the best peer", "<=",
                   0.9, mean(peak, best_peer))
    yield Goal("memory of a tiny process", "glibc", "<=", 300,
               more(Select("cases peak", "tiny", "memory"), "glibc"), unit="KiB more")
    yield Goal("memory that stays of 3 million blocks, 1 in 2,000 kept", "its peak",
               "<=", 20, part(Select("cases end", "tuples", "memory"),
                              Select("cases peak", "tuples", "memory")), unit="%")


def instructions():
    """Yield the goals for single calls."""
    yield Goal("malloc(16)", "rpmalloc's 13", "<=", 13,
               highest(Select(COUNTS, "malloc-16(-batch)?", "count")),
               unit="instructions")
    yield Goal("free of 16 bytes", "rpmalloc's 19", "<=", 19,
               highest(Select(COUNTS, "free-16(-batch)?", "count")),
               unit="instructions")
    yield Goal("malloc and free of 1 KiB to 256 KiB", "tcmalloc's 74", "<=", 74,
               highest_sum(Select(COUNTS, r"(malloc|free)-\d{4,}(-batch)?", "count"),
                           "(malloc|free)-"), unit="instructions")
    yield Goal("an object of a type cache", "rpmalloc", "<=", 8, never,
               unit="instructions")


def pythons():
    """Yield the goals for CPython's domains."""
    yield Goal("time of programs in Python, geometric mean", "pymalloc", "<=", 0.91,
               mean(PYTHON, "python3"))
    yield Goal("time of programs in Python, the worst", "pymalloc", "<=", 1.02,
               worst(PYTHON))
    yield Goal("peak memory of programs in Python, the worst", "pymalloc", "<=", 1.02,
               worst(PYTHON_PEAK))
    yield Goal("memory that stays of 3 million tuples, 1 in 2,000 kept", "its peak",
               "<=", 20, part(Select("python end", "tuples.*", "memory"),
                              Select("python peak", "tuples.*", "memory")), unit="%")
    yield Goal("the same with pools that share pages", "its peak", "<=", 6, never,
               unit="%")


def tracing():
    """Yield the goals for sampled tracing with one block in 512 KiB."""
    counted = Select("sampling instructions", kind="count")
    for what, evaluate in (
            ("time, geometric mean", mean(Select("sampling"), "not traced", "traced")),
            ("instructions, the worst", worst(counted, "not traced", "traced"))):
        yield Goal(f"programs in Python that are traced: {what}", "not traced", "<=",
                   1.02, evaluate)


TAKE = Select("commit", "commit and touch.*")
REUSE = Select("reuse")
FORK = Select("fork", "fork, exit, wait")


def arenas():
    """Yield the goals for single arenas: ratios of another memory's time to karena's."""
    for ours, limits in ((r"karena, ready", (40, 30)), (r"karena, none ready", (1.2, 1))):
        for base, title, limit in zip((PAGES, HUGE), ("pages of 4 KiB", "MADV_HUGEPAGE"),
                                      limits):
            yield Goal(f"2 MiB committed and touched, {ours.partition(', ')[2]}", title,
                       ">=", limit, least(TAKE, base, ours), CLOCK)
    yield Goal("page faults of 2 MiB committed and touched", "40 of 64 MiB", "<=", 1.25,
               highest(Select("commit", "page faults.*", "count")), CLOCK,
               unit="page faults")
    for base in ("MADV_FREE", "MADV_DONTNEED", "munmap"):
        yield Goal("2 MiB released and reused",
                   base.replace("munmap", "munmap, mmap"), ">=", 30,
                   least(REUSE, base + ".*4 KiB.*"), CLOCK)
    for what in ("system calls", "page faults"):
        yield Goal(f"{what} of a reused arena", "none", "<=", 0,
                   highest(Select("reuse", f".*{what}.*", "count")), CLOCK,
                   unit=what)
    yield Goal("creation and destruction of a heap, the worst", "a memfd", "<=", 3,
               heaps(Select("heap", "(?!.*CPU).*")), CLOCK)


def heaps(select):
    """Evaluate the highest ratio of a heap to its memfd."""
    def evaluate(results, place):
        group = groups.find(place, "heap")
        pairs = []
        for case, row in select.rows(results, place).items():
            for name, figure in row.items():
                base = row.get(group.base_of(name))
                if group.is_ours(name) and figures.ratio(figure, base):
                    pairs.append((figures.ratio(figure, base), f"{name}; {case}"))
        return extreme(max, pairs)
    return evaluate


def forks():
    """Yield the goals for a fork with 512 MiB in use, by the clock and counted."""
    yield Goal("fork and end of a child, 512 MiB in use", "pages of 4 KiB", ">=", 40,
               least(FORK, PAGES), ALL)
    yield Goal("fork and end of a child, 512 MiB in use", "MADV_HUGEPAGE", ">=", 3,
               least(FORK, HUGE), ALL)
    yield Goal("first write to a page after a fork", "pages of 4 KiB", "<=", 1.5,
               worst(Select("fork", "first write after fork"), PAGES), ALL)
    yield Goal("memory of a child that reads all", "nothing", "<=", 1024,
               more(Select("fork", "child that reads all: cgroup", "memory"), "nothing"),
               CLOCK, unit="KiB more")


class Outcome(typing.NamedTuple):
    """The status of a goal at a place."""

    goal: Goal
    place: str
    figure: typing.Optional[figures.Figure]
    case: str

    def status(self):
        if not self.figure:
            return NOT_MEASURED
        return MET if self.goal.met(self.figure.value) else MISSED

    def doubtful(self):
        """Return True if the interval of the figure contains the limit."""
        if not self.figure:
            return False
        low, high = self.figure.interval()
        return self.goal.met(low) != self.goal.met(high)


def outcomes(results):
    """Return the outcome of every goal at each of its places."""
    found = []
    for goal in (*mallocs(), *instructions(), *pythons(), *tracing(), *arenas(),
                 *forks()):
        for place in goal.places:
            figure, case = goal.evaluate(results, place) or (None, "")
            found.append(Outcome(goal, place, figure, case))
    return found
