# SPDX-License-Identifier: GPL-2.0
"""What karena promises, and whether the results keep it.

A promise names the series that it is about by patterns, which have to match all of a
name. When there are none, it is not measured, and never met.
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
    """Series of results: of a group, cases of it, and a kind of unit; that of time is
    where instructions are counted in its place that of these."""

    group: str
    case: str = ".*"
    kind: str = "time"

    def is_of(self, key, series):
        if self.kind == "time" and key.place.endswith(" counted"):
            return series.unit == "instructions"
        return units.kind(series.unit) == self.kind

    def rows(self, results, place):
        """{case: {contender: figure in units without a prefix}}."""
        found = {}
        for key, series in results.items():
            if (key.place == place and self.is_of(key, series)
                    and re.fullmatch(self.group, key.group)
                    and re.fullmatch(self.case, key.case)):
                found.setdefault(key.case, {})[key.contender] = figures.figure(
                    key, series).times(units.factor(series.unit))
        return found


def chosen(row, pattern):
    """The figures of a row whose contender matches."""
    return [figure for name, figure in row.items() if re.fullmatch(pattern, name)]


def ratios(rows, ours, base):
    """(ratio of ours to base, case) of all that have both; base may be a function."""
    pairs = []
    for case, row in rows.items():
        others = [base(row)] if callable(base) else chosen(row, base)
        for one in chosen(row, ours):
            pairs += [(figures.ratio(one, other), case) for other in others]
    return [(ratio, case) for ratio, case in pairs if ratio]


def best_peer(row):
    """The least of the figures that are not karena's."""
    peers = [figure for name, figure in row.items() if not re.fullmatch(KARENA, name)]
    return min(peers, key=lambda figure: figure.value, default=None)


def extreme(pick, pairs):
    """The (figure, case) that pick, which is min or max, picks; the case, if it says."""
    pairs = list(pairs)
    if not pairs:
        return None
    figure, case = pick(pairs, key=lambda pair: pair[0].value)
    return figure, case if len({case for _, case in pairs}) > 1 else ""


# Each of these makes a function of results and place, which returns a figure and the
# case that it is of, or how many, or nothing where that is clear; or else None.

def mean(select, base, ours=KARENA):
    """The geometric mean of the ratios."""
    def evaluate(results, place):
        found = ratios(select.rows(results, place), ours, base)
        ratio = figures.mean([ratio for ratio, _ in found])
        return (ratio, f"of {len(found)}") if ratio else None
    return evaluate


def worst(select, base=best_peer, ours=KARENA):
    """The highest ratio, by default to the best peer."""
    def evaluate(results, place):
        return extreme(max, ratios(select.rows(results, place), ours, base))
    return evaluate


def least(select, base, ours=KARENA):
    """How many times ours the base is, where that is least."""
    def evaluate(results, place):
        return extreme(min, ratios(select.rows(results, place), base, ours))
    return evaluate


def highest(select, ours=KARENA):
    """The highest of the figures themselves."""
    def evaluate(results, place):
        rows = select.rows(results, place)
        return extreme(max, ((figure, case) for case, row in rows.items()
                             for figure in chosen(row, ours)))
    return evaluate


def highest_sum(select, piece, ours=KARENA):
    """The highest sum of figures whose cases differ only where the pattern matches."""
    def evaluate(results, place):
        sums = {}
        for case, row in select.rows(results, place).items():
            name = re.sub(piece, "", case)
            for figure in chosen(row, ours):
                sums[name] = sums[name] + figure if name in sums else figure
        return extreme(max, ((figure, name) for name, figure in sums.items()))
    return evaluate


def more(select, base, ours=KARENA):
    """How much more than the base, at most, in KiB."""
    def evaluate(results, place):
        return extreme(max, (
            ((one - other).times(1 / 1024), case)
            for case, row in select.rows(results, place).items()
            for one in chosen(row, ours) for other in chosen(row, base)))
    return evaluate


def part(select, whole, ours=KARENA):
    """What some series are of others, in %."""
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
    """Of what no benchmark is there for."""


class Promise(typing.NamedTuple):
    what: str
    against: str
    bound: str          # "<=" or ">="
    limit: float
    evaluate: typing.Callable
    places: tuple = ("native",)
    unit: str = ""      # nothing for a ratio

    def required(self):
        return f"{self.bound} {self.limit:g}{self.suffix()}"

    def suffix(self):
        return f" {self.unit}" if self.unit else ""

    def kept(self, value):
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
    """The promises of cases and of programs, which are the same."""
    for what, time, peak in (("cases", CASES, CASES_PEAK),
                             ("programs", PROGRAMS, PROGRAMS_PEAK)):
        yield Promise(f"time of the {what}, geometric mean", "mimalloc", "<=", 0.9,
                      mean(time, "mimalloc"))
        yield Promise(f"time of the {what}, geometric mean", "the best peer", "<=", 0.95,
                      mean(time, best_peer))
        yield Promise(f"time of the {what}, the worst", "the best peer", "<=", 1.15,
                      worst(time))
        yield Promise(f"peak memory of the {what}, geometric mean", "mimalloc", "<=", 0.65,
                      mean(peak, "mimalloc"))
        yield Promise(f"peak memory of the {what}, geometric mean", "the best peer", "<=",
                      0.9, mean(peak, best_peer))
    yield Promise("memory of a tiny process", "glibc", "<=", 300,
                  more(Select("cases peak", "tiny", "memory"), "glibc"), unit="KiB more")
    yield Promise("memory that stays of 3 million blocks, 1 in 2,000 kept", "its peak",
                  "<=", 20, part(Select("cases end", "tuples", "memory"),
                                 Select("cases peak", "tuples", "memory")), unit="%")


