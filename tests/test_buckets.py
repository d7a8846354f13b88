"""Training at other sizes: sides, crops that are not square, and aspect buckets with the laws of their order."""

import io
import math
import pickle
import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import write_pairs
from helpers_training import begin, config_of, equal, finish, make_stage, states
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.cli import main
from minip2p.config import from_dict
from minip2p.data.crops import Crop
from minip2p.data.edits import open_edits
from minip2p.data.picture_files import decode, size_of
from minip2p.data.sizes import assign, bucket_sizes, nearest, resize_range
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.training.buckets import BucketMixture
from minip2p.training.config import DiffusionTraining
from minip2p.training.data import Example
from minip2p.training.plan import no_graph
from minip2p.training.ranks import Ranks

SHAPES = [(90, 60), (60, 90), (72, 72), (96, 64), (40, 140)]
"""(width, height) of the pairs, in turn; the last are few"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """40 pairs of several shapes."""
    folder, rng = tmp_path_factory.mktemp("shapes") / "pairs", np.random.default_rng(5)
    edits = [sample_edit(rng) for _ in range(40)]
    turn = iter([SHAPES[4 if i == 7 else i % 4] for i in range(40) for _ in (0, 1)])

    def draw(scene):
        w, h = next(turn)
        picture = render(scene, max(w, h))
        left, top = (picture.width - w) // 2, (picture.height - h) // 2
        return picture.crop((left, top, left + w, top + h))

    write_pairs(folder, edits, draw)
    return folder


@torch.no_grad()
def finite_held_out_loss(stage) -> bool:
    return bool(np.isfinite(stage.held_out_loss(stage.module)))


# Sizes


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(1, 64), st.randoms())
def test_a_crop_of_any_pair_has_the_size_that_was_asked_for(w, h, x, y, random):
    low, high = resize_range((x, y))
    crop = Crop(side=random.randint(low, high), left=random.random(), top=random.random())
    ramp = Image.linear_gradient("L").resize((w, h)).convert("RGB")
    found = crop(ramp, ramp, (x, y))
    assert found.shape == (2, 3, y, x) and torch.equal(found[0], found[1])


def test_a_crop_takes_as_much_of_the_picture_as_fits():
    """At the smallest side nothing is cut off along one axis, and the other is cut alike on both sides."""
    x = np.broadcast_to(np.arange(120, dtype=np.uint8), (60, 120))
    picture = Image.fromarray(np.stack([x] * 3, -1))
    found = Crop(side=60, left=0.5, top=0.5)(picture, picture, (80, 60))
    assert torch.allclose(127.5 * (found[0, 0] + 1), torch.arange(20.0, 100.0).expand(60, 80), atol=0.1)


def test_resize_follows_the_size():
    assert (
        resize_range(256) == (256, 288) and resize_range(512) == (512, 576) and resize_range((512, 384)) == (384, 432)
    )
    assert resize_range(64, (64, 64)) == (64, 64)
    old = from_dict(DiffusionTraining, {"size": 256, "resize": [256, 288]})
    assert (old.size, old.resize, old.buckets) == (256, (256, 288), False), "as earlier runs saved it"
    for wrong in ((63, 70), (80, 70)):
        with pytest.raises(ValueError, match="resize = .*: expected two sizes, from size = 64 on"):
            resize_range((80, 64), wrong)
    with pytest.raises(ValueError, match="expected one side with buckets = True"):
        DiffusionTraining(size=(512, 384), buckets=True)


@pytest.mark.parametrize("size", ["32", "(64, 32)"])
def test_training_at_another_size(size, shapes, editor, tmp_path):
    stage = make_stage(config_of(shapes, editor, f"size={size}", "held_out=4"), tmp_path, editor)
    y, x = (32, 64) if "64" in size else (32, 32)
    batch = stage.data.batch(0)
    assert batch.pixels.shape == (4, 2, 3, y, x) and batch.noise.shape == (4, 8, y // 8, x // 8)
    loss, _ = stage.loss(stage.module, stage.inputs(batch))
    assert loss.isfinite() and finite_held_out_loss(stage)


@pytest.mark.parametrize("size", ["size=36", "size=64,40"])
def test_sides_that_the_networks_do_not_divide_are_refused_before_anything_starts(
    size, shapes, editor, tmp_path, capsys
):
    words = ["--init-from", str(editor), "--data", str(shapes), "--out", str(tmp_path / "run"), "--set", size]
    assert main(["train", "editor", "--device", "cpu", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a multiple of 32 pixels" in line and not (tmp_path / "run/config.json").exists()


def test_the_size_of_a_source_is_read_from_its_header(tmp_path):
    picture = Image.new("RGB", (30, 20))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, how in (("a.png", {}), ("b.jpg", {}), ("c.jpg", {"exif": turned}), ("d.png", {"exif": turned})):
        file = tmp_path / name
        picture.save(file, **how)
        assert size_of(file, name) == decode(file, name).size == ((20, 30) if how else (30, 20))
    cut = (tmp_path / "b.jpg").read_bytes()[:640]  # nothing of the pixels is needed
    assert size_of(io.BytesIO(cut), "cut") == (30, 20)


# Buckets


@given(st.integers(1, 12), st.sampled_from([16, 32, 64]))
def test_buckets_have_about_as_many_pixels_as_the_square(n, factor):
    size = n * factor
    found = bucket_sizes(size, factor)
    assert (size, size) in found and len(set(found)) == len(found) and {(y, x) for x, y in found} == set(found)
    for x, y in found:
        assert x % factor == y % factor == 0 and 1 / 4 <= x / y <= 4
        assert size * size - factor * max(x, y) < x * y <= size * size, "the other side could not be longer"
    assert [x / y for x, y in found] == sorted(x / y for x, y in found)


@given(st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), max_size=60), st.integers(1, 20))
def test_a_pair_is_in_the_bucket_of_the_nearest_shape_unless_that_is_too_small(shapes, least):
    sizes = bucket_sizes(256, 32)
    found = assign(shapes, sizes, least)
    counts = Counter(found)
    assert len(counts) <= 1 or min(counts.values()) >= least
    for (w, h), (x, y) in zip(shapes, found, strict=True):
        distances = {each: abs(math.log(w / h) - math.log(each[0] / each[1])) for each in counts}
        assert distances[x, y] <= min(distances.values()) + 1e-9
    assert assign(shapes, sizes, 1) == nearest(shapes, sizes)


@dataclass(frozen=True)
class Numbers:
    """A set whose items are their own numbers; items below `broken` cannot be read."""

    sizes: list
    name: str = ""
    broken: int = 0

    def __len__(self):
        return len(self.sizes)

    def example(self, i, rng, step):
        if i < self.broken:
            raise ValueError(f"item {i} is broken")
        return Example(text=f"{self.name}{i}", pixels=torch.empty(2, 3, *self.sizes[i][::-1], device="meta"))


def mixture(counts, batch_size, seed=0, **options):
    """Sets, each with so many items in its buckets."""
    sets = []
    for number, each in enumerate(counts):
        sizes = [(16 * (b + 1), 16) for b, n in enumerate(each) for _ in range(n)]
        sets.append(Numbers([sizes[i] for i in np.random.default_rng(1).permutation(len(sizes))], f"{number}:"))
    weights = [len(each) for each in sets]
    return BucketMixture(sets=sets, weights=weights, seed=seed, batch_size=batch_size, **options)


def batch(examples, step, rows=None):
    """(text, size) of a batch's items."""
    numbers = [step * examples.batch_size + i for i in rows or range(examples.batch_size)]
    items = [examples.example(number, np.random.default_rng(0), step)[0] for number in numbers]
    return [(item.text, item.pixels.shape[-1:-3:-1]) for item in items]


