"""Recorded attention: it is the explicit softmax, averaged; it costs bounded memory and changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import ROUNDING, difference, small_pipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minip2p.control import Control, Run
from minip2p.control.record import Record, map_size, steps_of
from minip2p.control.run import AtSites
from minip2p.diffusion import SAMPLERS, guided, two_way
from minip2p.nn.site import Site

LARGE, SMALL = (6, 8), (3, 4)  # (y, x) of the maps of a picture of 32 x 24 pixels: level 0 has 3 sites, the middle 1


@pytest.fixture(scope="module")
def text2image():
    return small_pipeline(in_channels=4)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def edit(pipe, control=(), instruction="make it night", **how):
    options = {"steps": 3, "output": "latent"} | how
    pictures = [picture(i) for i in range(len(instruction))] if isinstance(instruction, list) else picture()
    return pipe.edit(pictures, instruction, control=list(control), **options)


def run_generate(pipe, control=(), prompt="a red house", **how):
    return pipe.generate(prompt, control=list(control), **{"steps": 3, "size": (32, 24), "output": "latent"} | how)


@dataclass
class Capture(Control):
    """Keeps queries and keys of every call: the long way to what a record keeps."""

    def bind(self, run: Run) -> "Capture":
        self.seen = []
        return self

    def for_call(self, sigma, branches, b):
        class Keep(AtSites):
            def inputs(_, q, k, v, site):
                self.seen.append((sigma, branches, b, site, q.clone(), k.clone()))
                return q, k, v

        return Keep()

    def maps(self, kind: str, n: int, branch: int = 0, keep=lambda sigma, site: True) -> torch.Tensor:
        """(b, n, m): softmax over keys, mean over heads, over sites of n pixels, over calls."""
        found = []
        for sigma, branches, b, site, q, k in self.seen:
            if site.kind == kind and q.shape[2] == n and branch in branches and keep(sigma, site):
                i = branches.index(branch)
                p = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[3] ** 0.5, dim=-1)
                found.append(p[i * b : (i + 1) * b].mean(1))
        return torch.stack(found).mean(0)


# What is kept


@pytest.mark.parametrize("branch", [0, 1, 2])
@pytest.mark.parametrize("low_memory", [False, True])
def test_maps_are_the_softmax_averaged_over_heads_sites_and_steps(pipe, branch, low_memory):
    record, capture = Record(branch=branch), Capture()
    looks = Record(kind="self", branch=branch)
    how = {"batch_size": 2, "low_memory": low_memory}
    edit(pipe, [capture, record, looks], ["make it night", "x"], **how)
    cross, itself = record.maps(), looks.maps()
    assert list(cross) == list(itself) == [LARGE, SMALL]
    for y, x in (LARGE, SMALL):
        assert cross[y, x].shape == (2, 16, y, x) and itself[y, x].shape == (2, y * x, y, x)
        expected = capture.maps("cross", y * x, branch)
        torch.testing.assert_close(cross[y, x], expected.movedim(1, 2).reshape(2, 16, y, x))
        expected = capture.maps("self", y * x, branch)
        torch.testing.assert_close(itself[y, x], expected.reshape(2, y * x, y, x))
    assert difference(cross[LARGE][0], cross[LARGE][1]) > 1e-2  # the items are not one


def test_probabilities_sum_to_one(text2image):
    record, looks = Record(), Record(kind="self")
    run_generate(text2image, [record, looks], ["a red house", "a blue house"], batch_size=2)
    for size, maps in record.maps().items():
        torch.testing.assert_close(maps.sum(1), torch.ones(2, *size))
    for (y, x), maps in looks.maps().items():
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, y * x))


def test_places_sizes_pixels_and_items_select(pipe):
    capture, up, middle = Capture(), Record(places=["up"]), Record(places=("mid",), items=[1])
    by_size, by_pixels = Record(sizes=[SMALL]), Record(pixels=12)
    edit(pipe, [capture, up, middle, by_size, by_pixels], ["make it night", "x"], batch_size=2)
    assert list(up.maps()) == [LARGE]
    assert list(middle.maps()) == list(by_size.maps()) == list(by_pixels.maps()) == [SMALL]
    expected = capture.maps("cross", 48, keep=lambda sigma, site: site.place == "up")
    torch.testing.assert_close(up.maps()[LARGE].flatten(2).movedim(1, 2), expected)
    torch.testing.assert_close(middle.maps()[SMALL], by_size.maps()[SMALL][1:])
    torch.testing.assert_close(by_pixels.maps()[SMALL], by_size.maps(SMALL)[SMALL])


def test_a_part_of_the_run(pipe):
    capture, first, rest, whole = Capture(), Record(during=(0, 0.5)), Record(during=(0.5, 1)), Record()
    edit(pipe, [capture, first, rest, whole], steps=5)  # the middles are .1 .3 .5 .7 .9
    sigmas = pipe.denoiser.schedule.sigmas_for(5)
    assert (first.steps, rest.steps, whole.steps) == (range(0, 2), range(2, 5), range(0, 5))
    expected = capture.maps("cross", 48, keep=lambda sigma, site: sigma > sigmas[2])
    torch.testing.assert_close(first.maps()[LARGE].flatten(2).movedim(1, 2), expected)
    torch.testing.assert_close((2 * first.maps()[LARGE] + 3 * rest.maps()[LARGE]) / 5, whole.maps()[LARGE])
    assert difference(first.maps()[LARGE], rest.maps()[LARGE]) > 1e-3


@given(st.integers(1, 60), st.lists(st.floats(0, 1), max_size=4))
def test_parts_that_meet_share_no_step_and_leave_none_out(steps, cuts):
    cuts, together = [0.0, *sorted(cuts), 1.0], []
    for part in zip(cuts, cuts[1:]):
        try:
            together += steps_of(part, steps)
        except ValueError:
            pass
    assert together == list(range(steps))


def test_it_sees_what_the_controls_before_it_made(pipe):
    class Stare(Control, AtSites):
        def for_call(self, sigma, branches, b):
            return self

        def needs_probs(self, site):
            return site.kind == "cross"

        def probs(self, p, site):
            return torch.zeros_like(p).index_fill(-1, torch.tensor([3]), 1.0)

    before, after = Record(), Record()
    edit(pipe, [before, Stare(), after])
    assert (after.maps()[LARGE][:, 3] == 1).all() and (before.maps()[LARGE][:, 3] < 0.9).all()


def test_of_a_pair_it_sees_the_source_and_the_shared_attention(text2image):
    alone, both = Record(kind="self", during=(0, 0.7)), Record(kind="self", during=(0, 0.7))
    own = Record(kind="self", during=(0.7, 1))
    how = {"steps": 4, "size": (32, 24), "output": "latent", "seed": 3}
    text2image.generate("a red house", control=[alone], **how)
    text2image.generate_pair("a red house", "a blue boat", share=1.0, control=[both, own], **how)
    source, edited = both.maps()[LARGE]
    torch.testing.assert_close(source[None], alone.maps()[LARGE])
    torch.testing.assert_close(source, edited)  # the first three steps of four are shared
    assert difference(*own.maps()[LARGE]) > 1e-3


def test_a_record_begins_anew_with_each_run(pipe):
    record, other = Record(), Record()
    edit(pipe, [record], steps=5, seed=1)
    edit(pipe, [record])
    edit(pipe, [other])
    assert torch.equal(record.maps()[LARGE], other.maps()[LARGE]) and record.run.size == LARGE
    edit(pipe, [record], ["x", "make it night"])  # a run an item
    edit(pipe, [other], ["make it night"] * 2)
    assert torch.equal(record.maps()[LARGE], other.maps()[LARGE]) and len(record.maps()[LARGE]) == 1


# It changes nothing


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_result_is_the_same_to_rounding(pipe, text2image, sampler):
    how = {"sampler": sampler, "steps": 4}
    assert difference(edit(pipe, [Record()], **how), edit(pipe, **how)) < ROUNDING
    assert (
        difference(run_generate(text2image, [Record(kind="self")], **how), run_generate(text2image, **how)) < ROUNDING
    )


def test_where_nothing_is_kept_no_softmax_is_explicit(pipe):
    assert torch.equal(edit(pipe, [Record(pixels=1)]), edit(pipe))
    record = Record().bind(
        Run(sigmas=(2.0, 1.0, 0.0), size=LARGE, map_sizes=(LARGE, SMALL), prompts=("",), sources=(0,))
    )
    assert (
        record.for_call(2.0, (0, 1), 1) is not None
        and record.for_call(2.0, (1, 2), 1) is record.for_call(3.0, (0,), 1) is None
    )


# Memory


def test_only_the_sums_are_kept(text2image):
    record = Record(kind="self")
    for steps in (1, 6):
        run_generate(text2image, [record], ["x", "y"], steps=steps, batch_size=2)
        assert {s: each.shape for s, each in record._sums.items()} == {LARGE: (2, 48, 48), SMALL: (2, 12, 12)}
        for each in record._sums.values():
            assert each.untyped_storage().nbytes() == 4 * each.numel() and each.dtype == torch.float32


def test_no_graph_is_kept(text2image):
    """Outside of inference mode, with weights that want gradients."""
    record = Record().bind(
        Run(sigmas=(2.0, 1.0, 0.0), size=LARGE, map_sizes=(LARGE, SMALL), prompts=("x",), sources=(0,))
    )
    text = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    field = guided(text2image.denoiser, two_way(3.0, text, torch.zeros_like(text)), control=[record])
    assert field(torch.ones(1, 4, *LARGE), 2.0).requires_grad
    assert not record.maps()[LARGE].requires_grad
    field(torch.ones(1, 4, *LARGE), 1.0)
    torch.testing.assert_close(record.maps()[LARGE].sum(1), torch.ones(1, *LARGE))


@pytest.mark.parametrize("limit", [2 * 4 * 48 * 48 - 1, 2 * 4 * 48 * 48 + 2 * 4 * 12 * 12 - 1])
def test_beyond_the_limit_nothing_is_computed(text2image, limit):
    record = Record(kind="self", limit=limit)
    with pytest.raises(ValueError) as error:
        run_generate(text2image, [record], ["x", "y"], batch_size=2)
    needed = "18,432 bytes" if limit < 18432 else "19,584 bytes"
    said = str(error.value)
    assert f"in all {needed}" in said and f"limit is {limit:,} bytes" in said and "\n" not in said
    assert ("pixels=47 leaves" in said) == (limit < 18432) and "items takes fewer" in said
    assert sum(4 * each.numel() for each in record._sums.values()) <= limit
    fits = Record(kind="self", limit=19584)
    run_generate(text2image, [fits], ["x", "y"], batch_size=2)
    smaller = Record(kind="self", limit=limit, items=[1])
    run_generate(text2image, [smaller], ["x", "y"], batch_size=2)
    torch.testing.assert_close(smaller.maps()[LARGE], fits.maps()[LARGE][1:])


def test_the_limit_comes_before_the_softmax():
    record = Record(kind="self")
    recording = record.bind(
        Run(sigmas=(1.0, 0.0), size=(96, 96), map_sizes=((96, 96),), prompts=("",), sources=(0,))
    ).for_call(1.0, (0, 1, 2), 1)
    q = torch.empty(3, 8, 9216, 40, device="meta")
    with pytest.raises(ValueError, match=r"maps of 96 x 96 take 339.7 MB.* limit is 268.4 MB; pixels=9215 leaves"):
        recording.inputs(q, q, q, Site("down", "self", 0))


def test_half_precision_is_summed_in_float32():
    record = Record().bind(Run(sigmas=(1.0, 0.0), size=(1, 2), map_sizes=((1, 2),), prompts=("",), sources=(0,)))
    p = torch.rand(1, 8, 2, 3).softmax(-1).bfloat16()
    for _ in range(400):
        record.add(p, [0])
    torch.testing.assert_close(record.maps()[1, 2][0].flatten(1).T, p[0].float().mean(0), rtol=1e-5, atol=0)


# Sizes


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_a_map_has_the_size_of_its_level(y, x, level):
    sizes = [(y * 2**i, x * 2**i) for i in range(level, -1, -1)]
    assert all(map_size(size[0] * size[1], sizes) == size for size in sizes)


def test_maps_of_a_size_that_the_network_does_not_know_are_refused():
    with pytest.raises(ValueError, match="13 pixels; the network says that its maps are 6 x 8, 3 x 4"):
        map_size(13, [LARGE, SMALL])


# A word, a place


def test_a_word_is_the_mean_of_its_tokens(pipe):
    record = Record()
    edit(pipe, [record])
    large, small = record.maps().values()
    torch.testing.assert_close(record.word([2, 3], size=LARGE), large[:, [2, 3]].mean(1))
    torch.testing.assert_close(record.word([5], size=SMALL, shape=SMALL), small[:, 5])

    def enlarge(x):
        return torch.nn.functional.interpolate(x, (24, 32), mode="bilinear")

    expected = (enlarge(large[:, [2, 3]]) + enlarge(small[:, [2, 3]])).mean(1) / 2
    torch.testing.assert_close(record.word([2, 3], shape=(24, 32)), expected)
    assert record.word([2]).shape == (1, *LARGE)
    torch.testing.assert_close(sum(record.word([t]) for t in range(16)), torch.ones(1, *LARGE))


def test_a_place_looks_where_its_pixel_looks(pipe):
    record = Record(kind="self")
    edit(pipe, [record])
    large, small = record.maps().values()
    torch.testing.assert_close(record.looks((0.9, 0.2), size=LARGE), large[:, 1 * 8 + 7])  # x 7.2, y 1.2
    torch.testing.assert_close(record.looks((0.9, 0.2), size=SMALL, shape=SMALL), small[:, 0 * 4 + 3])
    torch.testing.assert_close(record.looks((1, 1), size=LARGE), large[:, 47])
    together = record.looks((0.9, 0.2), shape=(24, 32))
    assert together.shape == (1, 24, 32)
    torch.testing.assert_close(together.sum(), torch.tensor(1.0))
    enlarged = torch.nn.functional.interpolate(small[:, 3:4], LARGE, mode="bilinear")[:, 0]
    torch.testing.assert_close(record.looks((0.9, 0.2)), (48 * large[:, 15] + 12 * enlarged) / 2 / 48)


# What is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"kind": "both"}, "unknown kind of attention 'both'; there are cross, self"),
        ({"places": "mid"}, "places 'mid': expected a list"),
        ({"places": ["top"]}, "places ['top']"),
        ({"places": []}, "places []"),
        ({"during": (0, 1.5)}, "during 1.5: expected a number from 0 to 1"),
        ({"branch": -1}, "branch -1"),
        ({"pixels": 0}, "pixels 0"),
        ({"limit": 1.5}, "limit 1.5"),
        ({"sizes": [(8, 6)]}, "no maps are 8 x 6 (y x); this network's are 6 x 8, 3 x 4"),
        ({"items": [1]}, "item 1 of a batch of 1"),
        ({"during": (0.6, 0.6)}, "no step of 3 lies in the part from 0.6 to 0.6"),
        ({"during": (0.2, 0.4)}, "of the run; take a longer part"),
    ],
)
def test_options_that_mean_nothing(pipe, options, words):
    with pytest.raises(ValueError) as error:
        edit(pipe, [Record(**options)])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_was_not_recorded_cannot_be_shown(pipe):
    cross, itself, never = Record(), Record(kind="self"), Record(branch=5)
    edit(pipe, [cross, itself, never])
    for ask, words in (
        (lambda: never.maps(), "no cross-attention at down, mid, up was run in guidance branch 5"),
        (lambda: Record().word([1]), "nothing was recorded"),
        (lambda: cross.maps((2, 2)), r"no maps of 2 x 2 \(y x\) were recorded; there are 6 x 8, 3 x 4"),
        (lambda: cross.word([16]), r"token positions \[16\]: expected some of 0 to 15"),
        (lambda: cross.word([]), r"token positions \[\]"),
        (lambda: cross.looks((0, 0)), "looks is of self-attention"),
        (lambda: itself.word([1]), "word is of cross-attention"),
        (lambda: itself.looks((0, 7)), "place 7: expected a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
