"""Several processes that train together: the same as one, and what they leave is anyone's to go on with."""

import os
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
    "train.decay=constant", "train_text=False", "dropout=0.2", "train.save_every=10",
)  # fmt: skip


def train(n, *more, steps=20, init=(), words=()):
    """`train.py editor` on n processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runner = ["-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(port)] if n > 1 else []
    begin = (*init, "--set", *WORDS, f"train.steps={steps}", *words) if init else ("--set", f"train.steps={steps}")
    command = [sys.executable, *runner, str(ROOT / "train.py"), "editor", "--device", "cpu", *more, *begin]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)


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
    for name, n, more in (("one", 1, ()), ("two", 2, ()), ("sharded", 2, ("--shard",))):
        init = ("--init-from", str(editor), "--data", str(pairs), "--out", str(out / name), *more)
        done = train(n, init=init)
        assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", ["two", "sharded"])
def test_two_processes_equal_one(runs, name):
    """With parts of batches whose gradients add up, dropout and averages."""
    assert apart(runs / "one", runs / name) < 1e-5


def test_what_some_processes_left_others_go_on_with(runs, tmp_path):
    import shutil

    for name, n, more in (("one", 2, ()), ("two", 1, ()), ("sharded", 1, ()), ("two", 2, ("--shard",))):
        out = tmp_path / f"{name}-{n}-{len(more)}"
        shutil.copytree(runs / name, out)
        (out / "state/00000020.pt").unlink()
        done = train(n, "--resume", str(out), *more)
        assert done.returncode == 0, done.stderr[-3000:]
        assert apart(runs / "one", out) < 1e-5, out.name
        if name == "two" and more == ():
            continue
    out = tmp_path / "again"
    shutil.copytree(runs / "two", out)
    (out / "state/00000020.pt").unlink()
    assert train(2, "--resume", str(out)).returncode == 0
    assert apart(runs / "two", out) == 0, "two that stopped, and two that never did"


def test_a_batch_is_a_whole_number_for_each_process(pairs, editor, tmp_path):  # noqa: F811
    init = ("--init-from", str(editor), "--data", str(pairs), "--out", str(tmp_path / "run"))
    done = train(2, init=init, words=("train.batch_size=7",))
    assert done.returncode and "no multiple of the 2 processes" in done.stderr and not (tmp_path / "run/state").exists()


@given(st.integers(1, 8), st.integers(1, 20), st.none() | st.integers(1, 9))
def test_every_picture_is_of_one_process_and_one_part(world, each, at_once):
    parts = [part for rank in range(world) for part in Ranks(rank=rank, world=world).rows(world * each, at_once)]
    assert [row for part in parts for row in part] == list(range(world * each))
    assert all(len(part) <= (at_once or each) for part in parts)
