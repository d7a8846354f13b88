"""Generating, SDEdit and pairs against diffusers' pipelines and against the authors' rule, on diffusers' networks.

The authors' pair is written here once more from their published rule (logits of the source's self-attention serve for
the edited picture while share > i / (steps - 1)), as an attention processor of diffusers' UNet with explicit logits.
"""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from transformers import CLIPTokenizer

import minip2p

from .oracles import SIZE, VOCABULARY, oracle, relative, write_folder
from .oracles import peaked as peak

pytestmark = pytest.mark.slow

PROMPT, EDITED, NEGATIVE = "a red boat at night", "a red house by the sea, at night!", "a boat"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def nets():
    """Stable Diffusion in small, all weights random."""
    return oracle("sd1")


@pytest.fixture(scope="module")
def peaked():
    """Thin networks with peaked self-attention, so that sharing it shows."""
    return peak(oracle("thin", 4), "attn1")


@pytest.fixture(scope="module")
def folder(nets, tmp_path_factory):
    return write_folder(nets, tmp_path_factory.mktemp("generate") / "sd1", VOCABULARY)


@pytest.fixture(scope="module")
def peaked_folder(peaked, tmp_path_factory):
    return write_folder(peaked, tmp_path_factory.mktemp("generate") / "peaked", VOCABULARY)


@pytest.fixture(scope="module")
def pipe(folder):
    return minip2p.load(folder)


def diffusers_pipeline(kind, nets, folder, scheduler):
    theirs = kind(
        vae=nets.vae,
        text_encoder=nets.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=nets.unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        scheduler=scheduler,
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


EULER_A = (EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="linspace"), "euler_ancestral", "linspace")
DDIM = (
    DDIMScheduler(**BETAS, timestep_spacing="leading", steps_offset=1, clip_sample=False, set_alpha_to_one=True),
    "ddim",
    "leading",
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheduler, sampler, spacing", [EULER_A, DDIM], ids=["euler_ancestral", "ddim"])
@pytest.mark.parametrize("scale", [7.5, 2.0])
@torch.inference_mode()
def test_generate_is_diffusers(nets, folder, pipe, scheduler, sampler, spacing, scale):
    theirs = diffusers_pipeline(StableDiffusionPipeline, nets, folder, scheduler)
    width, height = SIZE
    steps, seed = 10, 1371
    noise = torch.randn(1, 4, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    torch.randn(noise.shape, generator=generator)  # the start's draw; the steps' follow
    wanted = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=started(noise, scheduler, sampler, steps, pipe, spacing),
        generator=generator,
        output_type="latent",
    ).images[0]
    how = {"steps": steps, "seed": seed, "sampler": sampler, "spacing": spacing, "output": "latent"}
    ours = pipe.generate(PROMPT, negative=NEGATIVE, scale=scale, size=SIZE, **how)
    print(f"{sampler}, scale {scale}: relative difference {relative(ours, wanted):.1e}")
    assert relative(ours, wanted) < 1e-4


def started(noise, scheduler, sampler, steps, pipe, spacing):
    """The latents that make their pipeline start where ours does: sigma times the noise, in their frame.

    Their Euler scheduler multiplies by sqrt(sigma^2 + 1) where the authors' code has sigma; their DDIM by 1.
    """
    sigma = float(pipe.denoiser.schedule.sigmas_for(steps, spacing)[0])
    scheduler.set_timesteps(steps)
    frame = float(scheduler.init_noise_sigma) if sampler == "euler_ancestral" else (sigma**2 + 1) ** 0.5
    return noise * sigma / frame


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheduler, sampler, spacing", [EULER_A, DDIM], ids=["euler_ancestral", "ddim"])
@pytest.mark.parametrize("strength", [0.3, 0.8])
@torch.inference_mode()
def test_sdedit_is_diffusers(nets, folder, pipe, scheduler, sampler, spacing, strength):
    theirs = diffusers_pipeline(StableDiffusionImg2ImgPipeline, nets, folder, scheduler)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    latent = pipe.sdedit(picture, PROMPT, 0, resolution=128, output="latent")  # the mode, scaled
    assert latent.shape == (4, 16, 32)
    wanted = theirs(
        PROMPT,
        image=latent[None],
        strength=strength,
        num_inference_steps=10,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images[0]
    how = {"steps": 10, "seed": 5, "sampler": sampler, "spacing": spacing, "output": "latent", "resolution": 128}
    ours = pipe.sdedit(picture, PROMPT, strength, scale=7.5, **how)
    print(f"{sampler}, strength {strength}: relative difference {relative(ours, wanted):.1e}")
    assert relative(ours, wanted) < 1e-4


class SharedLogits:
    """Attention with explicit logits; in self-attention, while `on`, the second of two rows has the first's."""

    on = False

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))
        logits = torch.einsum("bhnd,bhmd->bhnm", q, k) * attn.scale
        if self.on and encoder_hidden_states is None:
            logits = torch.stack([logits[i - i % 2] for i in range(len(logits))])
        x = torch.einsum("bhnm,bhmd->bhnd", logits.softmax(-1), v)
        return attn.to_out[0](x.transpose(1, 2).flatten(2))


