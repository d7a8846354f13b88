"""Inversion against diffusers' scheduler and the published null-text loop, on diffusers' networks, read by us.

The loop of Mokady et al. is written here once more from their paper and its published settings: torch's Adam on the
null embedding, a DDIM step in the variance-preserving frame.
"""

from itertools import islice

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler
from PIL import Image
from transformers import CLIPTokenizer

import minip2p
from minip2p.control.inversion import null_text_inversion
from minip2p.diffusion import Cond

from .oracles import oracle, write_folder

PROMPT = "a red boat at night"
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def text2image(request, tmp_path_factory):
    """(name, folder, pipeline): the oracle as a diffusers folder with a small vocabulary, and what we read of it."""
    folder = write_folder(oracle(request.param), tmp_path_factory.mktemp("invert") / request.param, PROMPT)
    return request.param, folder, minip2p.load(folder)


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[0:64, 0:128] / 64
    waves = np.stack([np.sin(3 * x + y), np.cos(5 * y - x), np.sin(x * y)], axis=-1)
    return Image.fromarray((127 + 90 * waves).clip(0, 255).astype(np.uint8))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def states(folder, name, text):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    options = {"padding": "max_length", "truncation": True, "max_length": 20, "return_tensors": "pt"}
    return oracle(name).text_encoder(tokenizer([text], **options)["input_ids"])[0]


def network(name, x, t, text, scheduler):
    """eps of the UNet at time t; of one that predicts v, alpha v + sigma x at that time (Salimans & Ho 2022)."""
    said = oracle(name).unet(x, t, encoder_hidden_states=text).sample
    if name == "sd1":
        return said
    alpha = scheduler.alphas_cumprod[int(t)]
    return alpha.sqrt() * said + (1 - alpha).sqrt() * x


def inverse_scheduler(steps):
    scheduler = DDIMInverseScheduler(
        **STABLE,
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=True,
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def reference_path(name, folder, picture, steps):
    """The variance-preserving latents, from the picture's up."""
    text, scheduler = states(folder, name, PROMPT), inverse_scheduler(steps)
    pixels = 2 * torch.tensor(np.array(picture)).float() / 255 - 1
    x = 0.18215 * oracle(name).vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist.mode()
    path = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(network(name, x, t, text, scheduler), t, x).prev_sample
        path.append(x)
    return path


@pytest.mark.parametrize("steps", [4, 10])
@torch.no_grad()
def test_ddim_inversion_is_diffusers(text2image, picture, steps):
    """diffusers reads v at the lower of a step's two levels; where it is given eps, all is the same."""
    name, folder, pipe = text2image
    theirs = reference_path(name, folder, picture, steps)
    ours = pipe.invert(picture, PROMPT, method="ddim", steps=steps, spacing="leading", resolution=128)
    x = ours.z / (ours.sigmas[0] ** 2 + 1) ** 0.5
    print(f"{name}, {steps} steps: relative difference {relative(x, theirs[-1][0]):.1e}")
    assert x.shape == (4, 16, 32) and relative(x, theirs[-1][0]) < 1e-4


def reference_null_texts(name, folder, path, scheduler, scale, inner, steps, first):
    """Their loop, `first` steps of it: (null embedding, latent) of each."""
    text, null = states(folder, name, PROMPT).detach(), states(folder, name, "").detach()
    alphas = scheduler.alphas_cumprod
    x, found = path[-1], []
    for i, t in enumerate(reversed(scheduler.timesteps.tolist())):
        before = t - 1000 // steps
        a, b = alphas[t], alphas[before] if before >= 0 else torch.tensor(1.0)

        def step(x, eps, a=a, b=b):
            return b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps

        null = null.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / 100))
        with torch.no_grad():
            eps_text = network(name, x, torch.tensor(t), text, scheduler)
        for _ in range(inner):
            eps_null = network(name, x, torch.tensor(t), null, scheduler)
            loss = torch.nn.functional.mse_loss(step(x, eps_null + scale * (eps_text - eps_null)), path[-2 - i])
            adam.zero_grad()
            loss.backward()
            adam.step()
            if loss.item() < 1e-5 + i * 2e-5:
                break
        null = null.detach()
        with torch.no_grad():
            eps_null = network(name, x, torch.tensor(t), null, scheduler)
            x = step(x, eps_null + scale * (eps_text - eps_null))
        found.append((null, x))
        if len(found) == first:
            return found


def test_null_texts_are_the_published_loops(text2image):
    """The first steps of a run of 50, to rounding, along a path of which only the levels matter here."""
    name, folder, pipe = text2image
    sigmas = pipe.denoiser.schedule.sigmas_for(50, "leading").tolist()
    generator = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(1, 4, 8, 12, generator=generator) for _ in range(2))
    along = [z0 + sigma * noise for sigma in sigmas]
    path = [z / (sigma**2 + 1) ** 0.5 for z, sigma in zip(along[::-1], sigmas[::-1], strict=True)]
    theirs = reference_null_texts(name, folder, path, inverse_scheduler(50), 7.5, 3, 50, 4)
    text, null = (pipe.encode_text([each]).clone() for each in (PROMPT, ""))
    ours = null_text_inversion(
        lambda z, sigma, text: pipe.denoiser(z, sigma, Cond(text)), along, text, null, sigmas, scale=7.5, inner=3
    )
    for (null, x), found in zip(theirs, islice(ours, 4)):
        z = x * (sigmas[found.i + 1] ** 2 + 1) ** 0.5
        off = (found.null - null).abs().mean() / 0.01
        print(f"{name}, step {found.i}: latent {relative(found.z, z):.1e}, null text {off:.1e} of the learning rate")
        assert relative(found.z, z) < 1e-3 and off < 1e-2
