# SPDX-License-Identifier: GPL-2.0
"""Prints a C program of several thousand lines, for a compiler to work on."""

FUNCTION = """
struct s{i} {{ int a[{n}]; struct s{i} *next; const char *name; }};

static int f{i}(struct s{i} *s, int n)
{{
\tint sum = {i};

\tfor (struct s{i} *at = s; at; at = at->next) {{
\t\tfor (int i = 0; i < n && i < {n}; i++)
\t\t\tsum += at->a[i] * (i ^ {i}) - (at->a[i] > sum ? at->a[i] / 3 : sum >> 2);
\t\tif (at->name && at->name[0] == "name {i}"[sum & 3])
\t\t\tsum -= n;
\t}}
\tswitch (sum % 5) {{
\tcase 0: return sum * {n};
\tcase 1: return sum - n;
\tcase 2: return sum ^ {i};
\tdefault: return n;
\t}}
}}

int g{i}(int n)
{{
\tstruct s{i} one = {{ {{ 1, n }}, 0, "one" }}, two = {{ {{ n }}, &one, "two" }};

\treturn f{i}(&two, n) + f{i}(&one, n + 1);
}}
"""

for number in range(120):
    print(FUNCTION.format(i=number, n=number % 7 + 2), end="")
