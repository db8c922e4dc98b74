# SPDX-License-Identifier: GPL-2.0
"""Dicts, lists, strings and bytes, many beyond the 512 bytes of pymalloc.

Prints the KiB that are resident when all are gone.
"""

words = [f"word{i}" * (1 + i % 9) for i in range(20000)]
tables = []
for i in range(3000):
    table = {word: [i, word] for word in words[i % 997:i % 997 + 40]}
    tables.append(table)
    if len(tables) > 400:
        del tables[i * 7919 % 400]
texts = []
for i in range(60000):
    texts.append("".join(words[i % 9000:i % 9000 + 30]))
    if len(texts) > 1000:
        texts[i * 7919 % 1000] = texts.pop()
lines = "\n".join(texts).split("\n")
buffers = [bytearray(600 + i % 9000) for i in range(4000)]
for i in range(100000):
    buffers[i * 7919 % 4000] = bytearray(600 + i * 31 % 9000)
lists = [list(range(i % 500)) for i in range(8000)]
assert len(tables) == 400 and len(lines) == 1000 and len(lists) == 8000

del words, tables, table, texts, lines, buffers, lists
with open("/proc/self/status", encoding="ascii") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmRSS:")))
