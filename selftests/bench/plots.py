# SPDX-License-Identifier: GPL-2.0
"""Pictures of sections, drawn by gnuplot as SVG that can be read on light and on dark.

gnuplot writes colours as attributes; a style beside them has others for the dark.
"""

import collections
import html
import math
import re
import subprocess

import groups
import units

# Light, dark. They can be told apart by those who see few colours, and the marks differ.
PALETTE = [
    ("#0072b2", "#56b4e9"), ("#d55e00", "#ff9f5c"), ("#009e73", "#3fd6ab"),
    ("#a0508c", "#e6a3d6"), ("#6b6b6b", "#b4b8bd"), ("#b08900", "#f0d24a"),
    ("#4b3fb5", "#a9a1ff"), ("#7a4a21", "#d3a57c"),
]
OURS = 0
KNOWN = {"mimalloc": 1, "python3": 1, "tcmalloc": 2, "jemalloc": 3, "glibc": 4,
         "4 KiB anonymous": 1, "MADV_HUGEPAGE": 2}
MARKS = [7, 9, 5, 13, 11, 8, 4, 12]
GRID = ("#d8dce1", "#3a4048")
INK = ("black", "#e3e5e8")
WIDTH = 760
# gnuplot's SVG has no bold font but in texts with markup: a size that means bold.
BOLD = 14


def gnuplot_colour(colour):
    """As it stands in gnuplot's SVG."""
    if not colour.startswith("#"):
        return colour
    red, green, blue = (int(colour[at:at + 2], 16) for at in (1, 3, 5))
    return f"rgb({red:3}, {green:3}, {blue:3})"


def style(svg=None):
    """CSS that has the colours for the dark; of a picture, those that are in it."""
    rules = "".join(
        f'svg [{attribute}="{gnuplot_colour(light)}"]{{{attribute}:{dark}}}'
        for light, dark in [*PALETTE, GRID, INK]
        for attribute in ("fill", "stroke", "color")
        if not svg or gnuplot_colour(light) in svg)
    return "@media (prefers-color-scheme: dark){" + rules + "}"


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', "'") + '"'


def tick(text, place):
    """A label on an axis, which gnuplot takes for a format."""
    return f"{quoted(text.replace('%', '%%'))} {place:.9g}"


