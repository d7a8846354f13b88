"""The reader's training, on renderings of the tiny world: a cross-entropy for every answer."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image
from tqdm import tqdm

from ..checkpoints.files import write_safetensors
from ..config import ReaderConfig
from ..data import scenes as world
from ..data.scenes import Scene, sample_edit
from ..models.reader import Answers, Reader
from ..models.vae import AutoencoderKL
from .config import HELD_OUT, ReaderTraining
from .parts import write_parts
from .vae import pixels

PREVIEWED = 256
"""held-out pictures that a preview measures"""


class ReaderStage:
    """Batches of scenes never seen before, and of some that an autoencoder has decoded, since painters' pictures are.

    The loss is the sum of the cross-entropies of a picture's 3 + 9 answers.
    """

    def __init__(self, config: ReaderTraining, vae: AutoencoderKL | None, cache: Path):
        """vae: through which some pictures go; None where `cache` holds them already."""
        for name in ("settings", "times", "media", "kinds", "colours"):
            said, known = getattr(config.model, name), getattr(world, name.upper())
            if tuple(said) != known:
                raise ValueError(f"model.{name} = {said}: the tiny world's are {known}")
        torch.manual_seed(config.train.seed)
        self.config = config
        self.module = Reader(config.model).to(memory_format=torch.channels_last)
        self.decoded = decode_scenes(vae, cache, config)

    def drawn(self, step: int, n: int) -> tuple[Tensor, Tensor]:
        """n pictures in [0, 1] as they are drawn, and their true answers."""
        rng = np.random.default_rng([self.config.train.seed, step])
        scenes = [sample_edit(rng).target for _ in range(n)]
        return pixels(scenes, self.config.model.size) / 2 + 0.5, answers(scenes, self.config.model)

    def batch(self, step: int, rows: range | None = None) -> tuple[Tensor, Tensor]:
        """Pictures (b, 3, y, x) in [0, 1], most of them roughened, and their true answers (b, 3 + kinds)."""
        c, (decoded, known) = self.config, self.decoded
        n = round(c.decoded_share * c.train.batch_size) if c.decoded else 0
        rows = np.random.default_rng([c.train.seed, step, 1]).integers(max(c.decoded, 1), size=n)
        images, truth = self.drawn(step, c.train.batch_size - len(rows))
        images, truth = torch.cat([images, decoded[rows].float() / 255]), torch.cat([truth, known[rows]])
        return roughen(images, c, torch.Generator().manual_seed(2**32 * c.train.seed + step)), truth

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(module.parameters()).device
        images, truth = batch[0].to(device, memory_format=torch.channels_last), batch[1].to(device)
        said: Answers = module(images)
        whole = (said.setting, said.time, said.medium)
        losses = [cross_entropy(logits, right) for logits, right in zip(whole, truth.T, strict=False)]
        things = cross_entropy(said.things.transpose(1, 2), truth[:, 3:], reduction="none").sum(dim=1).mean()
        return sum(losses) + things, {"loss_things": things.detach()}

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        write_parts(path, self.config.model, {"reader": module}, None, self.config, done)

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Roughened pictures; of held-out ones as drawn, the share of attributes read and of pictures wholly."""
        save_image(self.batch(HELD_OUT)[0][:32], path, nrow=16)
        images, truth = self.drawn(HELD_OUT, PREVIEWED)
        said = module(images.to(next(module.parameters()).device)).best().cpu()
        asked = truth > 0
        asked[:, :3] = True
        equal = said == truth
        return {"accuracy": float(equal[asked].float().mean()), "right": float(equal.all(dim=1).float().mean())}


@torch.inference_mode()
def decode_scenes(vae: AutoencoderKL | None, cache: Path, config: ReaderTraining) -> tuple[Tensor, Tensor]:
    """`config.decoded` scenes through the autoencoder, (n, 3, y, x) uint8, and their true answers (n, 3 + kinds).

    Noise on the latents makes them err as a painter's do. Kept in `cache`, and read from there the next time.
    """
    n, seed, size = config.decoded, config.train.seed, config.model.size
    scenes = [sample_edit(np.random.default_rng([seed, i, 2])).target for i in range(n)]
    truth = answers(scenes, config.model)
    if not n:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8), truth
    weights = 0.0 if vae is None else sum(p.double().sum().item() for p in vae.parameters())
    key = torch.tensor([n, size, seed, config.latent_noise, weights], dtype=torch.float64)
    if cache.exists():
        kept = load_file(cache)
        if torch.equal(kept["key"][:4], key[:4]) and (vae is None or kept["key"][4] == key[4]):
            return kept["pictures"], truth
    if vae is None:
        raise ValueError(f"{cache}: not of this training's config, and there is no autoencoder to make it anew")
    vae, device = vae.eval(), next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for i in tqdm(range(0, n, 50), desc="decoding scenes", unit="batch"):
        z = vae.encode(pixels(scenes[i : i + 50], size).to(device)).mode()
        scale = config.latent_noise * torch.rand(len(z), 1, 1, 1, generator=generator) / vae.config.scaling_factor
        z = z + (scale * torch.randn(z.shape, generator=generator)).to(device)
        pictures.append((vae.decode(z).clamp(-1, 1) * 127.5 + 127.5).round().byte().cpu())
    write_safetensors(cache, {"key": key, "pictures": torch.cat(pictures)}, {})
    return torch.cat(pictures), truth


def answers(scenes: list[Scene], config: ReaderConfig) -> Tensor:
    """(b, 3 + kinds): indices of the setting, the time, the medium, and of each kind 0 (absent) or 1 + its colour's."""

    def of(scene: Scene) -> list[int]:
        colours = {thing.kind: 1 + config.colours.index(thing.colour) for thing in scene.things}
        return [
            config.settings.index(scene.setting), config.times.index(scene.time), config.media.index(scene.medium),
            *(colours.get(kind, 0) for kind in config.kinds),
        ]  # fmt: skip

    return torch.tensor([of(scene) for scene in scenes], dtype=torch.long).reshape(-1, 3 + len(config.kinds))


def roughen(x: Tensor, config: ReaderTraining, generator: torch.Generator) -> Tensor:
    """Pictures (b, 3, y, x) in [0, 1] as a painter might have made them, each in its own measure: softer, tinted, with
    noise fine and coarse; all of them shifted a little alike. Some are kept as they are, but for the shift."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(len(x), channels, 1, 1, generator=generator)

    d = config.shift
    top, left = torch.randint(0, 2 * d + 1, (2,), generator=generator).tolist()
    x = pad(x, (d, d, d, d), mode="replicate")[..., top : top + x.shape[2], left : left + x.shape[3]]
    rough = torch.lerp(x, gaussian_blur(x, [5, 5], [1.0, 1.0]), uniform(0, 1))
    rough = rough * uniform(1 - 2 * config.tint, 1 + 2 * config.tint, 3) + uniform(-config.tint, config.tint, 3)
    blotches = torch.randn((*x.shape[:2], x.shape[2] // 8, x.shape[3] // 8), generator=generator)
    rough = rough + interpolate(blotches, x.shape[2:], mode="bilinear") * uniform(0, config.noise)
    rough = rough + torch.randn(x.shape, generator=generator) * uniform(0, config.noise)
    return torch.where(uniform(0, 1) < config.clean, x, rough.clamp(0, 1))
