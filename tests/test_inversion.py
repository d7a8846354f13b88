"""Inversion on small networks: identities of its steps, batches, state files, and reconstruction."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROUNDING, difference, randomise, small_config, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from minip2p.checkpoints.files import open_weights, write_safetensors
from minip2p.control.inversion import ddim_inversion, descend, null_text_inversion
from minip2p.data.images import to_tensor
from minip2p.diffusion import BetaSchedule, ddim
from minip2p.models.unet import UNet
from minip2p.pipeline import Progress, load_inversion, save_inversion

pytestmark = pytest.mark.slow

PROMPT, EDITED = "a red house", "a blue house"
FEW = {"steps": 4, "inner": 2}


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe():
    """A text-to-image model whose predictions have the size of the latents, and depend on the text."""
    pipe = small_pipeline(4)
    with torch.no_grad():
        for p in pipe.unet.conv_out.parameters():
            p.mul_(0.1)
    return pipe


def latent(pipe, image=None, **how) -> torch.Tensor:
    """What an inversion starts from."""
    fitted = pipe.fitted(picture() if image is None else image, **how).image
    return pipe.config.vae.scaling_factor * pipe.encode_image(to_tensor(fitted)[None])[0]


# The steps themselves


def line(z, sigma, text):
    """A denoiser whose steps can be worked out by hand: a text of its own is what it sees, where there is noise."""
    return z / (1 + sigma**2) + text.mean(dim=1)[:, :, None, None] * sigma**2 / (1 + sigma**2)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(n=st.integers(1, 30), spacing=st.sampled_from(["linspace", "leading", "karras"]), seed=st.integers(0, 99))
def test_ddim_inversion_undoes_ddim_if_eps_is_constant(n, spacing, seed):
    sigmas, eps = BetaSchedule().sigmas_for(n, spacing), randn(2, 3, 2, 4, seed=seed)
    climbed = list(ddim_inversion(lambda z, sigma: z - sigma * eps, randn(2, 3, 2, 4), sigmas.tolist()))
    assert [c.sigma for c in climbed] == sigmas.tolist()[-2::-1] and [c.i for c in climbed] == list(range(n))
    assert_close(climbed[-1].z, randn(2, 3, 2, 4) + sigmas[0] * eps)
    *_, last = ddim(lambda z, sigma: z - sigma * eps, climbed[-1].z, sigmas, noise=None)
    assert_close(last.z, randn(2, 3, 2, 4))


def test_ddim_inversion_evaluates_the_lower_latent_at_the_higher_level():
    asked = []

    def field(z, sigma):
        asked.append((z, sigma))
        return 0.5 * z

    z0, sigmas = randn(2, 3, 2, 4), [3.0, 0.5, 0.0]
    first, second = ddim_inversion(field, z0, sigmas)
    assert [sigma for _, sigma in asked] == [0.5, 3.0]
    preserved = [z0, first.z / 1.25**0.5]
    for (z, sigma), x in zip(asked, preserved):
        assert_close(z / (sigma**2 + 1) ** 0.5, x)
    assert_close(second.z, first.z + 2.5 * (asked[1][0] - second.denoised) / 3)


def test_more_steps_reconstruct_better():
    """DDIM inversion is exact in the limit: its error falls about as 1 / n. Shown for Gaussian data."""
    variances = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)[:, None, None]

    def error(n):
        sigmas, z0 = BetaSchedule().sigmas_for(n), randn(2, 3, 2, 4)
        field = lambda z, sigma: z * variances / (variances + sigma**2)  # noqa: E731
        *_, up = ddim_inversion(field, z0, sigmas.tolist())
        *_, down = ddim(field, up.z, sigmas, noise=None)
        return difference(down.z, z0)

    assert 1.6 < error(20) / error(40) < 2.4 and error(160) < 0.2 * error(20)


@given(seed=st.integers(0, 99), stop=st.sampled_from([0.0, 0.02, 0.1]))
@settings(max_examples=8)
def test_descent_is_adam_on_each_item_alone(seed, stop):
    """Against torch's own optimiser on one item, which takes one more step with the loss that stops it."""
    goal, x = randn(3, 2, 4, seed=seed), randn(3, 2, 4, seed=seed + 100)
    goal[1] = x[1] + 0.05  # near: stops first
    ours = descend(lambda x, rows: (x - goal)[rows].square().mean(dim=(1, 2)), x, steps=8, rate=0.1, stop=stop)
    for i in range(3):
        theirs = x[i].clone().requires_grad_()
        adam = torch.optim.Adam([theirs], lr=0.1)
        for _ in range(8):
            adam.zero_grad()
            loss = (theirs - goal[i]).square().mean()
            loss.backward()
            adam.step()
            if loss.item() < stop:
                break
        assert_close(ours[i], theirs.detach())


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_null_texts_bring_a_guided_run_back(scale):
    """Many small steps of descent on a denoiser that the null text can steer wherever it should go."""
    sigmas, z0 = BetaSchedule().sigmas_for(6).tolist(), randn(2, 3, 2, 4)
    text, null = randn(2, 5, 3, seed=1), randn(2, 5, 3, seed=2)
    # every pixel wants a null text of its own; a picture without contrast asks the same of all of them
    z0 = z0.mean(dim=(2, 3), keepdim=True).expand(2, 3, 2, 4)
    path = [z0] + [c.z for c in ddim_inversion(lambda z, sigma: line(z, sigma, text), z0, sigmas)]
    guided = lambda z, s: line(z, s, null) + scale * (line(z, s, text) - line(z, s, null))  # noqa: E731
    *_, far = ddim(guided, path[-1], torch.tensor(sigmas), noise=None)
    *_, near = null_text_inversion(
        line, path[::-1], text, null, sigmas, scale=scale, inner=400, learning_rate=0.05, tolerance=1e-3
    )
    assert difference(near.z, z0) < 0.01 < 0.1 < difference(far.z, z0)


