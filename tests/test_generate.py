"""generate, sdedit and generate_pair on small random networks: what they return and what it depends on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROUNDING, count_fused, difference, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.control import Control, Share
from minip2p.control.share import shared_steps
from minip2p.data.images import to_tensor
from minip2p.diffusion import SAMPLERS

RED, BLUE = "a red house by the sea", "a blue house by the sea"


@pytest.fixture(scope="module")
def text2image():
    return small_pipeline(in_channels=4)


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# generate


def test_the_three_outputs_agree(text2image):
    common = {"steps": 2, "size": (32, 24)}
    latent, tensor, pil = (text2image.generate(RED, **common, output=word) for word in ("latent", "tensor", "pil"))
    assert latent.shape == (4, 6, 8) and tensor.shape == (3, 24, 32) and pil.size == (32, 24)
    assert torch.equal(text2image.decode(latent[None])[0], tensor)
    assert np.array_equal(np.asarray(pil), (255 * tensor).byte().movedim(0, -1).numpy())
    assert text2image.generate(RED, steps=1).size == (32, 32), "the model's own size"
    for x in (latent, tensor):
        assert not x.is_inference() and not x.requires_grad


def test_guidance_is_null_plus_scale_times_the_difference(text2image):
    """One step from the same noise: the sample is linear in the scale, 0 is the negative prompt's, 1 the prompt's."""

    def at(scale, **more):
        return text2image.generate(RED, scale=scale, steps=1, output="latent", **more)

    zero, one = at(0.0), at(1.0)
    assert difference(at(7.5), zero + 7.5 * (one - zero)) < ROUNDING
    assert difference(text2image.generate("", scale=1.0, steps=1, output="latent"), zero) < ROUNDING
    assert difference(at(0.0, negative=BLUE), text2image.generate(BLUE, scale=1.0, steps=1, output="latent")) < ROUNDING
    assert difference(at(3.0, negative=BLUE), at(3.0)) > 1e-3


def test_a_picture_does_not_depend_on_its_batch(text2image):
    prompts, seeds, scales, negatives = [RED, BLUE, "x"], [5, 0, 2**40], [7.5, 1.0, 3.0], ["", "x", ""]
    alone = [
        text2image.generate(p, seed=s, scale=w, negative=n, steps=3, output="latent")
        for p, s, w, n in zip(prompts, seeds, scales, negatives, strict=True)
    ]
    common = {"seed": seeds, "scale": scales, "negative": negatives, "steps": 3, "output": "latent"}
    assert all(map(torch.equal, text2image.generate(prompts, **common), alone))
    for together, one in zip(text2image.generate(prompts, **common, batch_size=3), alone, strict=True):
        assert difference(together, one) < ROUNDING
    assert torch.equal(text2image.generate([RED, RED], seed=4, scale=7.5, steps=3, output="latent")[1], alone[0])


def test_scale_left_out_is_the_models_and_low_memory_gives_the_same(text2image):
    other = replace(
        text2image, config=replace(text2image.config, sampling=replace(text2image.config.sampling, text_scale=2.0))
    )
    a = other.generate(RED, steps=2, output="latent")
    assert torch.equal(a, text2image.generate(RED, scale=2.0, steps=2, output="latent"))
    assert difference(other.generate(RED, steps=2, output="latent", low_memory=True), a) < ROUNDING


def test_on_step_is_called_after_every_step(text2image):
    told = []
    text2image.generate([RED, BLUE, "x"], steps=3, batch_size=2, on_step=told.append)
    assert [(p.done, p.total) for p in told] == [(i + 1, 6) for i in range(6)]
    assert [p.items for p in told] == [(0, 1)] * 3 + [(2,)] * 3


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"prompt": None}, "prompt None: expected a text"),
        ({"negative": 3}, "negative 3: expected a text"),
        ({"scale": -1}, "scale -1: expected a finite number"),
        ({"scale": math.nan}, "scale nan"),
        ({"steps": 0}, "steps 0: expected a whole number"),
        ({"seed": True}, "seed True"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"output": "jpeg"}, "output 'jpeg': expected pil"),
        ({"size": 2**20}, "size 1048576: expected a side or (width, height), multiples of 8 pixels up to 8192"),
        ({"steps": 10**9}, "steps 1000000000: expected a whole number"),
        ({"size": 33}, "size 33: expected a side or (width, height), multiples of 8 pixels"),
        ({"size": (32, 0)}, "size (32, 0)"),
        ({"size": (32, 32, 3)}, "size (32, 32, 3)"),
        ({"size": 32.0}, "size 32.0"),
        ({"batch_size": 0}, "batch size 0"),
        ({"prompt": [RED] * 2, "seed": [1, 2, 3]}, "unequal length: prompt has 2, seed has 3"),
    ],
)
def test_invalid_options_are_refused_in_one_line(text2image, bad, words):
    with pytest.raises(ValueError) as error:
        text2image.generate(**{"prompt": RED} | bad)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_editor_cannot_generate(pipe):
    assert pipe.kind == "editor"
    for call in (
        lambda: pipe.generate(RED),
        lambda: pipe.generate_pair(RED, BLUE),
        lambda: pipe.sdedit(picture(), RED),
    ):
        with pytest.raises(ValueError, match="kind 'editor'.* 8 input channels.*'text-to-image' is needed"):
            call()


def test_sampler_options_reach_every_verb(text2image):
    calls = [
        lambda **how: text2image.generate(RED, **how),
        lambda **how: text2image.sdedit(picture(), RED, **how),
        lambda **how: text2image.generate_pair(RED, BLUE, **how)[1],
    ]
    for call in calls:
        common = {"steps": 3, "sampler": "ddim", "output": "latent"}
        assert difference(call(sampler_options={"eta": 0.5}, **common), call(**common)) > 1e-3
        with pytest.raises(ValueError, match="sampler ddim has no option 'churn'; it has eta"):
            call(sampler_options={"churn": 1}, **common)


# sdedit


def test_strength_0_is_the_picture_and_1_is_generate(text2image):
    fitted = text2image.sdedit(picture(), RED, 0)
    assert fitted.size == (32, 24)
    mode = text2image.encode_image(to_tensor(fitted)[None])[0]
    assert torch.equal(text2image.sdedit(picture(), RED, 0, output="latent"), 0.18215 * mode)
    common = {"steps": 6, "seed": 3, "output": "latent"}
    assert torch.equal(
        text2image.sdedit(picture(), RED, 1, **common), text2image.generate(RED, size=(32, 24), **common)
    ), "the picture has no influence"
    assert torch.equal(text2image.sdedit(picture(), RED, 0.04, **common), 0.18215 * mode), "of no step"
    assert text2image.sdedit(picture(), RED, 0.5, steps=4, keep_size=True).size == (60, 40)


def test_sdedit_takes_the_last_steps_from_the_noised_latent(text2image):
    told = []
    text2image.sdedit(picture(), RED, 0.5, steps=6, seed=3, sampler="ddim", on_step=told.append)
    sigmas = text2image.denoiser.schedule.sigmas_for(6).tolist()
    assert [p.step.sigma for p in told] == sigmas[3:6]
    noise = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(3))
    mode = 0.18215 * text2image.encode_image(to_tensor(text2image.sdedit(picture(), RED, 0))[None])[0]
    z = mode + sigmas[3] * noise
    step = told[0].step
    expected = step.denoised[0] + sigmas[4] / sigmas[3] * (z - step.denoised[0])
    assert difference(step.z[0], expected) < ROUNDING


def test_sdedit_mixes_sizes_and_strengths(text2image):
    pictures, strengths = [picture(60, 40, 0), picture(40, 60, 1), picture(60, 40, 2)], [0.5, 1.0, 0.0]
    alone = [
        text2image.sdedit(p, RED, s, steps=4, seed=i, output="latent")
        for i, (p, s) in enumerate(zip(pictures, strengths))
    ]
    told = []
    both = text2image.sdedit(pictures, RED, strengths, steps=4, output="latent", batch_size=3, on_step=told.append)
    assert all(difference(a, b) < ROUNDING for a, b in zip(both, alone, strict=True))
    assert (told[-1].done, told[-1].total) == (6, 6)
    with pytest.raises(ValueError, match="strength 1.5: expected a number from 0 to 1"):
        text2image.sdedit(picture(), RED, 1.5)


# generate_pair


def test_the_source_is_what_generate_generates(text2image):
    """At any share; with equal prompts the edited picture is the source, too."""
    common = {"steps": 5, "seed": 7, "output": "latent"}
    alone = text2image.generate(RED, **common)
    for share in (0, 0.4, 1):
        source, edited = text2image.generate_pair(RED, BLUE, share=share, **common)
        assert difference(source, alone) < ROUNDING and difference(edited, source) > 1e-3
        source, edited = text2image.generate_pair(RED, RED, share=share, **common)
        assert difference(edited, source) < ROUNDING
    source, edited = text2image.generate_pair(RED, BLUE, share=0, **common)
    assert difference(edited, text2image.generate(BLUE, **common)) < ROUNDING, (
        "without sharing: two pictures of the same noise"
    )


def test_sharing_changes_the_edited_picture_only(text2image):
    runs = [text2image.generate_pair(RED, BLUE, share=s, steps=5, output="latent") for s in (0, 0.3, 0.6, 1.0)]
    assert all(torch.equal(source, runs[0][0]) for source, _ in runs[1:]), "bit for bit"
    edits = [edited for _, edited in runs]
    assert all(difference(a, b) > 1e-4 for a, b in zip(edits, edits[1:]))


def test_many_pairs_give_what_each_gives_alone(text2image):
    prompts, edited, shares = [RED, "x", BLUE], [BLUE, "y", RED], [0.9, 0.0, 0.4]
    scales, seeds = [7.5, 2.0, 1.0], [3, 1, 4]
    alone = [
        text2image.generate_pair(p, e, share=s, scale=w, seed=n, steps=5, output="latent")
        for p, e, s, w, n in zip(prompts, edited, shares, scales, seeds, strict=True)
    ]
    common = {"share": shares, "scale": scales, "seed": seeds, "steps": 5, "output": "latent"}
    for size in (1, 2, 3):
        together = text2image.generate_pair(prompts, edited, **common, batch_size=size)
        assert all(
            difference(a, b) < ROUNDING for ours, one in zip(together, alone, strict=True) for a, b in zip(ours, one)
        )
    low = text2image.generate_pair(prompts, edited, **common, batch_size=3, low_memory=True)
    assert all(difference(a, b) < ROUNDING for ours, one in zip(low, alone, strict=True) for a, b in zip(ours, one))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pairs_are_made_by_every_sampler(text2image, sampler):
    source, edited = text2image.generate_pair(RED, BLUE, steps=3, sampler=sampler, output="latent")
    assert difference(source, text2image.generate(RED, steps=3, sampler=sampler, output="latent")) < ROUNDING
    assert edited.isfinite().all() and difference(edited, source) > 1e-3


def test_sharing_keeps_attention_fused_and_adds_no_call(text2image, monkeypatch):
    """The same fused calls as without a control."""
    calls = count_fused(monkeypatch)
    counts = []
    for share in (0, 1):
        calls.clear()
        text2image.generate_pair(RED, BLUE, share=share, steps=4, output="latent")
        counts.append(list(calls))
    assert counts[0] == counts[1] and counts[0].count(4) == 4 * 8, "4 steps, 8 sites, 2 branches of 2 rows"


def test_a_control_that_does_nothing_changes_nothing(text2image):
    a, b = (text2image.generate_pair(RED, BLUE, steps=3, output="latent", control=c) for c in ((), (Control(),)))
    assert all(map(torch.equal, a, b))


@settings(max_examples=200)
@given(st.integers(1, 120), st.floats(0, 1))
def test_the_window_is_the_authors(steps, share):
    """Open at step i while share > i / (steps - 1)."""
    n = shared_steps(share, steps)
    open_at = [share > (i / (steps - 1) if steps > 1 else 0) for i in range(steps)]
    assert open_at == [i < n for i in range(steps)]


def test_a_share_outside_of_0_to_1_is_refused(text2image):
    for share in (-0.1, 1.01, math.nan, "all"):
        with pytest.raises(ValueError, match="share .*: expected a number from 0 to 1"):
            text2image.generate_pair(RED, BLUE, share=share)
    with pytest.raises(ValueError, match="3 shares for 1 items"):
        text2image.generate(RED, control=(Share([0.1, 0.2, 0.3]),))
