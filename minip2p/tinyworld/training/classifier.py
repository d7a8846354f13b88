"""Training of the attribute classifier: a cross-entropy for every attribute of a scene."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from tqdm import tqdm

from ... import checkpoints
from ...loading import shipped
from ...models.vae import AutoencoderKL
from ...training.build import Files, build, copy_weights, load_weights
from ...training.checkpoint_parts import write_parts
from ...training.config import HELD_OUT
from .. import scenes as world
from ..classifier import AttributeClassifier, ClassifierConfig, Logits
from ..scenes import Scene, sample_edit
from .config import ClassifierTraining
from .datasets import cached, number_of, render_batch

PREVIEWED = 256
"""held-out images that a preview measures"""


@dataclass(frozen=True)
class ClassifierData:
    """New renderings for each step, and images that an autoencoder has decoded, as it does in a text-to-image model."""

    config: ClassifierTraining
    decoded: Tensor
    """(n, 3, y, x) uint8"""
    truth: Tensor
    """(n, 3 + kinds): the true answers of these"""

    def rendered(self, step: int, n: int) -> tuple[Tensor, Tensor]:
        """n renderings in [0, 1] and their true answers."""
        rng = np.random.default_rng([self.config.train.seed, step])
        scenes = [sample_edit(rng).target for _ in range(n)]
        return render_batch(scenes, self.config.model.size) / 2 + 0.5, answers(scenes, self.config.model)

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, Tensor]:
        """Images (b, 3, y, x) in [0, 1], most of them degraded, and their true answers (b, 3 + kinds)."""
        c = self.config
        n = round(c.decoded_fraction * c.train.batch_size) if c.decoded else 0
        chosen = np.random.default_rng([c.train.seed, step, 1]).integers(max(c.decoded, 1), size=n)
        images, truth = self.rendered(step, c.train.batch_size - n)
        images = torch.cat([images, self.decoded[chosen].float() / 255])
        generator = torch.Generator().manual_seed(2**32 * c.train.seed + step)
        return degrade(images, c, generator), torch.cat([truth, self.truth[chosen]])


class ClassifierStage:
    """The loss is the sum of the cross-entropies of an image's 3 + 9 answers."""

    def __init__(
        self,
        config: ClassifierTraining,
        vae: AutoencoderKL | None,
        cache: Path,
        init_from: Files = (),
        device: torch.device | str = "cpu",
    ):
        """vae: decodes some of the images; None is the shipped one, where `cache` does not have them already."""
        for name in ("settings", "times", "media", "kinds", "colours"):
            words, known = getattr(config.model, name), getattr(world, name.upper())
            if tuple(words) != known:
                raise ValueError(f"model.{name} = {words}: the tiny world's are {known}")
        torch.manual_seed(config.train.seed)
        self.config = config
        self.module = AttributeClassifier(config.model).to(memory_format=torch.channels_last)
        load_weights({"classifier": self.module} | ({} if vae is None else {"vae": vae}), init_from)
        self.data = ClassifierData(config, *decode_scenes(vae, cache, config, device))
        self.marks = {"decoded images": hashlib.sha256(self.data.decoded.contiguous().numpy().data).hexdigest()[:16]}

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(module.parameters()).device
        images, truth = batch[0].to(device, memory_format=torch.channels_last), batch[1].to(device)
        logits: Logits = module(images)
        whole = zip((logits.setting, logits.time, logits.medium), truth.T, strict=False)
        losses = [cross_entropy(each, true) for each, true in whole]
        things = cross_entropy(logits.things.transpose(1, 2), truth[:, 3:], reduction="none").sum(dim=1).mean()
        return sum(losses) + things, {"loss_things": things.detach()}

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        write_parts(path, self.config.model, {"classifier": module}, None, self.config, done)

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Draws degraded images; on held-out renderings, the accuracy of attributes and the fraction of images with
        all attributes correct."""
        from torchvision.utils import save_image  # here, since importing it takes 3 s

        save_image(self.data.batch(HELD_OUT)[0][:32], path, nrow=16)
        images, truth = self.data.rendered(HELD_OUT, PREVIEWED)
        found = module(images.to(next(module.parameters()).device)).argmax().cpu()
        asked = truth > 0
        asked[:, :3] = True
        equal = found == truth
        return {"accuracy": float(equal[asked].float().mean()), "all_correct": float(equal.all(dim=1).float().mean())}


def make_classifier(config: ClassifierTraining, out: Path, init_from: Files, device: torch.device) -> ClassifierStage:
    """Images are decoded by the files' autoencoder, otherwise by the shipped one, unless they are cached in `out`."""
    file = next((each for each in map(checkpoints.read, init_from) if "vae" in each.parts), None)
    vae = load_vae(file, device) if file and config.decoded else None
    return ClassifierStage(config, vae, out / "decoded.safetensors", init_from, device)


