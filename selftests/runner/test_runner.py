#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Test that `check` counts the results of programs and misses no failure. TAP."""

import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True

import build
import jobs
import plan
from tap import Program

GOOD = ["1..2", "ok 1 one", "ok 2 two"]


def counts(lines, status=0):
    """Return the counts of a program that prints these lines and ends with this status."""
    program = Program("here", "program", "")
    for line in lines:
        program.feed(line)
    program.end(status)
    return program.counts()


def told(job_of, *arguments):
    """Return the counts of the programs that a job reports."""
    with tempfile.TemporaryDirectory() as folder:
        jobs.LOG = pathlib.Path(folder)
        programs = []
        job_of(*arguments).run(programs.append)
    return {program.name: program.counts() for program in programs}


def here(command, limit=60):
    job = jobs.Here(Program("here", "program", command))
    job.limit = limit
    return job


def guest(script):
    """Return a guest with the programs one and two that prints the script's output."""
    job = jobs.Guest("6.1", [Program("6.1", name, "") for name in ("one", "two")], "", "")
    job.command = ["bash", "-c", script]
    return job


def says(*names):
    """Return a script with the output of a guest in which these programs passed."""
    return "".join(f"echo '# PROGRAM {name}'; echo 1..1; echo ok 1 x; echo '# EXIT 0'\n"
                   for name in names) + "echo '# AT 9 s'\n"


ALL = ("module", "one", "two", "module, at the end")


def programs_in_a_command_are_built():
    programs = [Program("here", "libuser/tests/malloc-checked", "A=b build/tests/malloc"),
                Program("here", "libuser/tests/heap", "build/tests/heap"),
                Program("here", "libuser/tests/malloc.sh", "libuser/tests/malloc.sh")]
    return build.sources(programs, "libuser/tests/") == ["heap", "malloc"]


def listed_command_builds_its_program():
    """One name is enough: `check malloc-checked` also builds the program malloc."""
    build.harness = lambda: "harness"
    for name, wanted in (("malloc-debug", "malloc"), ("malloc-checked", "malloc"),
                         ("misuse-glibc", "misuse"), ("misuse-checked", "misuse"),
                         ("survive-checked", "survive"), ("heap", "heap")):
        building = build.jobs(plan.choose(plan.read(), ["here"], [name]), {})
        words = [word for job in building for word in job.command[-1].split()]
        if f"{build.BUILD}/tests/{wanted}" not in words:
            return False
    return True


def passed_tests_are_counted():
    return counts(GOOD) == (2, 0, 0)


def failed_test_is_counted():
    return counts(["1..2", "ok 1 one", "not ok 2 two"], 1) == (1, 1, 0)


def skipped_test_is_counted():
    return counts(["1..2", "ok 1 # SKIP no module", "ok 2 two"]) == (1, 0, 1)


def program_that_skips_all_tests_is_skipped():
    return (counts(["1..0 # SKIP no counts"]) == (0, 0, 1)
            and counts(["1..1", "ok 1 # SKIP no module"], 4) == (0, 0, 1))


def program_that_ends_early_fails():
    return (counts(["1..3", "ok 1 one"]) == (1, 1, 0)
            and counts(["ok 1 one"]) == (1, 1, 0) and counts([]) == (0, 1, 0))


def program_without_tests_fails():
    return counts(["1..0"]) == (0, 1, 0)


def nonzero_status_fails():
    return counts(GOOD, 99) == (2, 1, 0)


def program_that_does_not_end_is_killed():
    return told(here, "echo 1..1; echo ok 1 x; sleep 20", 1)["program"] == (1, 2, 0)


def children_of_a_program_are_killed():
    return told(here, "sleep 20 & echo 1..1; echo ok 1 x; wait", 1)["program"][1] > 0


def guest_runs_all_its_programs():
    return told(guest, says(*ALL)) == dict.fromkeys(ALL, (1, 0, 0))


def guest_with_a_kernel_error_fails():
    found = told(guest, says(*ALL) + "echo 'run: the kernel complained:'; exit 126")
    return found == dict.fromkeys(ALL, (1, 0, 0)) | {"module, at the end": (1, 1, 0)}


def guest_that_dies_fails():
    """The running program fails, and the guest with all programs that never ran."""
    found = told(guest, says("module") + "echo '# PROGRAM one'; echo 1..1; exit 124")
    return found == {"module": (1, 0, 0), "one": (0, 1, 0), "module, at the end": (0, 2, 0)}