def draw(name, title, height, commands):
    """Run gnuplot; the SVG, as a file that stands alone."""
    script = (f"set terminal svg size {WIDTH},{height} dynamic noenhanced "
              'font "sans-serif,13"\n'
              f'set border 3 lc rgb "{INK[0]}" lw 0.7\nset tics nomirror\n'
              f'set grid x y lc rgb "{GRID[0]}" lt 1 lw 0.7\n'
              + commands)
    done = subprocess.run(["gnuplot"], input=script, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode or not done.stdout:
        raise RuntimeError(f"gnuplot, {name}: {done.stderr}")
    return finish(name, title, done.stdout)


def without_the_unused(svg):
    """Groups that are empty, and marks that are nowhere, which gnuplot writes as well."""
    before = None
    while svg != before:
        before = svg
        svg = re.sub(r"<g [^>]*>\s*</g>", "", svg)
        for mark in re.findall(r"id='(gp\w+)'", svg):
            if f"#{mark}'" not in svg:
                svg = re.sub(rf"\n[^\n]* id='{mark}'[^\n]*", "", svg)
    return svg


def finish(name, title, svg):
    """A title that is heard, the style, and names that no other picture has."""
    svg = re.sub(r"<title>.*?</title>|<desc>.*?</desc>|<filter.*?</filter>", "", svg,
                 flags=re.S)
    svg = without_the_unused(svg)
    svg = re.sub(r"""(id=['"]|#)(gp|gnuplot_)""", rf"\1{name}-\2", svg)
    svg = re.sub(r"rgb\( *0, *0, *0\)", "black", svg)
    svg = svg.replace(f'font-size="{BOLD}.00"', 'font-size="13" font-weight="bold"')
    svg = "\n".join(part.strip() for part in svg.splitlines() if part.strip())
    head = svg[svg.index("<svg"):]
    head = head.replace(
        ">", f">\n<title>{html.escape(title)}</title>\n<style>{style(svg)}</style>", 1)
    return ('<?xml version="1.0" encoding="utf-8"?>\n'
            "<!-- SPDX-License-Identifier: GPL-2.0 -->\n" + head + "\n")


def colours(names, is_ours):
    """A number of the palette for each contender, always the same for those known."""
    found, taken = {}, set()
    for name in names:
        if is_ours(name) and OURS not in taken:
            found[name] = OURS
        elif KNOWN.get(name, OURS) not in taken | {OURS}:
            found[name] = KNOWN[name]
        taken.add(found.get(name))
    free = [number for number in range(len(PALETTE)) if number not in taken]
    for name in names:
        if name not in found:
            found[name] = free.pop(0) if free else len(PALETTE) - 1
    return found


def ratio_axis(values):
    """Commands for a logarithmic axis of ratios, with ticks that people read."""
    low, high = min([*values, 0.9]), max([*values, 1.12])
    wide = high / low > 30
    steps = (1,) if high / low > 300 else (1, 2, 5) if wide else (1, 1.5, 2, 3, 5, 7)
    marks = sorted({step * 10 ** power for power in range(-3, 5) for step in steps}
                   | ({0.8, 0.9, 1.1, 1.2} if high / low < 2.2 else set()))
    shown = [mark for mark in marks if low / 1.3 <= mark <= high * 1.3]
    low, high = min(low / 1.05, shown[0]), max(high * 1.05, shown[-1])
    ticks = ", ".join(tick(f"{mark:g}", mark) for mark in shown)
    return (f"set logscale x\nset xrange [{low}:{high}]\nset xtics ({ticks})\n"
            "set mxtics 1\nset arrow from 1, graph 0 to 1, graph 1 nohead "
            f'lc rgb "{INK[0]}" lw 1.2 back\n')


def plot(plots):
    return ("set key outside top center horizontal\nplot " + ", \\\n".join(plots) + "\n")


def blocks(data):
    """Data for gnuplot: a block for each name, of rows of numbers."""
    return "".join(f"${name} << EOD\n" + "\n".join(
        " ".join(f"{number:.6g}" for number in row) for row in rows) + "\nEOD\n"
                   for name, rows in data.items() if rows)


def whiskers(ratio):
    return (ratio.value, *ratio.interval())


class Rows:
    """Names beside a chart, and headings in it, from above."""

    def __init__(self):
        self.names = []
        self.headings = []

    def add(self, name):
        self.names.append(name)
        return -len(self.names)

    def add_heading(self, text):
        self.headings.append((self.add(""), text))

    def commands(self):
        tics = ", ".join(tick(name, -number) for number, name in enumerate(self.names, 1))
        return (f"set ytics ({tics}) scale 0\nset yrange [{-len(self.names) - 0.6}:-0.4]\n"
                "set grid noy\n" + "".join(
                    f"set label {quoted(text)} at first 1, first {y - 0.12} left "
                    f'font "sans-serif,{BOLD}" tc rgb "{INK[0]}" front offset 0.3,0\n'
                    for y, text in self.headings))


def drawn_cases(section):
    """Those that are in the picture, of all places, as they come."""
    names = {}
    for cases in section.places.values():
        names.update(dict.fromkeys(cases))
    chosen = [name for name in names if re.fullmatch(section.group.drawn, name)]
    return chosen or list(names)


def better(section):
    return "more is better" if units.more_is_better(section.unit) else "less is better"


def bar_of(block, half, colour, title):
    """What plots the ratios of a block as bars from 1 on, with whiskers."""
    return [f"{block} using 1:4:(1):1:($4-{half:.3f}):($4+{half:.3f}) with boxxyerror "
            f'fs solid 0.7 noborder fc rgb "{colour}" title {quoted(title)}',
            f'{block} using 1:4:2:3 with xerrorbars pt 0 lw 1.2 lc rgb "{INK[0]}" notitle']


def case_ratios(section, place, names):
    """(label, {name: ratio}) of each case that is drawn; last, of the means."""
    cases = section.places[place]
    for case in drawn_cases(section):
        row = cases.get(case, {})
        ratios = {name: section.to_base(row, name) for name in names if name in row}
        if any(ratios.values()):
            yield case, ratios
    if len(cases) > 1:
        yield "geometric mean", {name: section.mean(place, name) for name in names}


def cases_chart(section, place, slug):
    """A bar for ours and a mark for each peer in each case."""
    names = [name for name in section.contenders() if name != section.group.base]
    numbers = colours(names, section.group.is_ours)
    rows, data = Rows(), collections.defaultdict(list)
    for label, ratios in case_ratios(section, place, names):
        y = rows.add(label)
        for name, ratio in ratios.items():
            if ratio:
                data[f"d{names.index(name)}"].append((*whiskers(ratio), y))
    label = f"{section.kind}, times {section.group.base}'s; {better(section)}"
    return mixed_chart(slug, section.title(), rows, data, names, numbers, label, 21)


def mixed_chart(slug, title, rows, data, names, numbers, label, height):
    """Bars for karena, marks for its peers; the names are those of the blocks, in turn."""
    bars, marks = [], []
    for number, name in enumerate(names):
        colour = PALETTE[numbers[name]][0]
        if not data.get(f"d{number}"):
            continue
        if numbers[name] == OURS:
            bars += bar_of(f"$d{number}", 0.32, colour, name)
        else:
            marks.append(f"$d{number} using 1:4 with points pt {MARKS[numbers[name]]} "
                         f'ps 0.75 lc rgb "{colour}" title {quoted(name)}')
    return ratio_chart(slug, title, rows, data, label, bars + marks, height)


def contenders_chart(section, places, slug):
    """A bar a place for each contender but the base in each case."""
    rows, data = Rows(), collections.defaultdict(list)
    height = 0.76 / len(places)
    for case in drawn_cases(section):
        found = [section.places[place].get(case, {}) for place in places]
        names = [name for name in dict.fromkeys(name for row in found for name in row)
                 if name != section.group.base_of(name)]
        if names:
            rows.add_heading(case)
        for name in names:
            y = rows.add(name) + 0.38
            for number, row in enumerate(found):
                ratio = section.to_base(row, name) if name in row else None
                if ratio:
                    data[f"d{number}"].append(
                        (*whiskers(ratio), y - height * (number + 0.5)))
    bars = []
    for number, place in enumerate(places):
        if data[f"d{number}"]:
            bars += bar_of(f"$d{number}", height / 2, PALETTE[number][0], place)
    label = f"times that of {section.group.base}; {better(section)}"
    return ratio_chart(slug, section.title(), rows, data, label, bars,
                       16 + 5 * len(places))


def ratio_chart(slug, title, rows, data, label, plots, height):
    """Rows of ratios, each so high; data has blocks of ratio, low, high, row."""
    values = [value for block in data.values() for point in block for value in point[:3]]
    if not values:
        return None
    return draw(slug, title, 110 + height * len(rows.names),
                blocks(data) + rows.commands() + ratio_axis(values)
                + f"set xlabel {quoted(label)}\n" + plot(plots))


def position(axis, case):
    """The curve that a case belongs to, its place on the axis, and the label there."""
    found = re.fullmatch(axis, case)
    if not found:
        return None
    parts = found.groupdict()
    names = [part.strip(" ,:-") for part in (parts["curve"], parts.get("rest") or "")]
    curve = " ".join(filter(None, names))
    text = parts["x"]
    if text.startswith("p"):
        return curve, -math.log10(1 - float(text[1:]) / 100 + 1e-12), text[1:] + " %"
    if text == "max":
        return curve, math.inf, "all"
    unit = parts.get("unit") or ""
    return curve, float(text) * units.factor(unit), f"{text} {unit}".strip()


def curves(section, place):
    """{curve: {(x, label): {contender: cell}}} of the cases that have a number."""
    found = collections.defaultdict(dict)
    for case, row in section.places[place].items():
        spot = position(section.group.axis, case)
        if spot:
            curve, at, label = spot
            found[curve].setdefault((at, label), {}).update(row)
    return {curve: dict(sorted(spots.items())) for curve, spots in found.items()
            if len(spots) > 1}


def line_data(spots, names, percentiles):
    """The blocks of the contenders' lines, and the ticks of the axis."""
    data, ticks = collections.defaultdict(list), []
    for number, ((amount, label), row) in enumerate(spots.items()):
        x = number if percentiles else amount
        ticks.append(tick(label, x))
        for name, cell in row.items():
            if cell.figure.value > 0:
                first, third = cell.series.quartiles()
                data[f"d{names.index(name)}"].append(
                    (x, cell.figure.value, max(first, 1e-9), third))
    return data, ticks[::max(1, len(ticks) // 12)]


def line(section, block, name, number):
    """What plots the line of a contender."""
    width = 2.4 if section.group.is_ours(name) else 1.4
    return (f"{block} using 1:2:3:4 with yerrorlines pt {MARKS[number]} ps 0.7 lw {width} "
            f'lc rgb "{PALETTE[number][0]}" title {quoted(name)}')


def lines_chart(section, curve, spots, slug):
    """Both axes logarithmic, with the quartiles; percentiles stand side by side."""
    names = [name for name in section.contenders()
             if any(name in row for row in spots.values())]
    numbers = colours(names, section.group.is_ours)
    percentiles = any(label.endswith("%") for _, label in spots)
    data, ticks = line_data(spots, names, percentiles)
    lines = [line(section, f"$d{number}", name, numbers[name])
             for number, name in enumerate(names) if data[f"d{number}"]]
    if not lines:
        return None
    unit = next(cell.series.unit for row in spots.values() for cell in row.values())
    label = ", ".join(filter(None, [curve, unit])) + f"; {better(section)}"
    axis = ('set xlabel "share of the calls that take no longer"\n' if percentiles
            else "set logscale x 2\n")
    return draw(slug, ": ".join(filter(None, [section.title(), curve])), 380,
                blocks(data) + axis
                + f'set logscale y\nset format y "%.0s%c"\nset xtics ({", ".join(ticks)})\n'
                "set offsets graph 0.03, graph 0.03, 0, 0\n"
                f"set ylabel {quoted(label)}\n" + plot(lines))


def slug_of(*parts):
    return re.sub(r"[^a-z0-9]+", "-", "-".join(filter(None, parts)).lower()).strip("-")


def contenders_pictures(section):
    for counted, suffix in (False, ""), (True, "counted"):
        places = [place for place in section.places
                  if place.endswith(" counted") == counted]
        if places:
            slug = slug_of(section.slug(), suffix)
            yield (slug, ", ".join(filter(None, [section.title(), suffix])),
                   contenders_chart(section, places, slug))


def lines_pictures(section):
    for place in section.places:
        for curve, spots in curves(section, place).items():
            slug = slug_of(section.slug(), "" if section.native() else place, curve)
            yield (slug, f"{section.title()}: {curve}",
                   lines_chart(section, curve, spots, slug))


def cases_pictures(section):
    for place in section.places:
        if len(section.contenders()) > 1:
            slug = slug_of(section.slug(), "" if section.native() else place)
            yield slug, section.title(), cases_chart(section, place, slug)


def pictures(section):
    """[(name, title, SVG)] of a section."""
    drawers = {groups.CONTENDERS: contenders_pictures, groups.LINES: lines_pictures,
               groups.CASES: cases_pictures}
    return [picture for picture in drawers[section.group.shape](section) if picture[2]]
