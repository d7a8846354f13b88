"""Options of Prompt-to-Prompt, for the verbs that generate pairs (pair, invert), and the controls that they name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

import minip2p

from .arguments import optional
from .sampling import AXES, Step, settings_in

if TYPE_CHECKING:
    from ..control import Control
    from ..control.inversion import Inversion

FRACTION, FACTOR = "a fraction of the steps, e.g. 0.8, or house=0.4 for a word", "WORD=FACTOR, e.g. snow=3"
PAIR_AXES = AXES | {"share": float, "weight": float}


@dataclass(frozen=True, kw_only=True)
class Controls:
    """How the edited image is tied to its source (Prompt-to-Prompt)."""

    control: Annotated[tuple[Literal["share", "replace", "refine"], ...], optional("share|replace|refine ...")] = ()
    """share: use the source's self-attention, as the paper does (the default); replace: use its cross-attention, word
    by word; refine: use its cross-attention for the words that both prompts have"""
    share: float = 0.5
    """for share: fraction of the steps, from the first, that use the source's self-attention"""
    cross: Annotated[tuple[str, ...], arg(metavar="FRACTION | WORD=FRACTION ...")] = ("0.8",)
    """for replace and refine: fraction of the steps that use the source's cross-attention, e.g. 0.8, or its start and
    end, e.g. 0.2,0.8; for a single word, e.g. house=0.4"""
    self: Annotated[str, arg(metavar="FRACTION")] = "0.4"
    """for replace and refine: fraction of the steps that use the source's self-attention, in maps up to 16x16"""
    reweight: Annotated[tuple[str, ...], optional("WORD=FACTOR ...")] = ()
    """multiply the attention to words of the edited prompt, e.g. snow=3"""
    blend: Annotated[tuple[str, ...], optional("WORD ...")] = ()
    """let the images differ only where this word attends; or two words, of the source and of the edited prompt"""
    subtract: Annotated[tuple[str, ...], optional("WORD ...")] = ()
    """for --blend: keep the source where these words attend"""
    threshold: float = 0.3
    """for --blend: a word attends where its map is above this fraction of its maximum"""


def parse_controls(options: Controls) -> dict[str, Any]:
    """The options as JSON values. Raises ValueError for words or values that no control takes."""
    kinds = options.control or ("share",)
    if not {"replace", "refine"} & set(kinds) and (options.cross, options.self) != (("0.8",), "0.4"):
        raise ValueError("--cross and --self go with --control replace or --control refine")
    if {"replace", "refine"} <= set(kinds):
        raise ValueError("--control replace and refine are two ways to align the prompts; choose one")
    if options.subtract and not options.blend:
        raise ValueError("--subtract goes with --blend")
    values = {
        "control": list(kinds),
        "share": options.share if "share" in kinds else 0.0,
        "cross": {"": 0.8} | dict(_named("--cross", word, FRACTION) for word in options.cross),
        "self": _named("--self", options.self, FRACTION)[1],
        "reweight": dict(_named("--reweight", word, FACTOR) for word in options.reweight),
        "blend": list(options.blend),
        "subtract": list(options.subtract),
        "threshold": options.threshold,
    }
    if "" in values["reweight"]:
        raise ValueError(f"--reweight {' '.join(options.reweight)}: expected {FACTOR}")
    build_controls(values)  # they check their values
    return values


def _named(option: str, text: str, expected: str) -> tuple[str, float | tuple[float, ...]]:
    """ "house=0.4" -> ("house", 0.4); "0.2,0.8" -> ("", (0.2, 0.8))."""
    word, _, value = text.rpartition("=")
    try:
        numbers = [float(number) for number in value.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected {expected}") from None
    return word.strip(), numbers[0] if len(numbers) == 1 else tuple(numbers)


def build_controls(m: dict, weight: float | None = None) -> list["Control"]:
    """The controls that metadata describes, in the order in which they act. weight: for all words of reweight."""
    from ..control import LocalBlend, Refine, Replace, Reweight

    controls: list[Any] = []
    for kind, control in (("replace", Replace), ("refine", Refine)):
        if kind in m["control"]:
            words = {word: fraction for word, fraction in m["cross"].items() if word}
            controls.append(control(cross=m["cross"][""], self=m["self"], words=words))
    if m["reweight"]:
        controls.append(Reweight(m["reweight"] if weight is None else dict.fromkeys(m["reweight"], weight)))
    if m["blend"]:
        words = m["blend"][0] if len(m["blend"]) == 1 else m["blend"]
        controls.append(LocalBlend(words, subtract=m["subtract"], threshold=m["threshold"]))
    return controls


def title(m: dict) -> str:
    """Both prompts, or the one."""
    same = m["edited_prompt"] in (None, m["prompt"])
    return m["prompt"] if same else f"{m['prompt']}  ->  {m['edited_prompt']}"


def generate_pair(
    pipe: "minip2p.Pipeline", m: dict, *, start: "Inversion | None" = None, on_step: Step | None = None, **changes: Any
) -> Any:
    """Source and edited image that metadata describes, with some settings changed; a list of pairs for lists."""
    control = build_controls(m, changes.pop("weight", None))
    names = ["negative", "scale", "seed", "share", "low_memory"]
    names += ["steps", "sampler", "sampler_options", "spacing", "size"] if start is None else []
    settings = {name: value for name, value in settings_in(m).items() if name in names} | changes
    prompts = m["prompt"], m["edited_prompt"]
    return pipe.generate_pair(*prompts, start=start, control=control, on_step=on_step, **settings)
