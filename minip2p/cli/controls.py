"""Options of Prompt-to-Prompt, for the verbs that paint pairs (pair, invert), and the controls that they name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

from .arguments import optional
from .painting import AXES, check_fraction, settings_of

if TYPE_CHECKING:
    from ..control import Control
    from ..control.inversion import Inversion
    from ..pipeline import Pipeline

SETTINGS = ("control", "share", "cross", "self", "reweight", "blend", "subtract", "threshold")
PAIR_AXES = AXES | {"share": float, "weight": float}


@dataclass(frozen=True, kw_only=True)
class Controls:
    """How the edited picture is held to its source."""

    control: Annotated[tuple[Literal["share", "replace", "refine"], ...], arg(metavar="share|replace|refine ...")] = ()
    """share: the source's self-attention, as the paper has it (the default); replace: its cross-attention, word for
    word; refine: that of the words that both prompts have (these two as Prompt-to-Prompt's authors have them)"""
    share: float = 0.5
    """of the steps, from the first, in which self-attention is shared"""
    cross: Annotated[tuple[str, ...], arg(metavar="PART | WORD=PART ...")] = ("0.8",)
    """of replace and refine: the part of the steps with the source's cross-attention, e.g. 0.8 or 0.2,0.8; and of
    single words, e.g. house=0.4"""
    self: Annotated[str, arg(metavar="PART")] = "0.4"
    """of replace and refine: the part of the steps with the source's self-attention at maps of at most 16x16"""
    reweight: Annotated[tuple[str, ...], optional("WORD=FACTOR ...")] = ()
    """words of the edited prompt whose attention is multiplied, e.g. snow=3"""
    blend: Annotated[tuple[str, ...], optional("WORD ...")] = ()
    """let the pictures differ only where this word is looked at: one that both prompts have, or two, the source's and
    the edited prompt's"""
    subtract: Annotated[tuple[str, ...], optional("WORD ...")] = ()
    """of --blend: words whose places stay the source's"""
    threshold: float = 0.3
    """of --blend: how much of its greatest attention a pixel must give a word"""
    align: FlagCreatePairsOff[bool] = False
    """print which token of the one prompt answers to which of the other"""


def settings(options: Controls) -> dict[str, Any]:
    """The options as JSON values, checked. Raises ValueError for what means nothing."""
    control = options.control or ("share",)
    for name in ("share", "threshold"):
        check_fraction(name, getattr(options, name))
    parts = {"": "0.8"} | dict(_split(word, "--cross", "0.8 or house=0.4") for word in options.cross)
    if not {"replace", "refine"} & set(control) and (options.cross != ("0.8",) or options.self != "0.4"):
        raise ValueError("--cross and --self go with --control replace or --control refine")
    if {"replace", "refine"} <= set(control):
        raise ValueError("--control replace and refine are two ways to align the prompts; choose one")
    if len(options.blend) > 2:
        given = " ".join(options.blend)
        raise ValueError(f"--blend {given}: expected one word, or two: the source's and the edited prompt's")
    if options.subtract and not options.blend:
        raise ValueError("--subtract goes with --blend")
    factors = {}
    for word, factor in (_split(each, "--reweight", "snow=3") for each in options.reweight):
        try:
            factors[word] = float(factor)
        except ValueError:
            word = None
        if not word:
            raise ValueError(f"--reweight {'='.join((word or '', factor))}: expected WORD=FACTOR, e.g. snow=3")
    return {
        "control": list(control), "share": options.share if "share" in control else 0.0,
        "cross": {word: _part("--cross", part) for word, part in parts.items()}, "self": _part("--self", options.self),
        "reweight": factors, "blend": list(options.blend), "subtract": list(options.subtract),
        "threshold": options.threshold,
    }  # fmt: skip


def _split(word: str, name: str, example: str) -> tuple[str, str]:
    """"house=0.4" -> ("house", "0.4"); "0.4" -> ("", "0.4")."""
    before, _, after = word.rpartition("=")
    if not after:
        raise ValueError(f"{name} {word!r}: expected e.g. {example}")
    return before.strip(), after


def _part(name: str, text: str) -> float | list[float]:
    """"0.8" -> 0.8, "0.2,0.8" -> [0.2, 0.8]: a part of the run."""
    from ..control.edit import check_part

    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} {text!r}: expected a part of the steps, e.g. 0.8 or 0.2,0.8") from None
    part = numbers[0] if len(numbers) == 1 else numbers
    check_part(name, part)
    return part


def build(r: dict, weight: float | None = None) -> list["Control"]:
    """The controls of a recipe, in the order in which they act. weight: in place of all factors of --reweight."""
    from ..control import LocalBlend, Refine, Replace, Reweight

    controls: list[Any] = []
    for kind, make in (("replace", Replace), ("refine", Refine)):
        if kind in r["control"]:
            words = {word: _tuple(part) for word, part in r["cross"].items() if word}
            controls.append(make(cross=_tuple(r["cross"][""]), self=_tuple(r["self"]), words=words))
    if r["reweight"]:
        factors = r["reweight"] if weight is None else dict.fromkeys(r["reweight"], weight)
        controls.append(Reweight(factors))
    if r["blend"]:
        words = r["blend"][0] if len(r["blend"]) == 1 else r["blend"]
        controls.append(LocalBlend(words, subtract=r["subtract"], threshold=r["threshold"]))
    return controls


def _tuple(part: float | list[float]) -> float | tuple[float, float]:
    return tuple(part) if isinstance(part, list) else part


def title(r: dict) -> str:
    """Both prompts of a recipe, or the one."""
    if r["edited_prompt"] in (None, r["prompt"]):
        return r["prompt"]
    return f"{r['prompt']}  ->  {r['edited_prompt']}"


def explained(pipe: "Pipeline", prompt: str, edited: str, r: dict) -> str:
    """Which token answers to which, as replace or refine have it."""
    from ..text.align import explain

    return explain(pipe.tokenizer, prompt, edited, "replace" if "replace" in r["control"] else "refine")


def paint_pair(
    pipe: "Pipeline", r: dict, *, start: "Inversion | None" = None, on_step: Callable[[Any], None] | None = None,
    **changes: Any,
) -> tuple[Image.Image, Image.Image]:
    """Source and edited picture of a recipe, with some settings changed."""
    weight = changes.pop("weight", None)
    how = settings_of(r) | {"share": r["share"]} | changes
    if start is not None:
        how |= {"steps": None, "sampler": None, "spacing": None}
    else:
        how["size"] = r["size"] and tuple(r["size"])
    control = build(r, weight)
    return pipe.generate_pair(r["prompt"], r["edited_prompt"], start=start, control=control, on_step=on_step, **how)
