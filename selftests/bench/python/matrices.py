# SPDX-License-Identifier: GPL-2.0
"""Matrices of floats, by comprehensions."""


def product(a, b):
    columns = list(zip(*b))
    return [[sum(x * y for x, y in zip(row, column)) for column in columns]
            for row in a]


matrix = [[(i * j % 7) / 7 for j in range(64)] for i in range(64)]
power = matrix
for _ in range(40):
    power = [[x / 10 for x in row] for row in product(power, matrix)]
    table = [[i * j + 0.5 for j in range(250)] for i in range(250)]
assert len(power) == 64 and table[2][3] == 6.5
