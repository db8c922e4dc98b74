# SPDX-License-Identifier: GPL-2.0
"""Integers of some and of many digits."""

a, b = 0, 1
for _ in range(12_000):
    a, b = b, a + b
digits = str(a)
numbers = [3 ** (i % 300) for i in range(60_000)]
total = 0
for number in numbers:
    total += number * number % 1_000_000_007 ** 3
factorial = 1
for i in range(1, 1500):
    factorial *= i
for _ in range(100):
    numbers = [number * 31 + 7 >> 5 for number in numbers]
assert len(digits) == 2508 and total > factorial % 1_000_003
