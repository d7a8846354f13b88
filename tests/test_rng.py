"""The random numbers of training, by an item's number: its set, its place in the epoch, its crop, its noise."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minip2p.data.crops import Crop
from minip2p.data.images import to_tensor
from minip2p.training import rng
from minip2p.training.data import Example, Mixture

WEIGHTS = st.lists(st.integers(1, 50).map(float) | st.floats(0.05, 20), min_size=1, max_size=4)


@given(WEIGHTS, st.integers(1, 400))
def test_each_set_gets_items_by_its_weight_and_in_order(weights, n):
    turns = [rng.set_of_item(number, weights) for number in range(n)]
    for which in range(len(weights)):
        assert [nth for w, nth in turns if w == which] == list(range(sum(w == which for w, _ in turns)))
    left, others = n, list(weights)
    for which in range(len(weights)):
        taken = int(left * (others[0] / sum(others)))  # of the first n pictures, in closed form
        assert sum(w == which for w, _ in turns) == taken
        assert abs(taken - n * weights[which] / sum(weights)) < len(weights)
        left, others = left - taken, others[1:]
    assert left == 0


def test_far_into_a_run_the_weights_hold():
    weights, n = (0.7, 0.2, 0.1), 10_000_000
    for number in range(n, n + 20):
        which, nth = rng.set_of_item(number, weights)
        assert abs(nth - Fraction((7, 2, 1)[which], 10) * number) < 3


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(1, 200), st.integers(0, 5))
def test_every_epoch_has_every_item_once(seed, which, size, epoch):
    places = [rng.shuffled_index(seed, which, epoch * size + i, size) for i in range(size)]
    assert sorted(places) == list(range(size))


def test_each_epoch_seed_and_set_has_its_own_order():
    def order(seed, which, epoch):
        return tuple(rng.shuffled_index(seed, which, epoch * 30 + i, 30) for i in range(30))

    orders = [order(seed, which, epoch) for seed in (0, 1) for which in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 12
    assert order(0, 1, 2) == orders[5], "and the same at every call"


@given(st.integers(8, 64), st.integers(0, 16), st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**31))
def test_both_images_get_the_same_crop_and_flip(size, more, width, height, seed):
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
    crop = Crop.draw(generator, (size, size + more), 0.5)
    source, target = crop(image, image.copy(), (size, size))
    assert size <= crop.side <= size + more and torch.equal(source, target)
    assert source.shape == (3, size, size) and source.min() >= -1 and source.max() <= 1


@given(
    st.integers(8, 40), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1), st.integers(20, 60), st.integers(20, 60)
)
def test_a_mirrored_crop_is_the_mirror_of_the_crop(size, more, left, top, width, height):
    noise = np.random.default_rng(width).integers(0, 256, (2, height, width, 3), np.uint8)
    pair = [Image.fromarray(x) for x in noise]
    plain, mirrored = (
        Crop(side=size + more, left=left, top=top, flip=flip)(*pair, (size, size)) for flip in (False, True)
    )
    assert torch.equal(mirrored, plain.flip(-1))


@given(st.integers(0, 10**6))
def test_a_crop_without_resizing_is_a_window_of_each_image(seed):
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, (2, 24, 31, 3), np.uint8)
    crop = Crop(side=24, left=generator.random(), top=generator.random())
    both = crop(*(Image.fromarray(x) for x in pictures), (16, 16))
    left, top = round(crop.left * 15), round(crop.top * 8)
    for mine, whole in zip(both, pictures, strict=True):
        window = Image.fromarray(whole[top : top + 16, left : left + 16])
        assert torch.equal(mine, 2 * to_tensor(window) - 1)


@pytest.mark.parametrize("shape", [(40, 30), (90, 51), (20, 64)])
def test_a_target_of_another_size_is_resized_to_its_source(shape):
    """A smooth image: its content stays where it was."""
    y, x = np.mgrid[0:1:128j, 0:1:96j]
    whole = Image.fromarray((255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8))
    both = Crop(side=36, left=0.25, top=0.75)(whole.resize((48, 64)), whole.resize(shape), (32, 32))
    assert both.shape == (2, 3, 32, 32) and (both[0] - both[1]).abs().mean() < 0.03


def test_crops_reach_every_size_and_every_edge():
    crops = [Crop.draw(rng.item_generator(0, n), (32, 36), 0.25) for n in range(2000)]
    assert {c.side for c in crops} == {32, 33, 34, 35, 36}
    assert abs(np.mean([c.flip for c in crops]) - 0.25) < 0.04
    for name in ("left", "top"):
        assert {round(getattr(c, name) * 4) for c in crops} == {0, 1, 2, 3, 4}
    assert not any(Crop.draw(rng.item_generator(0, n), (32, 36), 0.0).flip for n in range(100))


def test_noise_depends_on_the_seed_and_the_number_alone():
    one, again, other, later = (
        rng.normal(rng.item_generator(seed, n), (2, 3, 5)) for seed, n in ((4, 7), (4, 7), (5, 7), (4, 8))
    )
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, later)
    many = rng.normal(rng.item_generator(0, 0), (100_000,)).double()
    assert abs(many.mean()) < 0.02 and abs(many.var() - 1) < 0.02 and abs((many**4).mean() - 3) < 0.15


@dataclass
class Numbered:
    """Items named by their numbers; those of `broken` cannot be read."""

    name: str
    size: int
    broken: set[int] = field(default_factory=set)

    def __len__(self):
        return self.size

    def example(self, i, generator, step):
        if i in self.broken:
            raise ValueError(f"{self.name} {i} is broken")
        return Example(text=f"{self.name} {i}")


def take(n, *sets, weights=(1,), seed=0, skip_broken=False):
    mixture = Mixture(sets=sets, weights=weights, seed=seed, skip_broken=skip_broken)
    return [mixture.example(i, rng.item_generator(seed, i), 0) for i in range(n)]


def test_a_mixture_takes_each_set_by_its_weight_and_each_item_once_an_epoch():
    got = take(80, Numbered("a", 30), Numbered("b", 10), weights=(3, 1))
    once = [f"a {i}" for i in range(30)] + [f"b {i}" for i in range(10)]
    assert sorted(example.text for example, _ in got) == sorted(2 * once)


@given(st.sets(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 100))
def test_a_broken_item_is_replaced_by_the_next_one(broken, seed):
    """However many are broken, and also where the next one is in the next epoch."""
    order = [rng.shuffled_index(seed, 0, nth, 10) for nth in range(40)]
    for n, (example, names) in enumerate(take(20, Numbered("a", 10, broken), seed=seed, skip_broken=True)):
        after = next(at for at in range(n, n + 20) if order[at] not in broken)
        assert example.text == f"a {order[after]}"
        assert names == [f"a {i} is broken" for i in order[n:after]]


def test_a_broken_item_ends_a_run_unless_it_may_be_skipped():
    with pytest.raises(ValueError, match="^a 3 is broken; --skip-broken"):
        take(5, Numbered("a", 5, {3}))


def test_a_set_without_one_good_item_is_an_error():
    with pytest.raises(ValueError, match="^none of the 3 pairs can be read; the last: a [012] is broken$"):
        take(1, Numbered("a", 3, {0, 1, 2}), skip_broken=True)
