"""README and docs do what they say: every command and every Python block is run, every link leads somewhere.

A page runs from top to bottom in a folder of its own (`helpers_docs.make_clone`). A command's own words are all parsed;
those of `SMALLER` follow them, and the last value of an option counts. What needs more than this process has is
parsed alone: `OUTSIDE`, with the reason.
"""

import argparse
import ast
import dataclasses
import importlib
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from helpers_docs import ROOT, make_clone

from minip2p import diffusion
from minip2p.checkpoints import files as checkpoint_files
from minip2p.cli import FILES, TINY_VERBS, VERBS, main
from minip2p.cli.arguments import parse
from minip2p.evaluation import ablation
from minip2p.training import loop

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]
OPENING = [
    "pip install -e . && python sample.py edit --input weights/tiny/example.png"
    ' --edit "make it night" --output night.png',
    "pip install -e '.[test]' && pytest",
]
"""the first two blocks of README, for a fresh machine; .ci/run does the same"""


class Block(NamedTuple):
    kind: str
    """python, text, or "" for the shell"""
    text: str


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block; ["cat", FILE, CONTENT] for a file that is written there."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        if heredoc := re.fullmatch(r"cat > (\S+) <<'(\w+)'", line):
            yield ["cat", heredoc[1], "".join(f"{each}\n" for each in iter(lines.__next__, heredoc[2]))]
            continue
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def all_commands() -> list[list[str]]:
    return [words for page in PAGES for block in blocks(page) if block.kind == "" for words in commands(block.text)]


def verb_of(words: list[str]) -> list[str] | None:
    """The words after minip2p's own name, whichever door a command takes; None for another program. torchrun's own
    parser reads its words; the rest then runs in this one process."""
    if words[0] == "torchrun":
        from torch.distributed.run import parse_args

        given = parse_args(words[1:])
        return verb_of(["python", given.training_script, *given.training_script_args])
    for door, verb in ((["minip2p"], []), (["python", "sample.py"], []), (["python", "train.py"], ["train"])):
        if words[: len(door)] == door:
            return [*verb, *words[len(door) :]]
    return None


# By what smaller words a command is run

SET = "train.preview_every=9 held_out=0 train.workers=0"
SMALLER = {
    "edit": "--steps 1",
    "edit *.ckpt": "--resolution 64",
    "generate": "--steps 1",
    "generate *.ckpt": "--size 64",
    "sdedit": "--steps 1",
    "pair": "--steps 1",
    "invert": "--steps 2 --inner 1",
    "attention": "--steps 1",
    "instructions": "--max-tokens 60",
    "pairs": "--samples 1 --steps 1 --image -1 --caption -1 --direction -1",
    "pairs *.ckpt": "--size 64",
    "pairs ray": "--engine local",  # tests/test_ray.py has a cluster
    "filter": "--image -1 --caption -1 --direction -1",
    "precompute": "--crops 1",
    "precompute sd15": "--size 64",
    "train": "--batch-size 2",
    "train !--resume": "--steps 1",
    "train --resume": "--steps 2",
    "train editor": f"--set {SET}",
    "train editor !--data !--resume": "--set sources=4 edits=2",
    "train editor sd15": "--set size=64",
    "evaluate": "--split all --n 2 --steps 1 --image-scales 1.5 --strengths 0.5",
    "evaluate --weights": "--resolution 64",
    "ablate": f"--split all --steps 1 --batch-size 2 --seeds 1 --number 2 --sampling-steps 1 --set {SET}",
    "ablate !--data": "--set sources=4 edits=2",
    "ablate sd15": "--shard 1/5 --number 1 --set size=64 model.sampling.resolution=64",  # all: tests/test_ablation.py
    "tiny evaluate": "--number 2 --steps 1",
    "tiny make-data": "--captions 4 --samples 1 --steps 1 --compared 1",
    "tiny reproduce": "--size quick --only figure3 --set pairs=1 generation_steps=1",  # all: tests/test_reproduce.py
}
"""a command's verb and other words that it has (*: the end of a word) or has not (!) -> words that follow its own"""
SMALLER_PYTHON = {"steps=30": "steps=1", "steps=10": "steps=2", "start=start": "start=start, steps=1"}
"""text of a Python block -> what is run in its place"""
PRINTED = {
    "tiny evaluate": "| **all** | 2 |",
    "tiny evaluate text2image": "generated from loosely worded captions",
    "tiny evaluate pairs": "other noise",
    "tiny evaluate classifier": "through the autoencoder",
    "tiny evaluate instructions": "| captions | valid | consistent |",
    "show --again": "equal",
}
"""a command, as in SMALLER -> what it prints; the last row that fits"""
MISTAKES = {"no.png": "'editor' is needed"}
"""the output of a command that ends with one line of error, as its page says -> what is in that line"""
MADE = {"docs/training.md": ("before", "after", "edits.jsonl")}
"""what a page makes that others find"""


