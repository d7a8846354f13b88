"""Diffusion as mathematics: schedule, denoiser, guidance, samplers and noise. No network lives here.

A run is sampler <- guided <- denoiser <- network:

    schedule = BetaSchedule()
    denoiser = Denoiser(network, schedule, "eps")
    field = guided(denoiser, three_way(7.5, 1.5, text, null_text, image))
    sigmas, noise = schedule.sigmas_for(100), Noise([seed], (4, 64, 64))
    for step in euler_ancestral(field, noise.start(sigmas[0]), sigmas, noise=noise):
        ...
"""

from .betas import BETAS
from .denoiser import PREDICTIONS, Cond, Denoiser
from .first_order import ddim, ddpm, euler
from .flow import SCHEDULES, FlowSchedule, make_schedule
from .guidance import Guidance, guided, three_way, two_way
from .samplers import SAMPLERS, euler_ancestral, get_sampler, sampler_options
from .schedule import SPACINGS, BetaSchedule, Schedule
from .second_order import dpmpp_2m, heun
from .steps import Field, Noise, Step

__all__ = [
    "BETAS",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SPACINGS",
    "BetaSchedule",
    "Cond",
    "Denoiser",
    "Field",
    "FlowSchedule",
    "Guidance",
    "Noise",
    "Schedule",
    "Step",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "euler_ancestral",
    "get_sampler",
    "guided",
    "heun",
    "make_schedule",
    "sampler_options",
    "three_way",
    "two_way",
]
