# SPDX-License-Identifier: GPL-2.0
"""Test programs, and the counts in their TAP output."""

import re
import time

# Lines of a passed test; explanation() omits them.
PASSED = re.compile(r"ok |#  RUN |# +OK ")
SHOWN = 60  # lines of a failed program


class Program:
    """A test program in one lane: its command and its results."""

    def __init__(self, lane, name, command):
        self.lane, self.name, self.command = lane, name, command
        self.passed = 0
        self.failures = []      # a line for each failed test
        self.skips = []         # a line for each skipped test
        self.lines = []         # all other output
        self.plan = None
        self.seconds = 0
        self.began = time.monotonic()

    def __str__(self):
        return f"{self.lane} {self.name}"

    def begin(self):
        self.began = time.monotonic()

    def feed(self, line):
        """Count a line of the output."""
        if match := re.match(r"1\.\.(\d+)", line):
            self.plan = int(match[1])
            if "# SKIP" in line:
                self.skips.append(line)
        elif line.startswith("ok "):
            if "# SKIP" in line:
                self.skips.append(line)
            else:
                self.passed += 1
        elif line.startswith("not ok "):
            self.failures.append(line)
        if not PASSED.match(line):
            self.lines.append(line)

    def end(self, status):
        """Record the end of the program; its status is None if it is unknown."""
        self.seconds = time.monotonic() - self.began
        reported = self.passed + len(self.failures) + len(self.skips)
        if self.plan is None or self.plan > reported:
            missing = "no plan" if self.plan is None else f"{self.plan - reported} missing"
            self.failures.append(f"not ok: the program ended early, {missing}")
        elif not reported:
            self.failures.append("not ok: the program ran no test")
        elif status and not self.failures and not (self.skips and not self.passed):
            self.failures.append(f"not ok: the program ended with status {status}")

    def fail(self, reason):
        self.failures.append(f"not ok: {reason}")

    def counts(self):
        """Return the numbers of passed, failed and skipped tests."""
        return self.passed, len(self.failures), len(self.skips)

    def result(self):
        """Return the counts in words, without zeros."""
        words = zip(self.counts(), ("passed", "FAILED", "skipped"))
        return ", ".join(f"{count} {word}" for count, word in words if count)

    def explanation(self):
        """Return the last lines of the output, without those of passed tests."""
        return self.lines[-SHOWN:]
