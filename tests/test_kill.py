"""kill -9 at any moment: the same command finishes the work, with the same bytes, and nothing is left over.

A moment is a change of a file or a folder (opened for writing, renamed, removed, made): between two of them nothing on
the disk differs. The first run counts them, later ones are killed before two of them, or more:

    MINIP2P_KILLS=20 python -m pytest tests/test_kill.py
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import contents
from helpers_corpus import TRAIN, make_models, make_pairs, make_pictures, make_texts
from helpers_sandbox import Ran, watched

WORK = {
    "edit": "edit --input GOOD/own/images --edit night --weights GOOD/editor.safetensors --steps 1 --threads 1"
    " --output out",
    "convert": "convert --weights GOOD/editor.safetensors --output out.safetensors",
    "convert-folder": "convert --weights GOOD/editor.safetensors --layout diffusers --output out",
    "convert-ckpt": "convert --weights GOOD/editor.safetensors --layout original --output out.ckpt",
    "precompute": "precompute --data GOOD/pairs --size 32 --resize 32 40 --crops 1 --weights GOOD/editor.safetensors"
    " --unit 1 --threads 1 --output out",
    "pairs": "pairs --prompts GOOD/prompts.jsonl --weights GOOD/text2image.safetensors --clip GOOD/clip.safetensors"
    " --steps 1 --samples 2 --threads 1 --image -1 --caption -1 --direction -1 --most 1 --size 32 --output out",
    "evaluate": "evaluate --data GOOD/pairs --split all --n 2 --steps 1 --unit 1 --image-scales 1 --methods editor"
    " --weights GOOD/editor.safetensors --clip GOOD/clip.safetensors --threads 1 --output out",
    "ablate": f"ablate {TRAIN.partition('editor ')[2]} --init-from GOOD/editor.safetensors --data GOOD/pairs"
    " --split all --metrics clip --clip GOOD/clip.safetensors --number 1 --sampling-steps 1 --seeds 1 --output out"
    " --variant baseline:dropout=0",
    "instructions": "instructions --captions GOOD/captions.txt --weights GOOD/llama --max-tokens 4 --retries 0"
    " --block 1 --threads 1 --output out.jsonl",
    "import": "import --table GOOD/own/edits.csv --output out",
    "train": f"{TRAIN} train.log_every=1 train.steps=4 --init-from GOOD/editor.safetensors --data GOOD/pairs --out out",
}
MOMENTS = int(os.environ.get("MINIP2P_KILLS", 2))
MACHINE = {"items_per_s", "peak_memory_gib"}
"""figures of a training's log that depend on the machine and what else it does"""
SPEED = re.compile(rb'"pictures_per_s": [\d.]+|\| [^|]* \|(?=\n)')
"""in the files of an ablation; the last column of its table"""


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for make in (make_models, make_pictures, make_pairs, make_texts):
        make(folder)
    return folder


@pytest.fixture(scope="module")
def wholes() -> dict[str, tuple[int, dict]]:
    """Verb -> the changes of an uninterrupted run, and its files."""
    return {}


def run(words: list[str], folder: Path, kill_at: int | None = None) -> Ran:
    return watched(words, folder, seconds=60, kill_at=kill_at)


def words_of(work: str, good: Path) -> list[str]:
    return WORK[work].replace("GOOD", str(good)).split()


def results(folder: Path) -> dict[str, bytes]:
    """All files; a training's log without what depends on the machine, and the values of its states."""
    files = contents(folder)
    for name in files:
        if name.endswith(".pt"):
            files[name] = repr(plain(torch.load(folder / name, weights_only=True))).encode()
        if name.endswith("log.jsonl"):
            rows = [json.loads(line) for line in files[name].splitlines()]
            files[name] = json.dumps([{k: v for k, v in row.items() if k not in MACHINE} for row in rows]).encode()
        if name.endswith(("about.json", "table.json", "table.md")):
            files[name] = SPEED.sub(b"", files[name])
    return files


def plain(value: object) -> object:
    """The value with tensors as their numbers."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), hash(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def whole_of(work: str, good: Path, wholes: dict, tmp_path: Path) -> tuple[int, dict[str, bytes]]:
    if work not in wholes:
        folder = tmp_path / "whole"
        folder.mkdir()
        ran = run(words_of(work, good), folder)
        assert ran.status == 0 and not ran.faults, ran
        wholes[work] = ran.changes, results(folder)
    return wholes[work]


def again(work: str, good: Path, folder: Path) -> Ran:
    """The same command; a training is resumed if it can be."""
    words = words_of(work, good)
    if work == "train" and any((folder / "out" / "state").glob("[0-9]*.pt")):
        words = ["train", "editor", "--device", "cpu", "--threads", "1", "--resume", "out"]
    return run(words, folder)


def killed_and_finished(work: str, good: Path, wholes: dict, tmp_path: Path, moments: int) -> None:
    changes, whole = whole_of(work, good, wholes, tmp_path)
    for i in range(min(moments, changes)):
        at, folder = (2 * i + 1) * changes // (2 * min(moments, changes)), tmp_path / f"killed-{i}"
        folder.mkdir()
        killed = run(words_of(work, good), folder, kill_at=at)
        assert killed.status is None and not killed.faults, f"{work}: moment {at}: {killed}"
        finished = again(work, good, folder)
        found = results(folder)
        where = f"{work}: killed before change {at} of {changes}; in {folder}"
        there = found == whole and "exists already" in finished.err  # it was killed when all was done
        assert (finished.status == 0 or there) and not finished.faults, f"{where}: {finished}"
        assert found.keys() == whole.keys(), f"{where}: {set(found) ^ set(whole)}"
        assert found == whole, f"{where}: {[name for name in found if found[name] != whole[name]]}"
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_killed_at_any_moment(work, good, wholes, tmp_path):
    killed_and_finished(work, good, wholes, tmp_path, MOMENTS)
