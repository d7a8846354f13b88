"""The names of every tensor in the layouts that we read and write.

A row is (ours, the original's, today's library's): for the UNet and the autoencoder CompVis's and diffusers' names, for
CLIP OpenAI's and transformers'. In a row `{}` is an index, `*` stands for `weight` and `bias`, and a word in brackets
says how a tensor lies in that layout: `[1x1]` a linear layer stored as a 1x1 convolution, `[T]` transposed, `[0]` `[1]`
`[2]` a third of a tensor in which q, k and v are stacked. Reading and writing go through the same rows.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import Config, TextConfig, UNetConfig, VAEConfig, VisionConfig

Row = tuple[str, str, str]

UNET = (
    ("time.linear_1.*", "time_embed.0.*", "time_embedding.linear_1.*"),
    ("time.linear_2.*", "time_embed.2.*", "time_embedding.linear_2.*"),
    ("conv_in.*", "input_blocks.0.0.*", "conv_in.*"),
    ("norm_out.*", "out.0.*", "conv_norm_out.*"),
    ("conv_out.*", "out.2.*", "conv_out.*"),
)
UNET_RES = (
    ("norm_1.*", "in_layers.0.*", "norm1.*"),
    ("conv_1.*", "in_layers.2.*", "conv1.*"),
    ("time.*", "emb_layers.1.*", "time_emb_proj.*"),
    ("norm_2.*", "out_layers.0.*", "norm2.*"),
    ("conv_2.*", "out_layers.3.*", "conv2.*"),
    ("skip.*", "skip_connection.*", "conv_shortcut.*"),
)
TRANSFORMER = (
    ("norm.*", "norm.*", "norm.*"),
    ("into.*", "proj_in.*", "proj_in.*"),
    ("out.*", "proj_out.*", "proj_out.*"),
)
TRANSFORMER_BLOCK = tuple(
    (ours, f"transformer_blocks.{{}}.{theirs}", f"transformer_blocks.{{}}.{theirs}")
    for ours, theirs in (
        ("blocks.{}.norms.0.*", "norm1.*"),
        ("blocks.{}.attentions.0.q.*", "attn1.to_q.*"),
        ("blocks.{}.attentions.0.k.*", "attn1.to_k.*"),
        ("blocks.{}.attentions.0.v.*", "attn1.to_v.*"),
        ("blocks.{}.attentions.0.out.*", "attn1.to_out.0.*"),
        ("blocks.{}.norms.1.*", "norm2.*"),
        ("blocks.{}.attentions.1.q.*", "attn2.to_q.*"),
        ("blocks.{}.attentions.1.k.*", "attn2.to_k.*"),
        ("blocks.{}.attentions.1.v.*", "attn2.to_v.*"),
        ("blocks.{}.attentions.1.out.*", "attn2.to_out.0.*"),
        ("blocks.{}.norm_ff.*", "norm3.*"),
        ("blocks.{}.ff.into.*", "ff.net.0.proj.*"),
        ("blocks.{}.ff.out.*", "ff.net.2.*"),
    )
)
VAE = (("quant.*", "quant_conv.*", "quant_conv.*"), ("post_quant.*", "post_quant_conv.*", "post_quant_conv.*"))
VAE_HALF = (
    ("conv_in.*", "conv_in.*", "conv_in.*"),
    ("norm_out.*", "norm_out.*", "conv_norm_out.*"),
    ("conv_out.*", "conv_out.*", "conv_out.*"),
    ("mid.attention.norm.*", "mid.attn_1.norm.*", "mid_block.attentions.0.group_norm.*"),
    ("mid.attention.attention.q.*", "mid.attn_1.q.*[1x1]", "mid_block.attentions.0.to_q.*"),
    ("mid.attention.attention.k.*", "mid.attn_1.k.*[1x1]", "mid_block.attentions.0.to_k.*"),
    ("mid.attention.attention.v.*", "mid.attn_1.v.*[1x1]", "mid_block.attentions.0.to_v.*"),
    ("mid.attention.attention.out.*", "mid.attn_1.proj_out.*[1x1]", "mid_block.attentions.0.to_out.0.*"),
)
VAE_RES = (
    ("norm_1.*", "norm1.*", "norm1.*"),
    ("conv_1.*", "conv1.*", "conv1.*"),
    ("norm_2.*", "norm2.*", "norm2.*"),
    ("conv_2.*", "conv2.*", "conv2.*"),
    ("skip.*", "nin_shortcut.*", "conv_shortcut.*"),
)
VAE_ATTENTION = (
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn", "to_out"),
    ("norm", "group_norm"),
)
"""all names of a layer in the autoencoder's attention: the original's, diffusers', and that of diffusers < 0.15"""

