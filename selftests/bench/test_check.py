#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Test that `check` finds changes for the worse, and does not report noise. TAP.

The runs are made up: values around a median with a given noise, from a fixed seed.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

CHECK = pathlib.Path(__file__).resolve().parent / "check"
PEERS = {"glibc": 120, "jemalloc": 105, "tcmalloc": 90, "mimalloc": 100, "karena": 95}
MEMORY = {"4 KiB anonymous": 7000, "MADV_HUGEPAGE": 8000, "karena, ready": 100}
CASES = 40


def made_up_run(seed, noise=0.01, factors=None, dropped=(), machine=1, line=60):
    """Return the lines of a run; factors are {"group, case": factor of karena's values}.

    `line` is the time of a cache line to the other processor, in ns.
    """
    generator = random.Random(seed)
    run = []

    def add(place, group, case, contender, unit, median, n, spread):
        name = f"{group}, {case}"
        if name in dropped:
            return
        if contender.startswith("karena"):
            median *= (factors or {}).get(name, 1)
        run.append({"place": place, "group": group, "case": case, "contender": contender,
                    "unit": unit, "values": [median * generator.lognormvariate(0, spread)
                                             for _ in range(n)]})

    for contender, median in PEERS.items():
        for case in range(CASES):
            add("native", "cases", f"case-{case}", contender, "ms", machine * median, 5,
                noise)
        for call in "malloc", "free":
            add("native", "instructions", f"{call}-16", contender, "instructions",
                median // 7, 1, 0)
        add("native", "redis", "set", contender, "requests/s", 1e8 / median, 5, noise)
        add("native", "latency handover", "shared", contender, "ns", line, 5, noise)
        add("native", "latency malloc-p50", "shared", contender, "ns", median, 5, noise)
    for contender, median in MEMORY.items():
        add("6.1", "commit", "commit and touch", contender, "us", machine * median, 21,
            noise)
        add("6.1", "commit", "faults", contender, "faults", 1, 21, 0)
    add("6.1 counted", "counts", "release", "karena", "instructions", 5000, 5, 0.002)
    add("native", "sampling instructions", "words.py", "traced", "instructions",
        1e9 * (factors or {}).get("sampling", 1), 1, 0)
    return run


def check(kept, new, *options):
    """Compare two runs by `check`. Return its status and its output."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [pathlib.Path(directory, name) for name in ("kept", "new")]
        for path, run in zip(paths, (kept, new)):
            if run is not None:
                path.write_text("".join(json.dumps(line) + "\n" for line in run))
        done = subprocess.run([CHECK, *paths, *options], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def found(factors, expected, noise=0.01, options=()):
    """Return True if `check` reports this change, and no other one, as worse."""
    status, text = check(made_up_run(1), made_up_run(2, noise, factors), *options)
    sign = "not ok" if options else "WORSE"
    worse = [line for line in text.splitlines() if line.startswith(sign)]
    return status == 1 and len(worse) == 1 and expected in worse[0], text


def one_more_instruction_is_reported():
    return found({"instructions, malloc-16": 14 / 13},
                 "malloc-16, karena: 13 before, 14 now")


def one_more_instruction_fails_in_tap():
    return found({"instructions, malloc-16": 14 / 13},
                 "malloc-16, karena: 13 before, 14 now",
                 options=["--counts-only"])


def one_more_fault_is_reported():
    return found({"commit, faults": 2}, "faults, karena, ready: 1 before, 2 now")


def more_instructions_in_a_guest_are_reported():
    return found({"counts, release": 1.04}, "counts, release, karena: ")


def slower_case_is_reported():
    return found({"cases, case-7": 1.1}, "cases, case-7, karena to the others: ")


def slower_case_in_a_guest_is_reported():
    return found({"commit, commit and touch": 1.1}, "commit and touch, karena, ready to ")


def fewer_requests_are_reported():
    return found({"redis, set": 0.9}, "redis, set, karena to the others: ")


def change_by_random_sampling_is_ignored():
    one, two = (check(made_up_run(1), made_up_run(2, factors={"sampling": factor}))[1]
                for factor in (1.01, 1.05))
    return "WORSE" not in one and two.count("WORSE") == 1, one + two


def noise_is_ignored():
    """Neither a little noise nor much noise is reported in any of six runs."""
    for noise in 0.01, 0.05:
        for seed in range(10, 16):
            status, text = check(made_up_run(1, noise), made_up_run(seed, noise))
            if status or "WORSE" in text or "better: " in text:
                return False, text
    return True, ""


def speed_of_the_machine_is_ignored():
    status, text = check(made_up_run(1), made_up_run(2, machine=3))
    return status == 0 and "WORSE" not in text and "better: " not in text, text


def moved_processors_are_reported():
    """Cases in which two threads pass data to each other are then not compared."""
    factors = {"latency malloc-p50, shared": 2, "cases, case-7": 1.1}
    near, far = (check(made_up_run(1), made_up_run(2, factors=factors, line=line))[1]
                 for line in (60, 200))
    return (near.count("WORSE") == 2 and far.count("WORSE") == 1
            and "1 depend on the distance between processors" in far), near + far


def slow_rounds_are_ignored():
    """A slow round slows down all contenders that are measured in it."""
    runs = made_up_run(1), made_up_run(2)
    for factors, run in zip(((1, 1, 1, 1, 1), (1, 1.5, 1.5, 1.5, 1)), runs):
        for line in run:
            if line["group"] == "cases":
                line["values"] = [value * factor for value, factor
                                  in zip(line["values"], factors)]
    status, text = check(*runs)
    return status == 0 and "better: " not in text, text


def improvement_is_reported():
    status, text = check(made_up_run(1), made_up_run(2, factors={"cases, case-7": 0.85}))
    return status == 0 and text.count("better: ") == 1, text


def missing_series_is_reported():
    status, text = check(made_up_run(1), made_up_run(2, dropped=["cases, case-7"]))
    return status == 1 and "missing: native, cases, case-7, karena\n" in text, text


def missing_counts_are_reported():
    status, text = check(made_up_run(1), made_up_run(2, dropped=["instructions, free-16"]),
                         "--counts-only")
    return status == 1 and "free-16, karena: missing" in text, text


def unmeasured_group_is_reported():
    """Groups that were not measured are listed, and are no failure."""
    guest = [line for line in made_up_run(2) if line["place"] != "native"]
    status, text = check(made_up_run(1), guest)
    return status == 0 and "not measured: native, cases\n" in text, text


def comparison_without_kept_results_is_skipped():
    status, text = check(None, made_up_run(2), "--counts-only")
    return status == 0 and text.startswith("1..0 # SKIP"), text


def counts_of_another_compiler_are_skipped():
    """Another compiler changes counts, so they cannot be compared."""
    runs = [made_up_run(1), made_up_run(1, factors={"instructions, malloc-16": 2})]
    for run, version in zip(runs, ("12.2.0-14", "13.1.0-1")):
        run.append({"meta": {"run": "native", "gcc-12": version}})
    status, text = check(*runs, "--counts-only")
    return (status == 0 and "native # SKIP counted with 13.1.0-1, kept with" in text
            and "release, karena" in text), text


TESTS = [
    one_more_instruction_is_reported, one_more_instruction_fails_in_tap,
    one_more_fault_is_reported, more_instructions_in_a_guest_are_reported,
    slower_case_is_reported, slower_case_in_a_guest_is_reported,
    fewer_requests_are_reported, change_by_random_sampling_is_ignored, noise_is_ignored,
    speed_of_the_machine_is_ignored, moved_processors_are_reported, slow_rounds_are_ignored,
    improvement_is_reported, missing_series_is_reported, missing_counts_are_reported,
    unmeasured_group_is_reported, comparison_without_kept_results_is_skipped,
    counts_of_another_compiler_are_skipped,
]


def main():
    failed = 0
    for number, test in enumerate(TESTS, 1):
        passed, text = test()
        if not passed:
            failed += 1
            print("".join(f"# {line}\n" for line in text.splitlines()), end="")
        print(f"{'ok' if passed else 'not ok'} {number} {test.__name__}", flush=True)
    print(f"1..{len(TESTS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