COUNTS = st.lists(st.integers(1, 25), min_size=1, max_size=5)


@settings(max_examples=60)
@given(COUNTS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_each_pair_is_seen_once_an_epoch_and_a_batch_has_one_size(counts, batch_size, seed, epoch):
    """A bucket's last batch is filled up with other pairs of it, no one more often than the rest by more than once."""
    examples = mixture([counts], batch_size, seed)
    batches = sum(-(-n // batch_size) for n in counts)
    seen = Counter()
    for step in range(epoch * batches, (epoch + 1) * batches):
        items = batch(examples, step)
        assert {size for _, size in items} == {examples.size(step)}
        seen.update(items)
    for b, n in enumerate(counts):
        times = [seen[text, size] for text, size in seen if size == (16 * (b + 1), 16)]
        most = -(-(-(-n // batch_size) * batch_size) // n)
        assert len(times) == n and min(times) >= max(1, most - 1) and max(times) <= most
        assert n < batch_size / 2 or most <= 2


@settings(max_examples=40)
@given(st.lists(COUNTS, min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 300))
def test_ranks_workers_and_a_resumed_run_agree_on_every_batch(counts, per_rank, world, step):
    """The batch of a step depends on nothing but the seed, the step and the set; a rank's rows are its part of it."""
    batch_size = per_rank * world
    examples = mixture(counts, batch_size, seed=7)
    whole = batch(examples, step)
    again = pickle.loads(pickle.dumps(examples))
    parts = [rows for rank in range(world) for rows in Ranks(rank=rank, world=world).rows(batch_size, 1)]
    assert [item for rows in parts for item in batch(again, step, rows)] == whole
    assert len({size for _, size in whole}) == 1 and len({text.partition(":")[0] for text, _ in whole}) == 1


def test_epochs_and_seeds_have_other_orders():
    orders = [
        [batch(mixture([[40, 40]], 8, seed), 10 * epoch + i) for i in range(10)] for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({str(order) for order in orders}) == 4


def test_sets_have_their_weights_in_batches():
    examples = mixture([[30, 30], [10, 10]], 5)
    which = Counter(batch(examples, step)[0][0][0] for step in range(80))
    assert which == {"0": 60, "1": 20}


def test_a_broken_pair_is_replaced_by_one_of_its_bucket():
    sizes = [(32, 16)] * 6 + [(16, 32)] * 6
    examples = BucketMixture(sets=[Numbers(sizes, broken=4)], weights=[1.0], seed=0, batch_size=3, skip_broken=True)
    seen = [item for step in range(4) for item in batch(examples, step)]
    assert Counter(size for _, size in seen) == {(32, 16): 6, (16, 32): 6} and {"4", "5"} < {text for text, _ in seen}
    with pytest.raises(ValueError, match="item . is broken; --skip-broken"):
        [batch(BucketMixture(sets=examples.sets, weights=[1.0], seed=0, batch_size=3), step) for step in range(4)]


# Training


WORDS = ("buckets=True", "size=128", "draw=pairs", "dropout=0.2")


def test_a_run_with_buckets(shapes, editor, tmp_path):
    """All batches of an epoch: what a pair's crop shows is of the pair, at the size of the nearest shape."""
    stage = make_stage(config_of(shapes, editor, *WORDS, "held_out=8", "resize=(128, 128)"), tmp_path, editor)
    sizes = Counter(stage.data.examples.sets[0].sizes)
    assert set(sizes) == {(96, 160), (128, 128), (160, 96)}, "the only one of 1 : 4 joins the nearest"
    assert any(f"160x96 ({sizes[160, 96]})" in note for note in stage.notes)
    for step in range(sum(-(-n // 4) for n in sizes.values())):
        batch = stage.data.batch(step)
        width, height = stage.data.examples.size(step)
        assert batch.pixels.shape == (4, 2, 3, height, width) and batch.noise.shape == (4, 8, height // 8, width // 8)
    assert stage.loss(stage.module, stage.inputs(batch))[0].isfinite()
    kept = {each.pixels.shape[-2:] for each in stage.held_out}
    assert len(kept) > 1 and finite_held_out_loss(stage)
    edits, pairs = open_edits(shapes), stage.data.examples.sets[0]
    for i, size in enumerate(pairs.sizes):
        (pair,) = pairs.prompts[i]
        assert size == nearest([edits[pair].source.size], list(sizes))[0]


@pytest.mark.slow
def test_a_stopped_run_with_buckets_continues_to_the_same_bits(shapes, editor, tmp_path):
    config = config_of(shapes, editor, *WORDS, "train.micro_batch=3", "train.steps=3", "train.save_every=1")
    finish(config, tmp_path / "whole", editor)
    for log in begin(config, tmp_path / "halves", editor):
        if log.step == 2 and "loss" in log.figures:  # the state of step 1 is on disk; step 2 is lost
            break
    finish(config, tmp_path / "halves", editor, resume=True)
    assert equal(*states(tmp_path / "whole", tmp_path / "halves"))


def test_other_shapes_are_other_data(shapes, editor, tmp_path):
    """A run is not resumed on a set whose buckets have changed."""
    stage = make_stage(config_of(shapes, editor, *WORDS), tmp_path, editor)
    more = make_stage(config_of(shapes, editor, *WORDS, "train.batch_size=40"), tmp_path, editor)
    assert stage.marks["data"] != more.marks["data"]


def test_an_unreadable_source_is_refused_or_skipped(shapes, editor, tmp_path):
    broken = tmp_path / "pairs"
    shutil.copytree(shapes, broken)
    for name in sorted(broken.iterdir())[:5]:
        (name / "7_0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="7_0.png .*--skip-broken"):
        make_stage(config_of(broken, editor, *WORDS), tmp_path, editor)
    stage = make_stage(config_of(broken, editor, *WORDS, "skip_broken=True"), tmp_path, editor)
    found = [stage.data.batch(step) for step in range(12)]
    assert sum(len(each.broken) for each in found) and all(len(each.texts) == 4 for each in found)


def test_buckets_have_no_cuda_graph():
    assert "buckets" in no_graph(True, True, Ranks(), buckets=True) and no_graph(True, True, Ranks()) is None