TEXT = (
    ("token.weight", "token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("position.weight", "positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("norm.*", "ln_final.*", "text_model.final_layer_norm.*"),
    ("projection.weight", "text_projection[T]", "text_projection.weight"),
)
VISION = (
    ("cls", "visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("position.weight", "visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("patch.weight", "visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("norm_in.*", "visual.ln_pre.*", "vision_model.pre_layrnorm.*"),  # sic
    ("norm_out.*", "visual.ln_post.*", "vision_model.post_layernorm.*"),
    ("projection.weight", "visual.proj[T]", "visual_projection.weight"),
)
CLIP_LAYER = (
    ("norm_1.*", "ln_1.*", "layer_norm1.*"),
    ("attention.q.weight", "attn.in_proj_weight[0]", "self_attn.q_proj.weight"),
    ("attention.k.weight", "attn.in_proj_weight[1]", "self_attn.k_proj.weight"),
    ("attention.v.weight", "attn.in_proj_weight[2]", "self_attn.v_proj.weight"),
    ("attention.q.bias", "attn.in_proj_bias[0]", "self_attn.q_proj.bias"),
    ("attention.k.bias", "attn.in_proj_bias[1]", "self_attn.k_proj.bias"),
    ("attention.v.bias", "attn.in_proj_bias[2]", "self_attn.v_proj.bias"),
    ("attention.out.*", "attn.out_proj.*", "self_attn.out_proj.*"),
    ("norm_2.*", "ln_2.*", "layer_norm2.*"),
    ("linear_1.*", "mlp.c_fc.*", "mlp.fc1.*"),
    ("linear_2.*", "mlp.c_proj.*", "mlp.fc2.*"),
)
DIFFUSION, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
COMPVIS, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
"""prefixes in a whole original file; the text tower of Stable Diffusion 2 is OpenCLIP's"""
LOGIT_SCALE = (("", "logit_scale", "logit_scale"),)


def unet_rows(c: UNetConfig) -> list[Row]:
    """CompVis numbers the blocks of all levels in one row, a change of size included."""
    rows, last, n = list(UNET), len(c.widths) - 1, 1
    transformer = (*TRANSFORMER, *each(TRANSFORMER_BLOCK, c.depth))
    for i in range(last + 1):
        for j in range(c.blocks):
            rows += under((f"down.{i}.res.{j}", f"input_blocks.{n}.0", f"down_blocks.{i}.resnets.{j}"), UNET_RES)
            if c.attention[i] != "none":
                rows += under(
                    (f"down.{i}.attention.{j}", f"input_blocks.{n}.1", f"down_blocks.{i}.attentions.{j}"), transformer
                )
            n += 1
        if i < last:
            rows.append(
                (f"down.{i}.resample.conv.*", f"input_blocks.{n}.0.op.*", f"down_blocks.{i}.downsamplers.0.conv.*")
            )
            n += 1
    for j, block in enumerate((0, 2)):
        rows += under((f"mid.res_{j + 1}", f"middle_block.{block}", f"mid_block.resnets.{j}"), UNET_RES)
    rows += under(("mid.attention", "middle_block.1", "mid_block.attentions.0"), transformer)
    for i in range(last + 1):
        attends = c.attention[last - i] != "none"
        for j in range(c.blocks + 1):
            n = i * (c.blocks + 1) + j
            rows += under((f"up.{i}.res.{j}", f"output_blocks.{n}.0", f"up_blocks.{i}.resnets.{j}"), UNET_RES)
            if attends:
                rows += under(
                    (f"up.{i}.attention.{j}", f"output_blocks.{n}.1", f"up_blocks.{i}.attentions.{j}"), transformer
                )
        if i < last:
            rows.append(
                (
                    f"up.{i}.resample.conv.*",
                    f"output_blocks.{n}.{1 + attends}.conv.*",
                    f"up_blocks.{i}.upsamplers.0.conv.*",
                )
            )
    return rows


def vae_rows(c: VAEConfig) -> list[Row]:
    """CompVis counts the decoder's levels from the finest, diffusers and we in the order of the data."""
    rows, last = list(VAE), len(c.widths) - 1
    for half in ("encoder", "decoder"):
        rows += under((half, half, half), VAE_HALF)
        for j in (1, 2):
            rows += under(
                (f"{half}.mid.res_{j}", f"{half}.mid.block_{j}", f"{half}.mid_block.resnets.{j - 1}"), VAE_RES
            )
    for i in range(last + 1):
        for half, way, k, sampler in (("encoder", "down", i, "downsample"), ("decoder", "up", last - i, "upsample")):
            for j in range(c.blocks + (half == "decoder")):
                names = (
                    f"{half}.levels.{i}.res.{j}",
                    f"{half}.{way}.{k}.block.{j}",
                    f"{half}.{way}_blocks.{i}.resnets.{j}",
                )
                rows += under(names, VAE_RES)
            if i < last:
                rows.append(
                    (
                        f"{half}.levels.{i}.resample.conv.*",
                        f"{half}.{way}.{k}.{sampler}.conv.*",
                        f"{half}.{way}_blocks.{i}.{sampler}rs.0.conv.*",
                    )
                )
    return rows


def text_rows(c: TextConfig) -> list[Row]:
    """The names of all tensors of a CLIP text tower."""
    places = "layers.{}", "transformer.resblocks.{}", "text_model.encoder.layers.{}"
    top = TEXT if c.projection else [row for row in TEXT if row[0] != "projection.weight"]
    return [*top, *each(under(places, CLIP_LAYER), c.layers)]


def vision_rows(c: VisionConfig) -> list[Row]:
    """The names of all tensors of a CLIP vision tower."""
    places = "layers.{}", "visual.transformer.resblocks.{}", "vision_model.encoder.layers.{}"
    return [*VISION, *each(under(places, CLIP_LAYER), c.layers)]


def under(places: Row, rows: Iterable[Row]) -> list[Row]:
    """Rows below these places: a prefix for each column."""
    return [tuple(f"{place}.{name}" for place, name in zip(places, row, strict=True)) for row in rows]


def each(rows: Iterable[Row], count: int) -> list[Row]:
    """Rows with "{}" replaced by 0, 1, ..., count - 1."""
    return [tuple(name.replace("{}", str(i)) for name in row) for i in range(count) for row in rows]


class Link(NamedTuple):
    """One tensor: our name, theirs, and how it lies there."""

    ours: str
    theirs: str
    how: str


def links(rows: Iterable[Row], column: int, prefix: str = "") -> Iterator[Link]:
    """`column` is 1 or 2 of the rows; `prefix` goes before every name of theirs."""
    for row in rows:
        theirs, _, how = row[column].partition("[")
        for kind in ("weight", "bias") if "*" in row[0] else ("",):
            yield Link(row[0].replace("*", kind), prefix + theirs.replace("*", kind), how.rstrip("]"))


def pipeline_links(c: Config, layout: str, *, openclip: bool, vae: str = FIRST_STAGE) -> dict[str, list[Link]]:
    """Part -> its links in the layout "diffusers" or "original"; openclip: the text tower of Stable Diffusion 2."""
    rows = {"unet": unet_rows(c.unet), "vae": vae_rows(c.vae), "text": text_rows(c.text)}
    if layout == "diffusers":
        return {part: list(links(each, 2)) for part, each in rows.items()}
    return {
        "unet": list(links(rows["unet"], 1, DIFFUSION)),
        "vae": list(links(rows["vae"], 1, vae)),
        "text": list(links(rows["text"], 1, OPENCLIP) if openclip else links(rows["text"], 2, COMPVIS)),
    }


def same_attention(tensors: dict[str, Tensor], column: int) -> dict[str, Tensor]:
    """An autoencoder's tensors with its attention under the names of one layout, as which some files mix them up.

    diffusers' are linear layers; some files keep them as 1x1 convolutions.
    """
    renamed = {}
    for name, tensor in tensors.items():
        place, _, kind = name.rpartition(".")
        for before in ("mid.attn_1.", "mid_block.attentions.0."):
            at, found, leaf = place.rpartition(before)
            row = next((row for row in VAE_ATTENTION if leaf in row), None) if found else None
            if row is not None:
                name = f"{at}{before}{row[column - 1]}.{kind}"
                tensor = _ours(tensor, "1x1" if column == 2 else "")
        renamed[name] = tensor
    return renamed


def pull(tensors: dict[str, Tensor], to: Iterable[Link]) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """Their tensors under our names: (tensors, all our names -> theirs, the names of theirs that were used)."""
    ours, names, used = {}, {}, set()
    for link in to:
        names[link.ours] = link.theirs
        if link.theirs in tensors:
            ours[link.ours] = _ours(tensors[link.theirs], link.how)
            used.add(link.theirs)
    return ours, names, used


def push(ours: dict[str, Tensor], to: Iterable[Link]) -> dict[str, Tensor]:
    """Our tensors under their names. Raises ValueError for a tensor that the links do not know."""
    theirs: dict[str, Tensor] = {}
    thirds: dict[str, list[Tensor]] = {}
    left = set(ours)
    for link in to:
        if link.ours not in ours:
            continue
        left.discard(link.ours)
        tensor = ours[link.ours].detach()
        if link.how in ("0", "1", "2"):
            thirds.setdefault(link.theirs, []).append(tensor)
        elif link.how == "T":
            theirs[link.theirs] = tensor.T
        else:
            theirs[link.theirs] = tensor[:, :, None, None] if link.how == "1x1" and tensor.ndim == 2 else tensor
    if left:
        raise ValueError(f"{len(left)} tensors have no name in this layout, e.g. {min(left)}")
    return theirs | {name: torch.cat(parts) for name, parts in thirds.items()}


def _ours(tensor: Tensor, how: str) -> Tensor:
    """A view of their tensor as it lies in our networks; one of another shape is left for the strict check to name."""
    if how in ("0", "1", "2") and tensor.ndim and tensor.shape[0] % 3 == 0:
        return tensor.chunk(3)[int(how)]
    if how == "T" and tensor.ndim == 2:
        return tensor.T
    if how == "1x1" and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor


def ema_name(original: str) -> str:
    """Where a training checkpoint keeps the average of a tensor: the name inside the averaged model, without its dots.

    The averaged model is the one under "model." in a whole checkpoint, all of it in an autoencoder's own.
    """
    return "model_ema." + original.removeprefix("model.").replace(".", "")
