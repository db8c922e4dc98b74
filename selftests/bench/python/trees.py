# SPDX-License-Identifier: GPL-2.0
"""Binary trees of tuples, many short-lived beside one that stays."""


def tree(depth):
    return (tree(depth - 1), tree(depth - 1)) if depth else (None, None)


def count(node):
    left, right = node
    return 1 if left is None else 1 + count(left) + count(right)


kept = tree(14)
assert sum(count(tree(10)) for _ in range(2100)) == 2100 * 2047
assert count(kept) == 2 ** 15 - 1
