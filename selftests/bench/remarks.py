# SPDX-License-Identifier: GPL-2.0
"""The causes that remarks.toml has, and their numbers in a report."""

import pathlib
import re
import tomllib

FILE = pathlib.Path(__file__).resolve().parent / "remarks.toml"
FIELDS = {"promise", "against", "place", "group", "case", "contender", "text"}


def load(path=FILE):
    remarks = tomllib.loads(path.read_text(encoding="utf-8"))["remark"]
    for remark in remarks:
        if not set(remark) <= FIELDS or "text" not in remark:
            raise ValueError(f"{path}: {remark}")
    return remarks


def matches(remark, names):
    """Whether each pattern that the remark has for one of these names matches it."""
    return all(re.fullmatch(remark.get(field, ".*"), name) for field, name in names.items())


class Causes:
    """Those that a report names, numbered in the order in which they come up."""

    def __init__(self, remarks):
        self.remarks = remarks
        self.texts = []

    def number(self, text):
        text = " ".join(text.split())
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def of_promise(self, what, against, place):
        """The number of the cause, or None."""
        for remark in self.remarks:
            if "promise" in remark and matches(
                    remark, {"promise": what, "against": against, "place": place}):
                return self.number(remark["text"])
        return None

    def of_case(self, key):
        """The number of the cause, or None."""
        for remark in self.remarks:
            if "group" in remark and matches(remark, key._asdict()):
                return self.number(remark["text"])
        return None
