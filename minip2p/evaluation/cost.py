"""What a denoiser costs: its parameters, the FLOP of a call, and how many pictures a second its training made."""

import json
from functools import cache
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import checkpoints
from ..config import Config
from ..models.denoisers import build_denoiser


def cost_of_run(folder: Path) -> dict[str, float]:
    """Of a finished training: "parameters" and "flop" of its denoiser (`denoiser_cost`), and "pictures_per_s", the
    median over its log. What a model or a folder does not have is left out."""
    weights, log = folder / "model.safetensors", folder / "log.jsonl"
    config = checkpoints.read(weights).config if weights.exists() else None
    found = dict(denoiser_cost(config)) if isinstance(config, Config) else {}
    lines = log.read_text().splitlines() if log.exists() else []
    speeds = [row["items_per_s"] for row in map(json.loads, lines) if "items_per_s" in row]
    return found | ({"pictures_per_s": float(f"{median(speeds):.3g}")} if speeds else {})


@cache  # the seeds of a variant have one
def denoiser_cost(config: Config) -> dict[str, float]:
    """Its parameters, and the floating-point operations of one call on one latent of the model's own resolution.

    Multiplications and additions of matrix products, convolutions and attention are counted, two for each pair, as
    torch.utils.flop_counter does; no memory is taken. Raises ValueError for words that the network does not know.
    """
    side, c = config.sampling.resolution // config.vae.factor, config.denoiser_config
    with torch.device("meta"), torch.no_grad():
        network = build_denoiser(config)
        text = torch.empty(1, config.text.max_length, c.text_width)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, c.in_channels, side, side), torch.zeros(1), text)
    return {"parameters": sum(x.numel() for x in network.parameters()), "flop": counter.get_total_flops()}