@torch.inference_mode()
def reference_pair(nets, folder, share, scale, steps, seed, dtype=torch.float32):
    """The latents (2, 4, 16, 32) of the authors' pair: k-diffusion's Euler-ancestral, one noise for both pictures."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    options = {"padding": "max_length", "truncation": True, "max_length": 20, "return_tensors": "pt"}
    text, null = (
        nets.text_encoder(tokenizer(list(two), **options)["input_ids"])[0] for two in ((PROMPT, EDITED), ("", ""))
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    times = torch.linspace(999, 0, steps, dtype=torch.float64)
    logs = ((1 - alphas) / alphas).sqrt().log()
    low = times.floor().long().clamp(max=998)
    sigmas = torch.cat([torch.lerp(logs[low], logs[low + 1], times - low).exp(), torch.zeros(1)]).to(dtype)
    processor, unet = SharedLogits(), copy.deepcopy(nets.unet)
    unet.set_attn_processor(processor)
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(1, 4, 16, 32, generator=generator)

    z = (draw() * sigmas[0]).repeat(2, 1, 1, 1)
    for i, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
        processor.on = share > i / (steps - 1)
        four = torch.cat([z, z])
        t = times[i].to(dtype).expand(4)
        eps = unet(four / (sigma**2 + 1) ** 0.5, t, encoder_hidden_states=torch.cat([null, text])).sample
        unconditional, conditional = (four - sigma * eps).chunk(2)
        denoised = unconditional + scale * (conditional - unconditional)
        up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
        z = z + (z - denoised) / sigma * ((after**2 - up**2) ** 0.5 - sigma)
        if after > 0:
            z = z + up * draw()
    return z


@pytest.fixture(scope="module")
def reference(peaked, peaked_folder):
    """share -> the authors' pair in 9 steps: of these the one at i / 8 = 0.5 is the first without a share of 0.5."""
    return cache(lambda share: reference_pair(peaked, peaked_folder, share, 7.5, 9, 3))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_pair_is_the_authors(reference, peaked_folder, share):
    wanted, pipe = reference(share), minip2p.load(peaked_folder)
    ours = pipe.generate_pair(PROMPT, EDITED, share=share, scale=7.5, steps=9, seed=3, size=(256, 128), output="latent")
    differences = [relative(a, b) for a, b in zip(ours, wanted, strict=True)]
    print(f"share {share}: relative differences {differences[0]:.1e}, {differences[1]:.1e}")
    assert max(differences) < 4e-5
    if share:
        assert relative(wanted[1], reference(0.0)[1]) > 0.05, "sharing shows"
