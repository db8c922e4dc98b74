# SPDX-License-Identifier: GPL-2.0
"""N queens by tuples and sets."""


def solutions(n, row=0, columns=frozenset(), rising=frozenset(), falling=frozenset()):
    if row == n:
        return [()]
    found = []
    for column in range(n):
        if column in columns or row + column in rising or row - column in falling:
            continue
        found += [(column,) + rest for rest in solutions(
            n, row + 1, columns | {column}, rising | {row + column},
            falling | {row - column})]
    return found


assert len(solutions(10)) == 724
assert len(solutions(8)) + len(solutions(7)) == 132
