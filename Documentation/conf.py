# SPDX-License-Identifier: GPL-2.0
"""Sphinx: these documents, and the comments of the headers by the kernel's kernel-doc.

KARENA_KERNEL_SOURCE names a kernel's source; by default it is Debian's, from the cache.
"""

import logging
import os
import pathlib
import subprocess
import sys

from docutils import nodes

top = pathlib.Path(__file__).resolve().parent.parent
source = os.environ.get("KARENA_KERNEL_SOURCE") or subprocess.run(
    [top / "selftests" / "vm" / "source", "6.1"], check=True, stdout=subprocess.PIPE,
    text=True).stdout.strip()
sys.path.insert(0, f"{source}/Documentation/sphinx")

project = "karena"
author = "the karena authors"
extensions = ["kerneldoc"]
kerneldoc_bin = f"{source}/scripts/kernel-doc"
kerneldoc_srctree = str(top)
exclude_patterns = ["ABI", "man", "performance", "performance.md"]
highlight_language = "none"
html_theme = "alabaster"
html_show_sourcelink = False
html_theme_options = {"body_max_width": "60em", "page_width": "auto"}


def one_of_two_names(record):
    """Keep a message, unless it is about a struct and a function of the same name.

    C has both; the C domain of Sphinx 5 calls the second one a duplicate.
    """
    text = record.getMessage()
    return not ("Duplicate C declaration" in text and
                ("ka_domain_stats" in text or "ka_trace_entry" in text))


logging.getLogger("sphinx.sphinx.domains.c").addFilter(one_of_two_names)


def drop_empty_parentheses(_app, doctree):
    """Drop "NAME ()" and "Parameters", which kernel-doc prints for a macro without any."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        after = paragraph.next_node(descend=False, siblings=True)
        empty = (paragraph.astext() == "Parameters"
                 and not isinstance(after, nodes.definition_list))
        if empty or (paragraph.astext().endswith(" ()")
                     and isinstance(paragraph[0], nodes.literal)):
            paragraph.parent.remove(paragraph)


def setup(app):
    app.connect("doctree-read", drop_empty_parentheses)
