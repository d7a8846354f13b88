"""The lessons in examples/: stored with their pictures, clean, and right from top to bottom, answers included.

MINIP2P_LESSONS=1 python -m pytest tests/test_lessons.py          # executes them, too: minutes
"""

import ast
import importlib
import importlib.util
import json
import os
import re
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
ANSWER = re.compile(r"<details>\n<summary>Answer</summary>\n.*?</details>", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PLACE = re.compile(r"(?<![\w.])/(root|home|tmp|usr|opt|mnt|work|var|Users)/|[A-Za-z]:\\\\")
CLOCK = "import time; print(time.process_time())"
MOST_SECONDS = 300
"""of CPU time, for a lesson without its answers"""
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


@cache
def cells(lesson: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def folded(lesson: Path) -> list[str]:
    """The exercises' answers, each as it is folded."""
    return [answer for cell in cells(lesson, "markdown") for answer in ANSWER.findall(source(cell))]


def programs(lesson: Path) -> list[str]:
    """All code: the cells', then the answers'."""
    return [source(cell) for cell in cells(lesson, "code")] + [
        code for fold in folded(lesson) for code in CODE.findall(fold)
    ]


def outputs(lesson: Path) -> list[dict]:
    return [output for cell in cells(lesson, "code") for output in cell["outputs"]]


def test_there_are_four_lessons():
    assert [lesson.stem[:2] for lesson in LESSONS] == ["1_", "2_", "3_", "4_"]


@each_lesson
def test_it_is_stored_as_it_ran(lesson):
    """In one order, from top to bottom, with pictures; nothing raised or warned; as nbformat writes it."""
    text = lesson.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert len(text.encode()) < 1_000_000
    counts = [cell["execution_count"] for cell in cells(lesson, "code")]
    assert counts == [*range(1, len(counts) + 1)]
    assert {output["output_type"] for output in outputs(lesson)} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs(lesson) if output["output_type"] == "stream"} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs(lesson)) >= 3


@each_lesson
def test_it_names_no_machine(lesson):
    """No paths, times, progress bars or colours of a terminal; no metadata of an editor."""
    book = json.loads(lesson.read_text(encoding="utf-8"))
    assert {*book["metadata"]} == {"kernelspec", "language_info"} and {*book["metadata"]["language_info"]} == {"name"}
    assert not any(cell["metadata"] for cell in book["cells"])
    for output in outputs(lesson):
        output = {kind: value for kind, value in output.get("data", output).items() if kind != "image/png"}
        text = json.dumps(output, ensure_ascii=False)
        assert not PLACE.search(text) and not re.search(r"\\r|\\u001b|it/s|\d%\|", text), text
    for text in [*map(source, cells(lesson, "markdown")), *programs(lesson)]:
        assert not PLACE.search(text), text


@each_lesson
def test_it_ends_with_exercises_and_folded_answers(lesson):
    """Three to five; each answer is folded and can be run."""
    texts = [source(cell) for cell in cells(lesson, "markdown")]
    [first] = [i for i, text in enumerate(texts) if "## Exercises" in text]
    exercises = texts[first + 1 :]
    assert 3 <= len(exercises) <= 5
    for i, text in enumerate(exercises, 1):
        assert text.startswith(f"**{i}. ") and len(ANSWER.findall(text)) == 1 == text.count("<details>"), text
        assert len(CODE.findall(text)) == 1 and text.rstrip().endswith("</details>"), text
    assert len(folded(lesson)) == len(exercises)


@each_lesson
def test_it_uses_what_is_public(lesson):
    """Every import of minip2p exists and has no underscore, nor has an attribute; no size of a model is in it."""
    for program in programs(lesson):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "minip2p":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert not alias.name.startswith("_") and hasattr(module, alias.name), alias.name
            names = node.module.split(".") if isinstance(node, ast.ImportFrom) else [getattr(node, "attr", "")]
            assert not any(re.match(r"_(?!_)", name) for name in names), names
            assert getattr(node, "value", None) not in (64, 128), "read sizes from the pipeline"


def test_the_rules_find_what_they_forbid():
    assert PLACE.search("saved to /tmp/x") and PLACE.search("/root/y") and not PLACE.search("data/home/x, and/or")
    assert ANSWER.findall("<details>\n<summary>Answer</summary>\n\nx\n</details>") and not ANSWER.findall("<details>x")


@pytest.mark.slow
@pytest.mark.skipif("MINIP2P_LESSONS" not in os.environ, reason="takes minutes: MINIP2P_LESSONS=1 executes the lessons")
@each_lesson
def test_it_runs_from_top_to_bottom(lesson):
    """Without an error or a warning, in bounded time, as `examples/execute.py` runs it; then its answers."""
    for name in ("nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(name, reason=f"{name} is missing: pip install -e '.[lessons]'")
    import nbformat

    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)

    book = nbformat.read(lesson, as_version=4)
    clock, *answers = map(nbformat.v4.new_code_cell, [CLOCK, *programs(lesson)[len(cells(lesson, "code")) :]])
    book.cells += [clock, *answers]
    execute.execute(book)
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code") and answers
    assert 1 < float(clock.outputs[0].text) < MOST_SECONDS
