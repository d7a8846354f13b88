"""What files and folders that we do not read are, and what to do with them."""

import re
from collections.abc import Collection
from pathlib import Path

ONE_NETWORK = "one network of a diffusers folder; give the folder with its model_index.json or config.json"
LORA = "LoRA weights, which change a checkpoint; give the checkpoint, and these with it: load(lora=...), --lora"
NEW_WORDS = "a textual inversion, which adds words to a checkpoint; minip2p reads none: give the checkpoint alone"
ADAPTER = "which steers a checkpoint; minip2p reads none: give the checkpoint alone"
OTHER = "expected Stable Diffusion 1 or 2"
TENSORS = (
    (r"lora_(up|down|mid|unet|te)|\blora_[AB]\b|\.lora\.|_lora\.|\b(hada_w|lokr_w|oft_blocks|dora_scale)", LORA),
    (r"^(emb_params|string_to_param|string_to_token|clip_l|clip_g)\b", NEW_WORDS),
    (r"^(control_model|controlnet_\w+|zero_convs|input_hint_block)\.", f"a ControlNet, {ADAPTER}"),
    (r"^(conv_first|model\.0)\.", f"a network that enlarges pictures (ESRGAN); {OTHER}"),
    (r"^(image_proj|ip_adapter|adapter|body)\.", f"an adapter, {ADAPTER}"),
    (r"\bmotion_modules\.", f"a motion module (AnimateDiff), {ADAPTER}"),
    (r"^(model\.diffusion_model\.)?label_emb\.weight", f"Stable Diffusion's x4 upscaler (7 input channels); {OTHER}"),
    (r"^(conditioner|add_embedding)\.", f"a Stable Diffusion XL checkpoint; {OTHER}"),
    (r"^(model\.diffusion_model\.)?label_emb\.", f"a UNet conditioned on pooled vectors (XL, unCLIP); {OTHER}"),
    (r"\bjoint_blocks\.|\btext_encoders\.clip_g\.", f"a Stable Diffusion 3 checkpoint; {OTHER}"),
    (r"\bdouble_blocks\.", f"a Flux checkpoint; {OTHER}"),
    (r"^(single_)?transformer_blocks\.|^pos_embed\.|^adaln_single\.", f"a diffusion transformer; {OTHER}"),
    (r"^((encoder\.|decoder\.)?(down|up)_blocks|mid_block|conv_norm_out)\.", ONE_NETWORK),
    (r"^(text_model|embeddings)\.", "a text encoder alone; give the whole checkpoint, or its folder with config.json"),
    (r"^(shared|encoder\.block)\.", f"a T5 text encoder, which no model here has; {OTHER}"),
    (r"^model\.layers\.", "a language model's weights without their config; give the folder with its config.json"),
    (r"^(diffusion_model\.)?input_blocks\.", "a UNet alone, with the original's names; give the whole checkpoint"),
    (r"^optimizer\.", "the state of a training run; give the model.safetensors beside it"),
    (r"^tok_embeddings\.", "a Llama with its authors' names; expected a folder as transformers writes it"),
)
"""what is in a tensor's name -> what the file is; the first row that fits any name"""
BYTES = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the weights themselves; run `git lfs pull`"),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page or XML, so the download went wrong; fetch the file again"),
    (rb"\s*\{", "a JSON text, not weights"),
    (rb"GGUF", "a GGUF file, whose weights are quantised; fetch the .safetensors or .ckpt of the same model"),
    (rb"\x08[\x03-\x0f]\x12", "an ONNX file; fetch the .safetensors or .ckpt of the same model"),
    (rb"\x89HDF", "a TensorFlow or Keras file (HDF5); fetch the .safetensors or .bin of the same model"),
    (rb".{4}TFL3", "a TensorFlow Lite file; fetch the .safetensors of the same model"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ|.{257}ustar", "a packed archive; unpack it first"),
    (rb"\xff\xd8\xff|\x89PNG|RIFF|GIF8", "a picture, not weights"),
    (rb"\x93NUMPY", "a NumPy array, not weights"),
    (rb"%PDF", "a PDF, not weights"),
)
"""what a file starts with -> what it is"""
FILES = (
    (r"adapter_config\.json|adapter_model\.|pytorch_lora_weights\.", LORA),
    (r"learned_embeds", NEW_WORDS),
    (r"ip-adapter|diffusion_pytorch_model_controlnet", f"an adapter, {ADAPTER}"),
)
"""what a file's name in a folder starts with -> what the folder is"""
KNOWN_MEMBERS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
UNUSED_MEMBERS = {"safety_checker", "feature_extractor", "image_encoder", "depth_estimator"}
"""of a pipeline's folder: what our networks do without"""


def of_tensors(names: Collection[str], shapes: Collection[tuple[int, ...]]) -> str | None:
    """What a file with these tensors is, if it is none that we read."""
    for pattern, what in TENSORS:
        if any(re.search(pattern, name) for name in names):
            return what
    if 0 < len(names) <= 8 and all(shape and len(shape) <= 2 and shape[-1] in (768, 1024, 1280) for shape in shapes):
        return NEW_WORDS
    return None


def of_bytes(start: bytes) -> str:
    """What a file that begins so is; it has no weights that we read."""
    for pattern, what in BYTES:
        if re.match(pattern, start, re.DOTALL):
            return what
    return "an unknown format" if start else "empty; fetch the file again"


def of_folder(names: Collection[str]) -> str | None:
    """What a folder with files of these names is, if it is none that we read."""
    return next((what for pattern, what in FILES if any(re.match(pattern, name) for name in names)), None)


def of_index(index: dict) -> str | None:
    """What a pipeline with this `model_index.json` is, if it has networks that ours do not replace."""
    members = {name: each for name, each in index.items() if isinstance(each, list) and each and each[0] is not None}
    others = sorted(members.keys() - KNOWN_MEMBERS - UNUSED_MEMBERS)
    if others:
        return f"a {index.get('_class_name')}, which has a {others[0]}; {OTHER}"
    if any(str(each[-1]).startswith(("Onnx", "OV", "Flax")) for each in members.values()):
        return f"a {index.get('_class_name')}, of networks for another library; fetch its safetensors"
    return None


def of_missing(path: Path) -> str:
    """What to do about a path where nothing is."""
    if re.match(r"https?:/", str(path)):
        return "a web address; download the file, and give its path"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.parent.exists():
        return (
            "no such file or folder; if it is a repository of the Hugging Face hub, fetch it first: "
            f"python -c \"from minip2p.checkpoints.hub import fetch; fetch('{path}', 'weights')\""
        )
    return "no such file or folder"
