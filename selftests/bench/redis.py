# SPDX-License-Identifier: GPL-2.0
"""Redis on an allocator: each sample has its own server, on a Unix socket.

Debian links Redis with jemalloc, so glibc's malloc has to be preloaded, too.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

from contenders import output

KEYS, BYTES, REQUESTS, CLIENTS = 300_000, 200, 50_000, 4
SECONDS = 60        # time limit for a start and for a save


class Server:
    """A server, and a connection to it."""

    def __init__(self, preload, directory):
        self.socket = directory + "/socket"
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
             "--appendonly", "no", "--dir", directory],
            env=os.environ | {"LD_PRELOAD": preload or "libc.so.6"},
            stdout=subprocess.DEVNULL)
        self.connection = self.replies = None

    def connect(self):
        """Wait until the server listens, and connect."""
        end = time.monotonic() + SECONDS
        connection = socket.socket(socket.AF_UNIX)
        while connection.connect_ex(self.socket):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("redis-server does not listen")
            time.sleep(0.01)
        connection.settimeout(SECONDS)
        self.connection, self.replies = connection, connection.makefile("rb")

    def stop(self):
        if self.connection:
            self.replies.close()
            self.connection.close()
        self.process.kill()
        self.process.wait()

    def command(self, text):
        """Return the text of the reply to a command; an error is a reply, too."""
        self.connection.sendall(text.encode() + b"\r\n")
        line = self.replies.readline()
        if line.startswith(b"$"):
            return self.replies.read(int(line[1:]) + 2).decode()
        return line.decode()

    def persistence(self, name):
        return int(re.search(rf"\b{name}:(\d+)", self.command("INFO persistence"))[1])

    def kib(self, name):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(re.search(rf"{name}:\s*(\d+)", status)[1])

    def fill(self):
        """Set all keys, under the names that redis-benchmark uses."""
        commands = "".join(f"SET key:{i:012} {'x' * BYTES}\r\n" for i in range(KEYS))
        replies = output(["redis-cli", "-s", self.socket, "--pipe"], input=commands)
        if f"replies: {KEYS}" not in replies or "errors: 0" not in replies:
            raise RuntimeError(f"redis-cli: {replies}")

    def benchmark(self, *arguments):
        return ["redis-benchmark", "-s", self.socket, "-d", str(BYTES), *arguments]


@contextlib.contextmanager
def server_on(preload):
    with tempfile.TemporaryDirectory() as directory:
        server = Server(preload, directory)
        try:
            server.connect()
            yield server
        finally:
            server.stop()


def run(preload):
    """Return the time of a client with many kinds of commands, and the server's memory."""
    with server_on(preload) as server:
        start = time.monotonic()
        output(server.benchmark("-q", "-n", "50000", "-P", "16", "-r", "30000", "-t",
                                "set,get,lpush,lpop,sadd,hset"))
        seconds = time.monotonic() - start
        peak = server.kib("VmHWM")
        server.command("FLUSHALL SYNC")
        return {"": seconds * 1e3, "peak": peak, "end": server.kib("VmRSS")}


def percentiles(text):
    """Return the percentiles that redis-benchmark prints, converted from ms to us."""
    rows = [(float(part), float(value)) for part, value in
            re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds", text.partition("Cumul")[0])]
    return {name: 1e3 * min(value for part, value in rows if part >= least)
            for name, least in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100))}


def save_during(server, command):
    """Run a client while the server saves again and again.

    Return the output of the client, and the most KiB that a save copied.
    """
    copied = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            while client.poll() is None:
                if not server.persistence("rdb_bgsave_in_progress"):
                    copied.append(server.persistence("rdb_last_cow_size") // 1024)
                    server.command("BGSAVE")
                time.sleep(0.05)
            text = client.stdout.read()
        finally:
            client.kill()
    end = time.monotonic() + SECONDS
    while server.persistence("rdb_bgsave_in_progress"):
        if time.monotonic() > end:
            raise RuntimeError("redis-server: a save without end")
        time.sleep(0.05)
    return text, max(copied + [server.persistence("rdb_last_cow_size") // 1024])


def run_saving(preload):
    """Return the time of requests while the server saves, and memory before and after."""
    with server_on(preload) as server:
        server.fill()
        figures = {"rss-full": server.kib("VmRSS")}
        text, copied = save_during(server, server.benchmark(
            "-n", str(REQUESTS), "-c", str(CLIENTS), "-r", str(KEYS), "-t", "set",
            "--precision", "3"))
        figures |= percentiles(text)
        figures |= {"copied": copied, "peak": server.kib("VmHWM")}
        server.command("FLUSHALL SYNC")
        # All allocators have the same time to return memory.
        time.sleep(1)
        server.command("PING")
        return figures | {"rss-flushed": server.kib("VmRSS")}