def fits(row: str, words: list[str]) -> bool:
    """Whether a row of SMALLER is for this command."""
    verb, *others = row.split()

    def has(other: str) -> bool:
        return any(word.endswith(other[1:]) if other[0] == "*" else word == other for word in words)

    return words[0] == verb and all(not has(each[1:]) if each[0] == "!" else has(each) for each in others)


def smaller(words: list[str]) -> list[str]:
    """A command's words and those of all rows that fit; what --set sets in several places is one list."""
    found, values, into = [], [], None
    for word in [*words, *(word for row, more in SMALLER.items() if fits(row, words) for word in more.split())]:
        into = values if word == "--set" else found if word.startswith("--") or into is None else into
        into.append(word)
    return [*found, *(["--set", *(word for word in values if word != "--set")] if values else [])]


# What is parsed alone


class Parsed(Exception):
    """The parser of a script has read its words."""


def parse_script(run: Callable[[], object], name: str, words: list[str], monkeypatch) -> None:
    """Run a script until its own parser has read the words."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser, *given, **how):
        raise Parsed(parse_args(parser, *given, **how))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(Parsed):
        run()


def check_pip(words, monkeypatch):
    tree = ast.parse((ROOT / "setup.py").read_text())
    extras = {key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if key}
    asked = [name for word in words for names in re.findall(r"^\.\[(.+)\]$", word) for name in names.split(",")]
    assert words[2] == "-e" and set(asked) <= extras


def check_pytest(words, monkeypatch):
    paths = [ROOT / word for word in words[1:] if word.startswith("tests")]
    assert all(path.exists() for path in paths)
    if "-k" in words:
        assert f"def test_{words[words.index('-k') + 1]}" in paths[0].read_text() or words[-1] in paths[0].read_text()


def check_fetch(words, monkeypatch):
    """It would download: what it is called with is what a call takes."""
    from minip2p.checkpoints import hub

    fetched = []
    monkeypatch.setattr(hub, "fetch", lambda source, folder: fetched.append((source, folder)))
    exec(words[2], {})
    assert fetched


def check_benchmark(words, monkeypatch):
    module = importlib.import_module(f"benchmarks.{words[2].rpartition('.')[2]}")
    if hasattr(module, "VERBS"):
        assert set(words[3:]) <= set(module.VERBS)
    else:
        argv = [words[3:]] if module.main.__defaults__ else []
        parse_script(lambda: module.main(*argv), words[2], words[3:], monkeypatch)


def check_script(words, monkeypatch):
    parse_script(lambda: runpy.run_path(words[1], run_name="__main__"), words[1], words[2:], monkeypatch)


def check_options(words, monkeypatch):
    assert parse(module_of(verb_of(words)).Options, verb_of(words)[2:], "minip2p tiny") is not None


def check_in_ci(words, monkeypatch):
    """The same line is in .ci/run."""
    assert " ".join(words[:-1]) in (ROOT / ".ci/run").read_text()


def check_nothing(words, monkeypatch):
    pass


OUTSIDE = {
    "pip install": (check_pip, "needs the network"),
    "git clone": (check_nothing, "needs the network"),
    "cd": (check_nothing, "of the shell"),
    "source": (check_nothing, "of the shell"),
    "python -m venv": (check_nothing, "makes an environment that no later command could have"),
    "pytest": (check_pytest, "is what runs this"),
    "ruff": (check_nothing, "CI has it in an environment of its own"),
    "mypy": (check_nothing, "CI has it in an environment of its own"),
    ".ci/run": (check_nothing, "runs this"),
    "pdoc": (check_in_ci, "CI has it in an environment of its own"),
    "python -c": (check_fetch, "needs the network; tests/test_hub.py has a hub"),
    "python -m tests.benchmarks": (check_benchmark, "takes minutes; tests/test_benchmarks.py has thin ones"),
    "python tests/benchmarks/full_size.py": (check_script, "takes 22 GB of disk"),
    "minip2p app": (check_options, "serves until Ctrl-C; tests/test_app_browser.py runs it"),
    "minip2p tiny rebuild": (check_options, "takes hours; tests/test_training.py has a thin one"),
}
"""the start of a command -> what is checked of it, and why it is not run"""


def outside(words: list[str]) -> str | None:
    """The row of OUTSIDE for a command."""
    line = " ".join(words)
    return next((row for row in OUTSIDE if re.match(rf"{re.escape(row)}(?![\w-])", line)), None)


def module_of(words: list[str]) -> ModuleType:
    """The module of a verb."""
    tiny = words[0] == "tiny"
    verb = words[1] if tiny else words[0]
    return importlib.import_module(f"minip2p.cli.{'tiny.' * tiny}{FILES.get(verb, verb).replace('-', '_')}")


# Every page from top to bottom


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "clone"
    folder.mkdir()
    make_clone(folder)
    return folder


@pytest.fixture
def here(clone, tmp_path, monkeypatch) -> Path:
    """A copy of the clone; what a page adds to the tables of parts is undone."""
    folder = tmp_path / "clone"
    shutil.copytree(clone, folder, symlinks=True, copy_function=os.link)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(diffusion.samplers, "SAMPLERS", diffusion.SAMPLERS)
    before = dict(diffusion.SAMPLERS)
    yield folder
    diffusion.SAMPLERS.clear()
    diffusion.SAMPLERS.update(before)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without what takes longer than a training of one step: its estimate of memory, the FLOP of an ablation, and
    reading one .ckpt again for each variant of it."""
    read = cache(checkpoint_files.read_torch)

    def read_once(path):
        tensors, words = read(path)
        return {name: tensor.clone() for name, tensor in tensors.items()}, dict(words)

    monkeypatch.setattr(checkpoint_files, "read_torch", read_once)
    monkeypatch.setattr(loop, "describe_memory", lambda *_: "")
    monkeypatch.setattr(ablation, "cost_of_run", lambda _: {})


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow) for page in PAGES])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_command_of_a_page_runs(page, here, quick, monkeypatch, capsys):
    for name in MADE.get(page, ()):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    names: dict = {}
    for block in blocks(page):
        if block.kind == "python":
            source = block.text
            for long, short in SMALLER_PYTHON.items():
                source = source.replace(long, short)
            exec(compile(source, page, "exec"), names)
        for words in commands(block.text) if block.kind == "" else ():
            run(words, monkeypatch, capsys)


