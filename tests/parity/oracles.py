"""Small networks of diffusers and transformers, all weights random, with the config that we expect to read of them."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from conftest import randomise
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig as HFCLIPConfig
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel

from minip2p.config import (
    CLIPConfig,
    Config,
    SamplingConfig,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
    VisionConfig,
)
from minip2p.text.learn import learn_bpe
from minip2p.text.vocabulary import BOS, EOS

WORDS = 1000
VOCABULARY = "a red boat and a red house by the sea at night"
"""what the small tokenizer is learnt from"""
SIZE = (128, 64)
"""width and height of a picture; its latents are 16 x 32"""
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True)
class Oracle:
    """The three networks under the names of a diffusers folder, its scheduler, and our config of them."""

    unet: Any
    vae: Any
    text_encoder: Any
    scheduler: Any
    config: Config

    @property
    def parts(self) -> dict[str, Any]:
        return {"unet": self.unet, "vae": self.vae, "text": self.text_encoder}

    def save(self, folder, **how) -> None:
        """As diffusers and transformers write a folder, without a tokenizer."""
        for name in ("unet", "vae", "text_encoder", "scheduler"):
            getattr(self, name).save_pretrained(folder / name, **how if name != "scheduler" else {})
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


@cache
def oracle(name: str, in_channels: int | None = None) -> Oracle:
    """ "sd1", "sd2" (linear projections, heads of 64, exact gelu, v), "editor" (Stable Diffusion 1 with 8 inputs),
    "wide": an editor whose UNet and autoencoder have Stable Diffusion's own widths and numbers of blocks, or "thin":
    one for pictures of real size, few channels, but f is 8 and the autoencoder's norms have groups of 4 channels, as
    Stable Diffusion's at full resolution. `in_channels` in place of the name's own."""
    sd2, wide, thin = name == "sd2", name == "wide", name == "thin"
    in_channels = in_channels or (4 if name.startswith("sd") else 8)
    widths, attends = ((64, 128), (True, False)) if sd2 else ((32, 64, 96), (True, True, False))
    depth, blocks = (2, 1) if sd2 else (1, 2)
    vae_widths, vae_blocks = ((128, 256, 512, 512), 2) if wide else ((32, 64, 64), 1)
    if wide:
        widths, attends = (320, 640, 1280, 1280), (True, True, True, False)
    if thin:
        widths, attends, blocks, vae_widths = (16, 32), (True, False), 1, (16, 16, 16, 16)
    heads, groups = 2 if thin else 8, 4 if thin else 32
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=[DOWN[a] for a in attends],
        up_block_types=[UP[a] for a in reversed(attends)],
        cross_attention_dim=128,
        attention_head_dim=[1, 2] if sd2 else heads,
        norm_num_groups=groups,
        use_linear_projection=sd2,
        transformer_layers_per_block=depth,
    )
    vae = AutoencoderKL(
        block_out_channels=vae_widths,
        layers_per_block=vae_blocks,
        down_block_types=["DownEncoderBlock2D"] * len(vae_widths),
        up_block_types=["UpDecoderBlock2D"] * len(vae_widths),
        latent_channels=4,
        norm_num_groups=groups,
        scaling_factor=0.18215,
    )
    act = "gelu" if sd2 else "quick_gelu"
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=WORDS,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=256,
            hidden_act=act,
            max_position_embeddings=20,
            bos_token_id=WORDS - 2,
            eos_token_id=WORDS - 1,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if sd2 else "epsilon",
    )
    config = Config(
        unet=UNetConfig(
            in_channels=in_channels,
            widths=widths,
            blocks=blocks,
            depth=depth,
            text_width=128,
            attention=tuple("full" if a else "none" for a in attends),
            heads=None if sd2 else heads,
            head_size=64 if sd2 else None,
            norm_groups=groups,
            linear_projection=sd2,
        ),
        vae=VAEConfig(widths=vae_widths, blocks=vae_blocks, norm_groups=groups),
        text=TextConfig(
            vocab_size=WORDS,
            max_length=20,
            width=128,
            layers=3,
            heads=2,
            feed_forward=256,
            activation=act,
            bos=WORDS - 2,
            eos=WORDS - 1,
            pad=WORDS - 1,
        ),
        schedule=ScheduleConfig(prediction="v" if sd2 else "eps"),
        sampling=SamplingConfig(resolution=32),
    )
    networks = (randomise(module, seed) for seed, module in enumerate((unet, vae, text)))
    return Oracle(*networks, scheduler, config)


@cache
def clip_oracle() -> tuple[CLIPModel, CLIPConfig]:
    """Both towers of transformers' CLIP, and our config."""
    text = dict(vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=128)
    vision = dict(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=192, image_size=28, patch_size=7
    )
    ids = dict(bos_token_id=WORDS - 2, eos_token_id=WORDS - 1, max_position_embeddings=20)
    model = CLIPModel(HFCLIPConfig(text_config=text | ids, vision_config=vision, projection_dim=48))
    ours = CLIPConfig(
        text=TextConfig(
            vocab_size=WORDS,
            max_length=20,
            width=64,
            layers=2,
            heads=1,
            feed_forward=128,
            bos=WORDS - 2,
            eos=WORDS - 1,
            pad=WORDS - 1,
            projection=48,
        ),
        vision=VisionConfig(image_size=28, patch_size=7, width=128, layers=2, heads=2, feed_forward=192, projection=48),
    )
    return randomise(model, 3), ours


def write_folder(nets: Oracle, folder, words: str):
    """A diffusers folder of the networks, with a small vocabulary of its own, learnt from `words`."""
    nets.save(folder)
    learnt = learn_bpe([words] * 2, vocab_size=WORDS)
    vocab = learnt.vocab | {BOS: WORDS - 2, EOS: WORDS - 1}
    replace(learnt, vocab=vocab, bos=WORDS - 2, eos=WORDS - 1, pad=WORDS - 1, max_length=20).save(folder / "tokenizer")
    return folder


def peaked(nets: Oracle, *attentions: str) -> Oracle:
    """The networks with queries 4 times as large in `attentions` (attn1 is self, attn2 cross): what a control changes
    in their maps shows; it makes more of rounding, too."""
    unet = copy.deepcopy(nets.unet)
    for name, parameter in unet.named_parameters():
        if any(f"{attention}.to_q" in name for attention in attentions):
            parameter.data *= 4
    return replace(nets, unet=unet)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def without_header(config: Config) -> Config:
    """What is left of a config that is only read from shapes: schedule and sampling are Stable Diffusion's."""
    return replace(config, schedule=ScheduleConfig(), sampling=SamplingConfig())
