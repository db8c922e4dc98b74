# SPDX-License-Identifier: GPL-2.0
"""Generators in a row, with tuples and small lists between them."""

import itertools


def source(n):
    for i in range(n):
        yield i, i * 7919 % 10_007, f"item {i}"


def pairs(items):
    for number, key, name in items:
        if key % 3:
            yield {"number": number, "key": key, "name": name}


def batches(items, size):
    while batch := list(itertools.islice(items, size)):
        yield batch


def sums(groups):
    for group in groups:
        yield tuple(sorted((item["key"], item["name"][-3:]) for item in group))


assert sum(len(group) for group in sums(batches(pairs(source(1_500_000)), 40))) > 500_000
