"""From a checkpoint to a Pipeline, a CLIP, a reader or a writer, ready to run, and back."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from . import checkpoints
from .config import CLIPConfig, Config, LlamaConfig, ReaderConfig, override
from .models.clip import CLIP, TextEncoder
from .models.llama import Llama
from .models.reader import Reader
from .models.unet import UNet
from .models.vae import AutoencoderKL
from .nn.blocks import Upsample
from .pipeline import Pipeline, Writer
from .text.bpe import BPE
from .text.pieces import Pieces

Tokenizer = Callable[[list[str]], Tensor]
AnyConfig = TypeVar("AnyConfig", Config, CLIPConfig, ReaderConfig, LlamaConfig)
HOLDS = {
    Config: ("an editor or painter", "load"),
    CLIPConfig: ("a CLIP", "load_clip"),
    ReaderConfig: ("a reader", "load_reader"),
    LlamaConfig: ("a writer", "load_writer"),
}
"""kind of config -> what a file with it holds, and what reads it"""
DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def load(
    path: str | PathLike | None = None, *, device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = torch.float32, config: Config | Sequence[str] | None = None,
    tokenizer: Tokenizer | str | PathLike | None = None, ema: bool = True, inference: bool = True,
) -> Pipeline:
    """The pipeline of a checkpoint in any layout (`checkpoints.read`); without a path, the shipped tiny editor.

    device: "auto" is CUDA, else MPS, else the CPU. dtype: None keeps the file's. config: in place of the checkpoint's,
    or words that change it ("schedule.prediction=v"). tokenizer: in place of the checkpoint's, or its folder.
    ema: averaged weights where there are both. inference=False leaves out what only inference bears (`prepare`): to
    train on, or to convert.
    Raises ValueError in one line that names the file or the option, FileNotFoundError where there is no checkpoint.
    """
    device, dtype = place(device, dtype)
    loaded = _read(shipped("editor") if path is None else path, Config, config, ema)
    c = loaded.config
    if absent := [part for part in ("unet", "vae", "text") if part not in loaded.parts]:
        raise checkpoints.CheckpointError(f"{loaded.path}: not a whole model; it lacks the {', '.join(absent)} weights")
    with torch.device("meta"):
        networks = {"unet": UNet(c.unet), "vae": AutoencoderKL(c.vae), "text": TextEncoder(c.text)}
    for part, network in networks.items():
        tensors, names = loaded.parts.pop(part), loaded.names[part]
        checkpoints.assign(network, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
        if inference:
            prepare(network)
    tokenizer = tokenizer_of(loaded, c.text, tokenizer)
    return Pipeline(*networks.values(), tokenizer, c, provenance=loaded.provenance, notes=tuple(loaded.notes))


def load_clip(
    path: str | PathLike | None = None, *, device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32, config: CLIPConfig | Sequence[str] | None = None,
) -> CLIP:
    """Both towers of CLIP with their tokenizer; without a path, the tiny world's own."""
    device, dtype = place(device, dtype)
    loaded = _read(shipped("clip") if path is None else path, CLIPConfig, config)
    with torch.device("meta"):
        clip = CLIP(loaded.config)
    tensors, names = loaded.joined(), loaded.joined_names()
    checkpoints.assign(clip, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
    clip.tokenizer = tokenizer_of(loaded, loaded.config.text)
    return prepare(clip)


def load_reader(path: str | PathLike | None = None, *, device: str | torch.device = "cpu") -> Reader:
    """The network that tells what a picture of the tiny world shows; without a path, the shipped one."""
    device, dtype = place(device, torch.float32)
    loaded = _read(shipped("reader") if path is None else path, ReaderConfig, None)
    with torch.device("meta"):
        whole = nn.ModuleDict({"reader": Reader(loaded.config)})
    checkpoints.assign(whole, loaded.joined(), device=device, dtype=dtype, source=loaded.path)
    return prepare(whole["reader"])


def load_writer(
    path: str | PathLike | None = None, *, device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = torch.float32,
) -> Writer:
    """The language model that writes instructions: our own file, or the folder of a Llama 2, TinyLlama or Mistral as
    transformers writes it; without a path, the tiny world's own.

    Raises ValueError in one line that names the file or the option, FileNotFoundError where there is no checkpoint.
    """
    device, dtype = place(device, dtype)
    loaded = _read(shipped("writer") if path is None else path, LlamaConfig, None)
    with torch.device("meta"):
        whole = nn.ModuleDict({"writer": Llama(loaded.config)})
    tensors, names = loaded.joined(), loaded.joined_names()
    checkpoints.assign(whole, tensors, device=device, dtype=dtype, source=loaded.path, names=names)
    try:
        return Writer(prepare(whole["writer"]), _pieces(loaded), loaded.config, loaded.provenance)
    except ValueError as error:
        raise checkpoints.CheckpointError(f"{loaded.path}: {error}") from None


def save(
    pipe: Pipeline | Writer, path: str | PathLike, layout: str = "minip2p", *, dtype: torch.dtype | None = None
) -> None:
    """Write a pipeline: a file of ours ("minip2p"), an original single file ("original") or a folder ("diffusers").

    A writer: a file of ours or a folder ("transformers"). dtype: of the weights in the file; None keeps them.
    """
    if isinstance(pipe, Writer):
        tokenizer = pipe.pieces
    elif not isinstance(pipe.tokenizer, BPE):
        raise ValueError(f"only a BPE tokenizer can be saved with a pipeline, not {type(pipe.tokenizer).__name__}")
    else:
        tokenizer = pipe.tokenizer
    weights = {part: network.state_dict() for part, network in pipe.parts.items()}
    checkpoints.write(
        Path(path), layout, pipe.config, weights, tokenizer=tokenizer.to_dict(),
        tokenizer_files=tokenizer.save, provenance=pipe.provenance, dtype=dtype,
    )  # fmt: skip


def shipped(name: str) -> Path:
    """The file of shipped weights of that name (editor, clip, reader ...): the package's, or the clone's around it."""
    here = Path(__file__).resolve().parent
    places = here / "_weights" / f"{name}.safetensors", here.parent / "weights" / "tiny" / f"{name}.safetensors"
    for file in places:
        if file.is_file():
            return file
    raise FileNotFoundError(f"no shipped weights {name!r}: neither {places[0]} nor {places[1]}; give a path")


def prepare(network: nn.Module) -> nn.Module:
    """Ready for inference: evaluation mode, frozen, upsampling fused with its convolution, channels last in memory."""
    for module in network.modules():
        if isinstance(module, Upsample):
            module.fuse()
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def place(device: str | torch.device, dtype: str | torch.dtype | None) -> tuple[torch.device, torch.dtype | None]:
    """The device and dtype meant, or a ValueError that says why they will not do here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; expected auto, cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"device {device}: PyTorch {torch.__version__} finds {found} CUDA GPUs here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: PyTorch finds no Apple GPU here")
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; expected float32, bfloat16 or float16")
    dtype = DTYPES.get(dtype, dtype)
    if device.type == "cpu":
        _check_cpu(dtype)
    return device, dtype


def _check_cpu(dtype: torch.dtype | None, flags: set[str] | None = None) -> None:
    """Half precision only where the CPU computes in it: elsewhere it is many times slower than float32."""
    if dtype == torch.bfloat16 and not computes_in_bf16(flags):
        raise ValueError("bfloat16 is 8 times slower than float32 on a CPU without AVX512-BF16 or AMX; use float32")
    if dtype == torch.float16:  # measured on one core with AVX-512: 6 times float32's time
        raise ValueError("float16 is 6 times slower than float32 on a CPU; use float32, or bfloat16 if it has that")


def computes_in_bf16(flags: set[str] | None = None) -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    return bool((cpu_flags() if flags is None else flags) & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_flags(info: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the CPU can do, by Linux' names; elsewhere by what PyTorch knows of it."""
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        asked = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
        return {flag for flag, name in asked.items() if getattr(torch.cpu, name, bool)()}
    lines = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return {flag for line in lines for flag in line.partition(":")[2].split()}


def _read(path: str | PathLike, kind: type[AnyConfig], config, ema: bool = True) -> checkpoints.Loaded:
    """The checkpoint, of the wanted kind; `config` replaces or, as words, changes its own."""
    if config is None or isinstance(config, (Config, CLIPConfig)):
        loaded = checkpoints.read(Path(path), ema=ema, config=config)
    else:
        words = [config] if isinstance(config, str) else config
        changed = override(checkpoints.read(Path(path), ema=ema).config, *words)
        loaded = checkpoints.read(Path(path), ema=ema, config=changed)
    if not isinstance(loaded.config, kind):
        what, fits = HOLDS[type(loaded.config)]
        raise checkpoints.CheckpointError(f"{path} holds {what}, not what was asked for; minip2p.{fits} reads it")
    return loaded


def _pieces(loaded: checkpoints.Loaded) -> Pieces:
    """A writer's tokens, which nothing stands in for."""
    if isinstance(loaded.tokenizer, dict):
        return Pieces.from_dict(loaded.tokenizer)
    if loaded.tokenizer is None:
        raise ValueError("no tokenizer.model, which must lie beside the weights (a tokenizer.json alone is not read)")
    return Pieces.from_file(loaded.tokenizer / "tokenizer.model")


def tokenizer_of(loaded: checkpoints.Loaded, text, given: Tokenizer | str | PathLike | None = None) -> Tokenizer:
    """The given tokenizer, else the checkpoint's, else CLIP's own; checked against the text encoder."""
    found = loaded.tokenizer if given is None else given
    if isinstance(found, dict):
        found = BPE.from_dict(found)
    elif isinstance(found, (str, PathLike)):
        found = BPE.from_folder(found)
    elif found is None:
        found = BPE.clip(pad=text.pad, max_length=text.max_length)
    if isinstance(found, BPE):
        has, knows = (len(found.vocab), found.max_length), (text.vocab_size, text.max_length)
        if max(found.vocab.values()) >= knows[0] or found.max_length > knows[1]:
            raise ValueError(
                f"{loaded.path}: a tokenizer of {has[0]} tokens, {has[1]} a text, for a text encoder of {knows[0]} and "
                f"{knows[1]}; give the one that it was trained with (tokenizer=...)"
            )
    return found