def run(words: list[str], monkeypatch, capsys) -> None:
    """Run or parse one command."""
    while re.match(r"[A-Z_0-9]+=", words[0]):
        words = words[1:]
    capsys.readouterr()
    if row := outside(words):
        with monkeypatch.context() as patch:
            OUTSIDE[row][0](words, patch)
    elif words[0] == "cat":
        Path(words[1]).write_text(words[2])
    elif words[0] == "python" and len(words) == 2 and Path(words[1]).is_file():
        runpy.run_path(words[1], run_name="__main__")
    else:
        verb = verb_of(words)
        assert verb is not None, f"{' '.join(words)}: a command that this test does not know"
        status = main(smaller(verb))
        wrong = next((line for name, line in MISTAKES.items() if name in words), None)
        printed = capsys.readouterr()
        assert status == (2 if wrong else 0), f"{' '.join(words)}: {printed.err or printed.out}"
        assert wrong is None or wrong in printed.err
        expected = [text for row, text in PRINTED.items() if fits(row, verb)]
        assert not expected or expected[-1] in printed.out


# What holds for all of them


def test_the_first_two_commands_are_those_of_a_fresh_machine():
    """And CI does the first one."""
    assert [block.text.strip() for block in blocks("README.md") if block.kind == ""][:2] == OPENING
    assert OPENING[0].partition("--output")[0].replace("pip install", "pip install --quiet") in text_of(".ci/run")


