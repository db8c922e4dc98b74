# SPDX-License-Identifier: GPL-2.0
"""Compare two runs, and find the changes that exceed the noise.

Machines differ, and one machine differs from day to day. So times and memory are compared
as ratios of karena to the geometric mean of the other contenders in the same run. Counts
are compared as they are.

A change counts if it exceeds both a floor and NOISES standard deviations. The deviation
comes from the values of both runs. Few values give a bad estimate of it, so it is mixed
with the typical deviation of the group.
"""

import dataclasses
import math
import re
import statistics
import typing

import figures
import groups
import units

NOISES = 4

# Fraction of a time. Two builds of the same source differ by that much.
TIME_FLOOR = 0.04
MEMORY_FLOOR = 0.02
# A guest's kernel does not execute the same instructions each time. Between boots of one
# kernel, creation and destruction of a heap differed by up to 2.1 %, all other counts by
# less than 1 %.
COUNTED_FLOOR = 0.02
# Floors of native counts: a quarter of an instruction or of a fault, or half a percent.
COUNT_FLOOR = 0.25
COUNT_FLOOR_PART = 0.005
# A difference of a few pages, for example of page tables, does not count.
MEMORY_FLOOR_KIB = 8
# Series with more noise than others of their kind, by place, group, case and contender.
# Sampling chooses blocks at random.
UNSTEADY = {
    (".* counted", "counts", "a heap created and destroyed", ".*"): 0.05,
    ("native", "sampling instructions", ".*", ".*"): 0.02,
}


@dataclasses.dataclass
class Change:
    """One series of karena in two runs: ratios, or counts if the series is exact."""

    key: typing.Any
    kind: str               # kind of the unit
    exact: bool
    upward: bool            # more is better
    before: float
    now: float
    noise: float            # deviation of the logarithm or of the count; NaN if unknown
    floor: float            # in the same unit as the noise

    def margin(self):
        return max(self.floor, NOISES * self.noise)

    def shift(self):
        """Return the size of the change; a positive change is for the worse."""
        shift = self.now - self.before if self.exact else math.log(self.now / self.before)
        return -shift if self.upward else shift

    def allowed(self):
        margin = -self.margin() if self.upward else self.margin()
        return self.before + margin if self.exact else self.before * math.exp(margin)

    def worse(self):
        return self.shift() > self.margin()

    def better(self):
        return -self.shift() > self.margin()

    def text(self):
        place, group, case, contender = self.key
        of = "" if self.exact else " to the others"
        return (f"{place}, {group}, {case}, {contender}{of}: {self.before:.4g} before, "
                f"{self.now:.4g} now, {self.allowed():.4g} allowed")


@dataclasses.dataclass
class Comparison:
    changes: list
    missing: list           # keys without a new series, of groups that were measured
    unmeasured: list        # (place, group) without any new series
    alone: list             # keys without another contender
    unknown: list           # keys with unknown noise
    elsewhere: list         # keys that depend on the distance between processors


def floor_of(key, otherwise):
    """Return the fraction by which a series may grow: from UNSTEADY, else `otherwise`."""
    for patterns, floor in UNSTEADY.items():
        if all(map(re.fullmatch, patterns, key)):
            return floor
    return otherwise


def count_floor(key):
    native = re.fullmatch(groups.NATIVE, key.place)
    return floor_of(key, COUNT_FLOOR_PART if native else COUNTED_FLOOR)


def ratio_floor(key, series):
    if units.kind(series.unit) == "memory":
        pages = MEMORY_FLOOR_KIB * units.factor("KiB") / units.factor(series.unit)
        return floor_of(key, max(MEMORY_FLOOR, pages / max(1, series.median())))
    return floor_of(key, MEMORY_FLOOR if units.kind(series.unit) == "share"
                    else TIME_FLOOR)


def compare_count(key, series, others):
    before, now = (figures.figure(key, one, run)
                   for one, run in zip((series, others), ("kept", "new")))
    floor = before.value * count_floor(key)
    if units.kind(series.unit) == "count":
        floor = max(floor, COUNT_FLOOR)
    noise = math.hypot(statistics.stdev(before.draws), statistics.stdev(now.draws))
    return Change(key, units.kind(series.unit), True, False, before.value, now.value,
                  noise, floor)


def to_peers(key, results, peers, run):
    """Return the ratio to the geometric mean of the peers in one run, or None."""
    ours = figures.figure(key, results[key], run)
    ratios = [figures.ratio(ours, figures.figure(peer, results[peer], run))
              for peer in peers]
    return figures.mean(ratios) if all(ratios) else None


def common_peers(key, kept, new):
    """Return the keys of the contenders with which karena is compared in both runs."""
    group = groups.find(key.place, key.group)
    names = {other.contender for other in kept
             if other[:3] == key[:3] and other in new}
    return [key._replace(contender=name)
            for name in group.peers_of(key.contender, sorted(names))]


def compare_ratio(key, kept, new):
    peers = common_peers(key, kept, new)
    before, now = to_peers(key, kept, peers, "kept"), to_peers(key, new, peers, "new")
    if not before or not now:
        return None
    known = before.known() and now.known()
    unit = kept[key].unit
    return Change(key, units.kind(unit), False, units.more_is_better(unit),
                  before.value, now.value,
                  math.hypot(before.deviation(), now.deviation()) if known else math.nan,
                  math.log1p(ratio_floor(key, kept[key])))


def handover(results, run):
    """Return the time of a cache line to another processor as a figure, or None."""
    values = [value for key, series in results.items() for value in series.values
              if re.fullmatch(groups.HANDOVER, key.group)]
    return figures.drawn(run, tuple(values)) if values else None


def moved(kept, new):
    """Return True if the distance between the processors has changed."""
    ratio = figures.ratio(handover(new, "new"), handover(kept, "kept"))
    return bool(ratio) and abs(math.log(ratio.value)) > max(
        TIME_FLOOR, NOISES * ratio.deviation())


def settle_noise(changes):
    """Mix the noise of each change with the typical noise of its kind."""
    noises = {}
    for change in changes:
        if not math.isnan(change.noise):
            noises.setdefault((change.key[:2], change.kind), []).append(change.noise)
    for change in changes:
        several = noises.get((change.key[:2], change.kind))
        if several:
            typical = statistics.median(several)
            own = typical if math.isnan(change.noise) else change.noise
            change.noise = max(own, math.sqrt((own ** 2 + typical ** 2) / 2))


def compare(kept, new, counts_only=False):
    """Return the Comparison of two {Key: Series}."""
    found = Comparison([], [], [], [], [], [])
    measured = {key[:2] for key in new}
    have_moved = moved(kept, new)
    ratios = []
    for key, series in kept.items():
        if not groups.find(key.place, key.group).is_ours(key.contender):
            continue
        exact = units.exact(series.unit)
        if counts_only and not exact:
            continue
        if key[:2] not in measured:
            if key[:2] not in found.unmeasured:
                found.unmeasured.append(key[:2])
        elif key not in new or new[key].unit != series.unit:
            found.missing.append(key)
        elif exact:
            found.changes.append(compare_count(key, series, new[key]))
        elif have_moved and all(map(re.fullmatch, groups.HANDED_OVER, key)):
            found.elsewhere.append(key)
        else:
            change = compare_ratio(key, kept, new)
            (ratios if change else found.alone).append(change or key)
    settle_noise(ratios)
    found.unknown = [change.key for change in ratios if math.isnan(change.noise)]
    found.changes += [change for change in ratios if not math.isnan(change.noise)]
    return found
