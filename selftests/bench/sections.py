# SPDX-License-Identifier: GPL-2.0
"""Results in the order of the report: sections, in them places, cases, contenders.

A section has what one group measured in one kind of unit, natively or in guests.
"""

import collections
import re
import typing

import figures
import groups
import units


class Cell(typing.NamedTuple):
    """What one contender has in one case."""

    key: typing.Any
    series: typing.Any
    figure: figures.Figure


class Section(typing.NamedTuple):
    group: groups.Group
    name: str           # as in the results
    kind: str
    unit: str           # that of the first
    places: dict        # {place: {case: {contender: Cell}}}

    def title(self):
        first, _, figure = self.name.partition(" ")
        title = self.group.title or first.capitalize()
        if figure:
            return f"{title}: {figure}"
        if self.group.shape == groups.CONTENDERS and self.kind == "time":
            return title
        return f"{title}: {self.kind}"

    def slug(self):
        """A name for files."""
        place = "native" if "native" in self.places else "guest"
        return re.sub(r"[^a-z0-9]+", "-", f"{place}-{self.name}-{self.kind}".lower())

    def native(self):
        return re.fullmatch(groups.NATIVE, next(iter(self.places))) is not None

    def contenders(self):
        """All of them, in the order in which they appear."""
        names = {}
        for cases in self.places.values():
            for row in cases.values():
                names.update(dict.fromkeys(row))
        return list(names)

    def base(self, row, contender):
        """The figure that a contender's is compared with; None if its case has none."""
        name = self.group.base_of(contender)
        if name in row:
            return row[name].figure
        if name in self.contenders():
            return None
        # Nobody has it: then ours, or whoever comes first.
        ours = [cell for other, cell in row.items() if self.group.is_ours(other)]
        return (ours or list(row.values()))[0].figure

    def to_base(self, row, contender):
        return figures.ratio(row[contender].figure, self.base(row, contender))

    def meant(self, place):
        """The cases of which means are made, {case: row}."""
        return {case: row for case, row in self.places[place].items()
                if not re.fullmatch(self.group.apart, case)}

    def mean(self, place, contender):
        """The geometric mean of its ratios over the cases, if there are several."""
        rows = [row for row in self.meant(place).values() if contender in row]
        if len(rows) < 2:
            return None
        return figures.mean([self.to_base(row, contender) for row in rows])


def build(results):
    """The sections of {Key: Series}, those of native results first."""
    sections = {}
    for key, series in results.items():
        group = groups.find(key.place, key.group)
        native = bool(re.fullmatch(groups.NATIVE, key.place))
        kind = units.kind(series.unit)
        name, case = key.group, key.case
        if group.merged:
            name, _, figure = name.partition(" ")
            case = f"{case} {figure}".strip()
        section = sections.setdefault(
            (not native, group, name, kind),
            Section(group, name, kind, series.unit,
                    collections.defaultdict(lambda: collections.defaultdict(dict))))
        section.places[key.place][case][key.contender] = Cell(
            key, series, figures.figure(key, series))
    return [section for _, section in sorted(sections.items(), key=lambda item: item[0][0])]


class Loss(typing.NamedTuple):
    """A case in which one of ours is worse than the best peer by more than the noise."""

    cell: Cell
    best: Cell
    ratio: figures.Figure   # above 1

    def same(self):
        """What it has in common with the same case elsewhere."""
        return self.cell.key._replace(place="")


# Worse by less than this is not worth a line, however sure it is.
NOTICED = 1.01
# And when the noise is not known.
NOTICED_OF_FEW = 1.05


def loss(ours, peers):
    """The Loss of a cell against the best of the peers' cells, or None."""
    upward = units.more_is_better(ours.series.unit)
    peers = [cell for cell in peers if cell.series.unit == ours.series.unit]
    if not peers:
        return None
    best = (max if upward else min)(peers, key=lambda cell: cell.figure.value)
    pair = (best, ours) if upward else (ours, best)
    ratio = figures.ratio(pair[0].figure, pair[1].figure)
    if not ratio or ratio.value < (NOTICED if ratio.known() else NOTICED_OF_FEW):
        return None
    return Loss(ours, best, ratio) if ratio.interval()[0] > 1 else None


def losses(sections):
    """All of them, the worst first."""
    found = []
    for section in sections:
        for cases in section.places.values():
            for row in cases.values():
                for name, cell in row.items():
                    if section.group.is_ours(name):
                        peers = section.group.peers_of(name, row)
                        found.append(loss(cell, [row[peer] for peer in peers]))
    return sorted(filter(None, found), key=lambda one: -one.ratio.value)
