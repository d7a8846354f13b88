"""Damaged and hostile files, and senseless words: a command succeeds, or refuses them in one line.

No traceback, no hang, no gigabytes, nothing half written, nothing touched outside of the folder, no program started. A
try is a function of its kind and seed. To run one of them and see what it does, or to find more:

    PYTHONPATH=. python tests/test_hostile.py pictures 17
    MINIP2P_FUZZ=2000 python -m pytest -n 0 tests/test_hostile.py
"""

import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from helpers_corpus import make_good, samples
from helpers_mutate import FOREIGN, NUMBERS, WORDS, Tree, damage, dumped, odd_bytes, odd_json, odd_value, write_tree
from helpers_sandbox import Ran, faults_of, snapshot, watched
from hypothesis import given, settings
from hypothesis import strategies as st

from minip2p.cli import VERBS, main
from minip2p.config import PRESETS as MODELS
from minip2p.config import CLIPConfig, LlamaConfig, from_dict, override, to_dict, words_of
from minip2p.files import parse_json
from minip2p.tinyworld.training import presets

TRIES = int(os.environ.get("MINIP2P_FUZZ", 200))
KINDS = ("checkpoints", "configs", "pictures", "metadata", "tables", "sets", "tokenizers", "arguments")


@dataclass(frozen=True)
class Case:
    """A try: a folder of files, some of them damaged, and a command."""

    kind: str
    seed: int
    words: tuple[str, ...]
    tree: Tree
    damages: tuple[str, ...]
    """what was done to the files or the words, in order"""

    @property
    def again(self) -> str:
        return f"PYTHONPATH=. python tests/test_hostile.py {self.kind} {self.seed}"


def case_of(kind: str, seed: int, good: Path, keep: set[int] | None = None) -> Case:
    """The try of this kind and seed; `keep`: only these of its damages."""
    rng = random.Random(f"{kind} {seed}")
    every = samples(good)
    sample = rng.choice([each for name in every for each in every[name]] if kind == "arguments" else every[kind])
    command, count = rng.choice(sample.commands), rng.choice((1, 1, 1, 2, 3))
    words, tree, damages = command.replace("GOOD", str(good)).split(), sample.tree, []
    for i, start in enumerate(rng.getrandbits(32) for _ in range(count)):
        if keep is not None and i not in keep:
            continue
        if kind == "arguments":
            words, what = odd_words(words, start)
        else:
            tree, what = damage(tree, start, sample.only)
        damages.append(what)
    return Case(kind, seed, tuple(words), tree, tuple(damages))


def odd_words(words: list[str], seed: int) -> tuple[list[str], str]:
    """The words of a command with one of them changed, left out, doubled or added; and what was done."""
    rng = random.Random(seed)
    numbers = [str(each) for each in NUMBERS if not 100 < each < 10**9]  # the others ask for long work
    texts = [word.replace("\0", "0").replace("\ud800", "\udcff") for word in WORDS]
    more = ("nan", "inf", "-inf", "1e400", "1_000", "0x10", "True", ".", "/", "out", "-1", "--", "-", "a=b")
    values = [*numbers, *texts, *more]
    value, pick, at = rng.choice(values), rng.randrange(10), rng.randrange(len(words) > 1, len(words))
    if pick <= 3:
        return [*words[:at], value, *words[at + 1 :]], f"{value[:40]!r} in place of {words[at]!r}"
    if pick == 4:
        return words[:at] + words[at + 1 :], f"without {words[at]!r}"
    if pick == 5:
        return [*words[:at], value, *words[at:]], f"{value[:40]!r} before {words[at]!r}"
    option = rng.choice(options_of(words[0]))
    if pick == 6:
        return [*words, option], option
    return [*words, option, value], f"{option} {value[:40]!r}"


@cache
def options_of(verb: str) -> list[str]:
    """The options that the verb's help lists."""
    with redirect_stdout(printed := StringIO()):
        main([verb if verb in VERBS else "edit", "--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9-]*", printed.getvalue())))


def attempt(case: Case, good: Path, folder: Path) -> tuple[Ran, list[str]]:
    """Run the try in an empty folder."""
    here, secret = folder / "here", folder / "secret"
    here.mkdir()
    secret.mkdir()
    (secret / "secret.txt").write_text("make it night")
    write_tree(case.tree, here)
    before = snapshot(here)
    private = () if case.kind == "arguments" else (secret, Path("/etc/passwd"))
    ran = watched(list(case.words), here, private=private, caches=[folder / "cache"])
    own = case.words[case.words.index("--resume") + 1] if "--resume" in case.words[:-1] else None
    return ran, faults_of(ran, here, before, own)


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    make_good(folder)
    return folder


