#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Test the report with made-up results, and the numbers in performance.md. TAP."""

import importlib.machinery
import importlib.util
import pathlib
import sys

sys.dont_write_bytecode = True

import goals
import pictures
import results
from results import Key, Series

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "Documentation" / "performance.md"

STEADY = [99.0, 100.0, 101.0, 100.0, 100.0]
NOISY = [60.0, 80.0, 100.0, 120.0, 140.0]
OTHERWISE = [100.0, 140.0, 80.0, 60.0, 120.0]


def row(place, group, case, unit, **values):
    """Return the results of one case."""
    return {Key(place, group, case, contender): Series(unit, several)
            for contender, several in values.items()}


def times(factor, values=None):
    return [factor * value for value in values or STEADY]


def outcome(results, what, against):
    """Return the first outcome of a goal."""
    return next(one for one in goals.outcomes(results)
                if (one.goal.what, one.goal.against) == (what, against))


MEAN = ("time of the cases, geometric mean", "mimalloc")
FORK = ("fork and end of a child, 512 MiB in use", "MADV_HUGEPAGE")


def absent_series_are_not_measured():
    return all(one.status() == goals.NOT_MEASURED for one in goals.outcomes({}))


def karena_alone_is_not_measured():
    results = row("native", "cases", "churn", "ms", karena=times(1))
    return outcome(results, *MEAN).status() == goals.NOT_MEASURED


def mean_is_geometric():
    results = row("native", "cases", "a", "ms", karena=times(0.4), mimalloc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(1.6), mimalloc=times(1))
    found = outcome(results, *MEAN)
    return abs(found.figure.value - 0.8) < 1e-9 and found.status() == goals.MET


def mean_omits_a_case_without_the_base():
    results = row("native", "cases", "a", "ms", karena=times(0.4), mimalloc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(0.9), mimalloc=times(1))
    results |= row("native", "cases", "c", "ms", karena=times(7))
    return abs(outcome(results, *MEAN).figure.value - 0.6) < 1e-9


def ratio_above_the_limit_misses_the_goal():
    results = row("native", "cases", "a", "ms", karena=times(0.95), mimalloc=times(1))
    found = outcome(results, *MEAN)
    return found.status() == goals.MISSED and not found.doubtful()


def noise_around_the_limit_is_reported():
    results = row("native", "cases", "a", "ms", karena=times(0.95, NOISY),
                  mimalloc=times(1, OTHERWISE))
    return outcome(results, *MEAN).doubtful()


def slow_round_is_not_noise():
    """The machine was slow for all contenders in that round."""
    results = row("native", "cases", "a", "ms", karena=times(0.95, NOISY),
                  mimalloc=times(1, NOISY))
    found = outcome(results, *MEAN)
    return abs(found.figure.value - 0.95) < 1e-9 and not found.doubtful()


def ratio_is_the_median_of_the_ratios_in_the_rounds():
    results = row("native", "cases", "a", "ms", karena=[1.0, 2.0, 9.0],
                  mimalloc=[10.0, 4.0, 6.0])
    return abs(outcome(results, *MEAN).figure.value - 0.5) < 1e-9


def ratio_without_common_rounds_is_that_of_the_medians():
    results = row("native", "cases", "a", "ms", karena=[1.0, 2.0, 9.0],
                  mimalloc=[10.0, 4.0, 6.0, 4.0])
    return abs(outcome(results, *MEAN).figure.value - 2 / 5) < 1e-9


def lower_bound_is_met_from_above():
    results = row("6.1", "fork", "fork, exit, wait", "us", karena=times(1),
                  MADV_HUGEPAGE=times(4))
    found = outcome(results, *FORK)
    return found.status() == goals.MET and abs(found.figure.value - 4) < 1e-9


def counted_instructions_replace_time():
    results = row("6.1 counted", "fork", "fork, exit, wait", "instructions",
                  karena=times(1), MADV_HUGEPAGE=times(2))
    found = [one for one in goals.outcomes(results) if one.figure]
    return [(one.place, one.status(), one.figure.value) for one in found] == [
        ("6.1 counted", goals.MISSED, 2)]


def units_are_converted_before_the_comparison():
    results = row("native", "cases peak", "tiny", "MiB", karena=times(0.02))
    results |= row("native", "cases peak", "tiny", "KiB", glibc=times(1948 / 100))
    found = outcome(results, "memory of a tiny process", "glibc")
    return found.status() == goals.MET and abs(found.figure.value - 100) < 1e-6


