# SPDX-License-Identifier: GPL-2.0
"""Results of benchmarks: a file with one JSON object in each line.

place       place of the run: "native", or a guest's kernel ("6.1", "6.12"), followed by
            " counted" when the unit of time is an instruction
group       name of the benchmark
case        name of the measurement
contender   the allocator or kind of memory
unit        unit of the values
values      all values, in the order of measurement

Lines with "meta" describe the machine: `results.py FILE NAME` adds one for a run NAME.
"""

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import typing

PACKAGES = ["libc6", "libmimalloc2.0", "libtcmalloc-minimal4", "libjemalloc2", "python3",
            "gcc-12", "lua5.4", "ruby", "perl", "sqlite3", "redis-server",
            "qemu-system-x86"]


class Key(typing.NamedTuple):
    """The identity of a series."""

    place: str
    group: str
    case: str
    contender: str


class Series(typing.NamedTuple):
    """Values and their unit."""

    unit: str
    values: list

    def median(self):
        return statistics.median(self.values)


def append(path, key, unit, values):
    """Append values to a file. Do nothing without a path."""
    if path:
        with open(path, "a", encoding="utf-8") as file:
            print(json.dumps(key._asdict() | {"unit": unit, "values": list(values)}),
                  file=file)


def lines(path):
    """Return the lines of a file as dicts."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load(path):
    """Return the {Key: Series} of a file. Lines with the same key become one series."""
    results = {}
    for entry in lines(path):
        if "meta" in entry:
            continue
        unit, values = entry.pop("unit"), entry.pop("values")
        series = results.setdefault(Key(**entry), Series(unit, []))
        if series.unit != unit:
            raise ValueError(f"{path}: {entry}: {unit} and {series.unit}")
        series.values.extend(values)
    return results


def load_meta(path):
    """Return the machines of a file: a dict for each different line with "meta"."""
    metas = []
    for entry in lines(path):
        if "meta" in entry and entry["meta"] not in metas:
            metas.append(entry["meta"])
    return metas


def command_output(*command):
    """Return the output of a command; empty if the command does not exist or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def first_match(path, pattern):
    """Return the first group of a pattern in a file; empty without the file."""
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.M)
    except OSError:
        return ""
    return found[1] if found else ""


def gives_back():
    """Return a text if free memory goes back to the hypervisor."""
    for features in pathlib.Path("/sys/bus/virtio/devices").glob("*/features"):
        # Device 5 is a balloon, and bit 5 of its features is free page reporting.
        if (first_match(features.with_name("device"), "0x(0005)")
                and first_match(features, "^.{5}(1)")):
            return "goes back to the hypervisor"
    return ""


def describe(name=""):
    """Describe the machine and versions, without names of hosts, users and directories."""
    here = str(pathlib.Path(__file__).resolve().parent)
    commit = command_output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    dirty = command_output("git", "-C", here, "status", "--porcelain",
                           "--untracked-files=no")
    memory = first_match("/proc/meminfo", r"^MemTotal: +(\d+)") or "0"
    virtual = first_match("/proc/cpuinfo", r"^flags.* (hypervisor)\b")
    meta = {
        "run": name,
        "karena": commit + (" dirty" if dirty else ""),
        "processor": first_match("/proc/cpuinfo", r"^model name\s*: (.*)"),
        "processors": f"{os.cpu_count()}" + (", of a virtual machine" if virtual else ""),
        "memory": f"{int(memory) / (1 << 20):.1f} GiB",
        "free memory": gives_back(),
        "transparent huge pages": first_match(
            "/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"),
        "kernel": f"{platform.system()} {platform.release()}",
        "distribution": first_match("/etc/os-release", r'^PRETTY_NAME="(.*)"'),
        "libc": " ".join(platform.libc_ver()),
    }
    for package in PACKAGES:
        meta[package] = command_output("dpkg-query", "-W", "-f", "${Version}", package)
    return {name: text for name, text in meta.items() if text}


def append_meta(path, name=""):
    """Append a line about the machine to a file. Do nothing without a path."""
    if path:
        with open(path, "a", encoding="utf-8") as file:
            print(json.dumps({"meta": describe(name)}), file=file)


if __name__ == "__main__":
    append_meta(*sys.argv[1:])
