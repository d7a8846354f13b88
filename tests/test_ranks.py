"""Several processes that train together: the same as one, and what they leave is anyone's to go on with."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training_pairs import ROOT, editor, pairs  # noqa: F401

from minip2p.training import state
from minip2p.training.ranks import Ranks

WORDS = (
    "train.batch_size=8", "train.micro_batch=2", "train.warmup=0", "train.log_every=10", "train.preview_every=1000",
    "train.decay=constant", "train_text=False", "dropout=0.2", "train.save_every=10", "train.steps=20",
)  # fmt: skip


RANKS = """
import json, os, sys, traceback
from minip2p.cli import main
from minip2p.training import recipe  # importing takes longer than the training

def rank(i, n, port, words):
    pid = os.fork()
    if pid:
        return pid
    if n > 1:
        os.environ |= {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(n), "MASTER_PORT": str(port)}
    try:
        os._exit(main(words))
    except BaseException:
        traceback.print_exc()
        os._exit(1)

for n, port, words in json.loads(sys.argv[1]):
    for pid in [rank(i, n, port, words) for i in range(n)]:
        assert os.waitpid(pid, 0)[1] == 0, words
"""
"""trainings one after the other, each by n processes, with what torchrun tells them"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(*command):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, cwd=ROOT)


def torchrun(n, *words):
    runner = ("-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(free_port()))
    return run(*runner, "train.py", *words)


def forked(*trainings):
    """Each (n, words)."""
    done = run("-c", RANKS, json.dumps([(n, free_port(), words) for n, words in trainings]))
    assert done.returncode == 0, done.stderr[-3000:]


def beginning(pairs, editor, out, *more, words=()):  # noqa: F811
    begin = ("--init-from", str(editor), "--data", str(pairs), "--out", str(out), *more)
    return ["train", "editor", "--device", "cpu", *begin, "--set", *WORDS, *words]


def apart(a, b):
    """The largest relative difference of a weight or an average in two runs' last states."""
    a, b = (torch.load(state.newest(run), weights_only=True) for run in (a, b))
    assert a["step"] == b["step"] and a["updates"] == b["updates"]
    pairs = [(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part]]
    return max(float((x - y).norm() / x.norm().clamp(min=1e-6)) for x, y in pairs)


@pytest.fixture(scope="module")
def runs(pairs, editor, tmp_path_factory):  # noqa: F811
    """20 steps by one process, by two, and by two that also share the weights."""
    out = tmp_path_factory.mktemp("runs")
    done = torchrun(2, *beginning(pairs, editor, out / "two")[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    forked((1, beginning(pairs, editor, out / "one")), (2, beginning(pairs, editor, out / "sharded", "--shard")))
    return out


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_two_processes_equal_one(runs, name):
    """With parts of batches whose gradients add up, dropout and averages."""
    assert apart(runs / "one", runs / name) < 1e-5


def test_what_some_processes_left_others_go_on_with(runs, tmp_path):
    """And two that stopped end with the bits of two that never did."""
    trainings = []
    for name, n, more in (
        ("one", 2, ()), ("two", 1, ()), ("sharded", 1, ()), ("two", 2, ("--shard",)), ("two", 2, ()),
        ("sharded", 2, ("--shard",)),
    ):  # fmt: skip
        out = tmp_path / f"{name}-{n}{''.join(more)}"
        shutil.copytree(runs / name, out)
        (out / "state/00000020.pt").unlink()
        trainings.append((n, ["train", "editor", "--device", "cpu", "--resume", str(out), *more]))
    forked(*trainings)
    for out in tmp_path.iterdir():
        assert apart(runs / "one", out) < 1e-5, out.name
    assert apart(runs / "two", tmp_path / "two-2") == apart(runs / "sharded", tmp_path / "sharded-2--shard") == 0


def test_a_batch_is_a_whole_number_for_each_process(pairs, editor, tmp_path):  # noqa: F811
    done = torchrun(2, *beginning(pairs, editor, tmp_path / "run", words=("train.batch_size=7",))[1:])
    assert done.returncode and "no multiple of the 2 processes" in done.stderr and not (tmp_path / "run/state").exists()


@given(st.integers(1, 8), st.integers(1, 20), st.none() | st.integers(1, 9))
def test_every_picture_is_of_one_process_and_one_part(world, each, at_once):
    parts = [part for rank in range(world) for part in Ranks(rank=rank, world=world).rows(world * each, at_once)]
    assert [row for part in parts for row in part] == list(range(world * each))
    assert all(len(part) <= (at_once or each) for part in parts)
