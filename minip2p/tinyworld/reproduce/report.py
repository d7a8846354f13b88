"""The report: a text in Markdown of all parts that are done, and the same as one HTML file with its figures inside."""

import base64
import html
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from .claims import AGREES, DISAGREES, RULE, UNDECIDED, table

IMAGE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #202024 }
img { max-width: 100% } .wide { overflow-x: auto } h2 { margin-top: 3rem; border-top: 1px solid #ddd }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 4px 8px; border-bottom: 1px solid #ddd }
th { text-align: left } code { background: #f4f4f6; padding: 0 3px }
"""


def to_markdown(sections: Mapping[str, Mapping[str, Any]], header: Mapping[str, Any]) -> str:
    """sections: name of a part, which is its folder -> title, text, claims. header: what determines the results."""
    claims = [claim for each in sections.values() for claim in each["claims"]]
    counts = Counter(claim["verdict"] for claim in claims)
    numbers = ", ".join(f"{word}: {counts[word]}" for word in (AGREES, DISAGREES, UNDECIDED))
    models = ", ".join(f"{name} {mark}" for name, mark in header["models"].items())
    sizes = ", ".join(f"{key} {value}" for key, value in header.items() if key not in ("minip2p", "models", "device"))
    body = "\n\n".join(_section(name, each) for name, each in sections.items())
    return _wrapped(f"""# InstructPix2Pix in the tiny world: what the paper claims, and what came out

Made by `minip2p tiny reproduce` (minip2p {header["minip2p"]}, {header["device"]}), at {header["pixels"]} pixels. The
paper prints curves and no numbers, so what can be reproduced is their shape. {RULE} The rules were written before the
numbers were seen.

**{len(claims)} claims. {numbers}.**

{table(claims)}

{body}

## What was run

Models (fingerprints of their weights): {models}.

Sizes: {sizes}.
""")


def _section(name: str, section: Mapping[str, Any]) -> str:
    text = IMAGE.sub(lambda found: f"![{found[1]}]({name}/{found[2]})", section["text"])
    claims = f"\n\n{table(section['claims'])}" if section["claims"] else ""
    return f"## {section['title']}\n\n{text.strip()}{claims}"


def _wrapped(text: str) -> str:
    """The text with the lines of its paragraphs equally long: numbers were put into them."""
    blocks = text.strip().split("\n\n")
    how = {"width": 120, "break_long_words": False, "break_on_hyphens": False}
    return (
        "\n\n".join(each if each[0] in "|#!-" else fill(each, **how) for each in filter(None, map(str.strip, blocks)))
        + "\n"
    )


# HTML


def to_html(markdown: str, folder: Path) -> str:
    """The report as one HTML file. markdown: of blocks between empty lines: headings, tables, figures (files below
    `folder`), lists and paragraphs, with **bold**, *emphasis* and `code`."""
    blocks = [_block(block.strip(), folder) for block in markdown.split("\n\n") if block.strip()]
    title = html.escape(markdown.splitlines()[0].lstrip("# "))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f"<!doctype html>\n{head}\n<style>{STYLE}</style>\n" + "\n".join(blocks) + "\n"


def _block(block: str, folder: Path) -> str:
    lines = block.split("\n")
    if found := re.fullmatch(r"(#+) (.*)", block):
        return f"<h{len(found[1])}>{_inline(found[2])}</h{len(found[1])}>"
    if found := IMAGE.fullmatch(block):
        data = base64.b64encode((folder / found[2]).read_bytes()).decode()
        return f'<figure><img alt="{html.escape(found[1])}" src="data:image/png;base64,{data}"></figure>'
    if lines[0].startswith("|"):
        head, _, *rows = ([_inline(cell.strip()) for cell in line.strip("|").split("|")] for line in lines)
        body = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
        top = "".join(f"<th>{cell}</th>" for cell in head)
        return f'<div class="wide"><table><tr>{top}</tr>\n' + "\n".join(body) + "</table></div>"
    if all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*([^*]+)\*\*", "strong"), (r"\*([^*]+)\*", "em")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text
