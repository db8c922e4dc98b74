# SPDX-License-Identifier: GPL-2.0
"""Tables of a section."""

import groups
import units
from document import Table


def figure_text(figure, text_of):
    """A figure and its interval, as far as that can be seen in so many digits."""
    text = text_of(figure.value)
    low, high = map(text_of, figure.interval())
    return text if (low, high) == (text, text) else f"{text} ({low}..{high})"


def ratio_text(ratio, interval=True):
    if not ratio:
        return ""
    if not interval:
        return units.text_ratio(ratio.value)
    return figure_text(ratio, units.text_ratio)


def short_by_case(section, place):
    """Ratios to the base, a row a case and a column a contender; last, the means."""
    cases = section.places[place]
    names = [name for name in section.contenders()
             if any(name in row for row in cases.values())]
    rows = [[case] + [units.text_ratio(ratio.value) if ratio else ""
                      for ratio in (name in row and section.to_base(row, name)
                                    for name in names)]
            for case, row in cases.items()]
    rows = [row for row in rows if any(row[1:])]
    means = [section.mean(place, name) for name in names]
    if any(means):
        rows.append(["**geometric mean**"] + [f"**{units.text_ratio(mean.value)}**"
                                              if mean else "" for mean in means])
    return Table([f"times {section.group.base}'s", *names], rows)


def short_by_contender(section):
    """Medians and ratios, a row a contender in each case and two columns a place."""
    places = list(section.places)
    names = {}
    for cases in section.places.values():
        for case, row in cases.items():
            names.update(dict.fromkeys((case, name) for name in row))
    rows = []
    for case, name in names:
        cells = []
        for place in places:
            row = section.places[place].get(case, {})
            if name in row:
                cells += [f"{units.text(row[name].figure.value)} {row[name].series.unit}",
                          ratio_text(section.to_base(row, name), interval=False)]
            else:
                cells += ["", ""]
        rows.append([case, name, *cells])
    header = ["case", "of"]
    for place in places:
        header += [place, "ratio"]
    return Table(header, rows, text_columns=2)


def full(section, place):
    """All there is of each series, but for the values themselves."""
    rows = []
    for case, row in section.places[place].items():
        for name, cell in row.items():
            first, third = cell.series.quartiles()
            rows.append([
                case, name, f"{units.text(cell.figure.value)} {cell.series.unit}",
                f"{units.text(first)}..{units.text(third)}",
                ratio_text(section.to_base(row, name)), str(cell.figure.n)])
    return Table(["case", "of", "median", "quartiles", f"ratio to {section.group.base}",
                  "n"], rows, text_columns=2,
                 folded=f"{place}: medians, quartiles, ratios with the interval "
                        "in which 95 % of them are")


def tables(section):
    """A short one, then one a place with all of it, folded."""
    short = []
    if section.group.shape == groups.CONTENDERS:
        short = [short_by_contender(section)]
    elif section.native() and len(section.contenders()) > 1:
        short = [short_by_case(section, place) for place in section.places]
    return short + [full(section, place) for place in section.places]
