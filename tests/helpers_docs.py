"""Where the commands of README and docs run: a folder like a clone, with a reader's own pictures and tables, and with
thin random networks under the names and in the layouts of published weights."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import randomise, small_config
from helpers_pairs import write_pair_unit
from PIL import Image
from safetensors.torch import save_file

import minip2p
from minip2p.checkpoints.dino import dino_rows
from minip2p.checkpoints.tables import LOGIT_SCALE, links, push, text_rows, unet_rows, vision_rows
from minip2p.config import CLIPConfig, SamplingConfig, VisionConfig
from minip2p.data.pair_files import PairUnit
from minip2p.models.clip import CLIP
from minip2p.models.dino import DINO
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.unet import UNet
from minip2p.models.vae import AutoencoderKL
from minip2p.pipeline import Pipeline
from minip2p.text.bpe import BPE
from minip2p.tinyworld.scenes import Edit, render, sample_edit

ROOT = Path(__file__).parent.parent
CAPTIONS = ("a red house in a meadow", "a white boat on the sea at sunset")
PROMPTS = 60
"""of a set: of fewer, nothing is left in 1 %"""
VISION = VisionConfig(image_size=28, patch_size=14, width=64, layers=1, heads=1, feed_forward=64, projection=64)


def make_clone(folder: Path) -> None:
    """All that a reader has, or has fetched, before the first command of a page."""
    (folder / "weights").mkdir()
    for name in ("weights/tiny", "tests", "sample.py", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    edits = [sample_edit(rng) for _ in range(6)]
    make_pictures(folder, edits)
    make_sets(folder, edits)
    make_published(folder)


def make_pictures(folder: Path, edits: list[Edit]) -> None:
    """photo.jpg, mask.png, pictures/ and a table of edits; before/, after/ and tables of pairs."""
    render(edits[0].source, 64).save(folder / "photo.jpg", quality=95)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    mask.save(folder / "mask.png")
    for name in ("pictures", "before", "after"):
        (folder / name).mkdir()
    for i, edit in enumerate(edits[:2]):
        render(edit.source, 64).save(folder / f"pictures/{i}.png")
        render(edit.source, 64).save(folder / f"before/{i}.png")
        render(edit.target, 64).save(folder / f"after/{i}.png")
    write_lines(folder / "table.jsonl", [{"input": "pictures/0.png", "edit": "make it snow", "seed": 1}])
    pairs = [{"source": f"{i}.png", "target": f"{i}.png", "edit": "make it snow"} for i in range(2)]
    write_lines(folder / "edits.jsonl", pairs)
    rows = "".join(f"before/{i}.png,after/{i}.png,make it snow\n" for i in range(2))
    (folder / "table.csv").write_text(f"original_image,edited_image,edit_prompt\n{rows}")


def make_sets(folder: Path, edits: list[Edit]) -> None:
    """data/pairs and data/unshared, whose pairs have scores; MagicBrush; captions and triplets."""
    row = dict.fromkeys(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"), 0.5)
    row |= {"p2p_threshold": 0.5, "cfg_scale": 7.5, "candidate": True, "sample": 0, "seed": 7}
    both = [tuple(jpeg(render(scene, 64)) for scene in (edit.source, edit.target)) for edit in edits]
    pairs = folder / "data/pairs"
    pairs.mkdir(parents=True)
    for i in range(PROMPTS):
        edit = edits[i % len(edits)]
        prompt = {"input": f"{edit.source.caption}, {i}", "edit": edit.instruction, "output": edit.target.caption}
        images = {7: both[i % len(edits)]}
        write_pair_unit(pairs, PairUnit(name=f"{i:07d}", prompt=prompt | {"id": i}, scores=[row], images=images))
    (pairs / "seeds.json").write_text(json.dumps([[f"{i:07d}", [7]] for i in range(PROMPTS)]))
    (folder / "data/unshared").symlink_to("pairs")
    brush = folder / "MagicBrush/test"
    (brush / "images/7").mkdir(parents=True)
    for name, scene in (("7-input.png", edits[0].source), ("7-output1.png", edits[0].target)):
        render(scene, 32).save(brush / "images/7" / name)
    turn = {"input": "7-input.png", "mask": "7-mask1.png", "output": "7-output1.png", "instruction": "make it night"}
    (brush / "edit_turns.json").write_text(json.dumps([turn]))
    (brush / "local_descriptions.json").write_text(json.dumps({"7": {"7-output1.png": "a house at night"}}))
    (brush / "global_descriptions.json").write_text(json.dumps({"7": {"7-input.png": "a house"}}))
    (folder / "captions.txt").write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    triplets = [{"input": text, "edit": "make it night", "output": f"{text} at night"} for text in CAPTIONS]
    write_lines(folder / "human.jsonl", triplets)


def make_published(folder: Path) -> None:
    """Stable Diffusion, InstructPix2Pix in two layouts, an autoencoder, a LoRA of the tiny editor, CLIPs and DINO, with
    random weights; and the shipped instruction model in the layout of TinyLlama."""
    sd, editor = thin_stable_diffusion(4), thin_stable_diffusion(8)
    minip2p.save(sd, folder / "v1-5-pruned.ckpt", "original")
    minip2p.save(editor, folder / "weights/instruct-pix2pix-00-22000.ckpt", "original")
    minip2p.save(editor, folder / "timbrooks-instruct-pix2pix", "diffusers")
    (vae,) = (folder / "timbrooks-instruct-pix2pix/vae").glob("*.safetensors")
    (folder / "vae-ft-mse-840000.safetensors").write_bytes(vae.read_bytes())
    write_lora(folder / "style.safetensors", minip2p.load())
    minip2p.save(minip2p.load_language_model(), folder / "TinyLlama-1.1B", "transformers")
    for name in ("clip-vit-large-patch14", "clip-vit-base-patch32"):
        write_clip(folder / name)
    dino = randomise(DINO(replace(VISION, activation="gelu")))
    torch.save(push(dino.state_dict(), links(dino_rows(dino.config), 1)), folder / "dino_deitsmall16_pretrain.pth")


def thin_stable_diffusion(channels: int) -> Pipeline:
    """All that Stable Diffusion 1 has, with its tokenizer, in 32 to 64 channels."""
    c = small_config(channels)
    text = replace(c.text, vocab_size=49408, max_length=77, bos=49406, eos=49407, pad=49407, width=64, heads=1)
    c = replace(
        c,
        unet=replace(c.unet, norm_groups=32, text_width=64, heads=8),
        vae=replace(c.vae, widths=(32, 32, 32, 32), norm_groups=32),
        text=text,
        sampling=SamplingConfig(),
    )
    parts = (randomise(part, i) for i, part in enumerate((UNet(c.unet), AutoencoderKL(c.vae), TextEncoder(text))))
    return Pipeline(*parts, BPE.clip(pad=text.pad, max_length=77), c)


def write_lora(path: Path, pipe: Pipeline) -> None:
    """A LoRA of one layer, as PEFT has it."""
    link = next(link for link in links(unet_rows(pipe.config.unet), 2) if link.ours.endswith("attentions.0.q.weight"))
    rows, columns = pipe.unet.state_dict()[link.ours].shape
    place = f"unet.{link.theirs.removesuffix('.weight')}"
    halves = {f"{place}.lora_A.weight": torch.ones(2, columns), f"{place}.lora_B.weight": torch.full((rows, 2), 1e-3)}
    save_file(halves, path)


def write_clip(folder: Path) -> None:
    """A CLIP as transformers has it."""
    text = replace(thin_stable_diffusion(4).config.text, projection=64)
    clip = randomise(CLIP(CLIPConfig(text=text, vision=VISION)))
    parts = {"text": clip.text.state_dict(), "vision": clip.vision.state_dict()}
    parts["logit_scale"] = {"": clip.logit_scale.detach()}
    rows = {"text": text_rows(text), "vision": vision_rows(VISION), "logit_scale": LOGIT_SCALE}
    theirs = {name: t for part in rows for name, t in push(parts[part], links(rows[part], 2)).items()}
    folder.mkdir()
    save_file({name: t.contiguous() for name, t in theirs.items()}, folder / "model.safetensors")
    heads = {"text_config": {"num_attention_heads": 1}, "vision_config": {"num_attention_heads": 1}}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"], **heads}))


def jpeg(image: Image.Image) -> bytes:
    image.save(data := io.BytesIO(), "JPEG", quality=95)
    return data.getvalue()


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
