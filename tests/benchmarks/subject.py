"""What the benchmarks of a whole model measure: Stable Diffusion 1.5's shapes, or thin ones, with random weights."""

import gc
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import minip2p
from minip2p.cli import main as run_command
from minip2p.config import PRESETS, Config
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.pipeline import Pipeline
from minip2p.text.bpe import BPE

from .peers import diffusers_editor, randomise
from .training import write_pairs

INSTRUCTION = "make it night"
WAYS = {"eager": {"graphs": False}, "graph": {"graphs": True}, "compiled": {"compile": True}}
"""how a pipeline runs its network -> options of `minip2p.load`"""


@dataclass(eq=False)
class Subject:
    """A model, a peer with the same weights, and data, at one size. Each is made when first asked for."""

    thin: bool
    folder: Path
    """for all files"""
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    loaded: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.on_gpu else torch.float32

    def bound(self, value: float) -> float | None:
        """A bound on speed holds at full size on a GPU."""
        return value if self.on_gpu and not self.thin else None

    @property
    def ways(self) -> list[str]:
        """of WAYS, those that need no compilation: the last is the fastest"""
        return ["eager", "graph"] if self.on_gpu else ["eager"]

    @property
    def about(self) -> str:
        """The size in words."""
        return f"{'thin' if self.thin else 'SD 1.5'}, {self.side} px"

    @property
    def about_training(self) -> str:
        return f"{'thin' if self.thin else 'SD 1.5'}, {self.train_side} px"

    @property
    def steps(self) -> int:
        """of an edit"""
        return 4 if self.thin else 100

    @property
    def rounds(self) -> int:
        return 1 if self.thin else 3

    @cached_property
    def config(self) -> Config:
        full = PRESETS["pix2pix"]
        if not self.thin:
            return full
        return replace(
            full,
            unet=replace(full.unet, widths=(32, 64, 64, 64), blocks=1, heads=2, text_width=64),
            vae=replace(full.vae, widths=(32, 32, 32, 32), blocks=1),
            text=replace(full.text, width=64, layers=2, heads=2, feed_forward=128),
            sampling=replace(full.sampling, resolution=64),
        )

    @property
    def side(self) -> int:
        """of the edited picture, in pixels"""
        return self.config.sampling.resolution

    @property
    def train_side(self) -> int:
        return self.side if self.thin else self.side // 2

    @cached_property
    def picture(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(0).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8))

    @cached_property
    def weights(self) -> Path:
        """A folder that diffusers reads, too."""
        c = self.config
        with torch.device(self.device):
            networks = [UNet(c.unet), AutoencoderKL(c.vae), TextEncoder(c.text)]
        pipe = Pipeline(*(randomise(network, i) for i, network in enumerate(networks)), BPE.clip(), c)
        minip2p.save(pipe, self.folder / "weights", "diffusers", dtype=self.dtype)
        return self.folder / "weights"

    def ours(self, way: str) -> Pipeline:
        """Our pipeline, which runs its network in this way."""
        if way not in self.loaded:
            self.loaded[way] = minip2p.load(self.weights, device=self.device, dtype=self.dtype, **WAYS[way])
        return self.loaded[way]

    @cached_property
    def theirs(self) -> Any:
        """diffusers' pipeline of the same weights."""
        return diffusers_editor(self.weights, self.device, self.dtype)

    def edit(self, way: str, **how: Any) -> Any:
        return self.ours(way).edit(self.picture, INSTRUCTION, **{"steps": self.steps} | how)

    def their_edit(self) -> Any:
        scales = {"guidance_scale": 7.5, "image_guidance_scale": 1.5}
        return self.theirs(INSTRUCTION, self.picture, num_inference_steps=self.steps, **scales)

    def inputs(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of a call of the network: latents and image condition, times, texts."""
        c, y = self.config, self.side // self.config.vae.factor
        how = {"device": self.device, "dtype": self.dtype}
        z = torch.randn(rows, c.unet.in_channels, y, y, **how).to(memory_format=torch.channels_last)
        return z, torch.full((rows,), 500.5, device=self.device), torch.randn(rows, 77, c.unet.text_width, **how)

    @cached_property
    def pairs(self) -> Path:
        """A set of edit pairs to train on."""
        return write_pairs(self.folder / "pairs", 8 if self.thin else 64, self.train_side * 9 // 8)

    @cached_property
    def latents(self) -> Path:
        """The same, precomputed."""
        out, side = self.folder / "latents", str(self.train_side)
        words = ["precompute", "--data", str(self.pairs), "--output", str(out), "--weights", str(self.weights)]
        words += ["--size", side, "--resize", side, str(self.train_side * 9 // 8), "--device", str(self.device)]
        words += ["--dtype", "float32", "--crops", "1" if self.thin else "4"]
        if run_command(words):
            raise RuntimeError("precompute failed")
        return out

    def free(self) -> None:
        """Forget all networks, so that the peak of memory is that of what comes next."""
        self.loaded.clear()
        self.__dict__.pop("theirs", None)
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
