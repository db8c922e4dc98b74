# SPDX-License-Identifier: GPL-2.0
"""Figures with their noise: medians, ratios, means.

What is compared is measured in turn, round after round: the values of one case that have
the same place in their series were measured one right after the other. A ratio is the
median of the ratios in the rounds, so that a slow time of the machine, which meets all of
a round, is not in it.

A figure carries what it would have been if the rounds had been drawn again from those
that were measured (a bootstrap of the median). Whatever is computed of figures is
computed of their draws, too, and its interval is where most of the draws are. The seed
is fixed: the same results give the same intervals.
"""

import dataclasses
import functools
import math
import operator
import random
import statistics

DRAWS = 500
# Of less, the draws say nothing: the values may agree by chance.
ENOUGH = 3


@dataclasses.dataclass(frozen=True)
class Figure:
    """A value, what it would have been, and of how many rounds it is the median."""

    value: float
    draws: tuple
    n: int
    case: str = ""          # figures of the same one have the same rounds
    rounds: tuple = ()      # its values; none of what is of several cases

    def __add__(self, other):
        return combine(operator.add, self, other)

    def __sub__(self, other):
        return combine(operator.sub, self, other)

    def __truediv__(self, other):
        """Of values above zero, as ratio() sees to."""
        return combine(operator.truediv, self, other)

    def times(self, factor):
        return combine(lambda value: value * factor, self)

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


@functools.lru_cache(maxsize=64)
def draw_rounds(case, n):
    """So many times, n rounds of n. All figures of a case are of the same."""
    generator = random.Random(case)
    return [generator.choices(range(n), k=n) for _ in range(DRAWS)]


@functools.lru_cache(maxsize=None)
def drawn(case, rounds):
    """A figure of the values of a case's rounds, which are a tuple."""
    value = statistics.median(rounds)
    if min(rounds) == max(rounds):
        draws = (value,) * DRAWS
    else:
        draws = tuple(statistics.median([rounds[i] for i in chosen])
                      for chosen in draw_rounds(case, len(rounds)))
    return Figure(value, draws, len(rounds), case, rounds)


def figure(key, series, run=""):
    """That of a series; those of two runs are drawn independently of each other."""
    return drawn("/".join((run,) + key[:3]), tuple(series.values))


def combine(how, *several):
    """A figure computed of others: round by round, if they have rounds in common."""
    if len({(one.case, len(one.rounds)) for one in several}) == 1 and several[0].rounds:
        return drawn(several[0].case, tuple(map(how, *(one.rounds for one in several))))
    return Figure(how(*(one.value for one in several)),
                  tuple(map(how, *(one.draws for one in several))),
                  min(one.n for one in several))


def ratio(ours, base):
    """None where one of them is zero or unknown."""
    if not ours or not base:
        return None
    if min(ours.draws + base.draws + (ours.value, base.value)) <= 0:
        return None
    if min(ours.rounds + base.rounds, default=1) <= 0:
        base = dataclasses.replace(base, rounds=())
    return ours / base


def mean(several):
    """The geometric mean of ratios; None of none."""
    several = [one for one in several if one]
    if not several:
        return None
    return combine(lambda *values: statistics.geometric_mean(values), *several)
