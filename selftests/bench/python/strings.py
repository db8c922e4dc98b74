# SPDX-License-Identifier: GPL-2.0
"""Strings are built, split, joined, replaced and cut."""

lines = [f"{i}: the {i * 7919 % 1009}th of many lines, {i * i}" for i in range(60_000)]
total = 0
for _ in range(4):
    text = "\n".join(lines)
    fields = [line.split(" ") for line in text.split("\n")]
    lines = [" ".join(reversed(field)) for field in fields]
    total += sum(len(line[3:-3].upper().replace("OF", "from")) for line in lines)
assert len(lines) == 60_000 and total > 0
