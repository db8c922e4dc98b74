# SPDX-License-Identifier: GPL-2.0
"""Figures with their noise: medians, ratios, means.

A figure carries what it would have been if the values had been drawn again from those
that were measured (a bootstrap of the median). Whatever is computed of figures is
computed of their draws, too, and its interval is where most of the draws are. The seed
is fixed: the same results give the same intervals.
"""

import dataclasses
import functools
import math
import random
import statistics

DRAWS = 500
# Of less, the draws say nothing: the values may agree by chance.
ENOUGH = 3


@dataclasses.dataclass(frozen=True)
class Figure:
    """A value, what it would have been, and of how many values it is the median."""

    value: float
    draws: tuple
    n: int

    def combine(self, other, how):
        return Figure(how(self.value, other.value),
                      tuple(map(how, self.draws, other.draws)), min(self.n, other.n))

    def __add__(self, other):
        return self.combine(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self.combine(other, lambda a, b: a - b)

    def __truediv__(self, other):
        """Of values above zero, as ratio() sees to."""
        return self.combine(other, lambda a, b: a / b)

    def times(self, factor):
        return Figure(self.value * factor, tuple(d * factor for d in self.draws), self.n)

    def known(self):
        """Whether its noise is."""
        return self.n >= ENOUGH

    def interval(self, share=0.95):
        """Where that share of the draws is; the value alone, when the noise is unknown."""
        if not self.known():
            return self.value, self.value
        ordered = sorted(self.draws)
        outside = round(len(ordered) * (1 - share) / 2)
        return ordered[outside], ordered[-1 - outside]

    def deviation(self):
        """The standard deviation of its logarithm: for a ratio, of 0.01 a percent."""
        if min(self.draws) <= 0:
            return 0.0
        return statistics.stdev(map(math.log, self.draws))


@functools.lru_cache(maxsize=None)
def drawn(values, seed):
    """A figure of values, which are a tuple."""
    value = statistics.median(values)
    if min(values) == max(values):
        return Figure(value, (value,) * DRAWS, len(values))
    generator = random.Random(seed)
    return Figure(value, tuple(
        statistics.median(generator.choices(values, k=len(values)))
        for _ in range(DRAWS)), len(values))


def figure(key, series, run=""):
    """That of a series; those of two runs are drawn independently of each other."""
    return drawn(tuple(series.values), "/".join((run,) + key))


def ratio(ours, base):
    """None where one of them is zero or unknown."""
    if not ours or not base:
        return None
    if min(ours.draws + base.draws + (ours.value, base.value)) <= 0:
        return None
    return ours / base


def mean(several):
    """The geometric mean of ratios; None of none."""
    several = [one for one in several if one]
    if not several:
        return None
    return Figure(
        statistics.geometric_mean(one.value for one in several),
        tuple(map(statistics.geometric_mean, zip(*(one.draws for one in several)))),
        min(one.n for one in several))