def every_test_is_listed():
    programs = plan.read()
    rest = [one for one in programs if one.name != "selftests/sysfs"]
    return (not plan.forgotten(programs)
            and plan.forgotten(rest) == ["selftests/sysfs.c"])


def last_part_of_a_name_is_enough():
    found = plan.choose(plan.read(), ["6.12"], ["forkrace"])
    return [(one.name, one.lane) for one in found] == [("selftests/forkrace", "6.12-multi")]


def other_kernels_run_only_if_chosen():
    by_default = {plan.kernel_of(one.lane) for one in plan.choose(plan.read(), [], [])}
    lanes = ["newest", "debug-newest", "arm64"]
    chosen = {plan.kernel_of(one.lane)
              for one in plan.choose(plan.read(), lanes, ["sysfs"])}
    return not by_default & set(plan.REACH) and chosen == set(plan.REACH)


def programs_for_arm64_have_a_folder_of_their_own():
    programs = plan.choose(plan.read(), ["arm64-6.1"], ["sysfs", "heap"])
    return ({one.command for one in programs}
            == {"build/arm64/selftests/sysfs", "build/arm64/tests/heap"})


def turn_runs_tests_with_one_kernel():
    every = plan.read()
    turns = {kernel: plan.turn(every, kernel) for kernel in plan.REACH}
    return (all(plan.kernel_of(one.lane) == kernel
                for kernel, programs in turns.items() for one in programs)
            and [len(turns[kernel]) for kernel in plan.ARM64] == [7, 7, 7]
            and {one.name for one in turns["newest"]}
            == {str(source.relative_to(plan.TOP).with_suffix(""))
                for source in plan.TOP.joinpath("selftests").glob("*.c")})


def kernels_of(status, *names, root=0):
    """Return what build.kernels() finds if the scripts end with these statuses."""
    with tempfile.TemporaryDirectory() as folder:
        vm = pathlib.Path(folder, "selftests/vm")
        vm.mkdir(parents=True)
        for script, end in ((vm / "kernel", status), (vm / "root", root)):
            script.write_text(f"#!/bin/sh\necho the answer for ${{1-root}}\nexit {end}\n",
                              encoding="utf-8")
            script.chmod(0o755)
        build.TOP, top = pathlib.Path(folder), build.TOP
        try:
            return build.kernels([Program(name, "program", "") for name in names])
        finally:
            build.TOP = top


def kernel_that_the_mirror_lacks_is_skipped():
    found, missing = kernels_of(77, "newest", "arm64-6.1-multi")
    return (not found and [one.skips for one in missing]
            == [[f"1..0 # SKIP the answer for {name}"] for name in ("newest", "arm64-6.1")]
            and kernels_of(0, "6.1") == ({"6.1": pathlib.Path("the answer for 6.1")}, [])
            and kernels_of(0, "arm64-6.1", root=77)[1][0].skips
            == ["1..0 # SKIP the answer for root"])


def missing_kernel_of_every_run_is_an_error():
    for status, name in ((77, "6.1"), (1, "newest")):
        try:
            kernels_of(status, name)
        except SystemExit:
            continue
        return False
    return True


def unknown_name_or_lane_is_rejected():
    for arguments in ((["6.12"], ["no-such-test"]), (["7"], ["sysfs"]),
                      (["asan"], ["sysfs"])):
        try:
            plan.choose(plan.read(), *arguments)
        except SystemExit as error:
            if not str(error).startswith("check: "):
                return False
        else:
            return False
    return True


TESTS = [
    passed_tests_are_counted, failed_test_is_counted, skipped_test_is_counted,
    program_that_skips_all_tests_is_skipped, program_that_ends_early_fails,
    program_without_tests_fails, nonzero_status_fails,
    program_that_does_not_end_is_killed, children_of_a_program_are_killed,
    guest_runs_all_its_programs, guest_with_a_kernel_error_fails, guest_that_dies_fails,
    programs_in_a_command_are_built, listed_command_builds_its_program,
    every_test_is_listed, last_part_of_a_name_is_enough, unknown_name_or_lane_is_rejected,
    other_kernels_run_only_if_chosen, programs_for_arm64_have_a_folder_of_their_own,
    turn_runs_tests_with_one_kernel, kernel_that_the_mirror_lacks_is_skipped,
    missing_kernel_of_every_run_is_an_error,
]


def main():
    failed = 0
    for number, test in enumerate(TESTS, 1):
        passed = test()
        failed += not passed
        print(f"{'ok' if passed else 'not ok'} {number} {test.__name__}", flush=True)
    print(f"1..{len(TESTS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
