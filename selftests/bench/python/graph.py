# SPDX-License-Identifier: GPL-2.0
"""Instances of classes that refer to each other, also in circles."""


class Node:
    def __init__(self, number):
        self.number = number
        self.edges = []


class Edge:
    __slots__ = ("start", "end", "weight")

    def __init__(self, start, end, weight):
        self.start = start
        self.end = end
        self.weight = weight
        start.edges.append(self)


def reached(start):
    seen, todo = {start}, [start]
    while todo:
        for edge in todo.pop().edges:
            if edge.end not in seen:
                seen.add(edge.end)
                todo.append(edge.end)
    return len(seen)


for _ in range(6):
    nodes = [Node(i) for i in range(20_000)]
    for i, node in enumerate(nodes):
        Edge(node, nodes[(i + 1) % 20_000], 1.5 * i)
        Edge(node, nodes[i * 7919 % 20_000], i)
    assert reached(nodes[0]) == 20_000
