# SPDX-License-Identifier: GPL-2.0
"""A dict of strings: counted, looked up, deleted, and filled again."""

counts = {}
for i in range(400_000):
    word = f"word{i * 7919 % 60_013}"
    counts[word] = counts.get(word, 0) + 1
for word in [word for word in counts if word.endswith("7")]:
    del counts[word]
for i in range(100_000):
    counts[f"other {i}"] = str(i)
assert counts["other 99999"] == "99999"
