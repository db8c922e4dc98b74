# SPDX-License-Identifier: GPL-2.0
"""The three pictures of performance.md, as SVG for light and dark pages."""

import re
import subprocess

import goals

# Light and dark colour, and gnuplot's mark, of each series.
STYLES = [("#0072b2", "#56b4e9", 7), ("#d55e00", "#ff9f5c", 9), ("#009e73", "#3fd6ab", 5),
          ("#a0508c", "#e6a3d6", 13), ("#6b6b6b", "#b4b8bd", 11)]
GRID, DARK_GRID, DARK_INK = "#d8dce1", "#3a4048", "#e3e5e8"
TICKS = (0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5)
FEW_TICKS = (1, 2, 5, 10, 20, 50, 100)
BASE = "mimalloc"
ALLOCATORS = ("karena", "mimalloc", "tcmalloc", "jemalloc", "glibc")
KERNELS = ("6.1", "6.12")


def dark(svg):
    """Return a style that replaces gnuplot's colours on a dark page."""
    pairs = [(light, night) for light, night, _ in STYLES]
    rules = []
    for light, night in [*pairs, (GRID, DARK_GRID), ("#000000", DARK_INK)]:
        parts = (int(light[at:at + 2], 16) for at in (1, 3, 5))
        drawn = "rgb({:3}, {:3}, {:3})".format(*parts)
        names = {drawn, "black"} if light == "#000000" else {drawn}
        rules += [f'[{attribute}="{name}"]{{{attribute}:{night}}}' for name in sorted(names)
                  for attribute in ("fill", "stroke", "color") if name in svg]
    return "@media (prefers-color-scheme:dark){" + "".join(rules) + "}"


def chart(name, label, rows, series):
    """Return the SVG of rows, (text, {name of a series: Figure}), on a logarithmic axis."""
    text = ""
    for number, title in enumerate(series):
        text += f"$d{number} << EOD\n"
        for place, (_, row) in enumerate(rows):
            if row.get(title):
                low, high = row[title].interval()
                text += f"{row[title].value:.6g} {low:.6g} {high:.6g} {-place}\n"
        text += "EOD\n"
    shown = [figure for _, row in rows for figure in row.values() if figure]
    low = min(1, *(figure.interval()[0] for figure in shown))
    high = max(1, *(figure.interval()[1] for figure in shown))
    ticks = ", ".join(f'"{tick:g}" {tick}' for tick in (TICKS if high < 10 else FEW_TICKS)
                      if low / 1.1 < tick < high * 1.1)
    names = ", ".join(f'"{title}" {-place}' for place, (title, _) in enumerate(rows))
    plots = ", \\\n".join(
        f'$d{number} using 1:4:2:3 with xerrorbars lw 1 pt {STYLES[number][2]} '
        f'lc rgb "{STYLES[number][0]}" title "{title}"'
        for number, title in enumerate(series))
    script = (f'set terminal svg size 760,{120 + 40 * len(rows)} dynamic noenhanced '
              f'font "sans-serif,13"\n{text}set border 3 lw 0.7\nset tics nomirror\n'
              f'set grid x lc rgb "{GRID}" lt 1 lw 0.7\nset logscale x\nset mxtics 1\n'
              f"set xrange [{low / 1.1:.6g}:{high * 1.1:.6g}]\nset xtics ({ticks})\n"
              f"set yrange [{0.6 - len(rows)}:0.6]\nset ytics ({names}) scale 0\n"
              "set arrow from 1, graph 0 to 1, graph 1 nohead lw 1.2 back\n"
              f'set xlabel "{label}"\nset rmargin 5\n'
              "set key outside top right horizontal samplen 2 spacing 1\n"
              f"plot {plots}\n")
    done = subprocess.run(["gnuplot"], input=script, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode or not done.stdout:
        raise RuntimeError(f"gnuplot, {name}: {done.stderr}")
    svg = re.sub(r"<title>.*?</title>|<desc>.*?</desc>", "", done.stdout, flags=re.S)
    svg = "\n".join(filter(None, map(str.strip, svg[svg.index("<svg"):].splitlines())))
    svg = svg.replace(">", f">\n<title>{label}</title>\n<style>{dark(svg)}</style>", 1)
    return ('<?xml version="1.0" encoding="utf-8"?>\n'
            f"<!-- SPDX-License-Identifier: GPL-2.0 -->\n{svg}\n")


def means(found, python, rows):
    """Return the means of each allocator; for programs in Python, of karena to pymalloc."""
    chosen = [(title, {name: goals.value(goals.mean(select, BASE, name), found)
                       for name in ALLOCATORS})
              for title, select in rows]
    to_pymalloc = goals.value(goals.mean(python, "python3"), found)
    return chosen + [("13 programs in Python", {"karena": to_pymalloc})]


def arenas(found):
    """Return the time of other memory divided by karena's, for both kernels."""
    work = [("commit and touch 2 MiB", goals.TAKE, "karena, ready",
             (("4 KiB pages", "4 KiB anonymous"), ("MADV_HUGEPAGE", "MADV_HUGEPAGE"))),
            ("reuse 2 MiB", goals.REUSE, "karena, volatile",
             (("MADV_DONTNEED", "MADV_DONTNEED, 4 KiB"),
              ("MADV_FREE", "MADV_FREE, 4 KiB"))),
            ("fork with 512 MiB", goals.FORK, "karena",
             (("4 KiB pages", "4 KiB anonymous"), ("MADV_HUGEPAGE", "MADV_HUGEPAGE")))]
    return [(f"{title}: {short}", {
        f"Linux {kernel}": goals.value(goals.least(select, base, ours), found, kernel)
        for kernel in KERNELS})
            for title, select, ours, bases in work for short, base in bases]


def draw(found):
    """Return {name: SVG} of the pictures for which there are results."""
    pictures = {
        "time": ("time relative to mimalloc = 1 (Python: pymalloc = 1); left is faster",
                 means(found, goals.PYTHON, [("30 allocation patterns", goals.CASES),
                                             ("7 programs", goals.PROGRAMS)]), ALLOCATORS),
        "memory": ("peak memory relative to mimalloc = 1 (Python: pymalloc = 1)",
                   means(found, goals.PYTHON_PEAK,
                         [("30 allocation patterns", goals.CASES_PEAK),
                          ("7 programs", goals.PROGRAMS_PEAK)]), ALLOCATORS),
        "arenas": ("time relative to karena = 1, in guests; right is slower",
                   arenas(found), [f"Linux {kernel}" for kernel in KERNELS]),
    }
    return {name: chart(name, *picture) for name, picture in pictures.items()
            if any(figure for _, row in picture[1] for figure in row.values())}
