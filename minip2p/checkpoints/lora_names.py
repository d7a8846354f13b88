"""How LoRA files name layers, which kinds of files there are, and what PEFT says of the scales in them.

The names of layers are those of `tables`, in diffusers' or the original's spelling, behind a prefix for the network.
kohya writes "_" for "."; here all are spelled so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ..config import Config, from_dict
from ..files import parse_json
from ..schema import Positive, foreign
from .configs import in_file, read_file
from .files import CheckpointError
from .loaded import Loaded
from .tables import Link, links, text_rows, unet_rows

Place = tuple[str, str]
"""a part, and our name of a tensor in it"""
PREFIXES = {
    "unet": ("unet_", "lora_unet_", "base_model_model_", ""),
    "text": ("text_encoder_", "lora_te_", "base_model_model_"),
}
"""before the names of a part's layers; files of the first diffusers have the UNet alone, without any"""
HALF = re.compile(r"(.+?)(?:\.lora_|\.lora\.|\.lora_linear_layer\.|_lora\.)(A|B|down|up)(?:\.\w+)?\.weight")
ALIASES = (("_to_out_0", "_to_out"), *((f"_attn_{x}_proj", f"_attn_to_{x}") for x in ("q", "k", "v", "out")))
"""ends of names of layers -> those in the first diffusers"""
OTHERS = {
    r"\bhada_": "LoHa",
    r"\blokr_": "LoKr",
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\boft_": "OFT",
    r"lora_mid": "LoCon in Tucker's form",
    r"lora_embedding_": "LoRA of embeddings",
    r"\b(lora_B|lora_up|up)\.(\w+\.)?bias$": "LoRA with biases",
    r"\.diff(_b)?$": "differences of whole layers",
}
"""what is in a name -> what the file holds that is not merged"""
EMBEDDINGS = "token.weight", "position.weight"
BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""width of the texts that a denoiser reads -> which it is"""
XL = "lora_te1_", "lora_te2_", "text_encoder_2."
FORMS = "lora_A and lora_B, or lora_down and lora_up"


@foreign
class PeftFile:
    """PEFT's LoraConfig: what decides the scale of a layer. Its defaults."""

    lora_alpha: Positive = 8
    alpha_pattern: Annotated[dict[str, Positive], Field(max_length=10_000)] = field(default_factory=dict)
    """end of a layer's name, or "^" and the whole of it -> its alpha"""
    use_rslora: bool = False
    """scaled by alpha / sqrt(rank)"""
    use_dora: bool = False


def check_kind(path: Path, tensors: Mapping[str, Tensor], c: Config) -> None:
    """Raise CheckpointError for a file that holds no LoRA, other kinds of additions, or those of another base."""
    for pattern, what in OTHERS.items():
        if found := [name for name in tensors if re.search(pattern, name)]:
            raise CheckpointError(f"{path}: {what}, {few(found)}, which is not read; expected LoRA: {FORMS}")
    if not any(HALF.fullmatch(name) for name in tensors):
        raise CheckpointError(f"{path}: holds no LoRA, but {few(list(tensors))}; expected {FORMS}")
    for name, tensor in tensors.items():
        half = HALF.fullmatch(name)
        reads_text = half and "attn2" in name and half[1].endswith(("to_k", "to_v")) and half[2] in ("A", "down")
        width = tensor.shape[1] if reads_text and tensor.ndim > 1 else 2048 if name.startswith(XL) else None
        if width not in (None, c.denoiser_config.text_width):
            raise CheckpointError(
                f"{path}: is of a model with {_base(width)}, by {name}; this one has "
                f"{_base(c.denoiser_config.text_width)}: a LoRA fits the model that it was trained on"
            )


def _base(width: int) -> str:
    return f"texts of width {width}" + (f" ({BASES[width]})" if width in BASES else "")


def spellings(loaded: Loaded) -> dict[str, Place]:
    """How files spell a layer that can have a LoRA, all dots replaced by "_" -> its place."""
    c, found = loaded.config, {}
    names = {c.denoiser: [Link(name, name, "") for name in loaded.parts[c.denoiser]]}
    if c.denoiser == "unet":
        names["unet"] = [*links(unet_rows(c.unet), 2), *links(unet_rows(c.unet), 1)]
    names["text"] = [*links(text_rows(c.text), 2)]
    for part, each in names.items():
        for ours, theirs, _ in each:
            if ours not in loaded.parts[part] or loaded.parts[part][ours].ndim < 2 or ours in EMBEDDINGS:
                continue
            flat = theirs.removesuffix(".weight").replace(".", "_")
            spelled = [flat, *(flat.removesuffix(end) + old for end, old in ALIASES if flat.endswith(end))]
            spelled += [name.removeprefix("text_model_") for name in spelled]
            found |= {prefix + name: (part, ours) for prefix in PREFIXES.get(part, (f"{part}_",)) for name in spelled}
    return found


def peft_configs(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, PeftFile]:
    """Prefix of names -> its LoraConfig: diffusers' in the header, PEFT's in a file beside the weights."""
    if any(name.startswith("base_model.model.") for name in tensors):
        return {"base_model.model.": _peft(path.with_name("adapter_config.json"), None)}
    if "lora_adapter_metadata" not in metadata:
        return {}
    values = parse_json(metadata["lora_adapter_metadata"], f"{path}: lora_adapter_metadata", CheckpointError)
    found = {}
    for prefix in ("unet.", "text_encoder."):
        if own := {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}:
            found[prefix] = _peft(path, own)
    return found


def _peft(path: Path, values: dict[str, Any] | None) -> PeftFile:
    """From these values, else the file's."""
    if values is None:
        config = read_file(path, PeftFile, {})
    else:
        with in_file(path):
            config = from_dict(PeftFile, values)
    if config.use_dora:
        raise CheckpointError(f"{path}: use_dora = True: DoRA is not read; expected LoRA")
    if patterns := [each for each in config.alpha_pattern if not re.fullmatch(r"\^?[\w.]+", each)]:
        raise CheckpointError(f"{path}: alpha_pattern has {patterns[0]!r}; expected names of layers")
    return config


def scale_of(name: str, rank: int, alpha: float | None, configs: Mapping[str, PeftFile]) -> float:
    """alpha / rank, where `alpha` is the file's own, else that of the LoraConfig for this name, else the rank."""
    prefix, config = next((each for each in configs.items() if name.startswith(each[0])), ("", None))
    if alpha is not None or config is None:
        return 1.0 if alpha is None else alpha / rank
    layer = name[len(prefix) :].rpartition(".lora_")[0]
    alphas = [own for end, own in config.alpha_pattern.items() if layer == end.lstrip("^") or layer.endswith(f".{end}")]
    return (alphas or [config.lora_alpha])[0] / (rank**0.5 if config.use_rslora else rank)


def few(names: Sequence[str]) -> str:
    """The first three names, for a message."""
    return f"e.g. {', '.join(names[:3])}{', …' if len(names) > 3 else ''}" if names else "nothing"
