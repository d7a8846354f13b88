"""The ablation table: architecture, objective, conditioning, one change at a time, by the engine of `minip2p ablate`.

All variants start from random denoisers, as changed ones fit no weights, and are trained on the same rendered edits.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...config import PRESETS, Config, override
from ...evaluation.ablation import Variant
from ...evaluation.ablation_table import Row, differences, rows, table
from ...schema import words_of
from ...training.checkpoint_parts import write_parts
from .claims import Claim, Estimate
from .editors import base_config, evaluate_truth, evaluated, raw_model, train
from .parts import Section, Setup


def ablation(setup: Setup) -> Section:
    """Train, evaluate, compare."""
    variants = [
        each for each in variants_of(setup.editor.config) if not (some := setup.sizes.variants) or each.name in some
    ]
    if unknown := set(setup.sizes.variants) - {each.name for each in variants}:
        known = ", ".join(each.name for each in variants_of(setup.editor.config))
        raise ValueError(f"variants: unknown {min(unknown)!r}; there are {known}")
    how = {"train": partial(train_from_scratch, setup), "evaluate": partial(evaluate_truth, setup)}
    found = evaluated(setup, "ablation", [Variant(name="baseline"), *variants], setup.sizes.seeds, **how)
    return section(rows(found), setup)


def variants_of(model: Config) -> list[Variant]:
    """One change to the shipped editor's config in each."""
    unet = model.unet
    half = tuple(width // 2 for width in unet.widths)
    last = ("none",) * (len(unet.widths) - 1) + unet.attention[-1:]
    channels = {name: getattr(unet, name) for name in ("in_channels", "out_channels", "text_width")}
    dit = words_of(replace(PRESETS["tiny"].dit, **channels), "model.dit.")
    words = {
        "rms-norm": ["model.unet.norm=rms"],
        "scale-shift": ["model.unet.time_injection=scale_shift"],
        "half-width": [f"model.unet.widths={half}"],
        "last-attention": [f"model.unet.attention={last}"],
        "dit": ["model.denoiser=dit", *(f"{key}={x}" for key, x in dit.items())],
        "eps": ["model.schedule.prediction=eps"],
        "flow": ["model.schedule.kind=flow", "model.schedule.prediction=flow"],
        "uniform-times": ["timestep_power=1.0"],
        "no-change-weight": ["change_weight=0.0"],
        "no-dropout": ["dropout=0.0"],
        "no-image": ["image_condition=none"],
    }
    return [Variant(name=name, words=tuple(each)) for name, each in words.items()]


def train_from_scratch(setup: Setup, variant: Variant, seed: int, folder: Path) -> None:
    """The shipped editor's networks with this change, from random weights; only the autoencoder is trained already."""
    vae = setup.out / "editors" / "vae.safetensors"
    config = base_config(setup, "rendered", seed)
    words = (f"model.sampling.resolution={config.size}", *variant.words)
    config = override(replace(config, model=setup.editor.config), *words)
    if not vae.exists():
        write_parts(
            vae, Config(vae=setup.editor.config.vae), {"vae": raw_model(setup).vae.requires_grad_(False)}, None, config
        )
    train(setup, config, folder, [vae])


def section(found: Sequence[Row], setup: Setup) -> Section:
    """What the numbers say; not the speed, which is the machine's."""
    costs = ("parameters", "flop")
    found = [replace(row, cost={key: row.cost[key] for key in costs if key in row.cost}) for row in found]
    s, drawn = setup.sizes, differences(found)
    text = f"""Each row is the editor's config with one change, trained from random weights for {s.ablation_steps:,}
steps of {s.batch_size} on {s.rendered:,} rendered pairs of {s.ablation_size} pixels, and evaluated against the truth on
{s.edits} held-out edits, as in the ceiling.

{table(found)}

![Differences to the baseline](differences.png)"""
    figures = {"differences.png": drawn} if drawn is not None else {}
    return Section(title="Ablations", text=text, claims=claims_of(found), figures=figures)


def claims_of(found: Sequence[Row]) -> list[Claim]:
    """What the paper says of the parts that have a row."""
    minus = {row.variant: row.differences.get("correct") for row in found}
    words = {"no-image": "the editor needs the image, which enters as further input channels"}
    return [
        Claim(
            paper="section 3.2",
            words=text,
            measured=f"correct edits: baseline minus {name}",
            number=Estimate(0 - each["mean"], 0 - each["high"], 0 - each["low"]),
        )
        for name, text in words.items()
        if (each := minus.get(name))
    ]