def instructions():
    """The promises of single calls."""
    yield Promise("malloc(16)", "rpmalloc's 13", "<=", 13,
                  highest(Select(COUNTS, "malloc-16(-batch)?", "count")),
                  unit="instructions")
    yield Promise("free of 16 bytes", "rpmalloc's 19", "<=", 19,
                  highest(Select(COUNTS, "free-16(-batch)?", "count")),
                  unit="instructions")
    yield Promise("malloc and free of 1 KiB to 256 KiB", "tcmalloc's 74", "<=", 74,
                  highest_sum(Select(COUNTS, r"(malloc|free)-\d{4,}(-batch)?", "count"),
                              "(malloc|free)-"), unit="instructions")
    yield Promise("an object of a type cache", "rpmalloc", "<=", 8, never,
                  unit="instructions")


def pythons():
    """The promises of CPython's domains."""
    yield Promise("time of programs in Python, geometric mean", "pymalloc", "<=", 0.91,
                  mean(PYTHON, "python3"))
    yield Promise("time of programs in Python, the worst", "pymalloc", "<=", 1.02,
                  worst(PYTHON))
    yield Promise("peak memory of programs in Python, the worst", "pymalloc", "<=", 1.02,
                  worst(PYTHON_PEAK))
    yield Promise("memory that stays of 3 million tuples, 1 in 2,000 kept", "its peak",
                  "<=", 20, part(Select("python end", "tuples.*", "memory"),
                                 Select("python peak", "tuples.*", "memory")), unit="%")
    yield Promise("the same with pools that share pages", "its peak", "<=", 6, never,
                  unit="%")


def tracing():
    """The promises of sampled tracing, one block in 512 KiB."""
    counted = Select("sampling instructions", kind="count")
    for what, evaluate in (
            ("time, geometric mean", mean(Select("sampling"), "not traced", "traced")),
            ("instructions, the worst", worst(counted, "not traced", "traced"))):
        yield Promise(f"programs in Python that are traced: {what}", "not traced", "<=",
                      1.02, evaluate)


TAKE = Select("commit", "commit and touch.*")


def arenas():
    """The promises of single arenas: how often karena's time goes into another's."""
    for ours, limits in ((r"karena, ready", (40, 30)), (r"karena, none ready", (1.2, 1))):
        for base, title, limit in zip((PAGES, HUGE), ("pages of 4 KiB", "MADV_HUGEPAGE"),
                                      limits):
            yield Promise(f"2 MiB committed and touched, {ours.partition(', ')[2]}", title,
                          ">=", limit, least(TAKE, base, ours), CLOCK)
    yield Promise("page faults of 2 MiB committed and touched", "40 of 64 MiB", "<=", 1.25,
                  highest(Select("commit", "page faults.*", "count")), CLOCK,
                  unit="page faults")
    for base in ("MADV_FREE", "MADV_DONTNEED", "munmap"):
        yield Promise("2 MiB given back and used again",
                      base.replace("munmap", "munmap, mmap"), ">=", 30,
                      least(Select("reuse"), base + ".*4 KiB.*"), CLOCK)
    for what in ("system calls", "page faults"):
        yield Promise(f"{what} of an arena used again", "none", "<=", 0,
                      highest(Select("reuse", f".*{what}.*", "count")), CLOCK,
                      unit=what)
    yield Promise("a heap made and destroyed, the worst", "a memfd", "<=", 3,
                  heaps(Select("heap", "(?!.*CPU).*")), CLOCK)


def heaps(select):
    """The highest ratio of a heap to the memfd that it is compared with."""
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


FORK = Select("fork", "fork, exit, wait")


def forks():
    """The promises of forks with 512 MiB in use, by the clock and counted."""
    yield Promise("fork and end of a child, 512 MiB in use", "pages of 4 KiB", ">=", 40,
                  least(FORK, PAGES), ALL)
    yield Promise("fork and end of a child, 512 MiB in use", "MADV_HUGEPAGE", ">=", 3,
                  least(FORK, HUGE), ALL)
    yield Promise("first write to a page after a fork", "pages of 4 KiB", "<=", 1.5,
                  worst(Select("fork", "first write after fork"), PAGES), ALL)
    yield Promise("memory of a child that reads all", "nothing", "<=", 1024,
                  more(Select("fork", "child that reads all: cgroup", "memory"), "nothing"),
                  CLOCK, unit="KiB more")


class Outcome(typing.NamedTuple):
    """What became of a promise at a place."""

    promise: Promise
    place: str
    figure: typing.Optional[figures.Figure]
    case: str

    def status(self):
        if not self.figure:
            return NOT_MEASURED
        return MET if self.promise.kept(self.figure.value) else MISSED

    def doubtful(self):
        """Whether the noise reaches over the limit."""
        if not self.figure:
            return False
        low, high = self.figure.interval()
        return self.promise.kept(low) != self.promise.kept(high)


def outcomes(results):
    """Of every promise at every place that it is for."""
    found = []
    for promise in (*mallocs(), *instructions(), *pythons(), *tracing(), *arenas(),
                    *forks()):
        for place in promise.places:
            figure, case = promise.evaluate(results, place) or (None, "")
            found.append(Outcome(promise, place, figure, case))
    return found
