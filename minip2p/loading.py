"""From a checkpoint to a Pipeline, a CLIP or a language model, ready to run, and back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints
from .checkpoints import CheckpointError, Loaded
from .config import CLIPConfig, Config, LlamaConfig, TextConfig, VisionConfig, override
from .diffusion import make_schedule
from .models.clip import CLIP
from .models.denoisers import build_denoiser
from .models.dino import DINO
from .models.llama import Llama
from .models.text_encoder import TextEncoder
from .models.vae import AutoencoderKL
from .nn.blocks import Upsample
from .nn.packed import pack
from .pipeline import LanguageModel, Pipeline
from .pipeline.graphs import compiling
from .text.bpe import BPE
from .text.pieces import Pieces

LoRA = str | PathLike | tuple[str | PathLike, float] | Sequence[str | PathLike | tuple[str | PathLike, float]]
"""a file, or (file, weight), or several of these"""
Tokenizer = Callable[[list[str]], Tensor]
HOLDS = {
    Config: ("an editor or text-to-image model", "minip2p.load"),
    CLIPConfig: ("a CLIP", "minip2p.load_clip"),
    LlamaConfig: ("a language model", "minip2p.load_language_model"),
    VisionConfig: ("a DINO", "minip2p.loading.load_dino"),
}
"""class of a config -> what a checkpoint with it holds, and what reads it"""
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""word -> dtype of the weights; "tf32" is float32 whose products CUDA GPUs may round to 10 bits, for speed"""


def load(
    path: str | PathLike | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = "auto",
    config: Config | Sequence[str] | None = None,
    tokenizer: Tokenizer | str | PathLike | None = None,
    text_cleaning: str | None = None,
    ema: bool = True,
    lora: LoRA = (),
    vae: str | PathLike | None = None,
    inference: bool = True,
    graphs: bool = True,
    compile: bool = False,
) -> Pipeline:
    """The pipeline of a checkpoint in any layout (`checkpoints.read`); without a path, the shipped tiny editor.

    device: "auto" is CUDA, else MPS, else the CPU. dtype: a word of `DTYPES`, or a dtype; None keeps the file's;
    "auto" is float32, and on CUDA the half precision in which the card computes (`place`); for float32 on CUDA,
    PyTorch's own use of TF32 is switched off in this process. config: replaces the checkpoint's, or overrides that
    change it ("schedule.prediction=v"). tokenizer: replaces the checkpoint's; or its folder. text_cleaning: a word of
    `text.cleaning.CLEANINGS`, "ftfy" to repair texts as the authors' environment does; None is the checkpoint's own,
    which is "none" unless it says otherwise. ema: use the averaged weights of a file that has both. lora: LoRA files of
    diffusers, PEFT or kohya, merged into the weights here. vae: a file or folder whose autoencoder replaces the
    checkpoint's. inference=False skips `prepare`: to train, or to convert; "auto" is then float32. graphs: on CUDA,
    replay the denoiser's calls as CUDA graphs, bit for bit the same. compile: compile the denoiser at its first call,
    for many pictures; what that costs is in the pipeline's notes.
    Raises ValueError in one line that names the file or the option, FileNotFoundError if there is no checkpoint.
    """
    device, dtype = place(device, dtype if inference or dtype != "auto" else torch.float32)
    loaded = read(shipped("editor") if path is None else path, Config, config, ema)
    if vae is not None:
        checkpoints.replace_vae(loaded, vae, ema)
    c = loaded.config
    if absent := [part for part in (c.denoiser, "vae", "text") if part not in loaded.parts]:
        there = ", ".join(loaded.parts) or "nothing"
        advice = "give an autoencoder too: vae=PATH (--vae PATH), e.g. that of the model that it was trained from"
        if absent != ["vae"]:
            advice = (
                "put it into the folder of the model that it was trained from, in place of the same part, and give that"
            )
        raise CheckpointError(
            f"{loaded.path}: not a whole model: it has {there}, and lacks the {', '.join(absent)} weights; {advice}"
        )
    if files := lora_files(lora):
        checkpoints.merge_lora(loaded, files, dtype)
    with checkpoints.on_meta():
        networks = {c.denoiser: build_denoiser(c), "vae": AutoencoderKL(c.vae), "text": TextEncoder(c.text)}
    for part, network in networks.items():
        tensors, names = loaded.parts.pop(part), loaded.names[part]
        source = loaded.path if part != "vae" or vae is None else vae
        checkpoints.assign(network, tensors, device=device, dtype=dtype, source=source, names=names)
        if inference:
            prepare(network)
            if not compile:  # which packs by itself
                pack(network)
    tokenizer = tokenizer_of(loaded, c.text, tokenizer)
    if text_cleaning is not None:
        if not isinstance(tokenizer, BPE):
            raise ValueError(f"text_cleaning {text_cleaning!r}: a tokenizer of your own cleans its texts itself")
        tokenizer = replace(tokenizer, cleaning=text_cleaning)
    notes = (*loaded.notes, *_other_schedule(loaded), *([compiling(device)] if compile else []))
    how = {"provenance": loaded.provenance, "notes": notes, "graphs": graphs and inference, "compile": compile}
    return Pipeline(*networks.values(), tokenizer, c, **how)


