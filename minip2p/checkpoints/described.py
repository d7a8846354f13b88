"""What an original file says of itself, beyond shapes: by marker tensors, metadata, and a .yaml beside it.

Each source gives words of our config. Merging tools write markers (`v_pred`, `ztsnr`), Stability AI's and kohya's tools
`modelspec.*` metadata, and the authors of Stable Diffusion publish a .yaml that many keep under the file's name.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import CheckpointError

Words = dict[str, Any]
"""dotted names of `config.Config` -> values"""
PREDICTION = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "x0": "x0",
    "sample": "x0",
}
BETAS = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine"}
"""CompVis's names -> ours: its "linear" has evenly spaced square roots"""
ARCHITECTURE = re.compile(r"stable-diffusion-v[12]\b(?!.*/)")
EDM = re.compile(r"edm_|.*\bsigma_data$")
MOST_YAML = 1 << 20


def words_of_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], notes: list[str]) -> Words:
    """All words that the sources give; where two differ, the file's own comes first, and a note names both.

    Raises CheckpointError for what our networks and samplers do not support.
    """
    found: Words = {}
    first: dict[str, str] = {}
    for where, words in (
        ("its marker tensors", _of_markers(path, tensors)),
        ("its metadata", _of_metadata(path, metadata)),
        (f"{path.with_suffix('.yaml').name} beside it", _of_yaml(path.with_suffix(".yaml"))),
    ):
        for word, value in words.items():
            if found.setdefault(word, value) != value:
                notes.append(f"{path}: {first[word]}: {word} = {found[word]}, which was taken; {where}: {value}")
            first.setdefault(word, where)
    if found.get("schedule.kind") == "zero_snr":
        found.setdefault("schedule.prediction", "v")
    return found


def _of_markers(path: Path, tensors: dict[str, Tensor]) -> Words:
    if edm := next((name for name in tensors if EDM.match(name)), None):
        raise CheckpointError(f"{path}: {edm}: trained with EDM's noise levels, which are not supported")
    words: Words = {}
    if "v_pred" in tensors:
        words["schedule.prediction"] = "v"
    alphas = alphas_cumprod(tensors)
    if "ztsnr" in tensors or (alphas is not None and float(alphas.min()) < 1e-4):
        words["schedule.kind"] = "zero_snr"
    return words


def alphas_cumprod(tensors: dict[str, Tensor]) -> Tensor | None:
    """The noise schedule that a file was trained on, (steps,) float64, where it has it as a tensor."""
    for name in ("alphas_cumprod", "denoiser.sigmas"):
        if name in tensors and tensors[name].ndim == 1 and 2 <= len(tensors[name]) <= 100_000:
            levels = tensors[name].double()
            return levels if name == "alphas_cumprod" else 1 / (levels**2 + 1)
    return None


def _of_metadata(path: Path, metadata: dict[str, str]) -> Words:
    spec = {key.removeprefix("modelspec."): value for key, value in metadata.items() if key.startswith("modelspec.")}
    words: Words = {}
    if kind := spec.get("architecture"):
        if not ARCHITECTURE.match(kind.lower()):
            raise CheckpointError(f"{path}: modelspec.architecture = {kind!r}; expected Stable Diffusion 1 or 2")
        if kind.lower().endswith("-v"):
            words["schedule.prediction"] = "v"
    if (prediction := spec.get("prediction_type", spec.get("predict_key"))) is not None:
        words["schedule.prediction"] = _one_of(path, PREDICTION, prediction, "modelspec.prediction_type")
    if (size := spec.get("resolution")) is not None:
        if not re.fullmatch(r"\d{2,5}(x\d{2,5})?", size):
            raise CheckpointError(f"{path}: modelspec.resolution = {size!r}: expected a size, e.g. 512x512")
        words["sampling.resolution"] = max(map(int, size.split("x")))
    if metadata.get("ss_zero_terminal_snr", "").lower() == "true":
        words["schedule.kind"] = "zero_snr"
    return words


def _of_yaml(path: Path) -> Words:
    """Of the authors' kind, with the model under `model.params`; another .yaml is none of ours."""
    if not path.is_file():
        return {}
    given = {k.removeprefix("model.params."): v for k, v in read_yaml(path).items() if k.startswith("model.params.")}
    words: Words = {}
    if (prediction := given.get("parameterization")) is not None:
        words["schedule.prediction"] = _one_of(path, PREDICTION, prediction, "parameterization")
    if (betas := given.get("beta_schedule")) is not None:
        words["schedule.kind"] = _one_of(path, BETAS, betas, "beta_schedule")
    if (key := given.get("conditioning_key", "crossattn")) not in ("crossattn", "hybrid"):
        raise CheckpointError(f"{path}: conditioning_key = {key!r} is not supported; expected crossattn or hybrid")
    numbers = {
        "linear_start": "schedule.start",
        "linear_end": "schedule.end",
        "timesteps": "schedule.steps",
        "scale_factor": "vae.scaling_factor",
        "unet_config.params.in_channels": "unet.in_channels",
    }
    for name, word in numbers.items():
        if name in given:
            try:
                words[word] = (int if name in ("timesteps", "unet_config.params.in_channels") else float)(given[name])
            except ValueError:
                raise CheckpointError(f"{path}: {name} = {given[name]!r}: expected a number") from None
    return words


def _one_of(path: Path, table: dict[str, str], value: str, name: str) -> str:
    if value.lower() not in table:
        raise CheckpointError(f"{path}: {name} = {value!r} is not supported; expected one of {', '.join(table)}")
    return table[value.lower()]


def read_yaml(path: Path) -> dict[str, str]:
    """The plain `name: value` lines of a .yaml, under dotted names, values as texts; lists and long texts are left out.

    Enough for configs of Stable Diffusion, and without a YAML library's anchors, tags and types.
    """
    if path.stat().st_size > MOST_YAML:
        raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes; expected a config of at most {MOST_YAML:,}")
    values: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.fullmatch(r"( *)([\w.]+):(?:\s+(.*))?", re.sub(r"(^|\s)#.*", "", line).rstrip())
        if not found:
            continue
        indent, name, value = len(found[1]), found[2], (found[3] or "").strip()
        while parents and parents[-1][0] >= indent:
            parents.pop()
        parents.append((indent, name))
        if value:
            values[".".join(each for _, each in parents)] = value.strip("'\"")
    return values