def test_readme_and_pages_are_short():
    assert len(text_of("README.md").splitlines()) <= 150
    assert all(len(text_of(page).splitlines()) <= 150 for page in PAGES)
    assert all("After this page you" in text_of(page) for page in PAGES if page.startswith("docs/"))


def test_the_tables_of_this_file_are_no_longer_than_needed():
    found = all_commands()
    verbs = [verb for words in found if not outside(words) and (verb := verb_of(words))]
    assert set(map(outside, found)) - {None} == set(OUTSIDE)
    assert [row for row in [*SMALLER, *PRINTED] if not any(fits(row, words) for words in verbs)] == []
    python = "".join(block.text for page in PAGES for block in blocks(page) if block.kind == "python")
    assert all(text in python for text in SMALLER_PYTHON)
    assert all(any(name in words for words in verbs) for name in MISTAKES)


def test_no_command_hides_in_a_block_that_is_not_run():
    """Blocks of text are not run, and no block has a kind that nobody runs."""
    assert {block.kind for page in PAGES for block in blocks(page)} == {"", "python", "text"}
    programs = {words[0] for words in all_commands()} | {"minip2p"}
    for page in PAGES:
        shown = [line.split() for block in blocks(page) if block.kind == "text" for line in block.text.splitlines()]
        assert not [line for line in shown if line and line[0] in programs - {"cat", "cd"}]


def options_of(kind: type) -> set[str]:
    """The names of all options of a verb, with those of the groups in it."""
    names = set()
    for field in dataclasses.fields(kind):
        names.add(f"--{field.name.replace('_', '-')}")
        inner = field.default if dataclasses.is_dataclass(field.default) else field.default_factory
        if dataclasses.is_dataclass(inner):
            names |= options_of(inner if isinstance(inner, type) else type(inner))
    return names


def test_options_in_the_text_are_there():
    """`--words` in a sentence are options of some verb, or of a benchmark."""
    verbs = [[verb] for verb in VERBS if verb != "tiny"] + [["tiny", verb] for verb in TINY_VERBS]
    known = {name for verb in verbs for name in options_of(module_of(verb).Options)}
    known |= {f"--no-{name[2:]}" for name in known} | {"--help", "--only", "--thin"}
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
        code = " ".join(re.findall(r"`([^`]+)`", prose))
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known, page


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    plain = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_public_name_has_a_docstring():
    """Of the package's functions and classes, which are the API page."""
    missing = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in sorted((ROOT / "minip2p").rglob("*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert missing == []


def test_names_in_docstrings_and_pages_are_there():
    """`minip2p.load`, `checkpoints.read`: what begins with the package or a room of it is a name that Python finds."""
    rooms = {path.stem for path in (ROOT / "minip2p").iterdir() if path.suffix in ("", ".py")}
    rooms = "|".join(rooms - {"config"})  # in docstrings that is an argument
    form = re.compile(rf"`(?:minip2p\.)?((?:{rooms}|load|save|shipped)(?:\.[A-Za-z_]\w*)*)`")
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "minip2p").rglob("*.py")] + [*map(text_of, PAGES)]
    names = {name for text in texts for name in form.findall(text) if "." in name and not name.endswith(".py")}
    missing = [name for name in sorted(names) if not found(name)]
    assert len(names) > 20 and missing == []


def found(name: str) -> bool:
    """Whether the package has something of this name."""
    try:
        return pkgutil.resolve_name(f"minip2p.{name}") is not None
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("page", [*PAGES, "weights/tiny/README.md"])
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target.relative_to(ROOT).as_posix()), f"{page}: {link}"


def test_every_page_and_picture_is_linked_from_the_readme_or_a_page():
    linked = {
        (ROOT / page).parent.joinpath(link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    }
    assert {ROOT / page for page in PAGES if page != "README.md"} <= linked
    shown = {ROOT / "weights/tiny" / path.name for path in (ROOT / "weights/tiny").glob("*.png")}
    assert len(shown & linked) >= len(shown) - 2


def test_a_command_that_nobody_knows_fails(monkeypatch, capsys):
    with pytest.raises(AssertionError, match="does not know"):
        run(["minipix", "edit"], monkeypatch, capsys)
    assert main(smaller(["edit", "--no-such-option"])) == 2
    assert smaller(["train", "editor", "--set", "a=1", "b=2", "--out", "x"])[-8:][:3] == ["--set", "a=1", "b=2"]
