"""Stable Diffusion 1.5's full size, random weights: written in each layout, loaded, a UNet row compared with diffusers.

    python tests/benchmarks/full_size.py [--folder /tmp/full_size]

Each step runs in a process of its own, whose peak memory is printed; about 22 GB of disk are used and freed again. Not
a part of the test run: it takes some minutes. Bound: relative error < 2e-5, every process under 12 GB.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

FILES = {
    "minip2p": "own.safetensors",
    "original": "original.safetensors",
    "original (pickle)": "original.ckpt",
    "diffusers": "diffusers",
}


def inputs() -> tuple[torch.Tensor, float, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(1, 8, 32, 32, generator=g), 417.3, torch.randn(1, 77, 768, generator=g)


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    g = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if p.dim() > 1:
            p.normal_(std=p[0].numel() ** -0.5, generator=g)
        else:
            p.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.1, generator=g)
    return module.eval()


def make(folder: Path, _: str) -> str:
    """An InstructPix2Pix of random weights, as diffusers writes it, and its answer."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = randomise(UNet2DConditionModel(in_channels=8, sample_size=64, cross_attention_dim=768), 0)
    with torch.inference_mode():
        torch.save(unet(*inputs()).sample, folder / "answer.pt")
    unet.save_pretrained(folder / "theirs/unet")
    del unet
    four = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    randomise(AutoencoderKL(**four, **kinds), 1).save_pretrained(folder / "theirs/vae")
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
    randomise(CLIPTextModel(text), 2).save_pretrained(folder / "theirs/text_encoder")
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    EulerAncestralDiscreteScheduler(**beta).save_pretrained(folder / "theirs/scheduler")
    (folder / "theirs/model_index.json").write_text("{}")
    return "oracle made"


def write(folder: Path, layout: str) -> str:
    import minip2p

    start = time.time()
    minip2p.save(minip2p.load(folder / "theirs", inference=False), folder / FILES[layout], layout.partition(" ")[0])
    return f"{layout}: read from diffusers' folder and written in {time.time() - start:.0f} s"


def load(folder: Path, layout: str) -> str:
    import minip2p

    start = time.time()
    pipe = minip2p.load(folder / FILES[layout])
    seconds = time.time() - start
    z, t, text = inputs()
    with torch.inference_mode():
        ours = pipe.unet(z, torch.tensor([t]), text)
    theirs = torch.load(folder / "answer.pt")
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert error < 2e-5, error
    return f"{layout}: loaded in {seconds:.1f} s, relative error {error:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/tmp/full_size"))
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        said = globals()[options.step[0]](options.folder, options.step[1])
        print(f"{said}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", flush=True)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        for step in [("make", ""), *((what, layout) for layout in FILES for what in ("write", "load"))]:
            subprocess.run([sys.executable, __file__, "--folder", options.folder, "--step", *step], check=True)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