def load_vae(file: checkpoints.Loaded, device: torch.device | str) -> AutoencoderKL:
    """The autoencoder of a file."""
    vae: AutoencoderKL = build({"vae": file.config.vae}, 0)["vae"]
    copy_weights(file, "vae", vae)
    return vae.to(device)


@torch.inference_mode()
def decode_scenes(
    given: AutoencoderKL | None, cache: Path, config: ClassifierTraining, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """`config.decoded` scenes through the autoencoder, (n, 3, y, x) uint8, and their true answers (n, 3 + kinds).

    Noise on the latents makes errors like a text-to-image model's. The images are cached in a file. Without an
    autoencoder the shipped one decodes them, where they are not.
    """
    n, seed, size, whole = config.decoded, config.train.seed, config.model.size, config.decoded_size
    scenes = [sample_edit(np.random.default_rng([seed, i, 2])).target for i in range(n)]
    truth = answers(scenes, config.model)
    if not n:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8), truth

    def decode() -> dict[str, Tensor]:
        vae = (given or load_vae(checkpoints.read(shipped("editor")), device)).eval()
        place, generator, images = next(vae.parameters()).device, torch.Generator().manual_seed(seed), []
        for i in tqdm(range(0, n, 50), desc="decoding scenes", unit="batch"):
            z = vae.encode(render_batch(scenes[i : i + 50], whole).to(place)).mode()
            scale = config.latent_noise * torch.rand(len(z), 1, 1, 1, generator=generator) / vae.config.scaling_factor
            z = z + (scale * torch.randn(z.shape, generator=generator)).to(place)
            x = interpolate(vae.decode(z).clamp(-1, 1), (size, size), mode="bilinear", antialias=True)
            images.append((x * 127.5 + 127.5).round().byte().cpu())
        return {"pictures": torch.cat(images)}

    key = [n, size, whole, seed, config.latent_noise, math.nan if given is None else number_of(given)]
    return cached(cache, key, {"pictures": (n, 3, size, size)}, decode)["pictures"], truth


def answers(scenes: list[Scene], config: ClassifierConfig) -> Tensor:
    """(b, 3 + kinds): indices of setting, time and medium, then for each kind 0 (absent) or 1 + the colour's index."""

    def of(scene: Scene) -> list[int]:
        colours = {thing.kind: 1 + config.colours.index(thing.colour) for thing in scene.things}
        return [
            config.settings.index(scene.setting),
            config.times.index(scene.time),
            config.media.index(scene.medium),
            *(colours.get(kind, 0) for kind in config.kinds),
        ]

    return torch.tensor([of(scene) for scene in scenes], dtype=torch.long).reshape(-1, 3 + len(config.kinds))


def degrade(x: Tensor, config: ClassifierTraining, generator: torch.Generator) -> Tensor:
    """Images (b, 3, y, x) in [0, 1] with errors like a text-to-image model's, each to its own degree: blur, tint, fine
    and coarse noise; all shifted a little alike. A fraction of `config.clean` is only shifted."""
    from torchvision.transforms.functional import gaussian_blur  # here, since importing it takes 3 s

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(len(x), channels, 1, 1, generator=generator)

    d = config.shift
    top, left = torch.randint(0, 2 * d + 1, (2,), generator=generator).tolist()
    x = pad(x, (d, d, d, d), mode="replicate")[..., top : top + x.shape[2], left : left + x.shape[3]]
    rough = torch.lerp(x, gaussian_blur(x, [5, 5], [1.0, 1.0]), uniform(0, 1))
    rough = rough * uniform(1 - 2 * config.tint, 1 + 2 * config.tint, 3) + uniform(-config.tint, config.tint, 3)
    coarse = torch.randn((*x.shape[:2], x.shape[2] // 8, x.shape[3] // 8), generator=generator)
    rough = rough + interpolate(coarse, x.shape[2:], mode="bilinear") * uniform(0, config.noise)
    rough = rough + torch.randn(x.shape, generator=generator) * uniform(0, config.noise)
    return torch.where(uniform(0, 1) < config.clean, x, rough.clamp(0, 1))
