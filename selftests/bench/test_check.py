#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""That `check` finds what became worse, and says nothing of noise. TAP.

Runs are made up: values around a median, with so much noise, from a fixed seed.
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
    """Lines of a run; factors are {(group, case): factor of karena's values}.

    A cache line takes so many ns to the other processor.
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
    """The status of `check`, and what it prints, of two runs."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [pathlib.Path(directory, name) for name in ("kept", "new")]
        for path, run in zip(paths, (kept, new)):
            if run is not None:
                path.write_text("".join(json.dumps(line) + "\n" for line in run))
        done = subprocess.run([CHECK, *paths, *options], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def found(factors, expected, noise=0.01, options=()):
    """Whether this and nothing else is said to be worse, in one line."""
    status, text = check(made_up_run(1), made_up_run(2, noise, factors), *options)
    sign = "not ok" if options else "WORSE"
    worse = [line for line in text.splitlines() if line.startswith(sign)]
    return status == 1 and len(worse) == 1 and expected in worse[0], text


def an_instruction_more():
    return found({"instructions, malloc-16": 14 / 13},
                 "malloc-16, karena: 13 before, 14 now")


def an_instruction_more_in_tap():
    return found({"instructions, malloc-16": 14 / 13},
                 "malloc-16, karena: 13 before, 14 now",
                 options=["--counts-only"])


def a_fault_more():
    return found({"commit, faults": 2}, "faults, karena, ready: 1 before, 2 now")


def a_guest_counts_more():
    return found({"counts, release": 1.04}, "counts, release, karena: ")


def ten_percent_slower():
    return found({"cases, case-7": 1.1}, "cases, case-7, karena to the others: ")


def ten_percent_slower_in_a_guest():
    return found({"commit, commit and touch": 1.1}, "commit and touch, karena, ready to ")


def fewer_requests():
    return found({"redis, set": 0.9}, "redis, set, karena to the others: ")


def more_by_lot_is_nothing():
    one, two = (check(made_up_run(1), made_up_run(2, factors={"sampling": factor}))[1]
                for factor in (1.01, 1.05))
    return "WORSE" not in one and two.count("WORSE") == 1, one + two


def noise_alone_is_nothing():
    """In none of so many runs, with little noise and with much."""
    for noise in 0.01, 0.05:
        for seed in range(10, 16):
            status, text = check(made_up_run(1, noise), made_up_run(seed, noise))
            if status or "WORSE" in text or "better: " in text:
                return False, text
    return True, ""


def another_machine_is_nothing():
    status, text = check(made_up_run(1), made_up_run(2, machine=3))
    return status == 0 and "WORSE" not in text and "better: " not in text, text


def processors_that_moved_are_said():
    """What two threads hand each other is not compared then, all else is."""
    factors = {"latency malloc-p50, shared": 2, "cases, case-7": 1.1}
    near, far = (check(made_up_run(1), made_up_run(2, factors=factors, line=line))[1]
                 for line in (60, 200))
    return (near.count("WORSE") == 2 and far.count("WORSE") == 1
            and "1 depend on the distance of the processors" in far), near + far


def slow_rounds_are_nothing():
    """If they are so for all that is measured in them."""
    runs = made_up_run(1), made_up_run(2)
    for factors, run in zip(((1, 1, 1, 1, 1), (1, 1.5, 1.5, 1.5, 1)), runs):
        for line in run:
            if line["group"] == "cases":
                line["values"] = [value * factor for value, factor
                                  in zip(line["values"], factors)]
    status, text = check(*runs)
    return status == 0 and "better: " not in text, text


def better_is_said():
    status, text = check(made_up_run(1), made_up_run(2, factors={"cases, case-7": 0.85}))
    return status == 0 and text.count("better: ") == 1, text


def missing_is_said():
    status, text = check(made_up_run(1), made_up_run(2, dropped=["cases, case-7"]))
    return status == 1 and "missing: native, cases, case-7, karena\n" in text, text


def missing_counts_are_said():
    status, text = check(made_up_run(1), made_up_run(2, dropped=["instructions, free-16"]),
                         "--counts-only")
    return status == 1 and "free-16, karena: missing" in text, text


def not_measured_is_said():
    """And is no fault."""
    guest = [line for line in made_up_run(2) if line["place"] != "native"]
    status, text = check(made_up_run(1), guest)
    return status == 0 and "not measured: native, cases\n" in text, text


def nothing_kept_is_skipped():
    status, text = check(None, made_up_run(2), "--counts-only")
    return status == 0 and text.startswith("1..0 # SKIP"), text


def another_compiler_is_skipped():
    """For that is no fault of who counts."""
    runs = [made_up_run(1), made_up_run(1, factors={"instructions, malloc-16": 2})]
    for run, version in zip(runs, ("12.2.0-14", "13.1.0-1")):
        run.append({"meta": {"run": "native", "gcc-12": version}})
    status, text = check(*runs, "--counts-only")
    return (status == 0 and "native # SKIP counted with 13.1.0-1, kept with" in text
            and "release, karena" in text), text


TESTS = [
    an_instruction_more, an_instruction_more_in_tap, a_fault_more, a_guest_counts_more,
    ten_percent_slower, ten_percent_slower_in_a_guest, fewer_requests,
    more_by_lot_is_nothing, noise_alone_is_nothing, another_machine_is_nothing,
    processors_that_moved_are_said, slow_rounds_are_nothing,
    better_is_said, missing_is_said, missing_counts_are_said, not_measured_is_said,
    nothing_kept_is_skipped, another_compiler_is_skipped,
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
