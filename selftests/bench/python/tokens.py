# SPDX-License-Identifier: GPL-2.0
"""A text becomes tokens by a regular expression, and a tree by a parser."""

import re

TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[a-z]\w*)|(?P<sign>[-+*()]))")


def tokens(text):
    return [(match.lastgroup, match[match.lastgroup]) for match in TOKEN.finditer(text)]


def parse(stream):
    tree = []
    for kind, value in stream:
        if value == "(":
            tree.append(parse(stream))
        elif value == ")":
            break
        else:
            tree.append({"kind": kind, "value": value})
    return tree


text = " + ".join(f"(x{i} * {i}) - (name - (y + {i * i}))" for i in range(9000))
for _ in range(4):
    assert len(parse(iter(tokens(text)))) == 9000 * 4 - 1
