# SPDX-License-Identifier: GPL-2.0
"""3 million tuples, of which one in 2,000 is kept; prints the KiB resident then."""

import re

tuples = [(i, None) for i in range(3_000_000)]
tuples = tuples[::2000]
with open("/proc/self/status", encoding="ascii") as status:
    print(re.search(r"VmRSS:\s*(\d+)", status.read())[1])
assert len(tuples) == 1500
