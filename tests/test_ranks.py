"""Several processes that train together: the same results as one, and any number of them can resume a run."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers_training import ROOT, write_weights
from hypothesis import given
from hypothesis import strategies as st

from minip2p.training import state
from minip2p.training.ranks import Ranks

WORDS = (
    "train.batch_size=8",
    "train.micro_batch=2",
    "train.warmup=0",
    "train.log_every=2",
    "train.preview_every=1000",
    "train.decay=constant",
    "train_text=False",
    "dropout=0.2",
    "train.save_every=2",
    "train.steps=4",
    "train.precision=fp32",  # sums of shards are in another order
    "held_out=0",  # a preview takes longer than the training
)


RANKS = """
import json, os, shutil, sys, traceback
from minip2p.cli import main
from minip2p.tinyworld.training import stages  # importing takes longer than the training
import torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor  # here once, for all that train by several

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

for n, port, words, copied in json.loads(sys.argv[1]):
    if copied:
        shutil.copytree(*copied)
        os.remove(copied[1] + "/state/00000004.pt")
    for pid in [rank(i, n, port, words) for i in range(n)]:
        assert os.waitpid(pid, 0)[1] == 0, words
"""
"""trainings one after the other, each by n processes, with the environment of torchrun; a run may be copied before one,
without its last state"""


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
    """Each (n, words, (run to copy, copy) or None)."""
    return run("-c", RANKS, json.dumps([(n, free_port(), words, copied) for n, words, copied in trainings]))


def new_run(pairs, editor, out, *more, words=()):
    options = ("--init-from", str(editor), "--data", str(pairs), "--out", str(out), *more)
    return ["train", "editor", "--device", "cpu", *options, "--set", *WORDS, *words]


def difference(a, b):
    """The largest relative difference of a weight or an average in two runs' last states."""
    a, b = (torch.load(state.newest(run), weights_only=True) for run in (a, b))
    assert a["step"] == b["step"] and a["updates"] == b["updates"]
    tensors = [(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part]]
    return max(float((x - y).norm() / x.norm().clamp(min=1e-6)) for x, y in tensors)


RESUMED = (("one", 2), ("sharded", 1), ("two", 2), ("sharded", 2, "--shard"))
"""runs that are resumed from half of them, by how many processes"""


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """One block: the time that sharding takes grows with the number of weights."""
    thin = {"blocks": 1, "widths": (16,), "attention": ("full",)}
    return write_weights(tmp_path_factory.mktemp("weights") / "editor.safetensors", 16, **thin)


@pytest.fixture(scope="module")
def runs(pairs, editor, tmp_path_factory):
    """4 steps by one process, by two, and by two with sharded weights; and RESUMED. The last is refused."""
    out = tmp_path_factory.mktemp("runs")
    done = torchrun(2, *new_run(pairs, editor, out / "two")[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    trainings = [
        (1, new_run(pairs, editor, out / "one"), None),
        (2, new_run(pairs, editor, out / "sharded", "--shard"), None),
    ]
    for name, n, *more in RESUMED:
        copy = str(out / f"resumed-{name}-{n}{''.join(more)}")
        words = ["train", "editor", "--device", "cpu", "--resume", copy, *more]
        trainings.append((n, words, (str(out / name), copy)))
    trainings.append((2, new_run(pairs, editor, out / "refused", words=("train.batch_size=7",)), None))
    done = forked(*trainings)
    assert done.returncode and "a multiple of the 2 processes" in done.stderr, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_two_processes_equal_one_and_any_number_can_resume(runs):
    """With micro-batches, dropout and averages; and two that stopped end with the same bits as two that did not."""
    for name in ("two", "sharded"):
        assert difference(runs / "one", runs / name) < 1e-4, name
    resumed = list(runs.glob("resumed-*"))
    assert len(resumed) == len(RESUMED)
    for out in resumed:
        assert difference(runs / "one", out) < 1e-4, out.name
    assert difference(runs / "two", runs / "resumed-two-2") == 0
    assert difference(runs / "sharded", runs / "resumed-sharded-2--shard") == 0


@pytest.mark.slow
def test_the_batch_size_must_be_a_multiple_of_the_processes(runs):
    assert (runs / "two/state").exists() and not (runs / "refused/state").exists()


@given(st.integers(1, 8), st.integers(1, 20), st.none() | st.integers(1, 9))
def test_every_item_belongs_to_one_process_and_one_micro_batch(world, each, micro_batch):
    parts = [part for rank in range(world) for part in Ranks(rank=rank, world=world).rows(world * each, micro_batch)]
    assert [row for part in parts for row in part] == list(range(world * each))
    assert all(len(part) <= (micro_batch or each) for part in parts)
