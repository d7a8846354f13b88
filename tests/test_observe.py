"""Recorded cross-attention: it is the explicit softmax, averaged, and changes nothing."""

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

    def maps(self, n: int, branch: int = 0, keep=lambda sigma: True) -> torch.Tensor:
        """(b, n, m): softmax over keys, mean over heads, over sites of n pixels, over calls."""
        found = []
        for sigma, branches, b, site, q, k in self.seen:
            if site.kind == "cross" and q.shape[2] == n and branch in branches and keep(sigma):
                i = branches.index(branch)
                p = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[3] ** 0.5, dim=-1)
                found.append(p[i * b : (i + 1) * b].mean(1))
        return torch.stack(found).mean(0)


# What is kept


@pytest.mark.parametrize("branch", [0, 1, 2])
@pytest.mark.parametrize("low_memory", [False, True])
def test_maps_are_the_softmax_averaged_over_heads_sites_and_steps(pipe, branch, low_memory):
    record, capture = Record(branch=branch), Capture()
    edit(pipe, [capture, record], ["make it night", "x"], batch_size=2, low_memory=low_memory)
    maps = record.maps()
    assert list(maps) == [LARGE, SMALL]
    for y, x in (LARGE, SMALL):
        assert maps[y, x].shape == (2, 16, y, x)
        expected = capture.maps(y * x, branch)
        torch.testing.assert_close(maps[y, x], expected.movedim(1, 2).reshape(2, 16, y, x))
    assert difference(maps[LARGE][0], maps[LARGE][1]) > 1e-2  # the items are not one


def test_probabilities_sum_to_one(text2image):
    record = Record()
    run_generate(text2image, [record], ["a red house", "a blue house"], batch_size=2)
    for size, maps in record.maps().items():
        torch.testing.assert_close(maps.sum(1), torch.ones(2, *size))


def test_a_part_of_the_run(pipe):
    capture, first, rest, whole = Capture(), Record(during=(0, 0.5)), Record(during=(0.5, 1)), Record()
    edit(pipe, [capture, first, rest, whole], steps=5)  # the middles are .1 .3 .5 .7 .9
    sigmas = pipe.denoiser.schedule.sigmas_for(5)
    assert (first.steps, rest.steps, whole.steps) == (range(0, 2), range(2, 5), range(0, 5))
    expected = capture.maps(48, keep=lambda sigma: sigma > sigmas[2])
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
def test_the_result_is_the_same_to_rounding(pipe, sampler):
    how = {"sampler": sampler, "steps": 4}
    assert difference(edit(pipe, [Record()], **how), edit(pipe, **how)) < ROUNDING


def test_where_nothing_is_kept_no_softmax_is_explicit():
    record = Record().bind(
        Run(sigmas=(2.0, 1.0, 0.0), size=LARGE, map_sizes=(LARGE, SMALL), prompts=("",), sources=(0,))
    )
    assert (
        record.for_call(2.0, (0, 1), 1) is not None
        and record.for_call(2.0, (1, 2), 1) is record.for_call(3.0, (0,), 1) is None
    )


# Memory


def test_only_the_sums_are_kept(text2image):
    record = Record()
    for steps in (1, 6):
        run_generate(text2image, [record], ["x", "y"], steps=steps, batch_size=2)
        assert {s: each.shape for s, each in record._sums.items()} == {LARGE: (2, 48, 16), SMALL: (2, 12, 16)}
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


def test_half_precision_is_summed_in_float32():
    record = Record().bind(Run(sigmas=(1.0, 0.0), size=(1, 2), map_sizes=((1, 2),), prompts=("",), sources=(0,)))
    p = torch.rand(1, 8, 2, 3).softmax(-1).bfloat16()
    for _ in range(400):
        record.add(p, 0)
    torch.testing.assert_close(record.maps()[1, 2][0].flatten(1).T, p[0].float().mean(0), rtol=1e-5, atol=0)


# Sizes


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_a_map_has_the_size_of_its_level(y, x, level):
    sizes = [(y * 2**i, x * 2**i) for i in range(level, -1, -1)]
    assert all(map_size(size[0] * size[1], sizes) == size for size in sizes)


def test_maps_of_a_size_that_the_network_does_not_know_are_refused():
    with pytest.raises(ValueError, match="13 pixels; the network says that its maps are 6 x 8, 3 x 4"):
        map_size(13, [LARGE, SMALL])


# A word


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


# What is refused


@pytest.mark.parametrize(
    "options, words",
    [
        ({"during": (0, 1.5)}, "during 1.5: expected a number from 0 to 1"),
        ({"during": (0.6, 0.6)}, "no step of 3 lies in the part from 0.6 to 0.6"),
        ({"during": (0.2, 0.4)}, "of the run; take a longer part"),
    ],
)
def test_options_that_mean_nothing(pipe, options, words):
    with pytest.raises(ValueError) as error:
        edit(pipe, [Record(**options)])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_was_not_recorded_cannot_be_shown(pipe):
    record, never = Record(), Record(branch=5)
    edit(pipe, [record, never])
    for ask, words in (
        (lambda: never.maps(), "no cross-attention was run in guidance branch 5"),
        (lambda: Record().word([1]), "nothing was recorded"),
        (
            lambda: record.word([1], size=(2, 2)),
            r"no maps of \(2, 2\) \(y, x\) were recorded; there are \(6, 8\), \(3, 4\)",
        ),
        (lambda: record.word([16]), r"token positions \[16\]: expected some of 0 to 15"),
        (lambda: record.word([]), r"token positions \[\]"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
