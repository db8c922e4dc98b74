# SPDX-License-Identifier: GPL-2.0
"""Tables on the terminal, and a line for each goal."""

import math
import statistics

import figures
from contenders import OURS


class Table:
    """The medians of a group of results, and their ratios to a base."""

    def __init__(self, title, results, group, base, scale=1, skip=()):
        self.title = title
        self.values = {}
        self.n = 0
        for key, series in results.items():
            if key.group == group and key.case not in skip:
                self.n = max(self.n, len(series.values))
                row = self.values.setdefault(key.case, {})
                row[key.contender] = figures.figure(key, series).times(1 / scale)
                # Smaller is better, except for calls per second.
                self.best = max if series.unit == "calls/s" else min
        self.width = max([18, *(len(name) + 1 for name in self.values)])
        self.contenders = list(dict.fromkeys(
            contender for row in self.values.values() for contender in row))
        self.base = base if base in self.contenders else next(iter(self.contenders), "")

    def ratio(self, name, contender):
        row = self.values[name]
        ratio = figures.ratio(row[contender], row.get(self.base))
        return ratio.value if ratio else math.nan

    def mean(self, contender):
        """Return the geometric mean of the existing ratios."""
        ratios = [self.ratio(name, contender) for name, row in self.values.items()
                  if {contender, self.base} <= row.keys()]
        return statistics.geometric_mean(ratios) if ratios else math.nan

    def to_best(self, name):
        """Return the ratio of karena to the best other contender."""
        row = self.values[name]
        peers = [row[peer] for peer in row if peer != OURS]
        if not peers or OURS not in row:
            return math.nan
        ratio = figures.ratio(row[OURS], self.best(peers, key=lambda peer: peer.value))
        return ratio.value if ratio else math.nan

    def cell(self, name, contender):
        if contender not in self.values[name]:
            return f"{'-':>16}"
        figure = self.values[name][contender]
        return f"{self.ratio(name, contender):6.2f} {figure.value:9.1f}"

    def print(self):
        """Print ratios to the base, and values. The last column is to_best()."""
        if not self.values:
            return
        best = OURS in self.contenders and len(self.contenders) > 1
        print(f"\n{self.title:<{self.width}}"
              + "".join(f"{contender:>16}" for contender in self.contenders)
              + (f"{'/best':>6}" if best else "") + f"  n = {self.n}")
        for name in self.values:
            print(f"{name:<{self.width}}" + "".join(
                self.cell(name, contender) for contender in self.contenders)
                  + (f"{self.to_best(name):6.2f}" if best else ""))

    def print_with_mean(self):
        self.print()
        if self.values:
            print(f"{'geometric mean':<{self.width}}" + "".join(
                f"{self.mean(contender):6.2f}{'':10}" for contender in self.contenders))


def print_outcomes(outcomes):
    """Print a line for each goal that was measured."""
    for outcome in outcomes:
        if not outcome.figure:
            continue
        goal = outcome.goal
        notes = [outcome.case] if outcome.case else []
        notes += ["within the noise"] if outcome.doubtful() else []
        print(f"{outcome.status():<6} {goal.what}, to {goal.against}:"
              f" {outcome.figure.value:.2f}{goal.suffix()} {goal.required()}"
              + (f" ({'; '.join(notes)})" if notes else ""))
