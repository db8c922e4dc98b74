# SPDX-License-Identifier: GPL-2.0
"""Lists are sorted by keys that are tuples."""

rows = [(i * 7919 % 100_003, f"row {i * 31 % 997}", float(i)) for i in range(100_000)]
for _ in range(2):
    rows.sort(key=lambda row: (row[1], -row[2]))
    rows.sort(key=lambda row: (row[0] % 100, row[1], row[2]))
    rows = [(a + 1, b, c) for a, b, c in rows]
assert len(rows) == 100_000
