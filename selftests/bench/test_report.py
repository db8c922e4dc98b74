#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""That the report says what the results say, of results that are made up. TAP."""

import re
import sys

sys.dont_write_bytecode = True

import promises
import remarks
import sections
from results import Key, Series

STEADY = [99.0, 100.0, 101.0, 100.0, 100.0]
NOISY = [60.0, 80.0, 100.0, 120.0, 140.0]
OTHERWISE = [100.0, 140.0, 80.0, 60.0, 120.0]


def row(place, group, case, unit, **values):
    """Results of one case."""
    return {Key(place, group, case, contender): Series(unit, several)
            for contender, several in values.items()}


def times(factor, values=None):
    return [factor * value for value in values or STEADY]


def outcome(results, what, against):
    """The first outcome of a promise."""
    return next(one for one in promises.outcomes(results)
                if (one.promise.what, one.promise.against) == (what, against))


MEAN = ("time of the cases, geometric mean", "mimalloc")
FORK = ("fork and end of a child, 512 MiB in use", "MADV_HUGEPAGE")


def what_is_absent_is_not_measured():
    return all(one.status() == promises.NOT_MEASURED for one in promises.outcomes({}))


def karena_alone_is_not_measured():
    results = row("native", "cases", "churn", "ms", karena=times(1))
    return outcome(results, *MEAN).status() == promises.NOT_MEASURED


def a_mean_is_geometric():
    results = row("native", "cases", "a", "ms", karena=times(0.4), mimalloc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(1.6), mimalloc=times(1))
    found = outcome(results, *MEAN)
    return abs(found.figure.value - 0.8) < 1e-9 and found.status() == promises.MET


def a_case_without_the_base_is_in_no_mean():
    results = row("native", "cases", "a", "ms", karena=times(0.4), mimalloc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(0.9), mimalloc=times(1))
    results |= row("native", "cases", "c", "ms", karena=times(7))
    mean = sections.build(results)[0].mean("native", "karena")
    return abs(mean.value - 0.6) < 1e-9


def a_limit_is_a_limit():
    results = row("native", "cases", "a", "ms", karena=times(0.95), mimalloc=times(1))
    found = outcome(results, *MEAN)
    return found.status() == promises.MISSED and not found.doubtful()


def noise_over_a_limit_is_said():
    results = row("native", "cases", "a", "ms", karena=times(0.95, NOISY),
                  mimalloc=times(1, OTHERWISE))
    return outcome(results, *MEAN).doubtful()


def a_slow_round_is_no_noise():
    """The machine was slow in it for all."""
    results = row("native", "cases", "a", "ms", karena=times(0.95, NOISY),
                  mimalloc=times(1, NOISY))
    found = outcome(results, *MEAN)
    return abs(found.figure.value - 0.95) < 1e-9 and not found.doubtful()


def a_ratio_is_the_median_of_those_in_the_rounds():
    results = row("native", "cases", "a", "ms", karena=[1.0, 2.0, 9.0],
                  mimalloc=[10.0, 4.0, 6.0])
    return abs(outcome(results, *MEAN).figure.value - 0.5) < 1e-9


def without_common_rounds_it_is_that_of_the_medians():
    results = row("native", "cases", "a", "ms", karena=[1.0, 2.0, 9.0],
                  mimalloc=[10.0, 4.0, 6.0, 4.0])
    return abs(outcome(results, *MEAN).figure.value - 2 / 5) < 1e-9


def at_least_is_the_other_way():
    results = row("6.1", "fork", "fork, exit, wait", "us", karena=times(1),
                  MADV_HUGEPAGE=times(4))
    found = outcome(results, *FORK)
    return found.status() == promises.MET and abs(found.figure.value - 4) < 1e-9


def counted_instructions_are_a_time():
    results = row("6.1 counted", "fork", "fork, exit, wait", "instructions",
                  karena=times(1), MADV_HUGEPAGE=times(2))
    found = [one for one in promises.outcomes(results) if one.figure]
    return [(one.place, one.status(), one.figure.value) for one in found] == [
        ("6.1 counted", promises.MISSED, 2)]


def units_are_the_same_before_they_are_compared():
    results = row("native", "cases peak", "tiny", "MiB", karena=times(0.02))
    results |= row("native", "cases peak", "tiny", "KiB", glibc=times(1948 / 100))
    found = outcome(results, "memory of a tiny process", "glibc")
    return found.status() == promises.MET and abs(found.figure.value - 100) < 1e-6


def found_losses(results):
    return sections.losses(sections.build(results))


def a_loss_is_against_the_best():
    results = row("native", "cases", "a", "ms", karena=times(1.1), mimalloc=times(2),
                  glibc=times(1))
    losses = found_losses(results)
    return len(losses) == 1 and losses[0].best.key.contender == "glibc"


def the_worst_loss_is_first():
    results = row("native", "cases", "a", "ms", karena=times(1.1), glibc=times(1))
    results |= row("native", "cases", "b", "ms", karena=times(1.9), glibc=times(1))
    return [loss.cell.key.case for loss in found_losses(results)] == ["b", "a"]


def noise_is_no_loss():
    return not found_losses(row("native", "cases", "a", "ms", karena=times(1.02, NOISY),
                                glibc=times(1, OTHERWISE)))


def fewer_in_a_second_is_a_loss():
    results = row("native", "redis", "set", "requests/s", karena=times(0.9),
                  glibc=times(1))
    results |= row("native", "redis", "get", "requests/s", karena=times(1.1),
                   glibc=times(1))
    return [loss.cell.key.case for loss in found_losses(results)] == ["set"]


def every_remark_on_a_promise_has_one():
    known = [one.promise.what for one in promises.outcomes({})]
    stale = [remark["promise"] for remark in remarks.load() if "promise" in remark
             and not any(re.fullmatch(remark["promise"], what) for what in known)]
    print("".join(f"# {pattern}\n" for pattern in stale), end="")
    return not stale


def what_has_no_remark_has_no_cause():
    causes = remarks.Causes([{"group": "heap", "text": "because"}])
    key = Key("6.1", "fork", "a", "karena")
    return (causes.of_case(key) is None and causes.of_promise("a", "b", "6.1") is None
            and causes.of_case(key._replace(group="heap")) == 1)


TESTS = [
    what_is_absent_is_not_measured, karena_alone_is_not_measured, a_mean_is_geometric,
    a_case_without_the_base_is_in_no_mean,
    a_limit_is_a_limit, noise_over_a_limit_is_said, a_slow_round_is_no_noise,
    a_ratio_is_the_median_of_those_in_the_rounds,
    without_common_rounds_it_is_that_of_the_medians, at_least_is_the_other_way,
    counted_instructions_are_a_time,
    units_are_the_same_before_they_are_compared, a_loss_is_against_the_best,
    the_worst_loss_is_first, noise_is_no_loss, fewer_in_a_second_is_a_loss,
    every_remark_on_a_promise_has_one, what_has_no_remark_has_no_cause,
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
