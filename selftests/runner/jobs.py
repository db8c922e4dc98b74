# SPDX-License-Identifier: GPL-2.0
"""The jobs of `check`: a build, a program on this machine, a guest with many programs."""

import os
import re
import signal
import subprocess
import threading
import time

from plan import GUEST_LIMIT, NATIVE_LIMIT, TOP, kernel_of

LOG = TOP / "build/log"

ENVIRONMENT = {
    "asan": {"ASAN_OPTIONS": "detect_stack_use_after_return=1",
             "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1"},
}


class Running:
    """The processes that run now. stop() kills them."""

    def __init__(self):
        self.processes = set()
        self.lock = threading.Lock()
        self.stopping = False

    def start(self, command, environment):
        with self.lock:
            if self.stopping:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command, cwd=TOP, env=os.environ | environment, text=True,
                errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True)
            self.processes.add(process)
        return process

    def end(self, process):
        """Wait for a process; return its status and its CPU seconds."""
        _, status, usage = os.wait4(process.pid, 0)
        with self.lock:
            self.processes.discard(process)
            process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def kill(self, process):
        """Kill a process and its children."""
        with self.lock:
            if process in self.processes:
                os.killpg(process.pid, signal.SIGKILL)

    def stop(self):
        """Kill all processes and start no other."""
        with self.lock:
            self.stopping = True
            for process in self.processes:
                os.killpg(process.pid, signal.SIGKILL)


running = Running()


class Job:
    """A command whose output goes to a file and to read()."""

    echo = False
    environment = {}
    limit = GUEST_LIMIT

    def __init__(self, folder, name, command):
        self.lane, self.name, self.command = folder, f"{folder}/{name}", command
        self.programs = []
        self.seconds = self.cpu = 0
        self.status = None
        self.log = LOG / folder / re.sub(r"[/ ]", "-", name)

    def read(self, line, tell):
        """Handle a line of output; call tell(program) when a program has ended."""

    def finish(self, tell):
        """Handle the end of the output."""

    def run(self, tell):
        """Run the command, and return when it has ended."""
        began = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        process = running.start(self.command, self.environment)
        timer = threading.Timer(self.limit, running.kill, [process])
        timer.start()
        with open(self.log, "w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if self.echo:
                    print(line, end="", flush=True)
                self.read(line.rstrip("\r\n"), tell)
        timer.cancel()
        process.stdout.close()
        self.status, self.cpu = running.end(process)
        self.seconds = time.monotonic() - began
        self.finish(tell)


class Here(Job):
    """One program on this machine."""

    def __init__(self, program):
        super().__init__(program.lane, program.name, ["bash", "-c", program.command])
        self.limit = GUEST_LIMIT if program.lane == "chroot" else NATIVE_LIMIT
        self.programs = [program]
        self.environment = ENVIRONMENT.get(program.lane, {}) | {
            "KARENA_SOURCE": "embedded", "BUILD": "build"}

    def read(self, line, tell):
        self.programs[0].feed(line)

    def run(self, tell):
        self.programs[0].begin()
        super().run(tell)

    def finish(self, tell):
        self.programs[0].end(self.status)
        if self.seconds >= self.limit:
            self.programs[0].fail(f"it still ran after {self.limit} s")
        tell(self.programs[0])


class Guest(Job):
    """A guest with the module loaded, which runs programs one after the other."""

    def __init__(self, lane, programs, kernel, module):
        words = ["selftests/vm/run", "-k", str(kernel), "-t", str(self.limit - 60),
                 "-l", str(LOG / lane / "console"), "selftests/guest-tests"]
        if not lane.endswith("-multi"):
            words.insert(1, "-1")
        for program in programs:
            words += [program.name, program.command]
        super().__init__(lane, "output", words)
        self.environment = {"KARENA_MODULE": str(module)}
        # guest-tests itself checks that the module loads and unloads.
        self.programs = [type(programs[0])(lane, name, "")
                         for name in ("module", "module, at the end")]
        self.programs[1:1] = programs
        self.left = list(self.programs)
        self.current = self.exit = None
        self.said = []          # lines of selftests/vm/run

    def close(self, tell):
        if self.current:
            self.current.end(self.exit)
            if self.current is not self.programs[-1]:
                tell(self.current)
        self.current = self.exit = None

    def read(self, line, tell):
        if line.startswith("# PROGRAM "):
            self.close(tell)
            name = line.removeprefix("# PROGRAM ")
            self.current = next((one for one in self.left if one.name == name), None)
            if self.current:
                self.left.remove(self.current)
                self.current.begin()
        elif re.match(r"# AT \d+ s$", line):
            self.close(tell)
        elif match := re.match(r"# EXIT (\d+)$", line):
            self.exit = int(match[1])
        elif line.startswith("run: "):
            self.said.append(line)
        elif self.current:
            self.current.feed(line)

    def finish(self, tell):
        """Count a failure of the guest itself as one of its last program."""
        self.close(tell)
        last = self.programs[-1]
        if self.left:
            last.fail("the guest did not run " + ", ".join(one.name for one in self.left))
        if self.status:
            last.fail(f"the guest ended with status {self.status}, see {self.log.parent}")
            last.lines += self.said
        tell(last)


def guests(programs, kernels, modules):
    """Return a Guest for each lane that is a guest."""
    lanes = {}
    for program in programs:
        if kernel_of(program.lane):
            lanes.setdefault(program.lane, []).append(program)
    return [Guest(lane, several, kernels[kernel_of(lane)], modules[kernel_of(lane)])
            for lane, several in lanes.items()]
