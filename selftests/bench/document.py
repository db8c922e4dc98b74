# SPDX-License-Identifier: GPL-2.0
"""A document that can be written as Markdown and as one HTML file.

Texts may have `code`, *emphasis*, **weight** and [links](#to), as Markdown has them.
"""

import html
import re
import typing


class Heading(typing.NamedTuple):
    level: int
    text: str


class Text(typing.NamedTuple):
    text: str


class List(typing.NamedTuple):
    """Numbered, each item with an anchor, name-1 and so on; or, without a name, not."""

    items: list
    name: str = ""


class Table(typing.NamedTuple):
    """The first columns, as many as said, are text, the others numbers."""

    header: list
    rows: list
    text_columns: int = 1
    folded: str = ""        # a title, behind which the table is hidden at first


class Picture(typing.NamedTuple):
    name: str
    title: str
    svg: str


def anchor(title):
    """Where a heading can be reached, as Markdown's readers make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def contents(blocks):
    """Links to the headings of the second level."""
    return Text(" | ".join(f"[{block.text}](#{anchor(block.text)})" for block in blocks
                           if isinstance(block, Heading) and block.level == 2))


def inline(text):
    """The HTML of a text."""
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"\*([^*\s][^*]*)\*", r"<em>\1</em>", text)
    return re.sub(r"\[([^]]+)\]\((#[\w-]+)\)", r'<a href="\2">\1</a>', text)


def markdown_table(table):
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    rules = ["---" if column < table.text_columns else "---:"
             for column in range(len(table.header))]
    text = "\n".join([line(table.header), line(rules), *map(line, table.rows)])
    if not table.folded:
        return text
    return (f"<details><summary>{inline(table.folded)}</summary>\n\n{text}\n\n</details>")


def markdown_block(block, pictures):
    """A block; pictures is where their files are, as seen from the document."""
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Table):
        return markdown_table(block)
    if isinstance(block, Picture):
        return f"![{block.title}]({pictures}{block.name}.svg)"
    if block.name:
        return "\n".join(f'{number}. <a id="{block.name}-{number}"></a>{item}'
                         for number, item in enumerate(block.items, 1))
    return "\n".join(f"- {item}" for item in block.items)


def markdown(blocks, pictures=""):
    return ("<!-- SPDX-License-Identifier: GPL-2.0 -->\n\n"
            + "\n\n".join(markdown_block(block, pictures) for block in blocks) + "\n")


CSS = """
:root { color-scheme: light dark; --text: #1c1e21; --back: #ffffff; --line: #d0d4da;
  --soft: #f3f5f7; --good: #11703c; --bad: #b3261e; --none: #6a6f76; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e5e8; --back: #15181c;
  --line: #3a4048; --soft: #1f242a; --good: #5fc98a; --bad: #ff8a80; --none: #9aa1aa;
  --link: #7db8f5; } }
* { box-sizing: border-box; }
body { color: var(--text); background: var(--back); margin: 0 auto; max-width: 66rem;
  padding: 1rem; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; margin: 2.2rem 0 .6rem; }
h1 { margin-top: .6rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
a { color: var(--link); }
code { background: var(--soft); padding: 0 .25em; border-radius: 3px; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
th:first-child, td:first-child { min-width: 10rem; }
th:last-child:not(.number), td:last-child:not(.number) { min-width: 9rem; }
th { background: var(--soft); }
th.number, td.number { text-align: right; white-space: nowrap; }
tbody tr:hover { background: var(--soft); }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
.not-measured { color: var(--none); }
summary { cursor: pointer; color: var(--link); }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 34rem; max-width: 60rem; height: auto; }
li { margin: .3rem 0; }
"""


def html_cell(tag, text, number):
    """Cells that say what became of a promise are coloured, too."""
    classes = ["number"] if number else []
    for status in ("met", "missed", "not measured"):
        if text.lower() == status:
            classes.append(status.replace(" ", "-"))
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{attribute}>{inline(text)}</{tag}>"


def html_table(table):
    def row(tag, cells):
        return "<tr>" + "".join(html_cell(tag, text, column >= table.text_columns)
                                for column, text in enumerate(cells)) + "</tr>"
    text = ('<div class="scroll"><table><thead>' + row("th", table.header)
            + "</thead><tbody>\n" + "\n".join(row("td", cells) for cells in table.rows)
            + "\n</tbody></table></div>")
    if not table.folded:
        return text
    return f"<details><summary>{inline(table.folded)}</summary>{text}</details>"


def html_picture(picture):
    """The drawing alone: what it begins with as a file, and its own style, go."""
    svg = picture.svg[picture.svg.index("<svg"):]
    svg = re.sub(r"<style>.*?</style>", "", svg, flags=re.S)
    label = html.escape(picture.title)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>{svg}</figure>"


def html_block(block):
    if isinstance(block, Heading):
        place = f' id="{anchor(block.text)}"' if block.level == 2 else ""
        return f"<h{block.level}{place}>{inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Table):
        return html_table(block)
    if isinstance(block, Picture):
        return html_picture(block)
    tag = "ol" if block.name else "ul"
    items = [f'<li id="{block.name}-{number}">' if block.name else "<li>"
             for number in range(1, len(block.items) + 1)]
    return (f"<{tag}>" + "\n".join(start + inline(item) + "</li>"
                                   for start, item in zip(items, block.items))
            + f"</{tag}>")


def page(title, blocks, style):
    """An HTML file that needs no other."""
    return ("<!DOCTYPE html>\n<!-- SPDX-License-Identifier: GPL-2.0 -->\n"
            '<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n"
            f"<style>{CSS}{style}</style></head>\n<body>\n"
            + "\n".join(map(html_block, blocks)) + "\n</body></html>\n")
