"""Diffusion as mathematics: schedule, denoiser, guidance, samplers and noise. No network lives here.

A run is sampler <- guided <- denoiser <- unet:

    schedule = Schedule()
    denoiser = Denoiser(unet, schedule, "eps")
    field = guided(denoiser, three_way(7.5, 1.5, text, null_text, image))
    sigmas, noise = schedule.sigmas_for(100), Noise([seed], (4, 64, 64))
    for step in euler_ancestral(field, noise.start(sigmas[0]), sigmas, noise=noise):
        ...
"""

from .denoiser import PREDICTIONS, Cond, Denoiser
from .guidance import Guidance, guided, three_way, two_way
from .noise import Noise
from .samplers import SAMPLERS, Field, Step, ddim, ddpm, dpmpp_2m, euler, euler_ancestral, get_sampler, heun
from .schedule import BETAS, SPACINGS, Schedule

__all__ = [
    "BETAS", "PREDICTIONS", "SAMPLERS", "SPACINGS",
    "Cond", "Denoiser", "Field", "Guidance", "Noise", "Schedule", "Step",
    "ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral", "get_sampler", "guided", "heun", "three_way", "two_way",
]  # fmt: skip
