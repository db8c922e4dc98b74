# SPDX-License-Identifier: GPL-2.0
"""Run a command without and with karena, in turn, and print its costs."""
import json
import os
import statistics
import sys

ROUNDS = 3
MIB = 1 << 20


def run(command):
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}")
    with open(command[-1]) as file:
        report = json.load(file)
    heap = report["heap"]
    return report["answer"], {
        "seconds": report["seconds"],
        "page faults": usage.ru_minflt,
        "system time, s": usage.ru_stime,
        "arenas of 2 MiB": int(heap.get("committed", 0)) // (2 * MIB),
        "of these, huge": int(heap.get("huge_arenas", 0)),
        "in huge pages, MiB": report["huge"] / MIB,
        "peak memory, MiB": usage.ru_maxrss / 1024,
    }


def main():
    command = sys.argv[1:]
    commands = {"without": command,
                "with": ["build/bin/karena", "run", "--source=device", *command]}
    answers = set()
    results = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            answer, costs = run(words)
            answers.add(answer)
            results[name].append(costs)
    if len(answers) != 1:
        sys.exit(f"the answers differ: {answers}")
    print(answers.pop())
    print(f"{'':20}{'without':>12}{'with':>12}")
    for key in results["with"][0]:
        row = [statistics.median(costs[key] for costs in results[name])
               for name in commands]
        digits = 1 if isinstance(results["with"][0][key], float) else 0
        print(f"{key:20}" + "".join(f"{value:12.{digits}f}" for value in row))


if __name__ == "__main__":
    main()
