# SPDX-License-Identifier: GPL-2.0
"""Fetch and build everything that test programs need."""

import functools
import os
import pathlib
import re
import subprocess
import sys

from jobs import Job
from plan import ARM64, DEBUG, REACH, TOP, kernel_of
from tap import Program

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
                     "karena")
# ccache finds the library and its tests in a checkout at any path, but the module only at
# the same path, because the kernel's build uses absolute paths. Debian's directory has
# links to ccache with the names of compilers, for makefiles that select one themselves.
COMPILERS = {
    "PATH": f"/usr/lib/ccache:{os.environ['PATH']}", "CCACHE_DIR": str(CACHE / "ccache"),
    "CCACHE_BASEDIR": str(TOP), "CCACHE_NOHASHDIR": "1", "CCACHE_MAXSIZE": "1G",
}
SANITIZERS = {"asan": "address,undefined", "tsan": "thread"}
BUILD = TOP / "build"


def output(*command):
    """Return the last line of a script's output. Its errors go to the terminal."""
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"check: {' '.join(command)} failed")
    return done.stdout.strip().rpartition("\n")[2]


def fetch(name):
    """Fetch or build a kernel, and for arm64 the guests' root, if the cache lacks them.

    Return the exit status, and the last line: the kernel's directory, or what is missing.
    """
    scripts = [["selftests/vm/root"]] * (name in ARM64) + [["selftests/vm/kernel", name]]
    for script in scripts:
        done = subprocess.run(script, cwd=TOP, check=False, stdout=subprocess.PIPE,
                              text=True)
        if done.returncode:
            break
    return done.returncode, done.stdout.strip().rpartition("\n")[2]


def kernels(programs):
    """Return the directory of each kernel of the programs, and what is missing.

    If Debian's mirror does not have one that only some runs need, the second list has a
    skipped Program for it.
    """
    found, missing = {}, []
    for name in dict.fromkeys(filter(None, (kernel_of(one.lane) for one in programs))):
        status, said = fetch(name)
        if status == 0:
            found[name] = pathlib.Path(said)
        elif status == 77 and name in REACH:
            missing.append(Program(name, "kernel", ""))
            missing[-1].feed(f"1..0 # SKIP {said}")
        else:
            sys.exit(f"check: selftests/vm/kernel {name} failed")
    return found, missing


@functools.cache
def harness():
    """Return the directory of the kernel tree's test harness."""
    return output("selftests/vm/source", "6.1") + "/tools/testing/selftests"


def install(programs):
    """Install the packages that the lanes need, and select the emulator."""
    lanes = {program.lane for program in programs}
    purposes = ["check"] + ["lint"] * ("lint" in lanes)
    purposes += ["kernel"] * any(kernel_of(lane) in DEBUG for lane in lanes)
    arm64 = any(kernel_of(lane) in ARM64 for lane in lanes)
    purposes += ["arm64"] * arm64
    if subprocess.run([TOP / "selftests/vm/packages", *purposes], check=False).returncode:
        sys.exit(1)
    if any(map(kernel_of, lanes)) or "here" in lanes:
        os.environ["QEMU"] = output("selftests/vm/qemu")
    if arm64:
        os.environ["QEMU_ARM64"] = output("selftests/vm/qemu", "arm64")


def make(*arguments):
    """Return a make command as a line of shell."""
    return " ".join(("make -s", *arguments))


def cross(*arguments):
    """Return a make command that builds for arm64."""
    return f"selftests/vm/cross {make(*arguments)}"


def sources(programs, folder):
    """Return the names of the C programs in a directory that these programs are or run."""
    names = [p.name for p in programs]
    names += [f"libuser/tests/{name}" for p in programs
              for name in re.findall(r"\bbuild/tests/([\w-]+)", p.command)]
    return [name.rpartition("/")[2] for name in dict.fromkeys(names)
            if name.startswith(folder) and TOP.joinpath(name + ".c").exists()]


def tests(out, programs):
    """Return the targets of the library's tests that are or run in these programs."""
    return " ".join(f"{out}/tests/{name}" for name in sources(programs, "libuser/tests/"))


def needs_library(program):
    return (program.name.startswith(("libuser/", "selftests/bench/", "examples/"))
            or program.name == "selftests/install-test")


def programs_in(out, programs, with_make):
    """Return the commands by which with_make builds each part of the programs."""
    steps = {}
    if any(map(needs_library, programs)):
        steps["library"] = [
            with_make("-C libuser", f"OUT={out}"),
            with_make("-C libuser", f"OUT={out}", f"KSELFTEST={harness()}",
                      tests(out, programs) or "all")]
    module = sources(programs, "selftests/")
    if module:
        steps["selftests"] = [
            f"mkdir -p {out}/selftests",
            with_make("-C selftests", f"OUTPUT={out}/selftests", f"KSELFTEST={harness()}",
                      *(f"{out}/selftests/{name}" for name in module))]
    return steps


def jobs(programs, kernel_directories):
    """Return a Job for each build. No build depends on another one."""
    by_lane = {}
    for program in programs:
        by_lane.setdefault(program.lane, []).append(program)
    arm64 = [p for p in programs if kernel_of(p.lane) in ARM64]
    plain = [p for p in programs
             if p not in arm64 and p.lane not in SANITIZERS and p.lane != "lint"]
    steps = programs_in(BUILD, plain, make)
    if "library" in steps:
        steps["library"].append(make("-C examples", f"OUT={BUILD}"))
    for name, commands in programs_in(BUILD / "arm64", arm64, cross).items():
        steps[f"arm64 {name}"] = commands
    if any(p.name == "libuser/tests/malloc.sh" for p in plain):
        steps["expected output"] = ["libuser/tests/malloc.sh without"]
    for lane, options in SANITIZERS.items():
        if lane in by_lane:
            steps[lane] = [make("-C libuser", f"OUT={BUILD / lane}",
                                f"SANITIZE={options}", f"KSELFTEST={harness()}",
                                tests(BUILD / lane, by_lane[lane]))]
    for name, directory in kernel_directories.items():
        steps[f"module {name}"] = [f"selftests/vm/module {directory}"]
    building = [Job("build", name, ["bash", "-ec", "\n".join(commands)])
                for name, commands in steps.items()]
    for job in building:
        job.environment = COMPILERS
    return building


def module(directory):
    """Return the path of the module for the kernel in this directory; a job builds it."""
    release = (directory / "release").read_text().strip()
    return BUILD / "module" / release / "karena.ko"
