"""The house keeps its order: who imports whom, what files hold, and what importing does (nothing)."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minip2p"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL = [*FILES, *ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]

PARTS = {"config", "schema", "files", "cores", "nn", "models", "diffusion", "text", "data", "control", "checkpoints"}
RUN = PARTS | {"pipeline", "loading"}
UNITS = {"units", "engines"}
MAY_SEE = {
    "schema": set(),
    "tokenizer_files": {"schema", "files"},
    "config": {"schema"},
    "regular": set(),
    "cores": set(),
    "files": {"regular"},
    "nn": {"config"},
    "models": {"config", "nn"},
    "diffusion": {"config"},
    "text": {"config", "schema", "files", "regular", "tokenizer_files"},
    "data": {"config", "schema", "files", "regular"},
    "control": {"nn", "text"},
    "checkpoints": {"config", "schema", "files", "regular", "tokenizer_files"},
    "pipeline": PARTS,
    "loading": PARTS | {"pipeline"},
    "units": {"files", "schema"},
    "engines": {"files", "units"},
    "evaluation": RUN | UNITS,
    "datagen": RUN | UNITS | {"evaluation.metrics"},
    "training": RUN | {"evaluation.metrics"},
    "tinyworld": RUN | UNITS | {"evaluation", "datagen", "training"},
    "__init__": set(),
    "__main__": {"cli"},
}
"""room -> the rooms, or modules of a room, that it may import"""
ANYTHING = {"cli", "app"}
"""Those that may import all of them."""


def room(file: Path) -> str:
    """The room that a file of the package lies in."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[tuple[str, ...]]:
    """Every module that a file imports, anywhere in it, as parts of an absolute name."""
    here = ("minip2p", *file.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found |= {(*base, alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    own = room(file)
    if own in ANYTHING:
        return
    assert own in MAY_SEE, f"{own} is a new room: say in MAY_SEE what it may import"
    seen = {".".join(name[1:3]) for name in imports(file) if name[0] == "minip2p" and len(name) > 1}
    rooms = {name for name in seen if name.split(".")[0] in MAY_SEE.keys() | ANYTHING}
    wrong = {name for name in rooms if not {name, name.split(".")[0]} & (MAY_SEE[own] | {own})}
    assert not wrong, f"{own} may not import {', '.join(wrong)}"


def module(file: Path) -> tuple[str, ...]:
    """A file's name as a module, in parts."""
    parts = ("minip2p", *file.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def circle(graph: dict) -> list:
    """Modules that import each other in a ring, or none. graph: module -> the modules that it imports."""
    done = set()

    def visit(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for after in sorted(graph[name]):
                if found := visit(after, [*path, name]):
                    return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_no_modules_import_each_other():
    """Neither at once nor late, in a function or for type checking only: each can be read without the other."""
    files = {module(file): file for file in FILES}
    graph = {name: set() for name in files}
    for name, file in files.items():
        for found in imports(file):
            graph[name] |= {found if found in files else found[:-1]} & (files.keys() - {name})
    assert len(graph) > 100 and circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_only_commands_and_examples_import_the_tiny_world():
    """Of all files, those at the root too; tests may."""
    outside = [file for file in ALL if file not in FILES and "tests" not in file.parts and "examples" not in file.parts]
    found = [file.name for file in outside if "tinyworld" in file.read_text(encoding="utf-8")]
    within = {room(file) for file in FILES if any(name[:2] == ("minip2p", "tinyworld") for name in imports(file))}
    assert not found and within <= {"cli", "app", "tinyworld"}


def kept_lambdas(source: str) -> list[int]:
    """Lines with a lambda that an attribute or a class keeps, in a table too: what holds one cannot be pickled."""
    tree = ast.parse(source)
    bodies = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    values = [node.value for body in bodies for node in body.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Attribute) for target in node.targets):
            values.append(node.value)
    lines = []
    while values:
        value = values.pop()
        if isinstance(value, ast.Lambda):
            lines.append(value.lineno)
        elif isinstance(value, (ast.Dict, ast.List, ast.Tuple, ast.IfExp, ast.BoolOp)):
            values += [child for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr)]
    return lines


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_lambda_is_kept(file):
    assert not kept_lambdas(file.read_text(encoding="utf-8"))


def test_the_rule_finds_lambdas_that_are_kept():
    source = "TABLE = {'a': lambda x: x}\nf = max([1], key=lambda x: x)\nclass A:\n    g = lambda x: x\n"
    source += "    def __init__(self, on):\n        h = lambda x: x\n        self.h = None if on else lambda x: x\n"
    assert sorted(kept_lambdas(source)) == [4, 7]


@pytest.mark.parametrize("file", ALL, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_formatter_decides_the_brackets(file):
    text = file.read_text(encoding="utf-8")
    assert not any(f"fmt: {word}" in text for word in ("skip", "off"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nothing_leans_on_the_oracles(file):
    assert not {name[0] for name in imports(file)} & {"diffusers", "transformers", "accelerate", "k_diffusion"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_one_file_writes_atomically(file):
    """Who needs a temporary file and a rename calls `files.py`."""
    words = {("os", "replace"), ("os", "rename"), ("tempfile", "mkstemp"), ("tempfile", "mkdtemp")}
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = (used | imports(file)) & words
    assert found == (words - {("os", "rename")} if file == PACKAGE / "files.py" else set())


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_are_short(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 350, "split it"
    assert ast.get_docstring(ast.parse("\n".join(lines))), "say first what the file is for"


def test_the_rules_catch_a_wrong_import(tmp_path, monkeypatch):
    """The walk sees relative, absolute and late imports."""
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "x.py"
    late = "def f():\n    import minip2p.text.bpe\n    from .. import data"
    file.write_text(f"from ..diffusion import a\nfrom .norms import b\n{late}")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert imports(file) == {
        ("minip2p", "diffusion", "a"),
        ("minip2p", "nn", "norms", "b"),
        ("minip2p", "text", "bpe"),
        ("minip2p", "data"),
    }
    with pytest.raises(AssertionError, match="nn may not import"):
        test_imports_go_one_way(file)


PROBE = """
import builtins, socket, sys, importlib, random
def no_network(*args, **kwargs):
    raise SystemExit("importing opened a connection")
socket.socket.connect = socket.create_connection = no_network
import minip2p
assert "torch" not in sys.modules, "import minip2p alone should not wait for torch"
import numpy, torch
numpy.random.seed(1), torch.manual_seed(1), random.seed(1)
threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
before = (torch.get_rng_state(), str(numpy.random.get_state()), random.getstate())
for name in sys.argv[1:]:
    importlib.import_module(name)
minip2p.Pipeline, minip2p.load
assert torch.equal(torch.get_rng_state(), before[0]), "importing seeds or draws from torch"
assert str(numpy.random.get_state()) == before[1] and random.getstate() == before[2], "importing seeds or draws"
assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
assert not torch.cuda.is_initialized(), "importing picks a device"
assert not {"diffusers", "transformers"} & set(sys.modules)
"""


@pytest.mark.slow
def test_importing_does_nothing(tmp_path):
    """Every module but the commands, in a fresh process: no output, no connection, no file, no seed, no device."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]
    names = [name for name in names if not name.startswith(("minip2p.app", "minip2p.__main__"))]
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "HF_", "TORCH_HOME"))}
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE, *names], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == [home]


def test_the_command_line_prints_in_one_place():
    """Names and texts of users and files are printed without control characters (`cli.printing`)."""
    printing = [
        file.relative_to(PACKAGE).as_posix()
        for file in (PACKAGE / "cli").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert printing == ["cli/printing.py"]
