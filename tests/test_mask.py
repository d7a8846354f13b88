"""A mask keeps the rest of a picture exactly, and its latents follow the published rule; turns are edits in a row."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROUNDING, difference, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.config import override
from minip2p.data.images import FITS, ImageError, fit, to_tensor
from minip2p.diffusion import SAMPLERS, BetaSchedule, FlowSchedule, Noise, guided, three_way
from minip2p.pipeline.mask import KeepOutside, fit_mask, open_mask

HOW = {"steps": 2, "output": "latent"}


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half(width: int = 48, height: int = 32) -> np.ndarray:
    """White on the right."""
    return np.arange(width)[None].repeat(height, 0) >= width // 2


# Latents


def test_latents_are_blended_at_every_step_as_published(pipe):
    """Algorithm 1 of Blended Latent Diffusion in float64: after an Euler-ancestral step z0 + sigma' noise is put where
    all of a latent's pixels are black. Its noise is what the sampler's has become."""
    image, seed, steps = picture(32, 32), 3, 4
    mask = np.zeros((32, 32), np.uint8)
    mask[9:, 3:15], mask[0, 31] = 255, 1
    found = pipe.edit(image, "make it night", mask=mask, seed=seed, steps=steps, output="latent")

    condition = pipe.encode_image(to_tensor(image)[None])
    size = pipe.config.vae.factor
    m = torch.tensor(
        [[mask[y : y + size, x : x + size].max() > 0 for x in range(0, 32, size)] for y in range(0, 32, size)]
    )
    assert 0 < m.sum() < m.numel()
    own = pipe.config.sampling
    texts = pipe.encode_text(["make it night"]), pipe.encode_text([""])
    field = guided(pipe.denoiser, three_way(own.text_scale, own.image_scale, *texts, condition))
    sigmas, draw = pipe.denoiser.schedule.sigmas_for(steps).tolist(), Noise([seed], condition.shape[1:])
    z0, m, n = (pipe.config.vae.scaling_factor * condition).double(), m.double(), draw().double()
    z = sigmas[0] * n + (1 - m) * z0
    for sigma, after in zip(sigmas, sigmas[1:]):
        with torch.inference_mode():
            denoised = field(z.float(), sigma).double()
        up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
        down = (after**2 - up**2) ** 0.5
        fresh = draw().double() if after > 0 else torch.zeros_like(z)
        edited = z + (z - denoised) / sigma * (down - sigma) + up * fresh
        n = (down * n + up * fresh) / after if after > 0 else n
        z = m * edited + (1 - m) * (z0 + after * n)
    assert difference(found, z[0]) < ROUNDING


@pytest.mark.parametrize("schedule", [BetaSchedule(), FlowSchedule()])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_outside_every_step_of_every_sampler_holds_the_latent_and_noise_of_its_level(sampler, schedule):
    """Whatever the network says there: z0 plus what the sampler makes of noise alone."""
    z0 = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    free = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(8)) < 0.5
    outside, sigmas = ~free.expand_as(z0), schedule.sigmas_for(5)
    runs = []
    for field, start in (
        (KeepOutside(free, z0).wrap(lambda z, sigma: 3 - z.cos()), z0.where(~free, torch.zeros(()).double())),
        (lambda z, sigma: torch.zeros_like(z), torch.zeros_like(z0)),
    ):
        noise = Noise([1, 2], z0.shape[1:], dtype=torch.float64)
        z = start + noise.start(sigmas[0])
        runs.append([step.z for step in SAMPLERS[sampler](field, z, sigmas, noise=noise)])
    for z, noise_alone in zip(*runs, strict=True):
        assert (z - z0 - noise_alone)[outside].abs().max() < 1e-12 * float(sigmas[0])
    assert (runs[0][-1] - z0)[outside].abs().max() < 1e-12 and (runs[0][-1] - z0)[~outside].abs().min() > 1e-6


def test_the_network_is_called_as_without_a_mask(pipe):
    """No control reaches it, so that CUDA graphs and compiled networks run as ever."""
    asked = []

    def spy(x, t, text, control=()):
        asked.append((len(x), control))
        return pipe.unet(x, t, text)

    other = replace(pipe)
    other.denoiser.network = spy
    other.edit([picture()] * 2, "x", mask=[half(), None], steps=1, batch_size=2)
    assert asked == [(6, ())]


# Laws


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("output", ["pil", "tensor", "latent"])
def test_all_white_is_an_edit_without_a_mask(pipe, sampler, output):
    how = {"steps": 3, "sampler": sampler, "output": output, "fit": "pad"}
    plain = pipe.edit(picture(60, 40), "x", **how)
    for mask in (Image.new("1", (60, 40), 1), np.ones((2, 3)), [None]):
        one = pipe.edit(picture(60, 40), "x", mask=mask, **how)
        one = one[0] if isinstance(mask, list) else one
        assert np.array_equal(np.asarray(one), np.asarray(plain))


@pytest.mark.parametrize("how", [{}, {"keep_size": True}, {"fit": "pad"}, {"fit": "stretch", "keep_size": True}])
def test_all_black_is_the_picture(pipe, how):
    black, image = np.zeros((40, 60), bool), picture(60, 40)
    source = image if how.get("keep_size") else pipe.fitted(image, None, how.get("fit", "crop")).image
    for text in ("x", ""):
        assert pipe.edit(image, text, mask=black, steps=2, **how).tobytes() == source.tobytes()
        assert torch.equal(pipe.edit(image, text, mask=black, steps=2, output="tensor", **how), to_tensor(source))


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(FITS)), st.booleans(), st.sampled_from(["pil", "tensor"]))
def test_outside_of_any_mask_every_pixel_is_the_pictures(pipe, seed, how, keep_size, output):
    rng = np.random.default_rng(seed)
    image = picture(*rng.integers(20, 60, 2).tolist(), seed=seed)
    mask = Image.fromarray((rng.integers(0, 3, (5, 7)) * 127).astype(np.uint8)).resize(image.size, 0)
    result = pipe.edit(image, "x", mask=mask, steps=1, fit=how, keep_size=keep_size, output=output)
    fitted = pipe.fitted(image, None, how)
    source, mask = (image, mask) if keep_size else (fitted.image, fit_mask(mask, fitted))
    black = np.asarray(mask) == 0
    result = result if output == "tensor" else to_tensor(result)
    assert torch.equal(result[:, black], to_tensor(source)[:, black]) and black.shape == result.shape[1:]


def test_grey_mixes_pixels(pipe):
    image = picture(32, 32)
    plain, source = pipe.edit(image, "x", steps=2, output="tensor"), to_tensor(image)
    grey = pipe.edit(image, "x", mask=np.full((32, 32), 51, np.uint8), steps=2, output="tensor")
    assert (grey - (0.8 * source + 0.2 * plain)).abs().max() < 1e-6
    soft = np.linspace(0, 1, 32)[None].repeat(32, 0)
    tensor, pil = (pipe.edit(image, "x", mask=soft, steps=2, output=word) for word in ("tensor", "pil"))
    assert (tensor - to_tensor(pil)).abs().max() < 1.5 / 255


def test_an_item_does_not_depend_on_its_batch(pipe):
    pictures = [picture(seed=i) for i in range(3)]
    masks, seeds = [half(), None, np.flip(half(), 1)], [5, 6, 7]
    alone = [pipe.edit(p, "x", mask=m, seed=s, **HOW) for p, m, s in zip(pictures, masks, seeds, strict=True)]
    assert all(map(torch.equal, pipe.edit(pictures, "x", mask=masks, seed=5, **HOW), alone))
    for one, other in zip(pipe.edit(pictures, "x", mask=masks, seed=5, batch_size=3, **HOW), alone, strict=True):
        assert difference(one, other) < ROUNDING
    shared = pipe.edit(pictures, "x", mask=half(), seed=5, batch_size=3, **HOW | {"output": "pil"})
    for one, image in zip(shared, pictures, strict=True):
        fitted = pipe.fitted(image)
        black = np.asarray(fit_mask(open_mask(half()), fitted)) == 0
        assert black.any() and (np.asarray(one)[black] == np.asarray(fitted.image)[black]).all()
    assert len(pipe.edit(picture(), "x", mask=[half(), None], **HOW)) == 2
    with pytest.raises(ValueError, match="unequal length: picture has 3, mask has 2"):
        pipe.edit(pictures, "x", mask=masks[:2])


def test_an_editor_by_rectified_flow_keeps_the_rest():
    pipe = small_pipeline()
    pipe = replace(pipe, config=override(pipe.config, "schedule.kind=flow", "schedule.prediction=flow"))
    image, mask = picture(32, 32), half(32, 32)
    for sampler in ("euler", "heun"):
        z = pipe.edit(image, "x", mask=mask, sampler=sampler, **HOW)
        z0 = pipe.config.vae.scaling_factor * pipe.encode_image(to_tensor(image)[None])[0]
        kept = z.shape[2] // 2
        assert difference(z[..., :kept], z0[..., :kept]) < ROUNDING < difference(z[..., kept:], z0[..., kept:])


# Masks


def test_masks_come_in_any_form(tmp_path):
    grey = (np.arange(24).reshape(4, 6) * 11).astype(np.uint8)
    expected, (a, b) = Image.fromarray(grey), (tmp_path / "a.png", tmp_path / "b.tif")
    expected.save(a)
    Image.fromarray(grey.astype(np.uint16) * 257).save(b)
    same = [a, str(a), b, expected, expected.convert("RGB"), expected.convert("RGBA"), grey, grey[..., None]]
    same += [grey / 255, torch.tensor(grey), torch.tensor(grey)[None], torch.tensor(grey / 255).expand(3, 4, 6)]
    assert all(open_mask(each).tobytes() == expected.tobytes() for each in same)
    assert all(each.tobytes() == expected.tobytes() for each in open_mask(same))
    sharp = Image.fromarray((grey > 99).astype(np.uint8) * 255)
    hard = [
        sharp,
        sharp.convert("1"),
        sharp.convert("P"),
        grey > 99,
        torch.tensor(grey > 99),
        torch.tensor(grey > 99)[None],
    ]
    hard.append(torch.tensor(grey > 99).to(torch.bfloat16))
    assert all(open_mask(each).tobytes() == sharp.tobytes() and open_mask(each).mode == "L" for each in hard)
    assert open_mask(None).getextrema() == (255, 255)


@pytest.mark.parametrize(
    "mask, words",
    [
        (5, "a int is no picture"),
        ("no.png", "mask no.png: no such file"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2), r"shape \(1, 1, 2, 2\)"),
        (np.full((2, 2), 1.5), "expected 0 to 1"),
        (torch.full((2, 2), torch.nan), "expected 0 to 1"),
        (np.eye(4, dtype=np.uint8), "the mask is nearly black, of values 0 and 1 out of 255"),
        (Image.new("RGBA", (4, 4), (255, 255, 255, 254)), "the mask is transparent in places; expected black"),
        (Image.new("LA", (4, 4)), "the mask is transparent in places"),
        ([half(), 3], "a int is no picture"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line_before_sampling(pipe, mask, words):
    with pytest.raises(ImageError, match=words) as caught:
        pipe.edit(picture(), "x", mask=mask, on_step=lambda progress: pytest.fail("sampled"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", FITS)
def test_a_mask_is_resized_cropped_and_padded_with_its_picture(how):
    """Where the picture is white, and LANCZOS does not ring, so is a mask that shows the same."""
    y, x = np.mgrid[:60, :90]
    same = Image.fromarray((127 + 127 * np.sin(x / 15 + y / 25)).astype(np.uint8))
    fitted = fit(same.convert("RGB"), (40, 32), how)
    off = np.abs(np.asarray(fit_mask(same, fitted), int) - np.asarray(fitted.image.convert("L")))
    assert off.max() <= 6 and off.mean() < 1
    small = same.resize((45, 30), Image.Resampling.BOX)
    assert np.abs(np.asarray(fit_mask(small, fitted), int) - np.asarray(fit_mask(same, fitted))).max() <= 12


def test_resizing_leaves_black_black():
    """LANCZOS, which resizes pictures, leaves traces at both sides of an edge."""
    fitted = fit(picture(90, 60), (60, 40), "stretch")
    edge = np.zeros((60, 90), np.uint8)
    edge[:, 45:] = 255
    found = np.asarray(fit_mask(Image.fromarray(edge), fitted))
    assert (found[:, :29] == 0).all() and (found[:, 31:] == 255).all()


# Turns


@pytest.mark.parametrize("how", [{}, {"keep_size": True}, {"fit": "pad", "sampler": "heun", "seed": 4}])
def test_turns_are_edits_by_hand(pipe, how, tmp_path):
    image, texts = picture(60, 40), ["make it night", "x", "y"]
    made = pipe.edit_turns(image, texts, steps=2, **how)
    for text, one in zip(texts, made, strict=True):
        by_hand = pipe.edit(image, text, steps=2, **how)
        assert one.tobytes() == by_hand.tobytes() and one.size == by_hand.size
        image = tmp_path / f"{text}.png"
        by_hand.save(image)
    assert (
        pipe.edit_turns(picture(), texts[:1], steps=1)[0].tobytes() == pipe.edit(picture(), texts[0], steps=1).tobytes()
    )


def test_a_turn_may_have_options_of_its_own(pipe):
    turns = ["x", {"instruction": "y", "seed": 8, "steps": 3, "text_scale": 2.0}]
    first, second = pipe.edit_turns(picture(), turns, steps=2, seed=5)
    assert first.tobytes() == pipe.edit(picture(), "x", steps=2, seed=5).tobytes()
    assert second.tobytes() == pipe.edit(first, "y", steps=3, seed=8, text_scale=2.0).tobytes()


def test_turns_of_several_pictures(pipe):
    pictures = [picture(seed=i) for i in range(2)]
    made = pipe.edit_turns(pictures, ["x", ["y", "z"]], mask=half(), seed=3, steps=1)
    for i, text in enumerate("yz"):
        alone = pipe.edit_turns(pictures[i], ["x", text], mask=half(), seed=3 + i, steps=1)
        assert [each[i].tobytes() for each in made] == [each.tobytes() for each in alone]
    seeds = pipe.edit_turns(picture(), ["x", "y"], mask=half(), seed=[3, 4], steps=1)
    assert seeds[1][0].tobytes() == made[1][0].tobytes() and len(seeds[1]) == 2


@pytest.mark.parametrize("how", [{}, {"fit": "pad"}, {"keep_size": True}])
def test_a_mask_goes_with_the_picture_from_turn_to_turn(pipe, how):
    image, mask = picture(60, 33), half(60, 33)
    first, second = pipe.edit_turns(image, ["x", "y"], mask=mask, steps=1, **how)
    fitted = pipe.fitted(image, None, how.get("fit", "crop"))
    source, now = (
        (image, open_mask(mask)) if how.get("keep_size") else (fitted.image, fit_mask(open_mask(mask), fitted))
    )
    assert second.tobytes() == pipe.edit(first, "y", mask=now, steps=1, **how).tobytes()
    black = np.asarray(now) == 0
    assert black.any() and (np.asarray(second)[black] == np.asarray(source)[black]).all()
    assert (np.asarray(second) != np.asarray(first)).any()
    own = pipe.edit_turns(image, ["x", {"instruction": "y", "mask": None}], mask=mask, steps=1, **how)[1]
    assert own.tobytes() == pipe.edit(first, "y", steps=1, **how).tobytes()


@pytest.mark.parametrize(
    "turns, words",
    [
        ([], "expected a list of instructions"),
        ("make it night", "expected a list"),
        (["x", {"instruction": 3}], "a text"),
    ]
    + [(["x", {"instruction": "y", "seed": -1}], "seed -1"), (["x", 5], "instruction 5: expected a text")],
)
def test_wrong_turns_are_refused_before_the_first(pipe, turns, words):
    with pytest.raises(ValueError, match=words):
        pipe.edit_turns(picture(), turns, on_step=lambda progress: pytest.fail("sampled"))
