# SPDX-License-Identifier: GPL-2.0
"""Fetch and build everything that test programs need."""

import functools
import os
import pathlib
import re
import subprocess
import sys

from jobs import Job
from plan import TOP, kernel_of

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


@functools.cache
def kernel(name):
    """Return the directory of a kernel. Fetch or build the kernel if the cache lacks it."""
    command = ["debug-kernel"] if name == "debug" else ["kernel", name]
    return pathlib.Path(output(f"selftests/vm/{command[0]}", *command[1:]))


@functools.cache
def harness():
    """Return the directory of the kernel tree's test harness."""
    return output("selftests/vm/source", "6.1") + "/tools/testing/selftests"


def install(programs):
    """Install the packages that the lanes need, and select the emulator."""
    lanes = {program.lane for program in programs}
    purposes = ["check"] + ["lint"] * ("lint" in lanes)
    purposes += ["kernel"] * any(kernel_of(lane) == "debug" for lane in lanes)
    if subprocess.run([TOP / "selftests/vm/packages", *purposes], check=False).returncode:
        sys.exit(1)
    if any(map(kernel_of, lanes)) or "here" in lanes:
        os.environ["QEMU"] = output("selftests/vm/qemu")


def make(*arguments):
    """Return a make command as a line of shell."""
    return " ".join(("make -s", *arguments))


def sources(programs, folder):
    """Return the names of the C programs in a directory that these programs are or run."""
    names = [p.name for p in programs]
    names += [f"libuser/tests/{name}" for p in programs
              for name in re.findall(r"\bbuild/tests/([\w-]+)", p.command)]
    return [name.rpartition("/")[2] for name in dict.fromkeys(names)
            if name.startswith(folder) and TOP.joinpath(name + ".c").exists()]


def tests(lane, programs):
    """Return the targets of the library's tests that a lane needs."""
    out = BUILD / lane if lane in SANITIZERS else BUILD
    return " ".join(f"{out}/tests/{name}" for name in sources(programs, "libuser/tests/"))


def jobs(programs):
    """Return a Job for each build. No build depends on another one."""
    by_lane = {}
    for program in programs:
        by_lane.setdefault(program.lane, []).append(program)
    steps = {}
    plain = [p for p in programs if p.lane not in SANITIZERS and p.lane != "lint"]
    if any(p.name.startswith(("libuser/", "selftests/bench/", "examples/"))
           or p.name == "selftests/install-test" for p in plain):
        steps["library"] = [
            make("-C libuser", f"OUT={BUILD}"),
            make("-C libuser", f"OUT={BUILD}", f"KSELFTEST={harness()}",
                 tests("here", plain) or "all"),
            make("-C examples", f"OUT={BUILD}")]
    module = sources(plain, "selftests/")
    if module:
        out = BUILD / "selftests"
        steps["selftests"] = [f"mkdir -p {out}",
                              make("-C selftests", f"OUTPUT={out}",
                                   f"KSELFTEST={harness()}",
                                   *(str(out / name) for name in module))]
    if any(p.name == "libuser/tests/malloc.sh" for p in plain):
        steps["expected output"] = ["libuser/tests/malloc.sh without"]
    for lane, options in SANITIZERS.items():
        if lane in by_lane:
            steps[lane] = [make("-C libuser", f"OUT={BUILD / lane}",
                                f"SANITIZE={options}", f"KSELFTEST={harness()}",
                                tests(lane, by_lane[lane]))]
    for name in dict.fromkeys(filter(None, map(kernel_of, by_lane))):
        steps[f"module {name}"] = [f"selftests/vm/module {kernel(name)}"]
    building = [Job("build", name, ["bash", "-ec", "\n".join(commands)])
                for name, commands in steps.items()]
    for job in building:
        job.environment = COMPILERS
    return building


def module(name):
    """Return the path of the module for a kernel; a job builds it."""
    release = (kernel(name) / "release").read_text().strip()
    return BUILD / "module" / release / "karena.ko"