def lora_files(lora: LoRA) -> list[tuple[Path, float]]:
    """Each file with its weight, 1 where none is given."""
    one = isinstance(lora, (str, PathLike)) or (len(lora) == 2 and isinstance(lora[1], (int, float)))
    pairs = [each if isinstance(each, (tuple, list)) else (each, 1.0) for each in ([lora] if one else lora)]
    return [(Path(file), weight) for file, weight in pairs]


def _other_schedule(loaded: Loaded) -> Iterator[str]:
    """A note where a file has the noise schedule of its training, and it is not that of the config. Half-precision
    files round alpha_bar to 5e-4 or 4e-3; two schedules differ by more."""
    theirs, c = loaded.alphas_cumprod, loaded.config.schedule
    if theirs is not None:
        ours = getattr(make_schedule(c), "alphas_cumprod", torch.empty(0))
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs.sort(descending=True).values, rtol=0, atol=0.01
        ):
            given = f"{c.kind} with {c.steps} betas from {c.start} to {c.end}"
            yield f"{loaded.path}: the noise schedule in the file is not {given}, which is taken; set schedule.kind ..."


def load_clip(
    path: str | PathLike | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    config: CLIPConfig | Sequence[str] | None = None,
) -> CLIP:
    """Both towers of a CLIP with their tokenizer; without a path, the shipped tiny one."""
    device, dtype = place(device, dtype)
    loaded = read(shipped("clip") if path is None else path, CLIPConfig, config)
    with checkpoints.on_meta():
        clip = CLIP(loaded.config)
    tensors, names = loaded.joined(), loaded.joined_names()
    checkpoints.assign(clip, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
    clip.tokenizer = tokenizer_of(loaded, loaded.config.text)
    return prepare(clip)


def load_dino(path: str | PathLike, *, device: str | torch.device = "cpu") -> DINO:
    """A DINO: its authors' file (dino_vits16: dino_deitsmall16_pretrain.pth), or a folder of transformers' ViTModel."""
    device, dtype = place(device, torch.float32)
    loaded = read(path, VisionConfig)
    with checkpoints.on_meta():
        network = DINO(loaded.config)
    tensors, names = loaded.parts["dino"], loaded.names["dino"]
    checkpoints.assign(network, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
    return prepare(network)


def load_language_model(
    path: str | PathLike | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = torch.float32,
) -> LanguageModel:
    """A language model that writes instructions; without a path, the shipped tiny one.

    path: our own file, or a folder of Llama 2, TinyLlama or Mistral as transformers writes it.
    Raises ValueError in one line that names the file or the option, FileNotFoundError if there is no checkpoint.
    """
    device, dtype = place(device, dtype)
    loaded = read(shipped("instructions") if path is None else path, LlamaConfig)
    tensors, names = loaded.joined(), loaded.joined_names()
    try:
        with checkpoints.on_meta():
            whole = nn.ModuleDict({"language_model": Llama(loaded.config)})
        checkpoints.assign(whole, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
        return LanguageModel(prepare(whole["language_model"]), _pieces(loaded), loaded.config, loaded.provenance)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{loaded.path}: {error}") from None


def save(
    pipe: Pipeline | LanguageModel,
    path: str | PathLike,
    layout: str = "minip2p",
    *,
    dtype: torch.dtype | None = None,
    averages: bool = True,
) -> None:
    """Write a pipeline: our own file ("minip2p"), an original single file ("original") or a folder ("diffusers").

    A language model: our own file, or a folder ("transformers"). dtype: of the weights in the file; None keeps theirs.
    averages=False: no second copy of the UNet's weights as averages in an original file (see `checkpoints.write`).
    """
    tokenizer = pipe.pieces if isinstance(pipe, LanguageModel) else pipe.tokenizer
    if not isinstance(tokenizer, (BPE, Pieces)):
        raise ValueError(f"cannot save a tokenizer of the class {type(tokenizer).__name__}; expected a BPE")
    checkpoints.write(
        Path(path),
        layout,
        pipe.config,
        {part: network.state_dict() for part, network in pipe.parts.items()},
        tokenizer=tokenizer,
        provenance=pipe.provenance,
        dtype=dtype,
        ema_parts=None if averages else {},
    )


def read(
    path: str | PathLike, kind: type, config: Any | Sequence[str] | None = None, ema: bool = True
) -> checkpoints.Loaded:
    """The checkpoint, whose config must be a `kind`; `config` replaces it, or overrides some of its words."""
    overrides = [config] if isinstance(config, str) else config if isinstance(config, (list, tuple)) else None
    if overrides is not None:
        config = override(checkpoints.read(Path(path), ema=ema).config, *overrides)
    loaded = checkpoints.read(Path(path), ema=ema, config=config)
    if not isinstance(loaded.config, kind):
        word = next(word for word, each in checkpoints.KINDS.items() if isinstance(loaded.config, each))
        what, loader = HOLDS.get(type(loaded.config), (f"a {word}", None))
        hint = f"; {loader} reads it" if loader else ""
        raise CheckpointError(f"{path} holds {what}, expected {HOLDS.get(kind, (f'a {kind.__name__}',))[0]}{hint}")
    return loaded


def shipped(name: str) -> Path:
    """The shipped weights of that name (editor, clip, classifier ...): in the package, or in the clone around it."""
    here = Path(__file__).resolve().parent
    places = here / "_weights" / f"{name}.safetensors", here.parent / "weights" / "tiny" / f"{name}.safetensors"
    for file in places:
        if file.is_file():
            return file
    raise FileNotFoundError(f"no shipped weights {name!r}: neither {places[0]} nor {places[1]}; give a path")


def prepare(network: nn.Module) -> nn.Module:
    """Make a network ready for inference: eval mode, frozen, upsampling fused with its convolution, channels last."""
    for module in network.modules():
        if isinstance(module, Upsample):
            module.fuse()
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def place(device: str | torch.device, dtype: str | torch.dtype | None) -> tuple[torch.device, torch.dtype | None]:
    """The device and dtype that these words mean. Raises ValueError if this machine cannot use them.

    "auto" is float32 on a CPU and on MPS; on CUDA bfloat16 where the card computes in it (Ampere and later), else
    float16.
    On CUDA float32 means float32: PyTorch's switches for TF32, which hold for the process and of which it sets the
    convolutions' by itself, are set off, and on for the dtype "tf32".
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda", "mps") or (found.type != "cuda" and found.index):
        raise ValueError(f"unknown device {str(device)!r}; expected auto, cpu, cuda, cuda:1 or mps")
    device = found
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"device {device}: PyTorch {torch.__version__} finds {found} CUDA GPUs here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: PyTorch finds no Apple GPU here")
    if dtype == "auto":
        dtype = torch.float32
        if device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; there are auto, {', '.join(DTYPES)}")
    tf32, dtype = dtype == "tf32", DTYPES.get(dtype, dtype)
    if tf32 and device.type != "cuda":
        raise ValueError(f"dtype 'tf32' on {device}: only CUDA GPUs have it; use float32")
    if device.type == "cuda" and dtype in (torch.float32, None):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if device.type == "cpu":  # half precision only if the CPU computes in it; measured on one core with AVX-512
        if dtype == torch.bfloat16 and not cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}:
            raise ValueError("bfloat16 is 8 times slower than float32 on a CPU without AVX512-BF16 or AMX; use float32")
        if dtype == torch.float16:
            raise ValueError("float16 is 6 times slower than float32 on a CPU; use float32, or bfloat16 if it has that")
    return device, dtype


def cpu_flags(info: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The CPU's features by Linux' names; on other systems those that PyTorch reports."""
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        asked = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
        return {flag for flag, name in asked.items() if getattr(torch.cpu, name, bool)()}
    lines = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return {flag for line in lines for flag in line.partition(":")[2].split()}


def _pieces(loaded: Loaded) -> Pieces:
    """A language model's tokenizer, for which there is no default."""
    if isinstance(loaded.tokenizer, dict):
        return Pieces.from_dict(loaded.tokenizer)
    if loaded.tokenizer is None:
        raise ValueError("no tokenizer.model; expected one beside the weights (a tokenizer.json is not read)")
    return Pieces.from_file(loaded.tokenizer / "tokenizer.model")


def tokenizer_of(loaded: Loaded, text: TextConfig, given: Tokenizer | str | PathLike | None = None) -> Tokenizer:
    """The given tokenizer, else the checkpoint's, else CLIP's own; checked against the text encoder."""
    found = loaded.tokenizer if given is None else given
    if isinstance(found, dict):
        found = BPE.from_dict(found)
    elif isinstance(found, (str, PathLike)):
        found = BPE.from_folder(found)
    elif found is None:
        found = BPE.clip(pad=text.pad, max_length=text.max_length)
    if isinstance(found, BPE) and (max(found.vocab.values()) >= text.vocab_size or found.max_length > text.max_length):
        raise ValueError(
            f"{loaded.path}: the tokenizer has {len(found.vocab)} tokens and texts of {found.max_length}, the text "
            f"encoder {text.vocab_size} and {text.max_length}; give the tokenizer that it was trained with "
            "(tokenizer=...)"
        )
    return found
