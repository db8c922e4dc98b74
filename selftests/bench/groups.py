# SPDX-License-Identifier: GPL-2.0
"""Groups of results, and the contenders that are compared in each.

The first row of the table whose patterns match the place and name of a group applies to it.
A pattern has to match a whole name.
"""

import re
import typing

NATIVE = "native.*"
GUEST = "(?!native).*"

# The group with the time of a cache line to another processor, and the cases that depend on
# that time.
HANDOVER = "latency handover"
HANDED_OVER = ("native", "(?!latency (timing|step|handover)).*", "shared|producer|server.*")


class Group(typing.NamedTuple):
    place: str
    name: str
    base: str                   # the contender whose median counts as 1
    ours: str = "karena.*"
    aside: str = ""             # contenders with other work, which are not compared
    other_bases: tuple = ()     # (contender, its base)

    def is_ours(self, contender):
        return bool(re.fullmatch(self.ours, contender))

    def is_peer(self, contender):
        return not (self.is_ours(contender) or re.fullmatch(self.aside, contender)
                    or contender in (base for _, base in self.other_bases))

    def peers_of(self, contender, others):
        """Return the other contenders with which this one is compared."""
        base = self.base_of(contender)
        if base != self.base:
            return [other for other in others if other == base]
        return [other for other in others if self.is_peer(other)]

    def base_of(self, contender):
        for pattern, base in self.other_bases:
            if re.fullmatch(pattern, contender):
                return base
        return self.base


TABLE = (
    Group(NATIVE, "python.*", "python3"),
    Group(NATIVE, "sampling.*", "not traced", ours="traced"),
    Group(NATIVE, f"latency (timing|step)|{HANDOVER}", "mimalloc", ours="(?!)"),
    Group(NATIVE, ".*", "mimalloc"),
    Group(GUEST, "commit", "karena, ready"),
    Group(GUEST, "reuse", "karena, volatile"),
    Group(GUEST, "heap", "memfd", ours="heap.*",
          other_bases=(("(heap|memfd), 2 MiB.*", "memfd, 2 MiB cleared"),)),
    Group(GUEST, "reclaim", "clean page cache", ours="volatile arenas"),
    Group(GUEST, "uring", "64 ioctls", ours="ring.*"),
    Group(GUEST, "fork", "karena", aside="nothing"),
    Group(GUEST, "pressure", "karena, pressure word"),
    Group(GUEST, ".*", "karena"),
)


def find(place, name):
    """Return the row for a group of results."""
    for group in TABLE:
        if re.fullmatch(group.place, place) and re.fullmatch(group.name, name):
            return group
    raise LookupError(f"no group for {place}, {name}")