def find(kind: str, seeds: Iterator[int], good: Path, place: Path) -> dict[str, str]:
    """Fault -> how to see it, for the first try that shows it."""
    found: dict[str, str] = {}
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(dir=place))
        for fault in attempt(case_of(kind, seed, good), good, folder)[1]:
            sign = re.sub(r"\d+|0x\w+|'[^']*'|/\S*", "_", fault)[:120]
            if sign not in found:
                found[sign] = shrunk(kind, seed, good, place, fault)
        shutil.rmtree(folder, ignore_errors=True)
    return found


def shrunk(kind: str, seed: int, good: Path, place: Path, fault: str) -> str:
    """The try with only those of its damages that the fault needs, in words."""
    case, sort = case_of(kind, seed, good), fault.partition(":")[0]
    for i in range(len(case.damages) if len(case.damages) > 1 else 0):
        folder, smaller = Path(tempfile.mkdtemp(dir=place)), case_of(kind, seed, good, {i})
        if any(each.startswith(sort) for each in attempt(smaller, good, folder)[1]):
            return described(smaller, fault, f" {i}")
    return described(case, fault)


def described(case: Case, fault: str, more: str = "") -> str:
    words = " ".join(word if len(word) < 100 else f"{word[:40]}..." for word in case.words)
    return f"{fault}\n    {case.again}{more}\n    {words}\n    {'; '.join(case.damages)}"


@pytest.mark.slow
def test_nothing_hostile_does_harm(good, tmp_path):
    each = -(-TRIES // len(KINDS))
    found = [text for kind in KINDS for text in find(kind, range(each), good, tmp_path).values()]
    found = [text.encode(errors="backslashreplace").decode() for text in found]  # pytest-xdist sends it in UTF-8
    assert not found, f"{len(found)} faults:\n" + "\n".join(found)


# ---- values, without a file around them

CONFIGS = (
    MODELS["sd15"],
    CLIPConfig(),
    LlamaConfig(),
    presets.EDITOR,
    presets.CLIP,
    presets.CLASSIFIER,
    presets.LANGUAGE,
    presets.INSTRUCTIONS,
)
QUICK = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def is_one_line(error: ValueError) -> bool:
    return str(error).isprintable() and 0 < len(str(error)) < 1000


@QUICK
@given(st.sampled_from(CONFIGS), st.randoms(use_true_random=False))
def test_values_of_a_config_are_accepted_or_refused_in_one_line(config, rng):
    """What is accepted comes back from JSON as it was."""
    try:
        found = from_dict(type(config), odd_json(to_dict(config), rng), "a file")
    except ValueError as error:
        assert is_one_line(error) and str(error).startswith("a file: ")
    else:
        assert from_dict(type(config), json.loads(json.dumps(to_dict(found)))) == found


@QUICK
@given(
    st.sampled_from(CONFIGS), st.randoms(use_true_random=False), st.one_of(st.text(max_size=40), st.floats().map(repr))
)
def test_words_of_a_config_are_accepted_or_refused_in_one_line(config, rng, value):
    name = rng.choice(list(words_of(config)))
    for word in (f"{name}={value}", f"{name}={odd_value(rng)!r}"[:3000], value):
        try:
            override(config, word)
        except ValueError as error:
            assert is_one_line(error)


@QUICK
@given(st.randoms(use_true_random=False))
def test_bytes_are_json_or_refused_in_one_line(rng):
    """JSON that is deep, cut, NaN, in another encoding, or none."""
    data = rng.choice([*FOREIGN, dumped(odd_json({"a": [1, {"b": "c"}]}, rng), rng)])
    for change in (lambda data: data, lambda data: odd_bytes(data, rng)):
        try:
            json.dumps(parse_json(change(data), "a file"), allow_nan=False).encode()
        except ValueError as error:
            assert is_one_line(error) and str(error).startswith("a file: ")


if __name__ == "__main__":
    kind, seed, *keep = sys.argv[1:]
    place = Path(tempfile.mkdtemp())
    (place / "good").mkdir()
    make_good(place / "good")
    case = case_of(kind, int(seed), place / "good", {int(each) for each in keep} or None)
    ran, faults = attempt(case, place / "good", place)
    print(f"{place}/here$ minip2p {' '.join(map(repr, case.words))}\n{'; '.join(case.damages)}")
    print(f"status {ran.status}, {ran.seconds:.1f} s, {ran.peak >> 20} MB\n{ran.out}{ran.err}\n" + "\n".join(faults))
    sys.exit(bool(faults))
