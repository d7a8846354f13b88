"""The house keeps its order: who imports whom, how long files are, and what importing does (nothing)."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minip2p"
FILES = sorted(PACKAGE.rglob("*.py"))

PARTS = {"config", "nn", "models", "diffusion", "text", "data", "control", "checkpoints"}
RUN = PARTS | {"pipeline", "loading"}
MAY_SEE = {
    "config": set(),
    "nn": {"config"},
    "models": {"config", "nn"},
    "diffusion": set(),
    "text": set(),
    "data": set(),
    "control": {"nn", "text"},
    "checkpoints": {"config"},
    "pipeline": PARTS,
    "loading": PARTS | {"pipeline"},
    "evaluation": RUN,
    "datagen": RUN | {"evaluation"},
    "training": RUN,
}
"""room -> the rooms that it may import"""
ANYTHING = {"cli", "app", "__init__", "__main__"}
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
    seen = {name[1] for name in imports(file) if name[0] == "minip2p" and len(name) > 1}
    rooms = seen & (MAY_SEE.keys() | ANYTHING)
    assert rooms <= MAY_SEE[own] | {own}, f"{own} may not import {', '.join(rooms - MAY_SEE[own] - {own})}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nothing_leans_on_the_oracles(file):
    assert not {name[0] for name in imports(file)} & {"diffusers", "transformers", "accelerate", "k_diffusion"}


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
        ("minip2p", "diffusion", "a"), ("minip2p", "nn", "norms", "b"), ("minip2p", "text", "bpe"), ("minip2p", "data")
    }  # fmt: skip
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
