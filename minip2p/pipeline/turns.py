"""Several edits of a picture, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.images import Picture
from .batching import check, is_list
from .core import LatentDiffusion
from .edit import edit
from .mask import fit_mask, open_mask


def edit_turns(
    pipe: LatentDiffusion, image: Picture | Sequence[Picture], turns: Sequence[str | Mapping[str, Any]], **options: Any
) -> list[Any]:
    """The picture after each turn, as 8-bit pictures; a turn edits the result of the one before, the first the picture.

    pipe.edit_turns("photo.jpg", ["make it night", {"instruction": "add snow", "seed": 1}], steps=50)[-1]

    A turn is an instruction, or the options of `edit` that are its own; `options` hold for every turn. So all turns
    have one seed unless told, and lists are of pictures, as for `edit`: with them each turn's result is a list. A mask
    of `options` is resized and cropped with the picture from turn to turn; one of a turn's own is of its input. There
    is no option `output`. Raises ValueError as `edit` does, and for no turns.
    """
    if isinstance(turns, str) or not turns:
        raise ValueError(f"turns {turns!r}: expected a list of instructions, at least one")
    own = [turn if isinstance(turn, Mapping) else {"instruction": turn} for turn in turns]
    for turn in own:
        check(**{name: value for name, value in turn.items() if not is_list(value)})
    mask, results = options.pop("mask", None), []
    for turn in own:
        how = options | dict(turn)
        results.append(edit(pipe, image, output="pil", **{"mask": mask} | how))
        if mask is not None and not how.get("keep_size"):
            mask = _fitted(pipe, mask, image, results[-1], how)
        image = results[-1]
    return results


def _fitted(pipe: LatentDiffusion, mask: Any, image: Any, result: Any, how: Mapping[str, Any]) -> Any:
    """The mask of an image that was edited as a mask of the result; where that is a list, a list."""
    if is_list(result):
        masks, images = (each if is_list(each) else [each] * len(result) for each in (mask, image))
        return [_fitted(pipe, *each, None, how) for each in zip(masks, images, strict=True)]
    return fit_mask(open_mask(mask), pipe.fitted(image, how.get("resolution"), how.get("fit", "crop")))
