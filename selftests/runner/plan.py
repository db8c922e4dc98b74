# SPDX-License-Identifier: GPL-2.0
"""The list of all test programs, selftests/tests, and selections from it."""

import pathlib
import re
import sys

from tap import Program

TOP = pathlib.Path(__file__).resolve().parents[2]
LIST = TOP / "selftests/tests"

NATIVE = ("here", "asan", "tsan", "valgrind", "lint", "chroot")
# Kernels with which `check` runs tests only if they are chosen. In the list, arm64 stands
# for all that are for arm64, and newest also for the debug kernel of the same series.
ARM64 = ("arm64-6.1", "arm64-6.12", "arm64-newest")
DEBUG = ("debug", "debug-newest")
REACH = ("newest", "debug-newest", *ARM64)
# The programs that a turn runs with a kernel for arm64: the most of what depends on the
# architecture in five minutes.
ARM64_TURN = ["selftests/" + name
              for name in "device memory sparse fork cow snapshot volatile".split()]
# Seconds after which a program, or a guest with all its programs, is killed.
NATIVE_LIMIT = 1500
GUEST_LIMIT = 3000


def kernel_of(lane):
    """Return the kernel of a lane, 6.12 of 6.12-multi; None for a lane on this machine."""
    if lane in NATIVE:
        return None
    return re.match(r"debug-newest|(arm64-)?[^-]+", lane)[0]


def names_of(lane):
    """Return all names by which a lane can be chosen: it, its kernel, and arm64."""
    kernel = kernel_of(lane)
    return {lane, kernel, "arm64" if kernel in ARM64 else kernel} - {None}


def folder_of(lane):
    """Return the folder, below the top directory, with what is built for a lane."""
    if lane in ("asan", "tsan"):
        return f"build/{lane}"
    return "build/arm64" if lane.startswith("arm64-") else "build"


def lanes_of(word):
    """Return the lanes that a word of the list means."""
    family = word.partition("-")[0]
    kernels = {"arm64": ARM64, "newest": ("newest", "debug-newest")}.get(family, [family])
    return [word.replace(family, kernel, 1) for kernel in kernels]


def default_command(lane, name):
    """Return the command of a program for which the list has no command."""
    if not (TOP / f"{name}.c").exists():
        return name
    place = name.removeprefix("libuser/")
    valgrind = ("VALGRIND=1 valgrind -q --fair-sched=yes --error-exitcode=99 "
                "--leak-check=full " if lane == "valgrind" else "")
    return f"{valgrind}{folder_of(lane)}/{place}"


def read():
    """Return a Program for each pair of program and lane, in the order of the list."""
    programs = []
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, lanes, command = ([part.strip() for part in line.split(":", 2)] + [""])[:3]
        programs += [Program(lane, name, command or default_command(lane, name))
                     for word in lanes.split() for lane in lanes_of(word)]
    return programs


def forgotten(programs):
    """Return the sources of tests that the list does not name."""
    names = {program.name for program in programs}
    return [str(source.relative_to(TOP)) for folder in ("selftests", "libuser/tests")
            for source in sorted(TOP.joinpath(folder).glob("*.c"))
            if str(source.relative_to(TOP).with_suffix("")) not in names]


def choose(programs, lanes, names):
    """Select the programs with these names in these lanes; None: the first lane of each."""
    known = set().union(*(names_of(program.lane) for program in programs))
    for lane in lanes or ():
        if lane not in known:
            sys.exit(f"check: there is no lane {lane}; the lanes are "
                     f"{' '.join(sorted(known))}")
    chosen = programs
    if names:
        chosen = []
        for name in names:
            found = [program for program in programs
                     if name in (program.name, program.name.rpartition("/")[2])]
            if not found:
                sys.exit(f"check: there is no test program {name}; selftests/tests "
                         "lists them, for example sysfs or libuser/tests/heap")
            chosen += found
    if lanes is None:
        first = {}
        for program in chosen:
            first.setdefault(program.name, program)
        return list(first.values())
    if not lanes:
        return [program for program in chosen if program.lane != "chroot"
                and kernel_of(program.lane) not in REACH]
    chosen = [program for program in chosen if names_of(program.lane) & set(lanes)]
    if not chosen:
        sys.exit(f"check: {' '.join(names)} does not run in {' '.join(lanes)}; "
                 "selftests/tests has the lanes of each program")
    return chosen


def turn(programs, kernel):
    """Return the programs that a turn runs with this kernel: tests of the module."""
    if kernel not in REACH:
        sys.exit(f"check: there is no turn {kernel}; the turns are {' '.join(REACH)}")
    return [program for program in programs if kernel_of(program.lane) == kernel
            and (program.name in ARM64_TURN if kernel in ARM64
                 else program.name.startswith("selftests/"))]


def on_arm64(programs):
    """Return the programs in a lane for arm64."""
    return [program for program in programs if kernel_of(program.lane) in ARM64]
