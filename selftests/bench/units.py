# SPDX-License-Identifier: GPL-2.0
"""Units of results: their kinds, and the format of values."""

KINDS = {
    "ns": "time", "us": "time", "ms": "time", "s": "time",
    "B": "memory", "bytes": "memory", "KiB": "memory", "MiB": "memory", "GiB": "memory",
    "%": "share",
}
FACTORS = {
    "ns": 1e-9, "us": 1e-6, "ms": 1e-3,
    "k": 1e3, "M": 1e6, "G": 1e9,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}


def kind(unit):
    """Return the kind of a unit: time, memory, share, rate, or count."""
    if "/s" in unit:
        return "rate"
    return KINDS.get(unit, "count")


def factor(unit):
    """Return the factor to the unit without a prefix."""
    return FACTORS.get(unit, 1)


def more_is_better(unit):
    return kind(unit) == "rate"


def exact(unit):
    """Return True if the load of the machine has no influence on the value."""
    return kind(unit) == "count"


def text(value):
    """Format a value with three significant digits and without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def text_ratio(value):
    """Format a ratio with two decimal places below 10, and one below 100."""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else text(value)