def load_report():
    """Load the program, whose name has no ending .py, as a module."""
    loader = importlib.machinery.SourceFileLoader("report", str(HERE / "report"))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader("report", loader))
    loader.exec_module(module)
    return module


def found_losses(results):
    """Return (case, best) of each loss."""
    return [(name[2], best) for _, name, _, best in load_report().losses(results)]


def loss_names_the_best_contender():
    results = row("native", "cases", "a", "ms", karena=times(1.1), mimalloc=times(2),
                  glibc=times(1))
    return found_losses(results) == [("a", "glibc")]


def worst_loss_comes_first():
    results = row("native", "cases", "a", "ms", karena=times(1.1), glibc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(1.9), glibc=times(1))
    return [case for case, _ in found_losses(results)] == ["b", "a"]


def noise_is_not_a_loss():
    return not found_losses(row("native", "cases", "a", "ms", karena=times(1.02, NOISY),
                                glibc=times(1, OTHERWISE)))


def lower_rate_is_a_loss():
    results = row("native", "redis", "set", "requests/s", karena=times(0.9),
                  glibc=times(1))
    results |= row("native", "redis", "get", "requests/s", karena=times(1.1),
                   glibc=times(1))
    return [case for case, _ in found_losses(results)] == ["set"]


def pictures_need_results():
    return not pictures.draw({})


# The goals whose measured values the document prints, and the format of each.
NUMBERS = [
    ("time of the cases, geometric mean", "mimalloc", "native", "{:.2f}"),
    ("time of the cases, the worst", "the best peer", "native", "{:.2f}"),
    ("peak memory of the cases, geometric mean", "mimalloc", "native", "{:.2f}"),
    ("peak memory of the cases, geometric mean", "the best peer", "native", "{:.2f}"),
    ("time of the programs, geometric mean", "mimalloc", "native", "{:.2f}"),
    ("memory that stays of 3 million blocks, 1 in 2,000 kept", "its peak", "native",
     "{:.1f} %"),
    ("malloc(16)", "rpmalloc's 13", "native", "{:.0f}"),
    ("free of 16 bytes", "rpmalloc's 19", "native", "{:.0f}"),
    ("time of programs in Python, geometric mean", "pymalloc", "native", "{:.2f}"),
    ("2 MiB committed and touched, ready", "pages of 4 KiB", "6.1", "{:.1f}"),
    ("2 MiB committed and touched, none ready", "pages of 4 KiB", "6.1", "{:.2f}"),
    ("2 MiB released and reused", "MADV_DONTNEED", "6.1", "{:.1f}"),
    ("fork and end of a child, 512 MiB in use", "pages of 4 KiB", "6.1", "{:.1f}"),
]


def document_agrees_with_the_results():
    found = results.load(DOCUMENT.with_suffix("") / "results.jsonl")
    text = DOCUMENT.read_text(encoding="utf-8")
    by_goal = {(one.goal.what, one.goal.against, one.place): one.figure
               for one in goals.outcomes(found)}
    missing = [(name, number) for *name, form in NUMBERS
               for number in [form.format(by_goal[tuple(name)].value)]
               if f"**{number}**" not in text]
    print("".join(f"# {', '.join(name)}: {number}\n" for name, number in missing), end="")
    return not missing


TESTS = [
    absent_series_are_not_measured, karena_alone_is_not_measured, mean_is_geometric,
    mean_omits_a_case_without_the_base, ratio_above_the_limit_misses_the_goal,
    noise_around_the_limit_is_reported, slow_round_is_not_noise,
    ratio_is_the_median_of_the_ratios_in_the_rounds,
    ratio_without_common_rounds_is_that_of_the_medians, lower_bound_is_met_from_above,
    counted_instructions_replace_time, units_are_converted_before_the_comparison,
    loss_names_the_best_contender, worst_loss_comes_first, noise_is_not_a_loss,
    lower_rate_is_a_loss, pictures_need_results, document_agrees_with_the_results,
]


def main():
    failed = 0
    for number, test in enumerate(TESTS, 1):
        passed = test()
        failed += not passed
        print(f"{'ok' if passed else 'not ok'} {number} {test.__name__}")
    print(f"1..{len(TESTS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
