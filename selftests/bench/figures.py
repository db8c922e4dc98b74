# SPDX-License-Identifier: GPL-2.0
"""Figures with their noise: medians, ratios, means.

The benchmark measures the contenders in turn, round after round. So values of one case with
the same index were measured one right after the other. A ratio is the median of the ratios
in the rounds. A slow moment of the machine affects a whole round, and so cancels out.

A figure carries its bootstrap: the medians of rounds that are drawn at random from the
measured ones. Each computation on figures is repeated on their draws, and an interval
contains most of the draws. The seed is fixed, so the same results give the same intervals.
"""

import dataclasses
import functools
import math
import operator
import random
import statistics

DRAWS = 500
# Fewer values may agree by chance, so their draws do not show the noise.
ENOUGH = 3


@dataclasses.dataclass(frozen=True)
class Figure:
    """A median, its draws, and the number of its rounds."""

    value: float
    draws: tuple
    n: int
    case: str = ""          # figures of one case have the same rounds
    rounds: tuple = ()      # its values; empty for a figure of several cases

    def __add__(self, other):
        return combine(operator.add, self, other)

    def __sub__(self, other):
        return combine(operator.sub, self, other)

    def __truediv__(self, other):
        """Divide by a figure. All values must be above zero; ratio() checks that."""
        return combine(operator.truediv, self, other)

    def times(self, factor):
        return combine(lambda value: value * factor, self)

    def known(self):
        """Return True if there are enough rounds to know the noise."""
        return self.n >= ENOUGH

    def interval(self, share=0.95):
        """Return the interval of that share of the draws, or of the value alone."""
        if not self.known():
            return self.value, self.value
        ordered = sorted(self.draws)
        outside = round(len(ordered) * (1 - share) / 2)
        return ordered[outside], ordered[-1 - outside]

    def deviation(self):
        """Return the standard deviation of the logarithm; 0.01 is one percent."""
        if min(self.draws) <= 0:
            return 0.0
        return statistics.stdev(map(math.log, self.draws))


@functools.lru_cache(maxsize=64)
def draw_rounds(case, n):
    """Return DRAWS lists of n rounds out of n; the same lists for all figures of a case."""
    generator = random.Random(case)
    return [generator.choices(range(n), k=n) for _ in range(DRAWS)]


@functools.lru_cache(maxsize=None)
def drawn(case, rounds):
    """Return the figure of a tuple of values, one for each round of a case."""
    value = statistics.median(rounds)
    if min(rounds) == max(rounds):
        draws = (value,) * DRAWS
    else:
        draws = tuple(statistics.median([rounds[i] for i in chosen])
                      for chosen in draw_rounds(case, len(rounds)))
    return Figure(value, draws, len(rounds), case, rounds)


def figure(key, series, run=""):
    """Return the figure of a series; two runs are drawn independently."""
    return drawn("/".join((run,) + key[:3]), tuple(series.values))


def combine(how, *several):
    """Compute a figure from others, round by round if they have the same rounds."""
    if len({(one.case, len(one.rounds)) for one in several}) == 1 and several[0].rounds:
        return drawn(several[0].case, tuple(map(how, *(one.rounds for one in several))))
    return Figure(how(*(one.value for one in several)),
                  tuple(map(how, *(one.draws for one in several))),
                  min(one.n for one in several))


def ratio(ours, base):
    """Return the ratio, or None if a value is zero or unknown."""
    if not ours or not base:
        return None
    if min(ours.draws + base.draws + (ours.value, base.value)) <= 0:
        return None
    if min(ours.rounds + base.rounds, default=1) <= 0:
        base = dataclasses.replace(base, rounds=())
    return ours / base


def mean(several):
    """Return the geometric mean of ratios; None if there are none."""
    several = [one for one in several if one]
    if not several:
        return None
    return combine(lambda *values: statistics.geometric_mean(values), *several)
