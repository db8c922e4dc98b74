# SPDX-License-Identifier: GPL-2.0
"""Results of benchmarks: a file with one JSON object in each line.

place       where it ran: "native", or a guest's kernel ("6.1", "6.12"), with " counted"
            behind it when the unit of time is an instruction
group       the benchmark
case        what was measured
contender   of which allocator or kind of memory
unit        of the values
values      all of them, in the order in which they were taken
"""

import json
import statistics
import typing


class Key(typing.NamedTuple):
    """What values are of."""

    place: str
    group: str
    case: str
    contender: str


class Series(typing.NamedTuple):
    """Values, and their unit."""

    unit: str
    values: list

    def median(self):
        return statistics.median(self.values)

    def quartiles(self):
        """The first and the third; of less than three values, the ends."""
        if len(self.values) < 3:
            return min(self.values), max(self.values)
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third


def append(path, key, unit, values):
    """Add values to a file; without a path, to none."""
    if path:
        with open(path, "a", encoding="utf-8") as file:
            print(json.dumps(key._asdict() | {"unit": unit, "values": list(values)}),
                  file=file)


def load(path):
    """The {Key: Series} of a file: what has one key is put together."""
    results = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            unit, values = entry.pop("unit"), entry.pop("values")
            series = results.setdefault(Key(**entry), Series(unit, []))
            if series.unit != unit:
                raise ValueError(f"{path}: {entry}: {unit} and {series.unit}")
            series.values.extend(values)
    return results
