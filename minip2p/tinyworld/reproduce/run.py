"""The reproduction: all parts, one after the other, and the report of those that are done."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...evaluation.summary import new_figure
from ...files import lock_folder, write_file
from ...units import cpu_threads, existing, open_header
from .ablations import ablation
from .ceiling import ceiling
from .figure3 import figure3
from .figure8 import figure8
from .figure10 import figure10
from .made import made
from .parts import Section, Setup, read_section, write_section
from .report import to_html, to_markdown

PARTS: dict[str, Callable[[Setup], Section]] = {
    "figure3": figure3,
    "made": made,
    "figure8": figure8,
    "figure10": figure10,
    "ceiling": ceiling,
    "ablation": ablation,
}
"""in the order of the report. Figure 10 and the ceiling make the pairs of "made" where they are missing"""
HEADER = "run.json"
REPORT = ("report.md", "report.html")


def reproduce(setup: Setup, parts: Sequence[str] = tuple(PARTS)) -> Iterator[str]:
    """Make these parts, or what is missing of them; after each, which is yielded, the report is written.

    Raises ValueError for an unknown part, without matplotlib, and for a folder of other models, sizes or files.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise ValueError(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    new_figure(1, 1)
    there = {name for name in existing(setup.out) if name[0] != "."} - {setup.weights.name}
    if there and HEADER not in there:
        raise ValueError(f"output {setup.out} holds other files, such as {min(there)}; choose a new folder")
    with lock_folder(setup.out):
        threads = open_header(setup.out / HEADER, setup.header)
        for name in PARTS:
            if name not in parts:
                continue
            if read_section(setup.out / name) is None:
                with cpu_threads(threads):
                    write_section(setup.out / name, PARTS[name](setup))
            write_report(setup)
            yield name


def write_report(setup: Setup) -> tuple[Path, Path]:
    """Write the report of all parts that are done, as Markdown and as HTML."""
    sections = {name: section for name in PARTS if (section := read_section(setup.out / name))}
    text = to_markdown(sections, setup.header)
    markdown, page = (setup.out / name for name in REPORT)
    write_file(page, to_html(text, setup.out))
    write_file(markdown, text)
    return markdown, page
