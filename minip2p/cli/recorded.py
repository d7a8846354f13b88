"""What the metadata of an image holds, by verb: types and ranges, for files that anybody may have written."""

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ..schema import Fraction, Name, Pixels, Positive, SamplingSteps, from_dict, to_dict

Text = Annotated[str, Field(max_length=100_000)]
Texts = Annotated[tuple[Text, ...], Field(max_length=100)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]
Part = Fraction | tuple[Fraction, Fraction]
"""of the steps: from the first to this one, or from and to"""
Axis = Literal["text_scale", "image_scale", "scale", "strength", "share", "weight", "seed", "steps"]
Values = Annotated[tuple[int | float, ...], Field(min_length=1, max_length=100)]


@dataclass(frozen=True, kw_only=True)
class Input:
    """The input image, or a mask; its path is relative to the folder of the result."""

    path: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class LoRAFile:
    """A LoRA file that was merged into the weights, times its weight."""

    path: Text
    weight: Weight


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights, and how they were loaded. No path is the shipped model; its fingerprint is that after merging."""

    path: Text | None
    fingerprint: Name
    ema: bool
    config: Texts
    dtype: Literal["float32", "tf32", "bfloat16", "float16"]
    vae: Text | None = None
    lora: Annotated[tuple[LoRAFile, ...], Field(max_length=100)] = ()
    text_cleaning: Name | None = None
    compile: bool = False


TYPES: dict[str, Any] = {
    "verb": str,
    "input": Input,
    "mask": Input | None,
    "weights": Weights,
    "made_with": dict[Name, Name],
    "steps": SamplingSteps,
    "seed": Annotated[int, Field(ge=0, lt=2**64)],
    "sampler": Name,
    "sampler_options": dict[Name, int | float | str | bool | None],
    "spacing": Name,
    "low_memory": bool,
    "instruction": Text | Annotated[Texts, Field(min_length=2)],  # of several turns
    "text_scale": Weight,
    "image_scale": Weight,
    "scale": Weight,
    "prompt": Text,
    "prompts": Annotated[Texts, Field(min_length=1)],
    "edited_prompt": Text | None,
    "negative": Text,
    "resolution": Pixels | None,
    "size": Pixels | tuple[Pixels, Pixels] | None,
    "fit": Name,
    "keep_size": bool,
    "grid": Annotated[dict[Axis, Values], Field(max_length=2)],
    "strength": Fraction,
    "control": tuple[Literal["share", "replace", "refine"], ...],
    "share": Fraction,
    "cross": dict[Text, Part],  # the steps of a word; "" is all other words
    "self": Part,
    "reweight": dict[Text, Weight],
    "blend": Texts,
    "subtract": Texts,
    "threshold": Fraction,
    "method": Literal["null_text", "negative_prompt", "ddim"],
    "inner": SamplingSteps,
    "learning_rate": Positive,
}
"""key -> what it may be"""
DEFAULTS = {
    "sampler_options": field(default_factory=dict),
    "low_memory": False,
    "negative": "",
    "verb": "edit",
    "mask": None,
}
"""of keys that earlier versions did not record"""
SAMPLED = "verb weights made_with steps seed sampler sampler_options spacing low_memory"
CONTROLLED = "prompt edited_prompt control share cross self reweight blend subtract threshold"
KEYS = {
    "edit": "input mask instruction text_scale image_scale resolution fit keep_size grid",
    "generate": "prompts negative scale size grid",
    "sdedit": "input prompt negative scale strength resolution fit keep_size grid",
    "pair": f"{CONTROLLED} negative scale size grid",
    "invert": f"{CONTROLLED} negative scale input method inner learning_rate resolution fit",
}
"""verb whose images can be made again -> what it records besides SAMPLED"""


def _kind(verb: str) -> type:
    rows = [
        (key, TYPES[key], *([DEFAULTS[key]] if key in DEFAULTS else [])) for key in f"{SAMPLED} {KEYS[verb]}".split()
    ]
    return make_dataclass(verb, rows, frozen=True, kw_only=True)


KINDS = {verb: _kind(verb) for verb in KEYS}


def checked(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """Metadata from which the image can be made again, with all keys. Raises ValueError in one line for any other."""
    verb = metadata.get("verb", "edit" if "instruction" in metadata else None)
    if not isinstance(verb, str) or verb not in KINDS:
        raise ValueError(f"{name}: this image cannot be made again; those of {', '.join(KINDS)} can")
    values = to_dict(from_dict(KINDS[verb], metadata, f"{name}: its metadata"))
    axes = {*values, "weight"} if "reweight" in values else set(values)
    if wrong := sorted(set(values.get("grid", ())) - axes):
        raise ValueError(f"{name}: its metadata: {verb} has no {wrong[0]}, which its grid names")
    if "cross" in values and "" not in values["cross"]:
        raise ValueError(f"{name}: its metadata: cross has no value for all words")
    return values
