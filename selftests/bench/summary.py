# SPDX-License-Identifier: GPL-2.0
"""The pictures that come first: one row a group of cases, natively."""

import plots

GROUPS = ("cases", "programs", "python")


def name(section):
    """What a section is of, and what it is compared with if that is not the usual base."""
    base = section.group.base
    title = f"{section.name}: {len(section.meant('native'))}"
    return title if base == "mimalloc" else f"{title}, to {base}"


def chart(slug, title, sections):
    """The geometric means of each section's ratios."""
    names = list(dict.fromkeys(name for section in sections
                               for name in section.contenders()
                               if name != section.group.base))
    numbers = plots.colours(names, lambda name: name.startswith("karena"))
    rows, data = plots.Rows(), {}
    for section in sections:
        y = rows.add(name(section))
        for contender in names:
            mean = section.mean("native", contender)
            if mean:
                data.setdefault(f"d{names.index(contender)}", []).append(
                    (*plots.whiskers(mean), y))
    return plots.mixed_chart(slug, title, rows, data, names, numbers,
                             f"{title}, times mimalloc's; less is better", 30)


def pictures(sections):
    """[(name, title, SVG)] of time and of memory."""
    found = []
    for slug, title, kind in (
            ("time", "time, geometric means", "time"),
            ("memory", "resident memory, geometric means", "memory")):
        chosen = [section for section in sections
                  if section.native() and section.kind == kind
                  and section.name.split()[0] in GROUPS
                  and section.mean("native", "karena")]
        svg = chart(slug, title, chosen) if chosen else None
        if svg:
            found.append((slug, title, svg))
    return found
