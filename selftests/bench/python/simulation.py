# SPDX-License-Identifier: GPL-2.0
"""Customers wait in line at counters; events come from a heap."""

import collections
import heapq

queues = [collections.deque() for _ in range(50)]
events = [(i * 7919 % 1009 / 10, i, "arrive") for i in range(1000)]
heapq.heapify(events)
served = 0
number = len(events)
while served < 250_000:
    moment, customer, what = heapq.heappop(events)
    queue = min(queues[customer % 50], queues[customer * 31 % 50], key=len)
    if what == "arrive":
        queue.append({"customer": customer, "since": moment})
        heapq.heappush(events, (moment + 1.5, customer, "serve"))
    else:
        if queue:
            served += queue.popleft()["since"] <= moment
        number += 1
        heapq.heappush(events, (moment + number % 13 / 10, number, "arrive"))
