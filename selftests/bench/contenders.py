# SPDX-License-Identifier: GPL-2.0
"""The allocators, and functions that run a program under one: a process for each sample."""

import os
import pathlib
import re
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
BENCH = BUILD / "bench"
DEBIAN = "/usr/lib/x86_64-linux-gnu/"

SECONDS = 900       # time limit of a process

# The library that is preloaded for each allocator.
ALLOCATORS = {
    "glibc": "",
    "jemalloc": DEBIAN + "libjemalloc.so.2",
    "tcmalloc": DEBIAN + "libtcmalloc_minimal.so.4",
    "mimalloc": DEBIAN + "libmimalloc.so.2",
    "karena": str(BUILD / "lib" / "libkarena-malloc.so"),
}
BASE, OURS = "mimalloc", "karena"
DOMAINS = str(BUILD / "lib" / "libkarena.so")

PROGRAMS = {
    "python3": ["/usr/bin/python3", "objects.py"],
    "lua5.4": ["lua5.4", "objects.lua"],
    "ruby": ["ruby", "objects.rb"],
    "perl": ["perl", "objects.pl"],
    "sqlite3": ["sqlite3", "-bail", ":memory:", ".read tables.sql"],
    "gcc": ["gcc", "-O1", "-c", "-o", "/dev/null", str(BENCH / "big.c")],
}
PYTHON = {
    "python3": ["/usr/bin/python3"],
    "karena": [str(BUILD / "bin" / "karena"), "run", "--source=embedded",
               "--python=domains", "/usr/bin/python3"],
}
TRACED = {
    "not traced": PYTHON["karena"],
    "traced": ["env", "KARENA_TRACE=512K", "KARENA_TRACE_FILE=/dev/null",
               *PYTHON["karena"]],
}


# glibc has a memcpy for each kind of processor. While instructions are counted, it uses the
# one for all processors.
PLAIN = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM"}


def output(command, preload="", variables=(), **options):
    """Return the output of a command, which must succeed and load the library."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, timeout=SECONDS,
                          env=os.environ | dict(variables) | {"LD_PRELOAD": preload},
                          **options)
    if done.returncode or "ERROR: ld.so" in done.stderr:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n"
                           + done.stderr)
    return done.stdout


def spawn(preload, command):
    """Run a program. Return its time and peak memory.

    If the last line of its output is a number, that is its resident memory in KiB.
    """
    lines = output([BENCH / "spawn", preload, *command], cwd=HERE / "programs")
    *lines, last = lines.splitlines()
    seconds, peak = last.split()
    figures = {"": float(seconds) * 1e3, "peak": int(peak)}
    if lines and lines[-1].isdecimal():
        figures["end"] = int(lines[-1])
    return figures


def run_case(case, preload, threads=()):
    """Run a case of alloc.c, which measures itself. Return also the calls per second."""
    line = output([BENCH / "alloc", case, *map(str, threads)], preload)
    _, seconds, peak, end, replaced = line.split()
    figures = {"": float(seconds) * 1e3, "peak": int(peak), "end": int(end)}
    if threads:
        figures["calls"] = 2 * int(replaced) / float(seconds)
    return figures


def run_counted(command):
    """Return the instructions of a command, as valgrind counts them."""
    command = ["env", "PYTHONHASHSEED=0", *command]
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--log-fd=1",
                "--cachegrind-out-file=/dev/null"]
    place = command.index("/usr/bin/python3")
    log = output(command[:place] + valgrind + command[place:], variables=PLAIN)
    return {"instructions": int(re.search(r"I +refs: +([\d,]+)", log)[1].replace(",", ""))}


def run_figures(program, case, preload, variables=()):
    """Run a program that prints lines with a name and a value, and return these."""
    lines = output([BENCH / program, *case], preload, variables).splitlines()
    return {name: float(value) for name, value in map(str.split, lines)}
