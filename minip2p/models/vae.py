"""The autoencoder of latent diffusion (Rombach et al. 2022, appendix G): images to smaller latents."""

from einops import rearrange
from torch import Tensor, nn

from ..config import VAEConfig
from ..nn.attention import Attention
from ..nn.blocks import NORMS, Downsample, ResBlock, Upsample, norm_silu, pick
from .gaussian import DiagonalGaussian

EPS = 1e-6  # of every norm in the autoencoder; the UNet's residual blocks have 1e-5


class PixelAttention(nn.Module):
    """Single-head self-attention over the pixels of (b, c, y, x), as a residual."""

    def __init__(self, channels: int, norm: str, groups: int):
        super().__init__()
        self.norm = pick(NORMS, norm, "norm")(channels, groups, EPS)
        self.attention = Attention(channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(rearrange(self.norm(x), "b c y x -> b (y x) c"))
        return x + rearrange(h, "b (y x) c -> b c y x", y=x.shape[2])


class Middle(nn.Module):
    """Residual block, attention, residual block at the smallest size."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.res_1 = _res(channels, channels, config)
        self.attention = PixelAttention(channels, config.norm, config.norm_groups)
        self.res_2 = _res(channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_2(self.attention(self.res_1(x)))


class Level(nn.Module):
    """The residual blocks of one size, then a change of size (absent at the end)."""

    def __init__(self, c_in: int, c_out: int, blocks: int, resample: nn.Module | None, config: VAEConfig):
        super().__init__()
        self.res = nn.ModuleList(_res(c_in if i == 0 else c_out, c_out, config) for i in range(blocks))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res:
            x = block(x)
        return x if self.resample is None else self.resample(x)


class Encoder(nn.Module):
    """x (b, 3, y, x) -> (b, 2 latent_channels, y / f, x / f): means and log variances before `quant`."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(i - 1, 0)], w, config.blocks, Downsample(w, symmetric=False) if i < last else None, config)
            for i, w in enumerate(widths)
        )
        self.mid = Middle(widths[-1], config)
        self.norm_out = pick(NORMS, config.norm, "norm")(widths[-1], config.norm_groups, EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.levels:
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, self.mid(h)))


class Decoder(nn.Module):
    """z (b, latent_channels, y, x) after `post_quant` -> (b, 3, f y, f x). Its levels run from the smallest size."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, last = config.widths[::-1], len(config.widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = Middle(widths[0], config)
        self.levels = nn.ModuleList(
            Level(widths[max(i - 1, 0)], w, config.blocks + 1, Upsample(w) if i < last else None, config)
            for i, w in enumerate(widths)
        )
        self.norm_out = pick(NORMS, config.norm, "norm")(widths[-1], config.norm_groups, EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in self.levels:
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, h))


class AutoencoderKL(nn.Module):
    """Images in [-1, 1] to and from latents in the autoencoder's own unit; scaling is the caller's."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """x (b, 3, y, x) in [-1, 1], sides divisible by `config.factor`."""
        mean, logvar = self.quant(self.encoder(x)).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """z (b, c, y, x), not scaled -> (b, 3, config.factor y, config.factor x), about [-1, 1]."""
        return self.decoder(self.post_quant(z))


def _res(c_in: int, c_out: int, config: VAEConfig) -> ResBlock:
    return ResBlock(c_in, c_out, norm=config.norm, groups=config.norm_groups, eps=EPS)
