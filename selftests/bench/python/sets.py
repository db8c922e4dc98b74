# SPDX-License-Identifier: GPL-2.0
"""Sets are united, cut and subtracted."""

words = [frozenset(f"{i * j % 5003}" for j in range(1, 12)) for i in range(12_000)]
union = set()
common = 0
for i, word in enumerate(words):
    union |= word
    common += len(word & words[i * 7919 % 12_000])
    rest = (union if i % 400 == 0 else word) - words[i // 2]
    common += len(rest ^ word)
numbers = [set(range(i, i + 60)) for i in range(8000)]
merged = [a | b for a, b in zip(numbers, numbers[1:])]
assert len(merged[0]) == 61 and common > 0