def test_gradients_reach_the_null_text_only(pipe):
    seen = []

    def denoise(z, sigma, text):
        seen.append((torch.is_grad_enabled(), text.requires_grad, z.requires_grad))
        return line(z, sigma, text)

    path, text = [randn(2, 3, 2, 4, seed=i) for i in range(3)], randn(2, 5, 3)
    found = list(null_text_inversion(denoise, path, text, text + 1, [3.0, 1.0, 0.0], scale=2.0, inner=2))
    assert seen == 2 * [(False, False, False), *2 * [(True, True, False)], (False, False, False)]
    assert not any(each.null.requires_grad or each.z.requires_grad for each in found)


def test_null_text_inversion_can_be_continued():
    path, text, sigmas = [randn(2, 3, 2, 4, seed=i) for i in range(4)], randn(2, 5, 3), [3.0, 1.0, 0.3, 0.0]
    whole = list(null_text_inversion(line, path, text, text + 1, sigmas, scale=2.0))
    rest = null_text_inversion(line, path, text, whole[0].null, sigmas, scale=2.0, first=1, z=whole[0].z)
    for a, b in zip(whole[1:], rest, strict=True):
        assert a.i == b.i and torch.equal(a.z, b.z) and torch.equal(a.null, b.null)


# Recomputing blocks in the backward pass


@pytest.mark.parametrize("attention", [("full", "none"), ("none", "cross")])
def test_checkpointing_changes_no_output_and_no_gradient(attention):
    config = small_config(4).unet
    unet = randomise(UNet(replace(config, attention=attention, blocks=2)))
    results = []
    for on in (False, True):
        unet.checkpointing = on
        unet.zero_grad()
        z, text = (randn(*s).float().requires_grad_() for s in ((2, 4, 4, 6), (2, 5, 32)))
        y = unet(z, torch.tensor([3.0, 700.0]), text)
        y.square().sum().backward()
        results.append([y, z.grad, text.grad, *(p.grad.clone() for p in unet.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def count(sizes: list[int], x: torch.Tensor) -> torch.Tensor:
    sizes.append(x.numel())
    return x


def test_checkpointing_keeps_less():
    unet, kept = randomise(UNet(small_config(4).unet)), []
    for on in (False, True):
        unet.checkpointing, sizes = on, []
        with torch.autograd.graph.saved_tensors_hooks(partial(count, sizes), lambda x: x):
            unet(torch.ones(1, 4, 8, 8), 3.0, torch.ones(1, 5, 32))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


# The verb


def test_an_inversion_records_its_settings(pipe):
    inversion = pipe.invert(picture(), PROMPT, scale=3, **FEW)
    said = (inversion.prompt, inversion.steps, inversion.spacing, inversion.method)
    assert said == (PROMPT, 4, "linspace", "null_text")
    assert inversion.sigmas == tuple(BetaSchedule().sigmas_for(4).tolist()) and inversion.scale == 3
    assert inversion.z.shape == (4, 6, 8) and inversion.nulls.shape == (4, 16, 32)
    for x in (inversion.z, inversion.nulls):
        assert not x.is_inference() and not x.requires_grad and x.isfinite().all()
    assert not pipe.unet.checkpointing and all(p.grad is None for p in pipe.unet.parameters())
    other = pipe.invert(picture(), PROMPT, method="ddim", steps=3, spacing="leading", resolution=64, fit="pad")
    assert other.nulls is None and other.scale == 1 and other.z.shape == (4, 12, 18) and other.spacing == "leading"
    assert pipe.invert(picture(), PROMPT, method="negative_prompt", steps=1).scale == pipe.config.sampling.text_scale


def test_null_texts_reconstruct_better_than_ddim_alone(pipe):
    z0, errors, told = latent(pipe), {}, []
    how = {"scale": 3, "steps": 4, "learning_rate": 0.05, "checkpointing": False, "on_step": told.append}
    for method in ("ddim", "null_text"):
        start = pipe.invert(picture(), PROMPT, method=method, **how)
        z = pipe.generate(PROMPT, start=start, output="latent")
        errors[method] = difference(z, z0)
    print(errors)
    assert errors["null_text"] < 0.5 * errors["ddim"]
    assert difference(z, told[-1].step.z[0]) < ROUNDING  # generating takes the very steps that descent ended with


@pytest.mark.parametrize("scale", [0, 1, 7.5])
def test_negative_prompts_are_ddim_without_guidance(pipe, scale):
    how = {"scale": scale, "steps": 4}
    negative, plain = (pipe.invert(picture(), PROMPT, method=m, **how) for m in ("negative_prompt", "ddim"))
    assert torch.equal(negative.z, plain.z)
    a = pipe.generate(PROMPT, start=negative, output="latent")
    assert difference(a, pipe.generate(PROMPT, start=plain, scale=1, output="latent")) < ROUNDING


def test_generation_takes_the_inversions_scale(pipe):
    starts = [pipe.invert(picture(), PROMPT, method="ddim", scale=scale, steps=3) for scale in (2, 5)]
    both = pipe.generate(PROMPT, start=starts, output="latent")
    for start, ours in zip(starts, both):
        assert torch.equal(ours, pipe.generate(PROMPT, start=start, scale=start.scale, output="latent"))
    assert difference(both[0], both[1]) > 1e-3
    source, _ = pipe.generate_pair(PROMPT, EDITED, start=starts[0], output="latent")
    assert difference(source, both[0]) < ROUNDING


def test_a_pair_from_an_inversion_keeps_the_picture_as_its_source(pipe):
    start = pipe.invert(picture(), PROMPT, scale=3, **FEW)
    source, edited = pipe.generate_pair(PROMPT, EDITED, start=start, share=0.5, output="latent")
    assert difference(source, pipe.generate(PROMPT, start=start, output="latent")) < ROUNDING
    assert difference(edited, source) > 1e-3


def test_a_picture_is_inverted_alike_alone_and_in_a_batch(pipe):
    """Of two sizes, with prompts and scales of their own, and stopping after 1, 3 or more steps of descent."""
    pictures = [picture(60, 40, 0), picture(40, 60, 1), picture(60, 40, 2), Image.new("RGB", (60, 40), "red")]
    prompts, scales = [PROMPT, EDITED, "x", ""], [3.0, 2.0, 5.0, 1.5]
    common = {"steps": 2, "inner": 3, "tolerance": 45000.0, "checkpointing": False}
    together = pipe.invert(pictures, prompts, scale=scales, batch_size=3, **common)
    for i, ours in enumerate(together):
        alone = pipe.invert(pictures[i], prompts[i], scale=scales[i], **common)
        assert (ours.prompt, ours.scale) == (alone.prompt, alone.scale)
        assert difference(ours.z, alone.z) < ROUNDING and difference(ours.nulls, alone.nulls) < 1e-3
    assert pipe.invert([], PROMPT) == [] and len(pipe.invert([picture()], PROMPT, method="ddim", steps=1)) == 1


def test_checkpointing_and_inference_mode_change_nothing(pipe):
    a = pipe.invert(picture(), PROMPT, steps=2, inner=2)
    with torch.inference_mode():
        b = pipe.invert(picture(), PROMPT, steps=2, inner=2, checkpointing=False)
    assert torch.equal(a.z, b.z) and difference(b.nulls, a.nulls) < 10 * ROUNDING


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_nearly_the_same(pipe, dtype):
    """Gradients of a mean over a latent are too small for float16 as they are."""
    half = replace(pipe, unet=deepcopy(pipe.unet).to(dtype), text_encoder=deepcopy(pipe.text_encoder).to(dtype))
    moved = []
    for each in (pipe, half):
        inversion = each.invert(picture(), PROMPT, scale=3, steps=1, inner=2, checkpointing=False)
        assert inversion.z.dtype == inversion.nulls.dtype == torch.float32
        moved.append((inversion.nulls - each.encode_text([""]).float()).flatten())
    assert torch.cosine_similarity(*moved, dim=0) > 0.99


def test_progress_counts_every_step(pipe):
    told: list[Progress] = []
    pipe.invert([picture(), picture(40, 60)], PROMPT, steps=3, inner=1, batch_size=2, on_step=told.append)
    assert [p.done for p in told] == list(range(1, 13)) and {p.total for p in told} == {12}
    assert [p.items for p in told] == [(0,)] * 6 + [(1,)] * 6
    assert [p.step.i for p in told[:6]] == [0, 1, 2] * 2
    assert all(pipe.decode(p.step.denoised).shape[1] == 3 for p in told)
    told.clear()
    pipe.invert(picture(), PROMPT, method="negative_prompt", steps=3, on_step=told.append)
    assert [(p.done, p.total) for p in told] == [(1, 3), (2, 3), (3, 3)]


# Files


class Stopped(Exception):
    pass


def stop_at(n):
    def on_step(progress):
        if progress.done == n:
            raise Stopped

    return on_step


@pytest.mark.parametrize("at", [2, 5, 7])
def test_a_stopped_inversion_resumes_and_gives_the_same(pipe, tmp_path, at):
    """Stopped during DDIM inversion, after it, and among the null texts."""
    state, told = tmp_path / "new" / "state.safetensors", []
    whole = pipe.invert(picture(), PROMPT, **FEW)
    with pytest.raises(Stopped):
        pipe.invert(picture(), PROMPT, state=state, on_step=stop_at(at), **FEW)
    if state.exists():
        with pytest.raises(ValueError, match="not finished"):
            load_inversion(state)
    resumed = pipe.invert(picture(), PROMPT, state=str(state), on_step=told.append, **FEW)
    assert told[-1].total == {2: 8, 5: 4, 7: 2}[at]
    assert torch.equal(resumed.z, whole.z) and torch.equal(resumed.nulls, whole.nulls)
    again = pipe.invert(picture(), PROMPT, state=state, on_step=stop_at(1), **FEW)  # nothing is left to do
    assert torch.equal(again.nulls, whole.nulls) and torch.equal(load_inversion(state).nulls, whole.nulls)
    assert [file.name for file in state.parent.iterdir()] == ["state.safetensors"]


def test_pictures_that_are_not_equally_far_are_not_run_together(pipe, tmp_path):
    states = [tmp_path / f"{i}.safetensors" for i in range(3)]
    pictures, how = [picture(seed=i) for i in range(3)], {"method": "null_text", "steps": 2, "inner": 1}
    with pytest.raises(Stopped):
        pipe.invert(pictures[1], PROMPT, state=states[1], on_step=stop_at(4), **how)
    pipe.invert(pictures[2], PROMPT, state=states[2], **how)
    told = []
    three = pipe.invert(pictures, PROMPT, state=states, batch_size=3, on_step=told.append, **how)
    assert [p.items for p in told] == [(0,)] * 4 + [(1,)]
    for each, image in zip(three, pictures):
        assert difference(each.nulls, pipe.invert(image, PROMPT, **how).nulls) < 1e-3


CHANGED = [
    {"image": picture(seed=1)},
    {"prompt": "x"},
    {"steps": 3},
    {"scale": 2},
    {"spacing": "karras"},
    {"inner": 2},
    {"learning_rate": 0.02},
    {"tolerance": 2.0},
    {"method": "ddim"},
    {"resolution": 64},
]


def test_a_state_of_another_run_is_refused_and_left_alone(pipe, tmp_path):
    state = tmp_path / "state.safetensors"
    usual = {"image": picture(), "prompt": PROMPT, "steps": 2, "inner": 1, "state": state}
    pipe.invert(**usual)
    before = state.read_bytes()
    for changed in CHANGED:
        with pytest.raises(ValueError, match="holds another inversion") as error:
            pipe.invert(**usual | changed)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"prompt 'a red house', not 'x'"):
        pipe.invert(**usual | {"prompt": "x"})
    with pytest.raises(ValueError, match="another weights"):
        small_pipeline(4, seed=9).invert(**usual)
    assert state.read_bytes() == before
    write_safetensors(state, {"x": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="not an inversion"):
        pipe.invert(**usual)
    state.write_bytes(b"hello")
    with pytest.raises(ValueError, match="unknown format"):
        pipe.invert(**usual)
    assert state.read_bytes() == b"hello"


@pytest.mark.parametrize("method", ["ddim", "negative_prompt", "null_text"])
def test_inversions_travel_as_files(pipe, tmp_path, method):
    inversion = pipe.invert(picture(), 'the "quoted" café', method=method, steps=2, inner=1, scale=2.5)
    save_inversion(inversion, tmp_path / "i.safetensors")
    back = load_inversion(tmp_path / "i.safetensors")
    for name in ("prompt", "steps", "spacing", "sigmas", "scale", "method"):
        assert getattr(back, name) == getattr(inversion, name)
    assert torch.equal(back.z, inversion.z)
    assert (back.nulls is None) == (inversion.nulls is None) == (method == "ddim")
    a, b = (pipe.generate(each.prompt, start=each, output="latent") for each in (back, inversion))
    assert torch.equal(a, b)
    words = json.loads(open_weights(tmp_path / "i.safetensors").metadata["inversion"])
    assert words["prompt"] == 'the "quoted" café'
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_inversion(tmp_path / "none.safetensors")


# What is refused


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"method": "nulltext"}, "unknown method 'nulltext'; there are null_text, negative_prompt, ddim"),
        ({"steps": 0}, "steps 0: expected a whole number, at least 1"),
        ({"inner": 0}, "inner 0: expected a whole number, at least 1"),
        ({"inner": 2.5}, "inner 2.5: expected"),
        ({"batch_size": 0}, "batch size 0: expected"),
        ({"scale": -1}, "scale -1: expected a finite number, 0 or more"),
        ({"scale": float("nan")}, "scale nan: expected"),
        ({"scale": [1.0, 2.0, 3.0], "prompt": ["a", "b"]}, "lists of unequal length"),
        ({"learning_rate": 0}, "learning rate 0: expected a finite number above 0"),
        ({"tolerance": float("inf")}, "tolerance inf: expected"),
        ({"spacing": "even"}, "unknown spacing 'even'"),
        ({"fit": "squeeze"}, "unknown fit 'squeeze'"),
        ({"prompt": None}, "prompt None: expected a text"),
        ({"resolution": 0}, "resolution 0: expected"),
        ({"image": "no such.png"}, "no such file"),
        ({"state": 3}, "state 3: expected the path of a file"),
        ({"prompt": ["a", "b"], "state": "one.safetensors"}, "2 pictures for 1 state files"),
    ],
)
def test_invalid_options_are_refused_in_one_line(pipe, changed, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        pipe.invert(**{"image": picture(), "prompt": PROMPT} | changed)
    assert "\n" not in str(error.value)


def test_an_editor_cannot_invert():
    with pytest.raises(ValueError, match="'text-to-image' is needed"):
        small_pipeline(8).invert(picture(), PROMPT)
